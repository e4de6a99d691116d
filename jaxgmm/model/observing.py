"""The E-step of rows with gaps, errors or limits: exact (Little & Rubin 2002; Bovy, Hogg & Roweis 2011; Lee & Scott 2012).

Of a row v ~ Normal(mu, Sigma) we have x = v + error, in the features that were seen. Let T be Sigma plus the errors' covariance
there, and the identity in the others, T^-1 = W W', and y = W'(x - mu), 0 where nothing was seen. Then log p(x) needs |y|^2 and
|T|; with Sigma = L L' and B = L'W in the seen features, E[v | x] = mu + L B y and Cov[v | x] = L (1 - B B') L'. So what a block
of rows adds to the statistics of v follows from sums of y and y y', and in units in which no direction is small.

Where x has limits, W is that of the features with these last; their y are standard normal given the others: `censoring`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxgmm.covariance.factor import invert_tril, mT
from jaxgmm.covariance.structure import Structure
from jaxgmm.data.observed import Limits, Observed
from jaxgmm.model import censoring
from jaxgmm.model.density import Components, noise_joint, normalise, with_noise
from jaxgmm.model.engines import Engine
from jaxgmm.model.statistics import Statistics

_NUMBERS_OF_PATTERNS = 1 << 20  # entries of the matrices of all patterns that a mixture may have at one time


class Pattern(NamedTuple):
    """What the components say where a block of rows was seen.

    Attributes:
        seen: (D,), which features.
        whitener: (K, D, D), W.
        share: (K, D, D), B.
        constant: (K,), the log joint of a row at the component's mean, but for what limits add.
        sides: (C,), of limits, as `censoring` has them; None without.
    """

    seen: Bool[Array, " D"]
    whitener: Float[Array, "K D D"]
    share: Float[Array, "K D D"]
    constant: Float[Array, " K"]
    sides: Int[Array, " C"] | None = None


@dataclass(frozen=True)
class Observing(Engine):
    """Sums over rows by pattern, `data.observed.Observed`. It whitens, about the components' own means."""

    def suits(self, components: Components, centre: Float[Array, " D"], running: Bool[Array, " R"]) -> Bool[Array, ""]:
        """Always."""
        return jnp.ones((), bool)

    def expand(self, structure: Structure, shape: tuple[int, ...], x: Observed, centre: Float[Array, " D"]) -> None:  # type: ignore[override]
        """Nothing."""

    def log_joint(self, components: Components, x: Observed) -> Float[Array, "N K"]:  # type: ignore[override]
        """Log p(what was seen of a row, component k), for each of the places of the rows."""
        return self.map(lambda joint: joint, components, x)

    def map(self, question: Callable[[Array], Array], components: Components, x: Observed) -> Float[Array, "N ..."]:
        """An answer that is made of the log joint (B, K) of rows, for each of their places; a group of them at a time."""
        whole = dense(components)

        def of_group(group: tuple[Array, Array, Array | None, Array | None]) -> Array:
            values, which, known, room = group
            own = patterns_of(components, whole, *x.of_patterns(which))
            joint = jax.vmap(lambda pattern, rows: whiten(components, pattern, rows)[1])(own, values).swapaxes(-1, -2)
            joint = joint if known is None else joint + known
            if (noise := noise_joint(components, known, x.seen[which][:, None], room)) is not None:
                joint = with_noise(joint, noise)
            return question(joint.reshape(-1, joint.shape[-1]))

        answers = lax.map(of_group, (x.values, x.pattern, x.evidence, x.room))
        return answers.reshape(-1, *answers.shape[2:])

    def sums(  # type: ignore[override]
        self,
        components: Components,
        x: Observed,
        weight: Float[Array, "S G B"],
        centre: Float[Array, " D"],
        expanded: None = None,
    ) -> Statistics:
        """Expected statistics of R mixtures."""
        return jax.vmap(lambda each: _sums(each, x, weight))(components)


OBSERVING = Observing()


class Matrices(NamedTuple):
    """Of all components, whatever is seen: Sigma, and its factor L."""

    covariances: Float[Array, "K D D"]
    scale: Float[Array, "K D D"]


def dense(components: Components) -> Matrices:
    """The covariances as matrices, factored."""
    covariances = components.structure.matrices(components.factor, components.means.shape)
    return Matrices(covariances, jnp.linalg.cholesky(covariances))


def patterns_of(
    components: Components,
    whole: Matrices,
    seen: Bool[Array, "... D"],
    errors: Float[Array, "..."] | None,
    limits: Limits | None = None,
) -> Pattern:
    """What the components say where these features were seen, with these errors and limits; leading axes are of patterns."""
    both, covariances = (seen[..., None] & seen[..., None, :])[..., None, :, :], whole.covariances
    visible = covariances
    if errors is not None:
        visible = covariances + matrices_of(errors, seen).astype(covariances.dtype)[..., None, :, :]
    visible = jnp.where(both, visible, jnp.eye(seen.shape[-1], dtype=covariances.dtype))
    if limits is not None:  # these last
        order = limits.order[..., None, :, None]
        visible = jnp.take_along_axis(jnp.take_along_axis(visible, order, -2), mT(order), -1)
    scale = jnp.linalg.cholesky(visible)
    whitener = mT(invert_tril(scale))
    if limits is not None:
        whitener = jnp.take_along_axis(whitener, jnp.argsort(order, axis=-2), -2)
    share = mT(whole.scale) @ jnp.where(seen[..., None, :, None], whitener, 0)
    # What wasn't seen is integrated out: of a mixture, this leaves log weights_k - log |L| of what was - D/2 log 2 pi.
    unseen = (seen.shape[-1] - seen.sum(-1, keepdims=True)) / 2 * jnp.log(2 * jnp.pi)
    log_sds = jnp.log(jnp.diagonal(scale, axis1=-2, axis2=-1))
    if limits is not None:
        measured = jnp.pad(limits.sides, [(0, 0)] * (seen.ndim - 1) + [(seen.shape[-1] - limits.sides.shape[-1], 0)]) == 0
        log_sds = jnp.where(measured[..., None, :], log_sds, 0)
        unseen = unseen + (~measured).sum(-1, keepdims=True) / 2 * jnp.log(2 * jnp.pi)
    constant = components.log_constant + components.factor.half_log_det - log_sds.sum(-1) + unseen
    return Pattern(seen, whitener, share, constant, None if limits is None else limits.sides)


def matrices_of(errors: Float[Array, "..."], seen: Bool[Array, "... D"]) -> Float[Array, "... D D"]:
    """Variances or covariances as covariances."""
    return errors[..., None] * jnp.eye(seen.shape[-1], dtype=errors.dtype) if errors.ndim == seen.ndim else errors


def whiten(
    components: Components, pattern: Pattern, values: Float[Array, "B D"]
) -> tuple[Float[Array, "K B D"], Float[Array, "K B"]]:
    """The rows of a block of one pattern, whitened, limits as if they were values; and their log joint, with limits as such."""
    means = components.means
    d = jnp.where(pattern.seen, values.astype(means.dtype) - means[:, None], 0)
    y = jnp.einsum("kbd,kde->kbe", d, pattern.whitener)
    squares = y**2 if pattern.sides is None else censoring.squares(pattern.sides, y)
    return y, pattern.constant[:, None] - squares.sum(-1) / 2


def completed(
    components: Components,
    whole: Matrices,
    pattern: Pattern,
    y: Float[Array, "K B D"],
    chosen: Int[Array, " B"],
    noise: Float[Array, "B D"],
    errors: Float[Array, "B D"] | None,
    uniform: Float[Array, "B C"] | None = None,
) -> Float[Array, "B D"]:
    """Draws of v given x, less the means of the rows' components: a row drawn without regard to what was seen is off by its
    own residual from the regression.

    Args:
        components: the mixture's.
        whole: its matrices.
        pattern: of the block.
        y: the rows, whitened.
        chosen: the component of each.
        noise: standard normal.
        errors: draws of the errors of measurement; None without.
        uniform: variates, for limits; None without.
    """
    anywhere = jnp.einsum("bde,be->bd", whole.scale[chosen], noise)
    measured = anywhere if errors is None else anywhere + errors
    off = jnp.einsum("bde,bd->be", pattern.whitener[chosen], jnp.where(pattern.seen, measured, 0))
    own = y[chosen, jnp.arange(chosen.size)]
    if pattern.sides is not None:
        assert uniform is not None
        own = censoring.draw(pattern.sides, own, uniform)
    return jnp.einsum("bde,be->bd", (whole.scale @ pattern.share)[chosen], own - off) + anywhere


def root_of(errors: Float[Array, "..."], seen: Bool[Array, " D"], dtype: jnp.dtype) -> Float[Array, "D D"]:
    """A matrix whose square, R R', is the covariance of a pattern's errors."""
    if errors.ndim == 1:
        return jnp.diag(jnp.sqrt(errors.astype(dtype)))
    values, vectors = jnp.linalg.eigh(matrices_of(errors, seen).astype(dtype))
    return vectors * jnp.sqrt(jnp.maximum(values, 0))


class Sums(NamedTuple):
    """Over rows of one pattern, weighted.

    Attributes:
        counts: (K,), of responsibilities.
        first: (K, D), of r y.
        second: (K, D, D), of r y y'.
        log_density: ().
        weight: ().
    """

    counts: Float[Array, " K"]
    first: Float[Array, "K D"]
    second: Float[Array, "K D D"]
    log_density: Float[Array, ""]
    weight: Float[Array, ""]


def _sums(components: Components, x: Observed, weight: Float[Array, "S G B"]) -> Statistics:
    whole, dtype = dense(components), components.means.dtype
    scale, eye = whole.scale, jnp.eye(components.n_features, dtype=dtype)
    farthest = jnp.finfo(dtype).max ** 0.4
    (n_components, n_features), n_patterns = components.means.shape, x.seen.shape[0]

    def of_block(pattern: Pattern, values: Array, w: Array, known: Array | None, room: Array | None) -> Sums:
        y, joint = whiten(components, pattern, values)
        responsibilities, log_density = normalise(joint, w.astype(dtype), components, known, pattern.seen, room)
        if pattern.sides is not None:
            y, variances = censoring.moments(pattern.sides, y)
        y = jnp.clip(y, -farthest, farthest)  # rows of weight 0 for a component add nothing, however far
        weighted = responsibilities[:, :, None] * y
        second = jnp.einsum("kbi,kbj->kij", weighted, y)
        if pattern.sides is not None:
            second += jnp.einsum("kb,kbi->ki", responsibilities, variances)[:, :, None] * eye
        return Sums(responsibilities.sum(1), weighted.sum(1), second, log_density, w.sum().astype(dtype))

    def expected(patterns: Pattern, sums: Sums) -> Sums:
        """Of L^-1 (v - mu), from sums over rows of some patterns."""
        b, counts = patterns.share, sums.counts[..., None, None]
        second = b @ (sums.second - counts * eye) @ mT(b) + counts * eye
        first = (b @ sums.first[..., None])[..., 0]
        return jax.tree.map(lambda leaf: leaf.sum(0), Sums(sums.counts, first, second, sums.log_density, sums.weight))

    def known(s: Array) -> tuple[Array | None, Array | None]:
        return None if x.evidence is None else x.evidence[s], None if x.room is None else x.room[s]

    def total(of_group: Callable[[Sums, Array], Sums], zeros: Sums) -> Sums:
        return lax.fori_loop(0, x.n_groups, lambda s, carry: of_group(carry, s), zeros)

    shapes = (n_components,), (n_components, n_features), (n_components, n_features, n_features), (), ()
    few = n_patterns * n_components * n_features**2 <= _NUMBERS_OF_PATTERNS
    if few and 2 * n_patterns <= x.pattern.size:  # blocks share them: what is to be done for a pattern is done once
        patterns = patterns_of(components, whole, x.seen, x.errors, x.limits)

        def by_pattern(carry: Sums, s: Array) -> Sums:
            which = x.pattern[s]
            own = jax.tree.map(lambda leaf: leaf[which], patterns)
            sums = jax.vmap(of_block)(own, x.values[s], weight[s], *known(s))
            return jax.tree.map(lambda all_of_them, leaf: all_of_them.at[which].add(leaf), carry, sums)

        found = expected(patterns, total(by_pattern, Sums(*(jnp.zeros((n_patterns, *shape), dtype) for shape in shapes))))
    else:

        def by_group(carry: Sums, s: Array) -> Sums:
            which = x.pattern[s]
            own = patterns_of(components, whole, *x.of_patterns(which))
            sums = jax.vmap(of_block)(own, x.values[s], weight[s], *known(s))
            return jax.tree.map(jnp.add, carry, expected(own, sums))

        found = total(by_group, Sums(*(jnp.zeros(shape, dtype) for shape in shapes)))
    scatter = scale @ found.second @ mT(scale)
    scatter = components.structure.gather((scatter + mT(scatter)) / 2)
    first = (scale @ found.first[..., None])[..., 0]
    return Statistics(found.counts, first, scatter, components.means, found.log_density, found.weight)
