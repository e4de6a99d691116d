"""Who is told of what takes long, and where nobody looks."""

import sys
import threading
import time
import types

import jax
import numpy as np
import pytest

import jaxgmm as jg
from jaxgmm.tools import compiling, progress

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(120, 2))
FIT = jg.GMM([1.0], [[0.0, 0.0]], [np.eye(2)])
CALLS = {
    "fit": lambda told: jg.fit(X, 1, key=KEY, progress=told),
    "compare": lambda told: jg.compare(X, key=KEY, families=["diag"], n_components=[1], progress=told),
    "fit_groups": lambda told: jg.fit_groups([X, X[:30]], n_components=1, key=KEY, progress=told),
    "posterior": lambda told: jg.posterior(X, FIT, method="gibbs", key=KEY, n_draws=10, n_warmup=5, progress=told),
    "count_clusters": lambda told: jg.count_clusters(
        X, key=KEY, family="diag", n_draws=10, n_warmup=5, max_components=10, progress=told
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_everything_tells(name, capfd):
    seen = []
    CALLS[name](lambda done, total: seen.append((done, total)))
    assert seen
    assert all(0 <= done <= total for done, total in seen)
    capfd.readouterr()
    CALLS[name]("auto")  # standard error is no terminal here
    assert capfd.readouterr().err == ""
    CALLS[name](True)
    assert name in capfd.readouterr().err.replace("gibbs", "posterior")
    with pytest.raises(ValueError, match="unknown progress 'loud'"):
        CALLS[name]("loud")


def test_auto_is_a_bar_where_someone_looks(monkeypatch, capsys):
    """Only of what takes longer than the delay."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for delay, seen in ((60.0, False), (0.0, True)):
        monkeypatch.setattr(progress, "_DELAY", delay)
        with progress.reporter("auto", "work") as report:
            report.say("3 clusters")
            report(1, 2)
            report(2, 2)
        assert ("work" in capsys.readouterr().err) is seen


@pytest.mark.parametrize("progress_", [True, "auto"])
def test_a_bar_says_that_something_is_being_compiled(no_compilation_cache, monkeypatch, capsys, progress_):
    """While XLA is at it for long, and no longer; the bar appears for it, and is closed like any other."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(compiling, "_LONG", 0.01)
    monkeypatch.setattr(compiling, "_BETWEEN_LOOKS", 0.002)

    def power(x):  # straight-line code takes long to compile
        for i in range(150):
            x = jax.numpy.sin(x @ x.T) @ x + i
        return x

    with progress.reporter(progress_, "work") as report:
        report.say("3 clusters")
        jax.jit(power)(np.eye(3, 4))
        time.sleep(0.1)
    err = capsys.readouterr().err
    assert "compiling ..." in err
    assert err.rindex("3 clusters") > err.rindex("compiling ...")
    assert err.endswith("\n")
    assert not [thread for thread in threading.enumerate() if "compiling" in thread.name]


def test_in_a_notebook(monkeypatch):
    """Jupyter's own kernel is known by its shell."""
    assert not progress._in_notebook()
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert progress._in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not progress._in_notebook()
