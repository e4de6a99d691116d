"""What `compare` returns: a table of models and criteria, the fits behind it, and what the criteria say in words."""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.comparing.ranking import Choice, agreement, choices, ranks
from jaxgmm.comparing.row import LeaveOneOut, Row
from jaxgmm.covariance import check_unrestricted, get_family
from jaxgmm.fitting.batch import model_key
from jaxgmm.fitting.result import Fit
from jaxgmm.fitting.status import FitError, FitWarning
from jaxgmm.model.coercion import about_rows
from jaxgmm.model.criteria import CRITERIA
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.formatting import nats
from jaxgmm.tools.reading import Page, Readable, counted, of_frame
from jaxgmm.tools.svg import Mark, chart, colour
from jaxgmm.tools.validation import unknown

_SHOWN = ("status", "replication")  # beside the criteria, in a few words

if TYPE_CHECKING:
    import xarray
    from arviz_stats.utils import ELPDData


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Readable):
    """Models side by side.

    Attributes:
        rows: the models, by family and then by K.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> comparison = jg.compare(x, families=["full", "VII"], n_components=[1, 2], key=jax.random.key(0))
        >>> comparison.names
        ['full 1', 'full 2', 'spherical 1', 'spherical 2']
        >>> comparison.agreement.split(".")[0]
        'All criteria agree: BIC, AIC and ICL choose full with 2 components'
    """

    rows: tuple[Row, ...]

    def _page(self) -> Page:
        families = dict.fromkeys(row.family for row in self.rows)
        counts = [row.n_components for row in self.rows]
        most = f"{min(counts)} to {counted(max(counts), 'component')}" if len(set(counts)) > 1 else f"K = {counts[0]}"
        by = next(iter(self.criteria))
        table = self.table.sort_values(f"rank_{by}", kind="stable")
        return Page(
            f"Comparison: {counted(len(self.rows), 'model')}, {', '.join(families)} with {most}; by {CRITERIA[by].title}",
            [self.agreement],
            of_frame(table, dict.fromkeys(CRITERIA, nats) | dict.fromkeys(_SHOWN, str), ("model", "column"), "model"),
            lambda: self._picture(by),
        )

    def _picture(self, criterion: str) -> str:
        """The criterion of each family against K; nothing for a single K."""
        if len({row.n_components for row in self.rows}) < 2:
            return ""
        families: dict[str, list[tuple[float, float]]] = {}
        for row, value in zip(self.rows, self.criteria[criterion].tolist(), strict=True):
            families.setdefault(row.family, []).append((row.n_components, value))
        legend = {family: colour(i) for i, family in enumerate(families)}
        marks = [Mark(np.array(points, float), legend[family]) for family, points in families.items()]
        return chart(marks, ("components", CRITERIA[criterion].title), legend=legend, whole=True)

    @property
    def names(self) -> list[str]:
        """Of the models, "family K": the index of `table`, and the labels to give `az.compare`."""
        return [row.name for row in self.rows]

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The columns of the frame that was fitted."""
        return next((fit.feature_names for fit in self.fits.values()), None)

    @property
    def fits(self) -> dict[tuple[str, int], Fit]:
        """The fits by (family, K), where there is one; a collapsed fit is there too."""
        return {(row.family, row.n_components): row.fit for row in self.rows if row.fit is not None}

    @property
    def criteria(self) -> dict[str, np.ndarray]:
        """The values of each criterion that was computed, by name, one for each row."""
        columns = {name: [criterion.value(row.scores) for row in self.rows] for name, criterion in CRITERIA.items()}
        return {
            name: np.array([np.nan if value is None else value for value in values], float)
            for name, values in columns.items()
            if any(value is not None for value in values)
        }

    @property
    def choices(self) -> list[Choice]:
        """Of each criterion: the rows it puts first and second, and how far apart they are."""
        return choices(self.criteria)

    @property
    def agreement(self) -> str:
        """Where the criteria agree, where they don't, and by how much each prefers its choice."""
        return agreement(self.choices, [(row.family, row.n_components) for row in self.rows])

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a model, indexed by its name.

        Columns: family, n_components, n_parameters, status, log_likelihood (total nats), objective (with the log prior), the
        criteria, elbo, loo_se and loo_bad (rows whose Pareto k is too high) and laplace_k if asked for, replication and gap
        (how many starts agree on the optimum, nats down to the next), n_steps, and rank_<criterion>, 1 for the best.
        """
        fits = [row.fit for row in self.rows]
        columns: dict[str, Sequence | np.ndarray] = {
            "family": [row.family for row in self.rows],
            "n_components": [row.n_components for row in self.rows],
            "n_parameters": [row.scores.n_parameters for row in self.rows],
            "status": [row.status.name for row in self.rows],
            "log_likelihood": [row.scores.log_likelihood for row in self.rows],
            "objective": [np.nan if fit is None else fit.objective for fit in fits],
            **self.criteria,
        }
        if any(row.elbo is not None for row in self.rows):
            columns["elbo"] = [np.nan if row.elbo is None else row.elbo for row in self.rows]
        if any(row.loo for row in self.rows):
            columns["loo_se"] = [np.nan if row.loo is None else float(row.loo.elpd.se) for row in self.rows]
            columns["loo_bad"] = pd.array([_n_bad(row.loo) for row in self.rows], dtype="Int64")
            columns["laplace_k"] = [np.nan if row.loo is None else row.loo.pareto_k for row in self.rows]
        columns["replication"] = [0 if fit is None else fit.restarts.replication for fit in fits]
        columns["gap"] = [np.nan if fit is None else fit.restarts.gap for fit in fits]
        columns["n_steps"] = [0 if fit is None else fit.n_steps for fit in fits]
        for name, values in self.criteria.items():
            columns[f"rank_{name}"] = pd.array(ranks(values, CRITERIA[name].larger_is_better), dtype="Int64")
        return pd.DataFrame(columns, index=pd.Index(self.names, name="model"))

    def fit(self, family: str, n_components: int) -> Fit:
        """The fit of one model.

        Args:
            family: scikit-learn's name or mclust's.
            n_components: K.

        Raises:
            ValueError: a model that wasn't compared.
            FitError: a model without a fit.
        """
        name = f"{get_family(family).name} {n_components}"
        if name not in self.names:
            raise unknown("model", name, self.names)
        row = self.rows[self.names.index(name)]
        if row.fit is None:
            raise FitError(f"{name} has no fit: {row.status.name}. {row.status.meaning}")
        return row.fit

    def select(self, criterion: str = "bic") -> Fit:
        """The fit that a criterion puts first.

        Raises:
            ValueError: an unknown criterion, or one that wasn't computed.
            FitError: no model could be fitted.
        """
        self.check_criterion(criterion)
        for choice in self.choices:
            if choice.criterion == criterion:
                row = self.rows[choice.best]
                return self.fit(row.family, row.n_components)
        raise FitError(f"no model has a {criterion}: {self.rows[0].name} ended as {self.rows[0].status.name}.")

    def check_criterion(self, name: str) -> None:
        """Raises ValueError where a criterion isn't known, or wasn't computed."""
        if name not in CRITERIA:
            raise unknown("criterion", name, CRITERIA)
        if name not in self.criteria:
            if name != "held_out" and any(row.fit is not None and row.fit.noise is not None for row in self.rows):
                raise UserError(f"criterion {name!r} isn't for models with noise: compare(..., held_out_folds=5) has another.")
            how = {"held_out": "held_out_folds=5", "loo": "loo=True", "log_evidence": "elbo=True"}[name]
            or_later = ", or comparison.with_loo(x, key=key)" if name == "loo" else ""
            raise UserError(f"criterion {name!r} wasn't computed: compare(..., {how}){or_later}.")

    def with_loo(
        self,
        x: Float[ArrayLike, "N D"],
        *,
        key: Array,
        models: Iterable[tuple[str, int]] | None = None,
        sample_weight: Float[ArrayLike, " N"] | None = None,
        n_draws: int = 1000,
    ) -> "Comparison":
        """The comparison with leave-one-out of some models, by `az.loo` on draws of their Laplace approximation.

        The draws are Gaussian in the unconstrained parameters: `laplace_k` above 0.7 in the table says that they are not to be
        trusted as those of the posterior, `loo_bad` for how many rows leave-one-out is not. `with_posterior` takes other draws.

        Args:
            x: (N, D), the rows of the fits.
            key: a PRNG key.
            models: (family, K) of those to compute; by default all that have a usable fit, of families that have posteriors.
            sample_weight: (N,), as in the fits.
            n_draws: of each of 4 chains.

        Raises:
            ValueError: models without a prior, other data, a model that wasn't compared.

        Warns:
            FitWarning: once, where models have no Laplace approximation; their leave-one-out is NaN.
        """
        from jaxgmm.bayes.posterior import posterior  # only here: NumPyro and ArviZ take seconds to import

        usable = [
            (row.family, row.n_components)
            for row in self.rows
            if np.isfinite(row.scores.log_likelihood) and not get_family(row.family).restricted
        ]
        models = usable if models is None else list(models)
        for family, _ in models:
            check_unrestricted(family, "leave-one-out")
        for family, k in models:
            about_rows(self.fit(family, k), "with_loo")
        result, without = self, []
        for family, k in models:
            fit = self.fit(family, k)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FitWarning)  # k-hat is in the table
                try:
                    tree = posterior(
                        x, fit, method="laplace", key=model_key(key, family, k), n_draws=n_draws,
                        sample_weight=sample_weight, groups=["log_likelihood"],
                    )  # fmt: skip
                except FitError as error:
                    without.append(f"{family} {k}: {error}")
                    continue
            result = result.with_posterior(family, k, tree)
        if without:
            message = f"no leave-one-out of {len(without)} models, which have no Laplace approximation; {without[0]}"
            warnings.warn(message, FitWarning, stacklevel=2)
        return result

    def with_posterior(self, family: str, n_components: int, tree: "xarray.DataTree") -> "Comparison":
        """The comparison with leave-one-out of one model from draws of its posterior.

        Args:
            family: of the model.
            n_components: of the model.
            tree: from `posterior(..., groups=["log_likelihood"])`.

        Raises:
            ValueError: a model that wasn't compared, or draws without a log_likelihood group.
        """
        import arviz as az

        from jaxgmm.bayes.trees.schema import facts_of

        name = f"{get_family(family).name} {n_components}"
        if name not in self.names:
            raise unknown("model", name, self.names)
        if "log_likelihood" not in tree.children:
            raise UserError("the draws have no log_likelihood: posterior(..., groups=['log_likelihood']).")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # high Pareto k: counted in the table
            elpd = az.loo(_rows_that_count(tree), pointwise=True)
        k = facts_of(tree).get("pareto_k")
        loo = LeaveOneOut(elpd, np.nan if k is None else float(k))
        rows = [
            row._replace(loo=loo, scores=row.scores._replace(loo=float(elpd.elpd))) if row.name == name else row
            for row in self.rows
        ]
        return dataclasses.replace(self, rows=tuple(rows))

    @property
    def elpd(self) -> "Mapping[str, ELPDData]":
        """ArviZ' leave-one-out of each model that has one, by name: `az.compare(comparison.elpd)`."""
        return {row.name: row.loo.elpd for row in self.rows if row.loo is not None}

    def join(self, table: pd.DataFrame) -> pd.DataFrame:
        """`table` of this comparison with that of `az.compare`, whose columns get the prefix "az_".

        Raises:
            ValueError: a row of the other table that is no model of this one.
        """
        for name in table.index:
            if name not in self.names:
                raise unknown("model in the table of az.compare", name, self.names)
        return self.table.join(table.add_prefix("az_"))


def _rows_that_count(tree: "xarray.DataTree") -> "xarray.DataTree":
    """The log-likelihood of rows of positive weight: leaving out another changes nothing, which PSIS can't take."""
    from xarray import DataTree

    densities = tree["log_likelihood"].to_dataset()
    present = (densities["x"] != 0).any(("chain", "draw")).values
    return DataTree.from_dict({"posterior": tree["posterior"].to_dataset(), "log_likelihood": densities.isel(obs_id=present)})


def _n_bad(loo: LeaveOneOut | None) -> int | None:
    return None if loo is None else int((np.asarray(loo.elpd.pareto_k) > loo.elpd.good_k).sum())
