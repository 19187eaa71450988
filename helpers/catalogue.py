"""Everything that may lie in the weights folder, by name, and the table that `python -m helpers weights list` prints.

In: the tables of `helpers.checkpoints.published` and YuNet's record. Out: `assets()`, name -> row, and lines of text.
No Keras.
"""

from helpers.checkpoints.converted import converted_path
from helpers.checkpoints.published import SAMPLES, WEIGHTS, Published, PublishedFile
from helpers.checkpoints.records import has_changed, is_here, main_file, read_record
from helpers.faces import YUNET
from helpers.files import weights_folder


def assets() -> dict[str, Published]:
    """Return all rows: networks, the face detector, the clips of the gold check."""
    yunet = Published(
        path=YUNET.name,
        files=(PublishedFile(YUNET.name, YUNET.url, YUNET.sha256, YUNET.n_bytes),),
        licence=YUNET.licence,
        origin="opencv_zoo",
        paper=YUNET.paper,
        purpose="face detector of 02, detector: yunet",
        kind="onnx",
    )
    return {**WEIGHTS, "yunet": yunet, **SAMPLES}


def choose(names: list[str]) -> dict[str, Published]:
    """Return the rows of these names; "all" means all of them. ValueError names what is unknown, and the choices."""
    rows = assets()
    if names == ["all"]:
        return rows
    unknown = [name for name in names if name not in rows]
    if unknown or not names:
        got = ", ".join(unknown) or "nothing"
        raise ValueError(f"NAME must be all or of {', '.join(rows)}, got {got}. Correct the name.")
    return {name: rows[name] for name in names}


def state(row: Published) -> str:
    """Say in a few words whether a row's files are here and what is known of them."""
    here = [(weights_folder() / file.name).is_file() for file in row.files]
    if not all(here):
        return "part of it is here" if any(here) else "not here"
    record = read_record(row)
    if not record:
        return "here, never verified"
    if has_changed(row, record):
        return "here, CHANGED since it was recorded"
    verified = record.get("verified")
    return f"here, verified {verified['on']}" if verified else "here, not verified"


def as_text() -> str:
    """Return the table: a block of lines per row."""
    lines = [f"weights folder: {weights_folder()}   (another: --folder DIR, or OCEAN_WEIGHTS)"]
    for name, row in assets().items():
        lines += ["", f"{name:32} {_size(row):>9}  {state(row)}", f"    {row.purpose}", f"    licence  {row.licence}"]
        lines += [f"    from     {file.url}\n    to       {weights_folder() / file.name}" for file in row.files]
        seen = read_record(row).get("files", {})
        lines += [f"    sha256   {seen[file.name]['sha256']}" for file in row.files if file.name in seen]
        if converted_path(name).is_file():
            lines.append(f"    converted to {converted_path(name)}")
    return "\n".join(lines)


def _size(row: Published) -> str:
    """The published size, else that of the files that are here."""
    sizes = [file.n_bytes for file in row.files]
    if None in sizes:
        if not is_here(row):
            return "? MB"
        sizes = [main_file(row).stat().st_size]
    return f"{sum(sizes) / 1e6:.1f} MB"
