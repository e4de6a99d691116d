"""`report.html`: what a run found and whether to trust it, as one file that needs no network."""

from pathlib import Path

from jaxgmm.app.report.contents import contents
from jaxgmm.tools.files import write_text
from jaxgmm.tools.validation import check_path


def write_report(directory: str | Path, *, title: str | None = None, n_outliers: int = 10) -> Path:
    """Write the report of a finished run, from the files in its directory alone, and put it there as `report.html`.

    Args:
        directory: what `jaxgmm run` wrote.
        title: of the page; the directory's name by default.
        n_outliers: rows that fit their component worst, to list.

    Returns:
        The file's path.

    Raises:
        ValueError: no run, an unfinished one, or files that are damaged or of another version; says which.
        OSError: a file can't be read or written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    directory = check_path(directory, "directory")
    page = contents(directory, title=title, n_outliers=n_outliers)
    environment = Environment(
        loader=PackageLoader("jaxgmm.app.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.jinja").render(**page._asdict())
    path = directory / "report.html"
    try:
        write_text(path, text)
    except PermissionError:
        raise PermissionError(
            f"{path} can't be written: no permission for {directory}; copy the run to a folder of yours"
        ) from None
    return path
