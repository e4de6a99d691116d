"""`jaxgmm run` with a [posterior] table: its files, what it says, and runs that are interrupted and resumed."""

import contextlib
import dataclasses
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray
from helpers import ROOT, random_member
from matplotlib.figure import Figure
from scipy.stats import norm

import jaxgmm as jg
from jaxgmm import plots
from jaxgmm.app import cli
from jaxgmm.app.config import Config
from jaxgmm.app.config.toml import load_config
from jaxgmm.app.run import Watch, run
from jaxgmm.bayes.trees.storage import load_posterior

pytestmark = pytest.mark.default_precision  # as in a process of its own

CONFIG = ROOT / "configs" / "faithful_posterior.toml"
X = jg.datasets.load_faithful().x
FILES = {
    "config.toml", "gmm.npz", "fit.json", "assignments.csv", "components.png", "trace.png", "responsibilities.png",
    "posterior.nc", "posterior.json", "posterior_chains.png", "posterior_draws.png", "posterior_intervals.png",
}  # fmt: skip
# Chunks are of 100 steps at most, so that 130 draws after 30 steps of warm-up are several.
SHORT = ["posterior.n_draws=130", "posterior.n_warmup=30", "posterior.n_chains=2", "fit.n_init=2", "posterior.groups=[]"]
NUTS = ["posterior.method=nuts", "posterior.target_accept=0.8"]


@pytest.fixture
def real_figures():
    """For the test that looks at them."""


@pytest.fixture(autouse=True)
def _quick_figures(request, monkeypatch):
    """Drawing takes most of the time of a short run."""
    if "real_figures" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: path.write_bytes(b""))


@pytest.fixture
def jaxgmm(capfd):
    """The command line in this process: exit code, stdout, stderr."""

    def call(*arguments, settings=()):
        settings = [part for setting in settings for part in ("--set", setting)]
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in (*arguments, *settings)])
        return int(ended.value.code or 0), *capfd.readouterr()

    return call


def config_for(directory, *overrides):
    return load_config(CONFIG, [*SHORT, *overrides, f"output.directory={json.dumps(str(directory))}"])


def interrupt_after(steps):
    """As a Ctrl-C would once so many steps are done."""

    def draws(done, total):
        if done >= steps:
            raise KeyboardInterrupt

    return Watch(draws=draws)


def interrupted(directory, *overrides, steps=60, **options):
    with pytest.raises(KeyboardInterrupt):
        run(config_for(directory, *overrides), watch=interrupt_after(steps), **options)


def assert_same_draws(first, second):
    """Bit by bit, in every group but for when they were made."""
    assert set(first.children) == set(second.children)
    for group in first.children:
        one, other = first[group].to_dataset(), second[group].to_dataset()
        assert set(one.variables) == set(other.variables)
        for name in one.variables:
            np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=f"{group}/{name}")


def assert_one_line(result, words):
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs of the short config, by method."""
    folder, made = tmp_path_factory.mktemp("whole"), {}

    def get(method="gibbs"):
        if method not in made:
            overrides = NUTS if method == "nuts" else [f"posterior.method={method}"]
            made[method] = run(config_for(folder / method, *overrides))
        return made[method]

    return get


# A whole run


@pytest.mark.usefixtures("real_figures")
def test_writes_its_directory_and_says_what_is_in_it(tmp_path, jaxgmm):
    lenient = ["posterior.thresholds.r_hat=1.2", "posterior.thresholds.ess=10"]
    code, out, err = jaxgmm("run", CONFIG, "--output", tmp_path / "run", settings=[*SHORT, *lenient])
    assert (code, err) == (0, "")
    assert {file.name for file in (tmp_path / "run").iterdir()} == FILES
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    for figure in (tmp_path / "run").glob("*.png"):
        assert figure.read_bytes().startswith(b"\x89PNG")
    assert "posterior  no problems found" in out
    assert "gibbs, 2 chains of 130 draws, after 30 steps of warm-up" in out
    # Label-invariant quantities lead.
    shown = [out.index(name) for name in ("log_likelihood ", "sorted_weights[0] ", " weights[0] ", "means[1, eruptions] ")]
    assert shown == sorted(shown)
    tree = load_posterior(tmp_path / "run" / "posterior.nc")
    low, high = np.quantile(tree["posterior"]["means"].values[..., 1, 0], (0.05, 0.95))
    assert re.search(rf"means\[1, eruptions\] .* {low:.3f}  {high:.3f} ", out)
    assert tree.attrs["relabelled"]


def test_draws_are_those_of_the_library(whole):
    finished = whole("gibbs")
    with jax.enable_x64(True):
        fit = jg.fit(X, 2, key=jax.random.key(0), n_init=2)
        options = {"n_draws": 130, "n_warmup": 30, "n_chains": 2, "feature_names": ("eruptions", "waiting")}
        tree = jg.relabel(jg.posterior(X, fit, method="gibbs", key=jax.random.key(1), **options), fit.gmm)
    assert_same_draws(tree, load_posterior(finished.directory / "posterior.nc"))


def test_the_summary_is_what_diagnose_says(whole):
    finished = whole("gibbs")
    written = json.loads((finished.directory / "posterior.json").read_text())
    diagnostics = jg.diagnose(load_posterior(finished.directory / "posterior.nc"))
    assert written["problems"] == list(diagnostics.problems)
    assert written["ok"] == diagnostics.ok
    assert [row["quantity"] for row in written["quantities"]] == list(diagnostics.table.index)
    for row in written["quantities"]:
        for name in ("mean", "sd", "r_hat", "ess_bulk"):
            expected = diagnostics.table.loc[row["quantity"], name]
            assert row[name] == pytest.approx(expected) if np.isfinite(expected) else row[name] is None
    assert (written["method"], written["n_draws"], written["n_chains"], written["n_warmup"]) == ("gibbs", 130, 2, 30)
    seconds = json.loads((finished.directory / "fit.json").read_text())["seconds"]
    assert list(seconds) == ["read", "prepare", "fit", "posterior", "write"]


def test_thresholds_reach_the_verdict(tmp_path, jaxgmm):
    settings = [*SHORT, "posterior.thresholds.ess=1e6", "posterior.thresholds.r_hat=2.0"]
    code, out, _ = jaxgmm("run", CONFIG, "--output", tmp_path / "run", settings=settings)
    assert code == 0
    assert "1 problem, see below" in out
    assert re.search(r"problem: ESS is down to \d+ \(less than 1e\+06\)", " ".join(out.split()))


def test_the_config_that_it_writes_runs_again_to_the_same_draws(whole, tmp_path, jaxgmm):
    directory = whole("gibbs").directory
    assert jaxgmm("run", directory / "config.toml", "--output", tmp_path / "again")[0] == 0
    assert_same_draws(load_posterior(directory / "posterior.nc"), load_posterior(tmp_path / "again" / "posterior.nc"))
    assert "numpyro" in tomllib.loads((directory / "config.toml").read_text())["versions"]


def test_an_approximation_has_k_hat_and_no_chains(tmp_path, jaxgmm):
    settings = [
        "posterior.method=laplace",
        "posterior.n_draws=200",
        "posterior.n_chains=1",
        "fit.n_init=2",
        "posterior.groups=[]",
    ]
    code, out, err = jaxgmm("run", CONFIG, "--output", tmp_path / "run", settings=settings)
    assert (code, err) == (0, "")
    assert {file.name for file in (tmp_path / "run").iterdir()} == FILES - {"posterior_chains.png"}
    written = json.loads((tmp_path / "run" / "posterior.json").read_text())
    assert re.search(rf"^k-hat +{written['pareto_k']:.2f} *$", out, re.MULTILINE)
    assert "r-hat" not in out


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ({"method": "nuts", "seed": 3, "dense_mass": False}, {"method": "nuts", "dense_mass": False, "prior": None}),
        ({"method": "nuts", "n_warmup": 7, "max_tree_depth": 6}, {"n_warmup": 7, "max_tree_depth": 6, "resume": False}),
        ({"method": "gibbs", "groups": ["prior"], "n_chains": 3}, {"groups": ("prior",), "n_chains": 3, "n_draws": 1000}),
        ({"method": "svi", "guide": "normal", "n_steps": 50}, {"guide": "normal", "n_steps": 50}),
        ({"method": "svi", "learning_rate": 0.1, "batch_size": 20}, {"learning_rate": 0.1, "batch_size": 20}),
    ],
)
def test_what_the_table_says_is_what_the_library_is_asked_for(table, wanted, tmp_path, monkeypatch):
    asked = asked_for(table, tmp_path, monkeypatch)
    assert wanted.items() <= asked.items()
    assert jax.random.key_data(asked["key"]).tolist() == jax.random.key_data(jax.random.key(table.get("seed", 0))).tolist()
    options = {
        "n_warmup",
        "checkpoint",
        "resume",
        "keep_checkpoint",
        "dense_mass",
        "max_tree_depth",
        "guide",
        "n_steps",
        "learning_rate",
        "batch_size",
    }
    chains = {"checkpoint", "resume", "keep_checkpoint"} if table["method"] in ("nuts", "gibbs") else set()
    assert options & asked.keys() == options & table.keys() | chains


def test_richardson_green_is_a_prior_for_one_feature(tmp_path, monkeypatch, jaxgmm):
    asked = asked_for({"method": "gibbs", "prior": "richardson-green"}, tmp_path, monkeypatch, "galaxies", "spherical")
    expected = jg.RichardsonGreen.default(jg.datasets.load_galaxies().x, "spherical")
    assert jax.tree.leaves(asked["prior"]) == jax.tree.leaves(expected)
    assert asked["prior"].family == "spherical"
    result = jaxgmm("run", CONFIG, "--output", tmp_path / "two", settings=["posterior.prior=richardson-green"])
    assert_one_line(result, "x has 2 columns, but RichardsonGreen is a prior for one")


def asked_for(table, folder, monkeypatch, dataset="faithful", family="full"):
    """What jaxgmm.posterior gets from a [posterior] table."""
    asked = {}

    class Enough(Exception):
        pass

    def posterior(x, fit, **options):
        asked.update(options)
        raise Enough

    config = {"data": {"dataset": dataset}, "fit": {"n_components": 2, "family": family, "n_init": 2}}
    config |= {"posterior": table, "output": {"directory": str(folder / "run")}}
    monkeypatch.setattr("jaxgmm.app.stages.posterior.posterior", posterior)
    with pytest.raises(Enough):
        run(Config.model_validate(config))
    return asked


def test_weights_and_prior_reach_the_draws(tmp_path):
    """Rows with counts, given once with sample_weight, have the very density of rows that are there as often."""
    counts = np.random.default_rng(0).multinomial(272, np.full(272, 1 / 272))  # 272 in all: the shape of the others
    table = "eruptions,waiting,n\n" + "".join(f"{a!r},{b!r},{n}\n" for (a, b), n in zip(X.tolist(), counts, strict=True))
    (tmp_path / "rows.csv").write_text(table)
    settings = ["prior.concentration=3.0", "data.sample_weight=n", f"data.path={json.dumps(str(tmp_path / 'rows.csv'))}"]
    config = tmp_path / "weighted.toml"
    config.write_text('[data]\n[fit]\nn_components = 2\n[posterior]\nmethod = "gibbs"\n')
    finished = run(load_config(config, [*SHORT, *settings, f"output.directory={json.dumps(str(tmp_path / 'run'))}"]))
    tree = load_posterior(finished.directory / "posterior.nc")
    np.testing.assert_array_equal(tree["constant_data"]["sample_weight"], counts)
    np.testing.assert_array_equal(tree["constant_data"]["prior_concentration"], 3.0)
    draw = jax.tree.map(lambda leaf: leaf[1, 7], jg.draws_of(tree))
    with jax.enable_x64(True):
        expected = np.asarray(draw.log_prob(np.repeat(X, counts, axis=0))).sum()
    assert float(tree["posterior"]["log_likelihood"][1, 7]) == pytest.approx(expected, rel=1e-10)


def test_an_overwritten_posterior_leaves_nothing_of_itself(tmp_path, whole, jaxgmm):
    directory = Path(shutil.copytree(whole("gibbs").directory, tmp_path / "run"))
    plain = CONFIG.parent / "iris.toml"
    assert jaxgmm("run", plain, "--output", directory, "--overwrite", settings=["fit.n_init=2"])[0] == 0
    assert {file.name for file in directory.iterdir()} == {name for name in FILES if "posterior" not in name}


# Interrupted and resumed


@pytest.mark.parametrize("method", ["gibbs", "nuts"])
@pytest.mark.parametrize("steps", [1, 60])  # during the warm-up; among the draws
def test_a_resumed_run_has_the_draws_of_an_uninterrupted_one(method, steps, tmp_path, whole):
    overrides = NUTS if method == "nuts" else []
    interrupted(tmp_path / "run", *overrides, steps=steps)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["unfinished"]
    first = []
    watch = Watch(draws=lambda done, total: first.append(done))
    finished = run(config_for(tmp_path / "run", *overrides), resume=True, watch=watch)
    assert first[0] > steps  # it went on, and didn't begin anew
    assert {file.name for file in finished.directory.iterdir()} == FILES
    expected = load_posterior(whole(method).directory / "posterior.nc")
    assert_same_draws(expected, load_posterior(finished.directory / "posterior.nc"))


def test_interrupted_more_than_once(tmp_path, whole):
    interrupted(tmp_path / "run", steps=20)
    interrupted(tmp_path / "run", steps=50, resume=True)
    interrupted(tmp_path / "run", steps=130, resume=True)
    finished = run(config_for(tmp_path / "run"), resume=True)
    assert_same_draws(finished.posterior.tree, whole("gibbs").posterior.tree)


def test_an_interruption_after_the_last_draw_loses_none(tmp_path, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("jaxgmm.plots.draws", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(config_for(tmp_path / "run"))
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["unfinished"]
    reports = []
    finished = run(config_for(tmp_path / "run"), resume=True, watch=Watch(draws=lambda *steps: reports.append(steps)))
    assert reports == []
    assert_same_draws(finished.posterior.tree, whole("gibbs").posterior.tree)


def test_a_fit_that_differs_in_its_last_digits_does_not_end_a_run(tmp_path, whole, monkeypatch):
    """On another machine, say: the chains go on from where they began."""
    interrupted(tmp_path / "run")
    original = jg.fit

    def nearly(*arguments, **options):
        fit = original(*arguments, **options)
        gmm = dataclasses.replace(fit.gmm, means=np.nextafter(np.asarray(fit.gmm.means), np.inf))
        return dataclasses.replace(fit, gmm=gmm)

    monkeypatch.setattr("jaxgmm.app.stages.fit.fit", nearly)
    finished = run(config_for(tmp_path / "run"), resume=True)
    assert_same_draws(finished.posterior.tree, whole("gibbs").posterior.tree)


def test_a_terminated_run_goes_on(tmp_path, jaxgmm, monkeypatch, whole):
    """SIGTERM, as batch systems send it before they kill."""

    def draws(done, total):
        if done >= 60:
            signal.raise_signal(signal.SIGTERM)

    @contextlib.contextmanager
    def watched(name, quiet=False):
        yield Watch(draws=draws)

    with monkeypatch.context() as patch:
        patch.setattr("jaxgmm.app.terminal.watched", watched)
        code, out, err = jaxgmm("run", CONFIG, "--output", tmp_path / "run", settings=SHORT)
    assert (code, out) == (143, "")
    assert err.startswith("terminated: what is done is kept; continue with: jaxgmm run ")
    finished = run(config_for(tmp_path / "run"), resume=True)
    assert_same_draws(finished.posterior.tree, whole("gibbs").posterior.tree)


def test_the_command_line_says_how_to_continue(tmp_path, jaxgmm, monkeypatch, whole):
    @contextlib.contextmanager
    def watched(name, quiet=False):
        yield interrupt_after(60)

    arguments = ("run", CONFIG, "--output", tmp_path / "my run")
    with monkeypatch.context() as patch:
        patch.setattr("jaxgmm.app.terminal.watched", watched)
        code, out, err = jaxgmm(*arguments, settings=SHORT)
    assert (code, out) == (130, "")
    assert err.startswith("interrupted: what is done is kept; continue with: jaxgmm run ")
    assert err.count("\n") == 1
    assert f"--output '{tmp_path / 'my run'}' --resume\n" in err
    assert "--set posterior.n_draws=130" in err

    assert_one_line(
        jaxgmm(*arguments, settings=SHORT), "unfinished run: continue it with --resume, or start again with --overwrite"
    )
    changed = [*SHORT, "posterior.n_draws=140", "fit.n_init=3"]
    result = jaxgmm(*arguments, "--resume", settings=changed)
    assert_one_line(result, "fit.n_init was 2, is now 3; posterior.n_draws was 130, is now 140")
    result = jaxgmm(*arguments, "--resume", settings=[*SHORT, "posterior.target_accept=0.9", "posterior.method=nuts"])
    assert_one_line(result, "posterior.method was 'gibbs', is now 'nuts'; posterior.target_accept was 'left out', is now 0.9")

    code, out, err = jaxgmm(*arguments, "--resume", settings=SHORT)
    assert (code, err) == (0, "")
    assert_same_draws(load_posterior(tmp_path / "my run" / "posterior.nc"), whole("gibbs").posterior.tree)


def test_a_process_that_gets_a_signal_keeps_its_draws(tmp_path, whole):
    """SIGINT to a real process: exit code 130 and one line; resumed, the draws are those of an uninterrupted run."""
    settings = [part for setting in SHORT for part in ("--set", setting)]
    arguments = ["run", str(CONFIG), "--output", str(tmp_path / "run"), *settings]
    # Python leaves SIGINT ignored where its parent did, as shells do for what runs in the background. Reports take a minute
    # here, so that there is time to interrupt.
    script = f"""
import contextlib, signal, time
import jaxgmm.app.terminal
from jaxgmm.app.cli import main
from jaxgmm.app.run import Watch

@contextlib.contextmanager
def watched(name, quiet=False):
    yield Watch(draws=lambda done, total: time.sleep(60 if done > 30 else 0))

jaxgmm.app.terminal.watched = watched
signal.signal(signal.SIGINT, signal.default_int_handler)
main({arguments})
"""
    draws = tmp_path / "run" / "unfinished" / "posterior"
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as process:
        try:
            while not list(draws.glob("draws_*.npz")):
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.1)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err.startswith("interrupted: what is done is kept; continue with: jaxgmm run ")
    assert err.count("\n") == 1
    finished = run(config_for(tmp_path / "run"), resume=True)
    assert_same_draws(finished.posterior.tree, whole("gibbs").posterior.tree)


def test_resume_needs_an_unfinished_run(tmp_path, whole, jaxgmm):
    arguments = ("run", CONFIG, "--resume", "--output")
    assert_one_line(jaxgmm(*arguments, tmp_path / "none"), "holds no unfinished run to resume: leave out --resume")
    assert_one_line(
        jaxgmm(*arguments, whole("gibbs").directory), "holds no unfinished run to resume: the run there is finished"
    )
    assert_one_line(jaxgmm(*arguments, tmp_path / "none", "--overwrite"), "give one of them")
    assert list(tmp_path.iterdir()) == []


def test_a_run_killed_before_its_first_draws_says_that_it_starts_again(tmp_path, jaxgmm):
    (tmp_path / "run" / "unfinished" / "posterior").mkdir(parents=True)
    (tmp_path / "run" / "unfinished" / "config.toml").write_text("[da")
    code, out, err = jaxgmm("run", CONFIG, "--output", tmp_path / "run", "--resume", "--quiet", settings=SHORT)
    assert (code, out, err) == (0, "", f"{tmp_path / 'run'}: nothing to resume, starts from the beginning\n")
    assert {file.name for file in (tmp_path / "run").iterdir()} == FILES


def test_overwrite_starts_again(tmp_path):
    interrupted(tmp_path / "run")
    reports = []
    config = config_for(tmp_path / "run", "posterior.seed=2")
    finished = run(config, overwrite=True, watch=Watch(draws=lambda done, total: reports.append(done)))
    assert reports[0] <= 10
    assert {file.name for file in finished.directory.iterdir()} == FILES


def test_an_interrupted_replacement_leaves_the_run_that_was_there(tmp_path, whole):
    directory = Path(shutil.copytree(whole("gibbs").directory, tmp_path / "run"))
    before = (directory / "posterior.nc").read_bytes()
    interrupted(directory, "posterior.seed=2", overwrite=True)
    assert (directory / "posterior.nc").read_bytes() == before
    assert {file.name for file in directory.iterdir()} == FILES | {"unfinished"}
    run(config_for(directory, "posterior.seed=2"), resume=True)
    assert (directory / "posterior.nc").read_bytes() != before
    assert {file.name for file in directory.iterdir()} == FILES


def test_what_fails_before_the_first_draw_leaves_nothing(tmp_path, monkeypatch, jaxgmm):
    monkeypatch.setattr("jaxgmm.app.stages.posterior.posterior", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    code, out, err = jaxgmm("run", CONFIG, "--output", tmp_path / "a" / "run", settings=SHORT)
    assert (code, out, err) == (130, "", "interrupted: nothing is kept of this run\n")
    assert list(tmp_path.iterdir()) == []


def test_damaged_checkpoints_are_named(tmp_path, jaxgmm):
    directory = tmp_path / "run"
    interrupted(directory)
    arguments = ("run", CONFIG, "--output", directory, "--resume")
    state = directory / "unfinished" / "posterior" / "state.npz"
    whole_state = state.read_bytes()
    state.write_bytes(whole_state[:100])
    assert_one_line(jaxgmm(*arguments, settings=SHORT), "state.npz can't be read")
    state.write_bytes(whole_state)
    start = directory / "unfinished" / "start.npz"
    start.write_bytes(start.read_bytes()[:100])
    assert_one_line(jaxgmm(*arguments, settings=SHORT), "start.npz can't be read")


def test_other_data_are_not_resumed(tmp_path, jaxgmm):
    (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in X.tolist()))
    config = tmp_path / "own.toml"
    config.write_text(
        CONFIG.read_text().replace('dataset = "faithful"\ncolumns = ["eruptions", "waiting"]', 'path = "rows.csv"')
    )
    overrides = [*SHORT, f"output.directory={json.dumps(str(tmp_path / 'run'))}"]
    with pytest.raises(KeyboardInterrupt):
        run(load_config(config, overrides), watch=interrupt_after(60))
    (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in (X + 1).tolist()))
    assert_one_line(jaxgmm("run", config, "--resume", settings=overrides), "belongs to another run: data was")


# Bad input


def test_a_column_that_cannot_name_a_variable_is_said_before_the_fit(tmp_path, jaxgmm, monkeypatch):
    monkeypatch.setattr("jaxgmm.app.stages.fit.fit", None)
    (tmp_path / "rows.csv").write_text("a,draw\n1,2\n2,3\n4,4\n5,1\n")
    config = tmp_path / "own.toml"
    config.write_text('[data]\npath = "rows.csv"\n[fit]\nn_components = 1\n[posterior]\nmethod = "gibbs"\n')
    assert_one_line(jaxgmm("run", config, "--output", tmp_path / "run"), "feature_names[1] is 'draw', but a name mustn't be")


def test_maximum_likelihood_has_no_posterior(tmp_path, jaxgmm):
    result = jaxgmm("run", CONFIG, "--output", tmp_path / "run", settings=["prior.kind=none"])
    assert_one_line(result, "[posterior] needs a prior, but prior.kind = 'none'")


def test_a_missing_h5netcdf_is_one_line(tmp_path):
    script = (
        f"import sys; sys.modules['h5netcdf'] = None; from jaxgmm.app.cli import main; main(['run', {str(CONFIG)!r}, "
        f"'--output', {str(tmp_path / 'run')!r}])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    wanted = "error: the command line needs h5netcdf, which is not installed: pip install 'jaxgmm[cli]'\n"
    assert (result.returncode, result.stderr) == (2, wanted)


# Figures


@pytest.fixture(scope="module")
def tree(whole):
    return whole("gibbs").posterior.tree


def test_chains_are_drawn_as_they_are(tree):
    figure = plots.chains(tree)
    axes = figure.axes
    values = tree["posterior"]["log_likelihood"].values
    for chain, line in enumerate(axes[0].lines):
        np.testing.assert_array_equal(line.get_ydata(), values[chain])
    assert [ax.get_ylabel() for ax in axes[::2]] == ["log-likelihood", "entropy of a row", "clusters (K₊)", "weight of rank 0"]
    # Ranks: each chain's share of each bin of all draws, by counting.
    order = np.argsort(np.argsort(values.ravel())).reshape(values.shape)
    for chain, steps in enumerate(axes[1].patches[-len(values) :]):
        heights, edges = steps.get_data().values, steps.get_data().edges
        expected = [(len(edges) - 1) * np.mean((order[chain] >= a) & (order[chain] < b)) for a, b in itertools.pairwise(edges)]
        np.testing.assert_allclose(heights, expected)


def test_intervals_are_quantiles_of_the_draws(tree, whole):
    gmm = whole("gibbs").fit.gmm
    figure = plots.intervals(tree, gmm, feature_names=["a", "b"])
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes}
    assert set(panels) == {"weight", "mean, a", "mean, b", "sd, a", "sd, b", ""}
    means = tree["posterior"]["means"].values.reshape(-1, 2, 2)
    outer, inner, median, fitted = panels["mean, b"].lines[4:8]  # component 1
    np.testing.assert_allclose(outer.get_xdata(), np.quantile(means[:, 1, 1], (0.05, 0.95)))
    np.testing.assert_allclose(inner.get_xdata(), np.quantile(means[:, 1, 1], (0.25, 0.75)))
    np.testing.assert_allclose(median.get_xdata(), np.median(means[:, 1, 1]))
    np.testing.assert_allclose(fitted.get_xdata(), gmm.means[1, 1])
    sds = np.sqrt(tree["posterior"]["covariances"].values.reshape(-1, 2, 2, 2)[:, 0, 0, 0])
    np.testing.assert_allclose(panels["sd, a"].lines[0].get_xdata(), np.quantile(sds, (0.05, 0.95)))


def test_ellipses_are_those_of_draws(tree, whole):
    gmm = whole("gibbs").fit.gmm
    ax = plots.draws(tree, X, gmm, n_draws=10).axes[0]
    first, second, fitted = ax.collections
    means, covariances = (
        tree["posterior"][name].values.reshape(-1, *tree["posterior"][name].shape[2:]) for name in ("means", "covariances")
    )
    picked = np.linspace(0, len(means) - 1, 10).round().astype(int)
    assert (len(first.get_paths()), len(second.get_paths()), len(fitted.get_paths())) == (10, 10, 2)
    for k, collection in enumerate((first, second)):
        for draw, path in zip(picked, collection.get_paths(), strict=True):
            assert_2_sd_away(path.vertices, means[draw, k], covariances[draw, k])
    for k, path in enumerate(fitted.get_paths()):
        assert_2_sd_away(path.vertices, np.asarray(gmm.means)[k], np.asarray(gmm.covariances)[k])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("eruptions", "waiting")


def assert_2_sd_away(points, mean, covariance):
    z = points - mean
    np.testing.assert_allclose(np.einsum("pi,pi->p", z, np.linalg.solve(covariance, z.T).T), 4, rtol=1e-9)


def tree_about(gmm, n_draws=20):
    """Draws with nothing but parameters: those of `gmm` times about 1."""
    rng = np.random.default_rng(0)
    dims = {"weights": 1, "means": 2, "covariances": 1}
    names = ("component_id", "feature")
    posterior = {
        name: (("chain", "draw", *names[:n]), getattr(gmm, name) * rng.uniform(0.9, 1.1, (2, n_draws, *(1,) * n)))
        for name, n in dims.items()
    }
    feature = [f"f{d}" for d in range(gmm.n_features)]
    tree = xarray.DataTree.from_dict({"posterior": xarray.Dataset(posterior, {"feature": feature})})
    tree.attrs["family"] = gmm.family
    return tree


@pytest.mark.parametrize(("n_features", "n_axes"), [(1, 1), (2, 1), (4, 10), (6, 15)])
def test_figures_of_any_number_of_features(n_features, n_axes):
    gmm = random_member("spherical", 3, n_features)
    x = np.random.default_rng(1).normal(size=(50, n_features))
    tree = tree_about(gmm)
    figure = plots.draws(tree, x, gmm)
    assert len(figure.axes) == n_axes
    assert ("first 5 of 6 features" in str(figure.get_suptitle())) == (n_features == 6)
    low, high = x[:, 0].min(), x[:, 0].max()
    assert figure.axes[0].get_xlim() == pytest.approx((low - 0.15 * (high - low), high + 0.15 * (high - low)))
    figure = plots.intervals(tree)
    assert len(figure.axes) == 2 * (1 + min(n_features, 4))
    assert ("first 4 of 6 features" in figure.get_suptitle()) == (n_features == 6)


def test_bands_are_quantiles_of_the_densities():
    gmm = random_member("spherical", 2, 1)
    tree = tree_about(gmm, n_draws=50)
    ax = plots.draws(tree, np.linspace(-3, 3, 30)[:, None]).axes[0]
    draws = {name: tree["posterior"][name].values.reshape(100, -1) for name in ("weights", "means", "covariances")}
    grid = ax.lines[1].get_xdata()
    values = [w * norm.pdf(grid, m, np.sqrt(v)) for w, m, v in zip(*(draws[name][:, 1] for name in draws), strict=True)]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), np.median(values, axis=0), atol=1e-12)


def test_wrong_figures_are_named(tree, whole):
    with pytest.raises(TypeError, match=r"plots.chains needs the DataTree"):
        plots.chains(whole("gibbs").fit)
    with pytest.raises(ValueError, match=r"plots.chains needs"):
        plots.chains(tree.drop_nodes("posterior"))
    with pytest.raises(ValueError, match=r"gmm has means of shape \(1, 1\), the draws of \(2, 2\)"):
        plots.intervals(tree, jg.GMM([1.0], [[0.0]], [1.0], "spherical"))
    with pytest.raises(ValueError, match=r"x has 1 column"):
        plots.draws(tree, X[:, :1])
