"""Numbers of rows share the compiled programs of counts: padding changes no draw."""

import jax
import numpy as np
import pytest

import jaxgmm as jg
from jaxgmm.counting import model

KEY = jax.random.key(0)
X = np.concatenate([np.random.default_rng(0).normal(c, 1, (32, 1)) for c in (-3, 0, 4)])
SHORT = {"n_draws": 20, "n_warmup": 10, "n_chains": 2, "max_components": 6}


def counted(n_samples, **options):
    return jg.count_clusters(X[:n_samples], key=KEY, **SHORT, **options)


def gone_on(n_samples):
    """Of the first rows, chains that went on."""
    return jg.continue_chains(counted(n_samples, groups=["log_likelihood"]), n_draws=10)


@pytest.mark.parametrize(
    "trees",
    [
        lambda: [tree := gone_on(89), jg.components_given(tree, int(tree["allocations"]["n_clusters"].values[0, -1]), key=KEY)],
        lambda: [counted(89, prior="richardson-green")],
    ],
    ids=["default", "richardson-green"],
)
def test_draws_are_those_without(trees, monkeypatch):
    padded = trees()
    monkeypatch.setattr(model, "padded_length", lambda n_samples, **how: n_samples)
    for one, other in zip(padded, trees(), strict=True):
        for group in one.children:
            for name, values in one[group].data_vars.items():
                np.testing.assert_allclose(values, other[group][name], rtol=1e-7, atol=1e-9, err_msg=f"{group} {name}")
    labels = padded[0]["allocations"]["label"].values
    assert labels.shape[-1] == 89
    assert (labels < 6).all()


def test_another_number_of_rows_compiles_nothing(compilations):
    gone_on(96)
    before = len(compilations)
    gone_on(93)
    assert compilations[before:] == []
