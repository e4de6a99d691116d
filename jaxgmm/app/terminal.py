"""What `jaxgmm run` prints: how far it is, and what came out."""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from jaxgmm.app.known import known_of_rows
from jaxgmm.app.run import Run, Watch
from jaxgmm.fitting.result import Progress as FitProgress
from jaxgmm.fitting.result import without_rows
from jaxgmm.plots import replication
from jaxgmm.tools.compiling import watching
from jaxgmm.tools.formatting import alike, number, plus_minus, with_names

if TYPE_CHECKING:
    from jaxgmm.app.config import ThresholdsTable
    from jaxgmm.app.stages.compare import Compared
    from jaxgmm.app.stages.count import Counted
    from jaxgmm.app.stages.posterior import Drawn

_CELL = 20  # characters for a mean ± sd
_MOST_MODELS = 12  # of a comparison, in a table
_LEAST_PROBABILITY = 0.0005  # of a number of clusters, in a table
_HEADING = {"log_likelihood": "log-lik", "held_out": "held-out", "log_evidence": "evidence"}
_MOST_QUANTITIES = 24  # of components, in a table
_CHOSEN = " (the most probable number of clusters)"
_SHORT = {"standard_deviations": "sd", "correlations": "correlation"}
_MEANINGS = {
    "label-invariant": "quantities that the order of components can't change",
    "relabelled": "components, relabelled by the fit",
}  # others aren't shown: they mean nothing


@contextmanager
def watched(name: str, *, quiet: bool = False) -> Iterator[Watch]:
    """A progress bar on stderr, nothing where nobody looks or wants to; notes in any case."""
    console = Console(stderr=True)

    def note(sentence: str) -> None:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    if quiet or not console.is_terminal:
        yield Watch(note=note)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(name, total=None, done="")

        def stage(stage: str) -> None:
            bar.reset(task, total=None, description=f"{name}: {stage}", done="")

        def fit(p: FitProgress) -> None:
            done = f"start {p.start} of {p.n_starts}, step {p.n_steps} of at most {p.max_steps}, objective {p.objective:.8g}"
            bar.update(task, done=done)

        def draws(done: int, total: int) -> None:
            bar.update(task, total=total, completed=done, done=f"{done} of {total} steps")

        def compiling(now: bool) -> None:
            bar.update(task, done="compiling ..." if now else "")

        with watching(compiling):
            yield Watch(stage, fit, draws, note)


def show(finished: Run) -> None:
    """On stdout: the fit, and before or after it what other stages there are."""
    console = Console(highlight=False)
    if finished.compared is not None:
        _show_comparison(console, finished.compared)
    with jax.enable_x64(True):
        _show_fit(console, finished)
    if finished.posterior is not None:
        _show_posterior(console, finished.posterior)
    if finished.counted is not None:
        _show_count(console, finished.counted)
    console.print(f"written to {finished.directory}", soft_wrap=True)


def _show_comparison(console: Console, compared: "Compared") -> None:
    comparison, by = compared.comparison, compared.criterion
    rows = comparison.table.sort_values(f"rank_{by}", kind="stable", na_position="last")
    title = f"{len(rows)} models, the best by {by.replace('_', '-')} first"
    shown = ("log_likelihood", *comparison.criteria)
    table = _Table(title, ["model", *(_HEADING.get(name, name) for name in shown), "status"], "comparison.csv")
    winner = compared.fit.gmm
    for model, row in rows[:_MOST_MODELS].iterrows():
        numbers = [number(row[name], ".4f" if name == "held_out" else ".1f") for name in shown]
        style = "green" if model == f"{winner.family} {winner.n_components}" else None
        style = style if row["status"] == "converged" else "yellow"
        table.add([str(model), *numbers, row["status"]], style)
    table.show(console)
    if len(rows) > _MOST_MODELS:
        console.print(f"and {len(rows) - _MOST_MODELS} more, in comparison.csv")
    console.print(f"[bold]agreement[/]  {comparison.agreement}")
    console.print(f"selected by {by.replace('_', '-')}: {winner.family} with {winner.n_components}")


def _show_fit(console: Console, finished: Run) -> None:
    summary, fit = finished.summary, finished.fit
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column()
    colour = "green" if fit.converged else "yellow"
    facts.add_row("status", f"[{colour}]{summary['status']}[/]: {summary['meaning']}")
    facts.add_row(
        "model",
        f"{summary['n_components']} components{_CHOSEN if 'n_components_from' in summary else ''}, family {summary['family']}, "
        f"{'no prior (maximum likelihood)' if fit.prior is None else 'conjugate prior (MAP)'}",
    )
    n_features = len(summary["feature_names"])
    lack = "have no value" if summary["missing"] == "keep" else "lack a value"
    dropped = f"; {summary['n_dropped']} more {lack}, and were dropped" if summary["n_dropped"] else ""
    facts.add_row("data", f"{summary['n_samples']} rows x {n_features} feature{'s' * (n_features > 1)}{dropped}")
    for name, words in known_of_rows(summary).items():
        facts.add_row(name, escape(words))
    for name in ("log_likelihood", "objective", "bic", "aic", "icl"):
        facts.add_row(name.replace("_", "-") if len(name) > 3 else name.upper(), f"{summary[name]:.4f}")
    took = f" in {summary['seconds']['fit']:.2f} s" if "fit" in summary["seconds"] else ""
    facts.add_row("steps", f"{fit.n_steps} of EM; {summary['n_starts']} starts{took}")
    facts.add_row("replication", replication(fit))
    if fit.empty.any():
        facts.add_row("empty", f"[yellow]{without_rows(fit)}[/]: set n_components lower")
    console.print(facts)

    gmm = fit.gmm
    names = summary["feature_names"]
    components = Table(box=box.SIMPLE_HEAD, title="components: weight, then mean ± sd", title_justify="left")
    shown = max(1, (console.width - 16) // _CELL)
    for heading in ("", "weight", *names[:shown]):
        components.add_column(escape(heading), justify="right")
    means, sds = np.asarray(gmm.means), np.sqrt(np.diagonal(np.asarray(gmm.dense_covariances()), axis1=1, axis2=2))
    for k, weight in enumerate(np.asarray(gmm.weights)):
        cells = (plus_minus(m, s) for m, s in zip(means[k, :shown], sds[k, :shown], strict=True))
        components.add_row(str(k), f"{weight:.4f}", *cells)
    console.print(components)
    if len(names) > shown:
        console.print(f"and {len(names) - shown} more feature{'s' * (len(names) - shown > 1)}, in gmm.npz")


def _show_posterior(console: Console, drawn: "Drawn") -> None:
    summary, table = drawn.summary, drawn.diagnostics.table
    approximate = table["r_hat"].isna().all()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column()
    colour = "green" if drawn.diagnostics.ok else "yellow"
    n_problems = len(drawn.diagnostics.problems)
    verdict = f"{n_problems} problem{'s' * (n_problems > 1)}, see below" if n_problems else "no problems found"
    facts.add_row("posterior", f"[{colour}]{verdict}[/]")
    chains = f"{summary['n_chains']} x {summary['n_draws']} draws"
    if "n_warmup" in summary:
        chains = f"{summary['n_chains']} chains of {summary['n_draws']} draws, after {summary['n_warmup']} steps of warm-up"
    facts.add_row("method", f"{summary['method']}, {chains}")
    if "pareto_k" in summary:
        facts.add_row("k-hat", "unknown" if summary["pareto_k"] is None else f"{summary['pareto_k']:.2f}")
    facts.add_row(
        "labels", f"non-permutation rate {summary['non_permutation_rate']:.1%}, switch rate {summary['switch_rate']:.1%}"
    )
    console.print(facts)
    for meaning, words in _MEANINGS.items():
        rows = table[table["meaning"] == meaning]
        if len(rows):
            thresholds = None if approximate else drawn.thresholds
            _quantities(rows[:_MOST_QUANTITIES], words, drawn.feature_of, thresholds).show(console)
        if len(rows) > _MOST_QUANTITIES:
            console.print(f"and {len(rows) - _MOST_QUANTITIES} more, in posterior.json")
    for sentence in drawn.diagnostics.problems:
        console.print(f"[yellow]problem:[/] {escape(sentence)}")
    for sentence in drawn.diagnostics.notes:
        console.print(f"note: {escape(sentence)}")


def _show_count(console: Console, counted: "Counted") -> None:
    count = counted.count
    headings = ["", "posterior", "± error", "prior", "Bayes factor", "components"]
    table = _Table("number of clusters", headings, "cluster_count.csv")
    shown = count.table[(count.table[["posterior", "n_components"]] >= _LEAST_PROBABILITY).any(axis=1)]
    for clusters, row in shown.iterrows():
        cells = [number(row[name], ".3f") for name in ("posterior", "mcse", "prior")]
        cells += [number(row["bayes_factor"], ".3g"), number(row["n_components"], ".3f")]
        table.add([str(clusters), *cells], "green" if count.ok and clusters == count.mode else None)
    table.show(console)
    console.print(f"less probable ones, with {1 - shown['prior'].sum():.2f} of the prior, in cluster_count.csv")
    console.print(f"[bold]clusters[/]  [{'green' if count.ok else 'yellow'}]{escape(count.verdict)}[/]", soft_wrap=True)


def _quantities(rows: Any, title: str, feature_of: Mapping[str, str], thresholds: "ThresholdsTable | None") -> "_Table":
    headings = ["", "mean", "sd", "5 %", "95 %", *(("r-hat", "ESS") if thresholds else ())]
    table = _Table(title, headings, "posterior.json")
    for name, row in rows.iterrows():
        cells = alike(row["sd"], row[["mean", "sd", "lower", "upper"]])
        style = None
        if thresholds:
            r_hat, ess = row["r_hat"], row[["ess_bulk", "ess_tail"]].min()
            cells += [number(r_hat, ".3f"), number(ess, ".0f")]
            style = "yellow" if r_hat > thresholds.r_hat or ess < thresholds.ess else None
        name = with_names(name, feature_of)
        for long, short in _SHORT.items():
            name = name.replace(long, short)
        table.add([name, *cells], style)
    return table


class _Table:
    """Rows of text; shows as many columns as the terminal is wide, and says which it has no room for."""

    def __init__(self, title: str, headings: list[str], file: str):
        self._title, self._headings, self._file = title, headings, file
        self._rows: list[tuple[list[str], str | None]] = []

    def add(self, cells: list[str], style: str | None) -> None:
        self._rows.append((cells, style))

    def show(self, console: Console) -> None:
        columns = zip(self._headings, *(cells for cells, _ in self._rows), strict=True)
        first, *others = (max(map(cell_len, column)) + 2 for column in columns)
        room = console.width - min(first, max(14, console.width // 3)) - 2
        shown = 1 + sum(total <= room for total in itertools.accumulate(others))
        table = Table(box=box.SIMPLE_HEAD, title=self._title, title_justify="left", collapse_padding=True)
        table.add_column(self._headings[0], overflow="fold")  # it says which row this is
        for heading in self._headings[1:shown]:
            table.add_column(heading, justify="right", no_wrap=True)
        for cells, style in self._rows:
            table.add_row(*map(escape, cells[:shown]), style=style)
        console.print(table)
        if shown < len(self._headings):
            console.print(f"no room for {', '.join(self._headings[shown:])}: see {self._file}")
