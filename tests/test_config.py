import inspect
import re
import tomllib
from pathlib import Path

import pytest

import jaxgmm as jg
from jaxgmm.config import Config, FitTable, load_config, to_toml

CONFIGS = Path(__file__).parent.parent / "configs"
SMALL = '[data]\ndataset = "iris"\n\n[fit]\nn_components = 3\n'


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_defaults_are_those_of_fit(config_file):
    written = load_config(config_file).fit
    python = {name: p.default for name, p in inspect.signature(jg.fit).parameters.items()}
    for name in FitTable.model_fields.keys() - {"n_components", "seed", "acceleration"}:
        assert getattr(written, name) == python[name], name
    assert (written.acceleration, python["acceleration"]) == ("none", None)


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
        ("data.columns=petal_width", "data.columns should be a valid list, got 'petal_width'"),
        ("data.columns=[]", "columns is empty"),
        ('data.columns=["a", "b", "a"]', "columns names a column twice: a, b, a"),
        ("data.path=x.csv", "give exactly one of path (a file) and dataset (a name)"),
        ("data.delimiter=;", "delimiter is for a path"),
        ("compare.families=full", "[compare] is not available yet in this version"),
        ("report.title=x", "[report] is not available yet in this version"),
        ("fit=3", "--set fit=3: write table.key=value"),
        ("fit.n_init", "--set fit.n_init: write table.key=value"),
        ("fit.n_init.x=3", "fit.n_init should be a valid integer, got {'x': 3}"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(config_file, override, words):
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        load_config(config_file, [override])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "[data] is missing; "),
        ('[data]\ndataset = "iris"\n', "[fit] is missing"),
        ("[data]\n[fit]\nn_components = 3\n", "[data]: give exactly one of path (a file) and dataset (a name)"),
        (SMALL + "[prior]\nkind = 'none'\nconcentration = 2.0\n", "concentration given, but kind = 'none'"),
        (SMALL + "[posterior]\nmethod = 'nuts'\n", "[posterior] is not available yet"),
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


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_shipped_configs_are_valid(path):
    assert load_config(path).output.directory == f"runs/{path.stem}"
