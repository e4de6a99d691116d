"""The command line: `jaxgmm run CONFIG`, `jaxgmm predict RUN_DIR DATA`.

Only typer is imported at the top, so that `jaxgmm --help` answers at once; everything else waits for its command.
"""

import dis
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, NoReturn

from jaxgmm import __version__
from jaxgmm.status import FitError

_EXTRA = ("matplotlib", "pyarrow", "pydantic", "rich", "typer")


def _fail(message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def _fail_for_missing(package: str) -> NoReturn:
    _fail(f"the command line needs {package}, which is not installed: pip install 'jaxgmm[cli]'")


try:
    import typer
except ModuleNotFoundError:
    _fail_for_missing("typer")

if TYPE_CHECKING:
    from jaxgmm.em import Progress
    from jaxgmm.run import Run

_CELL = 20  # characters for a mean ± sd

app = typer.Typer(
    epilog="Exit codes: 0 done; 2 wrong input or no usable fit, with one line that says why; 1 anything else. "
    "JAXGMM_DEBUG=1 shows the traceback of an error.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; user errors end as one line on stderr and exit code 2.

    Args:
        arguments: instead of the process's own.
    """
    try:
        app(None if arguments is None else list(arguments), prog_name="jaxgmm")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        _fail_for_missing(package)
    except (ValueError, TypeError, OSError, FitError) as error:
        if os.environ.get("JAXGMM_DEBUG") or not _meant_for_user(error):
            raise
        _fail(str(error))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jaxgmm {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Gaussian mixtures on JAX."""


@app.command("run")
def run_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file: data, prior and what to fit.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the config: fit.n_components=3. Repeatable."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Directory of the results; default runs/<config's name>.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there already.")] = False,
) -> None:
    """Fit the mixture that CONFIG describes and write results and figures into a directory."""
    from jaxgmm.config import load_config
    from jaxgmm.run import run

    checked = load_config(config, settings or ())
    if output is not None:
        checked = checked.model_copy(update={"output": checked.output.model_copy(update={"directory": str(output)})})
    use_compilation_cache()
    with _progress(f"fitting {config.stem}") as callback:
        finished = run(checked, overwrite=overwrite, callback=callback)
    _show(finished)


@app.command("predict")
def predict_command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory that `jaxgmm run` wrote.")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="CSV or Parquet file with the run's columns.")],
    output: Annotated[Path | None, typer.Option(help="CSV or Parquet file to write; default: CSV on stdout.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between the columns of a CSV; by its suffix if left out.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")] = False,
) -> None:
    """Assign the rows of DATA to the components of a finished run."""
    from jaxgmm.run import predict
    from jaxgmm.tables import write_table

    if output is not None and output.suffix not in (".csv", ".parquet"):
        raise ValueError(f"--output {output}: a file that ends in .csv or .parquet is needed.")
    if output is not None and output.exists() and not overwrite:
        raise FileExistsError(f"--output {output} exists: choose another name, or add --overwrite.")
    use_compilation_cache()
    write_table(output or sys.stdout.buffer, predict(run_dir, data, delimiter))


def use_compilation_cache() -> None:
    """Keep XLA's compiled programs in the user's cache folder, so that a second run starts fast.

    The process is the command line's own, so JAX's configuration is too. A cache that the user has set up stays; a
    folder that can't be written means compiling again, no more.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is not None:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxgmm" / "xla"
    try:
        # Others must not write there: what is in the cache gets executed.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@contextmanager
def _progress(what: str) -> "Iterator[Callable[[Progress], None] | None]":
    """A spinner on stderr, kept up to date by the callback that this yields; nothing where nobody looks."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with console.status(what) as status:
        yield lambda p: status.update(
            f"{what}: start {p.start} of {p.n_starts}, step {p.n_steps} of at most {p.max_steps}, objective {p.objective:.8g}"
        )


def _show(finished: "Run") -> None:
    import numpy as np
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from jaxgmm.plots import replication

    summary, fit = finished.summary, finished.fit
    console = Console(highlight=False)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column()
    colour = "green" if fit.converged else "yellow"
    facts.add_row("status", f"[{colour}]{summary['status']}[/]: {summary['meaning']}")
    facts.add_row(
        "model",
        f"{summary['n_components']} components, family {summary['family']}, "
        f"{'no prior (maximum likelihood)' if fit.prior is None else 'conjugate prior (MAP)'}",
    )
    facts.add_row("data", f"{summary['n_samples']} rows x {len(summary['feature_names'])} features")
    for name in ("log_likelihood", "objective", "bic", "aic", "icl"):
        facts.add_row(name.replace("_", "-") if len(name) > 3 else name.upper(), f"{summary[name]:.4f}")
    facts.add_row("steps", f"{fit.n_steps} of EM; {summary['n_starts']} starts in {summary['seconds']['fit']:.2f} s")
    facts.add_row("replication", replication(fit))
    console.print(facts)

    gmm = fit.gmm
    names = summary["feature_names"]
    components = Table(box=box.SIMPLE_HEAD, title="components: weight, then mean ± sd", title_justify="left")
    shown = max(1, (console.width - 16) // _CELL)
    for heading in ("", "weight", *names[:shown]):
        components.add_column(heading, justify="right")
    means, sds = np.asarray(gmm.means), np.sqrt(np.diagonal(np.asarray(gmm.dense_covariances()), axis1=1, axis2=2))
    for k, weight in enumerate(np.asarray(gmm.weights)):
        cells = (_plus_minus(m, s) for m, s in zip(means[k, :shown], sds[k, :shown], strict=True))
        components.add_row(str(k), f"{weight:.4f}", *cells)
    console.print(components)
    if len(names) > shown:
        console.print(f"and {len(names) - shown} more features, in gmm.npz")
    console.print(f"written to {finished.directory}", soft_wrap=True)


def _plus_minus(mean: float, sd: float) -> str:
    """Three digits of the sd, and the mean as far as that."""
    import math

    decimals = 2 - math.floor(math.log10(sd))
    if not 0 <= decimals <= 8:
        return f"{mean:.5g} ± {sd:.3g}"
    return f"{mean:.{decimals}f} ± {sd:.{decimals}f}"


def _meant_for_user(error: Exception) -> bool:
    """Does it come from a `raise` of ours, or the operating system? Anything else is a bug and keeps its traceback."""
    if isinstance(error, OSError | FitError):
        return True
    innermost: TracebackType | None = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    if innermost is None:
        return False
    frame = innermost.tb_frame
    raised = dis.opname[frame.f_code.co_code[innermost.tb_lasti]] == "RAISE_VARARGS"
    return raised and frame.f_globals.get("__name__", "").partition(".")[0] == "jaxgmm"
