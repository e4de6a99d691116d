"""report.html: what it says is what the run's files say; it is valid, self-contained, and can be used in a browser."""

import base64
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats

import jaxgmm as jg
from jaxgmm.app import cli, output
from jaxgmm.app.config.toml import load_config
from jaxgmm.app.report import write_report
from jaxgmm.app.run import run

pytestmark = pytest.mark.default_precision  # as in a process of its own

CONFIG = """
[data]
dataset = "faithful"
[compare]
families = ["full", "diag"]
n_components = [1, 3]
n_init = 3
[posterior]
method = "gibbs"
n_draws = 60
n_warmup = 20
n_chains = 2
[count]
n_draws = 40
n_warmup = 10
n_chains = 2
max_components = 6
n_moves = 1
[report]
title = "Eruptions <of> Old Faithful"
n_outliers = 5
"""
VOID = {"meta", "img", "br", "hr", "link", "input"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with every stage."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "all.toml").write_text(CONFIG)
    with jax.enable_x64(False):
        return run(load_config(folder / "all.toml", [f"output.directory={json.dumps(str(folder / 'run'))}"]))


@pytest.fixture(scope="module")
def page(finished):
    return Page((finished.directory / "report.html").read_text(encoding="utf-8"))


class Page(HTMLParser):
    """The elements of a page, its text by section, and whether its tags are balanced."""

    def __init__(self, source):
        super().__init__()
        self.source, self.stack, self.elements, self.sections = source, [], [], {}
        self.section = ""
        self.feed(source)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "section" and "aria-labelledby" in dict(attrs):
            self.section = dict(attrs)["aria-labelledby"]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.sections[self.section] = " ".join((self.sections.get(self.section, "") + " " + data).split())

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def test_is_one_file_that_needs_nothing_else(page, finished):
    assert not re.search(r"https?://|@import|<script [^>]*src|<link", page.source)
    pictures = page.all("img")
    names = ["cluster_count", "partitions", "similarity", "comparison", "responsibilities", "components", "trace"]
    names += ["posterior_draws", "posterior_intervals", "posterior_chains"]
    for picture, name in zip(pictures, names, strict=True):
        kind, _, data = picture["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == (finished.directory / f"{name}.png").read_bytes()
        assert len(picture["alt"]) > 30
    assert len(page.source) < 3e6


def test_links_and_labels_lead_somewhere(page):
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)
    targets = [attrs["href"] for attrs in page.all("a")]
    assert [target.removeprefix("#") for target in targets] == ids
    assert ids == ["trust", "clusters", "models", "components", "assignment", "data", "posterior", "outliers", "how"]
    assert [attrs["aria-labelledby"] for attrs in page.all("section") if "aria-labelledby" in attrs] == ids
    assert page.all("html") == [{"lang": "en"}]
    assert "<title>Eruptions &lt;of&gt; Old Faithful" in page.source


def test_says_what_the_files_say(page, finished):
    directory = finished.directory
    fit, posterior = (json.loads((directory / name).read_text()) for name in ("fit.json", "posterior.json"))
    trust = page.sections["trust"]
    assert f"{fit['replication']} of {fit['n_starts']} starts reached the best optimum" in trust
    for sentence in posterior["problems"]:
        assert " ".join(sentence.split()) in trust
    verdict = fit["count"]["verdict"]
    assert f"{verdict[0].upper()}{verdict[1:]}" in trust
    assert fit["agreement"] in page.sections["models"]
    for i, row in enumerate(fit["count"]["partitions"]):
        sizes = ", ".join(map(str, row["sizes"]))
        assert re.search(rf"\b{i} [\d.]+ % \S+ {row['n_clusters']} {sizes} {row['n_moved']}\b", page.sections["clusters"])
    mean = next(row for row in posterior["quantities"] if row["quantity"] == "means[0, waiting]")
    shown = re.search(r"waiting ([\d.]+) \[([\d.]+), ([\d.]+)\]", page.sections["components"])
    gmm = jg.load(directory / "gmm.npz")
    np.testing.assert_allclose(list(map(float, shown.groups())), [gmm.means[0, 1], mean["lower"], mean["upper"]], rtol=0.005)
    assert "jaxgmm " + jg.__version__ in page.sections["how"]


def test_outliers_are_those_of_the_mahalanobis_distance(page, finished):
    gmm, x = jg.load(finished.directory / "gmm.npz"), jg.datasets.load_faithful().x
    k = np.asarray(gmm.predict(x))
    away = x - gmm.means[k]
    squared = np.einsum("ni,nij,nj->n", away, np.linalg.inv(gmm.dense_covariances())[k], away)
    expected = len(x) * scipy.stats.chi2.sf(squared, 2)
    worst = np.argsort(expected)[:5]
    text = page.sections["outliers"]
    listed = re.findall(r"(\d+) (\d) (-?[\d.]+) ([\d.e-]+)", text[text.index("expected", text.index("Log density")) :])
    assert [int(row) for row, *_ in listed] == worst.tolist()
    np.testing.assert_allclose([float(value) for *_, value in listed], expected[worst], rtol=0.06)


def test_predictive_checks_find_what_the_mixture_does_not_reproduce():
    """One Gaussian for two clusters: its mean and sd are right, its tails are too long."""
    x = np.concatenate([np.linspace(-1, 1, 60), np.linspace(9, 11, 60)])[:, None]
    with jax.enable_x64(True):
        fit = jg.fit(x, 1, key=jax.random.key(0))
        tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1), n_draws=200, n_chains=2)
        table = jg.predictive_checks(tree, key=jax.random.key(2))
        weighted = jg.posterior(
            x, fit.gmm, method="gibbs", key=jax.random.key(1), n_draws=10, n_chains=2, sample_weight=np.full(120, 2.0)
        )
        with pytest.raises(ValueError, match="the rows have weights"):
            jg.predictive_checks(weighted, key=jax.random.key(2))
        with pytest.raises(ValueError, match="n_replicates must be at least 20"):
            jg.predictive_checks(tree, key=jax.random.key(2), n_replicates=3)
    table = table.set_index("statistic")
    np.testing.assert_allclose(table["observed"], [x.mean(), x.std(), scipy.stats.skew(x[:, 0]), -1, 11], atol=1e-9)
    inside = (table["lower"] <= table["observed"]) & (table["observed"] <= table["upper"])
    assert inside.to_dict() == {"mean": True, "sd": True, "skewness": True, "min": False, "max": False}
    assert table["p"]["max"] > 0.99
    assert table["p"]["min"] < 0.01
    # The replicated means have the posterior predictive sd: of the mean of 120 rows, and of mu itself.
    width = (table["upper"]["mean"] - table["lower"]["mean"]) / (2 * 1.96)
    assert width == pytest.approx(x.std() * np.sqrt(2 / 120), rel=0.15)


def test_reports_a_directory_by_command(finished, tmp_path, capfd):
    copy = shutil.copytree(finished.directory, tmp_path / "copy")
    (copy / "report.html").unlink()
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(copy), "--outliers", "0"])
    out, err = capfd.readouterr()
    assert (ended.value.code, err) == (0, "")
    assert out == f"written to {copy / 'report.html'}\n"
    page = Page((copy / "report.html").read_text(encoding="utf-8"))
    assert "<h1>copy</h1>" in page.source
    assert "Log density" not in page.sections["outliers"]
    assert {path.name for path in copy.iterdir()} == {path.name for path in finished.directory.iterdir()}


def test_without_other_stages_they_are_not_there(tmp_path):
    config = tmp_path / "small.toml"
    config.write_text('[data]\ndataset = "galaxies"\n[fit]\nn_components = 2\nfamily = "VII"\nn_init = 1\n')
    directory = run(load_config(config, [f"output.directory={json.dumps(str(tmp_path / 'run'))}"])).directory
    assert not (directory / "report.html").exists()
    page = Page(write_report(directory).read_text(encoding="utf-8"))
    assert list(page.sections)[1:] == ["trust", "components", "assignment", "data", "outliers", "how"]
    assert "One start only" in page.sections["trust"]
    (directory / "config.toml").write_text('[versions]\njaxgmm = "0.0.1"\n')
    fit = json.loads((directory / "fit.json").read_text())
    files = fit["files"] | {"config.toml": output.digests(directory)["config.toml"]}
    (directory / "fit.json").write_text(json.dumps(fit | {"files": files}))
    assert "The run is of jaxgmm 0.0.1" in write_report(directory).read_text(encoding="utf-8")


def test_names_and_weights_are_those_of_the_data(tmp_path):
    """Names that a posterior's file can't have keep their intervals; rows of weight 0 are no rows."""
    rng = np.random.default_rng(5)
    x, weight = np.repeat([[0.0, 5.0], [9.0, 1.0]], 40, axis=0) + rng.normal(size=(80, 2)), np.arange(80) % 3
    x[42] = 1000  # of weight 0
    rows = "".join(f"{a},{b},{w}\n" for (a, b), w in zip(x.tolist(), weight, strict=True))
    (tmp_path / "rows.csv").write_text(f"speed m/s,<b>b [red],w\n{rows}")
    config = tmp_path / "rows.toml"
    config.write_text(
        '[data]\npath = "rows.csv"\nsample_weight = "w"\n[fit]\nn_components = 2\nn_init = 2\n'
        '[posterior]\nmethod = "laplace"\nn_draws = 50\n'
    )
    directory = run(load_config(config, [f"output.directory={json.dumps(str(tmp_path / 'run'))}"])).directory
    page = Page(write_report(directory).read_text(encoding="utf-8"))
    lead, components = page.sections[""], page.sections["components"]
    assert f"Rows are weighted by w, {weight.sum()} in all; 27 have weight 0 and take no part." in lead
    assert len(re.findall(r"(?:speed m/s|<b>b \[red\])(?: [-\d.]+ \[[-\d.]+, [-\d.]+\]){2}", components)) == 4
    gmm, seen = jg.load(directory / "gmm.npz"), weight > 0
    k = np.asarray(gmm.predict(x[seen]))
    for component in (0, 1):
        part = weight[seen][k == component].sum() / weight.sum()
        assert f"{(k == component).sum()} {100 * part:.0f} %" in components
    assert not re.search(r"\b42 [01] ", page.sections["outliers"])
    (directory / "assignments.csv").write_text((directory / "assignments.csv").read_text().replace("sample_weight", "w"))
    with pytest.raises(ValueError, match="no column 'sample_weight'"):
        write_report(directory)


def break_fit(directory):
    (directory / "fit.json").write_text("{")


def old_fit(directory):
    fit = json.loads((directory / "fit.json").read_text())
    del fit["n_starts"]
    (directory / "fit.json").write_text(json.dumps(fit))


def old_assignments(directory):
    (directory / "assignments.csv").write_text("row,component,uncertainty\n0,0,0.1\n")


def cut_picture(directory):
    (directory / "trace.png").write_bytes(b"")


def stop(directory):
    (directory / "unfinished" / "posterior").mkdir(parents=True)


def other_rows(directory):
    lines = (directory / "assignments.csv").read_text().splitlines()
    (directory / "assignments.csv").write_text("\n".join(lines[:20]))


def other_features(directory):
    fit = json.loads((directory / "fit.json").read_text())
    (directory / "fit.json").write_text(json.dumps(fit | {"feature_names": ["eruptions"]}))


def nested(directory):
    (directory / "fit.json").write_text("[" * 100_000)


def no_toml(directory):
    (directory / "config.toml").write_text("x = [")


def no_text(directory):
    (directory / "config.toml").write_bytes(b'x = "\xff"')


def no_files(directory):
    fit = json.loads((directory / "fit.json").read_text())
    (directory / "fit.json").write_text(json.dumps(fit | {"files": 3}))


def no_verdict(directory):
    fit = json.loads((directory / "fit.json").read_text())
    del fit["count"]["verdict"]
    (directory / "fit.json").write_text(json.dumps(fit))


def fail(directory):
    stop(directory)
    (directory / "failed.json").write_text('{"stage": "count", "error": "OSError: disk full"}')


def cut_failure(directory):
    (directory / "failed.json").write_text('{"stage"')


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_fit, "fit.json is damaged"),
        (old_fit, "fit.json has no 'n_starts': it is damaged or of another version of jaxgmm"),
        (old_assignments, "assignments.csv has no column 'log_density'"),
        (cut_picture, "fit.json and trace.png are not of one run"),
        (stop, "holds a run that stopped in posterior; go on with `jaxgmm run CONFIG --resume`"),
        (other_rows, "fit.json, gmm.npz and assignments.csv are not of one run"),
        (other_features, "fit.json, gmm.npz and assignments.csv are not of one run"),
        (nested, "fit.json is damaged"),
        (no_toml, "config.toml is damaged"),
        (no_text, "config.toml is damaged"),
        (no_files, "fit.json is damaged (its files are 3)"),
        (no_verdict, "its files have no 'verdict'"),
        (lambda directory: (directory / "posterior.nc").unlink(), "posterior.nc is missing"),
        (fail, "holds a run that failed in count: OSError: disk full; go on with `jaxgmm run CONFIG --resume`"),
        (cut_failure, "holds no finished run: it failed, but failed.json can't be read"),
        (lambda directory: (directory / "assignments.csv").unlink(), "has no assignments.csv or assignments.parquet"),
        (lambda directory: (directory / "comparison.csv").unlink(), "comparison.csv is missing"),
        (lambda directory: (directory / "gmm.npz").unlink(), "does not hold a run"),
        (shutil.rmtree, "is not a directory"),
    ],
)
def test_a_run_that_cannot_be_reported_says_why(damage, words, finished, tmp_path):
    copy = shutil.copytree(finished.directory, tmp_path / "copy")
    damage(copy)
    before = sorted(copy.iterdir()) if copy.is_dir() else None
    with pytest.raises(ValueError, match=re.escape(words)):
        write_report(copy)
    assert before is None or sorted(copy.iterdir()) == before


def test_any_file_of_another_run_is_refused(finished, tmp_path):
    copy = shutil.copytree(finished.directory, tmp_path / "copy")
    names = {path.name for path in copy.iterdir()} - {"fit.json", "report.html"}
    assert json.loads((copy / "fit.json").read_text())["files"].keys() == names
    for name in names:
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole + b"\n")
        with pytest.raises(ValueError, match=rf"{re.escape(name)} (are not of one run|is not a whole jaxgmm mixture)"):
            write_report(copy)
        (copy / name).write_bytes(whole)
    write_report(copy)


@pytest.mark.parametrize("name", ["posterior.json", "posterior.nc", "counts.nc", "comparison.png", "assignments.parquet"])
def test_files_of_stages_that_the_run_did_not_have_are_refused(name, finished, tmp_path):
    copy = shutil.copytree(finished.directory, tmp_path / "copy")
    fit = json.loads((copy / "fit.json").read_text())
    fit["files"].pop(name, None)
    (copy / "fit.json").write_text(json.dumps(fit))
    (copy / name).touch()
    with pytest.raises(ValueError, match=rf"{re.escape(name)} are not of one run"):
        write_report(copy)


def in_browser(page, script, tmp_path):
    """What a script finds out in headless Chromium, with the page as it would be opened."""
    path = tmp_path / "page.html"
    path.write_text(page.source.replace("</body>", f"{script}</body>"), encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--virtual-time-budget=20000",
        "--dump-dom",
        path.as_uri(),
    ]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run([*command, profile], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>FOUND (.*?)</title>", done.stdout, re.DOTALL)
    assert found, done.stdout[:500]
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


CLICKS = """<script>
const found = {missed: [], hidden: [], narrow: 0};
for (const link of document.querySelectorAll("nav a")) {
  link.click();
  const target = document.querySelector(link.getAttribute("href"));
  if (location.hash !== link.getAttribute("href") || !target || Math.abs(target.getBoundingClientRect().top) > innerHeight)
    found.missed.push(link.textContent);
}
for (const details of document.querySelectorAll("details")) {
  details.querySelector("summary").click();
  if (!details.open) found.hidden.push(details.textContent.slice(0, 40));
}
for (const details of document.querySelectorAll("details")) details.open = false;
dispatchEvent(new Event("beforeprint"));
found.not_printed = document.querySelectorAll("details:not([open])").length;
for (const image of document.images) if (!image.complete || !image.naturalWidth) found.hidden.push(image.alt);
found.width = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.title = "FOUND " + JSON.stringify(found);
</script>"""


@pytest.mark.browser
@needs_chromium
def test_can_be_opened_and_clicked_through(page, tmp_path):
    found = in_browser(page, CLICKS, tmp_path)
    assert found["missed"] == found["hidden"] == []
    assert found["width"] <= 0  # nothing sticks out
    assert found["not_printed"] == 0


@pytest.mark.browser
@needs_chromium
@pytest.mark.skipif("AXE_CORE" not in os.environ, reason="AXE_CORE is not set to the path of axe.min.js")
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_is_accessible(colours, page, tmp_path):
    axe = Path(os.environ["AXE_CORE"]).read_text(encoding="utf-8")
    script = f"<script>{axe}</script><script>axe.run().then(r => {{ document.title = 'FOUND ' + JSON.stringify("
    script += "r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 100))])) })</script>"
    dark = Page(page.source.replace("(prefers-color-scheme: dark)", "all")) if colours == "dark" else page
    assert in_browser(dark, script, tmp_path) == []
