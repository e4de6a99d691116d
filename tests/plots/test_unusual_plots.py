"""Figures of how unusual rows are, and of EM at work: what they draw is what was asked."""

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import load_x, random_member
from matplotlib.colors import to_hex
from PIL import Image
from scipy import stats

import jaxgmm as jg
from jaxgmm import plots

KEY = jax.random.key(0)


def test_bars_of_an_explanation_add_up():
    gmm = random_member("full", 3, 5).named(["a", "b", "c", "d", "e"])
    frame = pd.DataFrame(4 * np.random.default_rng(0).normal(size=(30, 5)), columns=list("abcde"), index=range(100, 130))
    found = jg.explain(gmm, frame)
    figure = plots.explanation(found, max_rows=2, max_features=3)
    assert figure.get_suptitle() == "What each feature adds: 2 of 30 rows, the most surprising"
    rows = np.argsort(-found.surprisal)[:2]
    for row, (surprisal, odds) in zip(rows, np.reshape(figure.axes, (2, 2)), strict=True):
        lengths = [bar.get_width() for bar in surprisal.patches]
        assert len(lengths) == 5  # three features, the others together, and the rest
        assert sum(lengths) == pytest.approx(found.surprisal[row])
        assert sum(bar.get_width() for bar in odds.patches) == pytest.approx(found.log_odds[row])
        largest = np.argsort(-abs(found.features[row]))[:3]
        names = [label.get_text() for label in surprisal.get_yticklabels()]
        assert names == [*(found.feature_names[i] for i in largest), "2 other features", "rest"]
        np.testing.assert_allclose(lengths[:3], found.features[row, largest])
        assert surprisal.get_title(loc="left").startswith(f"row {100 + row}: surprisal {found.surprisal[row]:.1f}")
        for bar in odds.patches[:4]:
            speaks_for = found.components[row, int(bar.get_width() < 0)]
            assert to_hex(bar.get_facecolor()).upper() == plots.PALETTE[speaks_for]
    one = plots.explanation(jg.explain(random_member("full", 1, 2), [[1.0, 2.0]]))
    assert len(one.axes) == 1  # no odds
    with pytest.raises(TypeError, match=r"explained must be what jaxgmm\.explain returns, got GMM"):
        plots.explanation(gmm)


def test_outliers_are_the_rows_beyond_the_level():
    gmm = random_member("full", 3, 4)
    x = np.array(gmm.sample(jax.random.key(1), 300)[0])
    x[[7, 250]] += [[30.0], [300.0]]
    frame = pd.DataFrame(x, columns=list("abcd"), index=[f"n{i}" for i in range(300)])
    ax = plots.outliers(gmm.named(list("abcd")), frame[list("dcba")], key=KEY, level=0.95)
    beyond = np.flatnonzero(jg.density_level(gmm, x, key=KEY) > 0.95)
    ordinary, odd = ax.lines[0], ax.lines[1]
    np.testing.assert_array_equal(odd.get_xdata(), beyond)
    np.testing.assert_allclose(odd.get_ydata(), -np.asarray(gmm.log_prob(x))[beyond])
    assert len(ordinary.get_xdata()) + len(beyond) == 300
    assert [text.get_text() for text in ax.texts][:2] == ["n250", "n7"]
    assert len(ax.texts) == 8 < len(beyond)
    assert ax.get_yscale() == "symlog"  # of two that are far out
    assert ax.get_title(loc="left") == f"Outliers: {len(beyond)} of 300 rows beyond level 0.95 (15 expected)"


def test_regions_of_a_gaussian_are_its_ellipses():
    gmm = jg.GMM([1.0], [[1.0, -2.0, 5.0]], np.diag([4.0, 0.25, 1.0])[None])
    x = np.asarray(gmm.sample(jax.random.key(1), 400)[0])
    ax = plots.density_regions(gmm, x, key=KEY, features=[2, 0], levels=[0.9, 0.5], n_samples=40_000)
    (contours,) = ax.collections
    for path, level in zip(contours.get_paths(), (0.9, 0.5), strict=True):
        outline = path.vertices if level == 0.5 else path.to_polygons()[0]
        radius = np.linalg.norm((outline[: len(outline) - 1] - [5.0, 1.0]) / [1.0, 2.0], axis=1)
        exact = np.sqrt(stats.chi2.ppf(level, 2))
        assert abs(np.max(radius) / exact - 1) < 0.03  # of the draws, and of the grid
    outside = np.linalg.norm((x[:, [2, 0]] - [5.0, 1.0]) / [1.0, 2.0], axis=1) > np.sqrt(stats.chi2.ppf(0.9, 2))
    assert len(ax.lines[1].get_xdata()) == pytest.approx(outside.sum(), abs=4)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["50 %", "90 %"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x2", "x0")


def test_regions_of_one_feature_hold_their_probability():
    gmm = jg.GMM([0.5, 0.5], [[0.0], [10.0]], [[1.0], [0.01]], "diag")
    ax = plots.density_regions(gmm, [[0.0], [10.0], [5.0]], key=KEY, levels=[0.5, 0.9], n_samples=40_000)
    for shade, level in zip(ax.collections, (0.9, 0.5), strict=True):
        outlines = [path.vertices for path in shade.get_paths()]
        area = sum(abs(np.sum(p[:-1, 0] * p[1:, 1] - p[1:, 0] * p[:-1, 1])) / 2 for p in outlines)
        assert area == pytest.approx(level, abs=0.02)
    assert ax.lines[-1].get_xdata().tolist() == [5.0]
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        plots.density_regions(gmm, [[0.0]], key=KEY, levels=[1.5])
    flat = random_member("full", 2, 3)
    with pytest.raises(ValueError, match="no row of x has the values of x0, x1"):
        plots.density_regions(flat, [[np.nan, 0.0, 1.0]], key=KEY)


def test_an_animation_ends_where_the_fit_does(tmp_path):
    frame = pd.DataFrame(load_x("faithful"), columns=["eruptions", "waiting"])
    course = plots.animate(frame, 2, key=KEY, rtol=1e-9, max_frames=3)
    course.save(tmp_path / "em.gif", writer="pillow", dpi=40)
    with Image.open(tmp_path / "em.gif") as image:
        assert image.n_frames == 3
    (ax,) = course.figure.axes
    start = jg.initialise(frame, 2, key=KEY, prior=jg.Prior.default(frame, 2))
    fit = jg.fit(frame, key=KEY, init=start)
    title = ax.get_title(loc="left")
    assert float(title.rsplit(" ", 1)[1]) == pytest.approx(fit.objective, abs=0.01)
    step, _, last = title.removeprefix("EM, step ").split(":")[0].partition(" of ")
    assert step == last
    np.testing.assert_allclose([e.center for e in ax.patches[::2]], fit.means, atol=1e-3)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("eruptions", "waiting")


def test_a_notebook_plays_an_animation():
    page = plots.animate(load_x("faithful"), init=random_member("full", 2, 2), key=KEY, max_steps=1)._repr_html_()
    assert page.count("data:image/png") == 2
    assert "<script" in page


def test_animations_that_cannot_be_made():
    x = load_x("faithful")
    for options, words in (
        ({"max_frames": 1}, "max_frames"),
        ({"prior": "flat"}, "'flat'"),
        ({"features": [0, 0]}, "features must be two columns"),
        ({"init": np.arange(272) % 2}, "init must be 'k-means\\+\\+', 'random' or a mixture"),
        ({"rtol": -1.0}, "rtol"),
        ({"init": jg.fit(x, 2, key=KEY, n_init=1, noise=True)}, "init is a fit with noise"),
    ):
        given = {} if "init" in options else {"n_components": 2}
        with pytest.raises(ValueError, match=words):
            plots.animate(np.c_[x, x[:, 0]] if "features" in options else x, key=KEY, **given, **options)
