"""summary.json of a run, the sentences and tables of its report, notebook 10, and the page that a notebook becomes.

What the run has not left is empty or None. The plain text of sentences and tables holds no number, so that committed
notebooks compare equal on any machine; a page needs no other file, script or request.
"""

import html
import io
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from IPython.display import HTML, Image, display
from nbconvert import HTMLExporter
from PIL import Image as Picture
from traitlets.config import Config

from helpers.files import code_version, read_json, replacing, write_json
from helpers.statistics import NONE, model_warnings, number
from helpers.store import STREAMS, kind_of

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
STAGES = {"faces": "02_clip_preparation", **STREAMS, "aligned": "05_alignment"}


def read_if_there(path: Path) -> Any:
    """The content of a JSON file, None where there is none."""
    return read_json(path) if path.exists() else None


def read_manifests(out: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the stages that were made."""
    found = {stage: read_if_there(out / stage / "manifest.json") for stage in STAGES}
    return {stage: manifest for stage, manifest in found.items() if manifest is not None}


def write_summary(out: str | Path) -> dict[str, Any]:
    """Gather `summary.json` from what 06, 07 and 08 wrote, as far as they were run.

    `targets`, `models` (per model: r2, ccc, pearson, mae per trait, mean_accuracy, seeds), `comparisons` (differences
    of mean R² with intervals, and what they say), `groups`, `ceiling` (of the ratings), `attention` (None where 07 was
    not run), `split`, `live`, `provenance`, `warnings` (what makes all scores worthless or too high), and
    `classification` where 08 was run. Values of `models` and `attention` are means over seeds.
    """
    out = Path(out)
    found = {name: read_if_there(out / path) for name, path in FILES.items()}
    training = found["training"] or {}
    summary = {name: training.get(name, []) for name in ("targets", "comparisons")}
    summary |= {name: training.get(name, {}) for name in ("models", "split", "groups", "live")}
    summary |= {"ceiling": training.get("ceiling"), "attention": found["attention"]}
    summary["provenance"] = about = {
        "code_version": code_version(),
        "data": training.get("data"),
        "synthetic": (found["analysis"] or {}).get("synthetic", False),
        "synthetic_labels": training.get("synthetic_labels", False),
        "stages": {stage: manifest["identity"] for stage, manifest in read_manifests(out).items()},
    }
    weights = [identity.get("weights", {}).get("name") for identity in about["stages"].values()]
    data = {"synthetic": about["synthetic"], "invented": about["synthetic_labels"]}
    summary["warnings"] = model_warnings(weights, **data, split=summary["split"].get("warning"))
    if found["classification"]:
        summary["classification"] = found["classification"]["models"]
    write_json(out / "summary.json", summary)
    return summary


def verdicts(summary: dict[str, Any]) -> list[str]:
    """Sentences a reader can quote: the model against the constant and against its strongest rival, as far as they were
    trained.
    """
    ours = [c for c in summary["comparisons"] if c["a"] == MAIN]
    ours.sort(key=lambda c: (c["b"] != "constant", c["difference"] or 0.0))
    return [c["verdict"] for c in ours[:2]]


def pointing_in_words(attention: dict[str, Any] | None) -> list[str]:
    """What the answer rests on, beside what it would be by chance and without a model; [] without planted events."""
    if not attention or attention.get("occlusion_pointing") is None:
        return []
    others = {"occlusion_pointing_shuffled": "control", "motion_pointing": "most unusual motion"}
    others |= {"occlusion_chance": "chance"}
    beside = [f"{what} {attention[name]:.0%}" for name, what in others.items() if attention.get(name) is not None]
    low, high = map(number, attention.get("occlusion_pointing_interval") or (None, None))
    return [
        f"In {attention['occlusion_pointing']:.0%} [{low}, {high}] of the test clips the motion whose loss moves the "
        f"score most lies in a planted event ({', '.join(beside)})."
    ]


def as_table(found: dict[str, Any]) -> pd.DataFrame:
    """Lay out `training.json`, or the same parts of `summary.json`, as one row per model.

    Index `model`: the constant, the others from the worst to the best, then the run's own clips and the raters' ceiling
    where they are known. R² per target and their `mean`; `1-MAE`, `Pearson`, `CCC`, `skill`; `over_constant`,
    `over_constant_low`, `over_constant_high`: mean R² minus the constant's, with the ends of its interval;
    `under_token` and so on: the token model's minus the row's.
    """
    models, live = dict(found["models"]), found["live"]
    models = {n: models[n] for n in sorted(models, key=lambda n: (n != "constant", models[n]["r2"]["mean"] or 0.0))}
    if live:
        own = f"{live['clips']} clips of this run"
        models |= {f"constant, {own}": live["constant"], f"{MAIN}, {own}": live}
    rows = {
        name: m["r2"]
        | {"1-MAE": m["mean_accuracy"], "Pearson": m["pearson"]["mean"]}
        | {"CCC": m["ccc"]["mean"], "skill": m["skill"]["mean"]}
        for name, m in models.items()
    }
    for c in found["comparisons"]:
        row, column = (c["a"], "over_constant") if c["b"] == "constant" else (c["b"], "under_token")
        rows[row] |= {column: c["difference"], f"{column}_low": c["low"], f"{column}_high": c["high"]}
    if found["ceiling"]:
        rows["a perfect model, as far as the raters agree"] = found["ceiling"]["r2"]
    ends = [f"{side}{end}" for side in ("over_constant", "under_token") for end in ("", "_low", "_high")]
    columns = [*found["targets"], "mean", "1-MAE", "Pearson", "CCC", "skill", *ends]
    return pd.DataFrame.from_dict(rows, "index", dtype=float).rename_axis("model").reindex(columns=columns)


def failures(manifests: dict[str, dict[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Clips that a stage could not use, once, with the first such stage; and masked rows by stage and kind of reason,
    the most frequent first.
    """
    failed = [entry | {"notebook": STAGES[stage]} for stage, of in manifests.items() for entry in of.get("failed", [])]
    found = pd.DataFrame(failed, columns=["clip", "notebook", "reason", "row"]).astype({"reason": "str"})
    clips, rows = found[found["row"].isna()], found.dropna(subset="row")
    by_kind = rows.assign(reason=rows["reason"].map(kind_of)).groupby(["notebook", "reason"], sort=False)["clip"]
    counted = by_kind.agg(**{"rows": "size", "clips": "nunique", "for example": "first"}).reset_index("reason")
    clips = clips.drop_duplicates("clip").set_index("clip")[["notebook", "reason"]]
    return clips, counted.sort_values("rows", ascending=False, kind="stable")


def stage_table(manifests: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Clips, rows and seconds of each stage, its weights and code, and whether it was finished, index its notebook."""
    columns = ["counts.made", "counts.found", "counts.failed", "counts.rows", "seconds", "code_version", "finished"]
    columns += [f"identity.weights.{what}" for what in ("name", "source", "sha256", "licence")]
    table = pd.json_normalize(list(manifests.values())).reindex(columns=columns)
    table.index = [STAGES[stage] for stage in manifests]
    return table.rename(columns=lambda column: column.rpartition(".")[2])


def say(*sentences: str, kind: str = "") -> None:
    """Display sentences as paragraphs, each with a capital and a full stop; `kind` is "warn", "note" or ""."""
    if sentences:
        ended = [s[:1].upper() + s[1:] + ("" if s.endswith((".", "!", "?", "…", ":")) else ".") for s in sentences]
        display(HTML("".join(f'<p class="{kind}">{html.escape(text)}</p>' for text in ended)))


def show(rows: pd.DataFrame, *, caption: str = "") -> None:
    """Display a table in a box that it can be scrolled in; nothing if it is empty."""
    if len(rows):
        with pd.option_context("display.max_colwidth", None):
            known = rows.convert_dtypes().astype(object).rename_axis(None)
            table = known.where(known.notna(), NONE).to_html(border=0, float_format="{:.3f}".format)
        title = f"<p><b>{html.escape(caption)}</b></p>" if caption else ""
        display(HTML(f'{title}<div class="scroll" style="overflow-x:auto">{table}</div>'))


def show_figures(out: Path, *names: str) -> None:
    """Display saved figures `<out>/figures/<name>.png`, no wider than `WIDEST_PX`; name those that are not there."""
    paths = {name: out / "figures" / f"{name}.png" for name in names}
    for name, path in paths.items():
        if path.exists():
            display(Image(small_picture(path), format="png", alt=f"figure {name}"))
    if missing := [name for name, path in paths.items() if not path.exists()]:
        say(f"not saved by this run: {', '.join(missing)}", kind="note")


def small_picture(path: Path) -> bytes:
    """A picture file as PNG of `COLORS` colours, scaled down to `WIDEST_PX`; OSError, naming it, where it is none."""
    with Picture.open(path) as image:
        image = image.convert("RGB")
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
