"""Why a row is where it is: what each feature adds to its surprisal and to the odds of its component."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from jaxgmm.data.padding import first_rows, padded_rows
from jaxgmm.model import algebra
from jaxgmm.model.density import with_shares
from jaxgmm.model.engines import COMPLETE
from jaxgmm.tools import frames, precision
from jaxgmm.tools.blocks import map_rows, short_blocks
from jaxgmm.tools.reading import Page, Readable, Table, counted
from jaxgmm.tools.svg import PALETTE, Mark, chart, colour
from jaxgmm.tools.validation import check_rows, check_single, host_only

if TYPE_CHECKING:
    import pandas as pd  # takes .3 s, and every fit comes by here

_NUMBERS_AT_ONCE = 1 << 18  # entries of rows' distances from all components that exist at one time
_DRAWN = 12  # rows in a picture


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Readable):
    """Rows, each with parts that add up to its surprisal and to its log odds. Nats.

    Attributes:
        surprisal: (N,), -log p(x_n).
        features: (N, D), what each feature adds to it: sum_k r_nk m_nkd / 2, where m_nkd = (x_n - mu_k)_d [Sigma_k^-1
            (x_n - mu_k)]_d, which adds up to the Mahalanobis distance. Negative where a feature makes sense of another.
        rest: (N,), what would be left of the surprisal at no distance from the components; it may be negative.
        components: (N, 2), the most probable component and the next; of one component, the next is -1.
        log_odds: (N,), log of the first one's probability by the next one's; inf where there is none.
        odds_features: (N, D), what each feature adds to them, (m_nbd - m_nad) / 2.
        odds_rest: (N,), what weights and determinants add.
        feature_names: D names.
        index: (N,), labels of the rows.
    """

    surprisal: Float[np.ndarray, " N"]
    features: Float[np.ndarray, "N D"]
    rest: Float[np.ndarray, " N"]
    components: Int[np.ndarray, "N 2"]
    log_odds: Float[np.ndarray, " N"]
    odds_features: Float[np.ndarray, "N D"]
    odds_rest: Float[np.ndarray, " N"]
    feature_names: tuple[str, ...]
    index: np.ndarray

    def to_frame(self) -> "pd.DataFrame":
        """Of the surprisal: a row for each row, a column for each part."""
        import pandas as pd

        parts = pd.DataFrame(self.features, pd.Index(self.index, name="row"), self.feature_names)
        return parts.assign(rest=self.rest, surprisal=self.surprisal)

    def _page(self) -> Page:
        order = np.argsort(-self.surprisal, kind="stable")
        numbers = np.column_stack([self.surprisal, self.features, self.rest])
        return Page(
            f"Explanation: surprisal of {counted(len(order), 'row')} in nats, the most surprising first",
            (),
            Table(
                "row",
                ["surprisal", *self.feature_names, "rest"],
                len(order),
                lambda i, j: f"{numbers[order[i], j]:.2f}",
                lambda i: str(self.index[order[i]]),
                ("row", "feature"),
            ),
            lambda: self._picture(order[:_DRAWN]),
        )

    def _picture(self, rows: np.ndarray) -> str:
        """The parts of rows' surprisals, on top of each other: those that add to it from 0 up, the others down."""
        parts = self.features[rows]
        order = np.argsort(-abs(parts).sum(0), kind="stable")
        own, others = order[: len(PALETTE) - 1], order[len(PALETTE) - 1 :]
        stacked = [(self.feature_names[i], parts[:, i], colour(j), 1.0) for j, i in enumerate(own.tolist())]
        if len(others):
            stacked.append((counted(len(others), "other"), parts[:, others].sum(1), colour(len(PALETTE) - 1), 0.6))
        stacked.append(("rest", self.rest[rows], colour(len(PALETTE) - 1), 0.25))
        marks, up, down = [], np.zeros(len(rows)), np.zeros(len(rows))
        for _, values, ink, opacity in stacked:
            for i, value in enumerate(values.tolist()):
                start = up if value > 0 else down
                sides, ends = (i + 0.6, i + 1.4), (start[i], start[i] + value)
                corners = [(sides[0], ends[0]), (sides[0], ends[1]), (sides[1], ends[1]), (sides[1], ends[0])]
                marks.append(Mark(np.array(corners), ink, opacity=opacity, filled=True))
                start[i] += value
        legend = {name: ink for name, _, ink, _ in stacked}
        limits = ((0.5, len(rows) + 0.5), (min(down.min(), 0.0), max(up.max(), 0.0)))
        return chart(marks, ("rows, the most surprising first", "nats"), legend=legend, limits=limits, whole=True)


def explained(gmm: PyTree, x: Float[ArrayLike, "N D"]) -> Explanation:
    """`explain`, of a `GMM`."""
    host_only("explain", x, gmm)
    check_single(gmm.weights, "jg.explain(g, x)")
    rows = check_rows(x, "x", n_features=gmm.n_features, feature_names=gmm.feature_names)
    n, d = rows.shape
    dtype = precision.compute_dtype(rows, gmm)
    with precision.scope(dtype):
        padded = jnp.asarray(padded_rows(rows))
        values = np.asarray(first_rows(_parts(precision.cast(gmm, dtype), padded, dtype, np.int32(n)), n))
    surprisal, first, second, log_odds, features, odds = np.split(values, [1, 2, 3, 4, 4 + d], axis=1)
    one = gmm.n_components == 1
    components = np.column_stack([first, np.full_like(first, -1) if one else second]).astype(int)
    log_odds = np.full(n, np.inf) if one else log_odds[:, 0]
    labels, names = frames.row_labels(x), gmm.feature_names
    return Explanation(
        surprisal=surprisal[:, 0],
        features=features,
        rest=surprisal[:, 0] - features.sum(1),
        components=components,
        log_odds=log_odds,
        odds_features=odds,
        odds_rest=log_odds - odds.sum(1),
        feature_names=names if names is not None else tuple(f"x{i}" for i in range(d)),
        index=np.arange(n) if labels is None else labels,
    )


@functools.partial(jax.jit, static_argnums=2)
def _parts(gmm: PyTree, x: Float[Array, "N D"], dtype: np.dtype, n_rows: Array) -> Float[Array, "N _"]:
    """Surprisal, two components, their log odds, and what features add to both."""
    components, sigma = gmm.components(), algebra.dense(gmm)
    sd = jnp.sqrt(jnp.diagonal(sigma, axis1=-2, axis2=-1))  # everything in the components' own units: no digits are lost
    cholesky = jnp.linalg.cholesky(sigma / sd[:, :, None] / sd[:, None, :])

    def of_rows(rows: Array) -> Array:
        rows = rows.astype(dtype)
        joint = with_shares(COMPLETE.log_joint(components, rows), components)
        away = ((rows - gmm.means[:, None]) / sd[:, None]).swapaxes(1, 2)  # (K, D, B)
        halves = (away * jax.vmap(lambda factor, z: cho_solve((factor, True), z))(cholesky, away) / 2).transpose(2, 0, 1)
        first, second = jnp.argsort(-joint, axis=1, stable=True)[:, [0, min(1, joint.shape[1] - 1)]].T
        of_first, of_second = (jnp.take_along_axis(halves, k[:, None, None], 1)[:, 0] for k in (first, second))
        odds = -jnp.diff(jnp.take_along_axis(joint, jnp.stack([first, second], 1), 1))
        features = jnp.einsum("nk,nkd->nd", jax.nn.softmax(joint, axis=1), halves)
        surprisal = -logsumexp(joint, axis=1)[:, None]
        both = jnp.stack([first, second], 1).astype(dtype)
        return jnp.concatenate([surprisal, both, odds, features, of_second - of_first], axis=1)

    at_once = max(1, _NUMBERS_AT_ONCE // gmm.means.size)
    return map_rows(of_rows, x, short_blocks(at_once, x.shape[0]), n_rows)
