"""Rows of several processes on this machine: the fit of one process, to rounding, in each of them."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxgmm as jg
from jaxgmm.data import Pieces, Processes

KEY = jax.random.key(0)

SET_UP = """
import sys, jax, numpy as np
folder, address, number, index = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
jax.distributed.initialize(address, number, index, heartbeat_timeout_seconds=10)
import jaxgmm as jg
KEY = jax.random.key(0)
def shard(**how):
    return jg.data.Processes(jg.data.scan(folder + "/rows.npy", shard=(index, number), rows_a_piece=500, **how))
"""
FIT = """
fit = jg.fit(shard(), 4, key=KEY, n_init=3, rtol=0, max_steps=50)
table = jg.compare(shard(), families=["diag"], n_components=[1, 4], key=KEY, n_init=2).table
np.savez(f"{folder}/{index}.npz", trace=fit.trace, means=fit.gmm.means, bic=table["bic"], best=fit.restarts.best)
"""


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start(script, folder, number, env=None):
    """So many processes that run a script."""
    address = free_address()
    return [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SET_UP + script, str(folder), address, str(number), str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (env or {}),
        )
        for index in range(number)
    ]


def finish(children, timeout=240):
    """What they said, and their exit codes."""
    said = [child.communicate(timeout=timeout) for child in children]
    return said, [child.returncode for child in children]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(1500, 3)) @ rng.normal(size=(3, 3)) + 4 * rng.normal(size=3) for _ in range(4)])
    place = tmp_path_factory.mktemp("rows")
    np.save(place / "rows.npy", rng.permutation(x))
    return place


def test_each_of_three_processes_has_the_fit_of_one(folder):
    said, codes = finish(start(FIT, folder, 3))
    assert codes == [0] * 3, said
    rows = jg.data.scan(folder / "rows.npy", rows_a_piece=500)
    with pytest.warns(jg.FitWarning, match="max_steps"):
        one = jg.fit(rows, 4, key=KEY, n_init=3, rtol=0, max_steps=50)
    bic = jg.compare(rows, families=["diag"], n_components=[1, 4], key=KEY, n_init=2).table["bic"]
    for index in range(3):
        found = np.load(folder / f"{index}.npz")
        np.testing.assert_allclose(found["trace"], one.trace, rtol=1e-10)
        np.testing.assert_allclose(found["means"], one.gmm.means, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found["bic"], bic, rtol=1e-10)
        assert found["best"] == one.restarts.best


STARTS = """
import time
real = jg.data.Processes.reduce
def slow(self, f):
    time.sleep(0.05 * index)
    return real(self, f)
jg.data.Processes.reduce = slow
told = (lambda progress: None) if index else None
fit = jg.fit(shard(), 4, key=KEY, n_init=20, max_steps=60, callback=told)
print("starts:", len(fit.restarts.status), fit.restarts.n_steps.sum(), repr(float(fit.objective)))
jg.data.Processes.reduce = real
"""
CHECKPOINTS = """
from jaxgmm.fitting import checkpoint
checkpoint.Checkpoint.__init__.__kwdefaults__["seconds"] = 0.0
calls = []
class Stop(Exception): pass
def stop(progress):
    calls.append(progress.n_steps)
    if len(calls) == 12:
        raise Stop
options = {"key": KEY, "n_init": 2, "rtol": 0, "max_steps": 30}
whole = jg.fit(shard(), 4, **options)
try:
    jg.fit(shard(), 4, **options, checkpoint=folder + "/unfinished", callback=stop)
except Stop:
    pass
calls.clear()
options |= {"checkpoint": folder + "/unfinished", "resume": True, "callback": lambda p: calls.append(p.n_steps)}
again = jg.fit(shard(), 4, **options)
np.testing.assert_array_equal(again.trace, whole.trace)
print("went on at:", calls[0])
"""
BAD = """
def scanned(name, **how):
    return jg.data.Processes(jg.data.scan(folder + name, **how))
cases = [
    lambda: shard() if index else scanned("/bad.npy"),
    lambda: shard() if index else scanned("/late.npy", rows_a_piece=500),
    lambda: scanned("/rows.npy" if index else "/wide.npy"),
]
for rows in cases:
    try:
        jg.fit(rows(), 2, key=KEY)
    except ValueError as error:
        print("refused:", error)
"""


@pytest.fixture(scope="module")
def said_by_two(folder):
    """What each of two processes says that do the three above, one after the other."""
    x = np.load(folder / "rows.npy")
    np.save(folder / "bad.npy", np.where(np.arange(len(x))[:, None] == 77, np.nan, x))
    np.save(folder / "late.npy", np.where(np.arange(len(x))[:, None] == 5000, np.nan, x))
    np.save(folder / "wide.npy", np.column_stack([x, x]))
    said, codes = finish(start(STARTS + CHECKPOINTS + BAD, folder, 2))
    assert codes == [0, 0], said

    def lines(beginning):
        return [[line for line in out.splitlines() if line.startswith(beginning)] for out, _ in said]

    return lines


def test_more_starts_than_are_stepped_together(said_by_two):
    """Also where one process is slower, and only the other has someone to tell: both step the same starts."""
    (one,), (other,) = said_by_two("starts:")
    assert one == other
    assert one.startswith("starts: 20 ")


def test_checkpoints_of_two_processes(folder, said_by_two):
    """The first keeps; both go on."""
    assert said_by_two("went on at:") == [["went on at: 12"]] * 2
    assert not (folder / "unfinished").exists()


def test_what_one_process_can_not_use_stops_all(said_by_two):
    """With its message, and at once: none waits for one that has gone, and they can go on together."""
    words = "bad.npy has missing values", "late.npy has missing values (NaN) in row 5000", "give all of them files"
    for refused in said_by_two("refused:"):
        assert len(refused) == 3, refused
        assert all(word in line for word, line in zip(words, refused, strict=True)), refused


def test_rows_in_the_memory_of_two_processes_with_two_devices_each(folder):
    script = """
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
x = np.load(folder + "/rows.npy")
with jax.enable_x64(True):
    own = np.split(x, number)[index]
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("rows",)), P("rows"))
    rows = jax.make_array_from_process_local_data(sharding, own)
    assert rows.shape == x.shape and not rows.is_fully_addressable
fit = jg.fit(rows, 4, key=KEY, n_init=3, rtol=0, max_steps=50)
whole = jg.fit(x, init=fit.gmm, key=KEY, rtol=0, max_steps=1)
assert abs(whole.trace[0] / fit.objective - 1) < 1e-12, (whole.trace, fit.objective)
labels = fit.gmm.predict(rows)
expected = np.asarray(fit.gmm.predict(own))
np.testing.assert_array_equal(np.concatenate([shard.data for shard in labels.addressable_shards]), expected)
print(fit.fingerprint)
"""
    said, codes = finish(start(script, folder, 2, {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}))
    assert codes == [0, 0], said
    assert said[0][0].split()[-1] == said[1][0].split()[-1]


def test_a_process_that_dies_ends_the_others(folder):
    """Within a minute, and not with a result."""
    script = """
def end(progress):
    if index == 1:
        import os
        os._exit(9)
jg.fit(shard(), 4, key=KEY, n_init=1, rtol=0, max_steps=5000, callback=end)
print("result")
"""
    said, codes = finish(start(script, folder, 2), timeout=150)
    assert codes[1] == 9
    assert codes[0] != 0
    assert "result" not in said[0][0]


def test_one_process_is_no_other_than_pieces(folder):
    x = np.load(folder / "rows.npy")
    rows = Pieces(lambda: iter(np.array_split(x, 5)))
    options = {"key": KEY, "n_init": 2, "max_steps": 2000}
    own, together = jg.fit(rows, 4, **options), jg.fit(Processes(rows), 4, **options)
    np.testing.assert_array_equal(own.trace, together.trace)
    assert own.fingerprint == together.fingerprint
    with pytest.raises(TypeError, match="own must be Pieces"):
        Processes(x)
    with pytest.raises(ValueError, match="each of which has its own"):
        jg.fit(Processes(rows), 2, key=KEY, sample_weight=np.ones(len(x)))
