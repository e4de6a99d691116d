"""Several calls at once, in other threads."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgmm.tools.threads import side_by_side


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
