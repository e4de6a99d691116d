"""Figures as they look, against committed pictures. `pytest -n0 tests/test_figures.py --mpl-generate-path=tests/baseline` makes
them anew, and whoever runs it looks at them.

The data are given, not fitted, so that no rounding of another machine moves a line.
"""

import jax
import numpy as np
import pandas as pd
import pytest
import xarray
from helpers import draws_around, tree_of

import jaxgmm as jg
from jaxgmm import plots
from jaxgmm.comparing.comparison import Comparison
from jaxgmm.comparing.row import Row
from jaxgmm.counting.verdict import ClusterCount
from jaxgmm.fitting.result import Restarts
from jaxgmm.model.criteria import Scores

picture = pytest.mark.mpl_image_compare(baseline_dir="baseline", savefig_kwargs={"dpi": 60}, tolerance=4, style="default")


def mixture(n_features):
    """Three components, two of them overlapping, and rows of them."""
    rng = np.random.default_rng(8)
    means = np.array([[0.0, 0.0, 1.0], [3.0, 2.0, -1.0], [7.0, -2.0, 0.0]])[:, :n_features]
    factors = np.array(
        [
            [[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.2, 0.1, 0.5]],
            [[0.8, 0.0, 0.0], [-0.3, 1.1, 0.0], [0.0, 0.3, 0.9]],
            [[0.5, 0.0, 0.0], [0.1, 0.4, 0.0], [0.3, -0.2, 1.2]],
        ]
    )[:, :n_features, :n_features]
    labels = np.repeat([0, 1, 2], [60, 40, 20])
    x = means[labels] + np.einsum("nij,nj->ni", factors[labels], rng.normal(size=(120, n_features)))
    return jg.GMM([0.5, 0.33, 0.17], means, factors @ factors.transpose(0, 2, 1)), x


@picture
def test_scatter():
    return plots.scatter(*mixture(2), feature_names=["length (mm)", "width (mm)"]).figure


@picture
def test_density():
    return plots.density(*mixture(1), feature_names=["length (mm)"]).figure


@picture
def test_pairs():
    return plots.pairs(*mixture(3), feature_names=["length", "width", "mass"])


@picture
def test_responsibilities():
    return plots.responsibilities(*mixture(2))


@picture
def test_uncertainty():
    return plots.uncertainty(*mixture(2), feature_names=["length (mm)", "width (mm)"]).figure


@picture
def test_explanation():
    gmm, x = mixture(3)
    names = ["length", "a name that is too long for a line of its own (mm)", "mass"]
    return plots.explanation(jg.explain(gmm.named(names), np.vstack([x, [9.0, 9.0, 1.0]])), max_rows=2, max_features=2)


@picture
def test_outliers():
    gmm, x = mixture(2)
    x[17] = [7.0, 7.0]
    return plots.outliers(gmm, x, key=jax.random.key(0), level=0.99).figure


@picture
def test_density_regions():
    return plots.density_regions(*mixture(3), key=jax.random.key(0), features=[1, 2], levels=[0.5, 0.9]).figure


@picture
def test_density_regions_of_one_feature():
    return plots.density_regions(*mixture(1), key=jax.random.key(0), feature_names=["length (mm)"], levels=[0.5, 0.9]).figure


@picture
def test_trace():
    traces = [-10 - 20 * 0.5 ** np.arange(12), -10 - 25 * 0.6 ** np.arange(20), -13 - 9 * 0.4 ** np.arange(8)]
    last = np.array([trace[-1] for trace in traces])
    steps = np.array([len(trace) - 1 for trace in traces])
    status = (jg.Status.converged,) * 3
    restarts = Restarts(last, last, status, steps, tuple(traces), best=1, tolerance=0.1)
    gmm = jg.GMM([1.0], [[0.0]], [1.0], "spherical")
    return plots.trace(jg.Fit(gmm, status[1], last[1], last[1], 19, traces[1], restarts, None, "", np.ones(1), 1.0)).figure


@picture
def test_criterion():
    log_likelihood = {"full": [-300, -200, -190, -186], "tied": [-300, -230, -205, -201]}
    parameters = {"full": [5, 11, 17, 23], "tied": [5, 8, 11, 14]}
    rows = [
        Row(family, k + 1, None, jg.Status.converged, Scores(value, value - 4, parameters[family][k], 120))
        for family, values in log_likelihood.items()
        for k, value in enumerate(values)
    ]
    return plots.criterion(Comparison(tuple(rows)), "bic").figure


@picture
def test_sensitivity():
    names = ["as given", "alpha x 0.5", "scale x 0.5", "alpha x 2", "scale x 2"]
    p = np.array(
        [[0, 0.62, 0.31, 0.07], [0, 0.75, 0.22, 0.03], [0, 0.31, 0.52, 0.17], [0, 0.5, 0.38, 0.12], [0.02, 0.9, 0.08, 0]]
    )
    columns = {"mode": p.argmax(1) + 1, "ok": [True, True, False, True, True]}
    table = pd.DataFrame(columns | {f"p_{k + 1}": p[:, k] for k in range(4)}, index=names)
    return plots.sensitivity(table).figure


@picture
def test_n_clusters():
    p, prior = np.array([0, 0.08, 0.62, 0.24, 0.06, 0]), np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    columns = {
        "posterior": p,
        "mcse": np.where(p > 0, 0.02, np.nan),
        "prior": prior,
        "bayes_factor": p / prior,
        "n_components": p,
    }
    table = pd.DataFrame(columns, index=pd.Index(range(1, 7), name="n_clusters"))
    return plots.n_clusters(ClusterCount(table, 3, 1.004, 812.0, 640.0, ())).figure


def posterior_of(n_features):
    """Independent draws around the mixture, in four chains."""
    gmm, x = mixture(n_features)
    draws = draws_around(gmm, sd=0.15, shape=(4, 60))
    return jg.relabel(tree_of(draws, x, feature_names=["length", "width", "mass"][:n_features]), gmm), gmm, x


@picture
def test_intervals():
    tree, gmm, _ = posterior_of(2)
    return plots.intervals(tree, gmm)


@picture
def test_draws():
    tree, gmm, x = posterior_of(2)
    return plots.draws(tree, x, gmm)


@picture
def test_draws_of_one_feature():
    tree, gmm, x = posterior_of(1)
    return plots.draws(tree, x, gmm)


@picture
def test_chains():
    return plots.chains(posterior_of(2)[0])


def partitions_of(n_features):
    """Draws in which the components that overlap are one cluster or two, and some rows come and go."""
    sure = np.repeat([0, 1, 2], [60, 40, 20])
    label = np.broadcast_to(sure, (2, 100, 120)).copy()
    label[:, :35][label[:, :35] == 1] = 0
    label[:, 35:, :12] = 1
    group = xarray.Dataset({"label": (("chain", "draw", "obs_id"), label)}, {"obs_id": np.arange(120)})
    return jg.partitions(xarray.DataTree.from_dict({"allocations": group})), mixture(n_features)[1]


@picture
def test_partitions():
    return plots.partitions(*partitions_of(3), features=(0, 1), feature_names=["length (mm)", "width (mm)", "mass (g)"])


@picture
def test_partitions_of_one_feature():
    return plots.partitions(*partitions_of(1), feature_names=["length (mm)"])


@picture
def test_similarity():
    rng = np.random.default_rng(3)
    sure = np.repeat([0, 1, 2], [25, 15, 10])
    label = np.broadcast_to(sure, (2, 100, 50)).copy()
    moves = rng.random(label.shape) < np.linspace(0, 0.3, 50)  # the later rows of each cluster come and go
    label[moves & (label == 1)] = 0
    label[moves & (label == 2)] = 1
    tree = xarray.DataTree.from_dict({"allocations": xarray.Dataset({"label": (("chain", "draw", "obs_id"), label)})})
    return plots.similarity(tree).figure
