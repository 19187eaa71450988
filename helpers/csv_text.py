"""How a CSV is written: its separator, its decimal sign, a line `sep=` before the names of the columns.

In: a file, of which the first lines are looked at. Out: what pandas must be told to read it.
"""

import re
from pathlib import Path
from typing import Any

SEPARATORS = ",;\t"
LOOKED_AT = 5  # lines
_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")


def csv_format(path: str | Path) -> dict[str, Any]:
    """How a CSV is written, as `sep`, `decimal`, `skiprows` and `encoding` of `pandas.read_csv`.

    ValueError: the file is UTF-16, as some programs save "Unicode text".
    """
    with open(path, "rb") as file:
        head = [file.readline() for _ in range(LOOKED_AT)]
    if head[0][:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{Path(path).name} is not a CSV in UTF-8 but in UTF-16. Save it as CSV UTF-8.")
    lines = [line.decode("utf-8-sig", "replace").rstrip("\r\n") for line in head]
    stated = re.fullmatch(r"sep=(.)", lines[0], re.I)
    names, *below = lines[1:] if stated else lines
    sep = stated[1] if stated else max(SEPARATORS, key=names.count)
    comma = sep != "," and any(_COMMA.fullmatch(cell) for line in below for cell in line.split(sep))
    return {"sep": sep, "decimal": "," if comma else ".", "skiprows": int(bool(stated)), "encoding": "utf-8-sig"}
