"""Compiled programs are found again by other processes, and a folder that can't serve is said."""

import os
import subprocess
import sys
import warnings

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import jaxgmm as jg
from jaxgmm.tools import cache

# Compiles before the cache is there, then fits, and says how often the cache was asked with and without success.
SCRIPT = """
import collections, sys, warnings
import jax
jax.jit(lambda a: a + 1)(1.0)
import jaxgmm as jg
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    print(jg.enable_compilation_cache(*sys.argv[1:]))
    fit = jg.fit(jg.datasets.load_faithful().x, 2, key=jax.random.key(0))
print(fit.log_likelihood, events["/jax/compilation_cache/cache_hits"], events["/jax/compilation_cache/cache_misses"])
print([str(each.message) for each in said])
"""


def run(*arguments, **environment):
    env = {name: value for name, value in os.environ.items() if "CACHE" not in name} | environment
    done = subprocess.run([sys.executable, "-c", SCRIPT, *map(str, arguments)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder, numbers, said = done.stdout.splitlines()
    log_likelihood, hits, misses = numbers.split()
    return folder, float(log_likelihood), int(hits), int(misses), said


def test_another_process_compiles_nothing(tmp_path):
    folder, expected, hits, misses, _ = run(tmp_path)
    assert folder.startswith(str(tmp_path))
    assert hits == 0
    assert misses > 0
    assert os.stat(folder).st_mode & 0o077 == 0  # nobody else's
    again = run(tmp_path)
    assert again[:4] == (folder, expected, misses, 0)
    for path in tmp_path.rglob("*-cache"):
        path.write_bytes(path.read_bytes()[:100])
    _, log_likelihood, hits, _, said = run(tmp_path)
    assert (log_likelihood, hits) == (expected, 0)
    assert "persistent compilation cache" in said


def test_default_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    folder, _, hits, misses, said = run(XDG_CACHE_HOME=str(tmp_path / "file"))
    assert (folder, hits, misses) == ("None", 0, 0)
    assert "nothing that is compiled is kept" in said
    assert "Not a directory" in said


@pytest.fixture
def unused():
    """A process in which no cache is set up."""
    names = ["jax_compilation_cache_dir", *cache._SETTINGS]
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_bad_folders(tmp_path, unused):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"folder '.*file' can't be used \(Not a directory\): give one that can be written"):
        jg.enable_compilation_cache(tmp_path / "file")
    assert jax.config.jax_compilation_cache_dir is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        used = jg.enable_compilation_cache(tmp_path / "one")
    assert jg.enable_compilation_cache(tmp_path / "one") == jg.enable_compilation_cache() == used
    with pytest.raises(ValueError, match=r"folder is '.*two', but JAX keeps what it compiles in .*one"):
        jg.enable_compilation_cache(tmp_path / "two")


def test_a_cache_of_the_users_own_stays(tmp_path, unused):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert jg.enable_compilation_cache() == tmp_path
