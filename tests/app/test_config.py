import inspect
import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from helpers import ROOT

import jaxgmm as jg
from jaxgmm.app.config import Config, FitTable
from jaxgmm.app.config.count import ALPHA, COUNTED_FAMILIES, N_COMPONENTS, CountTable, CountThresholdsTable
from jaxgmm.app.config.posterior import MARKOV_CHAINS, METHODS_WITH, Group, Guide, PosteriorTable, ThresholdsTable
from jaxgmm.app.config.toml import load_config, to_toml
from jaxgmm.bayes.methods import METHODS, chains, warmed_up
from jaxgmm.bayes.priors.conjugate import FAMILIES
from jaxgmm.bayes.samplers.svi import GUIDES
from jaxgmm.bayes.trees.schema import GROUPS
from jaxgmm.counting import partition_prior
from jaxgmm.counting.model import MODELS

CONFIGS = ROOT / "configs"
SMALL = '[data]\ndataset = "iris"\n\n[fit]\nn_components = 3\n'


POSTERIOR = SMALL + '\n[posterior]\nmethod = "nuts"\n'


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_defaults_are_those_of_fit(config_file):
    written = load_config(config_file).fit
    python = {name: p.default for name, p in inspect.signature(jg.fit).parameters.items()}
    for name in FitTable.model_fields.keys() - {"n_components", "seed"}:
        assert getattr(written, name) == python[name], name


@pytest.fixture
def posterior_file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(POSTERIOR)
    return path


def test_posterior_knows_what_jaxgmm_posterior_knows():
    """The config names methods, groups and options without importing NumPyro; they are those of the library."""
    table = PosteriorTable.model_fields
    assert get_args(table["method"].annotation) == tuple(METHODS)
    assert get_args(Group) == GROUPS
    assert get_args(Guide) == tuple(GUIDES)
    assert chains() == MARKOV_CHAINS
    assert METHODS_WITH["n_warmup"] == warmed_up()
    assert set(METHODS_WITH) <= set(table)
    own = {method: {name for name, methods in METHODS_WITH.items() if method in methods} for method in METHODS}
    for name, method in METHODS.items():
        parameters = inspect.signature(method.resolve()).parameters.values()
        options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "report"]
        assert list(method.options) == options, name
        assert own[name] - {"n_warmup"} == set(options), name
    python = {name: p.default for name, p in inspect.signature(jg.posterior).parameters.items()}
    for name in ("n_draws", "n_chains", "n_warmup", "groups"):
        assert table[name].default == python[name], name
    thresholds = {name: p.default for name, p in inspect.signature(jg.diagnose).parameters.items()}
    for name, field in ThresholdsTable.model_fields.items():
        assert field.default == thresholds[name], name


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("fit.n_components=5", 5),
        ("fit.n_components = 5", 5),
        ("fit.init=random", "random"),
        ('fit.init="random"', "random"),
        ("fit.rtol=1e-6", 1e-6),
        ("fit.rtol=0", 0.0),
        ("fit.family=VVI", "diag"),
        ("prior.kind=none", "none"),
        ("prior.concentration=2", 2.0),
        ('data.columns=["petal_width", "sepal_width"]', ("petal_width", "sepal_width")),
        ("output.directory=elsewhere", "elsewhere"),
    ],
)
def test_an_override_replaces_one_value(config_file, override, value):
    table, key = override.partition("=")[0].strip().split(".")
    changed = load_config(config_file, [override])
    plain = load_config(config_file)
    assert getattr(getattr(changed, table), key) == value
    assert changed == plain.model_copy(update={table: getattr(plain, table).model_copy(update={key: value})})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("fit.n_component=3", "unknown key 'fit.n_component'; did you mean 'fit.n_components'?"),
        ("data.n_components=3", "unknown key 'data.n_components'; did you mean 'fit.n_components'?"),
        ("prior.konzentration=3", "did you mean 'prior.concentration'?"),
        ("fitt.seed=1", "unknown table 'fitt'; did you mean 'fit'?"),
        ("model.family=full", "[model]: the model (family, n_components) belongs to the stage that fits it, [fit]"),
        ("fit.n_init=ten", "fit.n_init should be a valid integer, got 'ten'"),
        ('fit.n_init="3"', "fit.n_init should be a valid integer, got '3'"),
        ("fit.n_init=2.5", "fit.n_init should be a valid integer, got 2.5"),
        ("fit.seed=true", "fit.seed should be a valid integer, got True"),
        ("fit.seed=-1", "fit.seed should be greater than or equal to 0, got -1"),
        ("fit.n_components=0", "fit.n_components should be greater than or equal to 1, got 0"),
        ("fit.rtol=nan", "fit.rtol should be a finite number, got nan"),
        ("fit.init=kmeans", "fit.init should be 'k-means++' or 'random', got 'kmeans'"),
        ("fit.family=fulll", "fit.family: unknown family 'fulll'; did you mean 'full'?"),
        ("fit.n_init=3\nfit.seed=1", "fit.n_init should be a valid integer"),
        ("prior.mean_precision=0", "prior.mean_precision should be greater than 0, got 0"),
        ("data.dataset=iriss", "data.dataset: unknown data set 'iriss'; did you mean 'iris'?"),
        ("data.columns=petal_width", "data.columns should be a list, such as [\"petal_width\"], got 'petal_width'"),
        ("data.columns=[]", "columns is empty"),
        ('data.columns=["a", "b", "a"]', "columns names a column twice: a, b, a"),
        ("data.path=x.csv", "give exactly one of path (a file) and dataset (a name)"),
        ("data.delimiter=;", "delimiter is for a path"),
        ("data.decimal=','", "decimal is for a path"),
        ("data.missing=impute", "data.missing should be 'refuse', 'drop' or 'keep', got 'impute'"),
        ("compare.n_init=3", "[fit] and [compare] are both there"),
        ("compare.families=full", "compare.families should be a list, such as [\"full\"], got 'full'"),
        ('compare.families=["full", "VVV"]', "name each family once, and at least one; got full, full"),
        ('compare.families=["fulll"]', "compare.families: unknown family 'fulll'; did you mean 'full'?"),
        ("compare.n_components=[0, 3]", "compare.n_components.0 should be greater than or equal to 1, got 0"),
        ("compare.n_components=[3, 1]", "compare.n_components must increase, got [3, 1]"),
        (
            "compare.criterion=likelihood",
            "compare.criterion should be 'bic', 'aic', 'icl', 'held_out', 'loo' or 'log_evidence'",
        ),
        ("compare.criterion=held_out", "compare.criterion = 'held_out' needs compare.held_out_folds = 5"),
        ("compare.criterion=loo", "compare.criterion = 'loo' needs compare.loo = true"),
        ("compare.criterion=log_evidence", "compare.criterion = 'log_evidence' needs compare.elbo = true"),
        ("count.family=EEE", "whose components don't share parameters, full, diag, spherical, not 'tied'"),
        ("report.titel=x", "unknown key 'report.titel'; did you mean 'report.title'?"),
        ("fit=3", "--set fit=3: write table.key=value"),
        ("fit.n_init", "--set fit.n_init: write table.key=value"),
        ("fit.n_init.x=3", "fit.n_init should be a valid integer, got {'x': 3}"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(config_file, override, words):
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        load_config(config_file, [override])
    assert "\n" not in str(raised.value)


def test_compare_by_what_needs_a_prior(tmp_path):
    path = tmp_path / "compare.toml"
    path.write_text('[data]\ndataset = "iris"\n\n[prior]\nkind = "none"\n\n[compare]\n')
    assert load_config(path).compare.counts == list(range(1, 10))
    for name in ("loo", "elbo"):
        with pytest.raises(ValueError, match=f"compare.{name} needs a prior, but prior.kind = 'none'"):
            load_config(path, [f"compare.{name}=true"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "posterior.method=hmc",
            "posterior.method should be 'nuts', 'gibbs', 'svi', 'laplace', 'vb', 'sandwich', 'bootstrap' or "
            "'weighted-likelihood', got 'hmc'",
        ),
        ("posterior.n_draw=10", "unknown key 'posterior.n_draw'; did you mean 'posterior.n_draws'?"),
        ("posterior.n_draws=3", "posterior.n_draws should be greater than or equal to 4, got 3"),
        ("posterior.n_draws=1e3", "posterior.n_draws should be a valid integer, got 1000.0"),
        ("posterior.n_chains=1", "n_chains = 1, but r-hat of method 'nuts' needs at least 2"),
        ("posterior.n_warmup=-1", "posterior.n_warmup should be greater than or equal to 0, got -1"),
        ("posterior.seed=x", "posterior.seed should be a valid integer, got 'x'"),
        ("posterior.prior=none", "posterior.prior should be 'fit' or 'richardson-green', got 'none'"),
        ("posterior.groups=prior", "posterior.groups should be a list, such as [\"prior\"], got 'prior'"),
        ('posterior.groups=["loglik"]', "posterior.groups.0 should be 'log_likelihood', 'log_prior', 'prior' or"),
        ('posterior.groups=["prior", "prior"]', "groups names a group twice: prior, prior"),
        ("posterior.target_accept=1.0", "posterior.target_accept should be less than 1, got 1.0"),
        ("posterior.guide=normal", "guide is for method 'svi', but method = 'nuts': remove it"),
        ("posterior.guide=iaf", "posterior.guide should be 'multivariate_normal', 'normal' or 'low_rank', got 'iaf'"),
        ("posterior.batch_size=100", "batch_size is for method 'svi', but method = 'nuts'"),
        ("posterior.dense_mass=1", "posterior.dense_mass should be a valid boolean, got 1"),
        ("posterior.thresholds=1.01", "[posterior.thresholds] should be a table, got 1.01"),
        (
            "posterior.thresholds.rhat=1.1",
            "unknown key 'posterior.thresholds.rhat'; did you mean 'posterior.thresholds.r_hat'?",
        ),
        ("posterior.r_hat=1.1", "unknown key 'posterior.r_hat'; did you mean 'posterior.thresholds.r_hat'?"),
        ("posterior.thresholds.r_hat=1.0", "posterior.thresholds.r_hat should be greater than 1, got 1.0"),
        ("posterior.thresholds.ess=0", "posterior.thresholds.ess should be greater than 0, got 0"),
        ("posterior.thresholds.pareto_k=2", "posterior.thresholds.pareto_k should be less than or equal to 1, got 2"),
        ("prior.kind=none", "[posterior] needs a prior, but prior.kind = 'none', maximum likelihood"),
    ],
)
def test_a_wrong_value_of_the_posterior_is_one_line_that_names_it(posterior_file, override, words):
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        load_config(posterior_file, [override])
    assert "\n" not in str(raised.value)


def test_count_knows_what_count_clusters_knows():
    """The config names families and priors without importing NumPyro; they are those of the library."""
    assert COUNTED_FAMILIES == FAMILIES
    assert tuple(N_COMPONENTS) == tuple(partition_prior.N_COMPONENTS)
    assert tuple(ALPHA) == tuple(partition_prior.ALPHA)
    assert get_args(CountTable.model_fields["model"].annotation) == MODELS
    for table, function in ((CountTable, jg.count_clusters), (CountThresholdsTable, jg.cluster_count)):
        python = {name: p.default for name, p in inspect.signature(function).parameters.items()}
        for name in table.model_fields.keys() - {"seed", "thresholds"}:
            assert table.model_fields[name].default == python[name], name


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=dpm"], "count.model should be 'mixture', 'sparse' or 'dirichlet-process', got 'dpm'"),
        (["thresholds.ess=400"], "without n_draws chains stop at r_hat = 1.05, ess = 200, mcse = 0.05: give n_draws where"),
        (["n_draws=9", "max_draws=9"], "n_draws = 9 is how many draws there are, max_draws how many at most: give one"),
        (["n_chains=1"], "count.n_chains should be greater than or equal to 2, got 1"),
        (["familiy=full"], "unknown key 'count.familiy'; did you mean 'count.family'?"),
        (["alpha=0"], "count.alpha: give a positive number, 'f' or 'gamma', not 0"),
        (["alpha=true"], "count.alpha: give a positive number, 'f' or 'gamma', not True"),
        (["n_components=binomial"], "count.n_components: give 'beta-negative-binomial', 'geometric', 'poisson', 'uniform', or"),
        (["n_components=[0, -1]"], "probabilities of 1, 2, ... components, not [0, -1]"),
        (["n_components=[0.5, 0.5]"], "n_components has 2 probabilities, but max_components = 30"),
        (["model=sparse", "weights=static"], "weights is for model 'mixture', but model = 'sparse': remove it"),
        (["thresholds.r_hat=1"], "count.thresholds.r_hat should be greater than 1, got 1"),
    ],
)
def test_a_wrong_value_of_the_count_is_one_line_that_names_it(config_file, overrides, words):
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        load_config(config_file, [f"count.{override}" for override in overrides])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["fit.family=tied"],
            "[count] is for components that don't share parameters, full, diag, spherical, but fit.family has",
        ),
        (["data.sample_weight=w"], "[count] has no weights of rows: remove data.sample_weight, or [count]"),
        (["prior.kind=none"], "[count] needs a prior, but prior.kind = 'none'"),
    ],
)
def test_what_cannot_be_counted_is_one_line_that_names_it(config_file, overrides, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        load_config(config_file, ["count.seed=1", *overrides])
    assert load_config(config_file, ["count.prior=richardson-green", "prior.kind=none"]).count.seed == 0


def test_compared_families_are_those_that_can_be_counted(config_file):
    config_file.write_text(SMALL.partition("[fit]")[0] + "[compare]\n[count]\n")
    with pytest.raises(ValueError, match=re.escape("compare.families has 'tied': choose among these")):
        load_config(config_file)
    assert load_config(config_file, ['compare.families=["VII"]']).compare.families == ("spherical",)


def test_a_count_that_is_written_reads_back_the_same(config_file):
    overrides = ["max_components=2", "n_components=[0.25, 3]", "alpha=2", "thresholds.ess=100"]
    config = load_config(config_file, [f"count.{override}" for override in overrides])
    assert Config.model_validate(tomllib.loads(to_toml(config, {}))) == config
    assert (config.count.n_components, config.count.alpha, config.count.thresholds.ess) == ((0.25, 3.0), 2.0, 100)


@pytest.mark.parametrize(
    ("method", "option", "words"),
    [
        ("gibbs", "target_accept=0.9", "target_accept is for method 'nuts', but method = 'gibbs'"),
        ("svi", "n_warmup=100", "n_warmup is for method 'nuts' and 'gibbs', but method = 'svi'"),
        ("laplace", "n_steps=100", "n_steps is for method 'svi', but method = 'laplace'"),
    ],
)
def test_an_option_of_another_method_is_not_ignored(posterior_file, method, option, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        load_config(posterior_file, [f"posterior.method={method}", f"posterior.{option}"])


def test_one_chain_is_enough_for_independent_draws(posterior_file):
    assert load_config(posterior_file, ["posterior.method=laplace", "posterior.n_chains=1"]).posterior.n_chains == 1


def test_richardson_green_needs_a_variance_for_each_component_but_no_conjugate_prior(posterior_file):
    wanted = "posterior.prior=richardson-green"
    with pytest.raises(ValueError, match=r"but fit.family = 'tied': set fit.family = 'spherical'"):
        load_config(posterior_file, [wanted, "fit.family=tied"])
    assert load_config(posterior_file, [wanted, "fit.family=diag", "prior.kind=none"]).posterior.prior == "richardson-green"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "[data] is missing"),
        ('[data]\ndataset = "iris"\n', "[fit] is missing"),
        ("[data]\n[fit]\nn_components = 3\n", "[data]: give exactly one of path (a file) and dataset (a name)"),
        (SMALL + "[prior]\nkind = 'none'\nconcentration = 2.0\n", "concentration given, but kind = 'none'"),
        (SMALL.partition("[fit]")[0] + "[posterior]\nmethod = 'gibbs'\n", "[fit] is missing"),
        (SMALL + "[posterior]\n", "posterior.method is missing"),
        (SMALL + "[posterior]\nn_draw = 5\n", "unknown key 'posterior.n_draw'; did you mean 'posterior.n_draws'?"),
        ("fit = 3\n" + SMALL.partition("[fit]")[0], "[fit] should be a table, got 3"),
        (SMALL.replace("= 3", "="), "small.toml is not valid TOML: "),
        (SMALL + "[fit]\n", "small.toml is not valid TOML: "),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(config_file, text, words):
    config_file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        load_config(config_file)
    assert "\n" not in str(raised.value)


def test_a_typo_is_named_before_what_is_missing_because_of_it(config_file):
    config_file.write_text(SMALL.replace("n_components", "n_clusters"))
    with pytest.raises(ValueError, match=r"unknown key 'fit.n_clusters'.*; fit.n_components is missing"):
        load_config(config_file)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config file .*nope\.toml"):
        load_config(tmp_path / "nope.toml")
    with pytest.raises(ValueError, match=r"is a folder; give the TOML file"):
        load_config(tmp_path)


def test_a_path_is_relative_to_the_config(config_file, monkeypatch):
    config_file.write_text('[data]\npath = "here.csv"\n[fit]\nn_components = 3\n')
    monkeypatch.chdir("/")
    assert Path(load_config(config_file).data.path) == config_file.parent / "here.csv"


def test_what_is_written_reads_back_the_same(config_file):
    config_file.write_text(
        '[data]\npath = "a \\"b\\" ü\\\\.tsv"\ncolumns = ["x 1", "ÿ"]\nsample_weight = "w"\ndelimiter = "\\t"\n'
        "[prior]\nmean_precision = 0.5\n[fit]\nn_components = 3\nrtol = 1e-300\n"
    )
    config = load_config(config_file)
    text = to_toml(config, {"jaxgmm": "1.2.3"})
    again = Config.model_validate(tomllib.loads(text))
    assert again.versions == {"jaxgmm": "1.2.3"}
    assert again.model_copy(update={"versions": {}}) == config


def test_a_posterior_that_is_written_reads_back_the_same(posterior_file):
    overrides = ["groups=['prior', 'log_prior']", "dense_mass=false", "target_accept=0.9", "thresholds.ess=100", "n_warmup=0"]
    config = load_config(posterior_file, [f"posterior.{override}" for override in overrides])
    again = Config.model_validate(tomllib.loads(to_toml(config, {})))
    assert again == config
    assert (again.posterior.dense_mass, again.posterior.n_warmup, again.posterior.thresholds.ess) == (False, 0, 100)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_shipped_configs_are_valid(path):
    assert load_config(path).output.directory == f"runs/{path.stem}"
