"""What notebooks 09 and 10 display, and the one page that an executed notebook becomes.

In: sentences, tables, saved figures; an executed notebook. Out: displays whose plain text holds no number, so that the
committed notebooks compare equal on any machine; an HTML file that needs no other file, without script or request.
"""

import html
import io
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from IPython.display import Image, display
from nbconvert import HTMLExporter
from PIL import Image as Picture
from traitlets.config import Config

from helpers.files import replacing
from helpers.statistics import NONE, number

TEMPLATE = Path(__file__).with_name("page.html.j2")
OFF_PAGE = "not-on-page"  # tag of cells that are for readers of the notebook
WIDEST_PX, COLORS = 800, 128  # of a figure in a report
NOT_DEFINED = f"{NONE}: not known, or not defined for so few or so equal values."


def show_html(content: str, plain: str) -> None:
    """Display HTML; `plain` is what a reader without HTML gets, and what is compared."""
    display({"text/html": content, "text/plain": plain}, raw=True)


def say(*sentences: str, kind: str = "") -> None:
    """Display sentences as paragraphs, each with a capital and a full stop; `kind` is "warn", "note" or ""."""
    if sentences:
        paragraphs = "".join(f'<p class="{kind}">{html.escape(sentence(text))}</p>' for text in sentences)
        show_html(paragraphs, f"{len(sentences)} sentences")


def show(table: pd.DataFrame, *, caption: str = "") -> None:
    """Display a table, index first, in a box that it can be scrolled in, under it what – is; nothing if it is empty."""
    if table.empty:
        return
    named = table.map(cell).rename_axis(index=None, columns=table.index.name)
    absent = f'<p class="note">{NOT_DEFINED}</p>' if (named == NONE).any(axis=None) else ""
    title = f"<p><b>{html.escape(caption)}</b></p>" if caption else ""
    box = f'<div class="scroll" style="overflow-x:auto">{named.to_html(border=0, na_rep=NONE)}</div>'
    show_html(title + box + absent, f"table of {', '.join(map(str, table.columns))}")


def fold(title: str, lines: Iterable[str]) -> None:
    """Display lines that only their title is seen of until it is clicked."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    show_html(f"<details><summary>{html.escape(title)}</summary><ul>{items}</ul></details>", title)


def show_figures(out: Path, *names: str) -> None:
    """Display saved figures `<out>/figures/<name>.png`, no wider than `WIDEST_PX`; name those that are not there."""
    missing = [name for name in names if not (out / "figures" / f"{name}.png").exists()]
    for name in names:
        if name not in missing:
            content = small_picture(out / "figures" / f"{name}.png")
            display(Image(content, format="png", alt=f"figure {name}"))
    if missing:
        say(f"not saved by this run: {', '.join(missing)}", kind="note")


def small_picture(path: Path) -> bytes:
    """A picture file as PNG of `COLORS` colours, scaled down to `WIDEST_PX`.

    Raises:
        ValueError: It is no picture.
    """
    try:
        with Picture.open(path) as image:
            image = image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} is not a picture ({error}). Delete it, and run its notebook again.") from None
    image.thumbnail((WIDEST_PX, 10 * WIDEST_PX), Picture.Resampling.LANCZOS)
    content = io.BytesIO()
    image.quantize(COLORS, Picture.Quantize.MAXCOVERAGE, kmeans=1).save(content, "PNG", optimize=True)
    return content.getvalue()


def sentence(text: str) -> str:
    """A text with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…", ":")) else ".")


def cell(value: Any) -> str:
    """A value as a table shows it: intervals in brackets, counts without decimals, others with one, below 10 three."""
    if value is None or isinstance(value, str):
        return value or NONE
    if isinstance(value, list | tuple):
        return span(value)
    count = isinstance(value, Integral) or (value > 1 and float(value).is_integer())
    return number(value, 0 if count else 3 if abs(value) < 10 else 1)


def span(ends: Iterable[float] | None, digits: int = 2) -> str:
    """An interval in brackets; – where there is none."""
    ends = list(ends or [None])
    return NONE if ends[0] is None else "[" + ",\N{NO-BREAK SPACE}".join(number(end, digits) for end in ends) + "]"


def export(notebook: Path, page: Path, title: str) -> Path:
    """Write an executed notebook as one page without its code; cells tagged `OFF_PAGE` are left out."""
    tags = {"enabled": True, "remove_cell_tags": [OFF_PAGE]}
    exporter = HTMLExporter(
        exclude_anchor_links=True,
        template_file=str(TEMPLATE),
        exclude_input=True,
        config=Config(TagRemovePreprocessor=tags),
    )
    body, _ = exporter.from_notebook_node(
        nbformat.read(notebook, as_version=4), resources={"metadata": {"name": title}}
    )
    with replacing(page) as part:
        part.write_text(body, encoding="utf-8")
    return page
