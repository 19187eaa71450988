"""What a run over a folder will cost on this machine: hours and disk of the stages that touch every clip (02, 03, 04).

In: the checked clips (`helpers.check`) and the parameters of the notebooks. Out: a table with one row per stage, and
the same as text. The stages' own code runs on the beginning of one of the clips, the one of median length, with random
weights of the same shape, since the published ones may not be there yet and take as long.

The cost is linear in the length of the clips. A second of clip costs `work_s` seconds on a core of a decoder process
(decoding, detection, crops, flow; measured on one core) and `network_s` in this process. With w decoder processes a
stage takes `work_s / w + network_s` where the network computes on the same cores, and the larger of the two on a GPU,
where they overlap. Added once: `start_s`, to build and compile the network. Features, not the files of the run's
notebooks, make up the disk; what compression saves in the aligned file is left out.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import pandas as pd

from helpers.amounts import duration, free_bytes, size
from helpers.backbones import build_backbone
from helpers.clip_run import CLIP_ERRORS
from helpers.config import NOTEBOOKS, AlignmentConfig, DynamicConfig, PreparationConfig, StaticConfig
from helpers.crops import PIECE_FLOWS, Job, Piece, face_crops, face_flows
from helpers.device import enable_memory_growth, list_devices
from helpers.excerpt import write_excerpt
from helpers.extract import check_dynamic
from helpers.faces import tracks_of, write_track
from helpers.files import resolve
from helpers.forward import compile_forward
from helpers.i3d import build_motion_network
from helpers.rows import MIN_FLOWS, DynamicRows, StaticRows, TooShortError, row_layout, rows_of_clip
from helpers.store import FeatureFile, write_features
from helpers.video import backend_name
from helpers.worker import cores

EXCERPT_S = 6.0  # of a clip: long enough for the rows of 03 and 04, short enough for a clip of any length and size
FEW_FLOWS, MANY_FLOWS = 2, 64  # measured of a slow and of a fast method
ENOUGH_S = 4.0  # that MANY_FLOWS may take
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


@dataclass(frozen=True)
class Measured:
    """What a stage costs: seconds and bytes per second of clip, and `start_s` seconds once; `rows_per_s`, `dim`: what
    its features are, per second of clip.
    """

    work_s: float
    network_s: float
    start_s: float
    bytes_per_s: float
    rows_per_s: float = 0.0
    dim: int = 0


def forecast(checked: pd.DataFrame, root: str | Path, stages: Stages) -> pd.DataFrame:
    """Forecast what a run over the usable clips of a folder will take.

    Args:
        checked: As `helpers.check.check_clips` returns it.
        root: The folder that its paths lie below.
        stages: Parameters of the run.

    Returns:
        Index `stage` ("02 preparation", "03 static", "04 dynamic", "05 alignment"); columns `work_s`, `network_s`,
        `start_s` (see above), `workers` (decoder processes), `hours` and `bytes` for all usable clips. `attrs` tell
        `clip` (the key measured on), `clips`, `clip_hours`, `device` and `flow`.

    Raises:
        ValueError: no clip is usable, or none of those tried can be run; says why.
    """
    usable = checked[checked["usable"]]
    if usable.empty:
        raise ValueError("a forecast needs at least one usable clip, got none. See the problems above.")
    check_dynamic(stages.dynamic)
    enable_memory_growth()
    devices = list_devices()
    total_s = float(usable["duration_s"].sum())
    key, measured = _measure_one(usable, Path(root), stages)
    measured["05 alignment"] = Measured(0.0, 0.0, 0.0, aligned_bytes(measured, stages.alignment))
    on_gpu = bool((devices["kind"] == "GPU").any())
    workers = [stages.preparation.workers, stages.static.workers, stages.dynamic.workers, 1]
    table = pd.DataFrame([vars(cost) for cost in measured.values()], index=pd.Index(measured, name="stage"))
    table["workers"] = [n or cores() for n in workers]
    table["hours"] = [
        (stage_seconds(cost, n, on_gpu) * total_s + cost.start_s) / 3600
        for cost, n in zip(measured.values(), table["workers"], strict=True)
    ]
    table["bytes"] = (table["bytes_per_s"] * total_s).round().astype(int)
    table.attrs = {
        "clip": key,
        "clips": len(usable),
        "clip_hours": total_s / 3600,
        "device": f"{devices.iloc[-1]['name']}" + ("" if on_gpu else f" ({cores()} cores, no GPU)"),
        "flow": stages.dynamic.flow,
    }
    return table[["work_s", "network_s", "start_s", "workers", "hours", "bytes"]]


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


def _measure_one(usable: pd.DataFrame, root: Path, stages: Stages) -> tuple[str, dict[str, Measured]]:
    """Measure on the clip of median length, or on one of the next in length if that cannot be run."""
    from_median_s = (usable["duration_s"] - usable["duration_s"].median()).abs().round(1)
    best = usable.assign(off=from_median_s).sort_values(["off", "coverage"], ascending=[True, False], kind="stable")
    reasons = []
    for key in best.index[:CANDIDATES]:
        path = root / usable.at[key, "path"]
        try:
            with tempfile.TemporaryDirectory() as folder:
                if usable.at[key, "duration_s"] > EXCERPT_S:
                    path = write_excerpt(path, Path(folder, path.name), EXCERPT_S)
                return key, measure(path, stages, Path(folder))
        except CLIP_ERRORS as error:
            reasons.append(f"{key}: {error}")
    raise ValueError(f"a forecast needs a clip that can be run, got {'; '.join(reasons)}. Choose other parameters.")


def measure(path: Path, stages: Stages, folder: Path) -> dict[str, Measured]:
    """Run 02, 03 and 04 on a clip.

    Args:
        path: Video file.
        stages: Parameters.
        folder: A folder for the files that are made.

    Returns:
        Stage to cost; raises what the stages raise.
    """
    preparation = replace(stages.preparation, backend=backend_name(stages.preparation.backend, [path]))
    with one_thread():
        (track,), work_s = timed(lambda: list(tracks_of((path, preparation))))
    seconds = track.n_frames / track.fps
    write_track(folder / "track.npz", track)
    return {
        "02 preparation": Measured(work_s / seconds, 0.0, 0.0, (folder / "track.npz").stat().st_size / seconds),
        "03 static": measure_static(Job(path, track, stages.static, preparation.backend), folder),
        "04 dynamic": measure_dynamic(Job(path, track, stages.dynamic, preparation.backend), folder),
    }


def measure_static(job: Job, folder: Path) -> Measured:
    """What 03 costs on a clip; files go to `folder`."""
    backbone, build_s = timed(lambda: build_backbone(job.cfg.backbone, "random"))
    forward = compile_forward(backbone.model, job.cfg.precision)
    with one_thread():
        pieces, work_s = timed(lambda: list(face_crops(replace(job, size_px=backbone.input_px))))
    work_s *= job.track.fps / job.track.n_frames
    rows = sum(len(piece.t_s) for piece in pieces)
    batch_size = min(job.cfg.batch_size or StaticConfig.batch_size, rows)  # nothing that fills a batch up

    def run() -> FeatureFile:
        return rows_of_clip(StaticRows(job.track), pieces, forward, batch_size, backbone.preprocess)

    return _with_network(run, work_s, build_s, job.track.fps / job.cfg.every_n_frames, folder / "static.npz")


def measure_dynamic(job: Job, folder: Path) -> Measured:
    """What 04 costs on a clip; files go to `folder`. TooShortError as 04 raises it."""
    if (n_flows := job.track.n_frames - 1) < MIN_FLOWS:
        raise TooShortError(f"only {n_flows} flows, at least {MIN_FLOWS} needed")
    (network, _), build_s = timed(lambda: build_motion_network("random", job.cfg.endpoint))
    forward = compile_forward(network, job.cfg.precision)
    with one_thread():
        pieces, flow_s = measure_flow(job, folder)
    n_flows = sum(len(piece.t_s) for piece in pieces)
    repeats = -(-MANY_FLOWS // n_flows)  # what a network takes does not depend on what it sees
    track = replace(job.track, n_frames=repeats * n_flows + 1)

    def run() -> FeatureFile:
        return rows_of_clip(DynamicRows(track, job.cfg), pieces * repeats, forward, job.cfg.batch_size)

    rows_per_s = job.track.fps / row_layout(job.cfg)[1]
    return _with_network(run, flow_s * job.track.fps, build_s, rows_per_s, folder / "dynamic.npz")


def measure_flow(job: Job, folder: Path) -> tuple[list[Piece], float]:
    """Some flows of a clip, and the seconds that each takes: few where they are slow, as TV-L1's may take a second."""
    seconds = FEW_FLOWS / job.track.fps
    few = replace(job, path=write_excerpt(job.path, folder / f"few{job.path.suffix}", seconds))
    for chosen, n_pieces in ((few, 1), (job, -(-MANY_FLOWS // PIECE_FLOWS))):
        pieces, total_s = timed(partial(_first, face_flows(chosen), n_pieces))
        flow_s = total_s / sum(len(piece.t_s) for piece in pieces)
        if flow_s * MANY_FLOWS > ENOUGH_S:
            break
    return pieces, flow_s


def _first(pieces: Iterator[Piece], n: int) -> list[Piece]:
    return list(islice(pieces, n))


def _with_network(
    run: Callable[[], FeatureFile], work_s: float, build_s: float, rows_per_s: float, path: Path
) -> Measured:
    """Add what a network costs: the second of two runs. The first compiles and allocates, as for each shape it meets.

    Args:
        run: Makes the rows.
        work_s: What its input takes, per second of clip.
        build_s: What building it took.
        rows_per_s: Rows that a long clip has per second.
        path: A file to write the rows to.
    """
    _, first_s = timed(run)
    rows, seconds = timed(run)
    write_features(path, rows)
    n_rows, dim = rows.features.shape
    per_row = rows_per_s / n_rows
    start_s = build_s + max(0.0, first_s - seconds)
    return Measured(work_s, seconds * per_row, start_s, path.stat().st_size * per_row, rows_per_s, dim)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What `run` returns, and the seconds it took."""
    started_s = time.perf_counter()
    result = run()
    return result, time.perf_counter() - started_s


@contextmanager
def one_thread() -> Iterator[None]:
    """Let OpenCV and the decoders use one thread, as decoder processes do."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


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
    free = free_bytes(out)
    enough = "" if free > table["bytes"].sum() else " WARNING: not enough. Name a larger disk with --out."
    return "\n".join([*lines, f"Free on the disk of {resolve(out)}: {size(free)}.{enough}"])
