"""Posterior trees: what is in them is scipy's and NumPyro's, and ArviZ and files take them as they are."""

import functools
import os

import arviz as az
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import xarray
from helpers import draws_around, random_member, tree_of
from numpyro.infer.util import log_density

import jaxgmm as jg
from jaxgmm.bayes.target.problem import Draws
from jaxgmm.bayes.trees import per_draw
from jaxgmm.bayes.trees.build import draws_of, to_datatree
from jaxgmm.bayes.trees.schema import check_feature_names, facts_of
from jaxgmm.bayes.trees.storage import load_posterior, save_posterior
from jaxgmm.data.placed import Seen

KEY = jax.random.key(0)
GROUPS = ("log_likelihood", "log_prior", "prior", "posterior_predictive")
WEIGHT = np.where(np.arange(240) < 20, 0, np.random.default_rng(1).exponential(size=240))


@pytest.fixture(scope="module")
def faithful():
    return jg.datasets.load_faithful().x


@pytest.fixture(scope="module")
def tree(faithful):
    """All groups, two components that overlap a little, so that nothing is constant but K+."""
    with jax.enable_x64(True):
        draws = draws_around(jg.fit(faithful, 2, key=KEY).gmm, (4, 100))
        facts = {"guide": None, "pareto_k": np.float32(0.25), "losses": [1.0, 2.0]}
        attrs = {"n_draws": 100, "dense_mass": True, "start": "em"}
        return tree_of(draws, faithful, groups=GROUPS, feature_names=["eruptions", "waiting time"], facts=facts, attrs=attrs)


def each(gmm):
    """The draws one by one."""
    for index in np.ndindex(np.shape(gmm.weights)[:2]):
        yield index, jax.tree.map(lambda leaf, at=index: leaf[at], gmm)


def scipy_joint(gmm, x):
    """log pi_k N(x_n | mu_k, Sigma_k), by scipy."""
    dense = np.asarray(gmm.dense_covariances())
    columns = zip(np.asarray(gmm.weights), np.asarray(gmm.means), dense, strict=True)
    return np.stack([np.log(w) + scipy.stats.multivariate_normal(m, c).logpdf(x) for w, m, c in columns], axis=-1)


@pytest.fixture
def blob_tree(blobs, family):
    """Draws about a random mixture of each family, rows weighted."""
    return small_tree(family, tuple(map(tuple, blobs)))


@functools.cache
def small_tree(family, rows, **options):
    with jax.enable_x64(True):
        options = {"groups": ("log_likelihood", "log_prior"), "weight": WEIGHT} | options
        return tree_of(draws_around(random_member(family), (2, 4)), np.array(rows), **options)


def test_groups_variables_and_dimensions(blob_tree, family):
    assert list(blob_tree.children) == [
        "posterior",
        "allocations",
        "sample_stats",
        "observed_data",
        "constant_data",
        *GROUPS[:2],
    ]
    shape = {"full": ["component_id", "feature", "feature_bis"], "tied": ["feature", "feature_bis"]}
    shape |= {"diag": ["component_id", "feature"], "spherical": ["component_id"]}
    expected = {
        "weights": ["component_id"],
        "means": ["component_id", "feature"],
        "covariances": shape[family],
        "log_likelihood": [],
        "sorted_weights": ["rank"],
        "entropy": [],
    }
    posterior = blob_tree["posterior"]
    assert {name: list(v.dims) for name, v in posterior.data_vars.items()} == {
        name: ["chain", "draw", *dims] for name, dims in expected.items()
    }
    assert posterior["feature"].values.tolist() == ["x0", "x1", "x2"]
    scale_dims = {"full": ("feature", "feature_bis"), "tied": ("feature", "feature_bis"), "diag": ("feature",), "spherical": ()}
    assert blob_tree["constant_data"]["prior_scale"].dims == scale_dims[family]
    np.testing.assert_array_equal(blob_tree["constant_data"]["sample_weight"], WEIGHT)
    draws = draws_around(random_member(family), (2, 4))
    for ours, theirs in zip(jax.tree.leaves(draws_of(blob_tree)), jax.tree.leaves(draws), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert draws_of(blob_tree).family == family


def test_label_invariant_quantities_are_scipys(blob_tree, blobs):
    posterior = blob_tree["posterior"]
    for index, gmm in each(draws_of(blob_tree)):
        joint = scipy_joint(gmm, blobs)
        log_density = scipy.special.logsumexp(joint, axis=1)
        np.testing.assert_allclose(posterior["log_likelihood"][index], WEIGHT @ log_density, rtol=1e-10)
        entropy = scipy.stats.entropy(np.exp(joint - log_density[:, None]), axis=1)
        np.testing.assert_allclose(posterior["entropy"][index], WEIGHT @ entropy / WEIGHT.sum(), rtol=1e-8)
        np.testing.assert_array_equal(posterior["sorted_weights"][index], np.sort(gmm.weights)[::-1])


def test_n_clusters_has_the_exact_distribution():
    """K+ of five rows and three components: against the sum over all 3^5 allocations."""
    gmm = jg.GMM([0.1, 0.3, 0.6], [[-1.0], [0.0], [1.0]], [1.0, 2.0, 1.0], "spherical")
    x = np.array([[-1.5], [0.2], [0.4], [1.0], [3.0]])
    n_draws = 20_000
    many = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (2, n_draws // 2, *leaf.shape)), gmm)
    weight = np.array([1.0, 1.0, 0.0, 0.5, 2.0])  # a row of weight 0 fills no component
    found = tree_of(many, x, weight=weight)["allocations"]["n_clusters"].values
    r = np.asarray(gmm.responsibilities(x))[weight > 0]
    allocations = np.array(np.meshgrid(*[range(3)] * 4)).reshape(4, -1).T
    probability = r[np.arange(4), allocations].prod(1)
    filled = np.array([len(set(z)) for z in allocations])
    for k in (1, 2, 3):
        p = probability[filled == k].sum()
        np.testing.assert_allclose((found == k).mean(), p, atol=4 * np.sqrt(p * (1 - p) / n_draws))


def test_an_inactive_component_is_never_a_cluster(blobs):
    gmm = jg.GMM([0.5, 0.0, 0.5, 0.0], np.zeros((4, 3)), np.ones((4, 3)), "diag")
    many = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (2, 50, *leaf.shape)), gmm)
    tree = tree_of(many, blobs, groups=("log_likelihood",))
    assert (tree["allocations"]["n_clusters"] == 2).all()
    np.testing.assert_allclose(tree["posterior"]["entropy"], np.log(2), rtol=1e-12)
    assert np.isfinite(tree["log_likelihood"]["x"]).all()


@pytest.mark.parametrize("numbers", [700, 21 * 240 * 4])  # 33 rows of one draw at once; 4 of 6 draws
def test_blocks_change_nothing(blobs, monkeypatch, numbers):
    draws = draws_around(random_member("full"), (2, 3))
    whole = tree_of(draws, blobs, weight=WEIGHT, groups=("log_likelihood",))
    monkeypatch.setattr(per_draw, "_NUMBERS_AT_ONCE", numbers)
    functions = (per_draw.label_invariant, per_draw.log_density_of_rows)
    for function in functions:
        function.clear_cache()
    blocks = tree_of(draws, blobs, weight=WEIGHT, groups=("log_likelihood",))
    for function in functions:
        function.clear_cache()
    for group in ("posterior", "log_likelihood"):
        xarray.testing.assert_allclose(blocks[group].to_dataset(), whole[group].to_dataset(), rtol=1e-12)


def test_other_numbers_of_draws_compile_nothing(blobs, compilations):
    """What is compiled for 200 draws serves 129 to 256 of them."""

    def ask(n_draws):
        gmm, prior = random_member("full"), jg.Prior.default(blobs, 3)
        return jg.relabel(tree_of(draws_around(gmm, (4, n_draws)), blobs, prior=prior, groups=("log_prior",)), gmm)

    jax.clear_caches()
    ask(50)
    of_draws = {f"jit({name})" for name in ("label_invariant", "summed_out_of_draws", "log_prior_of_draws", "agreement")}
    assert of_draws < set(compilations)
    compilations.clear()
    ask(60)
    assert not of_draws & set(compilations)


def test_log_likelihood_of_rows(tree, faithful):
    rows = tree["log_likelihood"]["x"]
    assert rows.dims == ("chain", "draw", "obs_id")
    for index in ((0, 0), (3, 99)):
        gmm = jax.tree.map(lambda leaf, at=index: leaf[at], draws_of(tree))
        np.testing.assert_allclose(rows[index], scipy.special.logsumexp(scipy_joint(gmm, faithful), axis=1), rtol=1e-10)
    np.testing.assert_allclose(rows.sum("obs_id"), tree["posterior"]["log_likelihood"], rtol=1e-12)


def test_weighted_log_likelihood_of_rows_adds_up(blob_tree):
    rows = blob_tree["log_likelihood"]["x"]
    np.testing.assert_allclose(rows.sum("obs_id"), blob_tree["posterior"]["log_likelihood"], rtol=1e-12)
    assert (rows[:, :, WEIGHT == 0] == 0).all()


def test_log_prior_is_the_priors(blob_tree, blobs, family):
    prior = jg.Prior.fraley_raftery(blobs, 3, family)
    for index, gmm in each(draws_of(blob_tree)):
        np.testing.assert_allclose(blob_tree["log_prior"]["log_prior"][index], prior.log_prob(gmm), rtol=1e-10)


def test_richardson_green(blobs):
    """Its own parameter is a posterior variable, and takes part in the log prior as in NumPyro's model."""
    x = blobs[:, :1]
    prior = jg.RichardsonGreen.default(x)
    gmm = draws_around(random_member("spherical", 2, 1), (2, 4))
    rate = np.random.default_rng(0).exponential(size=(2, 4))
    tree = tree_of(gmm, x, prior=prior, extra={"rate": rate}, groups=("log_prior", "prior"))
    np.testing.assert_array_equal(tree["posterior"]["rate"], rate)
    assert tree.attrs["prior"] == "RichardsonGreen"
    assert tree["prior"]["rate"].dims == ("chain", "draw")
    np.testing.assert_array_equal(tree["constant_data"]["prior_mean_variance"], prior.mean_variance)
    density = jax.jit(lambda sites: log_density(jg.numpyro_model, (x, 2), {"family": "spherical", "prior": prior}, sites)[0])
    for index, g in each(draws_of(tree)):
        joint = density({"weights": g.weights, "means": g.means, "covariances": g.covariances, "rate": rate[index]})
        ours = tree["posterior"]["log_likelihood"][index] + tree["log_prior"]["log_prior"][index]
        np.testing.assert_allclose(ours, joint, rtol=1e-10)


def test_replicated_rows_have_the_moments_of_their_draw(blobs):
    gmm = random_member("full")
    many = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (2, 200, *leaf.shape)), gmm)
    tree = tree_of(many, blobs, groups=("posterior_predictive",))
    rows = tree["posterior_predictive"]["x"].values
    assert rows.shape == (2, 200, 240, 3)
    flat, covariance = rows.reshape(-1, 3), np.asarray(gmm.covariance())
    np.testing.assert_allclose(flat.mean(0), gmm.mean(), atol=4 * np.sqrt(covariance.max() / len(flat)))
    np.testing.assert_allclose(np.cov(flat.T), covariance, atol=0.05 * covariance.max())
    assert len(np.unique(flat[:, 0])) == len(flat)  # no draw has the rows of another


def test_prior_draws_are_the_priors(tree, faithful):
    prior = jg.Prior.fraley_raftery(faithful, 2)
    draws = tree["prior"].isel(chain=0)
    assert draws.sizes["draw"] == 400
    # Dirichlet(1, 1): each weight is uniform; a diagonal entry of an inverse-Wishart is an inverse gamma
    assert scipy.stats.kstest(draws["weights"][:, 0], scipy.stats.uniform.cdf).pvalue > 1e-3
    variance = draws["covariances"].values[:, 0, 0, 0]
    inverse_gamma = scipy.stats.invgamma((float(prior.degrees_of_freedom) - 1) / 2, scale=prior.scale[0, 0] / 2)
    assert scipy.stats.kstest(variance, inverse_gamma.cdf).pvalue > 1e-3
    z = (draws["means"].values[:, 0, 0] - float(prior.mean[0])) / np.sqrt(variance / float(prior.mean_precision))
    assert scipy.stats.kstest(z, scipy.stats.norm.cdf).pvalue > 1e-3
    # Replicated rows: of each draw's own mixture
    rows = tree["prior_predictive"]["x"].sel(feature="waiting_time").isel(chain=0)
    assert rows.shape == (400, 272)
    centre = (draws["weights"] * draws["means"].isel(feature=1)).sum("component_id")
    assert np.corrcoef(rows.mean("obs_id"), centre)[0, 1] > 0.99


def test_default_precision_and_float32_rows(blobs):
    with jax.enable_x64(False):
        gmm = jax.tree.map(jnp.asarray, random_member("full"))
        many = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (2, 3, *leaf.shape)), gmm)
        tree = tree_of(many, blobs.astype(np.float32), groups=("log_likelihood", "posterior_predictive"))
        assert draws_of(tree).weights.dtype == np.float32
    assert tree["observed_data"]["x"].dtype == np.float32
    assert tree["posterior_predictive"]["x"].dtype == np.float32
    expected = gmm.log_likelihood(blobs.astype(np.float32))
    np.testing.assert_allclose(tree["posterior"]["log_likelihood"], expected, rtol=1e-6)


def test_facts_survive(tree, tmp_path):
    facts = facts_of(tree)
    assert (facts["method"], facts["family"], facts["prior"]) == ("gibbs", "full", "Prior")
    assert (facts["n_draws"], facts["dense_mass"], facts["creation_library"]) == (100, True, "jaxgmm")
    assert {"jax_version", "numpyro_version", "arviz_version", "created_at"} <= set(facts)
    assert all(isinstance(value, str | int | float) for group in tree.subtree for value in group.attrs.values())
    assert facts_of(tree["sample_stats"]) == {"guide": None, "pareto_k": 0.25, "losses": [1.0, 2.0]}
    assert facts_of(load_posterior(save_posterior(tree, tmp_path / "posterior"))) == facts
    odd = tree_of(draws_of(tree), jg.datasets.load_faithful().x, attrs={"path": tmp_path, "text": "[not json", "nan": np.nan})
    assert facts_of(odd)["path"] == str(tmp_path)
    assert facts_of(odd)["text"] == "[not json"


# Files of others


def test_netcdf(tree, tmp_path):
    tree.to_netcdf(tmp_path / "tree.nc")
    read = az.from_netcdf(tmp_path / "tree.nc")
    assert read.identical(tree)
    read.close()


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_zarr(tree, tmp_path):
    tree.to_zarr(tmp_path / "tree.zarr")
    assert az.from_zarr(tmp_path / "tree.zarr").identical(tree)


# Files of our own


def test_save_and_load(tree, tmp_path):
    path = save_posterior(tree, tmp_path / "posterior")
    assert path == tmp_path / "posterior.nc"
    assert os.listdir(tmp_path) == ["posterior.nc"]
    read = load_posterior(path)
    assert read.identical(tree)
    tree.to_netcdf(tmp_path / "whole.nc")
    assert load_posterior(tmp_path / "whole.nc").identical(tree)
    path.unlink()  # in memory: the file isn't needed any more
    assert float(read["posterior"]["weights"].sum()) == pytest.approx(400)


def as_before(tree):
    """The tree as it was before its rows were one variable: one of each feature, and K+ and the like among the parameters."""
    groups = {name: child.to_dataset() for name, child in tree.children.items()}
    features = groups["observed_data"]["feature"].values
    for name in {"observed_data", "posterior_predictive", "prior_predictive"} & set(groups):
        groups[name] = xarray.Dataset({own: groups[name]["x"].sel(feature=own, drop=True) for own in features})
    if "log_likelihood" in groups:
        rows = groups["log_likelihood"]["x"].variable
        groups["log_likelihood"] = groups["log_likelihood"].assign_coords(dict.fromkeys(set(features) - {"x"}, rows))
    moved = [name for name in ("n_clusters", "n_components", "sorted_weights") if name in groups["allocations"]]
    groups["posterior"] = groups["posterior"].assign(groups["allocations"][moved].astype(float))
    groups["allocations"] = groups["allocations"].drop_vars([*moved, *({"rank"} & set(groups["allocations"].coords))])
    if "alpha" in groups["constant_data"]:
        alpha = xarray.full_like(groups["posterior"]["entropy"], groups["constant_data"]["alpha"].item())
        groups["posterior"], groups["constant_data"] = (
            groups["posterior"].assign(alpha=alpha),
            groups["constant_data"].drop_vars("alpha"),
        )
    if not groups["allocations"].data_vars:
        del groups["allocations"]
    before = xarray.DataTree.from_dict(groups)
    before.attrs = tree.attrs
    return before


@pytest.mark.parametrize("names", [("eruptions", "waiting time"), ("y", "x")])
def test_files_of_before(tree, faithful, tmp_path, names):
    tree = tree_of(draws_of(tree), faithful, groups=GROUPS, feature_names=names)
    assert "n_clusters" in as_before(tree)["posterior"]
    as_before(tree).to_netcdf(tmp_path / "before.nc")
    assert load_posterior(tmp_path / "before.nc").identical(tree)


@pytest.mark.parametrize("alpha", ["f", 1.0])
def test_counts_of_before(tmp_path, alpha):
    x = jg.datasets.load_faithful().x[:20]
    tree = jg.count_clusters(x, key=KEY, n_draws=20, n_warmup=10, max_components=20, alpha=alpha)
    as_before(tree).to_netcdf(tmp_path / "before.nc")
    read = load_posterior(tmp_path / "before.nc")
    assert read.identical(tree)
    given = [jg.components_given(counted, 2, key=KEY)["posterior"]["means"] for counted in (tree, read)]
    np.testing.assert_array_equal(*given)


def test_saving_is_all_or_nothing(tree, tmp_path, monkeypatch):
    path = save_posterior(tree, tmp_path / "posterior.nc")

    def fails(self, target, **options):
        target.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(xarray.DataTree, "to_netcdf", fails)
    with pytest.raises(OSError, match="disk full"):
        save_posterior(tree, path)
    assert load_posterior(path).identical(tree)


def test_a_file_that_was_cut_short(tree, tmp_path):
    whole = save_posterior(tree, tmp_path / "whole.nc").read_bytes()
    path = tmp_path / "posterior.nc"
    for size in (0, 10, 2000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"posterior\.nc is not a whole netCDF file .*: it was cut short"):
            load_posterior(path)


@pytest.mark.parametrize("first", [0.0, 0.01, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("length", [1, 4096])
def test_a_file_with_a_hole_is_refused_before_hdf5_reads_it(tree, tmp_path, monkeypatch, first, length):
    """HDF5 has been seen never to return from such a file."""
    path = save_posterior(tree, tmp_path / "posterior.nc")
    whole = bytearray(path.read_bytes())
    start = int(first * len(whole))
    start += 0 if length > 1 else next(i for i, byte in enumerate(whole[start:]) if byte)
    whole[start : start + length] = bytes(length)
    path.write_bytes(whole)
    if first:  # of a file without its first bytes HDF5 says at once that it isn't one
        monkeypatch.setattr(xarray, "open_datatree", lambda *a, **k: pytest.fail("HDF5 was asked"))
    with pytest.raises(ValueError, match=r"posterior\.nc is not a whole netCDF file"):
        load_posterior(path)


@pytest.mark.parametrize("length", [1, 20, 40, 4096])
def test_a_file_with_a_hole_at_its_end(tree, tmp_path, length):
    path = save_posterior(tree, tmp_path / "posterior.nc")
    path.write_bytes(path.read_bytes()[:-length] + bytes(length))
    with pytest.raises(ValueError, match="checksum is wrong"):
        load_posterior(path)


def test_a_file_that_hdf5_has_changed(tree, tmp_path):
    """Other programs add to files in place: the checksum ends with the file that it was of."""
    path = save_posterior(tree, tmp_path / "posterior.nc")
    with h5py.File(path, "r+") as file:
        file["posterior"].attrs["note"] = "a" * 5000
    assert load_posterior(path)["posterior"].attrs["note"] == "a" * 5000
    with h5py.File(path, "r+") as file:
        file["posterior/weights"][:] = file["posterior/weights"][:]
    load_posterior(path)


def test_a_file_of_another_program(tree, tmp_path):
    path = tmp_path / "other.nc"
    path.write_text("weights,means\n")
    with pytest.raises(ValueError, match="not a whole netCDF file"):
        load_posterior(path)
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(3)
    with pytest.raises(ValueError, match=r"other\.nc"):
        load_posterior(path)
    xarray.Dataset({"weights": ("k", [1.0])}).to_netcdf(path)
    with pytest.raises(ValueError, match=r"does not hold a posterior of jaxgmm"):
        load_posterior(path)
    tree.filter(lambda node: node.name != "posterior").to_netcdf(path)
    with pytest.raises(ValueError, match="needs the group posterior"):
        load_posterior(path)
    with pytest.raises(FileNotFoundError, match="no posterior file"):
        load_posterior(tmp_path / "none.nc")
    with pytest.raises(FileNotFoundError, match="no posterior file"):
        load_posterior(tmp_path)


def test_without_h5netcdf(tree, tmp_path, monkeypatch):
    path = save_posterior(tree, tmp_path / "posterior.nc")

    def missing(*args, **kwargs):
        raise ImportError("No module named 'h5py'")

    monkeypatch.setattr(xarray, "open_datatree", missing)
    with pytest.raises(ImportError, match=r"pip install 'jaxgmm\[cli\]'"):
        load_posterior(path)


# Bad input


def test_feature_names():
    assert check_feature_names(None, 2) == ("x0", "x1")
    assert check_feature_names(["sepal length (cm)", "ß"], 2) == ("sepal_length_(cm)", "ß")
    for names, error, message in [
        (["a"], ValueError, "has 1 names, but x has 2 columns"),
        (["a", "a"], ValueError, "has 'a' twice"),
        (["a", "draw"], ValueError, r"feature_names\[1\] is 'draw', but a name mustn't be"),
        (["a/b", "a b"], ValueError, "has 'a_b' twice"),
        ([" ", "c"], ValueError, "feature_names\\[0\\] is ''"),
        ("ab", TypeError, "must be 2 strings"),
        ([1, 2], TypeError, "must be 2 strings"),
    ]:
        with pytest.raises(error, match=message):
            check_feature_names(names, 2)


def test_a_feature_called_like_the_rows(tree, faithful, tmp_path):
    groups = ("log_likelihood", "posterior_predictive")
    tree = tree_of(draws_of(tree), faithful, groups=groups, feature_names=["z", "x"])
    np.testing.assert_array_equal(tree["observed_data"]["x"].sel(feature="x"), faithful[:, 1])
    assert az.loo_pit(tree.sel(feature="x"))["x"].dims == ("obs_id",)
    assert load_posterior(save_posterior(tree, tmp_path / "tree")).identical(tree)


def test_bad_input(blobs, tree):
    gmm = draws_around(random_member("full", 2), (2, 3))
    draws, prior = Draws(gmm, {}, {}, {}), jg.Prior.default(blobs, 2)
    with pytest.raises(ValueError, match=r"unknown group 'loglikelihood'; did you mean 'log_likelihood'\? Choose from"):
        to_datatree(draws, Seen(blobs), prior, key=KEY, groups=["loglikelihood"])
    with pytest.raises(ValueError, match="x has 2 columns, but the mixture has 3"):
        to_datatree(draws, Seen(blobs[:, :2]), prior, key=KEY)
    with pytest.raises(TypeError, match="key must be one PRNG key"):
        to_datatree(draws, Seen(blobs), prior, key=3)
    with pytest.raises(TypeError, match="draws_of needs the DataTree"):
        draws_of(gmm)
    with pytest.raises(ValueError, match="draws_of needs the group posterior; this tree has allocations"):
        draws_of(tree.filter(lambda node: node.name != "posterior"))
    lacking = tree.copy()
    del lacking["posterior"]["means"]
    with pytest.raises(ValueError, match="draws_of needs posterior/means"):
        draws_of(lacking)
    lacking = tree.copy()
    del lacking.attrs["family"]
    with pytest.raises(ValueError, match="no attribute 'family'"):
        draws_of(lacking)
    lacking.attrs["family"] = "tied"
    with pytest.raises(ValueError, match=r"posterior/covariances has dimensions .* family 'tied' has"):
        draws_of(lacking)
