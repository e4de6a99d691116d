"""Noise beside a mixture: rows that no Gaussian accounts for, uniform over a box (Banfield & Raftery 1993)."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxgmm.data import ArraySource, Source
from jaxgmm.data.observed import room_beyond
from jaxgmm.model.density import WITHOUT_ROWS
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.reading import Page, Readable
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import floating, is_traced


@dataclass(frozen=True, eq=False, repr=False)
class Noise(Readable):
    """A component besides the Gaussians: a share of the rows, uniform over a box.

    Rows beyond the box have the density of those in it: farther out still, they are noise all the more.

    Attributes:
        weight: share of the rows.
        lower: (D,), the box's least corner, in the units of the data.
        upper: (D,), its greatest.
        estimated: whether the box was made of the rows.
    """

    weight: float
    lower: Float[np.ndarray, " D"]
    upper: Float[np.ndarray, " D"]
    estimated: bool = True

    @property
    def box(self) -> Float[np.ndarray, "2 D"]:
        """Its corners."""
        return np.stack([self.lower, self.upper])

    @property
    def log_widths(self) -> Float[np.ndarray, " D"]:
        """Of the box."""
        return np.log(self.upper - self.lower)

    @property
    def n_parameters(self) -> int:
        """The share, and the volume of the box if it was estimated, as mclust counts them."""
        return 1 + self.estimated

    def beside(
        self, log_prob: Float[Array, " N"], rows: Numbers, censored: ArrayLike | None = None
    ) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """Log density of rows from a mixture and noise, nats, and the probability that they aren't noise.

        Args:
            log_prob: (N,), of the mixture alone.
            rows: (N, D), NaN where a value is missing; none is where JAX traces them.
            censored: which values are limits, checked; not where JAX traces.
        """
        log_share, log_weight = (math.log(max(share, float(WITHOUT_ROWS))) for share in (1 - self.weight, self.weight))
        traced = is_traced(log_prob, rows)
        xp: Any = jnp if traced else np
        ours = log_share + (log_prob if traced else np.asarray(log_prob, float))
        noise = log_weight - np.where(True if is_traced(rows) else ~np.isnan(rows), self.log_widths, 0).sum(-1)
        if censored is not None:
            noise += room_beyond(np.atleast_2d(rows), np.atleast_2d(censored), self.box).reshape(noise.shape)
        total = xp.logaddexp(ours, noise)
        answers = total.astype(log_prob.dtype), xp.exp(ours - total).astype(log_prob.dtype)
        return jax.device_put(answers) if not traced and isinstance(log_prob, jax.Array) else answers

    def _page(self) -> Page:
        box = " × ".join(f"[{low:.4g}, {high:.4g}]" for low, high in zip(self.lower, self.upper, strict=True))
        return Page(f"Noise: {self.in_words}", [f"box {box}" if len(self.lower) <= 4 else f"box in {len(self.lower)} features"])

    @property
    def in_words(self) -> str:
        """Its share."""
        return f"{100 * self.weight:.3g} % of the rows, uniform over a box"


def box_of(noise: bool | Float[ArrayLike, " D"], source: Source) -> Noise | None:
    """The box over which noise is uniform, of a weight that isn't known yet; None without noise.

    Args:
        noise: True, for the ranges of the columns; or (D,) widths.
        source: of the rows, on the host.

    Raises:
        TypeError: neither.
        ValueError: a column that doesn't vary; widths of another number, or that are less than the columns' ranges.
    """
    if isinstance(noise, bool | np.bool_) and not noise:
        return None
    lower, upper = np.full(source.n_features, np.inf), np.full(source.n_features, -np.inf)
    for x, weight in source.parts():
        rows = np.asarray(x)[np.asarray(weight) > 0].astype(float)
        lower, upper = np.fmin(lower, np.fmin.reduce(rows)), np.fmax(upper, np.fmax.reduce(rows))
    if isinstance(noise, bool | np.bool_):
        if (upper <= lower).any():
            columns = np.flatnonzero(upper <= lower).tolist()
            raise UserError(f"noise=True needs a box, but x doesn't vary in columns {columns}: leave them out, or give widths.")
        return Noise(0.0, lower, upper)
    widths = np.asarray(floating(noise, "noise"), float)
    if widths.shape != lower.shape:
        raise UserError(f"noise has shape {widths.shape}; True, or ({lower.size},) widths of a box, is needed.")
    if not (np.isfinite(widths).all() and (widths > 0).all() and (widths >= (1 - 1e-9) * (upper - lower)).all()):
        raise UserError(
            f"noise has widths {widths.tolist()}, but the columns of x have ranges {(upper - lower).tolist()}: the box must "
            "hold all rows."
        )
    middle = (lower + upper) / 2
    return Noise(0.0, middle - widths / 2, middle + widths / 2, estimated=False)


def check_room(noise: Noise | None, source: Source, sides: Int[np.ndarray, "N D"] | None) -> None:
    """Raises ValueError where the box of noise ends at a limit, beyond which, then, no row could be noise.

    Args:
        noise: of the rows, or None.
        source: the rows.
        sides: which of their values are limits, or None; 0 in rows without weight.
    """
    if noise is None or sides is None:
        return
    assert isinstance(source, ArraySource)
    nowhere = np.isneginf(room_beyond(np.asarray(source.x), sides, noise.box))
    if nowhere.any():
        row = int(np.flatnonzero(nowhere)[0])
        raise UserError(
            f"the box of noise ends at a limit of row {row}, so that beyond it no row could be noise: give the widths of a "
            f"larger box, noise={[float(f'{2 * width:.3g}') for width in noise.upper - noise.lower]}, say."
        )
