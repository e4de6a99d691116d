"""Sufficient statistics: the only thing that crosses the rows of the data."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxgmm.tools.errors import UserError
from jaxgmm.tools.reading import Page, Readable, of_arrays
from jaxgmm.tools.validation import is_traced


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Statistics(Readable):
    """What an E-step knows of the data: additive over rows, blocks, files, devices and hosts.

    Sums are taken about `centre`, the means of the mixture that made them, so that offsets of the data cost no digits.

    Attributes:
        counts: (K,), N_k = sum_n w_n r_nk.
        sums: (K, D), sum_n w_n r_nk (x_n - centre_k).
        scatter: sum_n w_n r_nk (x_n - centre_k)(x_n - centre_k)', in the family's shape: (K, D, D), or summed over k
            (D, D), diagonals (K, D), traces (K,).
        centre: (K, D).
        log_likelihood: (), total in nats.
        total_weight: (), sum_n w_n; `counts` add up to it, whatever the parameters.
    """

    counts: Float[Array, " K"]
    sums: Float[Array, "K D"]
    scatter: Float[Array, "..."]
    centre: Float[Array, "K D"]
    log_likelihood: Float[Array, ""]
    total_weight: Float[Array, ""]

    def _page(self) -> Page:
        return of_arrays("Statistics", {field.name: getattr(self, field.name) for field in fields(self)})

    def plain(self) -> "Statistics":
        """These alone, without what a subclass knows besides."""
        return Statistics(*(getattr(self, field.name) for field in fields(Statistics)))

    def __add__(self, other: "Statistics") -> "Statistics":
        """Statistics of both sets of rows; both must come from the same mixture."""
        same = self.scatter.shape == other.scatter.shape and self.centre.shape == other.centre.shape
        if same and not is_traced(self.centre, other.centre):
            same = bool((np.asarray(self.centre) == np.asarray(other.centre)).all())
        if not same:
            raise UserError("Statistics add up only if they come from the same mixture: these have other centres or shapes.")
        return Statistics(
            self.counts + other.counts,
            self.sums + other.sums,
            self.scatter + other.scatter,
            self.centre,
            self.log_likelihood + other.log_likelihood,
            self.total_weight + other.total_weight,
        )

    def together(self, summed: Callable[["Statistics"], "Statistics"]) -> "Statistics":
        """The sum of those of several devices, by a function that sums leaves; they come from the same mixture."""
        return replace(summed(self), centre=self.centre)


def recentre(structure: Any, scatter: Array, sums: Array, counts: Array, shift: Array, current: Array | None = None) -> Array:
    """Scatter about a point `shift` away, from the scatter and the sums about the origin. Of NumPy arrays, in NumPy.

    `current` are the covariances that made the sums, which structures that project rows want to know.
    """
    ones = np.ones(counts.shape, counts.dtype)
    cross, own = structure.outer(ones, sums, shift, current), structure.outer(counts, shift, shift, current)
    return scatter - 2 * cross + own
