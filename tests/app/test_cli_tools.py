"""`jaxgmm init`, `schema` and `doctor`, and how `run` speaks to programs, to nobody, and to narrow terminals."""

import csv
import gzip
import importlib.metadata
import io
import json
import os
import re
import tomllib
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pydantic
import pytest
from rich.console import Console

import jaxgmm as jg
from jaxgmm.app import doctor, terminal
from jaxgmm.app.config import TABLES, Config, DataTable
from jaxgmm.app.config.reference import json_schema, reference
from jaxgmm.app.config.starter import starter_config
from jaxgmm.app.config.toml import load_config
from jaxgmm.app.rows import read_rows
from jaxgmm.app.stages.count import Counted
from jaxgmm.counting.verdict import ClusterCount

pytestmark = [pytest.mark.default_precision, pytest.mark.usefixtures("quick_figures")]  # x64 as in a process of its own

SMALL = '[data]\ndataset = "iris"\n[fit]\nn_components = 2\nn_init = 2\n'
CSV = """id,name,size,weight,count,gap,same
1,a,1.5,10,0,1.0,7
2,b,2.5,11,1,,7
3,c,0.5,15,0,2.0,7
4,d,3.5,12,1,3.0,7
"""


def write(path, text=CSV):
    path.write_text(text)
    return path


def test_init_writes_a_config_that_runs(tmp_path, jaxgmm):
    x = jg.datasets.load_faithful().x
    lines = ["eruption,long,eruptions,waiting", *(f"{i},{'yes' if a > 3 else 'no'},{a},{b}" for i, (a, b) in enumerate(x))]
    write(tmp_path / "geyser.csv", "\n".join(lines))
    code, out, err = jaxgmm("init", "geyser.csv")
    assert (code, out) == (0, "written to geyser.toml; now: jaxgmm run geyser.toml\n")
    assert err.splitlines() == ['left out: "eruption": counts the rows', 'left out: "long": not numbers']
    text = (tmp_path / "geyser.toml").read_text()
    assert '# left out: "long": not numbers' in text
    assert '# left out: "eruption": counts the rows' in text
    config = load_config(tmp_path / "geyser.toml")
    assert config.data.columns == ("eruptions", "waiting")
    assert config.compare.counts == list(range(1, 10))
    assert config.report is not None
    uncommented = re.sub(r"(?m)^# (\[|method|family)", r"\1", text)
    more = load_config(write(tmp_path / "more.toml", uncommented))
    assert (more.posterior.method, more.count.family) == ("gibbs", "full")
    assert jaxgmm("init", "geyser.csv")[0] == 2
    assert jaxgmm("init", "geyser.csv", "--overwrite")[0] == 0


def test_init_looks_at_the_marks_and_at_gaps(tmp_path, jaxgmm):
    """Semicolons, decimal commas, and two incomplete rows of 40: the config runs, and says which rows are whose."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2)) + 8 * np.repeat([[0], [1]], 20, axis=0)
    cells = [[f"{value:.3f}".replace(".", ",") for value in row] for row in x]
    cells[3][0] = cells[17][1] = ""
    lines = ["year;bill;flipper;note", *(f"{2007 + i % 3};{a};{b};{'' if i else 'first'}" for i, (a, b) in enumerate(cells))]
    write(tmp_path / "birds.csv", "\n".join(lines))
    assert jaxgmm("init", "birds.csv")[0] == 0
    text = (tmp_path / "birds.toml").read_text()
    data = tomllib.loads(text)["data"]
    assert data["columns"] == ["year", "bill", "flipper"]
    assert (data["delimiter"], data["decimal"], data["missing"]) == (";", ",", "drop")
    assert 'missing = "drop"  # 2 of 40 rows lack a value' in text
    kept = re.sub(r'(?m)^missing = .*\n# (missing = "keep")', r"\1", text)
    assert load_config(write(tmp_path / "kept.toml", kept)).data.missing == "keep"
    code, out, err = jaxgmm("run", "birds.toml", "--output", "out", "--set", "compare.n_components=[1, 2]")
    assert code == 0, err
    assert "38 rows x 3 features; 2 more lack a value, and were dropped" in out
    with (tmp_path / "out" / "assignments.csv").open() as file:
        rows = [int(row["row"]) for row in csv.DictReader(file)]
    assert rows == [i for i in range(40) if i not in (3, 17)]
    assert json.loads((tmp_path / "out" / "fit.json").read_text())["n_dropped"] == 2
    code, out, err = jaxgmm("predict", "out", "birds.csv")  # by a look of its own
    assert (code, len(out.splitlines())) == (0, 39)
    code, out, err = jaxgmm("run", "birds.toml", "--output", "other", "--set", "data.missing=refuse")
    assert code == 2
    assert "missing or infinite values in columns bill, flipper" in err
    assert "set missing to drop" in err


def test_init_knows_what_a_suffix_says(tmp_path, jaxgmm):
    """Commas in a .tsv are written down; marks are looked at with a delimiter, too; a damaged file is no traceback."""
    rows = [f"{i % 7 + 0.5},{i % 5 + 0.25}" for i in range(30)]
    write(tmp_path / "a.tsv", "\n".join(["a,b", *rows]))
    assert jaxgmm("init", "a.tsv")[0] == 0
    assert tomllib.loads((tmp_path / "a.toml").read_text())["data"]["delimiter"] == ","
    write(tmp_path / "b.csv", "\n".join(["a;b", *(row.replace(",", ";").replace(".", ",") for row in rows)]))
    assert jaxgmm("init", "b.csv", "--delimiter", ";")[0] == 0
    assert tomllib.loads((tmp_path / "b.toml").read_text())["data"]["decimal"] == ","
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n")[:14])
    code, _, err = jaxgmm("init", "c.csv.gz")
    assert (code, err.count("\n")) == (2, 1)


def test_rows_that_lack_a_weight_are_dropped_too(tmp_path, jaxgmm):
    write(tmp_path / "w.csv", "\n".join(["a,w", *(f"{i % 7 + 0.5},{'' if i == 4 else 1 + i % 3}" for i in range(30))]))
    data = DataTable(path=str(tmp_path / "w.csv"), columns=("a",), sample_weight="w", missing="drop")
    found = read_rows(data)
    assert (found.n_dropped, len(found.x), len(found.sample_weight)) == (1, 29, 29)
    assert found.numbers.tolist() == [i for i in range(30) if i != 4]
    write(tmp_path / "i.csv", "a\n1\ninf\n3\n")
    with pytest.raises(ValueError, match=r"row 1, counted from 0: fill them in, drop those rows, or fit other columns"):
        read_rows(DataTable(path=str(tmp_path / "i.csv"), missing="drop"))
    write(tmp_path / "o.csv", "w\n1\n2\n")
    with pytest.raises(ValueError, match="has no column but 'w', the rows' weights"):
        read_rows(DataTable(path=str(tmp_path / "o.csv"), sample_weight="w"))


def test_init_says_what_it_leaves_out_and_why(tmp_path):
    text = starter_config(write(tmp_path / "small.csv"))
    table = tomllib.loads(text)
    assert table["data"]["columns"] == ["size", "weight", "count"]
    assert "0 to 1, 2 values only" in text
    for words in (
        ("id", "counts the rows"),
        ("name", "not numbers"),
        ("gap", "1 missing or infinite value;"),
        ("same", "always the same"),
    ):
        assert re.search(f'# left out: "{words[0]}": {words[1]}', text)
    assert table["compare"]["families"] == ["tied", "diag", "spherical"]  # 9 parameters of a covariance and mean, 4 rows
    assert table["compare"]["n_components"] == [1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\nx,1\ny,1\n", "has no column to cluster (a: not numbers; b: always the same)"),
        ("a,b\n1.5,\n,2\n3,4\n", "every numeric column has missing values: a (1), b (1)"),
        ("1,2\n3,4\n", "it should be the columns' names"),
    ],
)
def test_init_refuses_what_cannot_be_clustered(text, words, tmp_path, jaxgmm):
    write(tmp_path / "data.csv", text)
    code, out, err = jaxgmm("init", "data.csv")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "data.toml").exists()


def test_schema_knows_every_key(jaxgmm):
    code, out, _ = jaxgmm("schema")
    assert (code, out) == (0, reference() + "\n")
    sections = dict(re.findall(r"(?s)## `\[([\w.]+)\]`\n\n(.*?)(?=\n## |\Z)", out))
    assert list(sections) == list(TABLES)
    for name, model in TABLES.items():
        described = dict(re.findall(r"(?m)^\| `(\w+)` \| .+? \| .*? \| (.*) \|$", sections[name]))
        assert not re.search(r"(?m)^\| `\w+` \|  \|", sections[name]), name  # each has a type
        own = {key for key in model.model_fields if f"{name}.{key}" not in TABLES}
        assert described.keys() == own
        assert all(described.values()), name  # each is explained
    assert "| `n_components` | whole number | needed | K. |" in sections["fit"]


def test_json_schema_accepts_what_the_config_accepts(jaxgmm):
    code, out, _ = jaxgmm("schema", "--json")
    assert code == 0
    schema = json.loads(out)
    assert out == json_schema() + "\n"
    assert set(schema["properties"]) == set(Config.model_fields)
    assert schema["$defs"]["FitTable"]["properties"]["family"]["default"] == "full"


def test_doctor(jaxgmm, monkeypatch):
    code, out, err = jaxgmm("doctor")
    assert (code, err) == (0, "")
    assert re.search(rf"pydantic +{re.escape(pydantic.VERSION)}\n", out)
    assert re.search(r"float64 +works", out)
    version = importlib.metadata.version

    def without(name):
        if name in ("arviz", "rich"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", without)
    code, out, _ = jaxgmm("doctor", "--json")
    found = json.loads(out)
    assert code == 2
    assert found["libraries"]["arviz"] == "MISSING: pip install arviz"
    assert found["libraries"]["rich"] == "not installed: pip install 'jaxgmm[cli]'"


def test_run_answers_programs_in_json(tmp_path, jaxgmm):
    config = write(tmp_path / "small.toml", SMALL)
    code, out, err = jaxgmm("run", config, "--json")
    answer = json.loads(out)
    assert (code, err) == (0, "")
    assert answer.pop("directory") == str(tmp_path / "runs" / "small")
    assert answer == json.loads((tmp_path / "runs" / "small" / "fit.json").read_text())
    assert answer["status"] == "converged"


def test_run_can_be_quiet(tmp_path, jaxgmm, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, as far as the progress bar knows
    config = write(tmp_path / "small.toml", SMALL)
    assert jaxgmm("run", config, "--quiet") == (0, "", "")
    code, _, err = jaxgmm("run", config, "--quiet")
    assert code == 2
    assert "already holds a run" in err  # errors are still said
    code, out, err = jaxgmm("run", config, "--quiet", "--overwrite", "--set", "fit.max_steps=1")
    assert (code, out) == (0, "")
    assert err.startswith("warning: the fit ended as max_steps. Still climbing")
    assert jaxgmm("run", config, "--quiet", "--json", "--overwrite")[2].startswith("error: --json prints")


def test_a_narrow_terminal_still_shows_every_number(tmp_path, jaxgmm, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    code, out, _ = jaxgmm("run", write(tmp_path / "small.toml", SMALL))
    assert code == 0
    assert max(len(line) for line in out.splitlines() if "written to" not in line) <= 40
    gmm = jg.load(tmp_path / "runs" / "small" / "gmm.npz")
    for weight in np.asarray(gmm.weights):
        assert f"{weight:.4f}" in out
    assert "\x1b" not in out  # no colours where nobody sees them
    assert "and 3 more features, in gmm.npz" in " ".join(out.split())


@pytest.mark.parametrize("width", [40, 80])
def test_tables_name_their_rows_at_any_width(width, tmp_path, jaxgmm, monkeypatch):
    """Columns there is no room for are named instead."""
    monkeypatch.setenv("COLUMNS", str(width))
    more = '[posterior]\nmethod = "laplace"\nn_draws = 20\n'
    code, out, _ = jaxgmm("run", write(tmp_path / "more.toml", SMALL + more))
    assert code == 0
    assert max(len(line) for line in out.splitlines() if "written to" not in line) <= width
    assert "…" not in out
    for name in ("means[0,", "weights[1]", "n_clusters"):
        assert re.search(rf"(?m)^ +{re.escape(name)}", out), name


@pytest.mark.parametrize("width", [40, 80])
def test_the_number_of_clusters_at_any_width(width):
    p = np.array([0.25, 0.75])
    columns = dict.fromkeys(("posterior", "mcse", "prior", "bayes_factor", "n_components"), p)
    count = ClusterCount(pd.DataFrame(columns, index=[1, 2]), 2, 1.0, 999.0, 999.0, ())
    console = Console(width=width, record=True, file=io.StringIO())
    terminal._show_count(console, Counted(None, count, None))
    out = console.export_text()
    for k in (1, 2):
        assert re.search(rf"(?m)^ +{k} +{p[k - 1]:.3f} ", out)
    assert ("no room for Bayes factor, components: see cluster_count.csv" in " ".join(out.split())) == (width == 40)


def test_folders_are_looked_at_before_anything_is_computed(tmp_path, jaxgmm):
    write(tmp_path / "data.csv")
    for command in (["init", "data.csv"], ["predict", "nowhere", "data.csv"]):
        code, out, err = jaxgmm(*command, "--output", tmp_path / "no" / "x.csv")
        assert (code, out) == (2, "")
        assert err == f"error: --output {tmp_path / 'no' / 'x.csv'}: there is no folder {tmp_path / 'no'}\n"


def test_a_folder_that_is_read_only(tmp_path, jaxgmm, monkeypatch):
    """Tests may run as root, who may write everywhere: the system's answers are ours."""
    config = write(tmp_path / "small.toml", SMALL)
    write(tmp_path / "data.csv")
    assert jaxgmm("run", config, "--quiet", "--output", "mine")[0] == 0
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    commands = {
        ("run", config, "--output", "new"): f"{tmp_path / 'new'} can't be written: no permission for {tmp_path}",
        ("init", "data.csv"): f"--output data.toml can't be written: no permission for {tmp_path}",
        ("predict", "mine", "data.csv", "--output", "p.csv"): f"--output p.csv can't be written: no permission for {tmp_path}",
    }
    for command, words in commands.items():
        assert jaxgmm(*command) == (2, "", f"error: {words}\n")
    assert {path.name for path in tmp_path.iterdir()} == {"small.toml", "data.csv", "mine"}

    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    code, out, err = jaxgmm("report", "mine")
    assert (code, out) == (2, "")
    assert err == "error: mine/report.html can't be written: no permission for mine; copy the run to a folder of yours\n"


def test_warmup_keeps_what_a_config_compiles(jaxgmm, tmp_path):
    config = write(tmp_path / "small.toml", SMALL)
    code, out, err = jaxgmm("warmup", config)
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(config))}: \d+ new files in {re.escape(jax.config.jax_compilation_cache_dir)}\n", out)
    assert {path.name for path in tmp_path.iterdir()} == {"small.toml"}
    assert jaxgmm("warmup", config, "--quiet") == (0, "", "")
    code, out, err = jaxgmm("warmup", config, "absent.toml")
    assert (code, out) == (2, "")
    assert "absent.toml" in err


def test_completion_for_the_shell(jaxgmm, monkeypatch):
    monkeypatch.setenv("_JAXGMM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "jaxgmm ")
    monkeypatch.setenv("COMP_CWORD", "1")
    _, out, _ = jaxgmm()
    assert {"run", "report", "predict", "init", "schema", "doctor", "warmup"} <= set(out.split())
