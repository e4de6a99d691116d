"""EM on this machine: time per iteration against scikit-learn and gmmx, share of peak, memory, compile time, float32.

    .venv/bin/pip install -q -e '.[bench]'
    .venv/bin/python tests/benchmarks/em.py [--parts speed peak memory compile accuracy] [--shapes full:10000,8,8 ...]

Times are (best of MANY iterations - best of FEW) / (MANY - FEW), so that set-up, compilation and checks cancel; all
libraries have the same data, start and iteration count, and take turns. Run it on a quiet machine: a busy second core
slows scikit-learn far more than XLA.
"""

import argparse
import contextlib
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxgmm as jg

SHAPES = [
    "full:300,2,3",
    "full:10000,8,8",
    "full:100000,16,16",
    "full:1000000,8,10",
    "full:100000,64,32",
    "diag:100000,64,32",
    "spherical:100000,64,32",
]
PEAK_SHAPE = "full:100000,64,32"
MEMORY_SHAPE = "full:1000000,8,10"
PARTS = ("speed", "peak", "memory", "compile", "accuracy")
FEW = 2
MORE_WORK = 4e8  # products N P K that the further iterations amount to: long enough to time, short enough to wait for


def parse(shape: str) -> tuple[str, int, int, int]:
    family, numbers = shape.split(":")
    n, d, k = map(int, numbers.split(","))
    return family, n, d, k


def n_columns(family: str, d: int) -> int:
    """P: how many numbers of a row the log-density is linear in."""
    return {"full": 1 + d + d * (d + 1) // 2, "diag": 1 + 2 * d, "spherical": 2 + d}[family]


def n_more(shape: str) -> int:
    family, n, d, k = parse(shape)
    return int(np.clip(MORE_WORK / (n * n_columns(family, d) * k), 5, 1000))


def problem(shape: str, dtype: type) -> tuple[np.ndarray, jg.GMM]:
    """Rows of overlapping clusters, and a start with the clusters' means and unit covariances."""
    family, n, d, k = parse(shape)
    rng = np.random.default_rng(0)
    means = 3 * rng.normal(size=(k, d))
    factors = rng.normal(size=(k, d, d)) / np.sqrt(d) + 0.3 * np.eye(d)
    x = np.empty((n, d), dtype)
    for first in range(0, n, 10_000):
        z = rng.integers(k, size=min(10_000, n - first))
        x[first : first + len(z)] = means[z] + np.einsum("nij,nj->ni", factors[z], rng.normal(size=(len(z), d)))
    covariances = {"full": np.tile(np.eye(d), (k, 1, 1)), "diag": np.ones((k, d)), "spherical": np.ones(k)}[family]
    return x, jg.GMM(np.full(k, 1 / k), means, covariances, family)


def precision(dtype: type) -> contextlib.AbstractContextManager:
    """float64 data need JAX's 64-bit types; float32 data are timed in JAX's default configuration."""
    return jax.enable_x64(dtype == np.float64)


def run_jaxgmm(x: np.ndarray, start: jg.GMM, n_steps: int) -> jg.Fit:
    with precision(x.dtype.type):
        fit = jg.fit(x, key=jax.random.key(0), init=start, prior=None, rtol=0.0, max_steps=n_steps)
    if fit.n_steps != n_steps:
        raise RuntimeError(f"stopped after {fit.n_steps} of {n_steps} steps: {fit.status.name}")
    return fit


def run_sklearn(x: np.ndarray, start: jg.GMM, n_steps: int) -> None:
    from sklearn.mixture import GaussianMixture

    GaussianMixture(
        start.n_components,
        covariance_type=start.family,
        tol=0,
        max_iter=n_steps,
        weights_init=start.weights.astype(x.dtype),
        means_init=start.means.astype(x.dtype),
        precisions_init=start.covariances.astype(x.dtype),  # identities are their own inverses
    ).fit(x)


def run_gmmx(x: np.ndarray, start: jg.GMM, n_steps: int) -> None:
    from gmmx import EMFitter, GaussianMixtureModelJax

    with precision(np.float32):
        leaves = {name: jnp.asarray(getattr(start, name), jnp.float32) for name in ("means", "covariances", "weights")}
        gmm = GaussianMixtureModelJax.from_squeezed(**leaves, covariance_type=start.family)
        result = EMFitter(max_iter=n_steps, tol=0.0).fit(x=jnp.asarray(x), gmm=gmm)
        if int(result.n_iter) != n_steps:
            raise RuntimeError(f"stopped after {result.n_iter} of {n_steps} steps")


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def per_iteration(shape: str, dtype: type, runs: dict[str, Callable], repeats: int) -> dict[str, float | None]:
    """Seconds per iteration of every library, in turn; None where one can't run this."""
    x, start = problem(shape, dtype)
    many = FEW + n_more(shape)
    times: dict[str, list[tuple[float, float]]] = {}
    for name, run in runs.items():
        try:
            run(x, start, FEW), run(x, start, many)  # compile
            times[name] = []
        except Exception as error:
            if name == "jaxgmm":
                raise
            print(f"  {name} can't run {shape} {np.dtype(dtype)}: {str(error).splitlines()[0][:90]}", flush=True)
    for _ in range(repeats):
        for name in times:
            few, more = (seconds(lambda n=n, run=runs[name]: run(x, start, n)) for n in (FEW, many))
            times[name].append((few, more))
    best = {name: np.min(pairs, axis=0) for name, pairs in times.items()}
    return {name: (best[name][1] - best[name][0]) / (many - FEW) if name in best else None for name in runs}


def table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print(flush=True)


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e3:.3f}"


def ratio(theirs: float | None, ours: float | None) -> str:
    return "-" if theirs is None or ours is None else f"{theirs / ours:.1f}"


def speed(shapes: list[str], repeats: int) -> None:
    print("ms per EM iteration, and how many times faster jaxgmm is")
    rows = []
    for shape in shapes:
        for dtype in (np.float64, np.float32):
            runs = {"jaxgmm": run_jaxgmm, "sklearn": run_sklearn}
            if dtype == np.float32 and shape.startswith("full"):
                runs["gmmx"] = run_gmmx
            took = per_iteration(shape, dtype, runs, repeats)
            ours, theirs, gmmx = (took.get(name) for name in ("jaxgmm", "sklearn", "gmmx"))
            rows.append([shape, np.dtype(dtype).name, milliseconds(ours), milliseconds(theirs), ratio(theirs, ours)])
            rows[-1] += [milliseconds(gmmx), ratio(gmmx, ours)]
            print("  " + "  ".join(rows[-1]), flush=True)
    table(["shape", "dtype", "jaxgmm", "sklearn", "ratio", "gmmx 0.7", "ratio"], rows)


def peak(shape: str, repeats: int) -> None:
    """The share of XLA's own float64 matrix product that one iteration reaches."""
    family, n, d, k = parse(shape)
    with precision(np.float64):
        a = jnp.ones((2000, 2000))
        product = jax.jit(lambda a: a @ a)
        product(a).block_until_ready()
        rates, took = [], []
        for _ in range(2):
            rates.append(16e9 / min(seconds(lambda: product(a).block_until_ready()) for _ in range(5)))
            took.append(per_iteration(shape, np.float64, {"jaxgmm": run_jaxgmm}, repeats)["jaxgmm"])
    flops = 4 * n * n_columns(family, d) * k
    rate = flops / min(took)
    print(f"{shape} float64: {flops / 1e9:.1f} GF an iteration at {rate / 1e9:.1f} GF/s,", end=" ")
    print(f"{rate / max(rates):.0%} of a 2000 x 2000 product's {max(rates) / 1e9:.1f} GF/s\n", flush=True)


def in_new_process(function: str, shape: str) -> list[float]:
    code = f"import sys; sys.path.insert(0, {sys.path[0]!r}); import em; print(*em.{function}({shape!r}))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    return [float(number) for number in done.stdout.split()]


def peak_memory() -> float:
    """The process's high-water mark in MB (Linux). `getrusage` would do elsewhere, but it inherits the parent's mark."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def measure_memory(shape: str) -> tuple[float, float, float]:
    """Peak memory in MB: of the bare process that has computed something, with the data, and after a fit."""
    with precision(np.float64):
        jax.jit(lambda a: (a @ a).sum())(jnp.ones((10, 10))).block_until_ready()
        bare = peak_memory()
        x, _ = problem(shape, np.float64)
        before = peak_memory()
        jg.fit(x, parse(shape)[3], key=jax.random.key(0), n_init=2, max_steps=5)
    return bare, before, peak_memory()


def memory(shape: str) -> None:
    _, n, d, _ = parse(shape)
    data = n * d * 8 / 1e6
    bare, before, after = in_new_process("measure_memory", shape)
    print(f"{shape} float64, whole fit: peak {after:.0f} MB, bare process {bare:.0f} MB, data {data:.0f} MB:", end=" ")
    print(f"{after - bare - data:.0f} MB more (making the data peaked at {before:.0f} MB)\n", flush=True)


def measure_compile(shape: str) -> tuple[float, float]:
    """Seconds of the first call of fit() in a process, and of the second."""
    x, _ = problem(shape, np.float64)
    k = parse(shape)[3]
    with precision(np.float64):
        jnp.ones(3).sum().block_until_ready()
        first, second = (seconds(lambda: jg.fit(x, k, key=jax.random.key(0))) for _ in range(2))
    return first, second


def compile_time(shapes: list[str]) -> None:
    rows = []
    for shape in shapes:
        first, second = in_new_process("measure_compile", shape)
        rows.append([shape, f"{first:.2f}", f"{second:.2f}", f"{first - second:.2f}"])
    print("s of a call of fit() with its defaults, 10 starts")
    table(["shape", "first", "second", "compilation"], rows)


def accuracy(shapes: list[str], n_steps: int = 10) -> None:
    rows = []
    for shape in shapes:
        mean = {}
        for dtype in (np.float64, np.float32):
            x, start = problem(shape, dtype)
            mean[dtype] = run_jaxgmm(x, start, n_steps).log_likelihood / len(x)
        difference = abs(mean[np.float32] / mean[np.float64] - 1)
        rows.append([shape, f"{mean[np.float64]:.7f}", f"{mean[np.float32]:.7f}", f"{difference:.1e}"])
    print(f"mean log-likelihood after {n_steps} steps")
    table(["shape", "float64", "float32", "relative difference"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="FAMILY:N,D,K")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {len(jax.devices())} device(s)\n", flush=True)
    if "speed" in options.parts:
        speed(options.shapes, options.repeats)
    if "peak" in options.parts:
        peak(PEAK_SHAPE, options.repeats)
    if "memory" in options.parts:
        memory(MEMORY_SHAPE)
    if "compile" in options.parts:
        compile_time(["full:300,2,3", "full:10000,8,8"])
    if "accuracy" in options.parts:
        accuracy(options.shapes)


if __name__ == "__main__":
    main()
