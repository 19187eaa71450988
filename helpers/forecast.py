"""What a run over a folder will cost on this machine: hours and disk of the stages that touch every clip (02, 03, 04).

In: the checked clips (`helpers.check`) and the parameters of the notebooks. Out: a table with one row per stage, and
the same as text. The stages' own code runs on the beginning of one of the clips, the one of median length, with random
weights of the same shape, since the published ones may not be there yet and take as long.

The cost is linear in the length of the clips. A second of clip costs `work_s` seconds on a core of a decoder process
(decoding, detection, crops, flow; measured on one core) and `network_s` in this process. With w decoder processes a
stage takes `work_s / w + network_s` where the network computes on the same cores, and the larger of the two on a GPU,
where they overlap. Added once: `start_s`, to build and compile the network. Features, not the files of the run's
notebooks, make up the disk; what compression saves in the aligned file is left out. Where 03 or 04 reads a tree of
faces or of flow instead of the videos, it is measured on the tree's clip: reading takes the place of decoding.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.config import NOTEBOOKS, AlignmentConfig, DynamicConfig, PreparationConfig, StaticConfig
from helpers.crops import Job
from helpers.decoding.excerpt import write_excerpt
from helpers.device import chosen_device, enable_memory_growth
from helpers.engine.costs import Measured, Stored, measure_dynamic, measure_static, one_thread, stored_input, timed
from helpers.extract import check_dynamic
from helpers.faces import track_clip, write_track
from helpers.files import duration, free_bytes, resolve, size
from helpers.pipeline import CLIP_ERRORS
from helpers.sources import StoredSource, open_source
from helpers.video import backend_name
from helpers.workers import cores

EXCERPT_S = 6.0  # of a clip: long enough for the rows of 03 and 04, short enough for a clip of any length and size
CANDIDATES = 3  # clips that are tried, since a few looks do not show that a whole clip can be used
BYTES = 4  # of a float32


@dataclass(frozen=True)
class Stages:
    """The parameters of 02, 03, 04 and 05 that a run would have."""

    preparation: PreparationConfig
    static: StaticConfig
    dynamic: DynamicConfig
    alignment: AlignmentConfig

    @classmethod
    def of(cls, parameters: dict[str, dict[str, Any]]) -> "Stages":
        """Pick them from notebook name -> parameters, as `helpers.workbook.plan` puts them together."""
        names = ("02_clip_preparation", "03_static_extraction", "04_dynamic_extraction", "05_alignment")
        return cls(*(NOTEBOOKS[name].checked(parameters[name]) for name in names))


def forecast(checked: pd.DataFrame, root: str | Path, stages: Stages) -> pd.DataFrame:
    """Forecast what a run over the usable clips of a folder will take.

    Args:
        checked: As `helpers.check.check_clips` returns it.
        root: The folder that its paths lie below.
        stages: Parameters of the run.

    Returns:
        Index `stage` ("02 preparation", "03 static", "04 dynamic", "05 alignment"); columns `work_s`, `network_s`,
        `start_s` (see above), `workers` (decoder processes), `hours` and `bytes` for all usable clips. `attrs` tell
        `clip` (the key measured on), `clips`, `clip_hours`, `device`, `flow` and `trees` (what 03 and 04 read instead
        of videos).

    Raises:
        ValueError: no clip is usable, a tree holds none of them, or none of those tried can be run; says why.
    """
    usable = checked[checked["usable"]]
    if usable.empty:
        raise ValueError("a forecast needs at least one usable clip, got none. See the problems above.")
    check_dynamic(stages.dynamic)
    trees = stored_sources(stages, usable.index)
    enable_memory_growth()
    total_s = float(usable["duration_s"].sum())
    key, measured = _measure_one(usable, Path(root), stages, trees)
    measured["05 alignment"] = Measured(0.0, 0.0, 0.0, aligned_bytes(measured, stages.alignment))
    networks = [chosen_device(cfg.device.upper()) for cfg in (stages.static, stages.dynamic)]
    on_gpu = [False, *(device["kind"] == "GPU" for device in networks), False]
    workers = [stages.preparation.workers, stages.static.workers, stages.dynamic.workers, 1]
    table = pd.DataFrame([vars(cost) for cost in measured.values()], index=pd.Index(measured, name="stage"))
    table["workers"] = [n or cores() for n in workers]
    table["hours"] = [
        (stage_seconds(cost, n, gpu) * total_s + cost.start_s) / 3600
        for cost, n, gpu in zip(measured.values(), table["workers"], on_gpu, strict=True)
    ]
    table["bytes"] = (table["bytes_per_s"] * total_s).round().astype(int)
    table.attrs = {
        "clip": key,
        "clips": len(usable),
        "clip_hours": total_s / 3600,
        "device": " and ".join(dict.fromkeys(map(_in_words, networks))),
        "flow": "stored" if "04 dynamic" in trees else stages.dynamic.flow,
        "trees": {stage: str(source.tree.folder) for stage, source in trees.items()},
    }
    return table[["work_s", "network_s", "start_s", "workers", "hours", "bytes"]]


def _in_words(device: pd.Series) -> str:
    return device["name"] + ("" if device["kind"] == "GPU" else f" ({cores()} cores, no GPU)")


def stage_seconds(cost: Measured, workers: int, on_gpu: bool) -> float:
    """Seconds that a stage takes per second of clip; see the model above."""
    decoding_s = cost.work_s / min(workers, cores())
    return max(decoding_s, cost.network_s) if on_gpu else decoding_s + cost.network_s


def aligned_bytes(measured: dict[str, Measured], cfg: AlignmentConfig) -> float:
    """Bytes of 05's files per second of clip: the tokens of both streams, and each face row paired with a motion row.

    Args:
        measured: Costs of "03 static" and "04 dynamic".
        cfg: Says to how many channels they are reduced.
    """
    static, dynamic = measured["03 static"], measured["04 dynamic"]
    kept = {"static": min(static.dim, cfg.static_dim), "dynamic": min(dynamic.dim, cfg.dynamic_dim)}
    if cfg.reduction == "none":
        kept = {"static": static.dim, "dynamic": dynamic.dim}
    tokens = static.rows_per_s * kept["static"] + dynamic.rows_per_s * kept["dynamic"]
    pairs = static.rows_per_s * (kept["static"] + kept["dynamic"])
    return BYTES * (tokens + pairs)


def stored_sources(stages: Stages, keys: Iterable[str]) -> dict[str, StoredSource]:
    """The trees that the parameters of 03 and 04 name, by stage. Raises as `helpers.sources.open_source`."""
    named = {"03 static": (stages.static, "faces_dir"), "04 dynamic": (stages.dynamic, "flow_dir")}
    return {stage: open_source(cfg, keys) for stage, (cfg, folder) in named.items() if getattr(cfg, folder)}


def _measure_one(
    usable: pd.DataFrame, root: Path, stages: Stages, trees: dict[str, StoredSource]
) -> tuple[str, dict[str, Measured]]:
    """Measure on the clip of median length, or on one of the next in length if that cannot be run."""
    from_median_s = (usable["duration_s"] - usable["duration_s"].median()).abs().round(1)
    best = usable.assign(off=from_median_s).sort_values(["off", "coverage"], ascending=[True, False], kind="stable")
    keys = [key for key in best.index if all(key in source.named for source in trees.values())]
    reasons = [] if keys else ["no clip that all of the trees hold"]
    for key in keys[:CANDIDATES]:
        path, duration_s = root / usable.at[key, "path"], float(usable.at[key, "duration_s"])
        stored = {stage: partial(stored_input, source, key, duration_s) for stage, source in trees.items()}
        try:
            with tempfile.TemporaryDirectory() as folder:
                if duration_s > EXCERPT_S:
                    path = write_excerpt(path, Path(folder, path.name), EXCERPT_S)
                return key, measure(path, stages, Path(folder), stored)
        except CLIP_ERRORS as error:
            reasons.append(f"{key}: {error}")
    raise ValueError(f"a forecast needs a clip that can be run, got {'; '.join(reasons)}. Choose other parameters.")


def measure(path: Path, stages: Stages, folder: Path, stored: dict[str, Stored] | None = None) -> dict[str, Measured]:
    """Run 02, 03 and 04 on a clip.

    Args:
        path: Video file.
        stages: Parameters.
        folder: A folder for the files that are made.
        stored: By stage, what reads the clip from a tree.

    Returns:
        Stage to cost; raises what the stages raise.
    """
    stored = stored or {}
    preparation = replace(stages.preparation, backend=backend_name(stages.preparation.backend, [path]))
    with one_thread():
        track, work_s = timed(lambda: track_clip(path, preparation))
    seconds = track.n_frames / track.fps
    write_track(folder / "track.npz", track)
    jobs = [Job(path, track, cfg, preparation.backend) for cfg in (stages.static, stages.dynamic)]
    return {
        "02 preparation": Measured(work_s / seconds, 0.0, 0.0, (folder / "track.npz").stat().st_size / seconds),
        "03 static": measure_static(jobs[0], folder, stored.get("03 static")),
        "04 dynamic": measure_dynamic(jobs[1], folder, stored.get("04 dynamic")),
    }


def as_text(table: pd.DataFrame, out: str | Path = "results") -> str:
    """The forecast as lines, and whether the disk that `out` is on has room for it."""
    told = table.attrs
    head = f"{'stage':15} {'decoding etc.':>14} {'network':>9} {'start':>6} {'processes':>9}  {'time':18} {'disk':>9}"
    lines = [
        f"Forecast for {told['clips']} clips ({duration(told['clip_hours'])}) on {told['device']}:",
        head,
        *(
            f"{stage:15} {row.work_s:10.3f} s/s {row.network_s:5.3f} s/s {row.start_s:4.0f} s {row.workers:9}  "
            f"{duration(row.hours):18} {size(row.bytes):>9}"
            for stage, row in zip(table.index, table.itertuples(), strict=True)
        ),
        f"{'together':{len(head) - 29}} {duration(table['hours'].sum()):18} {size(table['bytes'].sum()):>9}",
        f"Measured on {told['clip']} with {told['flow']} flow and random weights of the same shape; s/s: seconds per",
        "second of clip, on one core for decoding. 06 and 07 are not in it; 05 is for its files only.",
    ]
    lines += [f"{stage} reads {folder} instead of the videos." for stage, folder in told["trees"].items()]
    free = free_bytes(out)
    enough = "" if free > table["bytes"].sum() else " WARNING: not enough. Name a larger disk with --out."
    return "\n".join([*lines, f"Free on the disk of {resolve(out)}: {size(free)}.{enough}"])
