"""What an inference method starts from, and what it hands back."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxgmm.bayes.priors.base import MixturePrior
from jaxgmm.bayes.target.coordinates import Layout
from jaxgmm.data.observed import Observed
from jaxgmm.data.pieces import Pieces
from jaxgmm.data.placed import Rows
from jaxgmm.model.density import Uniform
from jaxgmm.model.mixture import GMM


class Problem(NamedTuple):
    """Rows, prior and starting point, checked, in the dtype to compute in.

    Attributes:
        x: the rows, however they were seen: (M, D), with labels, or by pattern; padding is behind the last one, or filled in.
        weight: (M,), 0 where there is no row.
        start: the mixture to start from, every weight positive.
        prior: a `Prior` or a `RichardsonGreen`.
        layout: of the unconstrained vector.
        noise: what rows may be from besides, of the share to start from; None: nothing.
    """

    x: Rows
    weight: Float[Array, " M"]
    start: GMM
    prior: MixturePrior
    layout: Layout
    noise: Uniform | None = None

    @property
    def dtype(self) -> np.dtype:
        """To compute in."""
        return np.dtype(self.start.means.dtype)

    @property
    def total_weight(self) -> Any:
        """Of all rows."""
        return self.weight.sum()

    def unpadded(self) -> "Problem":
        """Without the places behind the last row of positive weight, where rows are in their order; as NumPy arrays."""
        if isinstance(self.x, Observed):
            return self
        n_samples = int(np.flatnonzero(self.weight)[-1]) + 1
        x, weight = jax.tree.map(lambda leaf: np.asarray(leaf)[:n_samples], (self.x, self.weight))
        return self._replace(x=x, weight=weight)


class ProblemInPieces(NamedTuple):
    """As `Problem`, of rows that come in pieces.

    Attributes:
        source: the rows.
        start: the mixture to start from, every weight positive.
        prior: a `Prior` or a `RichardsonGreen`.
        layout: of the unconstrained vector.
    """

    source: Pieces
    start: GMM
    prior: MixturePrior
    layout: Layout

    @property
    def dtype(self) -> np.dtype:
        """To compute in."""
        return np.dtype(self.start.means.dtype)


class Draws(NamedTuple):
    """Draws from a posterior, or from an approximation to it.

    Attributes:
        gmm: with leading axes (chain, draw).
        extra: the prior's own further parameters and the share of noise, by name, (chain, draw).
        stats: of each draw, (chain, draw): `lp`, the log joint density in nats, and what the method knows besides;
            `log_likelihood` where it is of more rows than a tree holds.
        attrs: facts about the run that can be written as JSON.
    """

    gmm: GMM
    extra: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]
    attrs: dict[str, Any]
