"""A run's directory when runs are killed: no state that mixes two runs, and none without a way out."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from jaxgmm.app import output

# Runs that are killed at an operation, each in a process that is forked: one alone imports the package.
KILLED = """
import os, signal, sys
from pathlib import Path
from jaxgmm.app import output

def killed(directory, at):
    calls = {"n": 0}

    def counted(operation):
        def call(self, *arguments, **options):
            calls["n"] += 1
            if calls["n"] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(self, *arguments, **options)
        return call

    for name in ("unlink", "replace", "rename"):
        setattr(Path, name, counted(getattr(Path, name)))
    with output.new_directory(directory) as partial:
        for name in ("config.toml", "gmm.npz", "fit.json", "assignments.csv"):
            (partial / name).write_text("new")

for line in sys.stdin:
    at, directory = line.rstrip("\\n").split(" ", 1)
    child = os.fork()
    if child == 0:
        killed(Path(directory), int(at))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def killed():
    """Whether a run in a directory is killed at so many operations, or ends before."""
    command = [sys.executable, "-W", "ignore", "-c", KILLED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(directory, at):
            print(at, directory, file=process.stdin, flush=True)
            code = int(process.stdout.readline())
            assert code in (0, -signal.SIGKILL)
            return code == -signal.SIGKILL

        yield ask
        process.stdin.close()


def write_run(directory, text, **options):
    with output.new_directory(directory, **options) as partial:
        for name in ("config.toml", "gmm.npz", "fit.json", "assignments.csv"):
            (partial / name).write_text(text)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_kill_at_any_file_operation_never_mixes_runs(tmp_path, replaced, killed):
    at, went_on = 1, True
    while went_on:
        directory = tmp_path / str(at) / "run"
        directory.parent.mkdir()
        if replaced:
            write_run(directory, "old")
        went_on = killed(directory, at)
        if output.holds_run(directory):
            texts = {path.read_text() for path in directory.iterdir() if path.is_file()}
            assert texts == ({"old"} if went_on and (directory / "fit.json").read_text() == "old" else {"new"})
        output.check_free(directory, overwrite=True, resume=False)  # there is always a way
        write_run(directory, "newest")
        assert {path.read_text() for path in directory.iterdir() if path.is_file()} == {"newest"}
        at += 1
    assert at > (15 if replaced else 1)


def test_what_is_left_of_a_replaced_run_says_the_way_out(tmp_path, killed):
    directory = tmp_path / "run"
    write_run(directory, "old")
    assert killed(directory, 18)  # in the middle of moving
    assert not output.holds_run(directory)
    with pytest.raises(ValueError, match="killed while it was being replaced: start again with --overwrite"):
        output.check_free(directory, overwrite=False, resume=False)


@pytest.mark.parametrize("config", [None, "[data\npa", "seed = 1"])
def test_a_run_killed_before_it_kept_anything_is_in_nobodys_way(tmp_path, config):
    directory = tmp_path / "run"
    (directory / "unfinished").mkdir(parents=True)
    if config is not None:
        (directory / "unfinished" / "config.toml").write_text(config)
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        output.check_free(directory, overwrite=overwrite, resume=resume)
    with output.unfinished_run(directory, "seed = 2", resume=False) as folder:
        assert [path.name for path in folder.iterdir()] == ["config.toml"]
        assert (folder / "config.toml").read_text() == "seed = 2"


def test_draws_of_a_run_that_has_ended_go_at_once(tmp_path, monkeypatch):
    """Killed while they are removed, it doesn't look as if half of them could be gone on from."""
    draws = tmp_path / "run" / "unfinished" / "posterior"
    draws.mkdir(parents=True)
    (draws / "state.npz").touch()
    monkeypatch.setattr(output.shutil, "rmtree", lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path / "run", "new")
    assert output.holds_run(tmp_path / "run")
    assert not output.holds_draws(tmp_path / "run")


@pytest.mark.parametrize("kept", [np.zeros((2, 1)), np.array(["a", "b"]), np.zeros(2, complex)], ids=["shape", "words", "pair"])
def test_a_start_of_something_else_says_the_way_out(tmp_path, kept):
    np.testing.assert_array_equal(output.same_start(tmp_path, np.ones(2)), np.ones(2))
    np.testing.assert_array_equal(output.same_start(tmp_path, np.zeros(2)), np.ones(2))
    np.savez(tmp_path / "start.npz", arr_0=kept)
    with pytest.raises(ValueError, match=r"start.npz is of another mixture: start again with --overwrite"):
        output.same_start(tmp_path, np.ones(2))


def test_a_truncated_config_of_an_unfinished_run_says_the_way_out(tmp_path):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.toml").write_text("[data\npa")
    with pytest.raises(ValueError, match=r"config.toml can't be read .*: start again with --overwrite"):
        output.check_unchanged(tmp_path, "seed = 1")


def test_folders_that_nobody_finished_are_swept(tmp_path, monkeypatch):
    beside, inside, other = tmp_path / ".run.partial-0", tmp_path / "run" / ".run.partial-0", tmp_path / ".run2.partial-0"
    for left in (beside, inside, other):
        left.mkdir(parents=True)
    write_run(tmp_path / "run", "new")
    assert beside.exists()  # its owner may be at work
    assert inside.exists()
    write_run(tmp_path / "run", "newer", alone=True)
    assert not beside.exists()
    assert not inside.exists()
    beside.mkdir()
    monkeypatch.setattr(output, "_ABANDONED", -1.0)
    write_run(tmp_path / "run", "newest")
    assert not beside.exists()
    assert other.exists()  # of another directory


def test_a_mixed_directory_can_be_overwritten_until_a_run_in_it_is_whole(tmp_path, killed):
    directory = tmp_path / "run"
    write_run(directory, "old")
    assert killed(directory, 18)  # in the middle of moving
    with pytest.raises(OSError, match="disk full"), output.new_directory(directory, alone=True):
        raise OSError("disk full")
    with pytest.raises(KeyboardInterrupt), output.unfinished_run(directory, "seed = 1", resume=False):
        raise KeyboardInterrupt
    output.check_free(directory, overwrite=True, resume=False)
    write_run(directory, "new", alone=True)
    assert sorted(path.name for path in directory.iterdir()) == ["assignments.csv", "config.toml", "fit.json", "gmm.npz"]
