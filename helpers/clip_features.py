"""Frame features of labelled clips (08): from class folders to HDF5 files, and from these to arrays for training.

Written in `<out>/classification/`: a stage `frames/` with a feature file per clip and view, `<key>/<view>.npz`, and of
these `features/{split}_features[_multiscale][_{view}].h5` (`helpers.large`) with `configuration_analysis.json`. The
pipeline is that of 03 and 04: stopped and started again it goes on, a damaged clip is recorded and left out, and memory
does not grow with the number of clips. `read_variants` holds all of them: 4 N T D bytes for each view.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import keras
import numpy as np
import pandas as pd

from helpers.backbones import Backbone, build_backbone
from helpers.class_folders import LabelledClips, check_folds, find_classes
from helpers.clip_frames import PLAIN, FrameJob, clip_frames, view_names
from helpers.config import ClassificationConfig
from helpers.files import write_json
from helpers.forward import compile_forward
from helpers.large import Sequence, read_labelled, write_sequences
from helpers.pipeline import ClipRun, Network, Source
from helpers.rows import ClipRows
from helpers.splits import SPLITS
from helpers.store import FeatureFile, Stage, clip_fingerprint, read_arrays
from helpers.video import backend_name, backend_version

log = logging.getLogger(__name__)

DECISIVE = ("backbone", "weights", "input_px", "n_frames", "frame_px", "flip", "seed", "precision")  # for a row
PARTS = ("features", "t_start_s", "t_end_s", "frame", "valid")  # of a feature file
VERSION = 3  # of views and HDF5 files, counted up when they have to be made anew


@dataclass(frozen=True)
class ViewRows(FeatureFile):
    """Rows of several views, one below the other; `views (n,)` names them. A row stands for the moment of its frame."""

    views: np.ndarray = field(default_factory=lambda: np.empty(0, str))


class FrameRows(ClipRows):
    """A row stands for one frame of one view."""

    def why_invalid(self, rows: FeatureFile) -> dict[int, str]:
        """None: `_invalid_rows` lists those of the files that are trained from."""
        return {}

    def _samples(self, values: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        return ((frame, 1) for frame in values)

    def _file(self, features: np.ndarray) -> ViewRows:
        t_s, frame = self._column("t_s"), self._column("frame")
        views = np.concatenate([[chunk.view] * len(chunk.t_s) for chunk in self._seen])
        valid = np.isfinite(features).all(axis=1)
        features = np.where(valid[:, None], features, np.float32(0))
        return ViewRows(features, t_s, t_s, frame, valid, self._seen[-1].decoder, views=views)


@dataclass
class FrameStage(Stage):
    """A stage with a file per clip and view; `views` says which each clip is to have, by key."""

    views: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def missing(self, key: str, stamp: str) -> tuple[str, ...]:
        """The views that a clip is to have and has not, of this version of the clip."""
        return tuple(view for view in self.views[key] if not Stage.done(self, f"{key}/{view}", stamp))

    def done(self, key: str, stamp: str) -> bool:
        return not self.missing(key, stamp)

    def write(self, key: str, rows: ViewRows, stamp: str) -> None:
        """Write the rows of a clip's views beside those that are there."""
        for view in dict.fromkeys(rows.views.tolist()):
            arrays = [getattr(rows, part)[rows.views == view] for part in PARTS]
            super().write(f"{key}/{view}", FeatureFile(*arrays, rows.decoder), stamp)

    def read(self, key: str) -> FeatureFile:
        """The plain rows of a clip."""
        return super().read(f"{key}/{PLAIN}")

    def sequence(self, key: str, view: str) -> Sequence:
        """Features, seconds and validity of a clip's rows in a view."""
        return tuple(read_arrays(self.path(f"{key}/{view}"), ("features", "t_start_s", "valid")).values())


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
        ValueError: See `find_classes` and `check_folds`; or no clip could be used.
    """
    clips = find_classes(cfg.data)
    if to_train:
        check_folds(clips.table, list(clips.categories), cfg)
    backbone = build_backbone(cfg.backbone, cfg.weights, input_px=cfg.input_px)
    backend = backend_name()
    identity = {
        "parameters": {name: getattr(cfg, name) for name in DECISIVE} | {"backend": backend},
        "weights": backbone.weights.as_dict(),
        "network_backend": keras.backend.backend(),
    }
    made_with = {"keras": keras.__version__, "decoder": backend_version(backend)}
    views = {key: views_of(split, cfg) for key, split in clips.table["split"].items()}
    with FrameStage(cfg.out / "classification" / "frames", "frames", identity, made_with, views=views) as stage:
        run = _extract(clips.table, cfg, stage, backbone, backend)
        files = _gather(clips, cfg, stage)
        invalid = [rows for (_, view), path in files.items() for rows in _invalid_rows(path, view)]
        stage.failed += invalid
        counts = {name: run.counts[name] for name in ("clips", "made", "failed", "found")}
        counts |= {"rows_made": run.n_rows, "invalid_rows": len(invalid), "feature_dim": backbone.feature_dim}
        manifest = stage.finish(**counts)
        about = {name: manifest[name] for name in ("identity", "counts", "failed")}
        spent_s = {what: round(seconds, 3) for what, seconds in run.spent_s.items()}
        _write_analysis(clips, cfg, about | {"seconds_spent": spent_s}, files)
    made = [path.relative_to(cfg.out).as_posix() for path in files.values()]
    return manifest | {
        "features": made, "categories": clips.categories, "problems": clips.problems.to_dict("records")
    }  # fmt: skip


def views_of(split: str, cfg: ClassificationConfig) -> tuple[str, ...]:
    """The views that clips of a split are to have."""
    training, testing = view_names(cfg.views, cfg.tta_views)
    if cfg.split == "source":
        return (PLAIN, *training, *testing)
    return (PLAIN, *{"train": training, "test": testing}.get(split, ()))


def feature_file(cfg: ClassificationConfig, split: str, view: str = PLAIN) -> Path:
    """Where the features of a split in a view lie."""
    suffix = ("_multiscale" if cfg.scales != [1.0] else "") + (f"_{view}" if view != PLAIN else "")
    return cfg.out / "classification" / "features" / f"{split}_features{suffix}.h5"


def feature_files(cfg: ClassificationConfig) -> dict[tuple[str, str], Path]:
    """The feature files of the splits that are there, by split and view. FileNotFoundError: one is missing."""
    splits = [split for split in sorted(SPLITS) if feature_file(cfg, split).exists()]
    files = {(split, view): feature_file(cfg, split, view) for split in splits for view in views_of(split, cfg)}
    missing = [path for path in files.values() or [feature_file(cfg, "train")] if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is not there. Run 08_clip_classification first: it makes it.")
    return files


def _extract(
    table: pd.DataFrame, cfg: ClassificationConfig, stage: FrameStage, backbone: Backbone, backend: str
) -> ClipRun:
    """Bring every clip's files up to date; returns the run, with what was done in how many seconds."""

    def fingerprint(path: Path, key: str) -> str:
        return f"{clip_fingerprint(path)}-{VERSION}"

    def job(path: Path, key: str, fingerprint: str) -> FrameJob:
        place, views = int(table["place"][key]), stage.missing(key, fingerprint)
        return FrameJob(path, place, key, views, cfg, backend, backbone.input_px)

    network = Network(compile_forward(backbone.model, cfg.precision, backbone.prepare), cfg.batch_size)
    source = Source(clip_frames, job, lambda _: FrameRows(), fingerprint)
    with ClipRun("08 frames", table, cfg, stage, source, network) as run:
        run.stream()
    run.finish()
    return run


def _gather(clips: LabelledClips, cfg: ClassificationConfig, stage: FrameStage) -> dict[tuple[str, str], Path]:
    """Write the HDF5 files, those that are not as they would be made; others of this folder go."""
    table = clips.table.drop([entry["clip"] for entry in stage.failed])
    if table.empty:
        raise ValueError(
            f"no clip in {cfg.data} could be used. Look at what {stage.folder}/manifest.json lists as failed."
        )
    attributes = {"category_mapping": json.dumps(clips.categories), "multi_scale": cfg.scales != [1.0]}
    attributes["identity"] = json.dumps(stage.identity | {"scales": list(cfg.scales)}, sort_keys=True)
    files = {}
    for split, part in table.groupby("split", sort=False):
        stamps = [clip_fingerprint(cfg.data / path) for path in part["path"]]
        described = json.dumps([VERSION, attributes, list(part.index), stamps, part["label"].tolist()])
        made_of = hashlib.sha256(described.encode()).hexdigest()
        for view in views_of(split, cfg):
            path = files[split, view] = feature_file(cfg, split, view)
            if _made_of(path) != made_of:
                _write(path, part, view, stage, cfg.scales, attributes | {"made_of": made_of})
    for path in set(feature_file(cfg, "").parent.glob("*_features*.h5")).difference(files.values()):
        path.unlink()
    return files


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
    lengths = np.array([len(read_arrays(stage.path(f"{key}/{view}"), ["valid"])["valid"]) for key in part.index])
    width = stage.sequence(part.index[0], view)[0].shape[1]
    rows = (average_scales(stage.sequence(key, view), scales) for key in part.index)
    texts = {"key": part.index, "source": part["source"]}
    datasets = {"labels": part["label"].to_numpy("int64")}
    datasets |= {name: np.asarray(list(values), h5py.string_dtype()) for name, values in texts.items()}
    write_sequences(path, rows, (lengths, width), datasets, attributes)


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


def _invalid_rows(path: Path, view: str) -> list[dict[str, Any]]:
    """The rows of a feature file that cannot be used, for the manifest."""
    with h5py.File(path, "r") as file:
        valid, keys = file["valid"][:], file["key"].asstr()[:]
        lost = np.argwhere(~valid & (np.arange(valid.shape[1]) < file["num_frames"][:][:, None]))
    reason = f"{view}: the network failed on it, or gave values that are not finite"
    return [{"clip": keys[clip], "reason": reason, "row": int(row)} for clip, row in lost]


def _write_analysis(
    clips: LabelledClips, cfg: ClassificationConfig, about: dict[str, Any], files: Mapping[tuple[str, str], Path]
) -> None:
    """Write `configuration_analysis.json`: what was extracted how, and the shapes and lengths of every split."""
    splits = {}
    for split in dict.fromkeys(split for split, _ in files):
        file = read_labelled(files[split, PLAIN])
        n = file["num_frames"]
        splits[split] = {
            "features_shape": list(file["features"].shape),
            "num_frames": {"min": int(n.min()), "max": int(n.max()), "mean": float(n.mean())},
            "clips_per_class": {name: int((file["labels"] == k).sum()) for name, k in clips.categories.items()},
            "views": list(views_of(split, cfg)),
        }
    settings = {"frames_per_video": cfg.n_frames, "image_size": [cfg.frame_px, cfg.frame_px]}
    settings["processing_mode"] = about["identity"]["parameters"]["backend"]
    own = {"preprocessing_info": settings, "scales": list(cfg.scales), "category_mapping": clips.categories}
    problems = {"problems": clips.problems.to_dict("records")}
    write_json(
        feature_file(cfg, "").parent / "configuration_analysis.json", own | {"splits": splits} | problems | about
    )


class ClipVariants(NamedTuple):
    """N clips of all splits, each in some views; T is the longest clip of any of them.

    Attributes:
        table: Index key; columns split, source, label (place in `classes`).
        classes: Names.
        features: By view, float32 (N, T, D).
        masks: By view, bool (N, T); no frame of a clip is kept in a view that its split does not have.
    """

    table: pd.DataFrame
    classes: list[str]
    features: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]

    def frames(self, view: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features and mask of these clips in this view."""
        return self.features[view][rows], self.masks[view][rows]


def read_variants(cfg: ClassificationConfig) -> ClipVariants:
    """Read the feature files of all splits in all views. A clip without a usable row in one of them is left out.

    Raises:
        FileNotFoundError: One is missing.
        ValueError: A damaged file, or files that do not belong together.
    """
    files = {names: read_labelled(path) for names, path in feature_files(cfg).items()}
    plain = {split: file for (split, view), file in files.items() if view == PLAIN}
    first = next(iter(plain.values()))
    for (split, view), file in files.items():
        if list(file["key"]) != list(plain[split]["key"]) or file["categories"] != first["categories"]:
            raise ValueError(f"features ({split}, {view}) must be of the clips of the plain ones. Extract them again.")
    parts = [
        pd.DataFrame({"key": file["key"], "source": file["source"], "label": file["labels"], "split": split})
        for split, file in plain.items()
    ]
    table, features, masks = pd.concat(parts).set_index("key"), {}, {}
    usable = np.ones(len(table), bool)
    shape = len(table), max(file["valid"].shape[1] for file in files.values()), first["features"].shape[2]
    for (split, view), file in files.items():
        values = features.setdefault(view, np.zeros(shape, np.float32))
        mask = masks.setdefault(view, np.zeros(shape[:2], bool))
        rows, n = np.flatnonzero(table["split"] == split), file["valid"].shape[1]
        values[rows, :n], mask[rows, :n] = file["features"], file["valid"]
        usable[rows] &= file["valid"].any(axis=1)
    if not usable.all():
        log.warning("left out, without a usable row in one of their views: %s", ", ".join(table.index[~usable]))
        features, masks = ({view: of[usable] for view, of in each.items()} for each in (features, masks))
    return ClipVariants(table[usable], list(first["categories"]), features, masks)
