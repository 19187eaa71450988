"""summary.json of a run, and the sentences and tables of its report, notebook 10.

In: what the notebooks left in the run's folder (training.json, attention.json, analysis.json, manifests); what is not
there is said, and is empty or None. Out: `summary.json`; sentences; tables, one row per model, clip, reason or stage.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.clips import DISPLAY, TRAITS
from helpers.files import code_version, read_json, write_json
from helpers.pages import number, span
from helpers.statistics import in_words
from helpers.workbook import WRITES

MAIN = "token_cross_attention"
LEAKAGE = ["split", "against", "clips", "sharing", "share"]
SHOWN = 30  # failed clips, kinds of masked rows: the rest is counted
FILES = {
    "setup": "setup.json",
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
    training = read_if_there(out / "training" / "training.json") or {}
    summary = {name: training.get(name, []) for name in ("targets", "comparisons")}
    summary |= {
        "models": training.get("models", {}),
        "split": training.get("split", {}),
        "groups": training.get("groups", {}),
        "ceiling": training.get("ceiling"),
        "live": training.get("live", {}),
        "attention": read_if_there(out / "attention.json"),
        "provenance": {
            "code_version": code_version(),
            "data": training.get("data"),
            "synthetic_labels": training.get("synthetic_labels", False),
            "stages": {stage: manifest["identity"] for stage, manifest in read_manifests(out).items()},
        },
    }
    classified = read_if_there(out / "classification" / "classification.json")
    if classified is not None:
        summary["classification"] = classified["models"]
    write_json(out / "summary.json", summary)
    return summary


def warnings_of(summary: dict[str, Any]) -> list[str]:
    """What makes the scores of a whole run worthless or too high."""
    stages, said = summary["provenance"]["stages"], []
    random = [s for s, identity in stages.items() if identity.get("weights", {}).get("name") == "random"]
    if random:
        said.append(
            f"The networks of {' and '.join(random)} had random weights. This run shows that the workbook works; its "
            "scores say nothing about people."
        )
    if summary["provenance"]["synthetic_labels"]:
        said.append("The ratings of this run were invented by request: no score of it means anything.")
    return said + [text for text in [summary["split"].get("warning")] if text]


def left_out(out: Path) -> dict[str, str]:
    """Why the files of a notebook are not in a run's folder, by its name: "was not run", or how it ended."""
    found = {}
    for name in (name for name, paths in WRITES.items() if not all((out / path).exists() for path in paths)):
        copy = read_if_there(out / "notebooks" / f"{name}.ipynb") or {"cells": []}
        outputs = [output for cell in copy["cells"] for output in cell.get("outputs", [])]
        failed = [" ".join(o["evalue"].split()) for o in outputs if o["output_type"] == "error"]
        found[name] = f"failed: {failed[0]}" if failed else "has not left all its files" if outputs else "was not run"
    return found


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
    return said + in_words(summary["groups"])


def pointing_in_words(attention: dict[str, Any] | None) -> list[str]:
    """What the answer rests on, beside what it would be by chance and without a model; [] without planted events."""
    if not attention or attention.get("occlusion_pointing") is None:
        return []
    others = {"occlusion_pointing_shuffled": "control", "motion_pointing": "most unusual motion"}
    others |= {"occlusion_chance": "chance"}
    beside = [f"{what} {attention[name]:.0%}" for name, what in others.items() if attention.get(name) is not None]
    interval = span(attention.get("occlusion_pointing_interval"))
    return [
        f"In {attention['occlusion_pointing']:.0%} {interval} of the test clips the motion whose loss moves the score "
        f"most lies in a planted event ({', '.join(beside)})."
    ]


def score_in_words(scored: list[dict[str, Any]]) -> list[str]:
    """What is to be known of the first scored clip before its numbers are."""
    first = next((score for score in scored if "failed" not in score), None)
    if first is None:
        return [f"{score['video']} could not be scored: {score['failed']}" for score in scored]
    unlike = any(of["unlike"] for of in first.get("familiarity", {}).values())
    said = f"In {first['video']} the face is seen in {first['face_coverage']:.0%} of the frames that were looked at"
    return [*(["This clip cannot be scored reliably"] if unlike else []), said, *first["warnings"]]


def best_models(summary: dict[str, Any]) -> list[str]:
    """The constant, ridge, the best of the others, and the attention model: those that there are."""
    others = [name for name in summary["models"] if name not in ("constant", "ridge", MAIN)]
    best = max(others, key=lambda name: summary["models"][name]["r2"]["mean"] or 0.0, default="")
    return [name for name in ("constant", "ridge", best, MAIN) if name in summary["models"]]


def spoken(name: str) -> str:
    """A name of files and code as words."""
    return name.replace("_", " ")


def model_table(summary: dict[str, Any]) -> pd.DataFrame:
    """Test R² of every model by target, the constant first, then from the worst to the best; further scores."""
    over = {c["a"]: (c["low"], c["high"]) for c in summary["comparisons"] if c["b"] == "constant"}
    names = sorted(summary["models"], key=lambda n: (n != "constant", summary["models"][n]["r2"]["mean"] or 0.0))
    rows = {spoken(name): summary["models"][name] | {"over": over.get(name)} for name in names}
    live = summary["live"]
    if live.get("clips"):
        known = {"constant": live.get("constant"), spoken(MAIN): live}
        rows |= {f"{name} on the {live['clips']} rated clips of this run": row for name, row in known.items() if row}
    if summary["ceiling"]:
        rows["a perfect model, as far as the raters agree"] = {"r2": summary["ceiling"]["r2"]}
    return _table({name: _scores(row, summary["targets"]) for name, row in rows.items()}, "model, test R²")


def _scores(row: dict[str, Any], targets: list[str]) -> dict[str, Any]:
    r2 = {target: row["r2"].get(target) for target in [*targets, "mean"]}
    means = {head: row.get(name, {}).get("mean") for head, name in (("CCC", "ccc"), ("Pearson", "pearson"))}
    return r2 | {"mean over the constant's": row.get("over"), "1 − MAE": row.get("mean_accuracy")} | means


def target_table(analysis: dict[str, Any], name: str) -> pd.DataFrame:
    """An entry of `analysis.json` by target, the traits first and in order; empty where there is none."""
    found = analysis.get(name) or {}
    order = [t for t in TRAITS if t in found] + [t for t in found if t not in TRAITS]
    return _table({t: {spoken(key): value for key, value in found[t].items()} for t in order}, "target")


def pairs_table(pairs: Iterable[tuple[str, Any]], name: str) -> pd.DataFrame:
    """Names and values below the heading `name`."""
    return _table({key: {"": value} for key, value in pairs}, name)


def leakage_table(analysis: dict[str, Any]) -> pd.DataFrame:
    """How many clips of each official split share a source with another."""
    return pd.DataFrame(analysis.get("leakage") or [], columns=LEAKAGE).set_index("split")


def group_table(groups: dict[str, Any]) -> pd.DataFrame:
    """Errors of each group of clips, and how far they are from everyone else's."""
    heads = {"mae": "mean absolute error", "mae_over_others": "over the others'", "bias": "mean signed error"}
    heads |= {"bias_over_others": "over the others' bias"}
    rows = {
        group: {name: of.get(name) for name in ("clips", "sources")}
        | {head: f"{number(of[m]['value'], 3)} {span((of[m]['low'], of[m]['high']), 3)}" for m, head in heads.items()}
        for group, of in sorted(groups.items())
    }
    return _table(rows, "group")


def problem_table(analysis: dict[str, Any]) -> pd.DataFrame:
    """What does not fit between clips and ratings, by kind: how many, and the first."""
    table = pd.DataFrame(analysis.get("problems", []), columns=["problem", "name"])
    return table.groupby("problem", sort=False)["name"].agg(**{"how many": "size", "for example": "first"})


def failed_clips(manifests: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Every clip that a stage could not use, once, with the first stage's `notebook` and `reason`; index clip."""
    table = _failures(manifests)
    return table[table["row"].isna()].drop_duplicates("clip").set_index("clip")[["notebook", "reason"]]


def masked_rows(manifests: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Rows that were masked by stage and kind of reason (… for its numbers), the most frequent first."""
    table = _failures(manifests).dropna(subset="row")
    kinds = table.assign(reason=table["reason"].str.replace(r"\d+(\.\d+)?", "…", regex=True))
    counts = {"rows": "size", "clips": "nunique", "for example": "first"}
    counted = kinds.groupby(["notebook", "reason"], sort=False)["clip"].agg(**counts)
    return counted.sort_values("rows", ascending=False, kind="stable").reset_index("reason")


def _failures(manifests: dict[str, dict[str, Any]]) -> pd.DataFrame:
    failed = [entry | {"notebook": STAGES[stage]} for stage, of in manifests.items() for entry in of.get("failed", [])]
    return pd.DataFrame(failed, columns=["notebook", "clip", "reason", "row"]).astype({"reason": "str"})


def class_table(classified: dict[str, Any]) -> pd.DataFrame:
    """Accuracy of every classifier of 08, from the worst to the best."""
    heads = {"accuracy": "accuracy", "interval": "95 %", "minus_majority": "over the largest class"}
    heads |= {"accuracy_corrupted": "on damaged clips"}
    ranked = sorted(classified["models"].items(), key=lambda item: item[1]["accuracy"])
    return _table({spoken(name): {head: row.get(key) for key, head in heads.items()} for name, row in ranked}, "model")


def stage_table(manifests: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Clips, time and rows of 02 to 04."""
    rows = {}
    for stage in (stage for stage in ("faces", "static", "dynamic") if stage in manifests):
        counts, seconds = manifests[stage]["counts"], manifests[stage].get("seconds")
        clips = counts.get("made", 0) + counts.get("found", 0)
        pace = clips / seconds if seconds else None
        rows[STAGES[stage]] = {"clips": clips, "seconds": seconds, "clips/s": pace, "rows": counts.get("rows")}
    return _table(rows, "stage")


def provenance_table(manifests: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Weights, licence and code of every stage, and whether it was finished."""
    rows = {}
    for stage, manifest in manifests.items():
        weights = manifest["identity"].get("weights", {})
        rows[STAGES[stage]] = {
            "weights": ": ".join(weights[key] for key in ("name", "source") if weights.get(key)),
            "sha256": weights.get("sha256", "")[:12],
            "licence": weights.get("licence"),
            "code": manifest.get("code_version"),
            "finished": "yes" if manifest.get("finished", True) else "no",
        }
    return _table(rows, "stage")


def _table(rows: dict[str, dict[str, Any]], name: str) -> pd.DataFrame:
    """Rows by their names, the traits as they are displayed, below the heading `name`."""
    shown = {DISPLAY.get(key, key): row for key, row in rows.items()}
    return pd.DataFrame.from_dict(shown, orient="index", dtype=object).rename_axis(name)
