"""Runs on rows that memory doesn't hold: the results of a run on the same rows, by one process or by two."""

import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import jaxgmm as jg

pytestmark = pytest.mark.default_precision  # as in a process of its own

CONFIG = """
[data]
path = "rows/*.parquet"
in_pieces = true
[fit]
n_components = 2
n_init = 2
rtol = 0
max_steps = 30
[output]
assignments = "parquet"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a config and its rows, Old Faithful's in three files."""
    (tmp_path / "rows").mkdir()
    frame = pd.DataFrame(jg.datasets.load_faithful().x, columns=["eruptions", "waiting"])
    for i in range(3):
        frame.iloc[i * 91 : (i + 1) * 91].to_parquet(tmp_path / "rows" / f"part{i}.parquet")
    (tmp_path / "config.toml").write_text(CONFIG)
    frame.to_parquet(tmp_path / "all.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def process(*arguments, **options):
    """Of its own, which runs the command line."""
    command = [sys.executable, "-c", "import sys; from jaxgmm.app.cli import main; main(sys.argv[1:])", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def ended(child, code=0):
    out, err = child.communicate(timeout=240)
    assert child.returncode == code, (out, err)
    return out, err


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def well(said):
    """Of a command that should work."""
    code, out, err = said
    assert code == 0, (out, err)


def summary(directory):
    return json.loads((directory / "fit.json").read_text())


def test_a_run_is_that_of_rows_in_memory(place, jaxgmm):
    well(jaxgmm("run", "config.toml", "--output", "pieces", "--quiet"))
    memory = ["--set", "data.in_pieces=false", "--set", "data.path=all.parquet"]
    well(jaxgmm("run", "config.toml", *memory, "--output", "memory", "--quiet"))
    own, theirs = summary(place / "pieces"), summary(place / "memory")
    for name in ("objective", "log_likelihood", "bic", "aic", "icl"):
        assert own[name] == pytest.approx(theirs[name], rel=1e-9), name
    for name in ("n_samples", "n_steps", "replication", "feature_names", "n_parameters"):
        assert own[name] == theirs[name], name
    a, b = (pd.read_parquet(place / run / "assignments.parquet") for run in ("pieces", "memory"))
    pd.testing.assert_frame_equal(a, b, rtol=1e-6)
    assert not (place / "pieces" / "unfinished").exists()


def test_predict_reads_a_folder_a_piece_at_a_time(place, jaxgmm):
    well(jaxgmm("run", "config.toml", "--output", "run", "--quiet"))
    well(jaxgmm("predict", "run", "rows", "--output", "predicted.parquet"))
    a, b = (pd.read_parquet(file) for file in (place / "predicted.parquet", place / "run" / "assignments.parquet"))
    pd.testing.assert_frame_equal(a, b)
    code, _, err = jaxgmm("predict", "run", "nothing*.parquet", "--output", "none.parquet")
    assert code == 2
    assert "no data file nothing*.parquet" in err
    assert not (place / "none.parquet").exists()


def test_weights_come_with_the_rows(place, jaxgmm):
    frame = pd.read_parquet(place / "all.parquet").assign(n=np.random.default_rng(0).integers(0, 3, 272).astype(float))
    frame.to_parquet(place / "all.parquet", row_group_size=100)
    options = ["--set", "data.path=all.parquet", "--set", "data.sample_weight=n", "--quiet"]
    well(jaxgmm("run", "config.toml", *options, "--output", "pieces"))
    well(jaxgmm("run", "config.toml", *options, "--set", "data.in_pieces=false", "--output", "memory"))
    own, theirs = summary(place / "pieces"), summary(place / "memory")
    assert own["icl"] == pytest.approx(theirs["icl"], rel=1e-9)
    a, b = (pd.read_parquet(place / run / "assignments.parquet") for run in ("pieces", "memory"))
    pd.testing.assert_frame_equal(a, b, rtol=1e-6)


def test_predict_takes_patterns_and_delimiters(place, jaxgmm):
    well(jaxgmm("run", "config.toml", "--output", "run", "--quiet"))
    (place / "csv").mkdir()
    frame = pd.read_parquet(place / "all.parquet")
    for i in range(2):
        frame.iloc[i * 136 : (i + 1) * 136].to_csv(place / "csv" / f"{i}.csv", sep=";", index=False)
    for data in ("csv", "csv/*.csv"):
        well(jaxgmm("predict", "run", data, "--delimiter", ";", "--output", "out.parquet", "--overwrite"))
        found, expected = pd.read_parquet(place / "out.parquet"), pd.read_parquet(place / "run" / "assignments.parquet")
        assert (found["component"][:272] == expected["component"]).all()


def test_a_run_that_is_killed_is_resumed(place, jaxgmm):
    """By SIGKILL and by SIGTERM, in the middle of the fit: then with the numbers of an uninterrupted run."""
    steps = ["--set", "fit.max_steps=400", "--set", "fit.n_init=1", "--set", "fit.n_components=3"]
    well(jaxgmm("run", "config.toml", *steps, "--output", "whole", "--quiet"))
    often = [sys.executable, "-c", _OFTEN, "run", "config.toml", *steps, "--output", "killed", "--quiet"]
    for kill, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        again = [] if kill is signal.SIGKILL else ["--resume"]
        child = subprocess.Popen([*often, *again], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(20):
            child.stdout.readline()
        child.send_signal(kill)
        _, err = child.communicate(timeout=60)
        assert child.returncode == code, err
    assert "continue with: jaxgmm run config.toml" in err
    well(jaxgmm("run", "config.toml", *steps, "--output", "killed", "--quiet", "--resume"))
    a, b = (jg.load(place / run / "gmm.npz") for run in ("whole", "killed"))
    np.testing.assert_array_equal(a.means, b.means)
    assert not (place / "killed" / "unfinished").exists()


_OFTEN = """
import sys
from jaxgmm.fitting import checkpoint, loop
from jaxgmm.app.cli import main
loop._FLOPS_BETWEEN_REPORTS = 0.0
loop._SECONDS_BETWEEN_LOOKS = 0.0
checkpoint.Checkpoint.__init__.__kwdefaults__["seconds"] = 0.0
save = checkpoint.Part.save
def told(self, search, *, ended):
    save(self, search, ended=ended)
    print("kept", flush=True)
checkpoint.Part.save = told
main(sys.argv[1:])
"""


def test_two_processes_write_one_run(place, jaxgmm):
    address = free_address()
    well(jaxgmm("run", "config.toml", "--output", "one", "--quiet"))
    two = [
        process(
            "run", "config.toml", "--output", "two", "--distributed", "--coordinator", address, "--processes", 2, "--process", i
        )
        for i in range(2)
    ]
    (out, _), (other, _) = map(ended, two)
    assert "written to" in out
    assert "written to" not in other
    own, theirs = summary(place / "two"), summary(place / "one")
    assert own["objective"] == pytest.approx(theirs["objective"], rel=1e-10)
    assert own["icl"] == pytest.approx(theirs["icl"], rel=1e-9)
    a, b = (pd.read_parquet(place / run / "assignments.parquet") for run in ("two", "one"))
    pd.testing.assert_frame_equal(a, b, rtol=1e-6)
    # A directory that isn't free, in the first process, ends both; so do configs that differ in anything.
    for more, words in (
        ((), "already holds a run"),
        (("--set", "data.in_pieces=false"), "the config of process"),
    ):
        address = free_address()
        both = ("--distributed", "--coordinator", address, "--processes", 2)
        two = [process("run", "config.toml", "--output", "two", *both, "--process", i, *(more if i else ())) for i in range(2)]
        assert all(words in ended(one, 2)[1] for one in two)
    address = free_address()
    both = ("--distributed", "--coordinator", address, "--processes", 2, "--set", "data.path=all.parquet")  # one row group
    two = [process("run", "config.toml", "--output", "three", *both, "--process", i) for i in range(2)]
    assert all("can't be shared out to 2" in ended(one, 2)[1] for one in two)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.missing=drop"], "in_pieces takes rows as they are"),
        (['data.dataset="iris"'], "give exactly one of path"),
        (["posterior.method=gibbs"], "[posterior] needs all rows at once"),
        (["report.n_outliers=3"], "[report] needs all rows at once"),
        (["data.path=rows/none*.parquet"], "no data file"),
        (['data.columns=["eruptions","height"]'], "no column 'height'"),
    ],
)
def test_what_pieces_can_not_be(settings, words, place, jaxgmm):
    sets = [part for setting in settings for part in ("--set", setting)]
    code, _, err = jaxgmm("run", "config.toml", *sets)
    assert code == 2
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--processes", "2"], "add --distributed"),
        (["--distributed", "--processes", "2"], "go together"),
        (["--distributed", "--processes", "2", "--process", "2", "--coordinator", "127.0.0.1:1"], "counted from 0"),
        (["--distributed"], "can't find each other"),
    ],
)
def test_processes_that_can_not_be(arguments, words, place):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "OMPI", "KUBERNETES"))}
    _, err = ended(process("run", "config.toml", *arguments, env=env), 2)
    assert words in err


def test_one_process_of_a_run_in_memory_refuses(place):
    address = free_address()
    both = ("--set", "data.in_pieces=false", "--set", "data.path=all.parquet", "--distributed", "--coordinator", address)
    two = [process("run", "config.toml", *both, "--processes", 2, "--process", i) for i in range(2)]
    assert all("set data.in_pieces to true" in ended(one, 2)[1] for one in two)
