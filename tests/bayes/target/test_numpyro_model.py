"""The NumPyro model: its density is scipy's and MAP-EM's, and its unconstrained vectors are NumPyro's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
import scipy.stats
from helpers import crossed, load_x, random_member
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.infer import Predictive, log_likelihood
from numpyro.infer.util import log_density, potential_energy, unconstrain_fn

import jaxgmm as jg
from jaxgmm.bayes.target.coordinates import layout_of, log_posterior
from jaxgmm.bayes.target.distribution import Mixture

KEY = jax.random.key(0)


@functools.partial(jax.jit, static_argnums=(1,), static_argnames=("family", "batch_size"))
def joint_of(x, n_components, values, **settings):
    """The model's log density, compiled as a whole: operations one by one take longer to compile."""
    return log_density(jg.numpyro_model, (x, n_components), settings, values)[0]


def sites(gmm):
    return {"weights": gmm.weights, "means": gmm.means, "covariances": gmm.covariances}


def scipy_log_prior(prior, gmm):
    """The prior's log density from scipy's distributions alone."""
    kappa, nu, scale = (np.asarray(leaf)[()] for leaf in (prior.mean_precision, prior.degrees_of_freedom, prior.scale))
    k = gmm.n_components
    total = scipy.stats.dirichlet(np.broadcast_to(prior.concentration, k)).logpdf(np.asarray(gmm.weights))
    dense = np.asarray(gmm.dense_covariances())
    for mean, covariance in zip(np.asarray(gmm.means), dense, strict=True):
        total += scipy.stats.multivariate_normal(np.asarray(prior.mean), covariance / kappa).logpdf(mean)
    if gmm.family in ("full", "tied"):
        each = [scipy.stats.invwishart(nu, scale).logpdf(matrix) for matrix in dense]
        return total + (sum(each) if gmm.family == "full" else each[0])
    return total + scipy.stats.invgamma(nu / 2, scale=scale / 2).logpdf(np.asarray(gmm.covariances)).sum()


def test_density_is_scipys(blobs, family):
    prior = jg.Prior.fraley_raftery(blobs, 3, family)
    for seed in range(5):
        gmm = random_member(family, seed=seed)
        ours = float(joint_of(blobs, 3, sites(gmm), family=family, prior=prior))
        mixture = np.log(
            sum(
                w * scipy.stats.multivariate_normal(m, c).pdf(blobs)
                for w, m, c in zip(gmm.weights, gmm.means, gmm.dense_covariances(), strict=True)
            )
        )
        np.testing.assert_allclose(ours, mixture.sum() + scipy_log_prior(prior, gmm), rtol=1e-10)


def test_map_em_climbs_the_models_density(blobs, family):
    """At random points, log joint = log-likelihood + `Prior.log_prob`; at MAP-EM's fixed point, also its objective."""
    fit = jg.fit(blobs, 3, key=KEY, family=family)
    joint_by_name = jax.jit(lambda values: log_density(jg.numpyro_model, (blobs, 3), {"family": family}, values)[0])
    for gmm in (random_member(family), fit.gmm):
        joint = joint_by_name(sites(gmm))
        np.testing.assert_allclose(joint, gmm.log_likelihood(blobs) + fit.prior.log_prob(gmm), rtol=1e-12)
    np.testing.assert_allclose(joint, fit.objective, rtol=1e-12)


@pytest.mark.parametrize(("family", "data"), crossed(["faithful", "iris"]))
def test_map_em_is_stationary_for_numpyro(family, data):
    """< 1e-6 of the terms that cancel, in units that don't matter: a step of one of each parameter's own size."""
    x = load_x(data)
    labels = np.digitize(x[:, 0], np.quantile(x[:, 0], [1 / 3, 2 / 3]))
    fit = jg.fit(x, init=labels, key=KEY, family=family, rtol=1e-15, max_steps=5000)  # the program of test_fit_map.py

    def joint(weights, means, covariances):
        values = {"weights": weights, "means": means, "covariances": covariances}
        return joint_of(x, 3, values, family=family, prior=fit.prior)

    leaves = tuple(jnp.asarray(leaf) for leaf in (fit.gmm.weights, fit.gmm.means, fit.gmm.covariances))
    gradient = jax.jit(jax.grad(joint, (0, 1, 2)))(*leaves)
    size = (leaves[0], jnp.broadcast_to(x.std(0), leaves[1].shape), jnp.abs(leaves[2]))
    tangent = gradient[0] - leaves[0] @ gradient[0]
    moved = [jnp.abs(g * s).max() for g, s in zip((tangent, *gradient[1:]), size, strict=True)]
    assert max(map(float, moved)) < 1e-6 * len(x)


def test_mixture_draws_what_it_scores(family):
    gmm = random_member(family)
    mixture = Mixture(gmm)
    rows = mixture.sample(KEY, (200, 100))
    assert rows.shape == (200, 100, 3)
    flat = rows.reshape(-1, 3)
    se = np.sqrt(np.diag(gmm.covariance()) / len(flat))
    assert (abs(flat.mean(0) - mixture.mean) < 5 * se).all()
    # E[log p] over its own draws is minus the entropy: two halves of the draws must agree
    scores = np.asarray(mixture.log_prob(rows))
    halves = scores[:100], scores[100:]
    assert abs(halves[0].mean() - halves[1].mean()) < 5 * scores.std() * np.sqrt(4 / scores.size)
    np.testing.assert_allclose(scores, np.asarray(gmm.log_prob(flat)).reshape(200, 100), rtol=1e-12)


@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical", "VEV", "factors:1"])
def test_distribution_of_numpyros_parts_scores_as_the_mixture(family, blobs):
    """Eagerly, with the mixture traced, and as a site of a model; a component of weight 0 takes nothing, and gives no NaN."""
    if family == "factors:1":
        gmm = jg.GMM([0.3, 0.7, 0.0], np.eye(3), np.full((3, 3, 2), 0.8), family)
    else:
        gmm = random_member(family)
    rows = jg.distribution(gmm)
    assert type(rows.component_distribution).__name__ == "MultivariateNormal"
    np.testing.assert_allclose(rows.log_prob(blobs), gmm.log_prob(blobs), rtol=1e-10)
    value, gradient = jax.jit(jax.value_and_grad(lambda g: jg.distribution(g).log_prob(blobs).sum()))(gmm)
    np.testing.assert_allclose(value, gmm.log_likelihood(blobs), rtol=1e-10)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))

    def model(x):
        numpyro.sample("x", jg.distribution(gmm), obs=x)

    with numpyro.validation_enabled():
        np.testing.assert_allclose(log_density(model, (blobs,), {}, {})[0], gmm.log_likelihood(blobs), rtol=1e-10)
    np.testing.assert_allclose(rows.mean, gmm.mean(), rtol=1e-10)
    np.testing.assert_allclose(rows.variance, np.diagonal(gmm.covariance()), rtol=1e-10)
    drawn = np.asarray(rows.sample(KEY, (20_000,)))
    assert (abs(drawn.mean(0) - gmm.mean()) < 5 * np.sqrt(np.diagonal(gmm.covariance()) / len(drawn))).all()


def test_distribution_of_what_is_no_mixture_alone(blobs):
    gmm = random_member("full")
    with pytest.raises(ValueError, match="leading axes"):
        jg.distribution(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], gmm))
    with pytest.raises(TypeError, match="gmm must be a GMM"):
        jg.distribution("gmm")
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), gmm)
    scores = jax.jit(jax.vmap(lambda g: jg.distribution(g).log_prob(blobs)))(many)
    np.testing.assert_allclose(scores[1], gmm.log_prob(blobs), rtol=1e-10)


def test_inactive_component_takes_no_rows_and_gives_no_nan(blobs):
    gmm = jg.GMM([0.4, 0.6, 0.0], np.eye(3), np.ones(3), "spherical")

    def score(gmm):
        return Mixture(gmm).log_prob(blobs).sum()

    alone = jg.GMM([0.4, 0.6], np.eye(3)[:2], np.ones(2), "spherical")
    np.testing.assert_allclose(score(gmm), score(alone), rtol=1e-12)
    gradient = jax.jit(jax.grad(score))(gmm)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert (gradient.means[2] == 0).all()
    assert (Mixture(gmm).sample(KEY, (50,))).shape == (50, 3)


@pytest.mark.parametrize("family", ["full", "tied", "diag"])  # the prior of "spherical" is drawn as that of "diag"
def test_effect_handlers_predictive_and_log_likelihood(blobs, family):
    prior = jg.Prior.default(blobs, 2, family)
    settings = {"family": family, "prior": prior}
    draws = Predictive(jg.numpyro_model, num_samples=7)(KEY, None, 2, **settings, n_samples=4)
    assert draws["x"].shape == (7, 4, 3)
    assert draws["weights"].shape == (7, 2)
    parameters = {name: draws[name] for name in ("weights", "means", "covariances")}
    if family == "full":
        again = Predictive(jg.numpyro_model, parameters)(KEY, None, 2, **settings, n_samples=4)
        assert again["x"].shape == (7, 4, 3)
    scores = log_likelihood(jg.numpyro_model, parameters, blobs, 2, **settings)["x"]
    gmms = jg.GMM(*(draws[name] for name in ("weights", "means", "covariances")), family)
    np.testing.assert_allclose(scores, jax.vmap(lambda g: g.log_prob(blobs))(gmms), rtol=1e-9)


def test_sample_weight_counts_rows_and_batches_are_scaled_up(blobs, row_counts):
    gmm, settings = random_member("full"), {"prior": jg.Prior.default(blobs, 3)}
    joint = joint_of(blobs, 3, sites(gmm), sample_weight=row_counts, **settings)
    repeated = joint_of(np.repeat(blobs, row_counts, axis=0), 3, sites(gmm), **settings)
    np.testing.assert_allclose(joint, repeated, rtol=1e-12)

    def minibatch(key, x, values):
        model = handlers.seed(jg.numpyro_model, key)
        return log_density(model, (x, 3), settings | {"batch_size": 60}, values)[0]

    whole = joint_of(blobs, 3, sites(gmm), **settings)
    several = jax.jit(jax.vmap(minibatch, (0, None, None)))(jax.random.split(KEY, 400), blobs, sites(gmm))
    assert abs(several.mean() - whole) < 4 * several.std() / np.sqrt(400)


@pytest.mark.parametrize(
    ("family", "kind"),
    [(family, "conjugate") for family in ("full", "tied", "diag", "spherical")]
    + [(family, "richardson-green") for family in ("full", "diag", "spherical")],  # a variance for every component: not "tied"
)
def test_unconstrained_vectors_are_numpyros(blobs, family, kind):
    """The vector is NumPyro's, the round trip exact, and the log posterior minus NumPyro's potential energy."""
    extra = {}
    if kind == "conjugate":
        x, gmm = blobs, random_member(family)
        prior = jg.Prior.default(x, 3, family)
    else:
        x, gmm, extra = blobs[:, :1], random_member(family, n_features=1), {"rate": jnp.asarray(0.7)}
        prior = jg.RichardsonGreen.default(x, family)
    settings = {"family": family, "prior": prior}
    layout = layout_of(gmm, prior)
    vector = jg.unconstrain(gmm, extra)
    model = handlers.seed(jg.numpyro_model, KEY)
    theirs = unconstrain_fn(model, (x, 3), settings, sites(gmm) | extra)
    np.testing.assert_allclose(vector, ravel_pytree(theirs)[0], rtol=1e-9, atol=1e-12)
    ours = log_posterior(vector, layout, jnp.asarray(x), None, prior)
    np.testing.assert_allclose(ours, -potential_energy(model, (x, 3), settings, theirs), rtol=1e-10)


def test_round_trip_and_jacobian(family):
    gmm = random_member(family, n_components=4)
    vector = jax.jit(jg.unconstrain)(gmm)
    back, log_jacobian = jax.jit(lambda vector: jg.constrain(vector, 4, 3, family))(vector)
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(gmm), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)

    def free(vector):  # the free entries: the density is with respect to these
        gmm, _ = jg.constrain(vector, 4, 3, family)
        i, j = np.tril_indices(3)
        covariances = gmm.covariances[..., i, j] if family in ("full", "tied") else gmm.covariances
        return jnp.concatenate([covariances.reshape(-1), gmm.means.reshape(-1), gmm.weights[:-1]])

    np.testing.assert_allclose(log_jacobian, np.linalg.slogdet(jax.jit(jax.jacobian(free))(vector))[1], rtol=1e-10)


def test_tiny_weights_survive_the_round_trip():
    gmm = jg.GMM([1e-12, 1 - 1e-12 - 1e-9, 1e-9], np.zeros((3, 1)), np.ones(3), "spherical")
    back, _ = jg.constrain(jg.unconstrain(gmm), 3, 1, "spherical")
    np.testing.assert_allclose(back.weights, gmm.weights, rtol=1e-10)


def test_one_component_has_no_sticks():
    gmm = jg.GMM([1.0], [[2.0]], [3.0], "spherical")
    back, _ = jg.constrain(jg.unconstrain(gmm), 1, 1, "spherical")
    np.testing.assert_allclose([back.weights[0], back.means[0, 0], back.covariances[0]], [1, 2, 3], rtol=1e-14)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"prior": None}, ValueError, "maximum likelihood"),
        ({"prior": "defualt"}, ValueError, "did you mean 'default'"),
        ({"prior": 3.0}, TypeError, "Prior or RichardsonGreen"),
        ({"family": "fulll"}, ValueError, "did you mean 'full'"),
        ({"n_components": 0}, ValueError, "n_components"),
        ({"n_samples": 5}, ValueError, "n_samples is for x=None"),
        ({"batch_size": 1000}, ValueError, "batch_size"),
        ({"x": None}, ValueError, "prior='default'"),
        ({"x": [[np.nan]]}, ValueError, "row 0"),
    ],
    ids=["ml", "typo", "number", "family", "no_components", "n_samples", "batch", "no_rows", "nan"],
)
def test_bad_settings(blobs, change, error, message):
    arguments = {"x": blobs, "n_components": 2} | change
    with pytest.raises(error, match=message), handlers.seed(rng_seed=0):
        jg.numpyro_model(**arguments)


def test_family_without_a_prior_and_prior_of_another_family(blobs, monkeypatch):
    from jaxgmm.covariance.base import Family
    from jaxgmm.covariance.diag import Diag

    with pytest.raises(ValueError, match="prior is for family 'full', but family is 'diag'"), handlers.seed(rng_seed=0):
        jg.numpyro_model(blobs, 2, "diag", jg.Prior.default(blobs, 2))
    monkeypatch.setattr(Diag, "prior_distribution", Family.prior_distribution)
    with pytest.raises(ValueError, match="family 'diag' has no NumPyro prior"), handlers.seed(rng_seed=0):
        jg.numpyro_model(blobs, 2, "diag")


def test_richardson_green_refuses_what_it_cannot_be(blobs):
    with pytest.raises(ValueError, match="3 columns"):
        jg.RichardsonGreen.default(blobs)
    with pytest.raises(ValueError, match="one value"):
        jg.RichardsonGreen.default(np.ones((4, 1)))
    with pytest.raises(ValueError, match="rate_rate must be positive"):
        jg.RichardsonGreen(0.0, 1.0, -1.0)
    with pytest.raises(ValueError, match="family for RichardsonGreen 'tied'"):
        jg.RichardsonGreen(0.0, 1.0, 1.0, family="tied")
    with pytest.raises(TypeError, match="prior must be"):
        jg.fit(blobs[:, :1], 2, key=KEY, family="spherical", prior=jg.RichardsonGreen.default(blobs[:, :1]))


def test_traced_rows_need_a_prior(blobs):
    def joint(x):
        return log_density(handlers.seed(jg.numpyro_model, KEY), (x, 2), {}, {})[0]

    with pytest.raises(ValueError, match=r"Prior\.default"):
        jax.jit(joint)(blobs)
