"""Frame features of labelled clips (08): from class folders to one HDF5 file per split and view.

In: `ClassificationConfig`. Out, in `<out>/classification/`: a stage `frames/` with a feature file per clip and view,
and of these `features/{split}_features[_multiscale][_{view}].h5` (`helpers.store`) with `configuration_analysis.json`.
The pipeline is that of 03 and 04: stopped and started again it goes on, a damaged clip is recorded and left out, and
memory does not grow with the number of clips. Of clips and views that are added later only these are computed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pandas as pd

from helpers.backbones import Backbone, build_backbone
from helpers.class_folders import LabelledClips, find_classes
from helpers.clip_frames import FrameJob, clip_frames
from helpers.clip_variants import check_folds
from helpers.config import ClassificationConfig
from helpers.files import write_json
from helpers.forward import compile_forward
from helpers.frame_rows import FrameRows, FrameStage
from helpers.large import Sequence, labelled_datasets, write_sequences
from helpers.pipeline import ClipRun, Network, Work
from helpers.store import clip_stamp
from helpers.video import backend_name, backend_version
from helpers.views import PLAIN, view_names

DECISIVE = ("backbone", "weights", "input_px", "n_frames", "frame_px", "flip", "seed", "precision")  # for a row
SEQUENCE = ("features", "t_start_s", "valid")  # of a feature file
FORMAT = 2  # of the files, counted up when one has to be written anew


def extract_clip_features(cfg: ClassificationConfig, *, to_train: bool = False) -> dict[str, Any]:
    """Make the feature files of all splits, in all views.

    With `split` "source", where every clip trains in some folds and tests in another, each clip has every view; with
    "official" only clips of `train` have those for training, and only clips of `test` those for testing.

    Args:
        cfg: Parameters.
        to_train: Refuse clips that could not be trained and tested on afterwards, see `check_folds`.

    Returns:
        The manifest of the frames; in addition `features`, the files made, relative to `cfg.out`, `categories`, and
        `problems` of the folders.

    Raises:
        ValueError: See `find_classes` and `check_folds`; or the official split has no training clips of a class.
    """
    clips = find_classes(cfg.data)
    _check_split(clips, cfg.split)
    if to_train:
        check_folds(clips, cfg)
    backbone = build_backbone(cfg.backbone, cfg.weights, input_px=cfg.input_px)
    paths = [cfg.data / row.path for row in clips.table.itertuples() if row.place < 0]
    backend = backend_name("auto", paths)
    identity = {
        "parameters": {name: getattr(cfg, name) for name in DECISIVE} | {"backend": backend},
        "weights": backbone.weights.as_dict(),
        "network_backend": keras.backend.backend(),
    }
    folder, made_with = cfg.out / "classification" / "frames", {"keras": keras.__version__}
    made_with["decoder"] = backend_version(backend)
    views = {key: views_of(split, cfg) for key, split in clips.table["split"].items()}
    with FrameStage(folder, "frames", identity, made_with, views=views) as stage:
        counts, spent_s = _extract(clips.table, cfg, stage, backbone, backend)
        made = _gather(clips, cfg, stage)
        counts["feature_dim"] = backbone.feature_dim
        _write_analysis(clips, cfg, stage, spent_s, counts)
        manifest = stage.finish(**counts)
    problems = clips.problems.to_dict("records")
    return manifest | {"features": made, "categories": clips.categories, "problems": problems}


def views_of(split: str, cfg: ClassificationConfig) -> tuple[str, ...]:
    """The views that clips of a split are to have."""
    training, testing = view_names(cfg.views, cfg.tta_views)
    if cfg.split == "source":
        return (PLAIN, *training, *testing)
    return (PLAIN, *{"train": training, "test": testing}.get(split, ()))


def feature_file(cfg: ClassificationConfig, split: str, view: str = PLAIN) -> Path:
    """Where the features of a split in a view lie."""
    suffix = ("_multiscale" if cfg.multi_scale else "") + (f"_{view}" if view != PLAIN else "")
    return cfg.features / f"{split}_features{suffix}.h5"


def _check_split(clips: LabelledClips, kind: str) -> None:
    trained = set(clips.table.loc[clips.table["split"] == "train", "category"])
    absent = sorted(set(clips.categories) - trained)
    if kind == "official" and absent:
        raise ValueError(
            f"the official split must have clips of every class in train, got none of {', '.join(absent)}. "
            "Use split: source, or leave the class out."
        )


def _extract(
    table: pd.DataFrame, cfg: ClassificationConfig, stage: FrameStage, backbone: Backbone, backend: str
) -> tuple[dict[str, int], dict[str, float]]:
    """Bring every clip's file up to date; returns the counts and what was done in how many seconds."""

    def job(path: Path, key: str, stamp: str) -> tuple[FrameJob, None]:
        place, views = int(table["place"][key]), stage.missing(key, stamp)
        return FrameJob(path, place, key, views, cfg, backend, backbone.input_px), None

    forward = compile_forward(backbone.model, cfg.precision, backbone.prepare)
    network = Network(forward, cfg.batch_size)
    with ClipRun("08 frames", table, cfg, stage, Work(clip_frames, job), network) as run:
        run.stream(lambda _: FrameRows())
    failed = {entry["clip"] for entry in stage.failed}
    n_invalid = sum(stage.fail_rows(key) for key in table.index if key not in failed)
    return run.finish() | {"rows_made": run.progress.n_rows, "invalid_rows": n_invalid}, run.spent_s


def _gather(clips: LabelledClips, cfg: ClassificationConfig, stage: FrameStage) -> list[str]:
    """Write the HDF5 files, those that are not as they would be made; others of this folder go."""
    failed = {entry["clip"] for entry in stage.failed if "row" not in entry}
    table = clips.table.loc[[key for key in clips.table.index if key not in failed]]
    if table.empty:
        raise ValueError(f"no clip in {cfg.data} could be used. Look at what {stage.manifest_path} lists as failed.")
    attributes = {"category_mapping": json.dumps(clips.categories), "multi_scale": cfg.multi_scale}
    attributes["identity"] = json.dumps(stage.identity | {"scales": list(cfg.scales)}, sort_keys=True)
    table = table.assign(stamp=[clip_stamp(cfg.data / path) for path in table["path"]])
    files = []
    for split, part in table.groupby("split", sort=False):
        described = json.dumps(
            [FORMAT, attributes["identity"], clips.categories, list(part.index), list(part["stamp"])]
        )
        made_of = hashlib.sha256((described + part["label"].to_json()).encode()).hexdigest()
        for view in views_of(split, cfg):
            path = feature_file(cfg, split, view)
            files.append(path)
            if _made_of(path) != made_of:
                _write(path, part, view, stage, cfg.scales, attributes | {"made_of": made_of})
    for path in set(files[0].parent.glob("*_features*.h5")).difference(files):
        path.unlink()
    return [path.relative_to(cfg.out).as_posix() for path in files]


def _made_of(path: Path) -> str:
    try:
        with h5py.File(path, "r") as file:
            return file.attrs.get("made_of", "")
    except OSError:
        return ""


def _write(
    path: Path, part: pd.DataFrame, view: str, stage: FrameStage, scales: list[float], attributes: dict[str, Any]
) -> None:
    """Write the rows of some clips in a view, averaged over the scales."""
    lengths = np.array([len(stage.read(key, view, "valid")[0]) for key in part.index], np.int32)
    sequences = (average_scales(stage.read(key, view, *SEQUENCE), scales) for key in part.index)
    width = stage.read(part.index[0], view, "features")[0].shape[1]
    datasets = labelled_datasets(part["label"], part.index, part["source"])
    write_sequences(path, sequences, (lengths, width), datasets, attributes)


def average_scales(rows: Sequence, scales: list[float]) -> Sequence:
    """Average a clip's rows over temporal scales, on the clip's own times.

    At a scale s, max(round(n s), 5) of the n rows are seen, evenly spread: fewer as in a faster clip, more, some of
    them twice, as in a slower one (S2). Each scale is brought back to the n times by linear interpolation, where S2
    pads with zeros, and counts where both rows that it interpolates between are valid.

    Args:
        rows: features (n, D) float32, t_s (n,) seconds, ascending, valid (n,).
        scales: Such as 1.0, 0.85 and 1.15.

    Returns:
        The same, float32; rows without a valid scale are zero and not valid.
    """
    features, t_s, valid = rows
    total, weight = np.zeros(features.shape, np.float64), np.zeros(len(t_s))
    for scale in scales:
        seen = np.unique(np.linspace(0, len(t_s) - 1, max(round(len(t_s) * scale), 5)).round().astype(int))
        after = np.searchsorted(t_s[seen], t_s).clip(min(1, len(seen) - 1), len(seen) - 1)
        before = (after - 1).clip(0)
        span = t_s[seen[after]] - t_s[seen[before]]
        share = np.where(span > 0, (t_s - t_s[seen[before]]) / np.where(span > 0, span, 1), 0)[:, None]
        usable = (valid[seen[before]] | (share[:, 0] == 1)) & (valid[seen[after]] | (share[:, 0] == 0))
        mean = (1 - share) * features[seen[before]] + share * features[seen[after]]
        total += usable[:, None] * mean
        weight += usable
    averaged = total / np.maximum(weight, 1)[:, None]
    return averaged.astype(np.float32), t_s, weight > 0


def _write_analysis(
    clips: LabelledClips,
    cfg: ClassificationConfig,
    stage: FrameStage,
    spent_s: dict[str, float],
    counts: dict[str, int],
) -> None:
    """Write `configuration_analysis.json`: what was extracted how, and the shapes and lengths of every split."""
    splits = {}
    for split in dict.fromkeys(clips.table["split"]):
        if not feature_file(cfg, split).exists():  # every clip of it has failed
            continue
        with h5py.File(feature_file(cfg, split), "r") as file:
            lengths = file["num_frames"][:]
            splits[split] = {
                "features_shape": list(file["features"].shape),
                "num_frames": {"min": int(lengths.min()), "max": int(lengths.max()), "mean": float(lengths.mean())},
                "clips_per_class": {
                    name: int((file["labels"][:] == label).sum()) for name, label in clips.categories.items()
                },
                "views": list(views_of(split, cfg)),
            }
    analysis = {
        "preprocessing_info": {
            "frames_per_video": cfg.n_frames,
            "image_size": [cfg.frame_px, cfg.frame_px],
            "processing_mode": stage.identity["parameters"]["backend"],
        },
        "scales": list(cfg.scales),
        "category_mapping": clips.categories,
        "identity": stage.identity,
        "splits": splits,
        "counts": counts,
        "seconds_spent": {what: round(seconds, 3) for what, seconds in spent_s.items()},
        "problems": clips.problems.to_dict("records"),
        "failed": stage.failed,
    }
    write_json(cfg.features / "configuration_analysis.json", analysis)
