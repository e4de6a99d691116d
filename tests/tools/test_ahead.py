"""What is made in other threads while this one is at work."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm as jg
from jaxgmm.tools.ahead import compiled_meanwhile, side_by_side

KEY, X = jax.random.key(0), jg.datasets.load_faithful().x


def test_results_come_in_order_whoever_is_first():
    second_is_done = threading.Event()

    def call(item):
        assert second_is_done.wait(60) if item == 0 else second_is_done.set() is None
        return item, jnp.ones(()).dtype  # float64, as here

    assert list(side_by_side(call, [0, 1])) == [(0, np.float64), (1, np.float64)]


@pytest.mark.parametrize("x64", [False, True])
def test_errors_are_raised_at_their_turn(x64):
    def call(item):
        if item == 1:
            raise ValueError("one")
        return jnp.ones(()).dtype == (np.float64 if x64 else np.float32)

    with jax.enable_x64(x64):
        results = side_by_side(call, [0, 1, 2])
        assert next(results)
        with pytest.raises(ValueError, match="one"):
            next(results)


def test_settings_that_reach_no_other_thread_keep_it_in_this_one():
    def call(_):
        return threading.current_thread()

    with jax.default_device(jax.devices()[0]):
        assert set(side_by_side(call, [0, 1])) == {threading.current_thread()}
        seen = []
        with compiled_meanwhile(lambda: seen.append(call(0))):
            pass
        assert not seen


def test_what_is_compiled_meanwhile_is_compiled(compilations):
    @jax.jit
    def function(x):
        return x * 3.5

    with compiled_meanwhile(lambda: function.lower(jax.ShapeDtypeStruct((7,), np.float64)).compile()):
        pass
    assert compilations == ["jit(function)"]
    np.testing.assert_array_equal(function(np.ones(7)), 3.5)
    assert compilations == ["jit(function)"]


def test_an_error_there_is_left_to_who_asks_for_the_program():
    with compiled_meanwhile(lambda: 1 / 0):
        pass


def count():
    return jg.count_clusters(X, key=KEY, max_components=4, n_draws=4, n_warmup=0)


def draw():
    return jg.posterior(X, jg.GMM([0.5, 0.5], [[2, 55], [4, 80]], [1, 36], "spherical"), method="gibbs", key=KEY, n_draws=4)


@pytest.mark.parametrize(("call", "program"), [(count, "_advance_one"), (draw, "_advance")])
def test_chains_are_compiled_once(compilations, call, program):
    """In the other thread, for the very arguments that they are given."""
    call()
    assert compilations.count(f"jit({program})") == 1
