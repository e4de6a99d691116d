"""One run at a time in a directory: a second refuses at the start, and nothing that a killed one leaves is in the way."""

import shutil
import signal
import subprocess
import sys

import pytest

from jaxgmm.app.config import Config
from jaxgmm.app.lock import Terminated, only_run, terminable
from jaxgmm.app.run import run

HOLD = """
import sys, time
from pathlib import Path
from jaxgmm.app.lock import only_run
with only_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_refuses_until_the_first_is_killed(tmp_path):
    directory = tmp_path / "runs" / "mine"
    with subprocess.Popen([sys.executable, "-c", HOLD, directory], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        table = {"data": {"dataset": "faithful"}, "fit": {"n_components": 1}, "output": {"directory": str(directory)}}
        kept = directory / "unfinished" / "posterior" / "state.npz"
        kept.parent.mkdir(parents=True)
        kept.touch()  # of the first, which is still at work
        for flags in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(ValueError, match=rf"at work for process {first.pid} on .*: wait until it has ended, or give"):
                run(Config.model_validate(table), **flags)
        shutil.rmtree(directory)
        with only_run(tmp_path / "runs" / "another"):
            pass
        first.send_signal(signal.SIGKILL)
    assert (tmp_path / "runs" / ".mine.lock").exists()
    with only_run(directory), pytest.raises(ValueError, match="at work for process"), only_run(directory):
        pass
    assert not list((tmp_path / "runs").iterdir())  # nothing is left


def test_folders_that_a_run_did_not_come_to_use_go(tmp_path):
    with only_run(tmp_path / "a" / "b" / "run"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()


def test_sigterm_is_an_interruption():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as stopped, terminable():
        signal.raise_signal(signal.SIGTERM)
    assert isinstance(stopped.value, Terminated)
    assert signal.getsignal(signal.SIGTERM) is before
