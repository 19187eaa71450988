"""Pages that need no other file: one look, templates, pictures inside the page. No script, no request.

In: a template of `helpers/*.html.j2` and its values. Out: an HTML file that opens anywhere, on a phone and on paper.
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from helpers.files import replacing

WIDEST_PX = 1600  # a wider picture is scaled down: twice the width of the page
MIME = {".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class Picture:
    """A picture inside a page: its `data:` address and its size in pixels."""

    address: str
    width: int
    height: int


def write_page(path: str | Path, template: str, **values: Any) -> Path:
    """Fill a template and write the page atomically; a value that the template lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {filter.__name__: filter for filter in (number, signed, percent, spoken, sentence)}
    page = environment.get_template(template).render(**values)
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")
    return Path(path)


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals; – where there is none. What rounds to 0 has no minus."""
    return "–" if value is None else f"{round(value, digits) + 0.0:,.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """As `number`, with a sign."""
    return "–" if value is None else f"{round(value, digits) + 0.0:+,.{digits}f}"


def percent(value: float | None) -> str:
    """A share in whole percent."""
    return "–" if value is None else f"{value:.0%}"


def spoken(name: str) -> str:
    """A name of files and code as words."""
    return name.replace("_", " ")


def sentence(text: str) -> str:
    """A text with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")


def data_address(content: bytes, mime: str = "image/jpeg") -> str:
    """A file's content as an address that needs no file."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def embedded(path: Path) -> Picture:
    """Take a picture file into a page; one that is wider than `WIDEST_PX` is scaled down.

    Raises:
        ValueError: It is no picture.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            moves = getattr(image, "is_animated", False)
            if width <= WIDEST_PX or moves:
                return Picture(data_address(path.read_bytes(), MIME[path.suffix]), width, height)
            size = WIDEST_PX, round(height * WIDEST_PX / width)
            content = io.BytesIO()
            image.resize(size, Image.Resampling.LANCZOS).save(content, "PNG", optimize=True)
            return Picture(data_address(content.getvalue(), "image/png"), *size)
    except OSError as error:
        raise ValueError(f"{path} is not a picture ({error}). Delete it, and run its notebook again.") from None
