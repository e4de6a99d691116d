"""Plain EM against SQUAREM, by default settings otherwise, on 60 simulated problems: `python tests/benchmarks/acceleration.py`.

Five kinds of data (how far the clusters are apart, how their sizes and spreads differ, outliers) x four shapes x three numbers
of components to fit: as many as there are, one too few, two too many. For each the better objective, replication (starts of
ten that end there), steps of the best start, and seconds of a second call; then sums over all of them.
"""

import itertools
import time
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

import jaxgmm as jg

SHAPES = [(300, 1, 3), (500, 2, 4), (2000, 4, 5), (5000, 8, 6)]  # rows, features, clusters
KINDS = {"apart": 6.0, "near": 3.0, "overlapping": 1.8, "uneven": 3.0, "outliers": 4.0}  # distances of centres, in sds


class Found(NamedTuple):
    """What one way of climbing found."""

    objective: float
    replication: int
    steps: int
    most_steps: int
    seconds: float


def rows_of(kind: str, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Rows of a problem."""
    n, d, k = shape
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d)) * KINDS[kind] / np.sqrt(2 * d)
    shares = rng.dirichlet(np.full(k, 1.0 if kind == "uneven" else 20.0))
    spread = np.exp(rng.normal(size=(k, d)) * (0.8 if kind == "uneven" else 0.2))
    label = rng.choice(k, n, p=shares)
    x = centres[label] + spread[label] * rng.normal(size=(n, d))
    if kind == "outliers":
        x[: n // 100] = rng.uniform(-30, 30, (n // 100, d))
    return x


def problems() -> Iterator[tuple[str, tuple[int, int, int], int, np.ndarray]]:
    """Kind, shape, number of components to fit, and rows."""
    for seed, (kind, shape) in enumerate(itertools.product(KINDS, SHAPES)):
        x = rows_of(kind, shape, seed)
        for k in (shape[2] - 1, shape[2], shape[2] + 2):
            yield kind, shape, k, x


def climbed(x: np.ndarray, k: int, acceleration: str | None) -> Found:
    """The better of two calls, as to time."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        fit = jg.fit(x, k, key=jax.random.key(1), acceleration=acceleration, progress=False)
        seconds.append(time.perf_counter() - start)
    restarts = fit.restarts
    return Found(fit.objective, restarts.replication, fit.n_steps, int(np.max(restarts.n_steps)), min(seconds))


def main() -> None:
    warnings.simplefilter("ignore", jg.FitWarning)
    print(f"{'':<36}{'objective':>12}{'replication':>14}{'steps':>14}{'most':>12}{'ms':>16}")
    table = []
    for kind, shape, k, x in problems():
        plain, fast = climbed(x, k, None), climbed(x, k, "squarem")
        table.append((len(x), plain, fast))
        print(
            f"{kind:<12}{'x'.join(map(str, shape)):<14} K = {k:<4}{fast.objective - plain.objective:>12.2g}"
            f"{plain.replication:>7} ->{fast.replication:>4}{plain.steps:>8} ->{fast.steps:>4}"
            f"{plain.most_steps:>6} ->{fast.most_steps:>4}{1e3 * plain.seconds:>8.0f} ->{1e3 * fast.seconds:>5.0f}",
            flush=True,
        )
    gain = np.array([(fast.objective - plain.objective) / n for n, plain, fast in table])
    seconds = np.array([(plain.seconds, fast.seconds) for _, plain, fast in table])
    starts = np.array([(plain.replication, fast.replication) for _, plain, fast in table])
    same = np.abs(gain) < 1e-6
    ratio, worse, better = seconds[:, 0] / seconds[:, 1], (gain <= -1e-6).sum(), (gain >= 1e-6).sum()
    print(
        f"\nobjectives within 1e-6 nats a row: {same.sum()} of {len(table)}; SQUAREM's is worse {worse} times, better {better}."
    )
    fewer, more = ((sign * (starts[same, 1] - starts[same, 0]) > 0).sum() for sign in (-1, 1))
    print(f"Replication where they are, of 10: {starts[same].mean(0).round(2)}; with SQUAREM less in {fewer}, more in {more}.")
    mean = np.exp(np.log(ratio).mean())
    print(f"Seconds, all problems: {seconds.sum(0).round(2)}; ratio {mean:.2f}, at least {ratio.min():.2f}.")


if __name__ == "__main__":
    main()
