"""Posteriors of rows some of whose values are limits: Gibbs draws what lies beyond, the others have its probability."""

import arviz_stats as azs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density

import jaxgmm as jg

pytestmark = pytest.mark.filterwarnings("ignore::jaxgmm.FitWarning")  # k-hat is high for some of these few rows
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
OF = np.repeat([0, 1], 45)
WHOLE = np.where(OF[:, None] == 0, RNG.normal([0, 0], [1, 0.6], (90, 2)), RNG.normal([3, 2], [0.7, 1], (90, 2)))
BELOW = WHOLE[:, 1] < 0.4
SIDES = np.column_stack([np.zeros(90, int), np.where(BELOW, -1, 0)])
SIDES[np.flatnonzero(~BELOW)[:5], 0] = 1
X = np.where(SIDES < 0, 0.4, WHOLE - 0.5 * (SIDES > 0))
X[-3:, 0] = np.nan
KNOWN = {"censored": SIDES, "error_covariances": np.full(X.shape, 0.05)}
ROW_1 = np.arange(90)[:, None] == 1
FIT = jg.fit(X, 2, key=KEY, n_init=2, **KNOWN)


@pytest.fixture(scope="module")
def gibbs():
    return jg.posterior(X, FIT, method="gibbs", key=KEY, n_draws=500, n_warmup=200, groups=["log_likelihood"], **KNOWN)


def test_the_model_has_the_density_of_the_fit():
    sites = {name: jnp.asarray(getattr(FIT, name)) for name in ("weights", "means", "covariances")}
    settings = {"prior": FIT.prior, **KNOWN}
    value = jax.jit(lambda sites: log_density(jg.numpyro_model, (X, 2), settings, sites)[0])(sites)
    assert float(value) == pytest.approx(FIT.objective, rel=1e-10)


def test_gibbs_agrees_with_nuts(gibbs):
    """Within the Monte-Carlo error of both, of what labels leave alone and of a mean that the limits hide."""
    nuts = jg.posterior(X, FIT, method="nuts", key=jax.random.key(1), n_draws=400, n_warmup=300, **KNOWN)
    for name in ("log_likelihood", "sorted_weights", "hidden"):
        trees = [tree["posterior"].to_dataset() for tree in (gibbs, nuts)]
        trees = [tree.assign(hidden=tree["means"].sel(feature="x1").min("component_id")) for tree in trees]
        ess = [float(np.min(azs.ess(tree[[name]])[name])) for tree in trees]
        assert min(ess) > 300
        ours, theirs = (tree[name] for tree in trees)
        error = np.sqrt(ours.var(("chain", "draw")) / ess[0] + theirs.var(("chain", "draw")) / ess[1])
        difference = abs(ours.mean(("chain", "draw")) - theirs.mean(("chain", "draw")))
        assert (difference < 4.5 * error).all(), name


def test_the_tree_says_of_rows_what_the_mixture_does(gibbs):
    draw = jax.tree.map(lambda leaf: np.asarray(leaf)[1, 7], jg.draws_of(gibbs))
    np.testing.assert_allclose(gibbs["log_likelihood"]["x"][1, 7], draw.log_prob(X, **KNOWN), rtol=1e-9)
    np.testing.assert_array_equal(gibbs["constant_data"]["censored"], SIDES)
    one = gibbs.isel(chain=[1], draw=[7])
    one.attrs = gibbs.attrs | {"relabelled": 1}
    np.testing.assert_allclose(jg.membership(one)["membership"], draw.responsibilities(X, **KNOWN), atol=1e-9)
    assert jg.relabel(gibbs, FIT).attrs["non_permutation_rate"] < 0.05


def test_predictive_checks_draw_what_lies_beyond(gibbs):
    """The least value of the feature with limits is of what was drawn, not the limit."""
    table = jg.predictive_checks(gibbs, key=KEY, n_replicates=50).set_index(["feature", "statistic"])
    assert table.loc[("x1", "min"), "observed"] < 0
    assert ((table["p"] > 0.005) & (table["p"] < 0.995)).all()


def test_laplace_is_near(gibbs):
    laplace = jg.posterior(X, FIT, method="laplace", key=KEY, n_draws=300, **KNOWN)
    a, b = (tree["posterior"]["log_likelihood"] for tree in (gibbs, laplace))
    assert abs(float(a.mean() - b.mean())) < 0.5 * float(a.std())
    assert 0.6 < float(a.std() / b.std()) < 1.6


def test_bad_input():
    for method in ("vb", "bootstrap", "weighted-likelihood"):
        with pytest.raises(
            ValueError, match=rf"method '{method}' takes rows that were seen wholly.*limits.*: take one of nuts"
        ):
            jg.posterior(WHOLE, FIT.gmm, prior=FIT.prior, method=method, key=KEY, censored=SIDES)
    with pytest.raises(ValueError, match=r"x isn't the data of the fit.*censored"):
        jg.posterior(X, FIT, method="gibbs", key=KEY, error_covariances=KNOWN["error_covariances"])
    with pytest.raises(ValueError, match="repeat these rows in x"):
        jg.posterior(X, FIT.gmm, prior=FIT.prior, method="gibbs", key=KEY, sample_weight=np.full(90, 2), **KNOWN)
    with pytest.raises(ValueError, match="several limits in row 1, and family 'full'"):
        jg.posterior(WHOLE, FIT.gmm, prior=FIT.prior, method="nuts", key=KEY, censored=np.where(ROW_1, -1, SIDES))
    with pytest.raises(ValueError, match="the box of noise ends at a limit of row 0, so that beyond it no row could be noise"):
        jg.numpyro_model(X, 2, prior=FIT.prior, censored=SIDES, noise=True)
    with pytest.raises(TypeError, match=r"no argument 'censored'|unexpected keyword argument 'censored'"):
        jg.count_clusters(WHOLE, key=KEY, censored=SIDES)
    with pytest.raises(ValueError, match="censored, labels and noise are for rows that are given"):
        jg.numpyro_model(None, 2, prior=FIT.prior, censored=SIDES, n_samples=3)
