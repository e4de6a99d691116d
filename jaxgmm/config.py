"""A run as a TOML file: data x prior x stages, checked before anything is computed.

    [data]
    path = "measurements.csv"       # or dataset = "faithful", one that ships with jaxgmm
    columns = ["length", "width"]   # every column, if left out

    [prior]
    kind = "default"                # or "none": maximum likelihood

    [fit]                           # a stage; the model that it fits is named in it
    n_components = 3
    family = "full"

`load_config` gives the keys their types and defaults; a wrong one is an error that names it with its full path.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from jaxgmm.covariance import get_family
from jaxgmm.datasets import LOADERS
from jaxgmm.validation import unknown

_LATER_STAGES = ("compare", "posterior", "count", "report")

Names = Annotated[tuple[str, ...], Field(strict=False)]  # TOML gives a list where a tuple is meant
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Table(BaseModel):
    # strict: "3" is not 3 and 1 is not true. frozen: a config is a value.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DataTable(_Table):
    """`[data]`: the rows to fit.

    Attributes:
        dataset: name of a data set that ships with jaxgmm, or
        path: a CSV (.csv, .tsv, .txt) or Parquet (.parquet) file with named columns, relative to the config's folder.
        columns: the features, by name; every column if left out (of a shipped data set, its features).
        sample_weight: name of the column with the rows' weights.
        delimiter: between the columns of a CSV; "," if left out, a tab for .tsv.
    """

    dataset: str | None = None
    path: str | None = None
    columns: Names | None = None
    sample_weight: str | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None

    @field_validator("dataset")
    @classmethod
    def _ships(cls, name: str | None) -> str | None:
        if name is not None and name not in LOADERS:
            raise unknown("data set", name, LOADERS)
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("give exactly one of path (a file) and dataset (a name)")
        if self.delimiter is not None and self.path is None:
            raise ValueError("delimiter is for a path to a CSV file")
        if self.columns == ():
            raise ValueError("columns is empty; leave it out to take every column")
        columns = self.columns or ()
        if len(set(columns)) < len(columns):
            raise ValueError(f"columns names a column twice: {', '.join(columns)}")
        if self.sample_weight in columns:
            raise ValueError(f"sample_weight = {self.sample_weight!r} is also one of the columns")
        return self


class PriorTable(_Table):
    """`[prior]`: of the mixture's parameters.

    Attributes:
        kind: "default", the scale-aware conjugate prior of `jaxgmm.Prior.default`, or "none", maximum likelihood.
        concentration: of the Dirichlet prior of the weights, at least 1 for a fit, instead of the default's.
        mean_precision: how many rows the prior mean counts for, instead of the default's.
        degrees_of_freedom: of the inverse-Wishart prior of the covariances, instead of the default's; its scale stays.
    """

    kind: Literal["default", "none"] = "default"
    concentration: Positive | None = None
    mean_precision: Positive | None = None
    degrees_of_freedom: Positive | None = None

    @property
    def overrides(self) -> dict[str, float]:
        """What is given instead of the default prior's values."""
        return self.model_dump(exclude={"kind"}, exclude_none=True)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "none" and self.overrides:
            raise ValueError(f"{', '.join(self.overrides)} given, but kind = 'none' leaves the prior out")
        return self


class FitTable(_Table):
    """`[fit]`: the stage that fits one mixture. Keys are the arguments of `jaxgmm.fit`, with its defaults.

    Attributes:
        n_components: K.
        family: of the covariances, scikit-learn's name or mclust's.
        seed: of the random starts.
        init: how a start is drawn.
        n_init: number of starts.
        rtol: stop once an EM step gains less than this, in nats per unit of weight.
        max_steps: of EM, for every start.
        stopping: the rule that rtol is applied by.
        acceleration: "none" for plain EM, or "squarem".
    """

    n_components: Annotated[int, Field(ge=1)]
    family: str = "full"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    init: Literal["k-means++", "random"] = "k-means++"
    n_init: Annotated[int, Field(ge=1)] = 10
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-8
    max_steps: Annotated[int, Field(ge=1)] = 500
    stopping: Literal["relative", "aitken"] = "relative"
    acceleration: Literal["none", "squarem"] = "none"

    @field_validator("family")
    @classmethod
    def _known(cls, name: str) -> str:
        return get_family(name).name


class OutputTable(_Table):
    """`[output]`: where the results go.

    Attributes:
        directory: the run's directory, relative to the current one; runs/<name of the config> if left out.
        assignments: format of the assignments: "csv" or "parquet".
    """

    directory: str
    assignments: Literal["csv", "parquet"] = "csv"


class Config(_Table):
    """A whole run: its data, prior, stages and output.

    Attributes:
        data, prior, fit, output: the tables.
        versions: what wrote this config, if a run did; recorded, not used.
    """

    data: DataTable
    prior: PriorTable = PriorTable()
    fit: FitTable
    output: OutputTable
    versions: dict[str, str] = {}


_TABLES: dict[str, type[_Table]] = {"data": DataTable, "prior": PriorTable, "fit": FitTable, "output": OutputTable}


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
        >>> from jaxgmm.config import load_config
        >>> from pathlib import Path
        >>> folder = getfixture("tmp_path")
        >>> _ = Path(folder, "small.toml").write_text('[data]\ndataset = "iris"\n[fit]\nn_components = 3')
        >>> config = load_config(folder / "small.toml", ["fit.family=tied", "fit.n_init=20"])
        >>> config.fit.family, config.fit.n_init, config.fit.n_components, config.output.directory
        ('tied', 20, 3, 'runs/small')
    """
    path = Path(path)
    tables = _read(path)
    for override in overrides:
        _override(tables, override)
    tables.setdefault("output", {})
    if isinstance(tables["output"], dict):
        tables["output"].setdefault("directory", f"runs/{path.stem}")
    data = tables.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        # Absolute, so that the copy of the config in the run's directory still finds the file.
        data["path"] = str((path.parent / Path(data["path"]).expanduser()).resolve())
    for stage in _LATER_STAGES:
        if stage in tables:
            raise ValueError(f"{path}: [{stage}] is not available yet in this version of jaxgmm: remove that table")
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        # An unknown key first: it is often the reason why another one is missing.
        errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise ValueError(f"{path}: {'; '.join(_one_line(e) for e in errors)}") from None


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the TOML file, {path / 'config.toml'} if it is a run's directory")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no config file {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not valid TOML: not UTF-8 text") from None


def _override(tables: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = (part.strip() for part in key.split("."))
    if not equals or not parents or not last:
        raise ValueError(f"--set {override}: write table.key=value, such as fit.n_components=3")
    for parent in parents:
        tables = tables.setdefault(parent, {})
        if not isinstance(tables, dict):
            raise ValueError(f"--set {override}: {parent} is not a table")
    tables[last] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def _one_line(error: Mapping[str, Any]) -> str:
    """A pydantic error, in the words of someone who wrote the config."""
    *tables, key = (str(part) for part in error["loc"])
    path = ".".join([*tables, key])
    where = path if tables else f"[{path}]"
    message = error["msg"].removeprefix("Value error, ").replace("tuple", "list")
    if error["type"] == "extra_forbidden":
        return _unknown_key(tables, key)
    if error["type"] == "missing":
        return f"{where} is missing"
    if error["type"] == "model_type":
        return f"{where} should be a table, got {error['input']!r}"
    if message.startswith("Input should be "):
        return f"{where} should be {message.removeprefix('Input should be ')}, got {error['input']!r}"
    return f"{where}: {message}"


def _unknown_key(tables: list[str], key: str) -> str:
    known = {name: model.model_fields for name, model in _TABLES.items()}
    if not tables:
        hint = ": the model (family, n_components) belongs to the stage that fits it, [fit]" if key == "model" else None
        return f"unknown table [{key}]{hint}" if hint else str(unknown("table", key, known))
    table = tables[0]
    choices = [f"{table}.{name}" for name in known[table]]
    # The right key in the wrong table.
    choices += [f"{other}.{key}" for other, fields in known.items() if key in fields]
    return str(unknown("key", f"{table}.{key}", choices))


def to_toml(config: Config, versions: Mapping[str, str]) -> str:
    """The config as TOML text, every default written out, with the versions that it ran with.

    Example:
        >>> from jaxgmm.config import Config, to_toml
        >>> config = Config.model_validate(
        ...     {"data": {"dataset": "iris"}, "fit": {"n_components": 3}, "output": {"directory": "runs/iris"}}
        ... )
        >>> print(to_toml(config, {"jaxgmm": "0.1.0"}))  # doctest: +ELLIPSIS
        [data]
        dataset = "iris"
        <BLANKLINE>
        [prior]
        kind = "default"
        ...
        [versions]
        jaxgmm = "0.1.0"
        <BLANKLINE>
    """
    tables = config.model_dump(exclude_none=True) | {"versions": dict(versions)}
    blocks = (
        "\n".join([f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]) for name, table in tables.items()
    )
    return "\n\n".join(blocks) + "\n"


def _toml(value: str | int | float | Iterable[str]) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # JSON's escapes are TOML's
    if isinstance(value, int | float):
        return repr(value)
    return f"[{', '.join(map(_toml, value))}]"
