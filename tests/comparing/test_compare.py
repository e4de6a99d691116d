"""`compare`: models of a batch against single fits, criteria against sums by hand and mclust, and what can't be compared."""

import dataclasses
import functools
import json
import warnings

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import FAMILIES, MCLUST_DATA, REFERENCE, free_parameters, load_x
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import jaxgmm as jg
from jaxgmm.comparing.ranking import Choice, agreement, choices, ranks
from jaxgmm.covariance import FAMILIES as ALL_FAMILIES
from jaxgmm.fitting.batch import model_key
from jaxgmm.model.criteria import CRITERIA

X = np.random.default_rng(5).normal(size=(60, 2)) * [1, 10] + 4 * np.random.default_rng(6).integers(0, 2, (60, 1))
WEIGHT = np.random.default_rng(7).integers(0, 3, 60).astype(float)
KEY = jax.random.key(3)
OPTIONS = {"n_init": 4, "sample_weight": WEIGHT}  # with at most four components, one program fits a family's models alone
MCLUST_BIC = json.loads((REFERENCE / "mclust_bic.json").read_text())


@functools.cache
def compared(prior="default"):
    """Weighted rows; starts of three numbers of components in one batch, and held-out folds."""
    with jax.enable_x64(True):
        return jg.compare(X, families=FAMILIES, n_components=[1, 2, 4], key=KEY, prior=prior, held_out_folds=3, **OPTIONS)


def single_fit(family, k, prior="default", **changes):
    return jg.fit(X, k, key=model_key(KEY, family, k), family=family, prior=prior, **OPTIONS | changes)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_model_of_a_batch_is_a_fit_of_its_own(family, k):
    mine, alone = compared().fit(family, k), single_fit(family, k)
    assert mine.status == alone.status
    np.testing.assert_allclose(mine.restarts.objective, alone.restarts.objective, rtol=1e-9)
    np.testing.assert_allclose(mine.gmm.means, alone.gmm.means, rtol=1e-6, atol=1e-6)
    assert mine.fingerprint == alone.fingerprint
    assert mine.objective == pytest.approx(mine.log_likelihood + float(mine.prior.log_prob(mine.gmm)), rel=1e-10)
    for start in range(4):
        trace = mine.restarts.trace[start]
        assert len(trace) == mine.restarts.n_steps[start] + 1
        assert trace[-1] == mine.restarts.objective[start]
        assert (np.diff(trace) > -1e-7).all()


def test_more_starts_than_places(monkeypatch):
    """Starts that wait for a place end where they would have ended in a batch of their own."""
    monkeypatch.setattr("jaxgmm.fitting.loop._PLACES", 3)
    monkeypatch.setattr("jaxgmm.fitting.loop._STRIDE", 5)
    for k in (2, 4):
        queued = single_fit("diag", k, n_init=8)
        with monkeypatch.context() as undone:
            undone.setattr("jaxgmm.fitting.loop._PLACES", 8)
            together = single_fit("diag", k, n_init=8)
        np.testing.assert_allclose(queued.restarts.objective, together.restarts.objective, rtol=1e-12)
        np.testing.assert_array_equal(queued.restarts.n_steps, together.restarts.n_steps)
        for one, other in zip(queued.restarts.trace, together.restarts.trace, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


def test_max_steps_with_more_starts_than_places(monkeypatch):
    monkeypatch.setattr("jaxgmm.fitting.loop._PLACES", 3)
    monkeypatch.setattr("jaxgmm.fitting.loop._STRIDE", 5)
    with pytest.warns(jg.FitWarning, match="max_steps"):
        fit = single_fit("diag", 4, n_init=8, rtol=0.0, max_steps=7)
    assert set(fit.restarts.status) == {jg.Status.max_steps}
    assert fit.restarts.n_steps.tolist() == [7] * 8


def test_large_data_are_fitted_model_by_model(monkeypatch):
    monkeypatch.setattr("jaxgmm.fitting.batch.TOGETHER", 0)
    apart = jg.compare(X, families=["diag"], n_components=[1, 2, 4], key=KEY, **OPTIONS)
    for k in (1, 2, 4):
        assert apart.fit("diag", k).objective == pytest.approx(compared().fit("diag", k).objective, rel=1e-10)


def test_a_row_does_not_depend_on_the_others():
    fewer = jg.compare(X, families=["VVI"], n_components=[4], key=KEY, **OPTIONS)
    assert fewer.names == ["diag 4"]
    # Not the objective, so what rounding moves the parameters shows in the first order.
    assert fewer.table.loc["diag 4", "bic"] == pytest.approx(compared().table.loc["diag 4", "bic"], rel=1e-7)


def test_criteria_by_hand(family):
    """log L, BIC, AIC and ICL from scipy's densities."""
    gmm, row = compared().fit(family, 2).gmm, compared().table.loc[f"{family} 2"]
    joint = np.stack(
        [
            np.log(w) + multivariate_normal(m, c).logpdf(X)
            for w, m, c in zip(gmm.weights, gmm.means, np.asarray(gmm.dense_covariances()), strict=True)
        ]
    )
    density, total = logsumexp(joint, axis=0), WEIGHT.sum()
    p = 1 + 4 + free_parameters(family, 2, 2)
    log_likelihood = WEIGHT @ density
    entropy = -2 * WEIGHT @ (joint.max(0) - density)
    assert row.n_parameters == p
    expected = [log_likelihood, p * np.log(total) - 2 * log_likelihood, 2 * p - 2 * log_likelihood]
    assert row[["log_likelihood", "bic", "aic"]].tolist() == pytest.approx(expected, rel=1e-9)
    assert row.icl == pytest.approx(expected[1] + entropy, rel=1e-9)
    for name in ("bic", "aic", "icl"):
        assert row[name] == pytest.approx(getattr(gmm, name)(X, WEIGHT), rel=1e-10)


def test_held_out_rows_are_not_seen(family):
    """K = 1 has one optimum: each fold's rows under the mixture of the others, of which rows of weight 0 are no part."""
    from jaxgmm.comparing.compare import _draw_folds

    folds = _draw_folds(3, WEIGHT > 0, KEY)
    present = WEIGHT > 0
    assert (folds[~present] == -1).all()
    assert np.ptp(np.bincount(folds[present])) <= 1
    total = 0.0
    for fold in range(3):
        rest, own = np.where(folds == fold, 0, WEIGHT), np.where(folds == fold, WEIGHT, 0)
        total += own @ np.asarray(single_fit(family, 1, sample_weight=rest).gmm.log_prob(X))
    assert compared().table.loc[f"{family} 1", "held_out"] == pytest.approx(total / WEIGHT.sum(), rel=1e-9)


@pytest.mark.parametrize("family", ["full", "tied", "spherical"])
def test_the_bound_of_the_evidence_is_that_of_fit_vb(family):
    """All K in one padded batch, against an ascent of each alone; with a prior that tells components from padding.

    Of "diag" in tests/data/test_padding.py.
    """
    options = {"key": KEY, "prior": with_more_weight, **OPTIONS}
    comparison = jg.compare(X, families=[family], n_components=[1, 2, 4], elbo=True, **options)
    for row in comparison.rows:
        alone = jg.fit_vb(X, key=KEY, init=row.fit.gmm, prior=row.fit.prior, max_steps=500, sample_weight=WEIGHT)
        assert row.elbo == pytest.approx(alone.elbo, abs=1e-5)
        assert row.scores.log_evidence == pytest.approx(alone.log_evidence, abs=1e-5)
    best = comparison.select("log_evidence").gmm.n_components
    assert comparison.table.loc[f"{family} {best}", "rank_log_evidence"] == 1
    assert (comparison.table["elbo"] <= comparison.table["log_evidence"]).all()


def with_more_weight(prior):
    return dataclasses.replace(prior, concentration=np.float64(1.5))


@pytest.mark.parametrize("data", MCLUST_DATA)
def test_bic_is_at_least_as_good_as_mclust(data):
    """Families x G = 1..9 by maximum likelihood: those that have posteriors, and mclust's choice. All fourteen, which take
    minutes to compile, were run by hand: with 10 starts four of 378 stop short, iris EEE 6, diabetes VII 8 and VEI 9,
    faithful EVV 7. Two of them are among these: 12 starts a model, which run as one batch, are 30 there.
    """
    names = {ALL_FAMILIES[name].mclust: name for name in (*FAMILIES, *(["VEV"] if data == "iris" else []))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jg.FitWarning)
        comparison = jg.compare(
            load_x(data), families=list(names), n_components=range(1, 10), key=jax.random.key(0), prior=None, n_init=12
        )
    short = {}
    for mclust, family in names.items():
        for k, bic in enumerate(MCLUST_BIC[data][mclust], start=1):
            ours = comparison.table.loc[f"{family} {k}", "bic"]
            if bic is not None and not ours < -bic + 1e-3:
                short[f"{family} {k}"] = ours + bic
    for family, k in {"iris": [("tied", 6)], "diabetes": [("spherical", 8)]}.get(data, []):
        again = jg.compare(load_x(data), families=[family], n_components=[k], key=jax.random.key(0), prior=None, n_init=30)
        assert again.table["bic"].item() < -MCLUST_BIC[data][ALL_FAMILIES[family].mclust][k - 1] + 1e-3
        short.pop(f"{family} {k}", None)
    assert short == {}
    best = comparison.select("bic").gmm
    assert (best.family, best.n_components) == {"faithful": ("tied", 3), "iris": ("VEV", 2), "diabetes": ("full", 3)}[data]


def test_table_and_ranks():
    comparison = compared()
    table = comparison.table
    assert table.index.tolist() == comparison.names == [f"{family} {k}" for family in FAMILIES for k in (1, 2, 4)]
    for name, criterion in CRITERIA.items():
        if name in ("loo", "log_evidence"):
            assert name not in table
            continue
        best = table[name].max() if criterion.larger_is_better else table[name].min()
        assert table.loc[table[f"rank_{name}"] == 1, name].tolist() == pytest.approx([best])
        chosen = comparison.select(name)
        assert f"{chosen.gmm.family} {chosen.gmm.n_components}" == table.index[table[name] == best][0]
    assert len(comparison.fits) == 12
    assert comparison.fits["full", 2] is comparison.fit("VVV", 2)
    assert (table["replication"] >= 1).all()


def test_models_without_a_fit_are_rows():
    """A component on the last row alone has no maximum of the likelihood, nor have four on five rows."""
    x = np.array([[0.0], [0.1], [0.1], [0.1], [5.0]])
    with pytest.warns(jg.FitWarning, match=r"2 of 3 models did not converge: 2 collapsed \(diag 2, diag 4\)") as caught:
        comparison = jg.compare(x, families=["diag"], n_components=[1, 2, 4], key=KEY, prior=None)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    table = comparison.table
    assert table["status"].tolist() == ["converged", "collapsed", "collapsed"]
    assert table["bic"].isna().tolist() == [False, True, True]
    assert table["rank_bic"].isna().tolist() == [False, True, True]
    assert comparison.select().gmm.n_components == 1
    assert comparison.agreement == "All criteria agree: BIC, AIC and ICL choose diag with 1 component."
    assert comparison.fit("diag", 4).status is jg.Status.collapsed


def test_a_family_that_has_no_density():
    """A column that doesn't vary: only a variance that all columns share has a density there."""
    x = np.array([[0.0, 1.0], [0.1, 1.0], [5.0, 1.0]])
    with pytest.warns(jg.FitWarning, match="1 of 2 models did not converge"):
        comparison = jg.compare(x, families=["diag", "spherical"], n_components=[1], key=KEY, prior=None)
    assert comparison.table["bic"].isna().tolist() == [True, False]
    with pytest.raises(jg.FitError, match="diag 1 has no fit: collapsed"):
        comparison.fit("diag", 1)


def test_ranks_choices_and_words():
    nan = np.nan
    assert ranks(np.array([2.0, nan, 1.0, 2.0]), larger_is_better=True)[[0, 2, 3]].tolist() == [1, 3, 1]
    made = choices({"bic": np.array([3.0, nan, 1.0]), "held_out": np.array([nan, -2.0, nan]), "aic": np.full(3, nan)})
    assert made == [Choice("bic", 2, 0, 2.0), Choice("held_out", 1, None, np.inf)]
    models = [("full", 1), ("full", 2), ("tied", 3)]
    assert agreement(made, models) == (
        "BIC chooses tied with 3 components; held-out log-likelihood chooses full with 2. Ahead of the next: BIC by 2 (full 1)."
    )
    assert agreement([], models) == "No criterion chooses: no model could be fitted."


def test_loo_joins_arviz_compare():
    az = pytest.importorskip("arviz")
    comparison = compared().with_loo(X, key=KEY, models=[("diag", 1), ("spherical", 1)], sample_weight=WEIGHT, n_draws=500)
    # One Gaussian, 60 weighted rows: leave-one-out is within its error of the log-likelihood less its parameters.
    row = comparison.table.loc["diag 1"]
    assert row.loo == pytest.approx(row.log_likelihood - row.n_parameters, abs=4)
    assert row.loo_bad == 0
    assert comparison.table["loo"].notna().sum() == 2
    assert comparison.select("loo").gmm.family == "diag"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        joined = comparison.join(az.compare(comparison.elpd))
    assert joined.shape[0] == 12
    assert joined.loc["diag 1", "az_rank"] == 0
    assert joined["az_rank"].notna().sum() == 2
    with pytest.raises(ValueError, match="'diag 3'"):
        comparison.join(pd.DataFrame({"rank": [0]}, index=["diag 3"]))


def test_plot_of_a_criterion():
    ax = jg.plots.criterion(compared(), "held_out")
    assert [line.get_label() for line in ax.lines[:4]] == list(FAMILIES)
    values = compared().table["held_out"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), values.max() - values[:3])
    assert ax.get_ylabel() == f"held-out log-likelihood below the best, {values.max():.3f} nats a row"
    with pytest.raises(ValueError, match="wasn't computed"):
        jg.plots.criterion(compared(), "loo")


BAD = {
    "no families": ({"families": []}, ValueError, "families is empty"),
    "one name": ({"families": "full"}, TypeError, r"families=\['full'\]"),
    "unknown family": ({"families": ["full", "teid"]}, ValueError, "did you mean 'tied'"),
    "a family twice": ({"families": ["full", "VVV"]}, ValueError, "names 'full' twice"),
    "no counts": ({"n_components": []}, ValueError, "n_components is empty"),
    "one count": ({"n_components": 3}, TypeError, r"range\(1, 10\)"),
    "twice a count": ({"n_components": [1, 2, 2]}, ValueError, "must increase"),
    "decreasing": ({"n_components": [3, 2]}, ValueError, "must increase"),
    "zero": ({"n_components": [0, 1]}, ValueError, "at least 1"),
    "not whole": ({"n_components": [1.5]}, TypeError, "whole number"),
    "more than rows": ({"n_components": [61]}, ValueError, "60 rows"),
    "n_init": ({"n_init": 0}, ValueError, "n_init"),
    "max_steps": ({"max_steps": 0}, ValueError, "max_steps"),
    "rtol": ({"rtol": -1.0}, ValueError, "rtol"),
    "init": ({"init": "kmeans"}, ValueError, "did you mean 'k-means"),
    "one fold": ({"held_out_folds": 1}, ValueError, "at least 2"),
    "folds": ({"held_out_folds": 61}, ValueError, "60 rows"),
    "folds not whole": ({"held_out_folds": 2.0}, TypeError, "held_out_folds"),
    "prior": ({"prior": "flat"}, ValueError, "unknown prior"),
    "a Prior": ({"prior": jg.Prior(1.0, np.zeros(2), 0.1, 4.0, np.eye(2))}, TypeError, "each model has its own"),
    "loo of ML": ({"prior": None, "loo": True}, ValueError, "needs a posterior"),
    "elbo of ML": ({"prior": None, "elbo": True}, ValueError, "elbo=True needs a posterior"),
    "key": ({"key": 0}, TypeError, "PRNG key"),
    "weights": ({"sample_weight": -np.ones(60)}, ValueError, "negative"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name, monkeypatch):
    """All are found before anything is computed."""
    monkeypatch.setattr("jaxgmm.comparing.compare.InMemory", None)
    changes, error, words = BAD[name]
    with pytest.raises(error, match=words):
        jg.compare(X, **{"families": ["full"], "n_components": [1, 2], "key": KEY} | changes)


def test_bad_rows():
    with pytest.raises(ValueError, match="no value at all in row 0"):
        jg.compare([[np.nan], [1.0]], families=["full"], n_components=[1], key=KEY)


def test_bad_questions():
    with pytest.raises(ValueError, match="did you mean 'bic'"):
        compared().select("bicc")
    with pytest.raises(ValueError, match="with_loo"):
        compared().select("loo")
    with pytest.raises(ValueError, match="elbo=True"):
        compared().select("log_evidence")
    with pytest.raises(ValueError, match="unknown model 'full 3'"):
        compared().fit("full", 3)


def test_a_prior_of_ones_own():
    """Made of each model's default one, and without the rows that are held out."""
    seen = []

    def strong(default):
        seen.append(default)
        return dataclasses.replace(default, concentration=np.float64(2), mean_precision=np.float64(1))

    options = {"families": ["diag"], "n_components": [1, 2, 4], "key": KEY, "held_out_folds": 3} | OPTIONS
    comparison = jg.compare(X, prior=strong, **options)
    default = jg.Prior.default(X, 2, "diag", sample_weight=WEIGHT)
    alone = single_fit("diag", 2, dataclasses.replace(default, concentration=2.0, mean_precision=1.0))
    assert comparison.fit("diag", 2).objective == pytest.approx(alone.objective, rel=1e-10)
    np.testing.assert_allclose(comparison.fit("diag", 4).prior.concentration, 2)
    assert len({tuple(prior.mean) for prior in seen}) == 4  # of all rows, and of those without each fold


def test_a_model_without_a_laplace_approximation_has_no_loo(monkeypatch):
    def no_peak(*arguments, **options):
        raise jg.FitError("laplace: no peak.")

    monkeypatch.setattr("jaxgmm.bayes.posterior.posterior", no_peak)
    with pytest.warns(jg.FitWarning, match=r"no leave-one-out of 2 models.* tied 1: laplace: no peak"):
        comparison = compared().with_loo(X, key=KEY, models=[("tied", 1), ("tied", 2)], sample_weight=WEIGHT)
    assert "loo" not in comparison.table


@pytest.mark.default_precision
def test_float32_rows_in_the_default_configuration():
    comparison = jg.compare(
        X.astype(np.float32), families=["diag"], n_components=[1, 2, 4], key=KEY, held_out_folds=3, **OPTIONS
    )
    assert comparison.fit("diag", 2).gmm.means.dtype == np.float64
    names = ["diag 1", "diag 2", "diag 4"]
    np.testing.assert_allclose(comparison.table["held_out"], compared().table.loc[names, "held_out"], rtol=1e-3)
    np.testing.assert_allclose(comparison.table["bic"], compared().table.loc[names, "bic"], rtol=1e-4)
