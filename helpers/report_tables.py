"""The tables of a run's report: models, stages and their speed, failures, provenance.

In: a run's folder and the JSON files in it; each may be missing. Out: lists of dicts for the template, in the order in
which they are shown. Nothing is computed that a JSON file does not hold, but rates: rows and clips over seconds.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from helpers.clips import DISPLAY, TRAITS
from helpers.files import read_json

STAGES = {
    "faces": "02_clip_preparation",
    "static": "03_static_extraction",
    "dynamic": "04_dynamic_extraction",
    "aligned": "05_alignment",
}
SHOWN = 30  # failed clips, kinds of failed rows: the rest is counted


def read_if_there(path: Path) -> Any:
    """The content of a JSON file, None where there is none."""
    return read_json(path) if path.exists() else None


def read_manifests(out: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the stages that were made."""
    found = {stage: read_if_there(out / stage / "manifest.json") for stage in STAGES}
    return {stage: manifest for stage, manifest in found.items() if manifest is not None}


def model_rows(training: dict[str, Any], main: str) -> list[dict[str, Any]]:
    """One row per model, the constant first, then from the worst to the best.

    Returns:
        `name`, `row` (its entry in `models`), `kind` ("floor", "main" or ""), `over` (target, and "mean", to `low` and
        `high` of R² minus the constant's; {} where nothing is known).
    """
    over = {c["a"]: c for c in training["comparisons"] if c["b"] == "constant"}
    models = sorted(training["models"].items(), key=lambda item: (item[0] != "constant", item[1]["r2"]["mean"] or 0.0))
    kinds = {"constant": "floor", main: "main"}
    return [
        {"name": name, "row": row, "kind": kinds.get(name, ""), "over": _intervals(over.get(name))}
        for name, row in models
    ]


def _intervals(comparison: dict[str, Any] | None) -> dict[str, dict[str, float]]:
    if comparison is None:
        return {}
    rows = comparison.get("targets", {}) | {"mean": comparison}
    return {name: {"low": row["low"], "high": row["high"]} for name, row in rows.items() if row["low"] is not None}


def stage_rows(out: Path, manifests: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """How fast the stages of 02 to 04 were.

    Returns:
        `stage`, `notebook`, `clips` (with a file), `seconds`, `clips_per_s`, `rows`, `rows_per_s`, `unit`,
        `network_share` (of the time of the last extraction), `device`; None where it is not known.
    """
    rows = []
    for stage in ("faces", "static", "dynamic"):
        manifest = manifests.get(stage)
        if manifest is None:
            continue
        counts, seconds = manifest["counts"], manifest.get("seconds")
        clips = counts.get("made", 0) + counts.get("found", 0)
        log = read_if_there(out / stage / "extraction_log.json") or {}
        unit = next((unit for unit in ("image", "sequence") if f"{unit}s_per_second" in log), None)
        rows.append(
            {
                "stage": stage,
                "notebook": STAGES[stage],
                "clips": clips,
                "seconds": seconds,
                "clips_per_s": clips / seconds if seconds else None,
                "rows": counts.get("rows"),
                "rows_per_s": log.get(f"{unit}s_per_second"),
                "unit": {"image": "faces", "sequence": "segments", None: ""}[unit],
                "network_share": log.get("network_share"),
                "device": {True: "GPU", False: "processor", None: ""}[log.get("gpu_acceleration")],
            }
        )
    return rows


def training_time(out: Path, model: str, seeds: list[int]) -> dict[str, Any] | None:
    """Where the time of a model's first training went (`helpers.training.training_time.analyse_time`), with `path`, the
    file; None where it was not watched.
    """
    name = f"training/watched/{model}-{seeds[0] if seeds else 0}/training_time_analysis/training_time_analysis.json"
    found = read_if_there(out / name)
    return None if found is None else found | {"path": name}


def evidence_rows(attention: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What `attention.json` knows of planted events: `what`, `value`, `low`, `high` (None without interval)."""
    names = {
        "occlusion_pointing": "the model's largest effect lies inside a planted event",
        "occlusion_pointing_shuffled": "that of the control, trained on shuffled motion",
        "motion_pointing": "that of the most unusual motion, without a model",
        "occlusion_chance": "any token",
    }
    known = {name: what for name, what in names.items() if (attention or {}).get(name) is not None}
    return [_with_interval(what, attention[name], attention.get(f"{name}_interval")) for name, what in known.items()]


def relevance_rows(attention: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Share of each trait's relevance in planted events: as `evidence_rows`, and `uniform`, the tokens' share."""
    by_trait = (attention or {}).get("relevance") or {}
    return [
        _with_interval(DISPLAY.get(trait, trait), of["inside"], of.get("interval")) | {"uniform": of.get("uniform")}
        for trait, of in by_trait.items()
        if isinstance(of, dict) and of.get("inside") is not None
    ]


def _with_interval(what: str, value: float, interval: list[float] | None) -> dict[str, Any]:
    low, high = interval or (None, None)
    return {"what": what, "value": value, "low": low, "high": high}


def failed_clips(manifests: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Every clip that a stage could not use, once, with the first stage's reason: `clip`, `notebook`, `reason`."""
    seen: dict[str, dict[str, str]] = {}
    for stage, manifest in manifests.items():
        for entry in manifest.get("failed", []):
            if "row" not in entry:
                seen.setdefault(entry["clip"], {"notebook": STAGES[stage], **entry})
    return list(seen.values())


def failed_rows(manifests: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that were masked, put together by stage and kind of reason, the most frequent first.

    Returns:
        `notebook`, `reason` (… where the reasons differ in a number), `rows`, `clips`, `example` (a clip).
    """
    found = []
    for stage, manifest in manifests.items():
        entries = [entry for entry in manifest.get("failed", []) if "row" in entry]
        kinds = Counter(_kind(entry["reason"]) for entry in entries)
        for kind, count in kinds.most_common():
            clips = [entry["clip"] for entry in entries if _kind(entry["reason"]) == kind]
            about = {"rows": count, "clips": len(set(clips)), "example": clips[0]}
            found.append({"notebook": STAGES[stage], "reason": kind} | about)
    return found


def _kind(reason: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "…", reason)


def by_target(analysis: dict[str, Any] | None, name: str) -> dict[str, dict[str, Any]]:
    """An entry of `analysis.json` by target as it is shown, the traits first and in order; {} where there is none."""
    found = (analysis or {}).get(name) or {}
    order = [target for target in TRAITS if target in found] + [target for target in found if target not in TRAITS]
    return {DISPLAY.get(target, target): found[target] for target in order}


def problem_rows(analysis: dict[str, Any]) -> list[dict[str, Any]]:
    """What does not fit between clips and ratings, by kind: `problem`, `count`, `example`."""
    names: dict[str, list[str]] = {}
    for entry in analysis.get("problems", []):
        names.setdefault(entry["problem"], []).append(entry["name"])
    return [{"problem": problem, "count": len(of), "example": of[0]} for problem, of in names.items()]


def provenance_rows(manifests: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What every stage was made with: `stage`, `notebook`, `weights` (name, source, sha256, licence; {} without a
    network), `made_with`, `code_version`, `finished`, `identity`.
    """
    return [
        {
            "stage": stage,
            "notebook": STAGES[stage],
            "weights": manifest["identity"].get("weights", {}),
            "made_with": manifest.get("made_with", {}),
            "code_version": manifest.get("code_version", ""),
            "finished": manifest.get("finished", True),
            "identity": manifest["identity"],
        }
        for stage, manifest in manifests.items()
    ]
