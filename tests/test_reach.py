"""How much of the library one call brings with it."""

import ast
from pathlib import Path

import pytest

from helpers.files import ROOT


def imported_by(path: Path) -> set[Path]:
    """Files of the library that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    names |= {name.partition(".")[0] for name in names}  # a package is imported with its modules
    stems = [ROOT.joinpath(*name.split(".")) for name in names if name.split(".")[0] == "helpers"]
    return {file for stem in stems for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.exists()}


def reached_from(path: Path) -> set[Path]:
    reached, to_do = set(), {path}
    while to_do:
        file = to_do.pop()
        reached.add(file)
        to_do |= imported_by(file) - reached
    return reached


@pytest.mark.parametrize(("name", "most_lines"), [("extract", 4_620), ("workers", 260)])
def test_a_call_brings_no_more_of_the_library_with_it_than_it_needs(name, most_lines):
    lines = {
        file.name: len(file.read_text(encoding="utf-8").splitlines())
        for file in reached_from(ROOT / "helpers" / f"{name}.py")
    }
    assert sum(lines.values()) <= most_lines, sorted(lines.items(), key=lambda entry: -entry[1])
