"""Which of gaps, errors, labels and noise go with which part of a run: said of the config, before anything is read."""

import re
import tomllib

import pytest

from jaxgmm.app.config import Config
from jaxgmm.app.config.toml import load_config, to_toml

ROWS = '[data]\npath = "d.csv"\ncolumns = ["a", "b"]\n'
ERRORS = "data.standard_errors=['ea', 'eb']"


@pytest.fixture
def config_of(tmp_path):
    """A config of the settings that are given, checked."""

    def load(*settings, stage="fit"):
        path = tmp_path / "config.toml"
        path.write_text(ROWS + {"fit": "[fit]\nn_components = 2\n", "compare": "[compare]\n"}[stage])
        return load_config(path, settings)

    return load


@pytest.mark.parametrize(
    ("stage", "settings", "words"),
    [
        (
            "fit",
            ["data.missing=keep", "count.seed=1"],
            "data.missing = 'keep' doesn't go with [count]: set data.missing = 'drop', or remove [count]",
        ),
        (
            "fit",
            [ERRORS, "count.seed=1"],
            "data.standard_errors doesn't go with [count]: remove data.standard_errors, or remove",
        ),
        (
            "fit",
            ["data.missing=keep", "posterior.method=vb"],
            "data.missing = 'keep' doesn't go with posterior.method = 'vb': set data.missing = 'drop', or take one of nuts",
        ),
        ("fit", ["data.labels=c", "posterior.method=bootstrap"], "data.labels doesn't go with posterior.method = 'bootstrap'"),
        (
            "fit",
            [ERRORS, "posterior.method=svi", "posterior.batch_size=9"],
            "data.standard_errors doesn't go with posterior.batch_size: remove data.standard_errors, or remove posterior",
        ),
        (
            "fit",
            ["fit.noise=true", "posterior.method=vb"],
            "fit.noise doesn't go with posterior.method = 'vb': remove fit.noise, or take one of nuts, gibbs",
        ),
        (
            "fit",
            ["fit.noise=[1, 2]", "data.in_pieces=true"],
            "fit.noise doesn't go with data.in_pieces: remove fit.noise, or read",
        ),
        ("fit", ["data.labels=c", "data.in_pieces=true"], "data.labels doesn't go with data.in_pieces"),
        ("fit", ["data.missing=keep", "data.in_pieces=true"], "in_pieces takes rows as they are"),
        (
            "fit",
            ["data.missing=keep", "fit.family=factors:1"],
            "data.missing = 'keep' doesn't go with fit.family = 'factors:1': set data.missing = 'drop', or take 'full'",
        ),
        (
            "compare",
            [ERRORS],
            "data.standard_errors doesn't go with [compare]: remove data.standard_errors, or name one",
        ),
        ("compare", ["data.labels=c"], "data.labels doesn't go with [compare]"),
        (
            "compare",
            ["data.missing=keep", "compare.loo=true"],
            "doesn't go with compare.loo: set data.missing = 'drop', or take",
        ),
        (
            "compare",
            ["compare.noise=true", "compare.elbo=true"],
            "compare.noise doesn't go with compare.elbo: remove compare.noise, or take",
        ),
        ("compare", ["compare.noise=true", "compare.loo=true"], "compare.noise doesn't go with compare.loo"),
        ("compare", ["compare.noise=[1.0, -1.0]"], "compare.noise: give true, or a list with the width of the box"),
        ("fit", ["fit.noise=1"], "fit.noise: give true, or a list with the width of the box in each column, not 1"),
        (
            "fit",
            ["fit.noise=[1.0, 0]"],
            "fit.noise: give true, or a list with the width of the box in each column, not [1.0, 0]",
        ),
        (
            "fit",
            ["data.standard_errors=['ea']"],
            "standard_errors has 1 names, but the measured columns are 2, a, b: name one for",
        ),
        ("fit", ["data.standard_errors=[]"], "standard_errors is empty; leave it out"),
        ("fit", ["data.standard_errors=['ea', 'b']"], "standard_errors = 'b' is also one of the columns"),
        ("fit", ["data.labels=a"], "labels = 'a' is also one of the columns"),
        ("fit", ["data.labels=w", "data.sample_weight=w"], "labels = 'w' is also sample_weight"),
        ("fit", ["data.error_columns=['ea']"], "unknown key 'data.error_columns'"),
    ],
)
def test_what_does_not_go_together_is_one_line_that_names_both(config_of, stage, settings, words):
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        config_of(*settings, stage=stage)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("fit", ["data.missing=keep", ERRORS, "data.labels=c", "fit.noise=[1, 2]", "fit.family=VEV", "report.n_outliers=3"]),
        ("fit", ["data.missing=keep", ERRORS, "data.labels=c", "posterior.method=sandwich"]),
        ("fit", ["data.labels=c", "fit.noise=true", "posterior.method=svi", "posterior.batch_size=9"]),
        ("fit", ["data.missing=keep", "fit.noise=true", "posterior.method=gibbs"]),
        ("fit", ["data.labels=c", "fit.noise=true", "fit.family=factors:1"]),
        ("compare", ["data.missing=keep", "posterior.method=gibbs", "compare.held_out_folds=2"]),
        ("compare", ["data.missing=keep", "compare.noise=[1, 2]", "compare.held_out_folds=2"]),
        ("compare", ["data.missing=keep", "compare.elbo=true", "compare.criterion=log_evidence"]),
    ],
)
def test_what_goes_together_reads_back_the_same(config_of, stage, settings):
    config = config_of(*settings, stage=stage)
    assert Config.model_validate(tomllib.loads(to_toml(config, {}))) == config
