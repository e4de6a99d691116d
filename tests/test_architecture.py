"""jaxgmm/README.md: its steps lead to a family that works, its table of rooms is whole, and imports go down it."""

import ast
import functools
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgmm as jg
from jaxgmm import covariance

ROOT = Path(jg.__file__).parent
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def unit(monkeypatch):
    """The family of the page, in the registry for one test."""
    (block,) = re.findall(r"(?s)```python\n(.*?)```", PAGE)
    namespace = {"__name__": "page"}
    exec(compile(block, ROOT / "README.md", "exec"), namespace)
    family = namespace["Unit"]()
    monkeypatch.setitem(covariance.FAMILIES, family.name, family)
    monkeypatch.setitem(covariance._BY_ANY_NAME, family.name, family)
    return family


@pytest.mark.parametrize("prior", ["fraley-raftery", None])
def test_the_steps_lead_to_a_family_that_works(prior, unit):
    x = 5 * jg.datasets.load_iris().x
    fit = jg.fit(x, 3, key=jax.random.key(0), family="unit", prior=prior, n_init=5)
    assert fit.converged
    assert (fit.gmm.family, fit.gmm.n_parameters) == ("unit", 2 + 12)
    assert (np.asarray(fit.gmm.covariances) == 1).all()
    # The fixed point, by hand.
    r = np.asarray(fit.gmm.responsibilities(x))
    kappa = 0 if prior is None else float(fit.prior.mean_precision)
    pull = 0 if prior is None else kappa * np.asarray(fit.prior.mean)
    np.testing.assert_allclose(fit.gmm.means, (r.T @ x + pull) / (r.sum(0) + kappa)[:, None], rtol=1e-5)
    np.testing.assert_allclose(fit.gmm.weights, r.mean(0), rtol=1e-4)
    assert fit.objective == pytest.approx(fit.log_likelihood + (0 if prior is None else float(fit.prior.log_prob(fit.gmm))))
    table = jg.compare(x, families=["VII", "unit"], n_components=[3], key=jax.random.key(0), n_init=5, prior=prior).table
    assert table.loc["unit 3", "n_parameters"] == table.loc["spherical 3", "n_parameters"] - 3
    assert table.loc["unit 3", "log_likelihood"] < table.loc["spherical 3", "log_likelihood"]
    with pytest.raises(ValueError, match=r"family 'unit', which restricts.*take 'spherical'"):
        jg.posterior(x, fit.gmm, method="gibbs", key=jax.random.key(0))


class HalfWay(covariance.full.Full):
    """A covariance that an M-step moves only half of the way to its mode, as one that iterates inside would."""

    name, mclust = "half-way", "HALF"

    def refit(self, scatter, counts, current, n_features, active, prior):
        return (current + super().refit(scatter, counts, current, n_features, active, prior)) / 2


@pytest.mark.parametrize("prior", ["default", None])
def test_a_family_with_an_iterative_m_step_climbs_to_the_same_optimum(prior, monkeypatch):
    family = HalfWay()
    monkeypatch.setitem(covariance.FAMILIES, family.name, family)
    monkeypatch.setitem(covariance._BY_ANY_NAME, family.name, family)
    x = jg.datasets.load_faithful().x
    exact = jg.fit(x, 2, key=jax.random.key(0), prior=prior, n_init=3, rtol=1e-11)
    fit = jg.fit(x, 2, key=jax.random.key(0), family="half-way", prior=prior, n_init=3, rtol=1e-11)
    assert fit.converged
    assert (np.diff(fit.trace) > -1e-9).all()
    assert fit.objective == pytest.approx(exact.objective, abs=1e-6)
    assert fit.n_steps > exact.n_steps


def _table():
    """The rows of the page's table: (names of rooms, in words), from the lowest to the highest."""
    rows = re.findall(r"(?m)^\| (`.*?) \| (.*?) \|$", PAGE)
    return [([name.strip("`/") for name in names.split(", ")], words) for names, words in rows]


@functools.cache
def _modules():
    """Files and folders."""
    files = {file.relative_to(ROOT.parent).with_suffix("") for file in ROOT.rglob("*.py")}
    return files | {file.parent for file in files}


def _level(module, levels):
    """The row of a module, "jaxgmm.bayes.trees.build": that of the most particular name in the table that holds it."""
    inner = module.removeprefix("jaxgmm").strip(".").replace(".", "/")
    holds = [name for name in levels if inner == name or inner.startswith(f"{name}/")]
    return levels[max(holds, key=len)]


def _imported(file):
    """Modules of the package that a file imports: at its top, inside functions, or for type checkers alone."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "jaxgmm")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "jaxgmm":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if Path(*whole.split(".")) in _modules() else node.module


def test_the_table_names_what_is_there_and_leaves_nothing_out():
    named = [name for names, _ in _table() for name in names]
    assert len(set(named)) == len(named)
    there = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if (path / "__init__.py").is_file() and path != ROOT}
    there |= {path.stem for path in ROOT.glob("*.py")} - {"__init__", "__main__"}
    holders = {name.split("/")[0] for name in named if "/" in name}  # a folder may stand as its own row or by what is in it
    assert set(named) <= there | {f"bayes/{path.stem}" for path in (ROOT / "bayes").glob("*.py")}
    assert {name for name in there if not any(name == n or name.startswith(f"{n}/") for n in named)} <= holders


def test_imports_go_down_the_table_and_in_no_circle():
    """Function-level and type-checking imports included; nobody imports the package's face."""
    levels = {name: row for row, (names, _) in enumerate(_table()) for name in names}
    levels |= {"__main__": len(levels), "": len(levels)}
    up, graph = [], {}
    for file in ROOT.rglob("*.py"):
        module = ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        if module == "jaxgmm":
            continue
        graph[module] = set(_imported(file)) - {module}
        for other in graph[module]:
            assert other != "jaxgmm", f"{module} imports the package's face"
            if _level(other, levels) > _level(module, levels):
                up.append((module, other))
    assert up == []
    assert list(TopologicalSorter(graph).static_order())


def test_structures_answer_by_methods():
    """Who asks a structure what it is would have to be changed for every new one."""
    asks = re.compile(r"isinstance\([^)]*(structure|Dense|Pooled|Diagonal|Isotropic)\b")
    files = [file for file in ROOT.rglob("*.py") if file.parent.name != "covariance"]
    assert [(file.name, line) for file in files for line in file.read_text("utf-8").splitlines() if asks.search(line)] == []


@pytest.mark.parametrize(
    ("module", "package", "line"),
    [("sklearn", "sklearn", "sklearn"), ("plots", "matplotlib", "cli"), ("onnx", "onnx", "onnx")],
)
def test_a_missing_extra_is_named_with_how_to_get_it(module, package, line):
    code = f"import sys; sys.modules[{package!r}] = None; import jaxgmm.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: jaxgmm.{module} needs ")
    assert last.endswith(f": pip install 'jaxgmm[{line}]'")


def test_what_is_public_is_written_out():
    assert sorted(jg.__all__) == sorted([*jg._HOME, *jg._MODULES, "__version__"])
    assert len(set(jg.__all__)) == len(jg.__all__)


def test_a_first_fit_waits_for_no_package_that_it_does_not_need():
    """pandas alone takes longer to import than a small fit to run."""
    code = "import sys, numpy as np, jax, jaxgmm as jg; jg.fit(np.eye(3), 1, key=jax.random.key(0))"
    code += (
        "; print([name for name in ('arviz', 'matplotlib', 'numpyro', 'pandas', 'sklearn', 'xarray') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("door", "packages"), [("posterior", ("arviz", "numpyro", "xarray")), ("count_clusters", ("arviz", "numpyro"))]
)
def test_chains_start_before_what_only_their_trees_need_is_there(door, packages):
    code = f"import sys, jaxgmm as jg; jg.{door}; print([name for name in {packages} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
