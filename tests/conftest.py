"""What the tests share: float64 unless a test asks for JAX's default, the families, small data, mclust's numbers."""

import os
import shutil
import struct
import sys
import tempfile

import jax
import matplotlib
import numpy as np
import pytest
from helpers import FAMILIES, MCLUST_DATA, fit_real_data, load_x, mclust_reference

PNG_HEADER = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 1, 1)

collect_ignore = ["benchmarks", "downstream.py"]


def pytest_configure(config):
    """What several tests compile, in whichever worker, or the processes that they start, is compiled once.

    In a folder of this run or, from one run to the next, in that of $JAX_COMPILATION_CACHE_DIR.
    """
    matplotlib.use("agg")  # no windows; kernels of notebooks have their own
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers inherit the environment
        config.programs = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxgmm-programs-")
    folder = os.path.abspath(os.environ["JAX_COMPILATION_CACHE_DIR"])
    cache = {"compilation_cache_dir": folder, "persistent_cache_min_compile_time_secs": 0}
    for name, value in (cache | {"persistent_cache_min_entry_size_bytes": -1}).items():
        jax.config.update(f"jax_{name}", value)
        os.environ[f"JAX_{name}".upper()] = str(value)


def pytest_unconfigure(config):
    if hasattr(config, "programs"):
        shutil.rmtree(config.programs, ignore_errors=True)


@pytest.fixture
def no_compilation_cache(monkeypatch):
    """JAX as users have it, here and in processes that a test starts."""
    folder = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", folder)


@pytest.fixture(autouse=True)
def _figures():
    """Of one test are closed before the next: pyplot warns of more than 20."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True)
def _precision(request):
    with jax.enable_x64(request.node.get_closest_marker("default_precision") is None):
        yield


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs():
    """Programs don't outlive a file of tests: each holds memory maps, of which Linux allows a process 65530."""
    yield
    jax.clear_caches()


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=MCLUST_DATA)
def mclust(request):
    """One of mclust's runs: its data set, and its fits by family."""
    return mclust_reference(request.param)


@pytest.fixture(scope="session")
def blobs():
    """240 rows of four overlapping clusters with their own covariances, (240, 3)."""
    rng = np.random.default_rng(3)
    return np.concatenate([rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3)) + 2 * rng.normal(size=3) for _ in range(4)])


@pytest.fixture(scope="session")
def row_counts():
    """How often each row of `blobs` counts, 240 in all: repeated rows have the shape of `blobs`, and compile nothing new."""
    return np.random.default_rng(4).multinomial(240, np.full(240, 1 / 240))


@pytest.fixture(params=[(data, None) for data in MCLUST_DATA] + [("faithful", "default")])
def real(request, family):
    """A real data set and its fit to rounding: maximum likelihood, or with the default prior."""
    data, prior = request.param
    return load_x(data), fit_real_data(data, family, prior)


@pytest.fixture
def compilations():
    """A list that grows with every compilation."""
    seen = []

    def listen(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(details["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def quick_figures(monkeypatch):
    """Files of figures without what takes long to draw."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: path.write_bytes(PNG_HEADER))


@pytest.fixture
def jaxgmm(capfd, tmp_path, monkeypatch):
    """The command line in this process and an empty folder: exit code, stdout, stderr."""
    from jaxgmm.app import cli

    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        return int(ended.value.code or 0), *capfd.readouterr()

    return call
