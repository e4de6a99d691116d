"""Which dtype to compute in and which to hand back.

On a CPU float64 costs little and rounding is a real enemy, so everything called eagerly computes in float64, inside a
local `jax.enable_x64(True)`: answers about rows come back in the rows' dtype, parameters as float64. On accelerators, and
inside a user's own jit, grad or vmap, the dtype is the one that is there. The global configuration never changes. What
computes comes by here, so it is here that forks of a process that ran JAX are told to stop.
"""

import contextlib
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from jaxgmm.tools.forks import check_not_forked
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import in_jit, is_traced

with contextlib.suppress(ImportError):
    # NumPyro imports it: its settings, if they came later, would have every program compiled again.
    import jax.experimental.pallas


def result_dtype(x: Numbers) -> np.dtype:
    """The dtype of results for data `x`: its own, at least float32, and what JAX's configuration allows."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def answer_dtype(x: Numbers, compute: np.dtype) -> np.dtype:
    """Of answers about rows that are computed in `compute`: the rows' own, at least float32, where float64 is at hand."""
    return np.dtype(jnp.promote_types(x.dtype, jnp.float32)) if compute == np.float64 else result_dtype(x)


def parameter_dtype(x: Numbers) -> np.dtype:
    """The dtype of fitted parameters and of sums: float64 on a CPU, whatever the rows are, else that of results.

    Rounded to float32, a covariance of near-collinear columns may have no density, and one of small units no digits.
    """
    return result_dtype(x) if is_traced(x) or in_jit() or platform(x) != "cpu" else np.dtype(np.float64)


def as_parameters[Tree](tree: Tree, dtype: np.dtype) -> Tree:
    """The leaves as JAX arrays of `dtype` or, where JAX's configuration doesn't allow that dtype, NumPy ones."""
    allowed = jax.dtypes.canonicalize_dtype(dtype) == dtype
    with jax.transfer_guard("allow"):
        return jax.tree.map(lambda leaf: (jnp.asarray if allowed else np.asarray)(np.asarray(leaf, dtype)), tree)


def own_dtype(tree: PyTree[Array]) -> np.dtype:
    """The widest dtype of a pytree's floating leaves, at least float32: of what is derived from it eagerly."""
    return np.dtype(functools.reduce(jnp.promote_types, (leaf.dtype for leaf in jax.tree.leaves(tree)), np.dtype(np.float32)))


def derive[Result](
    function: Callable[..., Result], tree: PyTree[Array], *others: PyTree[Array], native: bool = False
) -> Result:
    """`function(tree, *others)` with nothing rounded on the way: eagerly, what `tree` has in float64 stays float64.

    Args:
        function: of the arrays in the dtype to compute in.
        tree: whose dtype results have.
        others: further arrays, traced or not.
        native: compute in the tree's own dtype, not a wider one, so that random numbers of float32 stay what they are.
    """
    first = jax.tree.leaves(tree)[0]
    compute, out = compute_dtype(first, tree, *others), own_dtype(tree)
    if compute != np.float64:
        out = np.dtype(jax.dtypes.canonicalize_dtype(out))
    if native or compute != np.float64:
        compute = out
    with scope(compute):
        result = cast(function(*cast((tree, *others), compute)), out)
    return keep(result)


def keep[Tree](tree: Tree) -> Tree:
    """A result as it can be handed on: NumPy arrays of what JAX's configuration doesn't allow."""

    def leaf(value: Array) -> Numbers:
        allowed = jax.dtypes.canonicalize_dtype(value.dtype)
        if allowed == value.dtype or is_traced(value):
            return value
        return np.asarray(value) if jnp.issubdtype(value.dtype, jnp.floating) else jnp.asarray(np.asarray(value), allowed)

    with jax.transfer_guard("allow"):
        return jax.tree.map(leaf, tree)


def platform(x: Numbers) -> str:
    """Where `x` lives or would be put: "cpu", "gpu" or "tpu"."""
    if isinstance(x, jax.Array) and not is_traced(x):
        return next(iter(x.devices())).platform
    return jax.default_backend()


def compute_dtype(x: Numbers, *others: PyTree[Array]) -> np.dtype:
    """The dtype to compute in for data `x`; `others` are the further arguments of the call, traced or not."""
    check_not_forked()
    if is_traced(x, *others) or in_jit() or platform(x) != "cpu":
        return result_dtype(x)
    return np.dtype(np.float64)


def scope(dtype: np.dtype) -> contextlib.AbstractContextManager:
    """A context in which arrays of `dtype` exist, and may go to the device: rows that are handed over are meant to."""
    check_not_forked()
    context = contextlib.ExitStack()
    context.enter_context(jax.transfer_guard("allow"))
    if dtype == np.float64:
        context.enter_context(jax.enable_x64(True))
    return context


def cast[Tree](tree: Tree, dtype: np.dtype) -> Tree:
    """The floating leaves of a pytree in another dtype."""

    def leaf(value: ArrayLike) -> Array:
        array = jnp.asarray(value)
        return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return jax.tree.map(leaf, fresh(tree))


def fresh[Tree](tree: Tree) -> Tree:
    """The same numbers in array objects of their own.

    JAX 0.12 remembers the device's copy of a NumPy array that was a constant in a jit, in float32 where x64 is off, and would
    hand it out again inside `scope`.
    """
    return jax.tree.map(lambda leaf: leaf.view() if isinstance(leaf, np.ndarray) else leaf, tree)
