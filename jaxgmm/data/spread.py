"""Rows in memory that are spread over devices, of one process or of many: in a step each sums its own, and sums travel."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from jaxgmm.data.agreeing import hashes_of_processes
from jaxgmm.data.moments import ROWS_FOR_STEPS, Moments, column_steps
from jaxgmm.data.source import ArraySource, moments_by_sums, rows_then_weights
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.pytree import pytree
from jaxgmm.tools.types import Numbers, on_host
from jaxgmm.tools.validation import floating, is_traced, rows_named


@pytree(static=("sharding",), labels=("feature_names",))
@dataclass(frozen=True)
class SpreadSource:
    """Rows of which each device has a part. A pytree, so compiled loops take it as an argument.

    Attributes:
        x: (N, D), its rows over one or more axes of a mesh.
        weight: (N,), likewise.
        sharding: of the weights.
        feature_names: D names, or None.
    """

    x: Float[Array, "N D"]
    weight: Float[Array, " N"]
    sharding: NamedSharding
    feature_names: tuple[str, ...] | None = None
    traceable: ClassVar[bool] = True

    @property
    def n_samples(self) -> int:
        """N."""
        return self.x.shape[0]

    @property
    def n_features(self) -> int:
        """D."""
        return self.x.shape[1]

    @property
    def shared(self) -> bool:
        """Where a device of another process has some of them."""
        return not self.x.is_fully_addressable

    @functools.cached_property
    def n_present(self) -> int:
        """Rows of positive weight."""
        return int(_fetch(_count, self.weight))

    @functools.cached_property
    def total_weight(self) -> float:
        """Of all rows."""
        return float(_fetch(jnp.sum, self.weight))

    @property
    def like(self) -> Array:
        """The rows."""
        return self.x

    def reduce(self, f: Callable[[Array, Array], Any]) -> Any:
        """The sum of `f(rows, weights)` over the devices, each with its own rows; all of them have it."""
        axes = self.sharding.spec[0]

        def own(x: Array, weight: Array) -> Any:
            value = f(x, weight)
            together = functools.partial(jax.tree.map, lambda leaf: lax.psum(leaf, axes))
            return value.together(together) if hasattr(value, "together") else together(value)

        rows = PartitionSpec(axes)
        # Carries of loops begin as zeros, of which JAX does not see that each device has its own: so no check of that.
        spread = jax.shard_map(own, mesh=self.sharding.mesh, in_specs=(rows, rows), out_specs=PartitionSpec(), check_vma=False)
        return spread(self.x, self.weight)

    def map(self, f: Callable[[Array], Array]) -> Array:
        """`f(rows)`, which has an entry for each row, of each device's rows, spread like these."""
        rows = PartitionSpec(self.sharding.spec[0])
        spread = jax.shard_map(f, mesh=self.sharding.mesh, in_specs=rows, out_specs=rows, check_vma=False)
        return spread(self.x)

    def whole(self, f: Callable[[Array], Any]) -> None:
        """Nothing: no one has all rows."""

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The rows of each device of this process, in their order."""
        weights = {_start(shard): shard for shard in self.weight.addressable_shards}
        done = set()
        for shard in sorted(self.x.addressable_shards, key=_start):
            if _start(shard) not in done:  # an axis of the mesh that has nothing to do with rows repeats them
                done.add(_start(shard))
                yield np.asarray(shard.data), np.asarray(weights[_start(shard)].data)

    def moments(self, dense: bool, dtype: np.dtype) -> Moments:
        """As `column_moments`, in two passes."""
        some = self.some_rows(jax.random.key(0), ROWS_FOR_STEPS)
        origin = np.asarray(some.x[0]).astype(dtype)
        return moments_by_sums(self, origin, column_steps(some.x, some.weight), dense, dtype)

    def some_rows(self, key: Array, n_samples: int) -> ArraySource:
        """Rows drawn without replacement with probability proportional to their weights (Efraimidis & Spirakis 2006), at most
        so many, each of weight 1.
        """
        n_rows = min(n_samples, self.n_present)
        rows = _fetch(_drawing(n_rows), self.x, self.weight, key)
        return ArraySource(on_host(rows), on_host(np.ones(n_rows, rows.dtype)), self.feature_names)

    def digests(self) -> Iterator[Numbers]:
        """The rows, the weights; of several processes, a hash of each one's own."""
        return rows_then_weights(self) if not self.shared else hashes_of_processes(rows_then_weights(self))


def is_spread(x: object) -> bool:
    """Whether these are rows of which no device has all."""
    return isinstance(x, jax.Array) and not is_traced(x) and len(x.sharding.device_set) > 1 and not x.is_fully_replicated


def spread_source(x: Array, sample_weight: Any, min_rows: int, feature_names: Sequence[str] | None = None) -> SpreadSource:
    """Rows that are spread over devices and their weights, checked.

    Raises:
        TypeError: not real numbers.
        ValueError: columns that are spread, too; values that aren't finite; weights of another number.
    """
    x = floating(x, "x")
    sharding = x.sharding
    if not isinstance(sharding, NamedSharding) or x.ndim != 2 or len(sharding.spec) == 0 or sharding.spec[0] is None:
        raise UserError(
            f"x has shape {x.shape} and is spread over devices as {sharding}: spread its rows over an axis of a mesh, "
            "jax.device_put(x, NamedSharding(mesh, PartitionSpec('rows')))."
        )
    if any(axis is not None for axis in sharding.spec[1:]):
        raise UserError(f"x is spread over devices by columns, too, {sharding.spec}: spread its rows alone.")
    mesh = Mesh(sharding.mesh.devices, sharding.mesh.axis_names)  # whose axes are not explicit: nothing moves
    one = NamedSharding(mesh, PartitionSpec(sharding.spec[0]))
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec(sharding.spec[0], None)))
    if sample_weight is None:
        weight = jax.jit(_ones, out_shardings=one)(x)
    else:
        given = floating(sample_weight, "sample_weight")
        if given.shape != (x.shape[0],):
            raise UserError(f"sample_weight has shape {given.shape}; one weight a row is needed, ({x.shape[0]},).")
        with jax.enable_x64(next(iter(x.devices())).platform == "cpu"):
            weight = jax.device_put(given, one)
    for what, bad in (
        ("NaN or infinite values", _fetch(_not_finite, x)),
        ("weights that are negative, NaN or infinite", _fetch(_not_weights, weight)),
    ):
        if bad[0]:
            raise UserError(f"x, which is spread over devices, has {what} in {rows_named(np.array([True]), int(bad[1]))}.")
    source = SpreadSource(x, weight, one, None if feature_names is None else tuple(feature_names))
    if source.n_present < min_rows:
        raise UserError(f"x has {source.n_present} rows of positive weight, but at least {min_rows} are needed.")
    return source


def _start(shard: Any) -> int:
    return shard.index[0].start or 0


def _fetch(f: Callable[..., Array], first: Array, *others: Any) -> np.ndarray:
    """`f` of spread arrays, whole, on every host."""
    sharding: Any = first.sharding
    return np.asarray(_everywhere(f, sharding.mesh)(first, *others))


@functools.lru_cache
def _everywhere(f: Callable[..., Array], mesh: Any) -> Callable[..., Array]:
    return jax.jit(f, out_shardings=NamedSharding(mesh, PartitionSpec()))


@functools.lru_cache
def _drawing(n_rows: int) -> Callable[..., Array]:
    return functools.partial(_drawn, n_rows=n_rows)


def _ones(x: Array) -> Array:
    return jnp.ones(x.shape[0], x.dtype)


def _count(weight: Array) -> Array:
    return (weight > 0).sum()


def _not_finite(x: Array) -> Array:
    bad = ~jnp.isfinite(x).all(1)
    return jnp.stack([bad.any().astype(jnp.int32), jnp.argmax(bad).astype(jnp.int32)])


def _not_weights(weight: Array) -> Array:
    bad = ~(jnp.isfinite(weight) & (weight >= 0))
    return jnp.stack([bad.any().astype(jnp.int32), jnp.argmax(bad).astype(jnp.int32)])


def _drawn(x: Array, weight: Array, key: Array, n_rows: int) -> Array:
    waits = jax.random.exponential(key, weight.shape) / weight  # infinite where there is no weight
    return x[jnp.sort(lax.top_k(-waits, n_rows)[1])]
