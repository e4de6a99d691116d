"""Everything that README.md shows is run: its Python blocks here, its two set-up commands by .ci/run."""

import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[all]' && "


def blocks(language):
    """Blocks of one language, each with the lines above it, so that a traceback shows the README's own line numbers."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
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


@pytest.mark.parametrize("ending", [".venv/bin/jaxgmm run configs/faithful.toml", ".venv/bin/python -m pytest"])
def test_set_up_commands(ending):
    """Each of the two commands stands once, makes its own environment, and is the one that .ci/run looks for."""
    lines = [line.strip() for block in blocks("bash|sh|console") for line in block.splitlines()]
    assert lines.count(SET_UP + ending) == 1
    assert len([line for line in README.splitlines() if line.endswith(ending) and "-m venv" in line]) == 1


def test_ci_runs_the_readme():
    """.ci/run takes both commands from README.md by their endings, so they can't drift apart."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    endings = [ending.replace("\\", "") for ending in re.findall(r"readme_command '(.*)'", script)]
    assert endings == ["-m pytest", "jaxgmm run configs/faithful.toml"]
    for ending in endings:
        assert len(re.findall(rf"^{re.escape(SET_UP)}.*{re.escape(ending)}$", README, flags=re.MULTILINE)) == 1
