"""The map in the README: every file of the library stands in it, and every link leads somewhere."""

import re

from helpers.files import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_names_every_file_of_the_library():
    rows = re.findall(r"^\| ([^|]+) \|", README.partition("| file in `helpers/` |")[2], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w/]+)`", row)]
    there = {path.stem for path in (ROOT / "helpers").glob("*.py")} - {"__init__"}
    assert sorted(named) == sorted({*there, "plots/"})


def test_links_lead_to_files():
    missing = [link for link in re.findall(r"\]\(([^)#:]+)\)", README) if not (ROOT / link).exists()]
    assert missing == []
