"""Everything that README.md shows is run: its Python blocks here, its two set-up commands by .ci/run."""

import functools
import re
import warnings
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

import jaxgmm as jg
from jaxgmm.app import cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[all]' && "


def blocks(language):
    """Blocks of one language, each with the lines above it, so that a traceback shows the README's own line numbers."""
    found = re.finditer(rf"^```(?:{language})\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return ["\n" * README[: match.start(1)].count("\n") + match.group(1) for match in found]


@pytest.mark.default_precision
def test_python_blocks_run(tmp_path, monkeypatch):
    """In order, in one namespace, as a reader who follows along would."""
    monkeypatch.chdir(tmp_path)
    shown = blocks("python")
    assert shown
    namespace = {"__name__": "readme"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in shown:
            exec(compile(block, ROOT / "README.md", "exec"), namespace)


def test_calls_of_the_table(monkeypatch, tmp_path):
    """Each cell of the second column, on Old Faithful; those that take long with few draws."""
    data = jg.datasets.load_faithful()
    x, key = pd.DataFrame(data.x, columns=data.feature_names), jax.random.key(0)
    fit = jg.fit(x, 2, key=key)
    names = {
        "jg": jg,
        "x": x,
        "key": key,
        "K": 2,
        "fit": fit,
        "known": fit,
        "files": [tmp_path / "first.parquet", tmp_path / "others.parquet"],
    }
    monkeypatch.chdir(tmp_path)
    for part, file in zip((x[:100], x[100:]), names["files"], strict=True):
        part.to_parquet(file)
    names["labels"], names["classes"] = np.where(np.arange(272) < 9, data.x[:, 0] > 3, -1), np.where(data.x[:, 0] > 3, "a", "b")
    names["frame"] = pd.DataFrame({"value": data.x[:, 1], "sensor": np.repeat(["a", "b"], 136)})
    for name, few in (
        ("posterior", {"n_draws": 50}),
        ("count_clusters", {"n_draws": 20, "n_warmup": 10, "max_components": 12}),
    ):
        monkeypatch.setattr(jg, name, functools.partial(getattr(jg, name), **few), raising=False)
    monkeypatch.setattr(jg, "compare", functools.partial(jg.compare, families=["full"], n_components=[1, 2]), raising=False)
    names["tree"] = tree = jg.posterior(x, fit, method="gibbs", key=key)
    names["errors"], names["gappy"] = np.ones(x.shape), np.where(np.arange(x.size).reshape(x.shape) % 7, x, np.nan)
    names["sides"] = np.where(np.arange(x.size).reshape(x.shape) % 7, 0, -1)
    called = {"pi": "weights", "mu": "means", "Sigma": "covariances"}
    names["mcmc"] = {own: tree["posterior"][name].values for own, name in called.items()}
    rows = re.search(r"^\| I want to \|.*?\n\n", README, flags=re.MULTILINE | re.DOTALL)[0].splitlines()[2:]
    calls = [code for row in rows if row for code in re.findall("`([^`]*)`", row.rsplit(" | ", 1)[1]) if code != "x"]
    assert len(calls) > 12
    for code in calls:
        if code.startswith("jaxgmm "):
            assert code.split()[1] in {command.name or command.callback.__name__ for command in cli.app.registered_commands}
        else:
            exec(code, dict(names))


def test_nothing_is_left_to_be_filled_in():
    assert not re.findall(r"\| [A-Z]+_[A-Z]+ \||TODO", README)


def test_set_up_commands_are_what_ci_runs():
    """.ci/run takes both commands from README.md by their endings; each stands there once, and makes its own environment."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    endings = re.findall(r"readme_command '(.*)'", script)
    assert len(endings) == 2
    shown = [line for block in blocks("bash") for line in block.splitlines() if "-m venv" in line]
    assert len(shown) == 2
    for ending in endings:
        assert len([line for line in shown if re.fullmatch(re.escape(SET_UP) + r"\.venv/bin/.*" + ending, line)]) == 1
