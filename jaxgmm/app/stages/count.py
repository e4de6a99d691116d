"""The `[count]` stage of a run: the posterior over the number of clusters, whether to trust it, files and figures."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import h5netcdf  # noqa: F401 (counts.nc needs both: said before the draws, not after)
import h5py  # noqa: F401
import jax
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxgmm import plots
from jaxgmm.app.config import Config
from jaxgmm.app.config.count import CountTable
from jaxgmm.app.stages.stage import Making
from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.bayes.trees.schema import check_feature_names, facts_of
from jaxgmm.bayes.trees.storage import save_posterior
from jaxgmm.counting.count_clusters import count_clusters
from jaxgmm.counting.partitions import Partitions, partitions
from jaxgmm.counting.verdict import ClusterCount, cluster_count
from jaxgmm.fitting.priors import Change
from jaxgmm.fitting.result import Fit
from jaxgmm.plots import canvas
from jaxgmm.tools.types import Json

if TYPE_CHECKING:
    from jaxgmm.app.rows import Rows


@dataclass(frozen=True, eq=False)
class Counted:
    """What the stage made: draws of partitions, the number of clusters with its verdict, and the partitions in their place."""

    tree: xarray.DataTree
    count: ClusterCount
    partitions: Partitions

    @property
    def family(self) -> str:
        """Of the components."""
        return str(facts_of(self.tree)["family"])

    @property
    def facts(self) -> dict[str, Json]:
        """For fit.json."""
        count = self.count
        facts = {
            "n_clusters": count.mode if count.ok else None,
            "verdict": count.verdict,
            "problems": list(count.problems),
            "r_hat": count.r_hat if math.isfinite(count.r_hat) else None,  # JSON has no infinity
            "ess_bulk": count.ess_bulk,
            "ess_tail": count.ess_tail,
            "partitions": [
                {name: None if value != value else value for name, value in row.items()}
                for row in self.partitions.table.to_dict("records")
            ],
        }
        return {"count": facts}

    def write(self, directory: Path, rows: "Rows") -> None:
        """counts.nc, cluster_count.csv, partitions.csv, with the clusters of each row, and the figures."""
        save_posterior(self.tree, directory / "counts.nc")
        self.count.table.to_csv(directory / "cluster_count.csv")
        self.partitions.to_frame().to_csv(directory / "partitions.csv", index_label="row")
        pictures: dict[str, Figure | Axes] = {
            "cluster_count": plots.n_clusters(self.count),
            "partitions": plots.partitions(self.partitions, rows.x, feature_names=rows.axis_labels),
            "similarity": plots.similarity(self.tree),
        }
        canvas.save(directory, pictures)


@dataclass(frozen=True, eq=False)
class CountStage:
    """A checked `[count]` table, the data, and the components' prior, as `count_clusters` takes it."""

    name: ClassVar = "count"
    can_resume: ClassVar = True
    settings: CountTable
    rows: "Rows"
    prior: Change | str | None

    def family(self, fitted: Fit | None) -> str:
        """Of the components."""
        without = "spherical" if self.settings.prior == "richardson-green" else "full"
        return self.settings.family or (without if fitted is None else fitted.gmm.family)

    @classmethod
    def prepare(cls, config: Config, rows: "Rows", prior: Change | str | None) -> "CountStage":
        """Check what can be before there is a fit.

        Args:
            config: with [count].
            rows: the data.
            prior: as `count_clusters` takes it; None for maximum likelihood.

        Raises:
            ValueError: data that the prior is not for, or columns whose names a file can't have.
        """
        assert config.count is not None
        check_feature_names(rows.feature_names, rows.x.shape[1])
        if config.count.prior == "richardson-green":
            RichardsonGreen.default(rows.x)
        return cls(config.count, rows, prior)

    def make(self, making: Making) -> Counted:
        """Draws as the table asks for, of the family of the fit unless the table says another, and their verdict."""
        x, family = self.rows.frame, self.family(making.fit)
        if self.settings.prior == "richardson-green":
            prior: RichardsonGreen | Change | str = RichardsonGreen.default(x, family)
        else:
            assert self.prior is not None  # the config has been checked
            prior = self.prior
        tree = count_clusters(
            x,
            key=jax.random.key(self.settings.seed),
            prior=prior,
            family=family,
            feature_names=self.rows.feature_names,
            progress=making.watch.draws,
            checkpoint=making.checkpoint(self.name),
            resume=making.resume,
            keep_checkpoint=True,  # until all is written
            **self.settings.options,
        )
        making.watch.stage("partitions")
        return Counted(tree, cluster_count(tree, **self.settings.thresholds.model_dump()), partitions(tree))
