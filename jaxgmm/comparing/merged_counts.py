"""A distribution over the number of merged clusters: every posterior draw is a mixture, and merging gives it a count."""

import functools

import jax
import numpy as np
import xarray
from jaxtyping import Array, Float

from jaxgmm.bayes.trees.build import draws_of
from jaxgmm.bayes.trees.per_draw import flatten_draws, noise_of
from jaxgmm.bayes.trees.schema import PARAMETERS, require, seen_of, shares_of
from jaxgmm.comparing.merging import Path, elbow, merge_path
from jaxgmm.data.placed import Rows
from jaxgmm.model.density import Uniform, beside
from jaxgmm.model.mixture import GMM
from jaxgmm.model.rows import log_joint_of
from jaxgmm.tools import precision
from jaxgmm.tools.blocks import map_draws
from jaxgmm.tools.validation import check_count

_NUMBERS_AT_ONCE = 1 << 22  # entries of the memberships of all draws that are merged together


def merged_counts(tree: xarray.DataTree, *, n_draws: int | None = 200) -> xarray.Dataset:
    """How many clusters each posterior draw's components merge into, by `merge_components` and its `choose`.

    No labels are involved, so it means the same whether they switch or not. It says how sure the count is given K
    components and the rule (a heuristic, not part of the model); it isn't a posterior over K. Rows count as far as they aren't
    noise.

    Args:
        tree: from `posterior`, with observed_data.
        n_draws: of each chain, evenly spaced; None for all. A draw costs some K passes over N x K memberships: N K^2
            logarithms, and memory for 4e6 of them, or N x K if that is more.

    Returns:
        `n_clusters` (chain, draw), and `probability` (count), the share of these draws with 1..K clusters.

    Raises:
        TypeError, ValueError: not such a tree, or n_draws that can't be used.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=3, key=jax.random.key(0))
        >>> tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1), n_draws=100)
        >>> counts = jg.merged_counts(tree, n_draws=25)
        >>> int(counts["probability"].idxmax())
        2
    """
    require(tree, "merged_counts", posterior=PARAMETERS)
    seen = seen_of(tree, "merged_counts")
    draws = draws_of(tree)
    n_chains, length, k = np.shape(draws.weights)
    kept = np.arange(length)
    if n_draws is not None and check_count(n_draws, "n_draws") < length:
        kept = np.linspace(0, length - 1, n_draws).round().astype(int)
    dtype = precision.compute_dtype(seen.x)
    with precision.scope(dtype):
        chosen = precision.cast(flatten_draws(jax.tree.map(lambda leaf: leaf[:, kept], draws)), dtype)
        placed = seen.placed(dtype)
        at_once = int(np.clip(_NUMBERS_AT_ONCE // (placed.n_places * k), 1, n_chains * len(kept)))
        shares = shares_of(tree)
        noise = noise_of(None if shares is None else shares[:, kept], seen, dtype)
        paths = jax.tree.map(np.asarray, _paths(chosen, noise, placed.rows, placed.weight, at_once))
    counts = np.array([_count(Path(*leaves)) for leaves in zip(*paths, strict=True)]).reshape(n_chains, -1)
    support = np.arange(1, k + 1)
    coords = {"chain": np.arange(n_chains), "draw": np.asarray(tree["posterior"]["draw"])[kept], "count": support}
    share = (counts.reshape(-1, 1) == support).mean(0)
    return xarray.Dataset({"n_clusters": (("chain", "draw"), counts), "probability": (("count",), share)}, coords)


@functools.partial(jax.jit, static_argnums=4)
def _paths(gmm: GMM, noise: Uniform | None, x: Rows, weight: Float[Array, " M"], at_once: int) -> Path:
    def path(draw: tuple[GMM, Uniform | None]) -> Path:
        g, rest = draw
        joint = log_joint_of(beside(g.components(), rest), x)
        counting = weight if rest is None else weight * (1 - jax.nn.softmax(joint, axis=-1)[:, -1])
        return merge_path(jax.nn.softmax(joint[:, : g.n_components], axis=-1), counting)

    return map_draws(path, (gmm, noise), at_once)


def _count(path: Path) -> int:
    m = int(path.n_filled)
    entropy, merged, overlap = (
        np.asarray(path.entropy)[::-1],
        np.append(path.merged, 0.0)[::-1],
        np.append(path.overlap, 0.0)[::-1],
    )
    return elbow(entropy[:m], merged[:m], overlap[:m])
