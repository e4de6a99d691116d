"""`jaxgmm run` with a [compare] table: its files, what it says, and that its choice is the run's fit."""

import csv
import json
import re

import jax
import numpy as np
import pytest
from helpers import ROOT
from matplotlib.figure import Figure

import jaxgmm as jg
from jaxgmm.app import cli
from jaxgmm.app.config.toml import load_config
from jaxgmm.app.report import write_report
from jaxgmm.app.run import run

pytestmark = pytest.mark.default_precision  # as in a process of its own

CONFIG = ROOT / "configs" / "iris_compare.toml"
X = jg.datasets.load_iris().x
FILES = {
    "config.toml", "gmm.npz", "fit.json", "assignments.csv", "components.png", "trace.png", "responsibilities.png",
    "comparison.csv", "comparison.png",
}  # fmt: skip
SHORT = ["compare.n_init=2", 'compare.families=["tied", "VII"]', "compare.n_components=[1, 3]", "compare.held_out_folds=2"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    # Drawing takes most of the time of a short run.
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: path.write_bytes(b""))


@pytest.fixture(scope="module")
def library():
    with jax.enable_x64(True):
        return jg.compare(
            X, families=["tied", "spherical"], n_components=[1, 2, 3], key=jax.random.key(0), n_init=2, held_out_folds=2
        )


def settings(directory, *overrides):
    return load_config(CONFIG, [*SHORT, *overrides, f"output.directory={json.dumps(str(directory))}"])


def test_writes_its_directory_and_says_what_is_in_it(tmp_path, capfd, library):
    directory = tmp_path / "run"
    arguments = [part for setting in SHORT for part in ("--set", setting)]
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", str(CONFIG), "--output", str(directory), *arguments])
    out, err = capfd.readouterr()
    assert (ended.value.code or 0, err) == (0, "")
    assert {file.name for file in directory.iterdir()} == FILES
    said = " ".join(out.split())
    assert library.agreement in said
    assert "6 models, the best by bic first" in said
    assert re.search(r"selected by bic: tied with 3\b", said)
    with (directory / "comparison.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["model"] for row in written] == library.names
    for name in ("log_likelihood", "bic", "aic", "icl", "held_out"):
        np.testing.assert_allclose([float(row[name]) for row in written], library.table[name], rtol=1e-6)
    chosen, fit = library.select("bic"), json.loads((directory / "fit.json").read_text())
    assert (fit["family"], fit["n_components"], fit["selected_by"]) == ("tied", 3, "bic")
    assert fit["agreement"] == library.agreement
    assert fit["objective"] == pytest.approx(chosen.objective)
    assert list(fit["seconds"]) == ["read", "compare", "write"]
    np.testing.assert_allclose(jg.load(directory / "gmm.npz").weights, chosen.gmm.weights, rtol=1e-6)


def test_the_criterion_and_the_prior_choose(tmp_path, library):
    finished = run(
        settings(tmp_path / "run", "compare.criterion=aic", "compare.families=['tied']", "prior.kind=none", "compare.n_init=10")
    )
    table = finished.compared.comparison.table
    assert finished.fit.gmm.n_components == table["n_components"][table["aic"].idxmin()]
    assert finished.fit.prior is None
    assert (table["log_likelihood"] > library.table["log_likelihood"].loc[table.index] - 1e-6).all()


def test_its_choice_is_where_a_posterior_starts(tmp_path):
    overrides = ["posterior.method=laplace", "posterior.n_draws=100", "compare.families=['VII']", "compare.n_components=[2]"]
    finished = run(settings(tmp_path / "run", *overrides, "prior.concentration=2.0"))
    assert finished.fit.prior.concentration == 2
    assert finished.posterior.start.gmm is finished.fit.gmm
    assert finished.posterior.start.gmm.family == "spherical"
    assert "comparison.csv" in {file.name for file in finished.directory.iterdir()}


def test_an_overwritten_comparison_leaves_nothing_of_itself(tmp_path):
    (tmp_path / "run").mkdir()
    for name in FILES:
        (tmp_path / "run" / name).touch()
    plain = load_config(CONFIG.parent / "iris.toml", [f"output.directory={json.dumps(str(tmp_path / 'run'))}"])
    run(plain, overwrite=True)
    assert {file.name for file in (tmp_path / "run").iterdir()} == {name for name in FILES if "comparison" not in name}


def test_what_the_table_says_is_what_the_library_is_asked_for(tmp_path, monkeypatch):
    asked = {}

    class Enough(Exception):
        pass

    def compare(x, **options):
        asked.update(options)
        raise Enough

    monkeypatch.setattr("jaxgmm.app.stages.compare.compare", compare)
    overrides = ["compare.elbo=true", "compare.loo=true", "compare.criterion=log_evidence", "compare.max_steps=7"]
    with pytest.raises(Enough):
        run(load_config(CONFIG, [*overrides, f"output.directory={json.dumps(str(tmp_path / 'run'))}"]))
    wanted = {"elbo": True, "loo": True, "max_steps": 7, "held_out_folds": load_config(CONFIG).compare.held_out_folds}
    assert wanted.items() <= asked.items()


def test_no_model_could_be_fitted(tmp_path):
    (tmp_path / "two.csv").write_text("a,b\n0,1\n1,2\n5,5\n")
    config = tmp_path / "two.toml"
    config.write_text(
        '[data]\npath = "two.csv"\n[prior]\nkind = "none"\n[compare]\nn_components = [2, 3]\nfamilies = ["full"]\n'
    )
    with pytest.raises(jg.FitError, match="no model has a bic: full 2 ended as collapsed"):
        run(load_config(config, [f"output.directory={json.dumps(str(tmp_path / 'run'))}"]))
    with pytest.raises(ValueError, match="it failed in compare: no model has a bic"):
        write_report(tmp_path / "run")
