"""Random variates that compile fast and don't underflow.

Each call of JAX's generator is about a hundred instructions to compile, however few numbers it draws, and its gammas take
seconds. So a sweep draws its uniforms by one call (`Uniforms`), and other distributions are made of uniforms.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

_FEW = 64  # components whose cumulative sums are a product of matrices
_LEAST = float(np.log(np.finfo(np.float32).tiny))  # a smaller log-gamma would underflow, and its inverse overflow


class Uniforms:
    """Numbers in [0, 1), handed out in pieces from the beginning; nothing must be left at the end: `spent`.

    Args:
        values: (M,).
        of_rows: (L, N), L for each row.

    Example:
        >>> import numpy as np
        >>> u = Uniforms(np.array([0.1, 0.2, 0.3]), np.array([[0.4, 0.5]]))
        >>> float(u.take()), u.take(2).shape, u.take_rows().tolist(), u.spent
        (0.1, (2,), [0.4, 0.5], True)
    """

    def __init__(self, values: Float[Array, " M"], of_rows: Float[Array, "L N"] | None = None) -> None:
        self._values, self._of_rows = values, of_rows
        self.left, self._rows_left = values.size, 0 if of_rows is None else len(of_rows)

    @property
    def spent(self) -> bool:
        """Whether all have been handed out."""
        return self.left == 0 and self._rows_left == 0

    def take(self, *shape: int) -> Float[Array, "..."]:
        """The next ones, in this shape."""
        size, first = math.prod(shape), self._values.size - self.left
        assert size <= self.left, f"{size} uniforms are asked for, {self.left} are left"
        self.left -= size
        return self._values[first : first + size].reshape(shape)

    def take_rows(self, *shape: int) -> Float[Array, "*shape N"]:
        """The next ones of the rows, (N,), or so many of these."""
        size = math.prod(shape)
        assert self._of_rows is not None
        assert size <= self._rows_left, f"{size} uniforms a row are asked for, {self._rows_left} are left"
        first = len(self._of_rows) - self._rows_left
        self._rows_left -= size
        return self._of_rows[first : first + size].reshape(*shape, self._of_rows.shape[1])


def normals(key: Array, *shapes: tuple[int, ...], dtype: jnp.dtype) -> list[Array]:
    """Standard normal variates for several arrays by one call."""
    sizes = [math.prod(shape) for shape in shapes]
    u = Uniforms(jax.random.uniform(key, (2 * sum(sizes),), dtype))
    drawn = normal(u.take(sum(sizes)), u.take(sum(sizes)))
    return [part.reshape(shape) for part, shape in zip(jnp.split(drawn, np.cumsum(sizes)[:-1]), shapes, strict=True)]


def normal(u: Float[Array, "..."], v: Float[Array, "..."]) -> Float[Array, "..."]:
    """Standard normal variates, each of two uniforms (Box & Muller 1958)."""
    return jnp.sqrt(-2 * jnp.log1p(-u)) * jnp.cos(2 * math.pi * v)


def logistic(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """Standard logistic variates of uniforms, finite."""
    return jnp.log(jnp.maximum(u, jnp.finfo(u.dtype).eps / 2)) - jnp.log1p(-u)


def integer(u: Float[Array, "..."], end: int | Array) -> Int[Array, "..."]:
    """Whole numbers from 0 to `end` - 1 of uniforms."""
    return (u * end).astype(int)


def log_gammas(key: Array, *shapes: Array) -> list[Array]:
    """Log Gamma(shape, 1) variates for several arrays of shapes, by one loop of rejections (Marsaglia & Tsang 2000)."""
    shape = jnp.concatenate([shape.reshape(-1) for shape in shapes])
    small = shape < 1  # Gamma(a) is Gamma(a + 1) U^(1 / a)
    d = jnp.where(small, shape + 1, shape) - 1 / 3

    def attempt(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        key, value, open_ = carry
        key, own = jax.random.split(key)
        u = jax.random.uniform(own, (4, *d.shape), d.dtype)
        x = normal(u[0], u[1])
        root = 1 + x / (3 * jnp.sqrt(d))
        log_v = 3 * jnp.log(jnp.maximum(root, jnp.finfo(d.dtype).tiny))
        accepted = (root > 0) & (jnp.log1p(-u[2]) < x**2 / 2 + d * (1 - root**3 + log_v))
        new = jnp.log(d) + log_v + jnp.where(small, jnp.log1p(-u[3]) / shape, 0)
        return key, jnp.where(open_ & accepted, new, value), open_ & ~accepted

    start = key, jnp.full_like(d, jnp.nan), (shape > 0) & (shape < jnp.inf)
    _, drawn, _ = lax.while_loop(lambda carry: carry[2].any(), attempt, start)
    ends = np.cumsum([shape.size for shape in shapes])[:-1]
    return [part.reshape(shape.shape) for part, shape in zip(jnp.split(drawn, ends), shapes, strict=True)]


def positive_exp(log_gamma: Array) -> Array:
    """A gamma variate, positive even where the true one is too small for a float."""
    return jnp.exp(jnp.maximum(log_gamma, _LEAST))


def dirichlet_weights(log_gamma: Float[Array, " K"]) -> Float[Array, " K"]:
    """Dirichlet weights from log-gammas: gammas of a small concentration may all underflow, and 0 / 0 is no weight."""
    return jnp.maximum(jax.nn.softmax(log_gamma), np.finfo(np.float32).tiny)  # zero would mean an inactive component


class Drawn(NamedTuple):
    """Components drawn for rows.

    Attributes:
        labels: (N,).
        log_total: (N,), log of the sum that the probabilities were divided by.
        entropy: (N,), of the probabilities; nats.
    """

    labels: Int[Array, " N"]
    log_total: Float[Array, " N"]
    entropy: Float[Array, " N"]


def draw_labels(joint: Float[Array, "K N"], uniform: Float[Array, " N"]) -> Drawn:
    """Components drawn in proportion to exp(joint), by inverting their cumulative sum."""
    away = joint - joint.max(0)
    p = jnp.exp(away)
    # Sums by a product with ones are one instruction; a scan's are dozens, and each of them passes over all rows.
    below = np.tri(len(joint), dtype=joint.dtype)
    cumulative = jnp.matmul(below, p, precision="highest") if 1 < len(joint) <= _FEW else jnp.cumsum(p, axis=0)
    total = cumulative[-1]
    # <= passes over a first component of probability 0 when u = 0; the last sum is left out, since u total may round to it.
    labels = (cumulative[:-1] <= uniform * total).sum(0)
    log_total = jnp.log(total)
    entropy = log_total - jnp.where(p > 0, p * away, 0).sum(0) / total
    return Drawn(labels, joint.max(0) + log_total, entropy)
