import dataclasses
import io

import jax
import numpy as np
import pandas as pd
import pytest
import xarray
from helpers import draws_around, random_member, tree_of
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy.stats import norm

import jaxgmm as jg
from jaxgmm import plots
from jaxgmm.fitting.result import Restarts


def rows(n_samples, n_features):
    return np.random.default_rng(1).normal(size=(n_samples, n_features))


def matrix_of(ellipse, radius):
    """The covariance whose contour at `radius` standard deviations an ellipse is."""
    angle = np.deg2rad(ellipse.angle)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    half_axes = np.array([ellipse.width, ellipse.height]) / 2 / radius
    return rotation @ np.diag(half_axes**2) @ rotation.T


def test_ellipses_are_the_contours_of_the_covariances(family):
    gmm = random_member(family, n_components=3, n_features=2)
    x = rows(100, gmm.n_features)
    ellipses = plots.scatter(gmm, x).patches
    assert len(ellipses) == 2 * 3
    for k in range(3):
        for radius, ellipse in zip((1, 2), ellipses[2 * k : 2 * k + 2], strict=True):
            np.testing.assert_allclose(ellipse.center, gmm.means[k])
            np.testing.assert_allclose(matrix_of(ellipse, radius), gmm.dense_covariances()[k], atol=1e-12)


def test_points_have_the_colour_of_their_component():
    gmm = random_member("full", n_components=3, n_features=2)
    x = rows(200, gmm.n_features)
    ax = plots.scatter(gmm, x)
    assert len({line.get_color() for line in ax.lines}) == len(ax.lines) == 3
    for k, line in enumerate(ax.lines):
        np.testing.assert_array_equal(line.get_xydata(), x[np.asarray(gmm.predict(x)) == k])
        assert to_rgba(line.get_color()) == ax.patches[2 * k].get_edgecolor()


def test_more_components_than_colours_are_told_apart():
    gmm = random_member("spherical", n_components=9, n_features=2)
    lines = plots.scatter(gmm, np.asarray(gmm.means)).lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 9


def test_inactive_components_are_not_drawn():
    gmm = jg.GMM([1.0, 0.0], [[0.0, 0.0], [9.0, 9.0]], [1.0, 1.0], "spherical")
    assert [tuple(e.center) for e in plots.scatter(gmm, np.zeros((3, 2))).patches] == [(0, 0), (0, 0)]


def test_density_draws_the_weighted_components_and_their_sum():
    gmm = jg.GMM([0.3, 0.7], [[0.0], [4.0]], [[1.0], [0.01]], "diag")
    ax = plots.density(gmm, np.linspace(-2, 5, 50)[:, None], feature_names=["velocity"])
    first, second, mixture = ax.lines
    grid = first.get_xdata()
    np.testing.assert_allclose(first.get_ydata(), 0.3 * norm.pdf(grid, 0, 1), atol=1e-300)
    np.testing.assert_allclose(second.get_ydata(), 0.7 * norm.pdf(grid, 4, 0.1), atol=1e-300)
    np.testing.assert_allclose(mixture.get_ydata(), np.exp(np.asarray(gmm.log_prob(grid[:, None]))))
    # The narrow component is not missed between two points of the grid.
    assert second.get_ydata().max() == pytest.approx(0.7 * norm.pdf(0, 0, 0.1))
    assert ax.get_xlabel() == "velocity"


def test_histogram_is_a_density_and_counts_weights():
    gmm = jg.GMM([1.0], [[0.0]], [1.0], "spherical")
    rng = np.random.default_rng(0)
    x, counts = np.round(rng.normal(size=(60, 1)), 1), rng.integers(1, 4, size=60)

    def bars(x, sample_weight=None):
        return [(p.get_x(), p.get_width(), p.get_height()) for p in plots.density(gmm, x, sample_weight=sample_weight).patches]

    assert sum(width * height for _, width, height in bars(x)) == pytest.approx(1)
    edges = [x for x, _, _ in bars(x)]
    weighted = np.histogram(x[:, 0], [*edges, x.max()], weights=counts, density=True)[0]
    np.testing.assert_allclose([height for _, _, height in bars(x, counts)], weighted)


def test_pairs_draws_the_marginals():
    gmm = random_member("full", n_components=2, n_features=3)
    x = rows(50, gmm.n_features)
    axes = plots.pairs(gmm, x, feature_names="abc").axes
    assert len(axes) == 6  # the lower triangle
    bottom = [ax for ax in axes if ax.get_xlabel()]
    assert [ax.get_xlabel() for ax in bottom] == ["a", "b", "c"]
    assert [ax.get_ylabel() for ax in axes if ax.get_ylabel()] == ["density", "b", "c"]
    ellipse = bottom[1].patches[2]  # second component, 1 sd, features b and c
    np.testing.assert_allclose(ellipse.center, gmm.means[1, 1:])
    np.testing.assert_allclose(matrix_of(ellipse, 1), gmm.dense_covariances()[1][1:, 1:], atol=1e-12)


def test_a_pair_plot_of_many_features_says_what_it_leaves_out():
    gmm = random_member("diag", n_components=2, n_features=25)
    figure = plots.components(gmm, np.asarray(gmm.means), feature_names=[f"f{i}" for i in range(25)])
    assert len(figure.axes) == 8 * 9 / 2
    assert "first 8 of 25 features" in figure.get_suptitle()


def test_many_rows_are_subsampled_and_the_title_says_so():
    gmm = jg.GMM([1.0], [[0.0, 0.0]], [1.0], "spherical")
    x = np.random.default_rng(0).normal(size=(6001, 2))
    ax = plots.scatter(gmm, x)
    assert len(ax.lines[0].get_xdata()) == 5000
    assert "5000 of 6001 rows" in ax.get_title(loc="left")
    assert "5000 of 6001 rows" in plots.responsibilities(gmm, x).axes[0].get_title(loc="left")


def test_responsibilities_stack_up_to_one_in_the_right_order():
    gmm = random_member("full", n_components=3, n_features=2)
    x = rows(80, gmm.n_features)
    r = np.asarray(gmm.responsibilities(x))
    top, bottom = plots.responsibilities(gmm, x).axes
    heights = np.stack([step.get_data().values - step.get_data().baseline for step in top.patches], axis=1)
    order = np.lexsort((1 - r.max(1), r.argmax(1)))
    np.testing.assert_allclose(heights, r[order], atol=1e-12)
    np.testing.assert_allclose(top.patches[-1].get_data().values, 1)
    shown = np.nanmax([step.get_data().values for step in bottom.patches], axis=0)
    np.testing.assert_allclose(shown, 1 - r[order].max(1), atol=1e-12)
    assert f"{100 * (1 - r.max(1)).mean():.2g} %" in top.get_title(loc="left")


def starts(traces, statuses, best):
    """A fit whose starts went as the traces say."""
    gmm = jg.GMM([1.0], [[0.0]], [1.0], "spherical")
    restarts = Restarts(
        objective=np.array([trace[-1] for trace in traces]),
        log_likelihood=np.array([trace[-1] for trace in traces]),
        status=statuses,
        n_steps=np.array([len(trace) - 1 for trace in traces]),
        trace=tuple(np.array(trace) for trace in traces),
        best=best,
        tolerance=0.1,
    )
    trace = restarts.trace[best]
    return jg.Fit(
        gmm,
        statuses[best],
        trace[-1],
        trace[-1],
        len(trace) - 1,
        trace,
        restarts,
        None,
        "",
        np.full(gmm.n_components, 9.0),
        9.0,
    )


def test_trace_shows_every_start_below_the_best():
    done, failed = jg.Status.converged, jg.Status.collapsed
    fit = starts([[-20.0, -14.0], [-30.0, -12.0, -10.0], [-15.0, -10.05], [-12.0, np.nan]], (done, done, done, failed), best=1)
    ax = plots.trace(fit)
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(lines["best start"], [20, 2, np.nan])
    np.testing.assert_allclose(lines["reached the same optimum"], [5, 0.05])
    np.testing.assert_allclose(lines["ended at another"], [10, 4])
    np.testing.assert_allclose(lines["failed"], [2, np.nan])
    assert ax.lines[-1].get_label() == "best start"  # drawn on top
    assert ax.get_yscale() == "log"
    assert ax.get_title(loc="left") == "2 of 4 starts reached the best optimum; the next is 4 nats below"


def test_a_single_start_reads_well():
    fit = starts([[-2.0, -1.0]], (jg.Status.converged,), best=0)
    assert plots.replication(fit) == "1 of 1 start reached the best optimum"
    assert len(plots.trace(fit).lines) == 1


@pytest.fixture(scope="module")
def count_tree():
    """Two clusters of rows, far apart, in mixed order; of the shape of `tests/app/test_count_stage.py`."""
    x = np.random.default_rng(0).normal(size=(20, 1)) + 20 * (np.arange(20)[:, None] % 2)
    options = {"family": "spherical", "max_components": 6, "n_draws": 50, "n_warmup": 20, "n_chains": 2, "n_moves": 1}
    return jg.count_clusters(x, key=jax.random.key(0), **options)


def test_the_number_of_clusters_is_drawn_beside_its_prior(count_tree):
    count = jg.cluster_count(count_tree, r_hat=9, ess=1, cut_off=1)
    ax = plots.n_clusters(count)
    posterior, prior = (container for container in ax.containers if hasattr(container, "patches"))
    for bars, name in ((posterior, "posterior"), (prior, "prior")):
        heights = [bar.get_height() for bar in bars]
        np.testing.assert_allclose(heights, count.table[name][: len(heights)])
    assert [bar.get_x() + bar.get_width() for bar in posterior] == pytest.approx(range(1, len(posterior) + 1))
    whiskers = posterior.errorbar.lines[2][0].get_segments()
    lengths = [segment[1][1] - segment[0][1] for segment in whiskers if len(segment)]
    wanted = 2 * count.table["mcse"][: len(posterior)]
    np.testing.assert_allclose([length for length in lengths if length > 0], wanted[wanted > 0])
    assert ax.get_title(loc="left").startswith(
        f"{count.mode} clusters with probability {count.table['posterior'].max():.2f} (r-hat "
    )


def test_a_verdict_that_is_withheld_is_not_in_the_title(count_tree):
    assert plots.n_clusters(jg.cluster_count(count_tree, ess=1e6)).get_title(loc="left").startswith("not converged (r-hat ")
    ax = Figure().subplots()
    assert plots.n_clusters(count_tree, ax=ax) is ax


def test_similarity_shows_blocks(count_tree):
    ax = plots.similarity(count_tree)
    shown = ax.images[0].get_array()
    label = jg.typical_partition(count_tree)["label"].values
    assert label.tolist() == [0, 1] * 10
    order = np.argsort(label, kind="stable")
    shared = jg.similarity(count_tree).values
    assert shown[:10, 10:].max() < 0.1 < 0.5 < shown[:10, :10].mean()
    for rows in (order[:10], order[10:]):
        means = shared.mean(axis=1)[rows]
        block = shared[np.ix_(rows[np.argsort(means, kind="stable")], rows[np.argsort(means, kind="stable")])]
        start = 0 if rows[0] == 0 else 10
        np.testing.assert_allclose(shown[start : start + 10, start : start + 10], block)
    assert ax.lines[0].get_ydata()[0] == 9.5
    assert ax.get_title(loc="left") == "2 clusters in the typical partition"


@pytest.mark.parametrize("n_features", [1, 3])
def test_partitions_stand_side_by_side(count_tree, n_features):
    found = jg.partitions(count_tree, 2, least_gain=0)
    x = rows(20, n_features)
    figure = plots.partitions(found, x, features=(2, 0))
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == len(found.table)
    for ax, label, weight in zip(shown, found.representatives.values, found.table["weight"], strict=True):
        assert ax.get_title(loc="left").startswith(f"{100 * round(weight, 2):.0f}")
        if n_features == 1:
            assert sum(patch.get_height() for patch in ax.patches) == 20
            continue
        for line in ax.lines:
            for point in line.get_xydata():
                (row,) = np.flatnonzero((x[:, [2, 0]] == point).all(axis=1))
                assert line.get_color() == plots.PALETTE[label[row]]
                assert (line.get_markeredgecolor() == "black") == (label[row] != found.labels.values[row])
    assert figure.get_supxlabel() == ("x0" if n_features == 1 else "x2")


def test_similarity_of_many_rows_is_an_even_sample():
    label = np.repeat([0, 1, 2], 700)[None, None].repeat(4, axis=1)
    tree = xarray.DataTree.from_dict({"allocations": xarray.Dataset({"label": (("chain", "draw", "obs_id"), label)})})
    ax = plots.similarity(tree)
    assert ax.images[0].get_array().shape == (1000, 1000)
    assert ax.images[0].get_array().mean() == pytest.approx(1 / 3, abs=1e-3)
    assert ax.get_title(loc="left") == "3 clusters in the typical partition (1000 of 2100 rows)"


@pytest.mark.parametrize("n_features", [1, 2, 3])
def test_figures_render_without_a_display(n_features, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    gmm = random_member("full", n_components=2, n_features=n_features)
    buffer = io.BytesIO()
    plots.components(gmm, rows(30, gmm.n_features)).savefig(buffer)
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_an_axes_of_the_callers_is_drawn_into():
    gmm = random_member("full", n_components=2, n_features=2)
    ax = Figure().subplots()
    assert plots.scatter(gmm, np.asarray(gmm.means), ax=ax) is ax


def test_wrong_input_is_named():
    flat, deep = random_member("full", 2, 2), random_member("full", 2, 3)
    with pytest.raises(ValueError, match=r"this figure is for 2 features, the mixture has 3"):
        plots.scatter(deep, np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"this figure is for 1 feature, the mixture has 2"):
        plots.density(flat, np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"feature_names has 1 names, the mixture has 2 features"):
        plots.scatter(flat, np.zeros((5, 2)), feature_names=["a"])
    with pytest.raises(ValueError, match=r"x has infinite values in row 1\."):
        plots.components(flat, [[0.0, 0.0], [np.inf, 0.0]])
    with pytest.raises(ValueError, match=r"sample_weight has shape \(2,\)"):
        plots.components(deep, np.zeros((5, 3)), sample_weight=[1.0, 1.0])


@pytest.mark.parametrize("n_features", [1, 2, 3])
def test_uncertain_rows_are_large_dark_and_on_top(n_features):
    means = np.zeros((2, n_features))
    means[1, 0] = 3
    gmm = jg.GMM([0.5, 0.5], means, [1.0, 1.0], "spherical")
    x = np.zeros((31, n_features))
    x[:, 0] = np.linspace(-2, 5.1, 31)[::-1]
    ax = jg.plots.uncertainty(gmm, x, feature_names=["a", "b", "c"][:n_features])
    doubt = 1 / (1 + np.exp(abs(3 * (x[:, 0] - 1.5))))
    (drawn,) = ax.collections
    order = np.argsort(doubt, kind="stable")
    if n_features == 1:
        np.testing.assert_allclose([segment[1] for segment in drawn.get_segments()], np.c_[x[order], doubt[order]], atol=1e-6)
        assert ax.get_ylabel() == "uncertainty"
    else:
        np.testing.assert_allclose(drawn.get_offsets(), x[order, :2], atol=1e-6)
        sizes = drawn.get_sizes()
        assert (np.diff(sizes) >= 0).all()
        np.testing.assert_allclose(
            (sizes - sizes[0]) / (sizes[-1] - sizes[0]), (doubt - min(doubt))[order] / np.ptp(doubt), atol=1e-6
        )
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("a", "b")
    assert f"{(doubt > 0.1).sum()} of 31 rows above 0.1" in ax.get_title(loc="left")


def test_uncertainty_of_other_columns():
    gmm, x = random_member("full"), rows(50, 3)
    ax = jg.plots.uncertainty(gmm, x, features=[2, 0])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x2", "x0")
    for features, words in ([0, 0], "two columns"), ([0], "two columns"), ([0, 3], "must lie in 0..2"):
        with pytest.raises(ValueError, match=words):
            jg.plots.uncertainty(gmm, x, features=features)


def test_rows_that_lack_values_and_noise():
    """Points without both of a pair's values aren't drawn; noise is grey, and has a place of its own among the rows."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal([0, 0], 1, (60, 2)), rng.normal([8, 8], 1, (60, 2)), rng.uniform(-30, 40, (20, 2))])
    fit = jg.fit(x, 2, key=jax.random.key(0), noise=True)
    noise = int((np.asarray(fit.predict(x)) == -1).sum())
    ax = jg.plots.scatter(fit, x)
    assert sorted(len(line.get_xdata()) for line in ax.lines) == sorted([*np.bincount(np.asarray(fit.predict(x)) + 1)])
    assert noise in [len(line.get_xdata()) for line in ax.lines if line.get_color() == "0.5"]
    bottom = jg.plots.responsibilities(fit, x).axes[1]
    assert [label.get_text() for label in bottom.get_xticklabels()] == ["noise", "0", "1"]
    jg.plots.uncertainty(fit, x)
    jg.plots.uncertainty(dataclasses.replace(fit, noise=dataclasses.replace(fit.noise, weight=0.999)), x)  # doubt among three
    one = jg.fit(x[:, :1], 2, key=jax.random.key(0), noise=True)
    mixture = jg.plots.density(one, x[:, :1]).lines[-1]
    area = np.trapezoid(mixture.get_ydata(), mixture.get_xdata())
    assert area == pytest.approx(1 - one.noise.weight, rel=1e-3)  # beside a histogram of all rows
    gappy = x.copy()
    gappy[::10, 0] = np.nan
    whole = jg.fit(gappy, 2, key=jax.random.key(0))
    drawn = np.concatenate([line.get_xydata() for line in jg.plots.scatter(whole, gappy).lines])
    assert len(drawn) == 140
    assert np.isnan(drawn).any(axis=1).sum() == 14
    assert len(jg.plots.pairs(whole, gappy).axes) == 3
    jg.plots.responsibilities(whole, gappy)
    with pytest.raises(ValueError, match="x has no value at all in row 3"):
        jg.plots.scatter(whole, np.where(np.arange(140)[:, None] == 3, np.nan, x))


def test_rows_with_errors_belong_to_components_by_them():
    """One wide and one narrow component: rows between them change sides with their errors, whatever the order of columns."""
    gmm = jg.GMM([0.5, 0.5], [[0.0, 0.0], [3.0, 0.0]], [1.0, 0.01], "spherical").named(["a", "b"])
    x = rows(200, 2) + np.array([1.5, 0])
    errors = np.tile([4.0, 0.01], (200, 1)) * np.linspace(0, 1, 200)[:, None]
    owner = np.asarray(gmm.predict(x, error_covariances=errors))
    assert (owner != np.asarray(gmm.predict(x))).any()
    frame = pd.DataFrame(x, columns=["a", "b"])
    shuffled = frame[["b", "a"]], errors[:, ::-1]
    for given, own in ((x, errors), shuffled):
        for k, line in enumerate(plots.scatter(gmm, given, error_covariances=own).lines):
            np.testing.assert_array_equal(line.get_xydata(), x[owner == k])
    doubt = plots.uncertainty(gmm, *shuffled[:1], error_covariances=shuffled[1]).get_title(loc="left")
    shares = np.asarray(gmm.responsibilities(x, error_covariances=errors))
    assert f" {(1 - shares.max(1) > 0.1).sum()} of 200 " in doubt
    title = plots.responsibilities(gmm, x, error_covariances=errors).axes[0].get_title(loc="left")
    assert title.endswith(f"{100 * (1 - shares.max(1)).mean():.2g} %")


def test_draws_over_rows_that_lack_values():
    gmm, x = random_member("full", n_components=2, n_features=3), rows(60, 3)
    x[::3, 1] = np.nan
    pairs = plots.draws(tree_of(draws_around(gmm, (1, 20)), np.nan_to_num(x)), x, gmm).axes
    assert pairs[1].get_ylim()[1] > np.nanmax(x[:, 1])
