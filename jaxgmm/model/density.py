"""What a mixture's density is made of, and the density itself: `Components`, and the log joint of rows and components."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxgmm.covariance.factor import Factor
from jaxgmm.covariance.structure import Structure

WITHOUT_ROWS = np.finfo(np.float32).tiny  # the weight of a component without rows: it has a place and a prior, but no density


class Uniform(NamedTuple):
    """A component besides the Gaussians, of rows that are noise: uniform over a box (Banfield & Raftery 1993).

    Attributes:
        log_weight: (), log share of the noise.
        log_widths: (D,), of the box.
    """

    log_weight: Float[Array, ""]
    log_widths: Float[Array, " D"]

    def log_joint(self, seen: Bool[Array, "... D"] | None = None) -> Float[Array, "..."]:
        """Log p(what was seen of a row, noise); everything by default."""
        return self.log_weight - jnp.where(True if seen is None else seen, self.log_widths, 0).sum(-1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Components:
    """What an E-step needs to know of K components: log p(x, k) = log_constant_k - |W_k'(x - mu_k)|^2 / 2.

    A `GMM` makes them of its parameters; variational Bayes of expectations, whose constants belong to no mixture.

    Attributes:
        weights: (K,), the components' shares, 0 for inactive ones: they say which components matter, and where rows are.
        log_constant: (K,), the log joint of a row at the component's mean; -inf for inactive components.
        means: (K, D).
        factor: of the covariances.
        structure: the algebra of the covariances' shape; static.
        noise: what rows may be from besides; then the weights add up to less than 1.
    """

    weights: Float[Array, " K"]
    log_constant: Float[Array, " K"]
    means: Float[Array, "K D"]
    factor: Factor
    structure: Structure = field(metadata={"static": True})
    noise: Uniform | None = None

    @property
    def n_features(self) -> int:
        """D."""
        return self.means.shape[-1]


def log_weights(weights: Array) -> Array:
    """Log weights, -inf for components that are inactive or without rows, with a gradient that stays finite."""
    alive = weights > WITHOUT_ROWS
    return jnp.where(alive, jnp.log(jnp.where(alive, weights, 1)), -jnp.inf)


def components_of(weights: Array, means: Array, factor: Factor, structure: Structure) -> Components:
    """The components of a mixture: log_constant_k = log weights_k - log |L_k| - D/2 log 2 pi."""
    constant = log_weights(weights) - factor.half_log_det - means.shape[-1] / 2 * jnp.log(2 * jnp.pi)
    return Components(weights, constant, means, factor, structure)


def log_joint(components: Components, x: Float[Array, "N D"]) -> Float[Array, "N K"]:
    """Log weights_k + log Normal(x_n | means_k, covariances_k), whitened."""
    means = components.means
    # Where rows are, to keep their digits: the mixture's own mean could be anywhere, if an idle component's is.
    centre = means[jnp.argmax(components.weights)]
    y = components.structure.whiten(x - centre, means - centre, components.factor)
    return components.log_constant - (y**2).sum(-1).T / 2


def beside(components: Components, noise: Uniform | None) -> Components:
    """The components of a mixture that has what noise leaves of the rows; as they are without."""
    if noise is None:
        return components
    rest = -jnp.expm1(noise.log_weight)
    constant = components.log_constant + jnp.log(rest)
    return replace(components, weights=rest * components.weights, log_constant=constant, noise=noise)


def noise_joint(
    components: Components,
    evidence: Float[Array, "... L"] | None = None,
    seen: Bool[Array, "... D"] | None = None,
    room: Float[Array, "..."] | None = None,
) -> Array | None:
    """The log joint of rows and noise, for all rows alike where nothing of them is given; None without noise.

    Args:
        components: which may have noise beside them.
        evidence: of the rows' labels. A row with a label is not noise.
        seen: features in which the rows were seen, if not in all.
        room: log of how much of the box lies beyond the rows' limits; where a value has a density, a limit has a probability.
    """
    if components.noise is None:
        return None
    noise = components.noise.log_joint(seen)
    noise = noise if room is None else noise + room
    return noise if evidence is None else jnp.where((evidence < 0).any(-1), -jnp.inf, noise)


def with_noise(log_joint: Float[Array, "... K"], noise: Float[Array, "..."]) -> Float[Array, "... L"]:
    """The log joint of rows and components, and then that of noise."""
    return jnp.concatenate([log_joint, jnp.broadcast_to(noise[..., None], (*log_joint.shape[:-1], 1))], axis=-1)


def with_shares(log_joint: Float[Array, "N K"], components: Components) -> Float[Array, "N K"]:
    """The log joint to make responsibilities of: a row too far from all components for a number belongs to them by weight."""
    lost = jnp.isneginf(log_joint).all(-1, keepdims=True)
    return jnp.where(lost, log_weights(components.weights), log_joint)


def normalise(
    log_joint: Float[Array, "K B"],
    weight: Float[Array, " B"],
    components: Components,
    evidence: Float[Array, "B L"] | None = None,
    seen: Bool[Array, " D"] | None = None,
    room: Float[Array, " B"] | None = None,
) -> tuple[Array, Array]:
    """Weighted responsibilities (K, B) and the weighted sum of log densities. Components come first: sums run over rows.

    Args:
        log_joint: of what was observed of the rows.
        weight: of the rows.
        components: whose log joint it is; where they have noise, responsibilities are less by its share.
        evidence: of the rows' labels; components that padding adds have none. A row with a label is not noise.
        seen: features in which the rows were seen, if not in all.
        room: of noise, beyond the rows' limits, as `noise_joint` has it.
    """
    noise = noise_joint(components, evidence, seen, room)
    if evidence is not None:
        log_joint = log_joint + jnp.pad(evidence, ((0, 0), (0, log_joint.shape[0] - evidence.shape[1]))).T
    responsibilities, log_density = share_out(log_joint, weight, components.weights, noise)
    return responsibilities, jnp.where(weight > 0, weight * log_density, 0).sum()


def share_out(
    log_joint: Float[Array, "K B"], weight: Float[Array, " B"], weights: Float[Array, " K"], noise: Array | None = None
) -> tuple[Float[Array, "K B"], Float[Array, " B"]]:
    """Weighted responsibilities, and the log densities of the rows; those too far from all components belong to them by weight.

    `noise` is the log joint of the rows and a component besides.
    """
    peak = log_joint.max(0) if noise is None else jnp.maximum(log_joint.max(0), noise)
    lost = jnp.isneginf(peak)
    exponential = jnp.where(lost, weights[:, None], jnp.exp(log_joint - jnp.where(lost, 0, peak)))
    total = exponential.sum(0)
    if noise is not None:
        total = total + jnp.exp(noise - jnp.where(lost, 0, peak))
    return exponential * (weight / total), peak + jnp.log(total)
