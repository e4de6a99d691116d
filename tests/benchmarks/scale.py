"""Rows that memory doesn't hold, several processes, and streams: rates, memory, and what they cost in accuracy.

    python tests/benchmarks/scale.py files [MILLIONS]      # Parquet against memory: rows a second, peak memory
    python tests/benchmarks/scale.py linear                # seconds a step against N, K and D: slopes
    python tests/benchmarks/scale.py processes             # two processes of a core against one
    python tests/benchmarks/scale.py stepwise [MILLIONS]   # one pass over a stream against EM on all rows
    python tests/benchmarks/scale.py posterior [MILLIONS]  # draws from rows in files: peak memory
    python tests/benchmarks/scale.py truncated             # 500 components: all of them against those that matter to a block

Data are written to a temporary folder, about 64 MB for a million rows of 16 float32 features.
"""

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

D, K, ROWS_A_FILE = 16, 16, 1_000_000


def mixture(n_features=D, n_components=K, seed=0, separation=3, shapes=1):
    rng = np.random.default_rng(seed)
    means = separation * rng.normal(size=(n_components, n_features))
    roots = shapes * rng.normal(size=(n_components, n_features, n_features)) / np.sqrt(n_features) + np.eye(n_features)
    return means, roots


def drawn(n, seed, n_features=D, n_components=K, **options):
    """Rows of a mixture, float32."""
    means, roots = mixture(n_features, n_components, **options)
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, n_components, n))
    rows = rng.normal(size=(n, n_features))
    for k in range(n_components):
        mine = labels == k
        rows[mine] = rows[mine] @ roots[k].T + means[k]
    return rng.permutation(rows).astype(np.float32)


def start():
    import jaxgmm as jg

    means, _ = mixture()
    rng = np.random.default_rng(9)
    return jg.GMM(np.full(K, 1 / K), means + rng.normal(size=means.shape), [2 * np.eye(D)] * K)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed_fit(rows, steps=5, **options):
    """Seconds a step, from the difference of two fits, and the last one."""
    import jax

    import jaxgmm as jg

    seconds = []
    for n in (1, 1, 1 + steps):  # the first compiles
        began = time.perf_counter()
        fit = jg.fit(rows, init=start(), key=jax.random.key(0), rtol=0, max_steps=n, progress=False, **options)
        seconds.append(time.perf_counter() - began)
    return (seconds[2] - seconds[1]) / steps, fit


def child(*arguments, **environment):
    """A fresh process of this file, what it prints last."""
    command = [sys.executable, "-W", "ignore", __file__, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | environment)
    return json.loads(done.stdout.splitlines()[-1])


def write(place, millions):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for i in range(millions):
        rows = drawn(ROWS_A_FILE, i)
        table = pa.table({f"x{d}": rows[:, d] for d in range(D)})
        pq.write_table(table, Path(place) / f"part{i:03d}.parquet", row_group_size=250_000)


def posterior(millions=8):
    for n in (1, millions):
        with tempfile.TemporaryDirectory() as place:
            write(place, n)
            for method in ("svi", "gibbs"):
                print(f"{n} million rows, {method}: {child('draws', place, method)}", flush=True)


def draws(place, method):
    """Few of them: what grows with the rows would show."""
    import jax

    import jaxgmm as jg

    rows = jg.data.scan(place)
    fit = jg.fit(rows, init=start(), key=jax.random.key(0), max_steps=5, progress=False)
    own = {
        "svi": {"batch_size": 1000, "n_draws": 10, "guide": "normal", "n_steps": 200},
        "gibbs": {"n_draws": 4, "n_warmup": 1},
    }[method]
    began, before = time.perf_counter(), peak_mb()
    tree = jg.posterior(rows, fit, method=method, key=jax.random.key(1), n_chains=2, progress=False, **own)
    means = tree["posterior"]["means"]
    away = abs(means.mean(("chain", "draw")).values - np.asarray(fit.gmm.means)) / means.std(("chain", "draw")).values
    took = time.perf_counter() - began
    return {"seconds": took, "peak": peak_mb(), "peak of the fit": before, "sds from the fit": float(np.median(away))}


def files(millions=20):
    with tempfile.TemporaryDirectory() as place:
        write(place, millions)
        size = sum(file.stat().st_size for file in Path(place).iterdir()) / 1e9
        print(f"{millions} million rows of {D} float32 features, {size:.2f} GB of Parquet, K = {K}, full")
        bare = child("bare")
        streamed, memory = child("streamed", place), child("memory", place)
        print(f"{'':10}{'s a step':>10}{'rows/s':>12}{'peak MB':>10}")
        for name, found in (("bare", bare), ("Parquet", streamed), ("memory", memory)):
            rate = f"{found['step']:10.2f}{millions * 1e6 / found['step']:12.3g}" if "step" in found else " " * 22
            print(f"{name:10}{rate}{found['peak']:10.0f}")
        print(f"rate of Parquet to memory: {memory['step'] / streamed['step']:.2f}")
        print(f"log-likelihoods differ by {abs(streamed['value'] / memory['value'] - 1):.1e}, relative")


def bare():
    import jaxgmm as jg

    x = drawn(1000, 0)
    timed_fit(x, 1)
    assert jg
    return {"peak": peak_mb()}


def streamed(place):
    import jaxgmm as jg

    step, fit = timed_fit(jg.data.scan(place))
    return {"step": step, "peak": peak_mb(), "value": fit.log_likelihood}


def memory(place):
    import pyarrow.parquet as pq

    parts = []
    for file in sorted(Path(place).iterdir()):
        table = pq.read_table(file)
        parts.append(np.column_stack([column.to_numpy() for column in table.columns]))
    step, fit = timed_fit(np.concatenate(parts))
    return {"step": step, "peak": peak_mb(), "value": fit.log_likelihood}


def linear():
    import jax

    import jaxgmm as jg

    def seconds(n, d, k, steps):
        x = np.random.default_rng(0).normal(size=(n, d))
        gmm = jg.initialise(x[: 50 * k], k, key=jax.random.key(0))
        best = {}
        for m in (1, 1 + steps):
            fits = []
            for _ in range(3):
                began = time.perf_counter()
                jg.fit(x, init=gmm, key=jax.random.key(0), rtol=0, max_steps=m, progress=False)
                fits.append(time.perf_counter() - began)
            best[m] = min(fits)
        return (best[1 + steps] - best[1]) / steps

    sweeps = {
        "N": [(n, 8, 8, max(3, 3_000_000 // n)) for n in (10_000, 100_000, 1_000_000, 10_000_000)],
        "K": [(200_000, 16, k, 5) for k in (8, 16, 32, 64)],
        "D": [(100_000, d, 16, 5) for d in (16, 32, 64, 128)],
    }
    for name, shapes in sweeps.items():
        values = np.array([shape["NDK".index(name)] for shape in shapes])
        took = np.array([seconds(*shape) for shape in shapes])
        slope = np.polyfit(np.log(values), np.log(took), 1)[0]
        print(f"{name}: {dict(zip(values.tolist(), np.round(1e3 * took, 2).tolist(), strict=True))} ms, slope {slope:.2f}")


def processes():
    n = 4_000_000
    with tempfile.TemporaryDirectory() as place:
        np.save(Path(place) / "rows.npy", np.concatenate([drawn(1_000_000, i) for i in range(4)]))
        rates = {}
        for number in (1, 2):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                address = f"127.0.0.1:{probe.getsockname()[1]}"
            running = []
            for index in range(number):
                command = [sys.executable, "-W", "ignore", __file__, "part", place, address, str(number), str(index)]
                flags = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "OMP_NUM_THREADS": "1"}
                core = ["taskset", "-c", str(index)]
                pipe = subprocess.PIPE
                running.append(subprocess.Popen([*core, *command], stdout=pipe, text=True, env=os.environ | flags))
            said = [json.loads(one.communicate()[0].splitlines()[-1]) for one in running]
            rates[number] = n / said[0]["step"]
            print(f"{number} of one core each: {rates[number]:.3g} rows/s, log-likelihood {said[0]['value']:.6f}")
        print(f"two against one: {rates[2] / rates[1]:.2f}")


def part(place, address, number, index):
    import jax

    jax.distributed.initialize(address, int(number), int(index))
    import jaxgmm as jg

    step, fit = timed_fit(jg.data.Processes(jg.data.scan(Path(place) / "rows.npy", shard=(int(index), int(number)))))
    return {"step": step, "value": fit.log_likelihood}


def stepwise(millions=10, chunk=100_000):
    """One pass of stepwise EM against EM on all rows until it has converged: 8 features, 8 components that overlap."""
    import jax

    import jaxgmm as jg

    near = {"separation": 1.0, "shapes": 0.4}

    def chunks():
        return (drawn(chunk, i, 8, 8, **near).astype(float) for i in range(millions * 1_000_000 // chunk))

    def per_row(gmm):
        return sum(float(jg.e_step(gmm, rows).log_likelihood) for rows in chunks()) / (millions * 1e6)

    true, roots = mixture(8, 8, **near)
    truth = jg.GMM(np.full(8, 1 / 8), true, roots @ np.swapaxes(roots, 1, 2))
    overlap = 1 - np.asarray(truth.responsibilities(next(chunks()))).max(1).mean()
    first = jg.fit(next(chunks())[:2000], 8, key=jax.random.key(0), max_steps=2000)
    began = time.perf_counter()
    state = jg.stepwise(first)
    for rows in chunks():
        state = state.update(rows)
    pass_seconds = time.perf_counter() - began
    print(f"{millions} million rows in chunks of {chunk}, 8 x 8, {overlap:.0%} of labels wrong by the truth;", end=" ")
    print(f"a pass takes {pass_seconds:.0f} s with drawing them, peak {peak_mb():.0f} MB", flush=True)
    values = {"fit of 2000 rows": per_row(first.gmm), "stepwise": per_row(state.gmm), "truth": per_row(truth)}
    with tempfile.TemporaryDirectory() as place:
        for i, rows in enumerate(chunks()):
            np.save(Path(place) / f"part{i:05d}.npy", rows.astype(np.float32))
        whole = jg.data.scan(str(Path(place) / "*.npy"))
        for name, start in (("EM from the same fit", first.gmm), ("EM from stepwise's end", state.gmm)):
            fit = jg.fit(whole, init=start, key=jax.random.key(0), prior=None, max_steps=200, progress=False)
            values |= {f"{name}, {fit.status.name} after {fit.n_steps} steps": fit.log_likelihood / (millions * 1e6)}
    print(f"nats a row, peak {peak_mb():.0f} MB:", {name: round(value, 6) for name, value in values.items()})


def truncated(n=100_000, n_components=500, before=10):
    import jax

    import jaxgmm as jg

    for separation in (3.0, 2.0, 1.5):
        means, roots = mixture(n_components=n_components)
        means, roots = separation / 3 * means, 0.8 * np.eye(D) + (roots - np.eye(D)) / 2
        rng = np.random.default_rng(1)
        labels = rng.integers(0, n_components, n)
        x = means[labels] + np.einsum("nij,nj->ni", roots[labels], rng.normal(size=(n, D)))
        near = means + rng.normal(size=means.shape) / 2
        gmm = jg.GMM(np.full(n_components, 1 / n_components), near, [1.5 * np.eye(D)] * n_components)
        options = {"init": gmm, "key": jax.random.key(0), "rtol": 0, "progress": False}

        def seconds(truncate, steps, times, x=x, options=options):
            took = []
            for _ in range(times):
                began = time.perf_counter()
                fit = jg.fit(x, max_steps=steps, truncate=truncate, **options)
                took.append(time.perf_counter() - began)
            return min(took), fit.trace

        took, traces = {}, {}
        for truncate, steps, times in ((0.0, 10, 1), (1e-9, 40, 2)):
            seconds(truncate, 1, 1)  # compiles
            first, _ = seconds(truncate, before, times)
            last, traces[truncate] = seconds(truncate, before + steps, times)
            took[truncate] = (last - first) / steps, first
        length = len(traces[0.0])
        other = abs(traces[1e-9][:length] / traces[0.0] - 1).max()
        print(f"means {separation} sd around 0: {took[0.0][0]:.2f} s a step, truncated {took[1e-9][0]:.3f} s,", end=" ")
        print(f"{took[0.0][0] / took[1e-9][0]:.1f} times faster; the first {before} steps", end=" ")
        print(f"{took[0.0][1]:.1f} and {took[1e-9][1]:.1f} s; objectives differ by {other:.1e}, relative, at most", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    name, *arguments = sys.argv[1:] or ["linear"]
    found = globals()[name](
        *(int(one) if one.isdigit() and name in ("files", "stepwise", "posterior") else one for one in arguments)
    )
    if found is not None:
        print(json.dumps(found))
