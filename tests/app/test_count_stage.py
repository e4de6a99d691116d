"""`jaxgmm run` with a [count] table: its files, what it says, and runs that are interrupted and resumed."""

import csv
import json
import re

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT
from matplotlib.figure import Figure

import jaxgmm as jg
from jaxgmm.app import cli
from jaxgmm.app.config.toml import load_config
from jaxgmm.app.run import Watch, run

pytestmark = pytest.mark.default_precision  # as in a process of its own

# Two groups of rows, far apart: a short run is enough, and starts of any number of components.
X = (np.random.default_rng(0).normal(size=(20, 1)) + 20 * (np.arange(20)[:, None] % 2)).round(3)
CONFIG = """
[data]
path = "rows.csv"
[fit]
n_components = 2
family = "spherical"
n_init = 2
[count]
max_components = 6
n_draws = 130
n_warmup = 20
n_chains = 2
n_moves = 1
seed = 3
[count.thresholds]
r_hat = 9.0
ess = 1.0
mcse = 1.0
cut_off = 1.0
"""
FILES = {
    "config.toml", "gmm.npz", "fit.json", "assignments.csv", "components.png", "trace.png", "responsibilities.png",
    "counts.nc", "cluster_count.csv", "cluster_count.png", "similarity.png", "partitions.csv", "partitions.png",
}  # fmt: skip


@pytest.fixture
def quick_figures(monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: path.write_bytes(b""))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    np.savetxt(folder / "rows.csv", X, header="speed", comments="", fmt="%.3f")
    (folder / "small.toml").write_text(CONFIG)
    return folder / "small.toml"


@pytest.fixture(scope="module")
def library():
    """The tree that the config asks for."""
    with jax.enable_x64(True):
        options = {"family": "spherical", "max_components": 6, "n_draws": 130, "n_warmup": 20, "n_chains": 2, "n_moves": 1}
        return jg.count_clusters(X, key=jax.random.key(3), feature_names=["speed"], **options)


def settings(config, directory, *overrides):
    return load_config(config, [*overrides, f"output.directory={json.dumps(str(directory))}"])


def said_by(capfd, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), " ".join(out.split()), err


def interrupt(stage, steps):
    """As a Ctrl-C would in a stage, once so many steps of it are done."""
    now = []

    def draws(done, total):
        if now[-1] == stage and done >= steps:
            raise KeyboardInterrupt

    return Watch(stage=now.append, draws=draws)


def test_writes_its_directory_and_says_what_is_in_it(tmp_path, config, library, capfd):
    directory = tmp_path / "run"
    code, said, err = said_by(capfd, "run", config, "--output", directory)
    assert (code, err) == (0, "")
    assert {file.name for file in directory.iterdir()} == FILES
    for figure in directory.glob("*.png"):
        assert figure.read_bytes().startswith(b"\x89PNG")
    tree = jg.load_posterior(directory / "counts.nc")
    assert tree.equals(library)
    count = jg.cluster_count(library, r_hat=9, ess=1, cut_off=1)
    assert count.verdict in said
    assert re.search(rf"\b{count.mode} {count.table['posterior'][count.mode]:.3f} ", said)
    with (directory / "cluster_count.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [int(row["n_clusters"]) for row in written] == list(range(1, 7))
    for name in count.table:
        values = [float(row[name] or "nan") for row in written]  # an empty field: not known, as of counts that no draw has
        np.testing.assert_allclose(values, count.table[name], rtol=1e-6)
    summary = json.loads((directory / "fit.json").read_text())
    assert (summary["count"]["n_clusters"], summary["count"]["verdict"]) == (count.mode, count.verdict)
    assert list(summary["seconds"]) == ["read", "prepare", "fit", "count", "write"]
    plausible = jg.partitions(library)
    weights = [row["weight"] for row in summary["count"]["partitions"]]
    np.testing.assert_allclose(weights, plausible.table["weight"], rtol=1e-12)
    pd.testing.assert_frame_equal(
        pd.read_csv(directory / "partitions.csv", index_col="row"), plausible.to_frame(), check_names=False
    )


@pytest.mark.usefixtures("quick_figures")
def test_a_verdict_that_is_withheld_is_a_warning(tmp_path, config, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    demand = ("--set", "count.thresholds.ess=1e6")
    code, said, _ = said_by(capfd, "run", config, "--output", tmp_path / "run", *demand)
    assert code == 0
    assert re.search(r"\x1b\[33mnot converged: ESS of the number of clusters is \d+ \(less than 1e\+06\)", plain_numbers(said))
    summary = json.loads((tmp_path / "run" / "fit.json").read_text())["count"]
    assert summary["n_clusters"] is None
    assert summary["problems"]


def plain_numbers(said):
    return said.replace("\x1b[0m\x1b[33m", "")


@pytest.mark.usefixtures("quick_figures")
@pytest.mark.parametrize("steps", [1, 60])  # during the warm-up; among the draws
def test_a_resumed_run_has_the_draws_of_an_uninterrupted_one(steps, tmp_path, config, library):
    table = settings(config, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run(table, watch=interrupt("count", steps))
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["unfinished"]
    first = []
    finished = run(table, resume=True, watch=Watch(draws=lambda done, total: first.append(done)))
    assert first[0] > steps  # it went on, and didn't begin anew
    assert {file.name for file in finished.directory.iterdir()} == FILES
    assert finished.counted.tree.equals(library)


@pytest.mark.usefixtures("quick_figures")
@pytest.mark.parametrize("killed", [False, True])
def test_a_posterior_before_it_is_kept_and_not_drawn_again(killed, tmp_path, config, library):
    posterior = ["posterior.method=gibbs", "posterior.n_draws=20", "posterior.n_warmup=5", "posterior.n_chains=2"]
    table = settings(config, tmp_path / "run", *posterior)
    with pytest.raises(KeyboardInterrupt):
        run(table, watch=interrupt("count", 1))
    kept = tmp_path / "run" / "unfinished" / "posterior"
    assert list(kept.glob("draws_*.npz"))
    if killed:  # in the middle of writing its first checkpoint
        (kept.parent / "count" / "state.npz").rename(kept.parent / "count" / ".state.partial-0123abcd.npz")
    stages, reports = [], []
    watch = Watch(stage=stages.append, draws=lambda done, total: reports.append(stages[-1]))
    finished = run(table, resume=True, watch=watch)
    assert stages == ["fit", "posterior", "count", "partitions", "write"]
    assert set(reports) == {"count"}
    assert finished.posterior.summary["n_draws"] == 20
    assert finished.counted.tree.equals(library)


@pytest.mark.usefixtures("quick_figures")
def test_an_overwritten_count_leaves_nothing_of_itself(tmp_path, config):
    (tmp_path / "run").mkdir()
    for name in FILES:
        (tmp_path / "run" / name).touch()
    plain = config.with_name("plain.toml")
    plain.write_text(CONFIG.partition("[count]")[0])
    run(settings(plain, tmp_path / "run"), overwrite=True)
    count = {"counts.nc", "cluster_count.csv", "cluster_count.png", "similarity.png", "partitions.csv", "partitions.png"}
    assert {file.name for file in (tmp_path / "run").iterdir()} == FILES - count


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ([], {"n_draws": 130, "model": "mixture", "thin": 1, "resume": False}),
        (["count.model=sparse", "count.thin=2"], {"model": "sparse", "thin": 2}),
        (["count.weights=static", "count.alpha=2", "count.n_components=poisson"], {"alpha": 2.0, "n_components": "poisson"}),
        (["count.n_components=[1, 1, 1, 1, 1, 1]"], {"n_components": (1.0,) * 6}),
    ],
)
def test_what_the_table_says_is_what_the_library_is_asked_for(overrides, wanted, tmp_path, config, monkeypatch):
    asked = asked_for(settings(config, tmp_path / "run", *overrides), monkeypatch)
    assert wanted.items() <= asked.items()
    assert jax.random.key_data(asked["key"]).tolist() == jax.random.key_data(jax.random.key(3)).tolist()
    assert asked["checkpoint"] == tmp_path / "run" / "unfinished" / "count"


def test_its_prior_is_that_of_the_config_and_of_the_family_of_the_fit(tmp_path, config, monkeypatch):
    table = settings(config, tmp_path / "run", "fit.family=VVV", "prior.mean_precision=0.25")
    asked, default = asked_for(table, monkeypatch), jg.Prior.default(X, 1, "full")
    assert asked["family"] == "full"
    assert asked["prior"](default).mean_precision == 0.25
    np.testing.assert_array_equal(asked["prior"](default).scale, default.scale)
    table = settings(config, tmp_path / "run", "fit.family=EEE", "count.family=VVI", "prior.kind=fraley-raftery")
    asked = asked_for(table, monkeypatch)
    assert (asked["family"], asked["prior"]) == ("diag", "fraley-raftery")
    prior = asked_for(settings(config, tmp_path / "run", "count.prior=richardson-green"), monkeypatch)["prior"]
    assert (type(prior), prior.family) == (jg.RichardsonGreen, "spherical")


def asked_for(table, monkeypatch):
    """What jaxgmm.count_clusters gets from a config."""
    asked = {}

    class Enough(Exception):
        pass

    def count_clusters(x, **options):
        asked.update(options)
        raise Enough

    monkeypatch.setattr("jaxgmm.app.stages.count.count_clusters", count_clusters)
    with pytest.raises(Enough):
        run(table)
    return asked


@pytest.mark.usefixtures("quick_figures")
def test_without_a_fit_its_answer_is_how_many_components_are_fitted(tmp_path, config, library):
    alone = config.with_name("alone.toml")
    alone.write_text(re.sub(r"(?s)\[fit\].*?(?=\[count\])", "", CONFIG).replace("[count]", '[count]\nfamily = "VII"', 1))
    table = settings(alone, tmp_path / "run")
    for steps in (60, None):  # interrupted, then resumed
        stages = []
        watch = interrupt("count", steps) if steps else Watch(stage=stages.append)
        try:
            finished = run(table, resume=steps is None, watch=watch)
        except KeyboardInterrupt:
            assert [file.name for file in (tmp_path / "run").iterdir()] == ["unfinished"]
    assert stages == ["count", "partitions", "fit", "write"]
    assert finished.counted.tree.equals(library)
    gmm = finished.fit.gmm
    assert (gmm.n_components, gmm.family) == (finished.counted.count.mode, "spherical")
    assert finished.fit.objective == jg.fit(X, gmm.n_components, key=jax.random.key(0), family="spherical").objective
    assert finished.summary["n_components_from"] == "count"
    assert {file.name for file in finished.directory.iterdir()} == FILES


def test_a_prior_for_one_feature_is_refused_before_the_fit(tmp_path):
    galaxies = ROOT / "configs" / "galaxies.toml"
    stages = []
    with pytest.raises(ValueError, match="x has 2 columns, but RichardsonGreen is a prior for one"):
        run(settings(galaxies, tmp_path / "run", "data.dataset=faithful"), watch=Watch(stage=stages.append))
    assert stages == []
