import csv
import dataclasses
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from helpers import ROOT
from scipy.special import logsumexp
from scipy.stats import chi2, multivariate_normal

import jaxgmm as jg
from jaxgmm.app import cli, output
from jaxgmm.app.tables import read_table
from jaxgmm.tools.errors import UserError, UserTypeError

# A process of its own starts with x64 off; the command line must compute in float64 all the same.
pytestmark = pytest.mark.default_precision

CONFIGS = ROOT / "configs"
FAITHFUL = jg.datasets.load_faithful()
RUN_FILES = {
    "config.toml", "gmm.npz", "fit.json", "assignments.csv", "components.png", "trace.png", "responsibilities.png",
    "report.html",
}  # fmt: skip


@pytest.fixture
def jaxgmm(capfd):
    """The command line in this process: exit code, stdout, stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        return int(ended.value.code or 0), *capfd.readouterr()

    return call


@pytest.fixture(scope="module")
def faithful(tmp_path_factory):
    """The directory of configs/faithful.toml, run once."""
    directory = tmp_path_factory.mktemp("runs") / "faithful"
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["run", str(CONFIGS / "faithful.toml"), "--output", str(directory)])
    return directory


@pytest.fixture
def faithful_copy(faithful, tmp_path):
    return Path(shutil.copytree(faithful, tmp_path / "copy"))


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def config_for(tmp_path):
    """A config for a data file next to it."""

    def write(file, *, data="", prior="", n_components=2):
        path = tmp_path / "config.toml"
        path.write_text(f'[data]\npath = "{file.name}"\n{data}\n[prior]\n{prior}\n[fit]\nn_components = {n_components}\n')
        return path

    return write


@pytest.fixture
def faithful_csv(tmp_path):
    return write_csv(tmp_path / "data.csv", FAITHFUL.feature_names, FAITHFUL.x.tolist())


def read_assignments(path):
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    return header, np.array(rows, float)


# A whole run


def test_writes_its_directory(faithful):
    assert {file.name for file in faithful.iterdir()} == RUN_FILES
    assert [file.name for file in faithful.parent.iterdir()] == ["faithful"]  # nothing half-written next to it
    for figure in faithful.glob("*.png"):
        assert figure.read_bytes().startswith(b"\x89PNG")


def test_what_it_says_is_what_scipy_computes_from_the_parameters(faithful):
    with np.load(faithful / "gmm.npz") as file:
        weights, means, covariances = file["weights"], file["means"], file["covariances"]
    assert means.dtype == np.float64
    components = zip(means, covariances, strict=True)
    joint = np.log(weights) + np.stack([multivariate_normal(m, c).logpdf(FAITHFUL.x) for m, c in components], axis=1)
    log_prob = logsumexp(joint, axis=1)
    responsibilities = np.exp(joint - log_prob[:, None])
    written = json.loads((faithful / "fit.json").read_text())
    n, p = 272, 11
    assert written["status"] == "converged"
    assert written["log_likelihood"] == pytest.approx(log_prob.sum(), rel=1e-12)
    assert written["bic"] == pytest.approx(p * np.log(n) - 2 * log_prob.sum(), rel=1e-12)
    assert written["aic"] == pytest.approx(2 * p - 2 * log_prob.sum(), rel=1e-12)
    entropy_term = -2 * np.log(responsibilities.max(axis=1)).sum()
    assert written["icl"] == pytest.approx(written["bic"] + entropy_term, rel=1e-12)
    assert (written["n_parameters"], written["n_samples"], written["n_starts"]) == (p, n, 10)
    assert written["feature_names"] == ["eruptions", "waiting"]

    header, rows = read_assignments(faithful / "assignments.csv")
    known = ["row", "component", "uncertainty", "log_density", "tail_probability"]
    assert header == [*known, "responsibility_0", "responsibility_1"]
    np.testing.assert_array_equal(rows[:, 0], np.arange(n))
    np.testing.assert_array_equal(rows[:, 1], responsibilities.argmax(axis=1))
    np.testing.assert_allclose(rows[:, 2], 1 - responsibilities.max(axis=1), atol=1e-12)
    np.testing.assert_allclose(rows[:, 3], log_prob, rtol=1e-10)
    away = FAITHFUL.x - means[responsibilities.argmax(axis=1)]
    precisions = np.linalg.inv(covariances)[responsibilities.argmax(axis=1)]
    np.testing.assert_allclose(rows[:, 4], chi2(2).sf(np.einsum("ni,nij,nj->n", away, precisions, away)), rtol=1e-8)
    np.testing.assert_allclose(rows[:, 5:], responsibilities, atol=1e-12)


def test_the_config_that_it_writes_runs_again_to_the_same_result(faithful, tmp_path, jaxgmm):
    code, _, err = jaxgmm("run", faithful / "config.toml", "--output", tmp_path / "again")
    assert (code, err) == (0, "")
    with np.load(faithful / "gmm.npz") as first, np.load(tmp_path / "again" / "gmm.npz") as second:
        for name in ("weights", "means", "covariances"):
            np.testing.assert_array_equal(first[name], second[name])


def test_shows_the_result(tmp_path, jaxgmm):
    code, out, err = jaxgmm("run", CONFIGS / "faithful.toml", "--output", tmp_path / "run")
    written = json.loads((tmp_path / "run" / "fit.json").read_text())
    assert (code, err) == (0, "")  # no spinner where there is no terminal
    assert f"converged: {written['meaning'][:40]}" in out
    for name in ("log_likelihood", "objective", "bic", "aic", "icl"):
        assert f"{written[name]:.4f}" in out
    assert "10 of 10 starts reached the best optimum" in out
    assert "4.290 ± 0.407" in out  # mean and sd of the long eruptions
    assert "79.97 ± 5.90" in out


def test_default_directory_and_overrides(tmp_path, jaxgmm, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ("fit.n_components=3", "fit.family=EEE", "prior.kind=none", "output.assignments=parquet", "fit.n_init=2")
    assert jaxgmm("run", CONFIGS / "faithful.toml", *(part for s in settings for part in ("--set", s)))[0] == 0
    run = tmp_path / "runs" / "faithful"
    gmm = jg.load(run / "gmm.npz")
    assert (gmm.n_components, gmm.family) == (3, "tied")
    written = json.loads((run / "fit.json").read_text())
    assert written["objective"] == written["log_likelihood"]  # maximum likelihood
    table = pa.parquet.read_table(run / "assignments.parquet")
    assert (table.num_rows, table.num_columns) == (272, 8)


def test_prior_overrides_and_weights_reach_the_fit(tmp_path, config_for, jaxgmm):
    counts = np.random.default_rng(0).integers(0, 4, size=272)
    data = write_csv(tmp_path / "data.csv", ["a", "n", "b"], np.insert(FAITHFUL.x, 1, counts, axis=1).tolist())
    prior = "concentration = 20\nmean_precision = 3.0\ndegrees_of_freedom = 30"
    config = config_for(data, data='sample_weight = "n"', prior=prior)
    assert jaxgmm("run", config, "--output", tmp_path / "run")[0] == 0
    with jax.enable_x64(True):
        default = jg.Prior.default(FAITHFUL.x, 2, sample_weight=counts)
        prior = dataclasses.replace(default, concentration=20.0, mean_precision=3.0, degrees_of_freedom=30.0)
        expected = jg.fit(FAITHFUL.x, 2, key=jax.random.key(0), prior=prior, sample_weight=counts)
        bic = expected.gmm.bic(FAITHFUL.x, counts)
    written = json.loads((tmp_path / "run" / "fit.json").read_text())
    assert written["objective"] == pytest.approx(expected.objective, rel=1e-12)
    assert written["bic"] == pytest.approx(bic, rel=1e-12)
    assert written["feature_names"] == ["a", "b"]  # every column but the weights


def test_running_out_of_steps_is_said_and_is_no_error(tmp_path, jaxgmm):
    code, out, _ = jaxgmm("run", CONFIGS / "faithful.toml", "--output", tmp_path / "run", "--set", "fit.max_steps=1")
    assert code == 0
    assert "max_steps: Still climbing" in out


# Predicting


def test_predict_gives_the_training_rows_their_assignments(faithful, tmp_path, jaxgmm):
    rows = [(f"row {i}", waiting, eruptions) for i, (eruptions, waiting) in enumerate(FAITHFUL.x.tolist())]
    data = write_csv(tmp_path / "new.csv", ["note", "waiting", "eruptions"], rows)  # another order, and more
    columns = dict(zip(("note", "waiting", "eruptions"), zip(*rows, strict=True), strict=True))
    pa.parquet.write_table(pa.table(columns), tmp_path / "new.parquet")
    (tmp_path / "new.tsv").write_text(data.read_text().replace(",", "\t"))
    wanted = (faithful / "assignments.csv").read_text()
    assert jaxgmm("predict", faithful, data) == (0, wanted, "")
    assert jaxgmm("predict", faithful, tmp_path / "new.parquet") == (0, wanted, "")
    assert jaxgmm("predict", faithful, tmp_path / "new.tsv") == (0, wanted, "")
    assert jaxgmm("predict", faithful, data, "--output", tmp_path / "out.csv") == (0, "", "")
    assert (tmp_path / "out.csv").read_text() == wanted
    assert jaxgmm("predict", faithful, data, "--output", tmp_path / "out.parquet") == (0, "", "")
    expected = read_assignments(faithful / "assignments.csv")[1][:, 1].tolist()
    assert pa.parquet.read_table(tmp_path / "out.parquet")["component"].to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("eruptions,wating\n1,2\n", "unknown column 'waiting'; did you mean 'wating'?"),
        ("eruptions,waiting\n1,soon\n", "column 'waiting' is not numbers (row 0 is soon)"),
        ("eruptions,waiting\n1,2\n1,\n", "missing or infinite values in column waiting, row 1, counted from 0"),
        ("eruptions,waiting\n", "x is empty"),
    ],
)
def test_predict_names_what_is_wrong_with_the_data(faithful, tmp_path, jaxgmm, text, words):
    (tmp_path / "new.csv").write_text(text)
    assert_one_line(jaxgmm("predict", faithful, tmp_path / "new.csv"), words)


def test_predict_names_what_is_wrong_with_the_run(faithful_copy, faithful_csv, tmp_path, jaxgmm):
    assert_one_line(jaxgmm("predict", tmp_path, faithful_csv), "does not hold a run")
    model = faithful_copy / "gmm.npz"
    other, whole = jg.load(model), model.read_bytes()
    jg.GMM(other.weights, other.means + 1, other.covariances, other.family).save(model)
    assert_one_line(jaxgmm("predict", faithful_copy, faithful_csv), "fit.json and gmm.npz are not of one run")
    assert_one_line(jaxgmm("report", faithful_copy), "fit.json and gmm.npz are not of one run")
    model.write_bytes(whole)
    model.write_bytes(model.read_bytes()[:-100])
    assert_one_line(jaxgmm("predict", faithful_copy, faithful_csv), "gmm.npz is not a whole jaxgmm mixture")
    model.write_bytes(whole)
    facts = json.loads((faithful_copy / "fit.json").read_text())
    for text in ("{", "[]", json.dumps(facts | {"files": []}), "[" * 100_000):
        (faithful_copy / "fit.json").write_text(text)
        assert_one_line(jaxgmm("predict", faithful_copy, faithful_csv), "fit.json is damaged")


# Where a run may write


def test_a_run_is_not_overwritten_unless_asked(faithful_copy, jaxgmm):
    before = (faithful_copy / "fit.json").read_bytes()
    (faithful_copy / "notes.md").write_text("mine")
    arguments = ("run", CONFIGS / "faithful.toml", "--output", faithful_copy, "--set", "fit.n_components=3")
    assert_one_line(jaxgmm(*arguments), "already holds a run: replace it with --overwrite")
    assert (faithful_copy / "fit.json").read_bytes() == before
    assert jaxgmm(*arguments, "--overwrite", "--set", "output.assignments=parquet")[0] == 0
    assert json.loads((faithful_copy / "fit.json").read_text())["n_components"] == 3
    files = {file.name for file in faithful_copy.iterdir()}
    assert files == RUN_FILES - {"assignments.csv"} | {"assignments.parquet", "notes.md"}
    assert (faithful_copy / "notes.md").read_text() == "mine"


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path, jaxgmm, flags):
    (tmp_path / "thesis.tex").write_text("years")
    result = jaxgmm("run", CONFIGS / "faithful.toml", "--output", tmp_path, *flags)
    assert_one_line(result, "is not empty and holds no run")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_is_written_into(tmp_path, jaxgmm):
    assert jaxgmm("run", CONFIGS / "faithful.toml", "--output", tmp_path)[0] == 0
    assert {file.name for file in tmp_path.iterdir()} == RUN_FILES


def test_output_that_is_a_file(faithful_csv, jaxgmm):
    assert_one_line(jaxgmm("run", CONFIGS / "faithful.toml", "--output", faithful_csv), "is a file: give another")


def test_a_run_that_fails_leaves_but_the_reason(tmp_path, faithful_copy, monkeypatch):
    before = {file.name: file.read_bytes() for file in faithful_copy.iterdir()}
    monkeypatch.setattr("jaxgmm.plots.trace", lambda fit: 1 / 0)  # late, when most files are written
    for directory, overwrite in [(tmp_path / "run", []), (faithful_copy, ["--overwrite"])]:
        with pytest.raises(ZeroDivisionError):
            cli.main(["run", str(CONFIGS / "faithful.toml"), "--output", str(directory), *overwrite])
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["failed.json"]
    assert json.loads((tmp_path / "run" / "failed.json").read_text()) == {
        "stage": "write",
        "error": "ZeroDivisionError: division by zero",
    }
    assert {file.name: file.read_bytes() for file in faithful_copy.iterdir()} == before


def test_names_that_the_font_lacks(tmp_path, config_for, jaxgmm):
    """filterwarnings = error: nothing about glyphs gets through."""
    data = write_csv(tmp_path / "names.csv", ["длина", "温度 °C"], [(i % 7, (i * i) % 11) for i in range(30)])
    assert jaxgmm("run", config_for(data), "--output", tmp_path / "run")[0] == 0


def test_a_fit_without_a_density_is_an_error(tmp_path, config_for, jaxgmm):
    data = write_csv(tmp_path / "flat.csv", ["a", "b"], [(i % 3, 1) for i in range(9)])
    result = jaxgmm("run", config_for(data, prior='kind = "none"'), "--output", tmp_path / "run")
    assert_one_line(result, "no start of the fit can be used: collapsed at once. Without a prior")
    result = jaxgmm("report", tmp_path / "run")
    assert_one_line(result, "it failed in fit: no start of the fit can be used: collapsed at once. Without a prior")
    # In the way of nothing: the config's next run takes its place.
    assert jaxgmm("run", CONFIGS / "faithful.toml", "--output", tmp_path / "run")[0] == 0
    assert {file.name for file in (tmp_path / "run").iterdir()} == RUN_FILES


# Wrong input


def assert_one_line(result, words):
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("fit.n_component=3", "did you mean 'fit.n_components'?"),
        ("fit.n_components=two", "fit.n_components should be a valid integer"),
        ("fit.n_components=0", "fit.n_components should be greater than or equal to 1"),
        ("fit.family=fulll", "unknown family 'fulll'; did you mean 'full'?"),
        ("report.titel=x", "did you mean 'report.title'?"),
        ("posterior.n_draws=9", "posterior.method is missing"),
        ('data.columns=["eruptions", "wait"]', "unknown column 'wait'; did you mean 'waiting'?"),
        ("data.sample_weight=eruptions", "sample_weight = 'eruptions' is also one of the columns"),
        ("prior.concentration=0.5", "prior.concentration is 0.5, but below 1"),
        ("prior.degrees_of_freedom=0.5", "degrees_of_freedom must be more than 1"),
    ],
)
def test_wrong_settings(tmp_path, jaxgmm, setting, words):
    assert_one_line(jaxgmm("run", CONFIGS / "faithful.toml", "--output", tmp_path / "run", "--set", setting), words)
    assert {file.name for file in (tmp_path / "run").glob("*")} <= {"failed.json"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.csv", "a,kind\n1,x\n2,y\n", "column 'kind' is not numbers (row 0 is x); choose among the numeric ones"),
        ("d.csv", "a,b,kind\n1,2,x\n", 'choose among the numeric ones: columns = ["a", "b"]'),
        ("d.csv", "a,b\n1,2\n3,4 cm\n5,6\n", "column 'b' is not numbers (row 1 is 4 cm)"),
        ("d.csv", "a,b\n1,2\n,4\n5,NA\n3,3\n", "missing or infinite values in columns a, b, rows 1, 2, counted from 0"),
        ("d.csv", "a,b\n1,2\n3,inf\n", "missing or infinite values in column b, row 1, counted from 0: fill them in"),
        ("d.csv", "a\n1\n\n2\n4\n\n", "missing or infinite values in column a, row 1, counted"),
        ("d.csv", "a;b\n1;2\n3;4\n", "has one column, 'a;b': if ';' is between its columns, set delimiter to that"),
        ("d.csv", "a;b\n1,5;2\n", "Expected 1 columns, got 2: 1,5;2. Another delimiter? Set it"),
        (
            "d.csv",
            'a\n"1,5"\n"2,5"\n',
            "column 'a' is not numbers (row 0 is 1,5: set decimal to a comma, or write a point); no other column is",
        ),
        ("d.csv", "a,b\n1,2\n", "x has 1 row"),
        ("d.csv", "a,b\n", "x is empty"),
        ("d.csv", "", "d.csv can't be read as columns separated by ',': Empty CSV file"),
        ("d.csv", "a,b\n1,2\n3,4,5\n", "separated by ',': CSV parse error: Expected 2 columns, got 3"),
        ("d.csv", "a,a\n1,2\n3,4\n", "two columns are called 'a'"),
        ("d.csv", "1.5,2.5\n3,4\n5,6\n", "the first line, 1.5, 2.5, is numbers; it should be the columns' names"),
        ("d.parquet", "PAR1", "d.parquet can't be read"),
        ("d.xlsx", "", "unknown type of file '.xlsx'"),
    ],
)  # fmt: skip
def test_wrong_data(tmp_path, config_for, jaxgmm, name, content, words):
    (tmp_path / name).write_text(content)
    assert_one_line(jaxgmm("run", config_for(tmp_path / name), "--output", tmp_path / "run"), words)


@pytest.mark.parametrize(
    ("name", "content", "delimiter"),
    [
        ("d.csv", b"a,b\n1,2.5\n3,4\n", None),
        ("d.csv", b"\xef\xbb\xbfa, b\r\n1, 2.5\r\n3, 4\r\n", None),  # as spreadsheets write it
        ("d.txt", b'"a";"b"\n1;2.5\n3;4\n', ";"),
        ("d.tsv", b"a\tb\n1\t2.5\n3\t4\n", None),
        ("d.csv.gz", gzip.compress(b"a,b\n1,2.5\n3,4\n", mtime=0), None),
    ],
)
def test_spellings_of_csv(tmp_path, name, content, delimiter):
    (tmp_path / name).write_bytes(content)
    table = read_table(tmp_path / name, delimiter)
    np.testing.assert_array_equal(table.select(["b", "a"]), [[2.5, 1], [4, 3]])


@pytest.mark.parametrize(
    ("content", "delimiter", "words"),
    [
        ("ä,b\n1,2\n".encode("latin1"), None, "its first line is not UTF-8 text"),
        (b"a;b\n1,5;2\n", None, "as columns separated by ','"),
        (b"a;b\n1;2\n", ";;", "delimiter must be one character, got ';;'"),
    ],
)
def test_text_that_is_no_table(tmp_path, content, delimiter, words):
    (tmp_path / "d.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_table(tmp_path / "d.csv", delimiter)


def test_a_header_of_one_column_may_hold_a_separator(tmp_path):
    (tmp_path / "d.csv").write_text('"speed; km/h, raw"\n1\n2\n')
    np.testing.assert_array_equal(read_table(tmp_path / "d.csv").select(["speed; km/h, raw"]), [[1], [2]])


def test_missing_files(tmp_path, config_for, jaxgmm, faithful):
    assert_one_line(jaxgmm("run", tmp_path / "nope.toml"), "no config file")
    assert_one_line(jaxgmm("run", config_for(tmp_path / "nope.csv")), "no data file")
    assert_one_line(jaxgmm("predict", faithful, tmp_path / "nope.csv"), "no data file")


def test_more_components_than_rows(tmp_path, config_for, jaxgmm):
    data = write_csv(tmp_path / "d.csv", ["a"], [(1,), (2,), (4,)])
    config = config_for(data, n_components=4, prior='kind = "none"')
    assert_one_line(jaxgmm("run", config, "--output", tmp_path / "run"), "n_components is 4, but x has 3 rows")


def test_shipped_data_with_missing_values(tmp_path, jaxgmm):
    result = jaxgmm("run", CONFIGS / "iris.toml", "--set", "data.dataset=penguins", "--output", tmp_path / "run")
    assert_one_line(result, "data set penguins: missing or infinite values in columns bill_length_mm, bill_depth_mm, ")


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch):
    # Calling None is a bug, not a wrong input.
    monkeypatch.setattr("jaxgmm.app.run.read_rows", None)
    with pytest.raises(TypeError, match="not callable"):
        cli.main(["run", str(CONFIGS / "faithful.toml"), "--output", str(tmp_path / "run")])


def test_an_error_of_other_packages_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxgmm.app.run.read_rows", lambda data: np.zeros(2).reshape(3, 3))
    with pytest.raises(ValueError, match="cannot reshape"):
        cli.main(["run", str(CONFIGS / "faithful.toml"), "--output", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("error", "shown"), [(ValueError, False), (TypeError, False), (UserError, True), (UserTypeError, True)]
)
def test_the_class_of_an_error_says_whom_it_is_for(tmp_path, monkeypatch, capsys, error, shown):
    def read_rows(data):
        raise error("what happened")

    monkeypatch.setattr("jaxgmm.app.run.read_rows", read_rows)
    with pytest.raises(SystemExit if shown else error) as caught:
        cli.main(["run", str(CONFIGS / "faithful.toml"), "--output", str(tmp_path / "run")])
    assert capsys.readouterr().err == ("error: what happened\n" if shown else "")
    assert not shown or caught.value.code == 2


@pytest.mark.parametrize(("error", "kind"), [(ValueError, "ValueError: "), (UserError, ""), (UserTypeError, "")])
def test_the_record_of_a_failure_names_the_class_of_a_bug(tmp_path, error, kind):
    with pytest.raises(error), output.failure_recorded(tmp_path):
        raise error("what happened")
    assert output.failure(tmp_path) == f"failed in start: {kind}what happened"


def test_no_raise_of_the_package_is_of_a_class_for_bugs():
    """A user's error of a bare class would end in a traceback. The one that is left never leaves its function."""
    bare = [
        f"{path.name}: {line.strip()}"
        for path in Path(jg.__file__).parent.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\b(raise|return) (ValueError|TypeError)\(", line)
    ]
    assert bare == ['files.py: raise ValueError("it holds a single array")']


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("JAXGMM_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["run", "nope.toml"])


# The process: start-up, cache, missing extras


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, env=os.environ | environment, check=False,
    )  # fmt: skip


def test_help_imports_nothing_heavy():
    heavy = "jax numpy matplotlib pyarrow pydantic rich"
    script = (
        "import sys, atexit, jaxgmm.app.cli\n"
        f"atexit.register(lambda: print([m for m in '{heavy}'.split() if m in sys.modules]))\n"
        "jaxgmm.app.cli.main(['--help'])"
    )
    result = python("-c", script)
    assert result.returncode == 0, result.stderr
    assert "Exit codes" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_data_sets_import_no_jax():
    result = python("-c", "import sys, jaxgmm; jaxgmm.datasets.load_iris(); print('jax' in sys.modules)")
    assert (result.stdout, result.stderr) == ("False\n", "")


def test_a_fit_alone_imports_no_numpyro():
    """It takes seconds, and arviz more."""
    script = "import sys, jaxgmm.app.run, jaxgmm.app.terminal; print({'numpyro', 'arviz', 'xarray'} & sys.modules.keys())"
    result = python("-c", script)
    assert (result.stdout, result.stderr) == ("set()\n", "")


@pytest.mark.parametrize("package", ["typer", "pydantic"])
def test_a_missing_extra_is_one_line(package):
    script = f"import sys; sys.modules['{package}'] = None; from jaxgmm.app.cli import main; main(['run', 'x.toml'])"
    result = python("-c", script)
    wanted = f"error: the command line needs {package}, which is not installed: pip install 'jaxgmm[cli]'\n"
    assert (result.returncode, result.stderr) == (2, wanted)


@pytest.mark.usefixtures("no_compilation_cache")
def test_a_process_keeps_compiled_programs(faithful, faithful_csv, tmp_path):
    result = python("-m", "jaxgmm", "predict", faithful, faithful_csv, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (faithful / "assignments.csv").read_text()
    (cache,) = (tmp_path / "cache" / "jaxgmm" / "xla").iterdir()
    assert list(cache.iterdir())
    assert cache.stat().st_mode & 0o077 == 0  # what is in it gets executed, so nobody else may write it


@pytest.mark.usefixtures("no_compilation_cache")
def test_a_cache_that_cannot_be_written_is_done_without(faithful_csv, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(faithful_csv))  # a file: no folder can be made in it
    cli.use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_cache_of_ones_own_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    cli.use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == before
    assert list(tmp_path.iterdir()) == []


def test_version(jaxgmm):
    assert jaxgmm("--version") == (0, f"jaxgmm {jg.__version__}\n", "")
