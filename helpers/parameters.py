"""Parameters as checked, frozen dataclasses: what the one of each notebook in `helpers.config` is made of.

In: names and values from a notebook's parameters cell, papermill or a YAML file. Out: an immutable object whose every
value has the right type and lies in its legal range, or a `ValueError` that names the parameter and what is legal.
"""

import ast
import math
import types
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin

from helpers.files import resolve


def number(default: float, low: float, high: float = math.inf) -> Any:
    """A parameter in [low, high]; for a list, each of its items."""
    return _of(default, {"low": low, "high": high})


def choice(default: Any, *options: str) -> Any:
    """A parameter that is one of `options`; for a list, each of its items."""
    return _of(default, {"options": options})


def later(default: Any) -> Any:
    """A parameter that came after folders had been made without it: they count as made with its default (or rule)."""
    if isinstance(default, Field):
        return field(default=default.default, metadata={**default.metadata, "later": True})
    return _of(default, {"later": True})


def _of(default: Any, rule: dict) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=rule)
    return field(default=default, metadata=rule)


def _converted(value: Any, kind: Any) -> Any:
    """`value` as `kind`, or TypeError. An int is taken for a float, a bool never for a number."""
    if isinstance(kind, types.GenericAlias) and get_origin(kind) is list:
        if not isinstance(value, list | tuple):
            raise TypeError
        return [_converted(item, get_args(kind)[0]) for item in value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError
    return value


def _rule(kind: Any, rule: dict) -> str:
    name = str(kind) if get_origin(kind) else kind.__name__
    if "options" in rule:
        return f"{name}, one of {', '.join(map(repr, rule['options']))}"
    if "low" in rule:
        high = "" if rule["high"] == math.inf else f" and at most {rule['high']}"
        return f"{name}, at least {rule['low']}{high}"
    return name


def _legal(value: Any, rule: dict) -> bool:
    items = value if isinstance(value, list) else [value]
    if "options" in rule:
        return all(item in rule["options"] for item in items)
    if "low" in rule:
        return all(rule["low"] <= item <= rule["high"] for item in items)
    return True


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Base of the parameters of one notebook: types, ranges and choices are checked when it is made."""

    out_dir: str = "results/sample"

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            try:
                value = _converted(value, f.type)
                legal = _legal(value, f.metadata)
            except TypeError:
                legal = False
            if not legal:
                got = f"{value!r} ({type(value).__name__})"
                raise ValueError(f"{f.name} must be {_rule(f.type, f.metadata)}, got {got}.")
            object.__setattr__(self, f.name, value)

    @classmethod
    def checked(cls, values: dict[str, Any]) -> "Parameters":
        """Make one from names and values; an unknown name is a ValueError that lists the legal ones."""
        legal = [f.name for f in fields(cls)]
        unknown = [name for name in values if name not in legal]
        if unknown:
            raise ValueError(f"unknown parameter {unknown[0]!r}. Legal names: {', '.join(legal)}.")
        return cls(**values)

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]) -> "Parameters":
        """Gather the parameters from a notebook's `globals()`.

        What papermill injected is checked for unknown names: papermill itself only warns about them, and a
        misspelt parameter would be a run with the default.
        """
        for source in namespace.get("In", []):
            if source.startswith("# Parameters\n"):
                cls.checked(_assigned(source))
        missing = [f.name for f in fields(cls) if f.name not in namespace]
        if missing:
            raise ValueError(f"{missing[0]} is not defined. Run the parameters cell first.")
        return cls(**{f.name: namespace[f.name] for f in fields(cls)})

    @property
    def out(self) -> Path:
        """The run's folder, absolute."""
        return resolve(self.out_dir)

    @property
    def data(self) -> Path:
        """The folder of clips, absolute."""
        return resolve(self.data_dir)

    def as_dict(self, *, without: tuple[str, ...] = ("data_dir", "out_dir", "limit", "progress")) -> dict[str, Any]:
        """The parameters that decide the result, as plain types; a `later` one only where it is not the default."""
        silent = {f.name for f in fields(self) if f.metadata.get("later") and getattr(self, f.name) == f.default}
        return {name: value for name, value in asdict(self).items() if name not in silent.union(without)}


def _assigned(source: str) -> dict[str, Any]:
    """Names and values of the plain assignments in a cell."""
    return {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign)
    }
