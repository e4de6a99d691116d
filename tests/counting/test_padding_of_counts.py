"""Numbers of rows share the compiled programs of counts: padding changes no draw."""

import jax
import numpy as np
import pytest

import jaxgmm as jg
from jaxgmm.counting import model

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(104, 2)) + 4 * (np.arange(104) % 3)[:, None]
SHORT = {"key": KEY, "n_draws": 20, "n_warmup": 10}
MIXTURE = {"family": "spherical", "max_components": 10}  # with X, as in test_count_clusters.py: they share programs
CLASSIC = {"prior": "richardson-green", "n_moves": 3}  # as the galaxies there


def counted_and_gone_on(n_samples):
    """Of the first rows: a run with a group, and one that went on from there."""
    tree = jg.count_clusters(X[:n_samples], **SHORT, **MIXTURE, groups=["log_likelihood"])
    return [tree, jg.continue_chains(tree.drop_nodes("log_likelihood"), n_draws=10)]


def with_components(trees):
    n_clusters = int(trees[0]["allocations"]["n_clusters"].values[0, -1])
    return [*trees, jg.components_given(trees[0], n_clusters, key=KEY)]


@pytest.mark.parametrize(
    ("n_samples", "most", "trees"),
    [
        (97, 10, lambda: with_components(counted_and_gone_on(97))),
        (81, 30, lambda: [jg.count_clusters(X[:81, :1], **SHORT, **CLASSIC)]),
    ],
    ids=["default", "richardson-green"],
)
def test_draws_are_those_without(n_samples, most, trees, monkeypatch):
    padded = trees()
    monkeypatch.setattr(model, "padded_length", lambda n_samples, **how: n_samples)
    for one, other in zip(padded, trees(), strict=True):
        for group in one.children:
            for name, values in one[group].data_vars.items():
                np.testing.assert_allclose(values, other[group][name], rtol=1e-7, atol=1e-9, err_msg=f"{group} {name}")
    labels = padded[0]["allocations"]["label"].values
    assert labels.shape[-1] == n_samples
    assert (labels < most).all()


def test_another_number_of_rows_compiles_nothing(compilations):
    counted_and_gone_on(104)
    before = len(compilations)
    counted_and_gone_on(100)
    assert compilations[before:] == []
