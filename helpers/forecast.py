"""What a run over a folder of clips will take of time and disk, before it starts.

In: the table of `helpers.check` and the parameters of the run. Out: a table with one row per stage, and the same as
text. The stages themselves are run, 02 to 04, with random weights of the same shape, into a folder that is then
removed: on the first seconds of few clips, which pay for starting, then on more of several, whose further seconds are
what a second of clip costs. Features, not the files of the run's notebooks, make up the disk.
"""

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.check import duration_text
from helpers.config import NOTEBOOKS, AlignmentConfig
from helpers.excerpt import write_excerpt
from helpers.files import read_json, resolve
from helpers.video import probe
from helpers.workers import cores

# Stages that touch every clip: the notebook, the folder of its files.
STAGES = {
    "02 preparation": ("02_clip_preparation", "faces"),
    "03 static": ("03_static_extraction", "static"),
    "04 dynamic": ("04_dynamic_extraction", "dynamic"),
}
FIRST_S = 2.0  # of few clips: what a stage takes for them is mostly its start
EXCERPT_S = 6.0  # of several clips: long enough for rows, short enough for clips of any length and size
WHOLE_S = 60.0  # a clip that cannot be cut is run as a whole up to this length
FEWEST_CLIPS, MOST_CLIPS = 6, 32  # of which half are run first: a clip may be unusable; enough for all cores
BOUND = 0.8  # share of its time that a stage waits for the network when the network bounds it


class Profile(NamedTuple):
    """One run of a stage: seconds in all (`spent_s`) and in the network; what it made: seconds of clip, bytes, rows of
    `dim` features.
    """

    spent_s: float
    network_s: float
    clip_s: float
    n_bytes: int
    rows: int
    dim: int


def forecast(checked: pd.DataFrame, root: str | Path, parameters: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Forecast what a run over the usable clips of a folder will take.

    Args:
        checked: As `check_clips` returns it.
        root: The folder that its paths lie below.
        parameters: Notebook name -> parameters of the run, as `helpers.workbook.plan` puts them together.

    Returns:
        Index `stage`: those of `STAGES` and "05 alignment" (its files only); columns `per_s` (seconds per second of
        clip), `start_s`, `bound` ("cores" or "GPU"), `hours` and `bytes` for all usable clips. `attrs` tell `clip` (the
        first one run), `clips`, `clip_hours`, `device`, `flow`, and `trees` (what 03 and 04 read instead of videos).

    Raises:
        ValueError: no clip is usable, a tree holds none of them, or none of those tried can be run.
    """
    from helpers.device import chosen_device, enable_memory_growth
    from helpers.sources import open_source

    usable = checked[checked["usable"]]
    if usable.empty:
        raise ValueError("a forecast needs at least one usable clip, got none. See the problems above.")
    configs = {stage: NOTEBOOKS[name].checked(parameters[name]) for stage, (name, _) in STAGES.items()}
    trees, in_trees = {stage: tree_of(cfg) for stage, cfg in configs.items() if tree_of(cfg)}, usable
    for stage in trees:
        in_trees = in_trees[in_trees.index.isin(open_source(configs[stage], usable.index).named)]
    if in_trees.empty:
        raise ValueError(f"a forecast needs a clip that all trees hold, got none in {' and '.join(trees.values())}.")
    enable_memory_growth()
    unlike = (in_trees["duration_s"] - in_trees["duration_s"].median()).abs().round(1)
    several = in_trees.loc[unlike.sort_values(kind="stable").index[: min(max(FEWEST_CLIPS, 2 * cores()), MOST_CLIPS)]]
    few = several.head(max(1, len(several) // 2))
    with tempfile.TemporaryDirectory() as folder:
        first = _run_stages(few, Path(root), Path(folder, "first"), FIRST_S, configs)
        then = _run_stages(several, Path(root), Path(folder, "then"), EXCERPT_S, configs)
    device = chosen_device(configs["04 dynamic"].device.upper())
    name = device["name"] + ("" if device["kind"] == "GPU" else f" ({cores()} cores, no GPU)")
    total_s = float(usable["duration_s"].sum())
    rows = {stage: scaled(first[stage], then[stage], device["kind"]) for stage in STAGES}
    rows["05 alignment"] = {"per_s": 0.0, "start_s": 0.0, "bound": ""}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("stage")
    table["hours"] = (table["per_s"] * total_s + table["start_s"]) / 3600
    bytes_per_s = [of.n_bytes / of.clip_s for of in then.values()]
    bytes_per_s.append(aligned_bytes(then, NOTEBOOKS["05_alignment"].checked(parameters["05_alignment"])))
    table["bytes"] = (np.array(bytes_per_s) * total_s).round().astype(int)
    flow = "stored" if "04 dynamic" in trees else configs["04 dynamic"].flow
    table.attrs = {"clip": few.index[0], "clips": len(usable), "clip_hours": total_s / 3600}
    table.attrs |= {"device": name, "flow": flow, "trees": trees}
    return table


def tree_of(cfg: Any) -> str:
    """The folder that a stage reads instead of videos, "" where it reads those."""
    return getattr(cfg, "faces_dir", "") or getattr(cfg, "flow_dir", "")


def _run_stages(
    clips: pd.DataFrame, root: Path, folder: Path, seconds: float, configs: dict[str, Any]
) -> dict[str, Profile]:
    """Run the stages into a folder, on the first `seconds` of each clip, or on all that a tree holds."""
    from helpers.extract import extract_dynamic, extract_static
    from helpers.faces import prepare_clips

    lengths_s, found = beginnings(clips, root, folder, seconds), {}
    clips = clips.loc[lengths_s.index]
    for (stage, cfg), run in zip(configs.items(), (prepare_clips, extract_static, extract_dynamic), strict=True):
        random = {"weights": "random"} if hasattr(cfg, "weights") else {}
        cfg = replace(cfg, data_dir=str(folder), out_dir=str(folder / "run"), progress=False, **random)
        started_s = time.perf_counter()
        manifest = run(clips[["path"]], cfg)
        spent_s = time.perf_counter() - started_s
        read_s = clips["duration_s"] if tree_of(cfg) else lengths_s
        found[stage] = _profile(folder / "run" / STAGES[stage][1], manifest, spent_s, read_s)
    return found


def beginnings(clips: pd.DataFrame, root: Path, folder: Path, seconds: float) -> pd.Series:
    """Put the first `seconds` of each clip into a folder; their lengths by key.

    A clip that cannot be cut is taken whole where it is not too long, and left out otherwise.

    Raises:
        Exception: what hindered the last clip, where not one could be taken.
    """
    lengths_s, hindered = {}, None
    for key, path, whole_s in clips[["path", "duration_s"]].itertuples():
        excerpt = folder / path
        excerpt.parent.mkdir(parents=True, exist_ok=True)
        try:
            lengths_s[key] = probe(write_excerpt(root / path, excerpt, seconds)).duration_s
        except Exception as error:
            hindered = error
            if whole_s <= WHOLE_S:
                shutil.copy(root / path, excerpt)
                lengths_s[key] = whole_s
    if not lengths_s:
        raise hindered
    return pd.Series(lengths_s)


def _profile(folder: Path, manifest: dict[str, Any], spent_s: float, lengths_s: pd.Series) -> Profile:
    """Read what a stage made and where its time went; ValueError where no clip could be used."""
    sizes = {key: path.stat().st_size for key in lengths_s.index if (path := folder / f"{key}.npz").is_file()}
    if not sizes:
        failed = manifest["failed"][0]
        raise ValueError(f"a forecast needs a clip that can be run, got {failed['clip']}: {failed['reason']}")
    log, counts = folder / "extraction_log.json", manifest["counts"]
    network_s = read_json(log)["seconds_spent"]["network"] if log.is_file() else 0.0
    clip_s, n_bytes = float(lengths_s[list(sizes)].sum()), sum(sizes.values())
    return Profile(spent_s, network_s, clip_s, n_bytes, counts.get("rows", 0), counts.get("feature_dim", 0))


def scaled(first: Profile, then: Profile, kind: str) -> dict[str, Any]:
    """What a second of clip costs beyond the start, and what bounds it."""
    further = [getattr(then, name) - getattr(first, name) for name in ("clip_s", "spent_s", "network_s")]
    clip_s, spent_s, network_s = further if min(further[:2]) > 0 else (then.clip_s, then.spent_s, then.network_s)
    per_s = spent_s / clip_s
    bound = "GPU" if kind == "GPU" and network_s > BOUND * spent_s else "cores"
    return {"per_s": per_s, "start_s": max(0.0, first.spent_s - per_s * first.clip_s), "bound": bound}


def aligned_bytes(profiles: dict[str, Profile], cfg: AlignmentConfig) -> float:
    """Bytes of 05's files per second of clip: the tokens of both streams, and each face row paired with a motion row.

    `profiles` are those of "03 static" and "04 dynamic".
    """
    streams = ((profiles["03 static"], cfg.static_dim), (profiles["04 dynamic"], cfg.dynamic_dim))
    dims = [made.dim if cfg.reduction == "none" else min(made.dim, most) for made, most in streams]
    static, dynamic = (made.rows / made.clip_s for made, _ in streams)
    return 4 * (static * dims[0] + dynamic * dims[1] + static * sum(dims))  # 4: float32


def forecast_text(table: pd.DataFrame) -> str:
    """The forecast as lines, and whether the disk that `results/` is on has room for it."""
    facts, together = table.attrs, table[["hours", "bytes"]].sum()
    lines = [
        f"Forecast for {facts['clips']} clips ({duration_text(facts['clip_hours'])}) on {facts['device']}:",
        f"{'stage':15} {'per second':>11} {'start':>6}  {'bound by':8}  {'time':18} {'disk':>9}",
    ]
    for row in table.itertuples():
        lines.append(f"{row.Index:15} {row.per_s:9.3f} s {row.start_s:4.0f} s  {row.bound:8}  {_cost(row)}")
    lines += [
        f"{'together':45} {_cost(together)}",
        f"Measured on {facts['clip']} and others with {facts['flow']} flow and random weights of the same shape; per",
        "second of clip. 06 and 07 are not in it; 05 is for its files only.",
    ]
    lines += [f"{stage} reads {folder} instead of the videos." for stage, folder in facts["trees"].items()]
    if "GPU" not in set(table["bound"]) and "no GPU" not in facts["device"]:
        lines.append("The cores bound every stage: a second GPU would make none of them faster.")
    folder = resolve("results")
    free = shutil.disk_usage(next(there for there in (folder, *folder.parents) if there.exists())).free
    enough = "" if free > together.bytes else " WARNING: not enough. Name a larger disk with --out."
    return "\n".join([*lines, f"Free on the disk of {folder}: {_size(free)}.{enough}"])


def _cost(row: Any) -> str:
    return f"{duration_text(row.hours):18} {_size(row.bytes):>9}"


def _size(n_bytes: float) -> str:
    """Bytes in the unit that fits: "3.06MB"."""
    return f"{tqdm.format_sizeof(n_bytes)}B"
