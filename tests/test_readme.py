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


def test_set_up_commands_are_what_ci_runs():
    """.ci/run takes both commands from README.md by their endings; each stands there once, and makes its own environment."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    endings = re.findall(r"readme_command '(.*)'", script)
    assert len(endings) == 2
    shown = [line for block in blocks("bash") for line in block.splitlines() if "-m venv" in line]
    assert len(shown) == 2
    for ending in endings:
        assert len([line for line in shown if re.fullmatch(re.escape(SET_UP) + r"\.venv/bin/.*" + ending, line)]) == 1
