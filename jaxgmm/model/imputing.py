"""Missing values, and those that are limits, filled in from what was seen of their rows: by their expectation, or by draws."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.data.measurement import of_row
from jaxgmm.data.observed import Observed, by_pattern
from jaxgmm.model import censoring
from jaxgmm.model.asking import Censored, Errors, known_of
from jaxgmm.model.density import Components, with_shares
from jaxgmm.model.observing import completed, dense, patterns_of, root_of, whiten
from jaxgmm.tools import frames, precision
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.validation import check_count, check_key, check_rows, check_seen, check_single, floating, in_jit, is_traced


def impute(
    gmm: Any,
    x: Float[ArrayLike, "N D"],
    key: Array | None = None,
    n_draws: int | None = None,
    errors: Errors = None,
    censored: Censored = None,
) -> Any:
    """`GMM.impute`."""
    check_single(gmm.weights, "g.impute(x)")
    if is_traced(x, gmm, errors, censored) or in_jit():
        raise UserTypeError("impute sorts rows by pattern on the host: call it outside of jit, vmap and grad.")
    one = floating(frames.ordered(x, gmm.feature_names), "x")
    if one.shape == (gmm.n_features,):
        order = frames.order_of_row(x, gmm.feature_names)
        own = of_row(errors, x, gmm.feature_names), of_row(censored, x, gmm.feature_names, "censored")
        filled = impute(gmm, one[None], key, n_draws, *own)[..., 0, :]
        return filled if order is None else filled[..., np.argsort(order)]
    rows = np.asarray(check_rows(one, "x", n_features=gmm.n_features, missing=True))
    check_seen(rows)
    if (key is None) != (n_draws is None):
        raise UserError("give both key and n_draws, for draws, or neither, for expectations.")
    if key is not None:
        check_key(key)
    own_errors, sides = known_of(gmm, x, rows, errors, censored)
    dtype = precision.compute_dtype(rows, gmm)
    out = precision.answer_dtype(rows, dtype)
    with precision.scope(dtype):
        observed, places = by_pattern(rows, own_errors, sides)
        placed, mixture = jax.device_put(observed), precision.fresh(gmm)
        if key is None or n_draws is None:
            filled = np.asarray(_expected(mixture, placed, dtype)).reshape(-1, gmm.n_features)[places]
        else:
            each = [_drawn(mixture, placed, one, dtype) for one in jax.random.split(key, check_count(n_draws, "n_draws"))]
            filled = np.stack([np.asarray(draw).reshape(-1, gmm.n_features)[places] for draw in each])
        unknown = np.isnan(rows) if sides is None else np.isnan(rows) | (sides != 0)
        whole = np.where(unknown, filled, rows)[..., _places_in(x, gmm.feature_names)]
        return precision.keep(jax.device_put(whole.astype(out)))


def _places_in(x: object, names: Sequence[str] | None) -> Any:
    """Where the columns of a frame stand in the mixture's order; of anything else, all as they are."""
    own = frames.feature_names(x)
    return slice(None) if own is None or names is None else [list(names).index(name) for name in own]


@functools.partial(jax.jit, static_argnums=2)
def _expected(gmm: Any, x: Observed, dtype: np.dtype) -> Float[Array, "S G B D"]:
    """E[v | what was seen of it]."""
    components = precision.cast(gmm, dtype).components()
    whole = dense(components)
    scale = whole.scale

    def of_block(values: Array, which: Array) -> Array:
        pattern = patterns_of(components, whole, *x.of_patterns(which))
        y, joint = whiten(components, pattern, values)
        y = y if pattern.sides is None else censoring.moments(pattern.sides, y)[0]
        shares = jax.nn.softmax(with_shares(joint.T, components), axis=-1)
        each = components.means[:, None] + jnp.einsum("kde,kbe->kbd", scale @ pattern.share, y)
        return jnp.einsum("bk,kbd->bd", shares, each)

    return lax.map(lambda group: jax.vmap(of_block)(*group), (x.values, x.pattern))


@functools.partial(jax.jit, static_argnums=3)
def _drawn(gmm: Any, x: Observed, key: Array, dtype: np.dtype) -> Float[Array, "S G B D"]:
    """As `drawn`, computed in `dtype`."""
    return drawn(precision.cast(gmm, dtype), x, key)


def drawn(gmm: Any, x: Observed, key: Array) -> Float[Array, "S G B D"]:
    """A draw of v given what was seen of it, and what is known of its label. For traced arrays."""
    components: Components = gmm.components()
    whole, dtype = dense(components), components.means.dtype
    n_groups, n_together, length, n_features = x.values.shape

    def of_block(values: Array, index: Array, known: Array | None, key: Array) -> Array:
        seen, errors, limits = x.of_patterns(index)
        pattern = patterns_of(components, whole, seen, errors, limits)
        y, joint = whiten(components, pattern, values)
        which, noise, own = jax.random.split(key, 3)
        shares = with_shares(joint.T, components)
        chosen = jax.random.categorical(which, shares if known is None else shares + known)
        off = beyond = None
        if errors is not None:
            off = jax.random.normal(own, (length, n_features), dtype) @ root_of(errors, seen, dtype).T
        if limits is not None:
            beyond = jax.random.uniform(jax.random.fold_in(which, 1), (length, limits.sides.shape[-1]), dtype)
        anywhere = jax.random.normal(noise, (length, n_features), dtype)
        return components.means[chosen] + completed(components, whole, pattern, y, chosen, anywhere, off, beyond)

    keys = jax.random.split(key, (n_groups, n_together))
    return lax.map(lambda group: jax.vmap(of_block)(*group), (x.values, x.pattern, x.evidence, keys))
