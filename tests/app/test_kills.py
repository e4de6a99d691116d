"""A run that is killed at any of its file operations: there is always a way on, to the files of an undisturbed run.

A kill leaves the disk as it was before the operation that didn't come to pass, so one run shows all that kills can leave: its
folder is copied before each operation. What was to be forced to the disk just then is there by half. The lock's file is in
the copies too, and held by nobody.
"""

import builtins
import contextlib
import datetime
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxgmm import plots
from jaxgmm.app import output
from jaxgmm.app.config.toml import load_config
from jaxgmm.app.run import Watch, run
from jaxgmm.app.stages import posterior as stage
from jaxgmm.bayes.samplers import chains
from jaxgmm.bayes.trees import build
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.files import read_parsed

pytestmark = pytest.mark.default_precision  # as in a process of its own

# Chunks are of 100 steps at most: the chains are kept after the warm-up and twice among the draws.
CONFIG = """
[data]
dataset = "galaxies"
[fit]
n_components = 2
family = "spherical"
n_init = 1
[posterior]
method = "gibbs"
n_warmup = 10
n_draws = 110
n_chains = 2
seed = 1
"""
FIGURES = ("components", "trace", "responsibilities", "intervals", "draws", "chains")
WAYS = ({"resume": True}, {}, {"overwrite": True})


class Disk:
    """A folder before each operation of this process in it, and once at the end.

    Attributes:
        operations: what they were, in their order.
        states: copies of the folder, by the number of the operation; only those that are not as the one before.
    """

    def __init__(self, folder, copies):
        self.folder, self.copies, self.states, self.operations, self.last = folder, copies, {}, [], None

    def first(self, name):
        """The number of the first operation on a path that ends so."""
        return next(number for number, operation in enumerate(self.operations) if operation.endswith(name))

    @contextlib.contextmanager
    def watched(self):
        with pytest.MonkeyPatch.context() as patch:
            for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
                patch.setattr(os, name, self._of_a_path(name, getattr(os, name), lambda *a: True))
            patch.setattr(os, "open", self._of_a_path("open", os.open, lambda flags, *a: flags & os.O_CREAT))
            patch.setattr(os, "fsync", self._fsync(os.fsync))
            opened = self._of_a_path("open", io.open, lambda mode="r", *a: set(mode) & set("wax+"))
            patch.setattr(io, "open", opened)
            patch.setattr(builtins, "open", opened)
            yield
        self._before("end")

    def _of_a_path(self, name, original, changes):
        def call(path, *arguments, **options):
            # rmtree's names are relative to a descriptor.
            here = not isinstance(path, int) and ("dir_fd" in options or os.fspath(path).startswith(str(self.folder)))
            if here and changes(*arguments):
                self._before(f"{name} {path}")
            return original(path, *arguments, **options)

        return call

    def _fsync(self, original):
        def fsync(descriptor):
            self._before("fsync", os.fstat(descriptor))
            original(descriptor)

        return fsync

    def _before(self, operation, halved=None):
        copy = self.copies / str(len(self.operations))
        if self.folder.exists():
            shutil.copytree(self.folder, copy)
        else:
            copy.mkdir()
        for path in self.folder.rglob("*") if halved is not None else ():
            if path.is_file() and os.path.samestat(path.stat(), halved):
                os.truncate(copy / path.relative_to(self.folder), halved.st_size // 2)
        there = hashlib.sha256()
        for path in sorted(copy.rglob("*")):
            there.update(f"{path.relative_to(copy)}\0".encode() + (path.read_bytes() if path.is_file() else b""))
        if there.digest() != self.last:
            self.states[len(self.operations)] = copy
        self.last = there.digest()
        self.operations.append(operation)


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Figures and diagnostics take most of the time of a short run; chunks are as long for slow machines as for fast ones.

    And all trees are made at the same time.
    """
    diagnosed, diagnose = {}, stage.diagnose

    def remembered(tree, **thresholds):
        drawn = tree["posterior"].to_dataset()
        key = b"".join(np.ascontiguousarray(drawn[name].values).tobytes() for name in drawn.data_vars)
        if key not in diagnosed:
            diagnosed[key] = diagnose(tree, **thresholds)
        return diagnosed[key]

    with pytest.MonkeyPatch.context() as patch:
        for name in FIGURES:
            patch.setattr(plots, name, lambda *arguments, **options: Figure())
        patch.setattr(Figure, "savefig", lambda figure, path, **options: path.write_bytes(b"figure"))
        patch.setattr(stage, "diagnose", remembered)
        patch.setattr(chains, "_SECONDS", 1e9)
        patch.setattr(os, "fsync", lambda descriptor: None)  # nobody cuts the power
        now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        clock = SimpleNamespace(now=lambda zone: now)
        patch.setattr(build, "datetime", SimpleNamespace(UTC=datetime.UTC, datetime=clock))
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the config; what runs write is in its `runs/`."""
    folder = tmp_path_factory.mktemp("kills")
    (folder / "small.toml").write_text(CONFIG)
    return folder


def config_in(home, *overrides):
    return load_config(home / "small.toml", [*overrides, f"output.directory={json.dumps(str(home / 'runs' / 'run'))}"])


def results(home):
    """All that a run wrote, by file: bytes, but for the seconds in fit.json."""
    directory = home / "runs" / "run"
    fit = read_parsed(directory / "fit.json", json.loads)
    output.check_belongs(directory, fit)
    found = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    found["fit.json"] = {name: fact for name, fact in fit.items() if name not in ("seconds", "files")}
    return found


@pytest.fixture(scope="module")
def expected(home):
    """The results of an undisturbed run."""
    run(config_in(home))
    found = results(home)
    shutil.rmtree(home / "runs")
    return found


def flags_in(line):
    """What a line that refuses says to do instead."""
    assert "\n" not in line
    return {} if "leave out --resume" in line else {re.search("--(resume|overwrite)", line)[1]: True}


def assert_every_way_leads_on(directory):
    """By what the first step of a run says, which costs nothing."""
    for flags in WAYS:
        for _ in range(3):
            try:
                output.check_free(directory, **{"overwrite": False, "resume": False} | flags)
            except UserError as refused:
                if "the run there is finished" in str(refused):
                    break
                flags = flags_in(str(refused))
            else:
                break
        else:
            raise AssertionError(flags)


def go_on(home, flags):
    """What a user does: run again with the flags given and, where they are refused, as the line says. The lines."""
    said = []
    while len(said) < 4:
        try:
            run(config_in(home), **flags, watch=Watch(note=said.append))
        except UserError as refused:
            said.append(str(refused))
            flags = {"overwrite": True} if "the run there is finished" in said[-1] else flags_in(said[-1])
        else:
            return said
    raise AssertionError(said)


@pytest.mark.parametrize("replaced", [False, True], ids=["new", "replaced"])
def test_a_run_killed_at_any_operation_has_a_way_on_to_the_same_results(replaced, home, expected, tmp_path):
    directory = home / "runs" / "run"
    if replaced:
        run(config_in(home, "posterior.seed=2", "fit.n_components=3", "output.assignments=parquet"))
        before = results(home)
    disk = Disk(home / "runs", tmp_path)
    with disk.watched():
        run(config_in(home), overwrite=replaced)
    assert results(home) == expected
    shutil.rmtree(home / "runs")
    assert len(disk.states) > 60
    ways = itertools.cycle(WAYS)
    for number, (at, state) in enumerate(disk.states.items()):
        if number % 3 and output.holds_run(state / "run") and at < disk.first("gmm.npz"):
            continue  # while chains are run beside an old run: the states of new ones, with the old files
        shutil.copytree(state, home / "runs")
        told = (disk.operations[at], sorted(str(path.relative_to(state)) for path in state.rglob("*")))
        if output.holds_run(directory):
            assert results(home) in ([before, expected] if replaced else [expected]), told
        assert_every_way_leads_on(directory)
        said = go_on(home, next(ways))
        assert results(home) == expected, (*told, said)
        assert [path.name for path in (home / "runs").rglob("*") if path.name not in expected] == ["run"], (*told, said)
        shutil.rmtree(home / "runs")


PROCESS = """
import os, sys
from jaxgmm.app.cli import main

replace = os.replace

def ends(path, target):
    if os.path.basename(target) == sys.argv[1]:
        os._exit(9)
    replace(path, target)

os.replace = ends
main(["run", *sys.argv[2:]])
"""


@pytest.mark.parametrize(
    ("replaced", "said"),
    [("state.npz", "nothing to resume, starts from the beginning"), ("draws_00000.npz", None), ("fit.json", None)],
)
def test_a_process_that_ends_at_once_is_resumed(replaced, said, home, expected):
    arguments = [replaced, str(home / "small.toml"), "--output", str(home / "runs" / "run"), "--quiet"]
    done = subprocess.run([sys.executable, "-c", PROCESS, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (9, "", "")
    assert (home / "runs" / ".run.lock").exists()
    there = {path.name for path in (home / "runs" / "run").iterdir() if ".partial-" not in path.name}
    assert there == {"unfinished"} | (expected.keys() - {"fit.json"} if replaced == "fit.json" else set())
    notes = []
    run(config_in(home), resume=True, watch=Watch(note=notes.append))
    assert notes == ([] if said is None else [f"{home / 'runs' / 'run'}: {said}"])
    assert results(home) == expected
    assert [path.name for path in (home / "runs").rglob("*") if path.name not in expected] == ["run"]
    shutil.rmtree(home / "runs")
