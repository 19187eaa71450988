"""summary.json of a run, the sentences and tables of its report, notebook 10, and the page that a notebook becomes.

In: what the notebooks left in the run's folder; what is not there is said, and is empty or None. Out: `summary.json`;
sentences and tables, displayed so that their plain text holds no number and committed notebooks compare equal on any
machine; an HTML file that needs no other file, without script or request.
"""

import html
import io
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from IPython.display import Image, display
from nbconvert import HTMLExporter
from PIL import Image as Picture
from traitlets.config import Config

from helpers.clips import DISPLAY
from helpers.files import code_version, read_json, replacing, write_json
from helpers.statistics import NONE, model_warnings, number

MAIN = "token_cross_attention"
SHOWN = 30  # failed clips, kinds of masked rows: the rest is counted
TEMPLATE = Path(__file__).with_name("page.html.j2")
OFF_PAGE = "not-on-page"  # tag of cells that are for readers of the notebook
WIDEST_PX, COLORS = 800, 128  # of a figure in a report
FILES = {
    "training": "training/training.json",
    "analysis": "analysis.json",
    "attention": "attention.json",
    "classification": "classification/classification.json",
    "score": "score.json",
    "run": "run.json",
}
STAGES = {
    "faces": "02_clip_preparation",
    "static": "03_static_extraction",
    "dynamic": "04_dynamic_extraction",
    "aligned": "05_alignment",
}


def read_if_there(path: Path) -> Any:
    """The content of a JSON file, None where there is none."""
    return read_json(path) if path.exists() else None


def read_manifests(out: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the stages that were made."""
    found = {stage: read_if_there(out / stage / "manifest.json") for stage in STAGES}
    return {stage: manifest for stage, manifest in found.items() if manifest is not None}


def write_summary(out: str | Path) -> dict[str, Any]:
    """Gather `summary.json` from what 06, 07 and 08 wrote, as far as they were run.

    Returns:
        `targets`, `models` (per model: r2, ccc, pearson, mae per trait, mean_accuracy, seeds), `comparisons`
        (differences of mean R² with intervals, and what they say), `groups`, `ceiling` (of the ratings), `attention`
        (None where 07 was not run), `split`, `live`, `provenance`, and `classification` (see
        `helpers.classification.score_models`) where 08 was run. Values of `models` and `attention` are means
        over seeds.
    """
    out = Path(out)
    found = {name: read_if_there(out / path) for name, path in FILES.items()}
    training = found["training"] or {}
    summary = {name: training.get(name, []) for name in ("targets", "comparisons")}
    summary |= {name: training.get(name, {}) for name in ("models", "split", "groups", "live")}
    summary |= {"ceiling": training.get("ceiling"), "attention": found["attention"]}
    summary["provenance"] = {
        "code_version": code_version(),
        "data": training.get("data"),
        "synthetic_labels": training.get("synthetic_labels", False),
        "stages": {stage: manifest["identity"] for stage, manifest in read_manifests(out).items()},
    }
    if found["classification"]:
        summary["classification"] = found["classification"]["models"]
    write_json(out / "summary.json", summary)
    return summary


def left_out(out: Path, writes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Why the files that a notebook writes are not all in a run's folder, by its name: not run, or how it ended."""
    found = {}
    for name in (name for name, paths in writes.items() if not all((out / path).exists() for path in paths)):
        copy = read_if_there(out / "notebooks" / f"{name}.ipynb") or {"cells": []}
        outputs = [output for cell in copy["cells"] for output in cell.get("outputs", [])]
        failed = [" ".join(o["evalue"].split()) for o in outputs if o["output_type"] == "error"]
        found[name] = f"failed: {failed[0]}" if failed else "has not left all its files" if outputs else "was not run"
    return found


def warnings_of(summary: dict[str, Any]) -> list[str]:
    """What makes the scores of a whole run worthless or too high."""
    weights = [identity.get("weights", {}).get("name") for identity in summary["provenance"]["stages"].values()]
    invented, split = summary["provenance"]["synthetic_labels"], summary["split"].get("warning")
    return model_warnings(weights, invented=invented, split=split)


def verdicts(summary: dict[str, Any]) -> list[str]:
    """Sentences a reader can quote: the model against the constant, what is no better than it, the strongest rival,
    groups; [] where nothing was trained.
    """
    models = summary["models"]
    if not models:
        return []
    with_constant = {c["a"]: c for c in summary["comparisons"] if c["b"] == "constant"}
    said = [with_constant[MAIN]["verdict"]]
    useless = [
        spoken(name) for name, c in with_constant.items() if name != MAIN and c["low"] is not None and c["low"] <= 0
    ]
    if useless:
        said.append(f"No better than a constant: {', '.join(useless)}.")
    rivals = [c for c in summary["comparisons"] if c["a"] == MAIN and c["b"] != "constant"]
    if rivals:
        said.append(max(rivals, key=lambda c: models[c["b"]]["r2"]["mean"] or 0.0)["verdict"])
    return said


def pointing_in_words(attention: dict[str, Any] | None) -> list[str]:
    """What the answer rests on, beside what it would be by chance and without a model; [] without planted events."""
    if not attention or attention.get("occlusion_pointing") is None:
        return []
    others = {"occlusion_pointing_shuffled": "control", "motion_pointing": "most unusual motion"}
    others |= {"occlusion_chance": "chance"}
    beside = [f"{what} {attention[name]:.0%}" for name, what in others.items() if attention.get(name) is not None]
    return [
        f"In {attention['occlusion_pointing']:.0%} {cell(attention.get('occlusion_pointing_interval'))} of the test "
        f"clips the motion whose loss moves the score most lies in a planted event ({', '.join(beside)})."
    ]


def score_in_words(scored: list[dict[str, Any]]) -> list[str]:
    """What is to be known of the first scored clip before its numbers are."""
    first = next((score for score in scored if "failed" not in score), None)
    if first is None:
        return [f"{score['video']} could not be scored: {score['failed']}" for score in scored]
    unlike = any(of["unlike"] for of in first.get("familiarity", {}).values())
    said = f"In {first['video']} the face is seen in {first['face_coverage']:.0%} of the frames that were looked at"
    return [*(["This clip cannot be scored reliably"] if unlike else []), said, *first["warnings"]]


def model_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Test R² of every model by target, the constant first, then from the worst to the best; further scores."""
    over = {c["a"]: (c["low"], c["high"]) for c in summary["comparisons"] if c["b"] == "constant"}
    names = sorted(summary["models"], key=lambda n: (n != "constant", summary["models"][n]["r2"]["mean"] or 0.0))
    rows = {name: summary["models"][name] | {"over": over.get(name)} for name in names}
    live = summary["live"]
    if live.get("clips"):
        known = {"constant": live.get("constant"), MAIN: live}
        rows |= {f"{name} on the {live['clips']} rated clips of this run": row for name, row in known.items() if row}
    if summary["ceiling"]:
        rows["a perfect model, as far as the raters agree"] = {"r2": summary["ceiling"]["r2"]}
    columns = {f"r2.{target}": target for target in [*summary["targets"], "mean"]}
    columns |= {"over": "mean over the constant's", "mean_accuracy": "1 − MAE"}
    columns |= {"ccc.mean": "CCC", "pearson.mean": "Pearson"}
    flat = pd.json_normalize(list(rows.values())).reindex(columns=list(columns)).rename(columns=columns)
    return flat.set_axis(map(spoken, rows)).rename_axis("model, test R²")


def failures(manifests: dict[str, dict[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Clips that a stage could not use, once, with the first such stage; and masked rows, the most frequent first, by
    stage and kind of reason (… for its numbers).
    """
    failed = [entry | {"notebook": STAGES[stage]} for stage, of in manifests.items() for entry in of.get("failed", [])]
    found = pd.DataFrame(failed, columns=["clip", "notebook", "reason", "row"]).astype({"reason": "str"})
    clips, rows = found[found["row"].isna()], found.dropna(subset="row")
    kinds = rows.assign(reason=rows["reason"].str.replace(r"\d+(\.\d+)?", "…", regex=True))
    counts = {"rows": "size", "clips": "nunique", "for example": "first"}
    counted = kinds.groupby(["notebook", "reason"], sort=False)["clip"].agg(**counts).reset_index("reason")
    clips = clips.drop_duplicates("clip").set_index("clip")[["notebook", "reason"]]
    return clips, counted.sort_values("rows", ascending=False, kind="stable")


def stage_table(manifests: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Clips, time and rows of each stage, its weights, licence and code, and whether it was finished."""
    rows = {}
    for stage, manifest in manifests.items():
        counts, seconds = manifest.get("counts", {}), manifest.get("seconds")
        weights, clips = manifest["identity"].get("weights", {}), counts.get("made", 0) + counts.get("found", 0)
        rows[STAGES[stage]] = {
            "clips": clips or None,
            "seconds": seconds,
            "clips/s": clips / seconds if seconds else None,
            "rows": counts.get("rows"),
            "weights": ": ".join(weights[key] for key in ("name", "source") if weights.get(key)),
            "sha256": weights.get("sha256", "")[:12],
            "licence": weights.get("licence"),
            "code": manifest.get("code_version"),
            "finished": "yes" if manifest.get("finished", True) else "no",
        }
    return table(rows, "stage")


def table(rows: dict[str, dict[str, Any]], name: str) -> pd.DataFrame:
    """Rows by their names, as they are spoken and traits are displayed, below the heading `name`."""
    shown = {DISPLAY.get(key, spoken(key)): row for key, row in rows.items()}
    return pd.DataFrame.from_dict(shown, orient="index", dtype=object).rename_axis(name)


def spoken(name: str) -> str:
    """A name of files and code as words."""
    return name if name[:1].isdigit() else name.replace("_", " ")  # notebooks keep theirs


def cell(value: Any) -> str:
    """A value as a table shows it: intervals in brackets, counts without decimals, others with one, below 10 three."""
    if value is None or isinstance(value, str):
        return value or NONE
    if isinstance(value, list | tuple):
        return NONE if value[0] is None else "[" + ",\N{NO-BREAK SPACE}".join(map(number, value)) + "]"
    count = isinstance(value, Integral) or (value > 1 and float(value).is_integer())
    return number(value, 0 if count else 3 if abs(value) < 10 else 1)


def say(*sentences: str, kind: str = "") -> None:
    """Display sentences as paragraphs, each with a capital and a full stop; `kind` is "warn", "note" or ""."""
    if sentences:
        ended = [s[:1].upper() + s[1:] + ("" if s.endswith((".", "!", "?", "…", ":")) else ".") for s in sentences]
        paragraphs = "".join(f'<p class="{kind}">{html.escape(text)}</p>' for text in ended)
        _show_html(paragraphs, f"{len(sentences)} sentences")


def show(rows: pd.DataFrame, *, caption: str = "") -> None:
    """Display a table, index first, in a box that it can be scrolled in, under it what – is; nothing if it is empty."""
    if rows.empty:
        return
    named = rows.map(cell).rename_axis(index=None, columns=rows.index.name)
    absent = f"{NONE}: not known, or not defined for so few or so equal values."
    note = f'<p class="note">{absent}</p>' if (named == NONE).any(axis=None) else ""
    title = f"<p><b>{html.escape(caption)}</b></p>" if caption else ""
    box = f'<div class="scroll" style="overflow-x:auto">{named.to_html(border=0, na_rep=NONE)}</div>'
    _show_html(title + box + note, f"table of {', '.join(map(str, rows.columns))}")


def fold(title: str, lines: Iterable[str]) -> None:
    """Display lines that only their title is seen of until it is clicked."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    _show_html(f"<details><summary>{html.escape(title)}</summary><ul>{items}</ul></details>", title)


def _show_html(content: str, plain: str) -> None:
    """Display HTML; `plain` is what a reader without HTML gets, and what is compared."""
    display({"text/html": content, "text/plain": plain}, raw=True)


def show_figures(out: Path, *names: str) -> None:
    """Display saved figures `<out>/figures/<name>.png`, no wider than `WIDEST_PX`; name those that are not there."""
    paths = {name: out / "figures" / f"{name}.png" for name in names}
    for name, path in paths.items():
        if path.exists():
            display(Image(small_picture(path), format="png", alt=f"figure {name}"))
    if missing := [name for name, path in paths.items() if not path.exists()]:
        say(f"not saved by this run: {', '.join(missing)}", kind="note")


def small_picture(path: Path) -> bytes:
    """A picture file as PNG of `COLORS` colours, scaled down to `WIDEST_PX`; ValueError where it is no picture."""
    try:
        with Picture.open(path) as image:
            image = image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} is not a picture ({error}). Delete it, and run its notebook again.") from None
    image.thumbnail((WIDEST_PX, 10 * WIDEST_PX), Picture.Resampling.LANCZOS)
    content = io.BytesIO()
    image.quantize(COLORS, Picture.Quantize.MAXCOVERAGE, kmeans=1).save(content, "PNG", optimize=True)
    return content.getvalue()


def export(notebook: Path, page: Path, title: str) -> Path:
    """Write an executed notebook as one page without its code; cells tagged `OFF_PAGE` are left out."""
    tags = Config(TagRemovePreprocessor={"enabled": True, "remove_cell_tags": [OFF_PAGE]})
    exporter = HTMLExporter(exclude_anchor_links=True, exclude_input=True, template_file=str(TEMPLATE), config=tags)
    content = nbformat.read(notebook, as_version=4)
    body, _ = exporter.from_notebook_node(content, resources={"metadata": {"name": title}})
    with replacing(page) as part:
        part.write_text(body, encoding="utf-8")
    return page
