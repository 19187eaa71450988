"""summary.json and report.html of a run: one self-contained page that opens without a server or a network.

In: what the notebooks left in the run's folder (training.json, attention.json, analysis.json, manifests, figures). Only
06 must have been run; the page says what else was not. Every section names the file that its numbers stand in.
"""

from pathlib import Path
from typing import Any

from helpers import page
from helpers import report_tables as tables
from helpers.captions import caption_of, place_of
from helpers.config import NOTEBOOKS
from helpers.files import code_version, needs, read_json, write_json
from helpers.statistics import in_words

MAIN = "token_cross_attention"
NEEDED = ("06_training",)
MOST_FINDINGS = 5
PICTURES = (".png", ".gif", ".jpg")
MOST_BYTES = 4 * 2**20  # of one picture: a larger one is named, not shown
FILES = {  # that the numbers of a report stand in
    "analysis.json": "clips, ratings and leakage (01)",
    "faces/manifest.json": "faces: parameters, counts, failures (02)",
    "static/manifest.json": "static features: weights, parameters, counts, failures (03)",
    "static/extraction_log.json": "speed of the last extraction (03)",
    "dynamic/manifest.json": "dynamic features: the same (04)",
    "dynamic/extraction_log.json": "speed of the last extraction (04)",
    "aligned/manifest.json": "what was joined and reduced (05)",
    "training/training.json": "models, intervals, comparisons (06)",
    "training/history.csv": "errors of every epoch (06)",
    "predictions.csv": "what every model said of every held-out clip (06)",
    "model/card.json": "the model that scores videos (06)",
    "attention.json": "what the attention is worth (07)",
    "classification/classification.json": "classes of clips (08)",
    "score.json": "a scored clip (09)",
    "score.html": "the same on a page (09)",
    "setup.json": "this machine (00)",
    "run.json": "seconds of each notebook",
    "summary.json": "results in short",
}


def write_summary(out: str | Path) -> dict[str, Any]:
    """Gather `summary.json` from what 06, 07 and 08 wrote.

    Returns:
        `targets`, `models` (per model: r2, ccc, pearson, mae per trait, mean_accuracy, seeds), `comparisons`
        (differences of mean R² with intervals, and what they say), `groups`, `ceiling` (of the ratings), `attention`
        (None where 07 was not run), `split`, `live`, `provenance`, and `classification` (see
        `helpers.classes.classification.score_models`) where 08 was run. Values of `models` and `attention` are means
        over seeds.
    """
    out = Path(out)
    training = read_json(needs(out / "training" / "training.json", "06_training"))
    manifests = tables.read_manifests(out)
    summary = {name: training[name] for name in ("targets", "models", "comparisons", "split")}
    summary |= {"groups": training.get("groups", {}), "ceiling": training.get("ceiling")}
    summary |= {
        "live": training.get("live", {}),
        "attention": tables.read_if_there(out / "attention.json"),
        "provenance": {
            "code_version": code_version(),
            "data": training["data"],
            "synthetic_labels": training["synthetic_labels"],
            "stages": {stage: manifest["identity"] for stage, manifest in manifests.items()},
        },
    }
    classified = tables.read_if_there(out / "classification" / "classification.json")
    if classified is not None:
        summary["classification"] = classified["models"]
    write_json(out / "summary.json", summary)
    return summary


def write_report(out: str | Path) -> Path:
    """Write `summary.json` and `report.html`; return the page's path. FileNotFoundError names a missing notebook."""
    out = Path(out)
    summary = write_summary(out)
    manifests = tables.read_manifests(out)
    analysis = tables.read_if_there(out / "analysis.json")
    training = read_json(out / "training" / "training.json")
    return page.write_page(
        out / "report.html",
        "report.html.j2",
        name=out.resolve().name,
        summary=summary,
        training=training,
        main=MAIN,
        targets=summary["targets"],
        models=tables.model_rows(summary, MAIN),
        findings=findings(summary),
        analysis=analysis,
        statistics=tables.by_target(analysis, "statistics"),
        agreement=tables.by_target(analysis, "reliability"),
        problems=tables.problem_rows(analysis or {}),
        setup=tables.read_if_there(out / "setup.json"),
        stages=tables.stage_rows(out, manifests),
        notebook_s={name: state["seconds"] for name, state in (tables.read_if_there(out / "run.json") or {}).items()},
        random_weights=[s for s, m in manifests.items() if m["identity"].get("weights", {}).get("name") == "random"],
        training_time=tables.training_time(out, MAIN, training.get("seeds", [])),
        evidence=tables.evidence_rows(summary["attention"]),
        relevance=tables.relevance_rows(summary["attention"]),
        classified=tables.read_if_there(out / "classification" / "classification.json"),
        scored=(out / "score.json").exists(),
        failed=tables.failed_clips(manifests),
        failed_rows=tables.failed_rows(manifests),
        shown=tables.SHOWN,
        provenance=tables.provenance_rows(manifests),
        figures=figures_of(out / "figures"),
        files={name: what for name, what in FILES.items() if (out / name).exists()},
        notebooks={n: (out / "notebooks" / f"{n}.ipynb").exists() for n in NOTEBOOKS},
    )


def verdicts(summary: dict[str, Any]) -> list[str]:
    """Sentences a reader can quote: the model against the constant, what is no better than it, the strongest rival,
    groups.
    """
    return _of_models(summary) + in_words(summary["groups"])


def _of_models(summary: dict[str, Any]) -> list[str]:
    models = summary["models"]
    with_constant = {c["a"]: c for c in summary["comparisons"] if c["b"] == "constant"}
    said = [with_constant[MAIN]["verdict"]]
    useless = [page.spoken(name) for name, c in with_constant.items() if name != MAIN and not (c["low"] or 0) > 0]
    if useless:
        said.append(f"No better than a constant: {', '.join(useless)}.")
    rivals = [c for c in summary["comparisons"] if c["a"] == MAIN and c["b"] != "constant"]
    if rivals:
        said.append(max(rivals, key=lambda c: models[c["b"]]["r2"]["mean"] or 0.0)["verdict"])
    return said


def findings(summary: dict[str, Any]) -> list[str]:
    """What was found in five sentences at most: `verdicts`, and what the attention is worth where that is known."""
    attention = summary["attention"] or {}
    said = _of_models(summary)
    if attention.get("occlusion_pointing") is not None:
        shares = [f"{attention[f'occlusion_{name}']:.0%}" for name in ("pointing", "pointing_shuffled", "chance")]
        said.append(
            "Its answer rests on the planted event in {} of the test clips (control {}, chance {}).".format(*shares)
        )
    return (said + in_words(summary["groups"]))[:MOST_FINDINGS]


def figures_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The saved figures by section, in the order of `helpers.captions`.

    Returns:
        Section to figures: `name`, `title`, `shows` (see `helpers.captions`), `picture` (`helpers.page.Picture`; None
        for one larger than `MOST_BYTES`).
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix in PICTURES)
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(paths, key=lambda path: place_of(path.stem)):
        section, title, shows = caption_of(path.stem)
        picture = page.embedded(path) if path.stat().st_size <= MOST_BYTES else None
        figure = {"name": path.name, "title": title, "shows": shows, "picture": picture}
        found.setdefault(section, []).append(figure)
    return found
