"""summary.json of a run, and the sentences and tables of its report, notebook 10.

In: what the notebooks left in the run's folder (training.json, attention.json, analysis.json, manifests). Only 06 must
have been run. Out: `summary.json`; sentences; tables of texts, one row per model, clip, reason or stage.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.clips import DISPLAY, TRAITS
from helpers.files import code_version, needs, read_json, write_json
from helpers.pages import NONE, number, span
from helpers.statistics import in_words

MAIN = "token_cross_attention"
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
POINTING = {
    "occlusion_pointing": "the model: its largest single effect",
    "occlusion_pointing_shuffled": "the control, trained on shuffled motion",
    "motion_pointing": "no model: the most unusual motion",
    "occlusion_chance": "chance: any token",
}


def read_if_there(path: Path) -> Any:
    """The content of a JSON file, None where there is none."""
    return read_json(path) if path.exists() else None


def read_manifests(out: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the stages that were made."""
    found = {stage: read_if_there(out / stage / "manifest.json") for stage in STAGES}
    return {stage: manifest for stage, manifest in found.items() if manifest is not None}


def write_summary(out: str | Path) -> dict[str, Any]:
    """Gather `summary.json` from what 06, 07 and 08 wrote.

    Returns:
        `targets`, `models` (per model: r2, ccc, pearson, mae per trait, mean_accuracy, seeds), `comparisons`
        (differences of mean R² with intervals, and what they say), `groups`, `ceiling` (of the ratings), `attention`
        (None where 07 was not run), `split`, `live`, `provenance`, and `classification` (see
        `helpers.classification.score_models`) where 08 was run. Values of `models` and `attention` are means
        over seeds.
    """
    out = Path(out)
    training = read_json(needs(out / "training" / "training.json", "06_training"))
    summary = {name: training[name] for name in ("targets", "models", "comparisons", "split")}
    summary |= {
        "groups": training.get("groups", {}),
        "ceiling": training.get("ceiling"),
        "live": training.get("live", {}),
        "attention": read_if_there(out / "attention.json"),
        "provenance": {
            "code_version": code_version(),
            "data": training["data"],
            "synthetic_labels": training["synthetic_labels"],
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


def verdicts(summary: dict[str, Any]) -> list[str]:
    """Sentences a reader can quote: the model against the constant, what is no better than it, the strongest rival,
    groups.
    """
    models = summary["models"]
    with_constant = {c["a"]: c for c in summary["comparisons"] if c["b"] == "constant"}
    said = [with_constant[MAIN]["verdict"]]
    useless = [spoken(name) for name, c in with_constant.items() if name != MAIN and not (c["low"] or 0) > 0]
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
    share = {name: f"{attention[name]:.0%}" for name in POINTING if attention.get(name) is not None}
    free = f", most unusual motion {share['motion_pointing']}" if "motion_pointing" in share else ""
    return [
        f"In {share['occlusion_pointing']} of the test clips the motion whose loss moves the score most lies in a "
        f"planted event (control {share['occlusion_pointing_shuffled']}{free}, chance {share['occlusion_chance']})."
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
    over = {c["a"]: c for c in summary["comparisons"] if c["b"] == "constant"}
    names = sorted(summary["models"], key=lambda n: (n != "constant", summary["models"][n]["r2"]["mean"] or 0.0))
    rows = {spoken(name): _model_row(summary["models"][name], summary["targets"], over.get(name)) for name in names}
    live = summary["live"]
    if live.get("clips"):
        known = {"constant": live.get("constant"), spoken(MAIN): live}
        for name, row in ((name, row) for name, row in known.items() if row):
            rows[f"{name} on the {live['clips']} rated clips of this run"] = _model_row(row, summary["targets"])
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model, test R²")
    if summary["ceiling"]:
        r2 = {target: number(summary["ceiling"]["r2"].get(target)) for target in summary["targets"]}
        table.loc["a perfect model, as far as the raters agree"] = pd.Series(r2)
    return table


def _model_row(row: dict[str, Any], targets: list[str], over: dict[str, Any] | None = None) -> dict[str, str]:
    cells = {target: number(row["r2"].get(target)) for target in [*targets, "mean"]}
    cells["mean over the constant's"] = span((over["low"], over["high"])) if over else NONE
    further = {"1 − MAE": number(row["mean_accuracy"], 3), "CCC": number(row["ccc"]["mean"])}
    return cells | further | {"Pearson": number(row["pearson"]["mean"])}


def evidence_table(attention: dict[str, Any]) -> pd.DataFrame:
    """Share of the test clips whose largest effect lies in a planted event, beside its control and chance."""
    rows = {
        what: {"share": f"{attention[name]:.0%}", "95 %": span(attention.get(f"{name}_interval"))}
        for name, what in POINTING.items()
        if attention.get(name) is not None
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("in a planted event")


def relevance_table(attention: dict[str, Any]) -> pd.DataFrame:
    """Share of each trait's relevance inside planted events, of model and control, beside the tokens' share."""
    rows = {
        DISPLAY.get(trait, trait): {
            "relevance inside": number(of["inside"]),
            "95 %": span(of.get("interval")),
            "control": number(of.get("inside_shuffled")),
            "tokens inside": number(of.get("uniform")),
        }
        for trait, of in (attention.get("relevance") or {}).items()
        if isinstance(of, dict) and of.get("inside") is not None
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("trait")


def target_table(analysis: dict[str, Any], name: str) -> pd.DataFrame:
    """An entry of `analysis.json` by target, the traits first and in order; empty where there is none."""
    found = analysis.get(name) or {}
    order = [t for t in TRAITS if t in found] + [t for t in found if t not in TRAITS]
    rows = {DISPLAY.get(t, t): {spoken(key): cell(value) for key, value in found[t].items()} for t in order}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("target")


def pairs_table(pairs: Iterable[tuple[str, Any]], name: str) -> pd.DataFrame:
    """Names and values below the heading `name`."""
    return pd.DataFrame({"": {key: cell(value) for key, value in pairs}}).rename_axis(name)


def leakage_table(analysis: dict[str, Any]) -> pd.DataFrame:
    """How many clips of each official split share a source with another."""
    rows = {
        leak["split"] + " against " + leak["against"]: {
            "clips": cell(leak["clips"]),
            "share a source": f"{leak['sharing']} ({leak['share']:.0%})",
        }
        for leak in analysis.get("leakage") or []
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("split")


def group_table(groups: dict[str, Any]) -> pd.DataFrame:
    """Errors of each group of clips, and how far they are from everyone else's."""
    heads = {"mae": "mean absolute error", "mae_over_others": "over the others'", "bias": "mean signed error"}
    heads |= {"bias_over_others": "over the others' bias"}
    rows = {
        group: {name: cell(of.get(name)) for name in ("clips", "sources")}
        | {head: f"{number(of[m]['value'], 3)} {span((of[m]['low'], of[m]['high']), 3)}" for m, head in heads.items()}
        for group, of in sorted(groups.items())
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("group")


def problem_table(analysis: dict[str, Any]) -> pd.DataFrame:
    """What does not fit between clips and ratings, by kind."""
    names: dict[str, list[str]] = defaultdict(list)
    for entry in analysis.get("problems", []):
        names[entry["problem"]].append(entry["name"])
    rows = {problem: {"how many": cell(len(of)), "for example": of[0]} for problem, of in names.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what")


def cell(value: Any) -> str:
    """A value as a table shows it: counts without decimals, others with one, below 10 with three."""
    if value is None or isinstance(value, str):
        return value or NONE
    count = isinstance(value, int) or (value > 1 and value.is_integer())
    return number(value, 0 if count else 3 if abs(value) < 10 else 1)


def failed_clips(manifests: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Every clip that a stage could not use, once, with the first stage's `notebook` and `reason`; index clip."""
    found: dict[str, dict[str, str]] = {}
    for stage, manifest in manifests.items():
        for entry in (entry for entry in manifest.get("failed", []) if "row" not in entry):
            found.setdefault(entry["clip"], {"notebook": STAGES[stage], "reason": entry["reason"]})
    return pd.DataFrame.from_dict(found, orient="index", columns=["notebook", "reason"]).rename_axis("clip")


def masked_rows(manifests: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Rows that were masked by stage and kind of reason (… for its numbers), the most frequent first."""
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for stage, manifest in manifests.items():
        for entry in (entry for entry in manifest.get("failed", []) if "row" in entry):
            kinds[STAGES[stage], re.sub(r"\d+(\.\d+)?", "…", entry["reason"])].append(entry["clip"])
    rows = [
        {"notebook": notebook, "reason": reason, "rows": len(clips), "clips": len(set(clips)), "for example": clips[0]}
        for (notebook, reason), clips in sorted(kinds.items(), key=lambda item: -len(item[1]))
    ]
    return pd.DataFrame(rows, columns=["notebook", "reason", "rows", "clips", "for example"]).set_index("notebook")


def class_table(classified: dict[str, Any]) -> pd.DataFrame:
    """Accuracy of every classifier of 08, from the worst to the best."""
    rows = {
        spoken(name): {
            "accuracy": number(row["accuracy"]),
            "95 %": span(row.get("interval")),
            "over the largest class": span(row.get("minus_majority")),
            "on damaged clips": number(row.get("accuracy_corrupted")),
        }
        for name, row in sorted(classified["models"].items(), key=lambda item: item[1]["accuracy"])
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def stage_table(out: Path, manifests: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Clips, time and rows of 02 to 04; rows per second are of the last extraction."""
    rows = {}
    for stage in (stage for stage in ("faces", "static", "dynamic") if stage in manifests):
        counts, seconds = manifests[stage]["counts"], manifests[stage].get("seconds")
        clips = counts.get("made", 0) + counts.get("found", 0)
        log = read_if_there(out / stage / "extraction_log.json") or {}
        rate = log.get("images_per_second", log.get("sequences_per_second"))
        rows[STAGES[stage]] = {
            "clips": number(clips, 0),
            "seconds": number(seconds, 1),
            "clips/s": number(clips / seconds) if seconds else NONE,
            "rows": number(counts.get("rows"), 0),
            "rows/s": number(rate, 1),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("stage")


def provenance_table(manifests: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Weights, licence and code of every stage, and whether it was finished."""
    rows = {}
    for stage, manifest in manifests.items():
        weights = manifest["identity"].get("weights", {})
        rows[STAGES[stage]] = {
            "weights": ": ".join(weights[key] for key in ("name", "source") if weights.get(key)) or NONE,
            "sha256": weights.get("sha256", NONE)[:12],
            "licence": weights.get("licence", NONE),
            "code": manifest.get("code_version", NONE),
            "finished": "yes" if manifest.get("finished", True) else "no",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("stage")
