"""A disk that is full: an error that names the file, what was there stays, nothing half-written is left, and work goes on.

The limit on a file's size fails writes part-way, down to those of libraries in C, as a full disk does; only the number of the
error is another.
"""

import contextlib
import errno
import os

import jax
import numpy as np
import pytest
import xarray

import jaxgmm as jg
from jaxgmm.app.lock import only_run
from jaxgmm.app.output import failure_recorded
from jaxgmm.bayes.samplers import checkpoint as of_chains
from jaxgmm.fitting import checkpoint as of_fits
from jaxgmm.tools.files import named, write_arrays

resource = pytest.importorskip("resource")
KEY = jax.random.key(0)
X = jg.datasets.load_faithful().x
TOO_LARGE = os.strerror(errno.EFBIG)


@contextlib.contextmanager
def full(n_bytes):
    """No file can grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(scope="module")
def fitted():
    with jax.enable_x64(True):
        return jg.fit(X, 2, key=KEY, n_init=2)


def test_a_write_without_a_name_gets_one(tmp_path):
    """As the system's own errors have it, of the same class."""
    with pytest.raises(OSError, match=r"No space left on device: .*somewhere") as found, named(tmp_path / "somewhere"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert found.value.errno == errno.ENOSPC
    with pytest.raises(FileNotFoundError, match="elsewhere"), named(tmp_path / "somewhere"):
        (tmp_path / "elsewhere").read_bytes()


@pytest.mark.parametrize("n_bytes", [0, 700])
def test_a_mixture_that_was_saved_stays(fitted, n_bytes, tmp_path):
    path = jg.GMM([1.0], [[0.0]], [1.0], "spherical").save(tmp_path / "gmm.npz")
    with pytest.raises(OSError, match=rf"{TOO_LARGE}: .*gmm\.npz"), full(n_bytes):
        fitted.gmm.save(path)
    assert names(tmp_path) == ["gmm.npz"]
    assert jg.load(path).family == "spherical"


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_posterior_that_was_saved_stays(share, tree, tmp_path):
    """HDF5 would end the process, where it can't write what it still has in memory."""
    path = jg.save_posterior(tree, tmp_path / "posterior.nc")
    size = path.stat().st_size
    with pytest.raises(OSError, match=rf"{TOO_LARGE}: .*posterior\.nc"), full(int(share * size)):
        jg.save_posterior(tree.isel(draw=slice(1, None)), path)
    assert names(tmp_path) == ["posterior.nc"]
    assert jg.load_posterior(path).identical(tree)


@pytest.fixture(scope="module")
def tree():
    """Nothing but what a file of a posterior must have, of some size."""
    shapes = {"weights": (2, 100, 3), "means": (2, 100, 3, 4), "covariances": (2, 100, 3, 4, 4)}
    dims = ("chain", "draw", "component_id", "feature", "feature_bis")
    posterior = {name: (dims[: len(shape)], np.random.default_rng(0).normal(size=shape)) for name, shape in shapes.items()}
    groups = {"posterior": posterior, "observed_data": {"x": (("obs_id", "feature"), np.ones((5, 4)))}}
    made = xarray.DataTree.from_dict({name: xarray.Dataset(group) for name, group in groups.items()})
    made.attrs = {"creation_library": "jaxgmm", "family": "full"}
    return made


def test_a_fit_keeps_its_last_checkpoint(tmp_path):
    place = tmp_path / "run"
    part = of_fits.Checkpoint(place, False, {"who": "me"}, seconds=0).part(0)
    part.save({"a": np.arange(100.0)}, ended=False)
    with pytest.raises(OSError, match=rf"{TOO_LARGE}: .*starts_00000\.npz"), full(500):
        part.save({"a": np.zeros(100)}, ended=False)
    assert names(place) == ["starts_00000.npz", "starts_00000_before.npz"]
    again = of_fits.Checkpoint(place, True, {"who": "me"}, seconds=0).part(0)
    np.testing.assert_array_equal(again.load({"a": np.zeros(100)})["a"], np.arange(100.0))


def test_a_fit_goes_on_once_there_is_room(fitted, tmp_path):
    """Where nothing could be kept, from the beginning, to the same numbers."""
    options = {"key": KEY, "n_init": 2, "checkpoint": tmp_path / "run"}
    with pytest.raises(OSError, match=rf"{TOO_LARGE}: .*starts_00000\.npz"), full(500):
        jg.fit(X, 2, **options)
    assert names(tmp_path / "run") == []
    np.testing.assert_array_equal(jg.fit(X, 2, **options, resume=True).means, fitted.means)


@pytest.mark.parametrize("n_bytes", [300, 1500])
def test_chains_keep_their_last_checkpoint(n_bytes, tmp_path):
    """Be it the draws that there is no room for, or the state that says how many of them there are."""
    place, first, second = tmp_path / "run", [np.ones((2, 3, 10))], [np.zeros((2, 3, 10))]
    kept = [jax.ShapeDtypeStruct((2, 10), np.float64)]

    def begun(resume):
        return of_chains.Checkpoint(place, resume, {"who": "me"}, 0, 6)

    run = begun(False)
    run.save({"state": np.full(500, 3.0)}, 3, [first])
    with pytest.raises(OSError, match=rf"{TOO_LARGE}: .*\.npz"), full(n_bytes):
        run.save({"state": np.full(500, 6.0)}, 6, [first, second])
    assert set(names(place)) <= {"draws_00000.npz", "draws_00001.npz", "state.npz"}
    state, done, chunks = begun(True).load({"state": np.zeros(500)}, kept)
    assert (float(state["state"][0]), done, len(chunks)) == (3.0, 3, 1)
    np.testing.assert_array_equal(chunks[0][0], first[0])


def test_a_run_says_where_there_was_no_room_and_leaves_nothing(jaxgmm, tmp_path, quick_figures):
    (tmp_path / "c.toml").write_text('[data]\ndataset = "faithful"\n[fit]\nn_components = 2\nn_init = 2\n')
    with full(10_000):  # the table of rows, not the mixture
        code, out, err = jaxgmm("run", "c.toml", "--output", "run", "--quiet")
    assert (code, out) == (2, "")
    assert TOO_LARGE in err
    assert "run" in err
    assert names(tmp_path / "run") == ["failed.json"]
    assert jaxgmm("run", "c.toml", "--output", "run", "--quiet")[0] == 0
    assert "failed.json" not in names(tmp_path / "run")


def test_there_is_no_room_for_the_least_of_a_run(tmp_path):
    """Neither for the name of a lock's holder, nor for what failed."""
    directory = tmp_path / "run"
    with full(5), only_run(directory) as alone:
        assert alone
        with pytest.raises(ValueError, match="in the middle"), failure_recorded(directory):
            raise ValueError("in the middle")
    assert names(tmp_path) == ["run"]
    assert names(directory) == []


def test_the_disk_fills_while_a_file_takes_its_name(tmp_path, monkeypatch):
    write_arrays(tmp_path / "a.npz", {"x": np.ones(3)})

    def no_room(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, no_room)
            with pytest.raises(OSError, match=r"No space left on device: .*a\.npz"):
                write_arrays(tmp_path / "a.npz", {"x": np.zeros(3)})
        assert names(tmp_path) == ["a.npz"]
        np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["x"], 1)
