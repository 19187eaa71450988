"""Frame features of labelled clips (08): from class folders to HDF5 files, and from these to arrays for training.

In: `ClassificationConfig`. Out, in `<out>/classification/`: a stage `frames/` with a feature file per clip and view,
`<key>/<view>.npz`, and of these `features/{split}_features[_multiscale][_{view}].h5` (`helpers.large`) with
`configuration_analysis.json`. The pipeline is that of 03 and 04: stopped and started again it goes on, a damaged clip
is recorded and left out, and memory does not grow with the number of clips. Of clips and views that are added later
only these are computed. `read_variants` holds all of them: 4 N T D bytes for each view.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pandas as pd

from helpers.backbones import Backbone, build_backbone
from helpers.class_folders import LabelledClips, check_folds, find_classes
from helpers.clip_frames import PLAIN, FrameJob, clip_frames, split_name, view_names
from helpers.config import ClassificationConfig
from helpers.files import write_json
from helpers.forward import compile_forward
from helpers.large import Sequence, read_labelled, write_sequences
from helpers.pipeline import ClipRun, Network, Work
from helpers.rows import ClipRows
from helpers.splits import SPLITS
from helpers.store import FeatureFile, Stage, clip_stamp, read_arrays
from helpers.video import backend_name, backend_version

log = logging.getLogger(__name__)

DECISIVE = ("backbone", "weights", "input_px", "n_frames", "frame_px", "flip", "seed", "precision")  # for a row
PARTS = ("features", "t_start_s", "t_end_s", "frame", "valid")  # of a feature file
FORMAT = 2  # of the HDF5 files, counted up when one has to be written anew


@dataclass(frozen=True)
class ViewRows(FeatureFile):
    """Rows of several views, one below the other; `views (n,)` names them. A row stands for the moment of its frame."""

    views: np.ndarray = field(default_factory=lambda: np.empty(0, str))


class FrameRows(ClipRows):
    """A row stands for one frame; equal frames, such as those of a low rate, are shown to the network once."""

    def __init__(self) -> None:
        super().__init__()
        self._sample_of: list[int] = []  # of each frame

    def _samples(self, values: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        known: dict[bytes, int] = {}
        for frame in values:
            content = hashlib.blake2b(frame, digest_size=16).digest()
            is_new = content not in known
            self._sample_of.append(known.setdefault(content, len(known)))
            if is_new:
                yield frame, 1

    def _file(self, features: np.ndarray) -> ViewRows:
        t_s, frame = self._column("t_s"), self._column("frame")
        views = np.concatenate([[chunk.view] * len(chunk.t_s) for chunk in self._seen])
        features = features[self._sample_of]
        valid = np.isfinite(features).all(axis=1)
        features[~valid] = 0
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

    def read(self, key: str, view: str, *parts: str) -> tuple[np.ndarray, ...]:
        """Some of the arrays of a view's feature file."""
        return tuple(read_arrays(self.path(f"{key}/{view}"), parts).values())

    def fail_rows(self, key: str) -> int:
        """Record the rows of a clip that cannot be used, and return how many they are."""
        lost = [(view, row) for view in self.views[key] for row in np.flatnonzero(~self.read(key, view, "valid")[0])]
        for view, row in lost:
            self.fail(key, f"{view}: the network failed on it, or gave values that are not finite", int(row))
        return len(lost)


def features_folder(cfg: ClassificationConfig) -> Path:
    """Folder of the run's HDF5 files."""
    return cfg.out / "classification" / "features"


def is_multi_scale(cfg: ClassificationConfig) -> bool:
    """Whether rows are means over temporal scales."""
    return cfg.scales != [1.0]


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
    folder = cfg.out / "classification" / "frames"
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
    suffix = ("_multiscale" if is_multi_scale(cfg) else "") + (f"_{view}" if view != PLAIN else "")
    return features_folder(cfg) / f"{split}_features{suffix}.h5"


def feature_files(cfg: ClassificationConfig) -> dict[tuple[str, str], Path]:
    """The feature files that are there, by split and view. FileNotFoundError: none of a clip as it is."""
    files = {(split, view): feature_file(cfg, split, view) for split in sorted(SPLITS) for view in views_of(split, cfg)}
    files = {names: path for names, path in files.items() if path.exists()}
    if PLAIN not in {view for _, view in files}:
        kind = "features averaged over scales" if is_multi_scale(cfg) else "features of one scale"
        raise FileNotFoundError(
            f"{features_folder(cfg)} holds no {kind}. Run 08_clip_classification first: it makes them."
        )
    return files


def _extract(
    table: pd.DataFrame, cfg: ClassificationConfig, stage: FrameStage, backbone: Backbone, backend: str
) -> tuple[dict[str, int], dict[str, float]]:
    """Bring every clip's file up to date; returns the counts and what was done in how many seconds."""

    def job(path: Path, key: str, stamp: str) -> tuple[FrameJob, None]:
        place, views = int(table["place"][key]), stage.missing(key, stamp)
        return FrameJob(path, place, key, views, cfg, backend, backbone.input_px), None

    network = Network(compile_forward(backbone.model, cfg.precision, backbone.prepare), cfg.batch_size)
    with ClipRun("08 frames", table, cfg, stage, Work(clip_frames, job), network) as run:
        run.stream(lambda _: FrameRows())
    failed = {entry["clip"] for entry in stage.failed}
    n_invalid = sum(stage.fail_rows(key) for key in table.index if key not in failed)
    return run.finish() | {"rows_made": run.n_rows, "invalid_rows": n_invalid}, run.spent_s


def _gather(clips: LabelledClips, cfg: ClassificationConfig, stage: FrameStage) -> list[str]:
    """Write the HDF5 files, those that are not as they would be made; others of this folder go."""
    failed = {entry["clip"] for entry in stage.failed if "row" not in entry}
    table = clips.table[~clips.table.index.isin(failed)]
    if table.empty:
        raise ValueError(
            f"no clip in {cfg.data} could be used. Look at what {stage.folder}/manifest.json lists as failed."
        )
    attributes = {"category_mapping": json.dumps(clips.categories), "multi_scale": is_multi_scale(cfg)}
    attributes["identity"] = json.dumps(stage.identity | {"scales": list(cfg.scales)}, sort_keys=True)
    files = []
    for split, part in table.groupby("split", sort=False):
        stamps = [clip_stamp(cfg.data / path) for path in part["path"]]
        described = json.dumps([FORMAT, attributes["identity"], clips.categories, list(part.index), stamps])
        made_of = hashlib.sha256((described + part["label"].to_json()).encode()).hexdigest()
        for view in views_of(split, cfg):
            files.append(feature_file(cfg, split, view))
            if _made_of(files[-1]) != made_of:
                _write(files[-1], part, view, stage, cfg.scales, attributes | {"made_of": made_of})
    for path in set(features_folder(cfg).glob("*_features*.h5")).difference(files):
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
    rows = (stage.read(key, view, "features", "t_start_s", "valid") for key in part.index)
    width = stage.read(part.index[0], view, "features")[0].shape[1]
    texts = {"key": part.index, "source": part["source"]}
    datasets = {"labels": part["label"].to_numpy("int64")}
    datasets |= {name: np.asarray(list(values), h5py.string_dtype()) for name, values in texts.items()}
    write_sequences(path, (average_scales(each, scales) for each in rows), (lengths, width), datasets, attributes)


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
            lengths, labels = file["num_frames"][:], file["labels"][:]
            splits[split] = {
                "features_shape": list(file["features"].shape),
                "num_frames": {"min": int(lengths.min()), "max": int(lengths.max()), "mean": float(lengths.mean())},
                "clips_per_class": {name: int((labels == label).sum()) for name, label in clips.categories.items()},
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
    write_json(features_folder(cfg) / "configuration_analysis.json", analysis)


@dataclass(frozen=True)
class ClipVariants:
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

    @property
    def views(self) -> list[str]:
        """Names of the views that are further training clips."""
        return sorted(name for name in self.features if name.startswith("view"))

    @property
    def corruptions(self) -> list[str]:
        return sorted(name for name in self.features if split_name(name)[0] and split_name(name)[1] == PLAIN)

    def tta(self, variant: str = PLAIN) -> list[str]:
        """Names of the views to average over with `variant`: of the clips as they are, or of a corrupted copy."""
        corruption = split_name(variant)[0]
        return sorted(n for n in self.features if split_name(n)[0] == corruption and split_name(n)[1][:3] == "tta")

    def inputs(self, variant: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What the classifier takes for these clips in this view; ValueError where one has no usable frame in it."""
        mask = self.masks[variant][rows]
        if not mask.any(axis=1).all():
            clip = self.table.index[rows][~mask.any(axis=1)][0]
            raise ValueError(f"clip {clip} must have usable frames in the view {variant}, got none. Leave it out.")
        return {"features": self.features[variant][rows], "mask": mask}

    def training(self, rows: np.ndarray, *, augmented: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Inputs and labels of these clips to train on, followed by their views where `augmented`."""
        names = [PLAIN, *self.views] if augmented else [PLAIN]
        parts = [self.inputs(name, rows) for name in names]
        labels = np.tile(self.table["label"].to_numpy()[rows], len(names))
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}, labels


def read_variants(cfg: ClassificationConfig) -> ClipVariants:
    """Read the feature files of all splits in all views. A clip without a usable row in one of them is left out.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A damaged file, or files that do not belong together.
    """
    files = {names: read_labelled(path) for names, path in feature_files(cfg).items()}
    plain = {split: file for (split, view), file in files.items() if view == PLAIN}
    first = next(iter(plain.values()))
    for (split, view), file in files.items():
        same_clips = split in plain and np.array_equal(file["key"], plain[split]["key"])
        if not same_clips or file["categories"] != first["categories"]:
            raise ValueError(f"features ({split}, {view}) must be of the clips of the plain ones. Extract them again.")
    columns = {"key": "key", "source": "source", "label": "labels"}
    parts = [
        pd.DataFrame({k: file[v] for k, v in columns.items()}).assign(split=split) for split, file in plain.items()
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
