"""Frame features of labelled clips (08): what a frozen network says of every clip, in every view.

Written in `<out>/classification/`: a stage `views/` with a feature file per clip, whose rows are those of its views,
one view below the other, named by the column `view`, each averaged over temporal scales; and of the plain views
`features/{split}_features[_multiscale].h5` (`helpers.large`) with `configuration_analysis.json`. The pipeline is that
of 03 and 04: stopped and started again it goes on, a damaged clip is recorded and left out, and memory does not grow
with the number of clips.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import keras
import numpy as np
import pandas as pd

from helpers.backbones import build_backbone
from helpers.class_folders import check_folds, find_classes
from helpers.clip_frames import PLAIN, FrameJob, clip_frames, view_names
from helpers.config import ClassificationConfig
from helpers.files import write_json
from helpers.forward import compile_forward
from helpers.large import write_sequences
from helpers.pipeline import ClipRun, Network, Source
from helpers.rows import FAILED, ClipRows
from helpers.store import FeatureFile, Stage, read_arrays
from helpers.video import backend_name, backend_version

PARAMETERS = ("backbone", "weights", "input_px", "n_frames", "frame_px", "flip", "seed", "precision")
COLUMNS = ("features", "t_start_s", "valid", "view")  # of a clip's file that are read
VIEWS = ("scales", "views", "tta_views", "split")  # further parameters that decide what is in a clip's file


class ViewRows(ClipRows):
    """The rows of a clip in all of its views: one per frame, for the moment of it."""

    def __init__(self, scales: list[float]):
        super().__init__()
        self.scales = scales

    def why_invalid(self, rows: FeatureFile) -> dict[int, str]:
        return {row: f"{rows.view[row]}: {FAILED}" for row in np.flatnonzero(~rows.valid).tolist()}

    def _samples(self, values: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        return ((frame, 1) for frame in values)

    def _file(self, features: np.ndarray) -> FeatureFile:
        t_s, frame = self._column("t_s"), self._column("frame")
        view = np.repeat([chunk.view for chunk in self._seen], [len(chunk.t_s) for chunk in self._seen])
        valid = np.isfinite(features).all(axis=1)
        for name in dict.fromkeys(view):
            own = view == name
            features[own], valid[own] = average_scales(features[own], t_s[own], valid[own], self.scales)
        return FeatureFile(features, t_s, t_s, frame, valid, self._seen[-1].decoder, view=view)


class ClipViews(NamedTuple):
    """Labelled clips whose features are made.

    Attributes:
        table: Index key; columns path, place, split, category, source, label, n_rows (in the plain view) and stamp (of
            the version of the clip).
        classes: Names of the classes by label.
        folder: The stage with a file per clip.
        manifest: Of the stage.
        problems: See `helpers.class_folders.LabelledClips`.
    """

    table: pd.DataFrame
    classes: list[str]
    folder: Path
    manifest: dict[str, Any]
    problems: list[dict[str, str]]

    def read(self, key: str, views: Sequence[str] = (PLAIN,)) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each of these views of a clip the features (n, D) float32, seconds (n,), and which are valid (n,) bool."""
        features, t_s, valid, view = read_arrays(self.folder / f"{key}.npz", COLUMNS).values()
        yield from ((features[own], t_s[own], valid[own]) for own in (view == name for name in views))

    def notes(self) -> list[str]:
        """What was left out and why, and what is to be known before training: a line each."""
        lost = [entry for entry in self.manifest["failed"] if "row" not in entry]
        left_out = [f"left out: {entry['clip']}: {entry['reason']}" for entry in lost]
        return left_out + [f"note: {entry['name']}: {entry['problem']}" for entry in self.problems]


def extract_clip_features(cfg: ClassificationConfig, *, to_train: bool = False) -> ClipViews:
    """Make the feature files of all splits, in all views, and the HDF5 files of the plain ones.

    With `split` "source", where every clip trains in some folds and tests in another, each clip has every view; with
    "official" only clips of `train` have those for training, and only clips of `test` those for testing.

    Args:
        cfg: Parameters.
        to_train: Refuse clips that could not be trained and tested on afterwards, see `check_folds`.

    Raises:
        ValueError: See `find_classes` and `check_folds`; the folder was made otherwise; or no clip could be used.
    """
    table, categories, problems = find_classes(cfg.data)
    problems += check_folds(table, list(categories), cfg) if to_train else []
    backbone, backend = build_backbone(cfg.backbone, cfg.weights, input_px=cfg.input_px), backend_name()
    identity = {
        "parameters": {name: getattr(cfg, name) for name in (*PARAMETERS, *VIEWS)} | {"backend": backend},
        "weights": backbone.weights.as_dict(),
        "network_backend": keras.backend.backend(),
    }
    made_with = {"keras": keras.__version__, "decoder": backend_version(backend)}

    def job(path: Path, key: str, fingerprint: str) -> FrameJob:
        place, split = table.loc[key, ["place", "split"]]
        return FrameJob(path, int(place), key, views_of(split, cfg), cfg, backend, backbone.input_px)

    folder, network = cfg.out / "classification", compile_forward(backbone.model, cfg.precision, backbone.prepare)
    source = Source(clip_frames, job, lambda _: ViewRows(cfg.scales))
    with Stage(folder / "views", "views", identity, made_with) as stage:
        with ClipRun("08 views", table, cfg, stage, source, Network(network, cfg.batch_size)) as run:
            run.stream()
        counts = run.finish()
        left_out = [entry["clip"] for entry in stage.failed if "row" not in entry]
        table = _usable(table.drop(left_out), stage)
        if table.empty:
            raise ValueError(f"no clip in {cfg.data} could be used. The first: {stage.failed[0]['reason']}.")
        about = {"identity": identity, "counts": counts, "failed": stage.failed}
        about["seconds_spent"] = {what: round(seconds, 3) for what, seconds in run.spent_s.items()}
        clips = ClipViews(table, list(categories), stage.folder, about, problems)
        _write_hdf5(clips, cfg, backbone.feature_dim)
        manifest = stage.finish(**counts)
    return clips._replace(manifest=manifest)


def views_of(split: str, cfg: ClassificationConfig) -> tuple[str, ...]:
    """The views that clips of a split have."""
    training, testing = view_names(cfg.views, cfg.tta_views)
    if cfg.split == "source":
        return (PLAIN, *training, *testing)
    return (PLAIN, *{"train": training, "test": testing}.get(split, ()))


def _usable(table: pd.DataFrame, stage: Stage) -> pd.DataFrame:
    """The clips with a valid row in each view, with `n_rows` and `stamp`; the others are recorded."""
    about = {}
    for key in table.index:
        valid, view, stamp = read_arrays(stage.path(key), ("valid", "view", "stamp")).values()
        if unseen := sorted(set(view) - set(view[valid])):
            stage.fail(key, f"no frame of it can be used as {unseen[0]}")
        else:
            about[key] = {"n_rows": int((view == PLAIN).sum()), "stamp": str(stamp)}
    return table.join(pd.DataFrame.from_dict(about, "index", columns=["n_rows", "stamp"]), how="inner")


def _write_hdf5(clips: ClipViews, cfg: ClassificationConfig, width: int) -> None:
    """Write the plain views of every split, and `configuration_analysis.json`: shapes, lengths, how they were made."""
    folder, multi = cfg.out / "classification" / "features", cfg.scales != [1.0]
    mapping, splits, text = {name: label for label, name in enumerate(clips.classes)}, {}, h5py.string_dtype()
    identity = clips.manifest["identity"]
    attributes = {"category_mapping": json.dumps(mapping), "multi_scale": multi}
    attributes["identity"] = json.dumps(identity, sort_keys=True)
    for split, part in clips.table.groupby("split"):
        lengths, texts = part["n_rows"].to_numpy(int), {"key": part.index, "source": part["source"]}
        datasets = {name: np.asarray(list(values), text) for name, values in texts.items()}
        datasets["labels"] = part["label"].to_numpy("int64")
        path = folder / f"{split}_features{'_multiscale' if multi else ''}.h5"
        write_sequences(path, (next(clips.read(key)) for key in part.index), (lengths, width), datasets, attributes)
        splits[split] = {
            "features_shape": [len(part), int(lengths.max()), width],
            "num_frames": {"min": int(lengths.min()), "max": int(lengths.max()), "mean": float(lengths.mean())},
            "clips_per_class": part["category"].value_counts().reindex(clips.classes, fill_value=0).to_dict(),
            "views": list(views_of(split, cfg)),
        }
    settings = {"frames_per_video": cfg.n_frames, "image_size": [cfg.frame_px, cfg.frame_px]}
    settings["processing_mode"] = identity["parameters"]["backend"]
    own = {"preprocessing_info": settings, "scales": list(cfg.scales), "category_mapping": mapping, "splits": splits}
    write_json(folder / "configuration_analysis.json", own | {"problems": clips.problems} | clips.manifest)


def average_scales(
    features: np.ndarray, t_s: np.ndarray, valid: np.ndarray, scales: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Average a clip's rows over temporal scales, on the clip's own times.

    At a scale s, max(round(n s), 5) of the n rows are seen, evenly spread: fewer as in a faster clip, more, some of
    them twice, as in a slower one (S2). Each scale is brought back to the n times by linear interpolation, where S2
    pads with zeros, and counts where both rows that it interpolates between are valid.

    Args:
        features: (n, D) float32.
        t_s: (n,) seconds, ascending.
        valid: (n,) bool.
        scales: Such as 1.0, 0.85 and 1.15.

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
