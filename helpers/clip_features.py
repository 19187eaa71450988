"""Labelled clips (08): found in class folders, divided into folds, and what a frozen network says of them.

Clips lie in `<split>/<class>[/<sub>…]/<clip>`, videos or arrays; the clips of an array are sources of their own.
Written in `<out>/classification/`: a stage `views/` with a feature file per clip, whose rows are those of its views,
one view below the other, named by the column `view`, each averaged over temporal scales; and of the plain views
`features/{split}_features[_multiscale].h5` (`helpers.large`) with `configuration_analysis.json`.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import keras
import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from helpers.backbones import Backbone, build_backbone
from helpers.clip_frames import ARRAY_FILES, PLAIN, FrameJob, clip_frames, open_array, view_names
from helpers.config import ClassificationConfig
from helpers.container import VideoError
from helpers.files import write_json
from helpers.forward import compile_forward
from helpers.large import write_sequences
from helpers.names import clip_key, is_video, natural_order, video_files
from helpers.pipeline import ClipRun, Network, Source
from helpers.rows import FAILED, ClipRows
from helpers.splits import SPLITS, source_of, split_named
from helpers.statistics import FEWEST
from helpers.store import FeatureFile, Stage, read_arrays
from helpers.video import backend_name, backend_version

PARAMETERS = ("backbone", "weights", "input_px", "n_frames", "frame_px", "flip", "seed", "precision")
PARAMETERS += ("scales", "views", "tta_views", "split")  # which decide what is in a clip's file


class LabelledClips(NamedTuple):
    """Clips and their classes, and where their features are, if they are made.

    Attributes:
        table: Index key; columns path (below the data folder), place (in an array of clips; -1: a video), split,
            category, source, label; with features also n_rows (in the plain view) and fingerprint.
        classes: Name of each class, sorted, by its label from 0; the same in all splits.
        problems: What was left out, or is to be known before training: `name` and `problem`.
        folder, manifest: Of the stage with a file per clip.
    """

    table: pd.DataFrame
    classes: list[str]
    problems: list[dict[str, str]]
    folder: Path | None = None
    manifest: dict[str, Any] | None = None

    def read(self, key: str, views: Sequence[str] = (PLAIN,)) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each of these views of a clip the features (n, D) float32, seconds (n,), and which are valid (n,) bool."""
        columns = ("features", "t_start_s", "valid", "view")
        features, t_s, valid, view = read_arrays(self.folder / f"{key}.npz", columns).values()
        yield from ((features[own], t_s[own], valid[own]) for own in (view == name for name in views))

    def notes(self) -> list[str]:
        """What was left out and why, and what is to be known before training: a line each."""
        lost = [entry for entry in self.manifest["failed"] if "row" not in entry]
        left_out = [f"left out: {entry['clip']}: {entry['reason']}" for entry in lost]
        return left_out + [f"note: {entry['name']}: {entry['problem']}" for entry in self.problems]


class Fold(NamedTuple):
    """Rows of the clips to train on, to choose the epoch on, and to test on, int."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def find_classes(data_dir: str | Path) -> LabelledClips:
    """Find the clips of all classes in all splits.

    Folders are classes by their place: below a folder whose name says a split (`train`, `val`, `test80_01`). A class
    that a split lacks, a file beside the class folders and an array that cannot be read are problems, not errors.
    ValueError where there are no splits, fewer than two classes with clips, or two files with one key.
    """
    root, rows, problems, named = Path(data_dir), [], {}, set()
    for folder in sorted(path for path in root.glob("*") if path.is_dir() and split_named(path.name)):
        split = split_named(folder.name)
        named |= {(split, below.name) for below in folder.iterdir() if below.is_dir() and below.name[0] != "."}
        for below in video_files(folder, lambda name: is_video(name) or name in ARRAY_FILES):
            try:
                rows += [(*clip, split, below.partition("/")[0]) for clip in _clips_of(root, folder.name, below)]
            except VideoError as error:
                problems[f"{folder.name}/{below}"] = str(error)
    columns = ["key", "path", "place", "split", "category"]
    table = pd.DataFrame(sorted(rows, key=lambda row: natural_order(row[0])), columns=columns).set_index("key")
    classes = sorted(set(table["category"]))
    _refuse_classes(table, classes, root)
    present = set(zip(table["split"], table["category"], strict=True))
    wanted = named | {(split, category) for split, _ in present for category in classes}
    problems |= {f"{split}/{category}": "no clips of this class" for split, category in sorted(wanted - present)}
    table["source"], table["label"] = list(map(source_of, table.index)), table["category"].map(classes.index)
    return LabelledClips(table, classes, [{"name": name, "problem": text} for name, text in problems.items()])


def _clips_of(root: Path, folder: str, below: str) -> list[tuple[str, str, int]]:
    """Key, path below root, and place of the clip that a video is, or of those in an array."""
    if "/" not in below:
        raise VideoError("lies beside the class folders")
    path = f"{folder}/{below}"
    if is_video(path):
        return [(clip_key(path), path, -1)]
    stem = clip_key(path.removesuffix(Path(path).suffix))
    return [(f"{stem}/{place:04d}", path, place) for place in range(len(open_array(root / path)))]


def _refuse_classes(table: pd.DataFrame, classes: list[str], root: Path) -> None:
    if len(classes) < 2:
        raise ValueError(
            f"data_dir must hold folders {', '.join(SPLITS)} with a folder of clips per class in each, two at least, "
            f"got {classes} in {root}. Name the folder above them."
        )
    if table.index.has_duplicates:
        key = table.index[table.index.duplicated()][0]
        raise ValueError(f"{' and '.join(table.loc[key, 'path'])} have the same key {key!r}. Rename one of the two.")


def plan_folds(clips: LabelledClips, cfg: ClassificationConfig) -> list[Fold]:
    """Divide clips for training.

    "source": `cfg.folds` parts of whole sources with equal shares of the classes; each is the test part once and the
    validation part once, so that every clip has a prediction of a model that saw neither it nor its source.
    "official": one fold, the folders train, validation and test. ValueError where there are too few clips or sources,
    or the training clips of a fold, or the test clips, lack a class.
    """
    folds = _official(clips.table) if cfg.split == "official" else _by_source(clips.table, cfg)
    parts = {f"the training clips of fold {k}": fold.train for k, fold in enumerate(folds)}
    parts["the test clips"] = np.concatenate([fold.test for fold in folds])
    for name, rows in parts.items():
        if absent := set(range(len(clips.classes))) - set(clips.table["label"].iloc[rows]):
            lacking = f"got none of {clips.classes[min(absent)]}. Add some, or leave it out"
            raise ValueError(f"{name} must be of all classes, {lacking}.")
    return folds


def _official(table: pd.DataFrame) -> list[Fold]:
    fold = Fold(*(np.flatnonzero(table["split"] == split) for split in SPLITS))
    if not all(map(len, fold)):
        there = ", ".join(sorted(set(table["split"])))
        raise ValueError(f"split 'official' needs folders {', '.join(SPLITS)}, got {there}. Choose 'source'.")
    return [fold]


def _by_source(table: pd.DataFrame, cfg: ClassificationConfig) -> list[Fold]:
    most = min(table["source"].nunique(), table["label"].value_counts().max())
    if most < cfg.folds:
        must = f"folds must be at most {most}, as sources and clips of the largest class, got {cfg.folds}"
        raise ValueError(f"{must}. Take fewer, or add clips.")
    divide = StratifiedGroupKFold(cfg.folds, shuffle=True, random_state=cfg.seed)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of small classes: `plan_folds` judges
        tests = [test for _, test in divide.split(table, table["label"], table["source"])]
    every = np.arange(len(table))
    pairs = zip(tests, [*tests[1:], tests[0]], strict=True)  # the part after a test part chooses the epoch
    return [Fold(np.setdiff1d(every, [*test, *after]), after, test) for test, after in pairs]


class ViewRows(ClipRows):
    """The rows of a clip in all of its views: one per frame, for the moment of it."""

    def __init__(self, scales: list[float]):
        super().__init__()
        self.scales = scales

    def why_invalid(self, rows: FeatureFile) -> dict[int, str]:
        return {row: f"{rows.view[row]}: {FAILED}" for row in np.flatnonzero(~rows.valid).tolist()}

    def _file(self, features: np.ndarray) -> FeatureFile:
        t_s, valid = self._column("t_s"), np.isfinite(features).all(axis=1)
        view = np.repeat([chunk.view for chunk in self._seen], [len(chunk.t_s) for chunk in self._seen])
        for name in dict.fromkeys(view):
            own = view == name
            features[own], valid[own] = average_scales(features[own], t_s[own], valid[own], self.scales)
        return FeatureFile(features, t_s, t_s, self._column("frame"), valid, self._seen[-1].decoder, view=view)


def extract_clip_features(cfg: ClassificationConfig) -> LabelledClips:
    """Make the feature files of all splits, in all views, and the HDF5 files of the plain ones; see `views_of`.

    ValueError as of `find_classes` and `plan_folds`; where the folder was made otherwise; or no clip could be used.
    """
    clips = find_classes(cfg.data)
    _note_few_sources(clips, cfg)
    backbone = build_backbone(cfg.backbone, cfg.weights, input_px=cfg.input_px)

    def job(path: Path, key: str, fingerprint: str) -> FrameJob:
        place, split = clips.table.loc[key, ["place", "split"]]
        return FrameJob(path, int(place), key, views_of(split, cfg), cfg, backend_name(), backbone.input_px)

    network = Network(compile_forward(backbone.model, cfg.precision, backbone.prepare), cfg.batch_size)
    source = Source(clip_frames, job, lambda _: ViewRows(cfg.scales))
    with Stage(cfg.out / "classification" / "views", "views", *_made_of(cfg, backbone)) as stage:
        with ClipRun("08 views", clips.table, cfg, stage, source, network) as run:
            run.stream()
        counts = run.finish()
        clips = clips._replace(table=_usable(clips.table, stage, cfg), folder=stage.folder)
        spent_s = {what: round(seconds, 3) for what, seconds in run.spent_s.items()}
        clips = clips._replace(manifest=stage.finish({"seconds_spent": spent_s}, **counts))
    _write_hdf5(clips, cfg)
    return clips


def _made_of(cfg: ClassificationConfig, backbone: Backbone) -> tuple[dict[str, Any], dict[str, Any]]:
    """What decides the numbers of the views, and what else they were made with."""
    parameters = {name: getattr(cfg, name) for name in PARAMETERS} | {"backend": backend_name()}
    identity = {"parameters": parameters, "weights": backbone.weights.as_dict()}
    identity["network_backend"] = keras.backend.backend()
    return identity, {"keras": keras.__version__, "decoder": backend_version(backend_name())}


def views_of(split: str, cfg: ClassificationConfig) -> tuple[str, ...]:
    """The views that clips of a split have: with `split` "source", where every clip trains and tests, all; with
    "official" only clips of `train` have those for training, and only clips of `test` those for testing.
    """
    training, testing = view_names(cfg.views, cfg.tta_views)
    if cfg.split == "source":
        return (PLAIN, *training, *testing)
    return (PLAIN, *{"train": training, "test": testing}.get(split, ()))


def _note_few_sources(clips: LabelledClips, cfg: ClassificationConfig) -> None:
    """Refuse clips that could not be trained and tested on; few sources are a problem."""
    tested = np.concatenate([fold.test for fold in plan_folds(clips, cfg)])
    n_sources = clips.table["source"].iloc[tested].nunique()
    if n_sources < FEWEST:
        few = f"of {n_sources} sources only: accuracies have no interval, which needs {FEWEST}"
        clips.problems.append({"name": "the test clips", "problem": few})


def _usable(table: pd.DataFrame, stage: Stage, cfg: ClassificationConfig) -> pd.DataFrame:
    """The clips with a valid row in each view, with `n_rows` and `fingerprint`; what the others lack is recorded."""
    about = {}
    for key in table.index.drop([entry["clip"] for entry in stage.failed if "row" not in entry]):
        valid, view, fingerprint = read_arrays(stage.path(key), ("valid", "view", "fingerprint")).values()
        if unseen := sorted(set(view) - set(view[valid])):
            stage.fail(key, f"no frame of it can be used as {unseen[0]}")
        else:
            about[key] = {"n_rows": int((view == PLAIN).sum()), "fingerprint": str(fingerprint)}
    if not about:
        raise ValueError(f"no clip in {cfg.data} could be used. The first: {stage.failed[0]['reason']}.")
    return table.join(pd.DataFrame.from_dict(about, "index"), how="inner")


def _write_hdf5(clips: LabelledClips, cfg: ClassificationConfig) -> None:
    """Write the plain views of every split, and `configuration_analysis.json`: shapes, lengths, how they were made."""
    folder, multi = cfg.out / "classification" / "features", cfg.scales != [1.0]
    mapping, splits = {name: label for label, name in enumerate(clips.classes)}, {}
    identity, width = clips.manifest["identity"], clips.manifest["counts"]["feature_dim"]
    attributes = {"category_mapping": json.dumps(mapping), "multi_scale": multi}
    attributes["identity"] = json.dumps(identity, sort_keys=True)
    for split, part in clips.table.groupby("split"):
        lengths, text = part["n_rows"].to_numpy(), h5py.string_dtype()
        datasets = {"key": part.index.to_numpy(text), "source": part["source"].to_numpy(text)}
        datasets["labels"] = part["label"].to_numpy("int64")
        path = folder / f"{split}_features{'_multiscale' if multi else ''}.h5"
        write_sequences(path, (next(clips.read(key)) for key in part.index), (lengths, width), datasets, attributes)
        splits[split] = {
            "features_shape": [len(part), int(lengths.max()), width],
            "num_frames": {"min": int(lengths.min()), "max": int(lengths.max()), "mean": float(lengths.mean())},
            "clips_per_class": part["category"].value_counts().reindex(clips.classes, fill_value=0).to_dict(),
        }
    settings = {"frames_per_video": cfg.n_frames, "image_size": [cfg.frame_px, cfg.frame_px]}
    settings["processing_mode"] = identity["parameters"]["backend"]
    own = {"preprocessing_info": settings, "scales": cfg.scales, "category_mapping": mapping, "splits": splits}
    write_json(folder / "configuration_analysis.json", own | {"problems": clips.problems} | clips.manifest)


def average_scales(
    features: np.ndarray, t_s: np.ndarray, valid: np.ndarray, scales: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Average a clip's rows, features (n, D) float32, seconds and valid (n,), over temporal scales, on its own times.

    At a scale s, max(round(n s), 5) of the n rows are seen, evenly spread: fewer as in a faster clip, more, some of
    them twice, as in a slower one (S2). Each scale is brought back to the n times by linear interpolation, where S2
    pads with zeros, and counts where both rows that it interpolates between are valid.

    Returns:
        Features (n, D) float32, and which are valid (n,): those without a valid scale are zero and not valid.
    """
    n = len(t_s)
    features, weights, used = np.where(valid[:, None], features, 0), np.zeros((n, n)), np.zeros(n)
    for scale in scales:
        seen = np.unique(np.linspace(0, n - 1, max(round(n * scale), 5)).round().astype(int))
        share = np.stack([np.interp(t_s, t_s[seen], row) for row in np.eye(len(seen))], 1)  # (n, seen), rows sum to 1
        usable = (share @ ~valid[seen]) == 0
        weights[:, seen] += share * usable[:, None]
        used += usable
    return (weights / np.maximum(used, 1)[:, None] @ features).astype(np.float32), used > 0
