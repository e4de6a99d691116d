"""How a mixture reads: a table of its components, and a picture of them. On the host: nothing is compiled for it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxgmm.covariance import get_family
from jaxgmm.tools.formatting import plus_minus
from jaxgmm.tools.reading import Table, counted
from jaxgmm.tools.svg import Mark, Word, chart, colour

_DRAWN = 20  # components in a picture
_CIRCLE = np.linspace(0, 2 * np.pi, 49)
_GRID = 257  # points of a density
_NOTHING = 1e-9  # weight of what has no rows


class Numbers(NamedTuple):
    """A mixture on the host, float64: weights (K,), means (K, D), covariances of the family's shape."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    family: str
    feature_names: Sequence[str] | None

    @property
    def names(self) -> Sequence[str]:
        """Of the features, of those that have none too."""
        return self.feature_names or [f"x{i}" for i in range(self.means.shape[1])]

    def variances(self) -> Float[np.ndarray, "K D"]:
        """Of each component and feature."""
        kind = get_family(self.family)
        values = self.covariances
        if kind.structure.dense:
            values = np.diagonal(values, axis1=-2, axis2=-1)
        else:
            values = values.reshape(len(self.weights) if kind.per_component else 1, -1)
        return np.broadcast_to(values, self.means.shape)

    def covariance(self, pair: tuple[int, int]) -> Float[np.ndarray, "K 2 2"]:
        """Of two features."""
        if not get_family(self.family).structure.dense:
            return self.variances()[:, pair, None] * np.eye(2)
        block = self.covariances[..., [[pair[0]], [pair[1]]], list(pair)]
        return np.broadcast_to(block, (len(self.weights), 2, 2))


def numbers(mixture: Any) -> Numbers:
    """Of a `GMM`."""
    weights, means, covariances = (np.asarray(leaf, float) for leaf in (mixture.weights, mixture.means, mixture.covariances))
    kind, family = get_family(mixture.family), mixture.family
    covariances = kind.structure.on_host(covariances)
    if kind.structure.rank:
        family = kind.general
    return Numbers(weights, means, covariances, family, mixture.feature_names)


def what(family: str, n_components: int, n_features: int) -> str:
    """Such as "full, 2 components, 4 features"."""
    return f"{family}, {counted(n_components, 'component')}, {counted(n_features, 'feature')}"


def table(mixture: Numbers) -> Table:
    """Weight, and mean ± standard deviation of each feature, for each component."""
    sds = np.sqrt(mixture.variances())

    def cell(k: int, column: int) -> str:
        if column == 0:
            weight = mixture.weights[k]
            return f"{weight:.3f}" if weight >= 0.0005 or weight == 0 else f"{weight:.0e}"
        return plus_minus(mixture.means[k, column - 1], sds[k, column - 1])

    return Table("mean ± sd", ["weight", *mixture.names], len(mixture.weights), cell)


def picture(mixture: Numbers) -> str:
    """Densities of one feature; ellipses at 1 and 2 standard deviations in the two that part the components best."""
    heaviest = np.argsort(-mixture.weights, kind="stable")[:_DRAWN]
    known = np.isfinite(mixture.means).all(axis=1) & np.isfinite(mixture.variances()).all(axis=1)
    drawn = np.sort(heaviest[(mixture.weights[heaviest] > _NOTHING) & known[heaviest]])
    if not len(drawn):
        return ""
    return _densities(mixture, drawn) if mixture.means.shape[1] == 1 else _ellipses(mixture, drawn)


def _densities(mixture: Numbers, drawn: np.ndarray) -> str:
    means, sds = mixture.means[drawn, 0], np.sqrt(mixture.variances()[drawn, 0])
    around = (means[:, None] + sds[:, None] * np.linspace(-3.5, 3.5, 57)).ravel()
    grid = np.sort(np.concatenate([np.linspace(around.min(), around.max(), _GRID), around]))
    z = (grid - means[:, None]) / sds[:, None]
    weighted = (mixture.weights[drawn] / sds / np.sqrt(2 * np.pi))[:, None] * np.exp(-(z**2) / 2)
    marks = [Mark(np.column_stack([grid, weighted.sum(0)]), width=5, opacity=0.25)]
    marks += [Mark(np.column_stack([grid, line]), colour(k)) for k, line in zip(drawn, weighted, strict=True)]
    tops = weighted.max(axis=1)
    words = [Word(str(k), m, top / 2) for k, m, top in zip(drawn.tolist(), means.tolist(), tops.tolist(), strict=True)]
    return chart(marks, (mixture.names[0], "density"), words=words)


def _ellipses(mixture: Numbers, drawn: np.ndarray) -> str:
    weights, means, within = mixture.weights[drawn], mixture.means[drawn], mixture.variances()[drawn]
    between = weights @ (means - weights @ means / weights.sum()) ** 2
    with np.errstate(all="ignore"):
        i, j = sorted(np.argsort(-between / (weights @ within), kind="stable")[:2].tolist())
    circle = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)])
    marks, words = [], []
    for k, covariance in zip(drawn.tolist(), mixture.covariance((i, j))[drawn], strict=True):
        variances, axes = np.linalg.eigh(covariance)
        outline = ((axes * np.sqrt(np.maximum(variances, 0))) @ circle).T
        centre = mixture.means[k, [i, j]]
        marks += [Mark(centre + radius * outline, colour(k), 1.8 / radius) for radius in (1, 2)]
        words.append(Word(str(k), *centre.tolist()))
    return chart(marks, (mixture.names[i], mixture.names[j]), words=words)
