"""Runs on rows as they come: gaps, errors of measurement, labels and outliers."""

import csv
import dataclasses
import json
import re

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers import ROOT
from scipy.special import logsumexp
from scipy.stats import chi2, multivariate_normal

import jaxgmm as jg
from jaxgmm.app.config import DataTable
from jaxgmm.app.config.toml import load_config
from jaxgmm.app.labels import Labels
from jaxgmm.app.rows import read_rows
from jaxgmm.app.stages.fit import FitStage, settled
from jaxgmm.app.stages.stage import Making, Watch
from jaxgmm.app.tables import Table
from jaxgmm.fitting.noise import Noise

pytestmark = [pytest.mark.default_precision, pytest.mark.usefixtures("quick_figures")]  # x64 as in a process of its own

CONFIGS = [
    ROOT / "configs" / f"{name}.toml" for name in ("penguins_missing", "penguins_labels", "faithful_errors", "diabetes_noise")
]
FAITHFUL = jg.datasets.load_faithful().x
COLUMNS = ["eruptions", "waiting"]


# What is in the file


@pytest.mark.parametrize(
    ("text", "keys", "words"),
    [
        ("a,b\n1,2\n", {"labels": "clas"}, "unknown column 'clas'"),
        ("a,b\n1,2\n", {"standard_errors": ("a_sd",)}, "standard_errors has 1 names, but the measured columns are 2, a, b"),
        ("a\n1\n2\n", {"standard_errors": ("e",)}, "unknown column 'e'"),
        ("a,e\n1,x\n", {"standard_errors": ("e",)}, "column 'e' is not numbers (row 0 is x)"),
        ("a,e\n1,1\n2,-3\n4,\n", {"standard_errors": ("e",)}, "-3 in row 1, counted from 0, and 1 more"),
        ("a,e\n1,1\n2,\n", {"standard_errors": ("e",), "missing": "keep"}, "e has the standard error nan in row 1"),
        ("a,e\n1,inf\n2,3\n", {"standard_errors": ("e",), "missing": "drop"}, "has the standard error inf in row 0"),
        ("a,c\n1,0\n2,1.5\n", {"labels": "c"}, "labels = 'c' has 1.5 in row 1, counted from 0: write"),
        ("a,c\n1,-2\n2,1\n", {"labels": "c"}, "labels = 'c' has -2 in row 0"),
        ("a,c\n1,\n2,-1\n", {"labels": "c"}, "labels = 'c' has no label in any row: leave labels out"),
        ("a,c\n1,NA\n2,x\n", {"labels": "c"}, None),
        ("a,b,c\n1,,x\n,,y\n2,inf,y\n", {"labels": "c", "missing": "keep"}, "missing or infinite values in column b, row 2"),
        ("a,b\n,\n,\n", {"missing": "keep"}, "every row lacks a value of a, b"),
        ("c,e\nx,1\n", {"labels": "c", "standard_errors": ("e",)}, "no column but 'c', the rows' labels and 'e',"),
    ],
)  # fmt: skip
def test_what_the_file_has_is_named_by_row_and_column(tmp_path, text, keys, words):
    (tmp_path / "d.csv").write_text(text)
    data = DataTable(path=str(tmp_path / "d.csv"), **keys)
    if words is None:
        assert read_rows(data).labels.codes.tolist() == [-1, 0]
        return
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        read_rows(data)
    assert "\n" not in str(raised.value)


def test_which_rows_are_kept(tmp_path):
    """Those without any value say nothing; a value that isn't there needs no error; all others need theirs."""
    (tmp_path / "d.csv").write_text("a,b,ea,eb,c\n1,2,.1,.2,w\n,3,,.5,v\n,,1,1,u\n4,,2,,v\n5,6,1,,v\n")
    how = {"path": str(tmp_path / "d.csv"), "standard_errors": ("ea", "eb"), "labels": "c"}
    with pytest.raises(ValueError, match="column eb has the standard error nan in row 4"):
        read_rows(DataTable(**how, missing="keep"))
    dropped = read_rows(DataTable(**how, missing="drop"))
    assert (dropped.numbers.tolist(), dropped.n_dropped, dropped.feature_names) == ([0], 4, ("a", "b"))
    (tmp_path / "d.csv").write_text((tmp_path / "d.csv").read_text().replace("6,1,,v", "6,1,0,v"))
    kept = read_rows(DataTable(**how, missing="keep"))
    assert (kept.numbers.tolist(), kept.n_dropped) == ([0, 1, 3, 4], 1)
    np.testing.assert_array_equal(kept.x, [[1, 2], [np.nan, 3], [4, np.nan], [5, 6]])
    np.testing.assert_allclose(kept.errors[~np.isnan(kept.x)], np.square([0.1, 0.2, 0.5, 2, 1, 0]))
    assert (kept.labels.codes.tolist(), kept.labels.component_of) == ([1, 0, 0, 0], {"v": 0, "w": 1})  # u's row isn't there


@pytest.mark.parametrize(
    ("values", "codes", "component_of"),
    [
        (np.array(["b", "", " a ", "b", "NA", "nan"]), [1, -1, 0, 1, -1, -1], {"a": 0, "b": 1}),
        (pa.chunked_array([pa.array([10, 2, None, -1]).dictionary_encode()]), [10, 2, -1, -1], {"2": 2, "10": 10}),
        (pa.chunked_array([["b", None, "a"], ["b", ""]]), [1, -1, 0, 1, -1], {"a": 0, "b": 1}),
        (pa.chunked_array([pa.array(["y", "x", None, "y"]).dictionary_encode()]), [1, 0, -1, 1], {"x": 0, "y": 1}),
        (pa.chunked_array([[True, None, False]]), [1, -1, 0], {"false": 0, "true": 1}),
        (pa.chunked_array([[3, None, 1, -1]]), [3, -1, 1, -1], {"1": 1, "3": 3}),
        (pa.chunked_array([[2.0, None]]), [2, -1], {"2": 2}),
    ],
)
def test_labels_of_any_kind(values, codes, component_of):
    labels = Labels.read(Table("example", {"c": values}), "c", np.arange(len(values)))
    assert (labels.codes.tolist(), dict(labels.component_of)) == (codes, component_of)
    most = max(component_of.values())
    labels.check_components(most + 1)
    with pytest.raises(
        ValueError, match=rf"fit.n_components = {most}, and components are counted from 0: set it to {most + 1}"
    ):
        labels.check_components(most)


def test_unknown_among_text_is_no_component():
    with pytest.raises(ValueError, match="labels = 'c' is text, with -1 in it: leave unknown labels empty"):
        Labels.read(Table("example", {"c": np.array(["a", "-1"])}), "c", np.arange(2))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_shipped_configs_find_what_they_name(path):
    config = load_config(path)
    FitStage.prepare(config, read_rows(config.data), None)


# Whole runs


def messy():
    """Old Faithful with a tenth of the values missing, standard errors, and labels of ten rows."""
    rng = np.random.default_rng(0)
    errors = rng.uniform(0.1, 0.5, FAITHFUL.shape) * [1, 10]
    x = np.where(rng.random(FAITHFUL.shape) < 0.1, np.nan, FAITHFUL + errors * rng.normal(size=FAITHFUL.shape))
    frame = pd.DataFrame(np.column_stack([x, errors]), columns=[*COLUMNS, "sd_e", "sd_w"])
    frame["kind"] = np.where(np.arange(272) < 10, np.where(FAITHFUL[:, 0] > 3, "long", "short"), None)
    return frame


def run_of(folder, frame, *tables):
    frame.to_csv(folder / "d.csv", index=False)
    (folder / "config.toml").write_text("\n".join(['[data]\npath = "d.csv"\ncolumns = ["eruptions", "waiting"]', *tables]))
    return folder / "config.toml"


def assigned(path):
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    return {name: np.array(column) for name, column in zip(header, zip(*rows, strict=True), strict=True)}


def by_scipy(gmm, x, variances):
    """Log joint (N, K) of what was seen, with errors, and the tail probabilities of each component."""
    joint, tail = np.empty((len(x), gmm.n_components)), np.empty((len(x), gmm.n_components))
    for n, row in enumerate(x):
        seen = np.flatnonzero(~np.isnan(row))
        for k in range(gmm.n_components):
            mean = np.asarray(gmm.means)[k, seen]
            covariance = np.asarray(gmm.covariances)[k][np.ix_(seen, seen)] + np.diag(variances[n, seen])
            joint[n, k] = np.log(gmm.weights[k]) + multivariate_normal(mean, covariance).logpdf(row[seen])
            tail[n, k] = chi2(len(seen)).sf((row[seen] - mean) @ np.linalg.solve(covariance, row[seen] - mean))
    return joint, tail


def test_a_run_with_gaps_errors_and_labels(tmp_path, jaxgmm):
    frame = messy()
    data = 'missing = "keep"\nstandard_errors = ["sd_e", "sd_w"]\nlabels = "kind"'
    posterior = '[posterior]\nmethod = "laplace"\nn_draws = 20'
    config = run_of(tmp_path, frame, data, "[fit]\nn_components = 2", posterior, "[report]")
    code, out, err = jaxgmm("run", config, "--output", "run")
    assert code == 0, err
    kept = frame[~frame[COLUMNS].isna().all(axis=1)]
    x, variances = kept[COLUMNS].to_numpy(), kept[["sd_e", "sd_w"]].to_numpy() ** 2
    codes = kept["kind"].map({"long": 0, "short": 1}).fillna(-1).to_numpy(int)
    with jax.enable_x64(True):
        options = {"error_covariances": variances, "labels": codes}
        fit = jg.fit(pd.DataFrame(x, columns=COLUMNS), 2, key=jax.random.key(0), **options)
    gmm, written = jg.load(tmp_path / "run" / "gmm.npz"), json.loads((tmp_path / "run" / "fit.json").read_text())
    np.testing.assert_allclose(gmm.means, fit.means, rtol=1e-12)
    making = Making({}, Watch(), tmp_path, False)  # of a run whose chains start where they did, beside noise, too
    beside = [dataclasses.replace(fit, noise=Noise(share, np.zeros(2), np.ones(2))) for share in (0.2, 0.3)]
    assert [settled(each, making).noise.weight for each in beside] == [0.2, 0.2]
    assert written["labels"] == {"column": "kind", "components": {"long": 0, "short": 1}, "n_labelled": 10}
    assert (written["n_missing"], written["standard_errors"]) == (int(np.isnan(x).sum()), ["sd_e", "sd_w"])
    assert (written["n_samples"], written["n_dropped"]) == (len(x), 272 - len(x))
    for words in (f"{written['n_missing']} values of these rows", "without their errors of measurement", "long is component 0"):
        assert words in " ".join(out.split())

    joint, tail = by_scipy(gmm, x, variances)
    log_prob = logsumexp(joint, axis=1)
    r = np.exp(joint - log_prob[:, None])
    owner = r.argmax(axis=1)
    own = assigned(tmp_path / "run" / "assignments.csv")
    np.testing.assert_array_equal(own["row"].astype(int), kept.index)
    np.testing.assert_array_equal(own["component"].astype(int), owner)
    np.testing.assert_array_equal(own["label"], np.array(["long", "short"])[owner])
    np.testing.assert_array_equal(own["known_component"].astype(int), codes)
    np.testing.assert_allclose(own["log_density"].astype(float), log_prob, rtol=1e-8)
    np.testing.assert_allclose(own["responsibility_1"].astype(float), r[:, 1], atol=1e-9)
    np.testing.assert_allclose(own["tail_probability"].astype(float), tail[np.arange(len(x)), owner], rtol=1e-7, atol=1e-12)
    known = codes >= 0
    of_labelled = joint[known, codes[known]].sum()  # log p(x, label)
    assert written["log_likelihood"] == pytest.approx(log_prob[~known].sum() + of_labelled, rel=1e-9)
    assert written["bic"] == pytest.approx(11 * np.log(len(x)) - 2 * written["log_likelihood"], rel=1e-12)
    assert written["icl"] == pytest.approx(written["bic"] - 2 * np.log(r[~known].max(axis=1)).sum(), rel=1e-8)

    page = re.sub(r"<[^>]+>", " ", (tmp_path / "run" / "report.html").read_text())
    wrong = kept.index[known & (codes != owner)].tolist()
    for words in (
        "Component 0 (long)",
        f"Of 10 rows whose component was known, {len(wrong)} would",
        "Posterior predictive checks",
    ):
        assert words in page
    code, out, err = jaxgmm("predict", "run", "d.csv", "--output", "new.csv")
    assert code == 0, err
    new = assigned(tmp_path / "new.csv")
    assert new.keys() == own.keys() - {"known_component"}
    for name, column in new.items():
        np.testing.assert_array_equal(column, own[name], err_msg=name)
    frame.drop(columns="sd_w").to_csv(tmp_path / "without.csv", index=False)
    code, out, err = jaxgmm("predict", "run", "without.csv")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "has no column 'sd_w': the rows of run have standard errors in sd_e, sd_w" in err
    (tmp_path / "folder").mkdir()
    assert "give one CSV or Parquet file" in jaxgmm("predict", "run", "folder")[2]


def test_a_run_with_noise(tmp_path, jaxgmm):
    rng = np.random.default_rng(1)
    x = np.concatenate([FAITHFUL, rng.uniform([0, 0], [20, 300], (30, 2))])
    frame = pd.DataFrame(x, columns=COLUMNS)
    widths = np.ptp(x, axis=0) * [1.5, 2]
    fit = f"[fit]\nn_components = 2\nnoise = {widths.tolist()}"
    posterior = '[posterior]\nmethod = "laplace"\nn_draws = 50\ngroups = ["posterior_predictive"]'
    code, out, err = jaxgmm("run", run_of(tmp_path, frame, fit, posterior, "[report]"), "--output", "run")
    assert code == 0, err
    gmm, written = jg.load(tmp_path / "run" / "gmm.npz"), json.loads((tmp_path / "run" / "fit.json").read_text())
    noise = written["noise"]
    np.testing.assert_allclose(np.subtract(noise["upper"], noise["lower"]), widths)
    assert not noise["estimated"]
    assert 0.05 < noise["weight"] < 0.15

    own = assigned(tmp_path / "run" / "assignments.csv")
    joint, tail = by_scipy(gmm, x, np.zeros_like(x))
    likeliest = joint.argmax(axis=1)
    joint = np.column_stack(
        [joint + np.log1p(-noise["weight"]), np.full(len(x), np.log(noise["weight"]) - np.log(widths).sum())]
    )
    log_prob = logsumexp(joint, axis=1)
    r = np.exp(joint - log_prob[:, None])
    np.testing.assert_array_equal(own["component"].astype(int), np.array([0, 1, -1])[r.argmax(axis=1)])
    assert (own["component"] == "-1").sum() > 15
    for name, column in (("responsibility_0", r[:, 0]), ("responsibility_noise", r[:, 2]), ("uncertainty", 1 - r.max(axis=1))):
        np.testing.assert_allclose(own[name].astype(float), column, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(own["log_density"].astype(float), log_prob, rtol=1e-9)
    np.testing.assert_allclose(own["tail_probability"].astype(float), tail[np.arange(len(x)), likeliest], rtol=1e-7, atol=1e-12)
    assert written["n_parameters"] == 12  # of the mixture, and the share
    assert written["log_likelihood"] == pytest.approx(log_prob.sum(), rel=1e-9)
    assert written["icl"] == pytest.approx(written["bic"] - 2 * np.log(r.max(axis=1)).sum(), rel=1e-8)
    page = " ".join(re.sub(r"<[^>]+>", " ", (tmp_path / "run" / "report.html").read_text()).split())
    assert re.search(rf"Noise - {(own['component'] == '-1').sum()} ", page)
    assert re.search(r"\d+ noise -", page)
    assert "uniform over a box" in out
    tree = jg.load_posterior(tmp_path / "run" / "posterior.nc")
    shares = tree["posterior"]["noise_weight"].values
    assert abs(shares.mean() - noise["weight"]) < shares.std()
    summary = json.loads((tmp_path / "run" / "posterior.json").read_text())
    assert "noise_weight" in {row["quantity"] for row in summary["quantities"]}
    replicated = tree["posterior_predictive"]["x"].values
    assert ((replicated > noise["lower"]) & (replicated < noise["upper"])).mean() > 0.99
    assert "Posterior predictive checks" in page

    code, out, err = jaxgmm("predict", "run", "d.csv")
    assert (code, out) == (0, (tmp_path / "run" / "assignments.csv").read_text())
    facts = json.loads((tmp_path / "run" / "fit.json").read_text())
    (tmp_path / "run" / "fit.json").write_text(json.dumps(facts | {"noise": {"weight": 0.1}}))
    assert "fit.json is damaged" in jaxgmm("predict", "run", "d.csv")[2]
