"""What tests import: mixtures of any family, real data, mclust's numbers, and posterior draws without a sampler of ours."""

import functools
import json
from pathlib import Path

import jax
import numpy as np

import jaxgmm as jg
from jaxgmm import covariance
from jaxgmm.bayes.target.problem import Draws
from jaxgmm.bayes.trees.build import to_datatree
from jaxgmm.data.placed import Seen

ROOT = Path(__file__).parent.parent
REFERENCE = Path(__file__).parent / "reference"
FAMILIES = tuple(name for name, family in covariance.FAMILIES.items() if not family.restricted)  # those that have posteriors


def crossed(values):
    """(family, value): the first family with all values, each other with one, in turn; a program is compiled for each pair."""
    first, *others = FAMILIES
    return [(first, value) for value in values] + [(family, values[i % len(values)]) for i, family in enumerate(others)]


MCLUST_DATA = ("faithful", "iris", "diabetes")


def random_member(family, n_components=3, n_features=3, seed=0):
    """A mixture of overlapping components in a random position, of any registered family."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n_components, n_features, n_features))
    dense = factors @ factors.transpose(0, 2, 1) / n_features + 0.3 * np.eye(n_features)
    weights = rng.dirichlet(np.full(n_components, 5.0))
    return jg.GMM(weights, 2 * rng.normal(size=(n_components, n_features)), np.asarray(nearest(family, dense)), family)


def kept(family, scatter):
    """What a family keeps of the scatters (K, D, D) of its components: all of them, their diagonals or traces, or their sum."""
    kind = covariance.FAMILIES[family]
    if not kind.per_component:
        return scatter.sum(0)
    if kind.structure.dense:
        return scatter
    diagonal = scatter.diagonal(axis1=1, axis2=2)
    return diagonal.sum(-1) if kind.structure.isotropic else diagonal


def nearest(family, dense):
    """Covariances of a family for components of one row each with these scatters (K, D, D): its own M-step's."""
    kind, (k, d, _) = covariance.FAMILIES[family], dense.shape
    with jax.enable_x64(True):
        ones, current = np.ones(k), kind.from_dense(np.tile(np.eye(d), (k, 1, 1)))
        return kind.refit(kept(family, dense), ones, current, d, ones > 0, None)


def free_parameters(family, n_components, n_features):
    """Of the covariances: the rank of how they move with what they are fitted to."""
    rng, shape = np.random.default_rng(0), (n_components, n_features, n_features)
    raw = rng.normal(size=shape) / 10 + np.eye(n_features)
    moved = []
    for direction in np.eye(raw.size):
        there = raw + 1e-4 * direction.reshape(shape)
        back = raw - 1e-4 * direction.reshape(shape)
        ends = (np.ravel(nearest(family, end @ end.swapaxes(1, 2))) for end in (there, back))
        moved.append(np.subtract(*ends))
    return np.linalg.matrix_rank(np.array(moved), tol=1e-8)


def random_prior(family, n_features=3, concentration=(1.5, 2.0, 4.0), seed=0):
    """A prior with every number away from its default."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(n_features, n_features))
    scale = np.asarray(nearest(family, (factor @ factor.T / n_features + 0.3 * np.eye(n_features))[None]))
    scale = scale[0] if covariance.FAMILIES[family].per_component else scale
    mean, degrees = rng.normal(size=n_features), n_features + 4.0
    return jg.Prior(np.asarray(concentration), mean, 0.8, degrees, scale, family)


@functools.cache
def mclust_reference(data):
    reference = json.loads((REFERENCE / f"mclust_{data}.json").read_text())
    by_mclust = {fit["model"]: fit for fit in reference["fits"]}
    return {"data": data, "fits": {name: by_mclust[family.mclust] for name, family in covariance.FAMILIES.items()}}


@functools.cache
def load_x(data):
    return getattr(jg.datasets, f"load_{data}")().x


@functools.cache
def fit_real_data(data, family, prior):
    n_components = mclust_reference(data)["fits"][family]["G"]
    # To rounding: these fits are also looked at through their gradients.
    options = {"n_init": 20, "rtol": 1e-13, "max_steps": 5000}
    return jg.fit(load_x(data), n_components, key=jax.random.key(0), family=family, prior=prior, **options)


def draws_around(gmm, shape=(4, 50), sd=0.05, seed=0):
    """Independent draws about a mixture, nothing compiled: weights and covariances vary by a factor, means by steps of sd."""
    rng = np.random.default_rng(seed)
    weights, means, covariances = (np.asarray(leaf) for leaf in (gmm.weights, gmm.means, gmm.covariances))
    noisy = weights * np.exp(sd * rng.normal(size=(*shape, *weights.shape)))
    per_component = covariance.FAMILIES[gmm.family].per_component
    factors = np.exp(sd * rng.normal(size=(*shape, covariances.shape[0] if per_component else 1)))
    factors = factors.reshape(factors.shape + (1,) * (covariances.ndim - 1))
    return jg.GMM.unchecked(
        noisy / noisy.sum(-1, keepdims=True),
        means + sd * rng.normal(size=(*shape, *means.shape)),
        covariances * factors,
        gmm.family,
    )


def tree_of(gmm, x, *, stats=None, facts=None, attrs=None, weight=None, prior=None, extra=None, seed=0, **options):
    """The tree of draws that are given."""
    shape = np.shape(gmm.weights)[:2]
    noise = np.random.default_rng(seed).normal(size=shape)
    draws = Draws(gmm, extra or {}, {"lp": noise} | (stats or {}), facts or {})
    prior = jg.Prior.fraley_raftery(x, gmm.n_components, gmm.family) if prior is None else prior
    return to_datatree(
        draws, Seen(x, weight), prior, key=jax.random.key(seed), attrs={"method": "gibbs"} | (attrs or {}), **options
    )


def shuffled(gmm, seed=0):
    """The draws with their components in random orders, and the orders, (chain, draw, K)."""
    shape = np.shape(gmm.weights)
    orders = np.random.default_rng(seed).permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)

    def leaf(values, per_component=True):
        values = np.asarray(values)
        index = orders.reshape(orders.shape + (1,) * (values.ndim - 3))
        return np.take_along_axis(values, index, axis=2) if per_component else values

    covariances = leaf(gmm.covariances, covariance.FAMILIES[gmm.family].per_component)
    return jg.GMM.unchecked(leaf(gmm.weights), leaf(gmm.means), covariances, gmm.family), orders


def gibbs_in_numpy(x, gmm, prior, n_draws, n_chains=4, n_warmup=100, seed=0):
    """The conjugate Gibbs sampler for one feature, family "spherical", allocations drawn in the open."""
    rng, x, k = np.random.default_rng(seed), np.asarray(x)[:, 0], gmm.n_components
    m0, kappa, nu, psi = (
        float(np.squeeze(v)) for v in (prior.mean, prior.mean_precision, prior.degrees_of_freedom, prior.scale)
    )
    alpha = np.broadcast_to(prior.concentration, k)
    kept = np.empty((3, n_chains, n_draws, k))
    for chain in range(n_chains):
        weights, means, variances = np.array(gmm.weights), np.array(gmm.means)[:, 0], np.array(gmm.covariances)
        for sweep in range(-n_warmup, n_draws):
            log_r = np.log(weights) - np.log(variances) / 2 - (x[:, None] - means) ** 2 / (2 * variances)
            r = np.exp(log_r - log_r.max(1, keepdims=True)).cumsum(1)
            z = (r < rng.uniform(size=(x.size, 1)) * r[:, -1:]).sum(1)
            counts = np.bincount(z, minlength=k)
            sums = np.bincount(z, x, k)
            strength = kappa + counts
            centre = (kappa * m0 + sums) / strength
            squares = np.bincount(z, (x - centre[z]) ** 2, k)
            variances = (psi + squares + kappa * (centre - m0) ** 2) / rng.chisquare(nu + counts)
            means = centre + np.sqrt(variances / strength) * rng.normal(size=k)
            weights = rng.dirichlet(alpha + counts)
            if sweep >= 0:
                kept[:, chain, sweep] = weights, means, variances
    return jg.GMM.unchecked(kept[0], kept[1][..., None], kept[2], "spherical")
