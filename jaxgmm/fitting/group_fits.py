"""What `fit_groups` returns, and how it comes about: the best start of each group and number of components."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.special
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm.covariance import Family, get_family
from jaxgmm.fitting.group_batch import GroupStarts
from jaxgmm.fitting.result import USABLE
from jaxgmm.fitting.status import Status, status_of
from jaxgmm.fitting.step import Search
from jaxgmm.model.mixture import GMM
from jaxgmm.tools import frames, precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.reading import Page, Readable, counted, of_frame

TOO_FEW, OUT_OF_RANGE = "too_few_rows", "out_of_range"  # in the column `status`, where nothing was fitted
_NAMED = 5  # groups, in an error
_NOT_FITTED = {-1: TOO_FEW, -2: OUT_OF_RANGE}


@dataclass(frozen=True, repr=False)
class GroupFits(Readable):
    """The mixtures of many groups of rows, and how the fit of each has ended.

    Attributes:
        table: a row for each group, by its label, with columns n_rows, n_components, status ("too_few_rows" or "out_of_range"
            where there is no fit), log_likelihood, bic, aic (of the rows of the group; nats), replication (starts that reached
            the best optimum) and n_steps (of the best).
        gmm: all mixtures, every leaf with a leading axis of groups. Components from a group's own `n_components` on have weight
            0; groups without a fit are NaN.
    """

    table: pd.DataFrame
    gmm: GMM

    def __getitem__(self, label: object) -> GMM:
        """The mixture of one group.

        Raises:
            KeyError: a group that isn't there, or has no fit.
        """
        place = self.table.index.get_loc(label)
        n_components, status = int(self.table["n_components"].iloc[place]), self.table["status"].iloc[place]
        if n_components == 0:
            raise KeyError(f"group {label!r} has no mixture: {status}")
        gmm = self.gmm
        covariances = np.asarray(gmm.covariances)[place]
        if get_family(gmm.family).per_component:
            covariances = covariances[:n_components]
        weights, means = (np.asarray(leaf)[place, :n_components] for leaf in (gmm.weights, gmm.means))
        own = GMM.unchecked(weights, means, covariances, family=gmm.family, feature_names=gmm.feature_names)
        return precision.as_parameters(own, weights.dtype)

    def __iter__(self) -> Iterator[Any]:
        """The labels of the groups that have a mixture."""
        return iter(self.table.index[self.table["n_components"] > 0])

    def __len__(self) -> int:
        """How many have one."""
        return int((self.table["n_components"] > 0).sum())

    def to_frame(self) -> pd.DataFrame:
        """A row for each component: index (group, component), weight, means and standard deviations by feature."""
        gmm = self.gmm
        names = gmm.feature_names or [f"x{j}" for j in range(gmm.n_features)]
        counts = self.table["n_components"].to_numpy()
        group, component = np.nonzero(np.arange(gmm.n_components) < counts[:, None])
        kind, n_groups = get_family(gmm.family), len(counts)
        one = kind.shape(gmm.n_components, gmm.n_features)
        dense = [kind.dense(c, gmm.n_components, gmm.n_features) for c in np.asarray(gmm.covariances).reshape(n_groups, *one)]
        sd = np.sqrt(np.diagonal(np.asarray(dense), axis1=-2, axis2=-1))
        columns = {"weight": np.asarray(gmm.weights)[group, component]}
        columns |= {f"mean_{name}": np.asarray(gmm.means)[group, component, j] for j, name in enumerate(names)}
        columns |= {f"sd_{name}": sd[group, component, j] for j, name in enumerate(names)}
        index = pd.MultiIndex.from_arrays([self.table.index[group], component], names=[self.table.index.name, "component"])
        return pd.DataFrame(columns, index=index)

    def classify(self, x: Float[ArrayLike, "N D"], prior: Mapping[Any, float] | None = None) -> pd.DataFrame:
        """p(group | row), where groups are classes: discriminant analysis by mixtures (Hastie & Tibshirani 1996), MclustDA.

        Args:
            x: (N, D), array or frame; NaN is a missing value.
            prior: p(group), by label, for the groups that have a mixture; default the groups' shares of the rows.

        Returns:
            A row for each row, a column for each group that has a mixture; `.idxmax(axis=1)` is the most probable group.

        Raises:
            TypeError, ValueError: rows that can't be used; a prior that lacks a group or isn't positive.

        Example:
            >>> import jax, jaxgmm as jg, numpy as np
            >>> x, species = jg.datasets.load_iris().x, np.repeat(["setosa", "versicolor", "virginica"], 50)
            >>> fits = jg.fit_groups(x[::2], species[::2], n_components=[1, 2], key=jax.random.key(0))
            >>> int((fits.classify(x[1::2]).idxmax(axis=1) == species[1::2]).sum())
            72
        """
        groups = list(self)
        if not groups:
            raise UserError("no group has a mixture to classify rows by: see the table's status.")
        if prior is None:
            shares = self.table["n_rows"].to_numpy(float)[self.table["n_components"] > 0]
        else:
            unknown = [group for group in prior if group not in groups]
            if unknown:
                raise UserError(f"prior has {unknown[:_NAMED]}, which are no groups with a mixture.")
            absent = [group for group in groups if group not in prior]
            if absent:
                raise UserError(f"prior lacks the groups {absent[:_NAMED]}: give each group's probability, by its label.")
            shares = np.array([prior[group] for group in groups], float)
            if not (np.isfinite(shares).all() and (shares > 0).all()):
                raise UserError(f"prior must be positive, got {dict(zip(groups, shares.tolist(), strict=True))}.")
        joint = np.stack([np.asarray(self[group].log_prob(x), float) for group in groups], axis=1) + np.log(shares)
        labels = frames.row_labels(x)
        columns = pd.Index(groups, name=self.table.index.name, tupleize_cols=False)
        index = None if labels is None else pd.Index(labels)
        return pd.DataFrame(scipy.special.softmax(joint, axis=1), index=index, columns=columns)

    def _page(self) -> Page:
        gmm, status = self.gmm, self.table["status"].value_counts()
        formats: dict[str, Callable[[Any], str]] = {"n_rows": "{:.0f}".format, "n_components": "{:.0f}".format, "status": str}
        formats |= dict.fromkeys(("log_likelihood", "bic"), "{:.2f}".format) | {"replication": "{:.0f}".format}
        return Page(
            f"GroupFits: {counted(len(self.table), 'group')}, {gmm.family}, {counted(gmm.n_features, 'feature')}",
            [", ".join(f"{n} {name}" for name, n in status.items())],
            of_frame(self.table, formats, ("group", "column"), "group"),
        )


class BestStarts:
    """The best start of each group and number of components, so far as groups have been fitted."""

    def __init__(
        self, counts: np.ndarray, sizes: Sequence[int], most: int, n_features: int, kind: Family, dtype: np.dtype
    ) -> None:
        shape = len(counts), len(sizes)
        self._counts, self._sizes, self._kind = counts, sizes, kind
        self._status = np.full(shape, -1)
        self._objective, self._log_likelihood = np.full(shape, np.nan), np.full(shape, np.nan)
        self._n_steps, self._replication = np.zeros(shape, int), np.zeros(shape, int)
        self._weights = np.full((*shape, most), np.nan, dtype)
        self._means = np.full((*shape, most, n_features), np.nan, dtype)
        self._covariances = np.full((*shape, *kind.shape(most, n_features)), np.nan, dtype)

    def out_of_range(self, group: int) -> None:
        """Mark a group whose squares aren't numbers."""
        self._status[group] = -2

    def take(self, some: np.ndarray, starts: GroupStarts, search: Search[GMM], rtol: float) -> None:
        """Keep of each group and number of components the start of the highest objective; a collapsed one if all are."""
        codes = np.where(search.status < 0, int(Status.max_steps), search.status)
        objective = np.asarray(search.objective, float)
        usable = np.isin(codes, [int(status) for status in USABLE]) & np.isfinite(objective)
        place = starts.group * len(self._sizes) + starts.size
        # Sorted by place, then usable ones first, then by objective: the first of each place is the best.
        order = np.lexsort((-np.where(np.isfinite(objective), objective, -np.inf), ~usable, place))
        _, first = np.unique(place[order], return_index=True)
        best = order[first]
        at = some[starts.group[best]], starts.size[best]
        top = np.full(place.max() + 1, np.nan)
        top[place[best]] = objective[best]
        resolution = 1e3 * rtol * self._counts[some[starts.group]]
        agree = usable & (objective >= top[place] - np.maximum(np.minimum(resolution, 0.1), resolution / 100) - 1e-6)
        self._replication[at] = np.bincount(place, agree, minlength=len(top))[place[best]]
        self._status[at], self._n_steps[at] = codes[best], search.n_steps[best]
        fine = np.isfinite(objective[best])
        at, best = (at[0][fine], at[1][fine]), best[fine]
        self._objective[at], self._log_likelihood[at] = objective[best], search.statistics.log_likelihood[best]
        point = search.point
        self._weights[at], self._means[at] = point.weights[best], point.means[best]
        self._covariances[at] = point.covariances[best]

    def chosen(self, labels: pd.Index, criterion: str, names: tuple[str, ...] | None, out: np.dtype) -> GroupFits:
        """For each group the number of components of the best criterion."""
        n_features = self._means.shape[-1]
        free = [self._kind.n_parameters(k, n_features) for k in self._sizes]
        with np.errstate(divide="ignore"):
            penalty = {"bic": np.log(self._counts)[:, None] * free, "aic": np.full_like(self._objective, 2) * free}
        scores = {name: each - 2 * self._log_likelihood for name, each in penalty.items()}
        usable = np.isin(self._status, [int(status) for status in USABLE])
        value = np.where(usable, scores[criterion], np.where(np.isfinite(self._objective), np.finfo(float).max, np.inf))
        size, every = np.argmin(value, axis=1), np.arange(len(labels))
        fitted = np.isfinite(self._objective[every, size])
        at = every, size
        table = pd.DataFrame(
            {
                "n_rows": self._counts,
                "n_components": np.where(fitted, np.array(self._sizes)[size], 0),
                "status": [_NOT_FITTED.get(code) or status_of(code).name for code in self._status[at].tolist()],
                "log_likelihood": self._log_likelihood[at],
                **{name: score[at] for name, score in scores.items()},
                "replication": self._replication[at],
                "n_steps": self._n_steps[at],
            },
            index=labels,
        )
        gmm = GMM.unchecked(self._weights[at], self._means[at], self._covariances[at], self._kind.name, feature_names=names)
        return GroupFits(table, precision.as_parameters(gmm, out))
