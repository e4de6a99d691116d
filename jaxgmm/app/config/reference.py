"""The config's reference, made from the tables themselves: their docstrings, types and defaults."""

import inspect
import json
import re
import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jaxgmm.app.config import TABLES, Config


def reference() -> str:
    """Every table and key of a config, as Markdown.

    Example:
        >>> [line for line in reference().splitlines() if line.startswith("## ")][:2]
        ['## `[data]`', '## `[prior]`']
    """
    return "\n".join(["# Config", "", *(_table(name, model) for name, model in TABLES.items())])


def json_schema() -> str:
    """The same as a JSON Schema, for editors that check TOML by one."""
    return json.dumps(Config.model_json_schema(), indent=2)


def _table(name: str, model: type[BaseModel]) -> str:
    summary, said = _docstring(model)
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        if f"{name}.{key}" in TABLES:  # it has a section of its own
            continue
        rows.append(f"| `{key}` | {_type(field)} | {_default(field)} | {said.get(key, '')} |")
    return f"## `[{name}]`\n\n{summary}\n\n" + "\n".join(rows) + "\n"


def _docstring(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """The summary without the table's own name, and what is said of each attribute."""
    text = inspect.getdoc(model) or ""
    head, _, rest = text.partition("\nAttributes:\n")
    summary = re.sub(r"^`\[[\w.]+\]`: ", "", " ".join(head.split()))
    said: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \w)", "\n" + rest.rstrip()):
        names, _, words = entry.strip().partition(":")
        for key in names.split(", "):
            said[key] = " ".join(words.split()).replace("|", "\\|")
    return f"{summary[:1].upper()}{summary[1:]}", said


def _type(field: FieldInfo) -> str:
    return " or ".join(dict.fromkeys(_names(field.annotation)))


_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def _names(kind: Any) -> list[str]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _names(arguments[0])
    if origin is typing.Literal:
        return [f'`"{value}"`' for value in arguments]
    if origin in (typing.Union, types.UnionType):
        return [name for argument in arguments for name in _names(argument) if argument is not type(None)]
    if origin is tuple:
        return [f"list of {' or '.join(_names(arguments[0]))}"]
    return [_WORDS.get(kind, "")]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.default
    return "" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"
