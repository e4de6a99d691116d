"""The command line: `jaxgmm init`, `run`, `report`, `predict`, `schema`, `doctor`.

Only typer is imported at the top, so that `jaxgmm --help` answers at once; everything else waits for its command.
"""

import json
import os
import shlex
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from jaxgmm.fitting.status import FitError
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.version import __version__

if TYPE_CHECKING:
    from jaxgmm.fitting.result import Fit

_EXTRA = ("h5netcdf", "h5py", "jinja2", "matplotlib", "pyarrow", "pydantic", "rich", "typer")
_INTERRUPTED, _TERMINATED = 130, 143  # 128 + SIGINT, SIGTERM, as shells have it


def _fail(message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def _fail_for_missing(package: str) -> NoReturn:
    _fail(f"the command line needs {package}, which is not installed: pip install 'jaxgmm[cli]'")


try:
    import typer
except ModuleNotFoundError:
    _fail_for_missing("typer")

app = typer.Typer(
    epilog="Exit codes: 0 done; 2 wrong input or no usable fit, and stderr says why; 130 interrupted; 143 terminated; 1 "
    "anything else. JAXGMM_DEBUG=1 shows the traceback of an error.",
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
    except (UserError, UserTypeError, FitError, OSError) as error:  # anything else is a bug and keeps its traceback
        if os.environ.get("JAXGMM_DEBUG"):
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
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was interrupted.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="On stdout, fit.json and the directory instead of tables.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Nothing on stdout, no progress on stderr.")] = False,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="One of several processes, as SLURM, Kubernetes or the next options say.")
    ] = False,
    coordinator: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Of process 0.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="How many there are.")] = None,
    process: Annotated[int | None, typer.Option(min=0, help="Which this one is.")] = None,
) -> None:
    """Run the stages of CONFIG: [fit] or [compare], [posterior], [count], [report]; results and figures go to a directory."""
    directory, other = None, False
    if as_json and quiet:
        raise UserError("--json prints the result, --quiet nothing: give one of them")
    if not distributed and (coordinator, processes, process) != (None, None, None):
        raise UserError("--coordinator, --processes and --process are for a run of several processes: add --distributed")
    try:
        if distributed:
            from jaxgmm.app.processes import join

            other = join(coordinator, processes, process) > 0
        from jaxgmm.app.config.toml import load_config
        from jaxgmm.app.lock import terminable
        from jaxgmm.app.run import run
        from jaxgmm.app.terminal import show, watched

        checked = load_config(config, settings or ())
        if output is not None:
            checked = checked.model_copy(update={"output": checked.output.model_copy(update={"directory": str(output)})})
        directory = checked.output.path
        use_compilation_cache()
        with terminable(), watched(config.stem, quiet=quiet or other) as watch:
            finished = run(checked, overwrite=overwrite, resume=resume, watch=watch)
        if as_json and not other:
            typer.echo(json.dumps({"directory": str(finished.directory), **finished.summary}))
        elif not quiet and not other:
            show(finished)
        elif not other:
            _warn(finished.fit)
    except KeyboardInterrupt as stopped:
        again = ["jaxgmm", "run", str(config)]
        again += [part for setting in settings or () for part in ("--set", setting)]
        again += [] if output is None else ["--output", str(output)]
        together = (("--coordinator", coordinator), ("--processes", processes), ("--process", process))
        again += ["--distributed"] * distributed
        again += [part for name, value in together if value is not None for part in (name, str(value))]
        _interrupted(directory, [*again, "--resume"], stopped)


def _warn(fit: "Fit") -> None:
    """What must be said even to those who want to hear nothing."""
    from jaxgmm.fitting.result import without_rows

    if not fit.converged:
        print(f"warning: the fit ended as {fit.status.name}. {fit.status.meaning}", file=sys.stderr)
    if fit.empty.any():
        print(f"warning: {without_rows(fit)}", file=sys.stderr)


def _interrupted(directory: Path | None, again: Sequence[str], stopped: KeyboardInterrupt) -> NoReturn:
    from jaxgmm.app.lock import Terminated
    from jaxgmm.app.output import holds_draws

    kept = directory is not None and holds_draws(directory)
    what = f"what is done is kept; continue with: {shlex.join(again)}" if kept else "nothing is kept of this run"
    name, code = ("terminated", _TERMINATED) if isinstance(stopped, Terminated) else ("interrupted", _INTERRUPTED)
    print(f"{name}: {what}", file=sys.stderr)
    raise SystemExit(code)


@app.command("report")
def report_command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory that `jaxgmm run` wrote.")],
    title: Annotated[str | None, typer.Option(help="Of the page; default: the directory's name.")] = None,
    outliers: Annotated[int, typer.Option(help="Rows farthest from their component, to list.", min=0)] = 10,
) -> None:
    """Write RUN_DIR/report.html: what the run found and whether to trust it, as one page that needs no network."""
    from jaxgmm.app.report import write_report

    use_compilation_cache()
    typer.echo(f"written to {write_report(run_dir, title=title, n_outliers=outliers)}")


@app.command("predict")
def predict_command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory that `jaxgmm run` wrote.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="CSV or Parquet file with the run's columns; a folder of them.")],
    output: Annotated[Path | None, typer.Option(help="CSV or Parquet file to write; default: CSV on stdout.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between the columns of a CSV; by its suffix if left out.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")] = False,
) -> None:
    """Assign the rows of DATA to the components of a finished run."""
    from jaxgmm.app.assignments import predict
    from jaxgmm.app.tables import write_tables
    from jaxgmm.tools.files import whole

    if output is not None and output.suffix not in (".csv", ".parquet"):
        raise UserError(f"--output {output}: a file that ends in .csv or .parquet is needed.")
    if output is not None and output.exists() and not overwrite:
        raise FileExistsError(f"--output {output} exists: choose another name, or add --overwrite.")
    if output is not None:
        _check_folder(output)
    use_compilation_cache()
    tables = predict(run_dir, data, delimiter)
    if output is None:
        write_tables(sys.stdout.buffer, tables)
    else:
        with whole(output) as partial:
            write_tables(partial, tables)


@app.command("init")
def init_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="CSV or Parquet file with named columns.")],
    output: Annotated[
        Path | None, typer.Option(help="Config to write; default: DATA's name with .toml, in this folder.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between the columns of a CSV; by its suffix if left out.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the config if it exists.")] = False,
) -> None:
    """Write a commented config for DATA, from a look at its columns."""
    from jaxgmm.app.config.starter import starter_config

    output = output or Path(f"{data.name.partition('.')[0]}.toml")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists: choose another name with --output, or add --overwrite")
    _check_folder(output)
    text = starter_config(data, delimiter, output.parent)
    output.write_text(text, encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("# left out: "):
            typer.echo(line.removeprefix("# "), err=True)
    typer.echo(f"written to {output}; now: {shlex.join(['jaxgmm', 'run', str(output)])}")


@app.command("schema")
def schema_command(
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON Schema, for editors.")] = False,
) -> None:
    """Print every table and key of a config, with types and defaults, as Markdown."""
    from jaxgmm.app.config.reference import json_schema, reference

    typer.echo(json_schema() if as_json else reference())


@app.command("doctor")
def doctor_command(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show versions, devices, precision and the cache; exit code 2 if something is missing or wrong."""
    from jaxgmm.app.doctor import examine

    found = examine(use_compilation_cache())
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for group, facts in found.items():
            typer.echo(group)
            for name, value in facts.items():
                typer.echo(f"  {name:<16}{value}")
    if any(value.startswith(("MISSING", "WRONG")) for facts in found.values() for value in facts.values()):
        raise typer.Exit(2)


@app.command("warmup")
def warmup_command(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG...", help="TOML files, as for `jaxgmm run`.")],
    quiet: Annotated[bool, typer.Option("--quiet", help="Nothing on stdout, no progress on stderr.")] = False,
) -> None:
    """Run CONFIG for nothing but what it compiles, which is kept: runs of it, and of other such data, then start at once."""
    from jaxgmm.app.config.toml import load_config
    from jaxgmm.app.lock import terminable
    from jaxgmm.app.run import run
    from jaxgmm.app.terminal import watched

    checked = {config: load_config(config, ()) for config in configs}
    folder = use_compilation_cache()
    if folder is None:
        raise UserError("what is compiled can't be kept: set XDG_CACHE_HOME to a folder that can be written.")
    for config, settings in checked.items():
        before = sum(1 for _ in folder.iterdir())
        with tempfile.TemporaryDirectory() as place, terminable(), watched(config.stem, quiet=quiet) as watch:
            elsewhere = settings.output.model_copy(update={"directory": str(Path(place) / "run")})
            run(settings.model_copy(update={"output": elsewhere}), overwrite=False, resume=False, watch=watch)
        if not quiet:
            typer.echo(f"{config}: {sum(1 for _ in folder.iterdir()) - before} new files in {folder}")


def use_compilation_cache() -> Path | None:
    """The user's cache folder, so that a second run starts fast; one that can't be written means compiling again, no more."""
    from jaxgmm.tools.cache import enable_compilation_cache

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return enable_compilation_cache()


def _check_folder(output: Path) -> None:
    """Before anything is computed."""
    folder = output.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"--output {output}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"--output {output} can't be written: no permission for {folder}")
