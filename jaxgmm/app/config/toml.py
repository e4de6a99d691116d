"""A run as a TOML file: data x prior x stages, checked before anything is computed.

    [data]
    path = "measurements.csv"       # or dataset = "faithful", one that ships with jaxgmm
    columns = ["length", "width"]   # every column, if left out

    [prior]
    kind = "default"                # or "none": maximum likelihood

    [fit]                           # a stage; the model that it fits is named in it
    n_components = 3
    family = "full"

    [compare]                       # instead of [fit]: several models, of which a criterion chooses one
    families = ["full", "tied"]
    n_components = [1, 9]           # from 1 to 9
    criterion = "bic"

    [posterior]                     # a stage too, if its table is there: draws that start from the fit
    method = "gibbs"

    [count]                         # another: draws from the posterior over the number of clusters
    prior = "default"

    [report]                        # report.html, of all the others

`load_config` gives the keys their types and defaults; a wrong one is an error that names it with its full path.
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jaxgmm.app.config import TABLES, Config
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Facts
from jaxgmm.tools.validation import check_path, unknown


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    r"""Read and check a config.

    Args:
        path: of the TOML file.
        overrides: "table.key=value" each, replacing or adding a key; the value is written as in TOML, and is a string
            where it isn't TOML (`fit.init=random`).

    Raises:
        OSError: the file can't be read.
        ValueError: not TOML, an unknown table or key, a wrong type or value; the message is one line.

    Example:
        >>> from jaxgmm.app.config.toml import load_config
        >>> from pathlib import Path
        >>> folder = getfixture("tmp_path")
        >>> _ = Path(folder, "small.toml").write_text('[data]\ndataset = "iris"\n[fit]\nn_components = 3')
        >>> config = load_config(folder / "small.toml", ["fit.family=tied", "fit.n_init=20"])
        >>> config.fit.family, config.fit.n_init, config.fit.n_components, config.output.directory
        ('tied', 20, 3, 'runs/small')
    """
    path = check_path(path)
    tables = _read(path)
    for override in overrides:
        _override(tables, override)
    tables.setdefault("output", {})
    if isinstance(tables["output"], dict):
        tables["output"].setdefault("directory", f"runs/{path.stem}")
    data = tables.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str) and "://" not in data["path"]:
        # Absolute, so that the copy of the config in the run's directory still finds the file.
        data["path"] = str((path.parent / Path(data["path"]).expanduser()).resolve())
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        # An unknown key first: it is often the reason why another one is missing.
        errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise UserError(f"{path}: {'; '.join(_one_line(e) for e in errors)}") from None


def _read(path: Path) -> Facts:
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the TOML file, {path / 'config.toml'} if it is a run's directory")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no config file {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not valid TOML: not UTF-8 text") from None


def _override(tables: Facts, override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = (part.strip() for part in key.split("."))
    if not equals or not parents or not last:
        raise UserError(f"--set {override}: write table.key=value, such as fit.n_components=3")
    for parent in parents:
        tables = tables.setdefault(parent, {})
        if not isinstance(tables, dict):
            raise UserError(f"--set {override}: {parent} is not a table")
    tables[last] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def _one_line(error: Mapping[str, Any]) -> str:
    """A pydantic error, in the words of someone who wrote the config."""
    message = error["msg"].removeprefix("Value error, ").replace("tuple", "list")
    if not error["loc"]:  # about several tables
        return message
    *tables, key = (str(part) for part in error["loc"])
    path = ".".join([*tables, key])
    where = path if tables and path not in TABLES else f"[{path}]"
    if error["type"] == "extra_forbidden":
        return _unknown_key(tables, key)
    if error["type"] == "missing":
        return f"{where} is missing"
    if error["type"] == "model_type":
        return f"{where} should be a table, got {error['input']!r}"
    if error["type"] in ("tuple_type", "list_type"):
        return f"{where} should be a list, such as {json.dumps([error['input']], default=str)}, got {error['input']!r}"
    if error["type"].startswith("string_too"):
        return f"{where}: {message}, got {error['input']!r}"
    if message.startswith("Input should be "):
        return f"{where} should be {message.removeprefix('Input should be ')}, got {error['input']!r}"
    return f"{where}: {message}"


def _unknown_key(tables: list[str], key: str) -> str:
    known = {name: model.model_fields for name, model in TABLES.items()}
    if key == "model" and not tables:
        return "unknown table [model]: the model (family, n_components) belongs to the stage that fits it, [fit] or [compare]"
    if not tables:
        return str(unknown("table", key, [name for name in known if "." not in name]))
    table = ".".join(tables)
    elsewhere = [f"{other}.{key}" for other, fields in known.items() if key in fields]  # the right key in the wrong table
    return str(unknown("key", f"{table}.{key}", elsewhere or [f"{table}.{name}" for name in known[table]]))


def to_toml(config: Config, versions: Mapping[str, str]) -> str:
    """The config as TOML text, every default written out, with the versions that it ran with.

    Example:
        >>> from jaxgmm.app.config.toml import to_toml
        >>> from jaxgmm.app.config import Config
        >>> config = Config.model_validate(
        ...     {"data": {"dataset": "iris"}, "fit": {"n_components": 3}, "output": {"directory": "runs/iris"}}
        ... )
        >>> print(to_toml(config, {"jaxgmm": "0.1.0"}))  # doctest: +ELLIPSIS
        [data]
        dataset = "iris"
        in_pieces = false
        decimal = "."
        missing = "refuse"
        <BLANKLINE>
        [prior]
        kind = "default"
        ...
        [versions]
        jaxgmm = "0.1.0"
        <BLANKLINE>
    """
    tables = config.model_dump(exclude_none=True) | {"versions": dict(versions)}
    return "\n\n".join(block for name, table in tables.items() for block in _blocks(name, table)) + "\n"


def _blocks(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    """A table as text, and after it the tables in it."""
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    yield "\n".join([f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items() if key not in inner)])
    for key, value in inner.items():
        yield from _blocks(f"{name}.{key}", value)


def _toml(value: str | bool | int | float | Iterable[str]) -> str:
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False)  # JSON's escapes are TOML's
    if isinstance(value, int | float):
        return repr(value)
    return f"[{', '.join(map(_toml, value))}]"
