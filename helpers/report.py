"""summary.json and report.html of a run: one self-contained page that opens without a server or a network.

In: what the notebooks left in the run's folder (training.json, attention.json, analysis.json, manifests, figures).
"""

import base64
from pathlib import Path
from typing import Any

import jinja2

from helpers.config import NOTEBOOKS
from helpers.files import code_version, needs, read_json, replacing, write_json
from helpers.groups import in_words

STAGES = {
    "faces": "02_clip_preparation",
    "static": "03_static_extraction",
    "dynamic": "04_dynamic_extraction",
    "aligned": "05_alignment",
}
MAIN = "token_cross_attention"
NEEDED = ("01_data_analysis", "06_training", "07_attention_visualization")


def write_summary(out: str | Path) -> dict[str, Any]:
    """Gather `summary.json` from what 06 and 07 wrote.

    Returns:
        `targets`, `models` (per model: r2, ccc, pearson, mae per trait, mean_accuracy, seeds), `comparisons`
        (differences of mean R² with intervals, and what they say), `groups`, `ceiling` (of the ratings), `attention`,
        `split`, `live`, `provenance`, and `classification` (see `helpers.classification.score_models`) where 08 was
        run. Values of `models` and `attention` are means over seeds.
    """
    out = Path(out)
    training = read_json(needs(out / "training" / "training.json", "06_training"))
    attention = read_json(needs(out / "attention.json", "07_attention_visualization"))
    summary = {
        "targets": training["targets"],
        "models": training["models"],
        "comparisons": training["comparisons"],
        "groups": training["groups"],
        "ceiling": training["ceiling"],
        "split": training["split"],
        "live": training["live"],
        "attention": attention,
        "provenance": {
            "code_version": code_version(),
            "data": training["data"],
            "synthetic_labels": training["synthetic_labels"],
            "stages": {stage: manifest["identity"] for stage, manifest in _manifests(out).items()},
        },
    }
    classified = out / "classification" / "classification.json"
    if classified.exists():
        summary["classification"] = read_json(classified)["models"]
    write_json(out / "summary.json", summary)
    return summary


def write_report(out: str | Path) -> Path:
    """Write `summary.json` and `report.html`; return the page's path. FileNotFoundError names a missing notebook."""
    out = Path(out)
    summary = write_summary(out)
    analysis = read_json(needs(out / "analysis.json", "01_data_analysis"))
    manifests = _manifests(out)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = _number
    environment.filters["percent"] = lambda value: f"{value:.0%}"
    page = environment.get_template("report.html.j2").render(
        name=out.name,
        summary=summary,
        models=_ordered(summary["models"]),
        main=MAIN,
        targets=summary["targets"],
        analysis=analysis,
        verdicts=verdicts(summary),
        random_weights=[s for s, m in manifests.items() if m["identity"].get("weights", {}).get("name") == "random"],
        failed=_failures(manifests),
        figures=_figures(out / "figures"),
        notebooks=[n for n in NOTEBOOKS if (out / "notebooks" / f"{n}.ipynb").exists()],
    )
    path = out / "report.html"
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def verdicts(summary: dict[str, Any]) -> list[str]:
    """Sentences a reader can quote: the model against the constant, what is no better than it, the strongest rival."""
    models = summary["models"]
    with_constant = {c["a"]: c for c in summary["comparisons"] if c["b"] == "constant"}
    said = [with_constant[MAIN]["verdict"]]
    useless = [_spoken(name) for name, c in with_constant.items() if name != MAIN and not (c["low"] or 0) > 0]
    if useless:
        said.append(f"No better than a constant: {', '.join(useless)}.")
    rivals = [c for c in summary["comparisons"] if c["a"] == MAIN and c["b"] != "constant"]
    if rivals:
        said.append(max(rivals, key=lambda c: models[c["b"]]["r2"]["mean"] or 0.0)["verdict"])
    return said + in_words(summary["groups"])


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before a zero


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _ordered(models: dict[str, Any]) -> dict[str, Any]:
    """The constant first, then from the worst to the best."""
    return dict(sorted(models.items(), key=lambda item: (item[0] != "constant", item[1]["r2"]["mean"] or 0.0)))


def _manifests(out: Path) -> dict[str, dict[str, Any]]:
    paths = {stage: out / stage / "manifest.json" for stage in STAGES}
    return {stage: read_json(path) for stage, path in paths.items() if path.exists()}


def _failures(manifests: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Every clip that a stage could not use, once, with the first stage's reason."""
    seen: dict[str, dict[str, Any]] = {}
    for stage, manifest in manifests.items():
        for failure in manifest.get("failed", []):
            if "row" not in failure:
                seen.setdefault(failure["clip"], {"notebook": STAGES[stage], **failure})
    return list(seen.values())


def _figures(folder: Path) -> list[dict[str, str]]:
    """The saved figures in the notebooks' order, as data addresses."""
    return [
        {"name": path.stem, "data": "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()}
        for path in sorted(folder.glob("*.png"))
    ]
