"""Fits that are stopped: what a checkpoint keeps is gone on from, to the very numbers of an uninterrupted fit."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxgmm as jg
from jaxgmm.fitting import checkpoint as module
from jaxgmm.fitting import loop

KEY = jax.random.key(3)
X = jg.datasets.load_faithful().x
OPTIONS = {"n_components": 3, "key": KEY, "n_init": 4, "rtol": 0, "max_steps": 60}
pytestmark = pytest.mark.filterwarnings("ignore::jaxgmm.FitWarning")
PIECES = jg.data.Pieces(lambda: iter(np.array_split(X, 3)))


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    """A look after each step, and no wait between two checkpoints."""
    monkeypatch.setattr(loop, "_FLOPS_BETWEEN_REPORTS", 0.0)
    monkeypatch.setattr(loop, "_FLOPS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setitem(module.Checkpoint.__init__.__kwdefaults__, "seconds", 0.0)


class Stop(Exception):
    pass


def stopping_after(n_calls):
    calls = []

    def callback(progress):
        calls.append(progress.n_steps)
        if len(calls) == n_calls:
            raise Stop

    return callback


def same(a, b):
    for name in ("weights", "means", "covariances"):
        np.testing.assert_array_equal(getattr(a.gmm, name), getattr(b.gmm, name))
    np.testing.assert_array_equal(a.trace, b.trace)
    np.testing.assert_array_equal(a.restarts.objective, b.restarts.objective)


@pytest.mark.parametrize(
    ("x", "options"),
    [(X, {}), (X, {"acceleration": "squarem"}), (X, {"family": "diag", "prior": None}), (PIECES, {"acceleration": "squarem"})],
    ids=["memory", "squarem", "diag", "pieces and squarem"],
)
def test_a_fit_that_is_resumed_is_the_uninterrupted_one(x, options, tmp_path):
    whole = jg.fit(x, **OPTIONS, **options)
    place = tmp_path / "fit"
    for stop in (1, 7, 20):
        with pytest.raises(Stop):
            jg.fit(x, **OPTIONS, **options, checkpoint=place, resume=stop > 1, callback=stopping_after(stop))
        assert place.is_dir()
    seen = []
    resumed = jg.fit(x, **OPTIONS, **options, checkpoint=place, resume=True, callback=lambda p: seen.append(p.n_steps))
    assert min(seen) > 20
    same(resumed, whole)
    assert not place.exists()


def test_what_bounds_the_next_pass_is_kept(tmp_path):
    """40 components, of which most blocks of rows are summed for 16."""
    rng = np.random.default_rng(0)
    x = np.repeat(20 * rng.normal(size=(40, 2)), 50, axis=0) + rng.normal(size=(2000, 2))
    options = {"n_components": 40, "key": KEY, "n_init": 1, "rtol": 0, "max_steps": 12, "truncate": 1e-9}
    whole = jg.fit(x, **options)
    with pytest.raises(Stop):
        jg.fit(x, **options, checkpoint=tmp_path / "fit", callback=stopping_after(8))
    same(jg.fit(x, **options, checkpoint=tmp_path / "fit", resume=True), whole)


def test_starts_that_run_in_turn(tmp_path, monkeypatch):
    from jaxgmm.fitting import batch

    monkeypatch.setattr(batch, "TOGETHER", 0)
    whole = jg.fit(X, **OPTIONS)
    with pytest.raises(Stop):
        jg.fit(X, **OPTIONS, checkpoint=tmp_path / "fit", callback=stopping_after(100))
    assert len(list((tmp_path / "fit").glob("starts_0000?.npz"))) == 2
    seen = []
    resumed = jg.fit(X, **OPTIONS, checkpoint=tmp_path / "fit", resume=True, callback=lambda p: seen.append(p.start))
    assert seen[0] == 2
    same(resumed, whole)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    whole, place = jg.fit(X, **OPTIONS), tmp_path / "fit"
    with pytest.raises(Stop):
        jg.fit(X, **OPTIONS, checkpoint=place, callback=stopping_after(9))
    state = place / "starts_00000.npz"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.warns(jg.FitWarning, match="is damaged: the fit goes on from the checkpoint before it"):
        same(jg.fit(X, **OPTIONS, checkpoint=place, resume=True), whole)


def test_two_damaged_ones_are_refused(tmp_path):
    place = tmp_path / "fit"
    with pytest.raises(Stop):
        jg.fit(X, **OPTIONS, checkpoint=place, callback=stopping_after(9))
    for file in place.iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(jg.FitError, match=r"can't be read .* delete its directory and start again"):
        jg.fit(X, **OPTIONS, checkpoint=place, resume=True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"n_components": 2}, "n_components was 3, now 2"),
        ({"rtol": 1e-3}, "rtol was"),
        ({"key": jax.random.key(4)}, "key was"),
        ({"family": "diag"}, "family was 'full', now 'diag'"),
        ({"prior": None}, "prior was"),
        ({"sample_weight": np.full(len(X), 2.0)}, "data was"),
    ],
)
def test_another_fit_does_not_go_on(changed, words, tmp_path):
    with pytest.raises(Stop):
        jg.fit(X, **OPTIONS, checkpoint=tmp_path / "fit", callback=stopping_after(3))
    with pytest.raises(ValueError, match="belongs to another run") as caught:
        jg.fit(X, **OPTIONS | changed, checkpoint=tmp_path / "fit", resume=True)
    assert words in str(caught.value)


def test_places_that_can_not_be_used(tmp_path):
    with pytest.raises(ValueError, match="resume=True needs checkpoint"):
        jg.fit(X, **OPTIONS, resume=True)
    with pytest.raises(Stop):
        jg.fit(X, **OPTIONS, checkpoint=tmp_path / "fit", callback=stopping_after(3))
    with pytest.raises(ValueError, match="holds an unfinished run: resume=True continues it"):
        jg.fit(X, **OPTIONS, checkpoint=tmp_path / "fit")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        jg.fit(X, **OPTIONS, checkpoint=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_checkpoint_may_be_kept(tmp_path):
    fit = jg.fit(X, **OPTIONS, checkpoint=tmp_path / "fit", keep_checkpoint=True)
    same(jg.fit(X, **OPTIONS, checkpoint=tmp_path / "fit", resume=True), fit)
    assert not (tmp_path / "fit").exists()


KILLED = """
import sys, jax, jaxgmm as jg, numpy as np
from jaxgmm.fitting import checkpoint, loop
loop._FLOPS_BETWEEN_REPORTS = 0.0
checkpoint.Checkpoint.__init__.__kwdefaults__["seconds"] = 0.0
x = jg.datasets.load_faithful().x
def count(progress):
    print(progress.n_steps, flush=True)
    sys.stdin.readline()   # until the parent says so
with jax.enable_x64(True):
    options = {"key": jax.random.key(3), "n_init": 4, "rtol": 0, "max_steps": 60, "resume": True, "callback": count}
    fit = jg.fit(x, 3, checkpoint=sys.argv[1], **options)
np.save(sys.argv[2], fit.gmm.means)
"""


def test_a_killed_process_loses_nothing_that_was_kept(tmp_path):
    """SIGKILL after some steps, twice; each goes on where the one before was."""
    out, at = tmp_path / "means.npy", -1
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path / "fit"), str(out)]
    for steps in (7, 12, 100):
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(steps):
            line = child.stdout.readline()
            if not line:
                break
            assert int(line) == at + 1
            at += 1
            child.stdin.write("\n")
            child.stdin.flush()
        else:
            child.stdout.readline()  # one more has been kept, and it waits
            at += 1
            child.send_signal(signal.SIGKILL)
        child.communicate()
    assert child.returncode == 0
    np.testing.assert_array_equal(np.load(out), jg.fit(X, **OPTIONS).gmm.means)
    assert not (tmp_path / "fit").exists()


def test_a_kill_while_it_is_written(tmp_path, monkeypatch):
    """At every file operation of the first checkpoints: one of the last two is there, and gone on from."""
    whole = jg.fit(X, **OPTIONS)
    for nth in range(1, 6):
        place, calls = tmp_path / str(nth), []

        def dying(real, calls=calls, nth=nth):
            def operation(*arguments, **options):
                calls.append(None)
                if len(calls) == nth:
                    raise Stop
                return real(*arguments, **options)

            return operation

        with monkeypatch.context() as patch:
            for name in ("link", "replace"):
                patch.setattr(os, name, dying(getattr(os, name)))
            with pytest.raises(Stop):
                jg.fit(X, **OPTIONS, checkpoint=place, callback=lambda progress: None)
        seen = []
        same(jg.fit(X, **OPTIONS, checkpoint=place, resume=True, callback=lambda p, seen=seen: seen.append(p.n_steps)), whole)
        assert seen[0] == nth // 2


# Ctrl-C


def interrupt_after_ten_steps(monkeypatch):
    real, calls = loop._advance, []

    def advance(*arguments):
        calls.append(None)
        if len(calls) > 11:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "_advance", advance)


def test_ctrl_c_returns_the_best_so_far(monkeypatch):
    """A KeyboardInterrupt in the loop, once a fit has taken ten steps."""
    interrupt_after_ten_steps(monkeypatch)
    with pytest.warns(jg.FitWarning, match="interrupted"):
        fit = jg.fit(X, **OPTIONS)
    monkeypatch.undo()
    assert fit.status is jg.Status.interrupted
    assert fit.n_steps == 10
    assert fit.log_likelihood == pytest.approx(float(fit.gmm.log_likelihood(X)))
    assert "Stopped by hand" in repr(fit)
    further = jg.fit(X, init=fit, key=KEY, rtol=0, max_steps=50)
    assert further.objective > fit.objective


def test_ctrl_c_keeps_the_starts_that_have_ended(monkeypatch):
    from jaxgmm.fitting import batch

    monkeypatch.setattr(batch, "TOGETHER", 0)  # one start after the other
    real, starts = batch.climb, []

    def climb(*arguments, **options):
        starts.append(None)
        if len(starts) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(batch, "climb", climb)
    with pytest.warns(jg.FitWarning, match="interrupted when 2 of 4 starts had ended"):
        fit = jg.fit(X, 2, key=KEY, n_init=4, max_steps=2000)
    assert fit.converged
    assert [status.name for status in fit.restarts.status] == ["converged", "converged", "interrupted"]
    assert "interrupted" in repr(fit.restarts)
    fit.restarts._repr_html_()


def test_ctrl_c_with_a_checkpoint_goes_on_its_way(tmp_path, monkeypatch):
    """Nothing is lost, so that nothing has to be returned."""
    whole = jg.fit(X, **OPTIONS)
    interrupt_after_ten_steps(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        jg.fit(X, **OPTIONS, checkpoint=tmp_path / "fit")
    monkeypatch.undo()
    same(jg.fit(X, **OPTIONS, checkpoint=tmp_path / "fit", resume=True), whole)
