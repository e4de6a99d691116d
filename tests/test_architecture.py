"""jaxgmm/README.md: its steps lead to a family that works, and the drawing names what is there."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgmm as jg
from jaxgmm import covariance

ROOT = Path(jg.__file__).parent
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def equal_spheres(monkeypatch):
    """The family of the page, in the registry for one test."""
    (block,) = re.findall(r"(?s)```python\n(.*?)```", PAGE)
    namespace = {"__name__": "page"}
    exec(compile(block, ROOT / "README.md", "exec"), namespace)
    family = namespace["EqualSpheres"]()
    monkeypatch.setitem(covariance.FAMILIES, family.name, family)
    for name in (family.name, family.mclust):
        monkeypatch.setitem(covariance._BY_ANY_NAME, name, family)
    return family


@pytest.mark.parametrize("prior", ["default", None])
def test_the_steps_lead_to_a_family_that_works(prior, equal_spheres):
    x = jg.datasets.load_iris().x
    fit = jg.fit(x, 3, key=jax.random.key(0), family="EII", prior=prior, n_init=5)
    assert fit.converged
    assert (fit.gmm.family, fit.gmm.n_parameters) == ("equal-spheres", 2 + 12 + 1)
    r = np.asarray(fit.gmm.responsibilities(x))
    variance, counts = np.asarray(fit.gmm.covariances), r.sum(0)
    assert np.ptp(variance) == 0
    # The fixed point, by hand.
    away = x[:, None] - fit.gmm.means
    scatter, rows = (r[..., None] * away**2).sum(), x.size
    if prior is not None:
        p = fit.prior
        scatter += float(p.scale) + float(p.mean_precision) * ((fit.gmm.means - p.mean) ** 2).sum()
        rows += float(p.degrees_of_freedom) + 2 + 3 * x.shape[1]
    np.testing.assert_allclose(variance[0], scatter / rows, rtol=1e-5)
    np.testing.assert_allclose(fit.gmm.weights, counts / counts.sum(), rtol=1e-4)
    assert fit.objective == pytest.approx(fit.log_likelihood + (0 if prior is None else float(fit.prior.log_prob(fit.gmm))))
    table = jg.compare(x, families=["VII", "EII"], n_components=[3], key=jax.random.key(0), n_init=5, prior=prior).table
    assert table.loc["equal-spheres 3", "n_parameters"] == table.loc["spherical 3", "n_parameters"] - 2
    assert table.loc["equal-spheres 3", "log_likelihood"] < table.loc["spherical 3", "log_likelihood"]


def test_the_drawing_names_modules_that_exist_and_leaves_none_out():
    drawing = re.search(r"(?s)```\n(.*?)```", PAGE)[1]
    words = set(re.findall(r"[a-z_*]+/?", drawing))
    modules = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    not_drawn = {"__init__", "__main__"} | {"blocks", "formatting", "fitted", "datasets", "io", "tables"}
    not_drawn |= {"doctor", "schema", "starter"}
    stages = {name for name in modules if name.endswith("_stage")}
    missing = {name for name in modules - not_drawn - stages if name not in words and f"{name}/" not in words}
    assert missing == set()
    for name in ("telescoping", "split_merge", "birth_death", "few_rows", "coordinate_ascent", "datatree", "relabel"):
        assert name in words
        assert (ROOT / "bayes" / f"{name}.py").is_file()


def test_imports_go_down_the_drawing():
    drawing = re.search(r"(?s)```\n(.*?)```", PAGE)[1]
    row_of = {}
    for row, line in enumerate(drawing.splitlines()):
        for name in re.findall(r"[a-z_]+", line[:38]):
            row_of.setdefault(name, row)
    up = []
    for file in ROOT.rglob("*.py"):
        mine = _room(file.relative_to(ROOT).with_suffix("").parts[0])
        for node in _that_run(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "jaxgmm":
                inner = node.module.split(".")[1:2] or [alias.name for alias in node.names]
                up += [(file.name, other) for other in map(_room, inner) if row_of.get(other, 99) < row_of.get(mine, -1)]
    assert up == []
    assert row_of["cli"] < row_of["run"] < row_of["bayes"] < row_of["em"] < row_of["statistics"] < row_of["precision"]


def _that_run(node):
    """The nodes of a tree but for those that only type checkers see."""
    if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _that_run(child)


def _room(module):
    return "run" if module.endswith("_stage") else module


@pytest.mark.parametrize(("module", "package", "line"), [("sklearn", "sklearn", "sklearn"), ("plots", "matplotlib", "cli")])
def test_a_missing_extra_is_named_with_how_to_get_it(module, package, line):
    code = f"import sys; sys.modules[{package!r}] = None; import jaxgmm.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: jaxgmm.{module} needs ")
    assert last.endswith(f": pip install 'jaxgmm[{line}]'")


def test_what_is_public_is_written_out():
    assert sorted(jg.__all__) == sorted([*jg._HOME, *jg._MODULES, "__version__"])
    assert len(set(jg.__all__)) == len(jg.__all__)
