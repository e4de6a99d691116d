"""How results read: a few short lines for `repr`, and the same as HTML, whatever they hold."""

import dataclasses
import functools
import re
import subprocess
import sys
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray
from helpers import FAMILIES, draws_around, load_x, random_member, random_prior, tree_of

import jaxgmm as jg
from jaxgmm import plots
from jaxgmm.comparing.comparison import Comparison
from jaxgmm.comparing.row import Row
from jaxgmm.model.criteria import Scores

MANY, WIDE = 50, 40
LONG = tuple(f"<b>width & length of the {i}-th segment, measured\nbefore noon, in millimetres" for i in range(WIDE))


def fit_of(gmm, n_starts=30, status=jg.Status.converged, prior=None):
    """A fit as if its starts had gone as they may."""
    rng = np.random.default_rng(0)
    statuses = (status, *rng.choice([jg.Status.converged, jg.Status.max_steps, jg.Status.not_finite], n_starts - 1))
    traces = [-1e4 - np.exp(-np.arange(rng.integers(2, 90))) - (i % 7) for i in range(n_starts)]
    last = np.array([trace[-1] for trace in traces])
    steps = np.array([len(trace) - 1 for trace in traces])
    restarts = jg.Restarts(last, last, tuple(map(jg.Status, statuses)), steps, tuple(traces), 0, 1e-3)
    rows = 1e4 * np.asarray(gmm.weights)
    return jg.Fit(gmm, status, last[0], last[0], int(steps[0]), traces[0], restarts, prior, "", rows, 1e4)


def large(family="full"):
    return random_member(family, MANY, WIDE).named(LONG)


@functools.cache
def faithful():
    frame = pd.DataFrame(load_x("faithful"), columns=["<i>eruptions</i>", "waiting"])
    return frame, jg.fit(frame, 2, key=jax.random.key(0), n_init=3)


def comparison_of(n_families=14, counts=range(1, 30)):
    values = np.random.default_rng(0).normal(size=(n_families, len(counts)))
    rows = [
        Row(f"family-{i}", k, None, jg.Status.converged, Scores(1e4 * value, 1e4 * value - 3, 10 * k, 1e4, value, value, value))
        for i, own in enumerate(values)
        for k, value in zip(counts, own, strict=True)
    ]
    return Comparison(tuple(rows))


def count_of(problems=()):
    p = np.random.default_rng(0).dirichlet(np.ones(30))
    columns = {"posterior": p, "mcse": p / 9, "prior": p[::-1], "bayes_factor": p, "n_components": p}
    return jg.ClusterCount(pd.DataFrame(columns, pd.Index(range(1, 31), name="n_clusters")), 3, 1.0, 800.0, 900.0, problems)


def partitions_of(most=3, n_clusters=3):
    """Partitions that are all alike."""
    rng = np.random.default_rng(0)
    truths = rng.integers(0, n_clusters, (most, 90))
    labels = truths[rng.integers(0, most, (2, 60))]
    group = xarray.Dataset({"label": (("chain", "draw", "obs_id"), labels)}, {"obs_id": np.arange(90)})
    return jg.partitions(xarray.DataTree.from_dict({"allocations": group}), most, least_gain=0)


def diagnostics_of(n_problems):
    columns = ("mean", "sd", "lower", "upper", "r_hat", "ess_bulk", "ess_tail", "mcse_mean")
    names = [f"means[{k}, {name}]" for k in range(4) for name in LONG]
    table = pd.DataFrame(dict.fromkeys(columns, 1234.5678), index=names).assign(meaning="labels may switch")
    problem = "R-hat is up to 2.345 (more than 1.01) for 160 of 160 quantities (means[0, a], ...): the chains disagree. Go on."
    return jg.Diagnostics(table, (problem,) * n_problems, ("The table leaves out 39000 correlations.",))


def vb_of(family):
    x = load_x("faithful")
    return jg.fit_vb(x, 3, key=jax.random.key(0), family=family, n_init=2, weights="stick-breaking")


def draws():
    gmm = random_member("full", 3, 3)
    return draws_around(gmm, sd=0.1, shape=(2, 30)), gmm


def diagnosed():
    many, gmm = draws()
    return jg.diagnose(jg.relabel(tree_of(many, np.asarray(gmm.means)), gmm))


RESULTS = {
    **{f"GMM {family}": functools.partial(random_member, family) for family in FAMILIES},
    **{f"large GMM {family}": functools.partial(large, family) for family in FAMILIES},
    "one component, one feature": lambda: random_member("full", 1, 1),
    "draws": lambda: jg.draws_of(tree_of(draws()[0], np.zeros((9, 3)))),
    "no numbers": lambda: jg.GMM.unchecked(np.full(2, np.nan), np.full((2, 3), np.nan), np.full(2, np.nan), "spherical"),
    "fit": lambda: faithful()[1],
    "restarts": lambda: faithful()[1].restarts,
    "prior": lambda: faithful()[1].prior,
    "large fit": lambda: fit_of(large()),
    "large fit with an end to explain": lambda: fit_of(large(), status=jg.Status.collapsed),
    "fit with components without rows": lambda: dataclasses.replace(fit_of(large()), expected_rows=np.zeros(MANY)),
    "many restarts": lambda: fit_of(random_member("full"), 200).restarts,
    "comparison": comparison_of,
    "comparison of one": lambda: comparison_of(1, [2]),
    "row": lambda: comparison_of().rows[0],
    "count": count_of,
    "count withheld": lambda: count_of(("r-hat is 1.2 (more than 1.05). Raise n_draws, thin, or n_moves a good deal.",) * 9),
    "partitions": partitions_of,
    "many partitions": lambda: partitions_of(9, 40),
    "diagnostics": diagnosed,
    "diagnostics of many": lambda: diagnostics_of(0),
    "diagnostics with problems": lambda: diagnostics_of(9),
    **{f"VB {family}": functools.partial(vb_of, family) for family in FAMILIES},
    "merging": lambda: jg.merge_components(random_member("full", 20, 2), load_x("faithful")),
    **{f"prior {family}": functools.partial(random_prior, family, WIDE) for family in FAMILIES},
    "Richardson & Green": lambda: jg.RichardsonGreen.default([[9.0], [20.0], [35.0]]),
    "explanation": lambda: jg.explain(random_member("full", 3, WIDE), np.zeros((40, WIDE))),
    "statistics": lambda: jg.e_step(random_member("full", MANY, 2), load_x("faithful")),
    "progress": lambda: jg.Progress(1, 2, 3, 4, -5.0),
    "data set": jg.datasets.load_penguins,
}


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_reads_in_a_few_short_lines(name):
    lines = repr(RESULTS[name]()).split("\n")
    assert len(lines) <= 12
    assert max(map(len, lines)) <= (100 if name != "data set" else 200)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("name", [name for name in RESULTS if name not in ("row", "progress", "data set")])
def test_html_is_well_formed_and_in_the_colours_around(name):
    page = RESULTS[name]()._repr_html_()
    root = ElementTree.fromstring(page)  # so every name is escaped
    assert len(page) < 100_000
    assert {element.tag.split("}")[-1] for element in root.iter()} <= {
        "div",
        "b",
        "table",
        "tr",
        "th",
        "td",
        "svg",
        "path",
        "text",
    }
    inks = set(re.findall(r'(?:fill|stroke)="([^"]*)"', page)) - {"none", "currentColor"}
    assert inks <= set(plots.PALETTE) - {"#000000"}
    assert not re.search(r"background: (?!transparent)|[^-]color: (?!inherit)", page)


def test_a_fit_says_what_a_reader_asks_first():
    frame, fit = faithful()
    text = repr(fit)
    assert text.startswith("Fit: full, 2 components, 2 features; maximum a posteriori; converged after ")
    assert f"log-likelihood {fit.log_likelihood:.2f}, BIC {fit.gmm.bic(frame):.2f}, AIC {fit.gmm.aic(frame):.2f}" in text
    assert "11 parameters" in text
    assert f"{fit.restarts.replication} of 3 starts reached the best optimum" in text
    header, *rows = text.splitlines()[-3:]
    assert header.split() == ["mean", "±", "sd", "weight", "<i>eruptions</i>", "waiting"]
    for k, row in enumerate(rows):
        shown = [float(word) for word in row.split() if word != "±"]
        assert shown[:2] == [k, pytest.approx(float(fit.gmm.weights[k]), abs=5e-4)]
        np.testing.assert_allclose(shown[2::2], fit.gmm.means[k], rtol=2e-3)
        np.testing.assert_allclose(shown[3::2], np.sqrt(np.diagonal(fit.gmm.covariances[k])), rtol=5e-3)


def test_names_are_escaped_in_html():
    fit = faithful()[1]
    for result in (fit, fit.gmm):
        page = result._repr_html_()
        assert "&lt;i&gt;eruptions&lt;/i&gt;" in page
        assert "<i>" not in page
    heads = ElementTree.fromstring(large()._repr_html_()).iter("th")
    assert [head.get("title") for head in heads][2:4] == [name.replace("\n", " ") for name in LONG[:2]]


def test_what_is_left_out_is_counted():
    assert repr(large()).splitlines()[-1] == "… 41 more components and 36 more features"
    assert "… 30 more components and 31 more features" in large()._repr_html_()


def test_an_end_that_is_no_convergence_is_explained():
    fit = fit_of(random_member("full"), status=jg.Status.max_steps)
    assert jg.Status.max_steps.meaning in repr(fit)
    assert jg.Status.max_steps.meaning in fit._repr_html_()


def test_the_best_model_stands_first():
    comparison = comparison_of()
    lines = repr(comparison).splitlines()
    (header,) = (i for i, line in enumerate(lines) if line.startswith("model"))
    assert lines[header].split()[:3] == ["model", "bic", "aic"]
    assert lines[header + 1].startswith(f"{comparison.table['bic'].idxmin()} ")


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_never_fails_where_there_are_no_numbers(family):
    gmm = random_member(family)
    prior, seen = random_prior(family), []

    def look(*values):
        seen.extend((repr(value), value._repr_html_()) for value in values)
        return jnp.zeros(())

    jax.jit(look)(gmm, prior, jg.e_step(gmm, np.asarray(gmm.means)))
    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * 5), gmm)
    jax.vmap(look)(many)
    look(many, jax.eval_shape(lambda g: g, gmm), jax.tree.map(jnp.shape, gmm), jax.tree.map(jnp.sum, gmm))
    look(jax.tree.map(lambda leaf: None, gmm), jax.tree.map(lambda leaf: "axis", gmm))
    given_away = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), gmm)
    jax.tree.map(lambda leaf: leaf.delete(), given_away)
    look(given_away)
    assert "traced" in seen[0][0]
    assert "5 mixtures" in seen[4][0]
    assert all(len(text.splitlines()) <= 12 for text, _ in seen)


def test_pictures_are_of_the_two_features_that_part_the_components_best():
    means = np.zeros((3, 5))
    means[:, 3], means[:, 1] = [0, 5, 10], [0, -4, 4]
    gmm = jg.GMM([0.4, 0.3, 0.3], means, [1.0, 1.0, 1.0], "spherical").named(["a", "b", "c", "d", "e"])
    words = re.findall(r"<text[^>]*>([^<]*)</text>", gmm._repr_html_())
    assert words[:3] == ["0", "1", "2"]
    assert words[-2:] == ["b", "d"]


def test_reading_waits_for_no_matplotlib():
    ask = "print(jg.GMM([1.0], [[0.0]], [1.0], 'spherical')._repr_html_())"
    code = f"import sys; sys.modules['matplotlib'] = None; import jaxgmm as jg; {ask}"
    page = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "<svg" in page


@pytest.mark.parametrize("scale", [None, 1.0, 1 / 136, "frequencies"])
@pytest.mark.parametrize(
    ("how", "prior"),
    [
        ("fit", "default"),
        ("fit", None),
        ("pieces", "default"),
        ("compare", "default"),
        ("compare", None),
        ("fit_map", "default"),
    ],
)
def test_the_criteria_of_a_fit_are_those_of_its_rows(how, scale, prior):
    x = load_x("faithful")
    weight = None if scale is None else np.random.default_rng(0).uniform(0, 2, len(x))
    if weight is not None:
        weight = weight / weight.sum() if scale == "frequencies" else weight * scale
    key = jax.random.key(0)
    if how == "pieces":
        parts = [x, np.ones(len(x)) if weight is None else weight]
        if scale == "frequencies":
            parts[1] = weight * len(x)  # pieces take no frequencies
            weight = parts[1]
        rows = jg.data.Pieces(lambda: zip(*(np.array_split(part, 3) for part in parts), strict=True))
        fit = jg.fit(rows, 2, key=key, prior=prior, n_init=2)
    elif how == "compare":
        fit = jg.compare(x, families=["full"], n_components=[2], key=key, sample_weight=weight, prior=prior).select("bic")
    else:
        fit = jg.fit(x, 2, key=key, sample_weight=weight, prior=prior, n_init=2)
        if how == "fit_map":
            fit = jg.fit_map(x, init=fit, key=key, sample_weight=weight)
    assert fit.bic == pytest.approx(fit.gmm.bic(x, weight), rel=1e-9)
    assert fit.aic == pytest.approx(fit.gmm.aic(x, weight), rel=1e-9)
