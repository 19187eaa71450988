"""Names the class of a video: the trained classifiers of a run as one ensemble, as far as a user is concerned.

In: a run's `classification/`. Out: `classification/model/` (`card.json` and the checkpoints of the best row of the
table, every fold and seed), and probabilities of the classes for videos that nobody labelled.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.backbones import Backbone, build_backbone
from helpers.classifier import FrameClassifier, load_classifier, predict_classes
from helpers.clip_features import average_scales
from helpers.clip_frames import FrameJob, clip_frames
from helpers.clip_training import TRAINING_PARAMETERS, models_folder
from helpers.config import ClassificationConfig
from helpers.files import code_version, needs, read_json, replacing, write_json
from helpers.forward import Forward, compile_forward
from helpers.frame_rows import FrameRows
from helpers.rows import rows_of_clip
from helpers.video import backend_name
from helpers.views import PLAIN, view_names

LOOKED_AT = ("backbone", "weights", "input_px", "n_frames", "frame_px", "scales", "flip", "seed", "precision")


@dataclass(frozen=True)
class ClipClassifier:
    """An ensemble of checkpoints and the backbone before them: load it once, classify many videos."""

    members: Sequence[FrameClassifier]
    card: dict[str, Any]
    cfg: ClassificationConfig
    backbone: Backbone
    forward: Forward


def keep_model(cfg: ClassificationConfig, results: dict[str, Any]) -> dict[str, Any]:
    """Write `classification/model/`: the checkpoints of all folds and seeds, and `card.json`.

    Each checkpoint has seen other clips; the accuracy on the card is that of clips which none of its makers saw.

    Args:
        cfg: Parameters of the run.
        results: What `evaluate_all` returned.

    Returns:
        The card: `classes`, `checkpoints`, `metrics`, `split`, `config`, `tta_views`, `weights`, `code_version`.
    """
    folder = cfg.out / "classification" / "model"
    names = [f"{member}.keras" for member in results["members"]]
    for name in names:
        with replacing(folder / name) as part:
            shutil.copyfile(models_folder(cfg) / name, part)
    for stale in set(folder.glob("*.keras")).difference(folder / name for name in names):
        stale.unlink()
    card = {
        "classes": results["classes"],
        "checkpoints": names,
        "metrics": results["models"],
        "split": results["split"],
        "config": {name: getattr(cfg, name) for name in (*LOOKED_AT, *TRAINING_PARAMETERS)},
        "tta_views": cfg.tta_views,
        "weights": cfg.weights,
        "code_version": code_version(),
    }
    write_json(folder / "card.json", card)
    return card


def load_clip_classifier(folder: str | Path, checkpoints: Sequence[str | Path] = ()) -> ClipClassifier:
    """Load the classifier that `keep_model` wrote.

    Args:
        folder: `classification/model/` of a run.
        checkpoints: Further `.keras` files of the same classes and backbone to average with.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A checkpoint for features of another width.
    """
    folder = Path(folder)
    card = read_json(needs(folder / "card.json", "08_clip_classification"))
    cfg = ClassificationConfig.checked(card["config"] | {"tta_views": card["tta_views"]})
    backbone = build_backbone(cfg.backbone, cfg.weights, input_px=cfg.input_px)
    paths = [folder / name for name in card["checkpoints"]] + [Path(path) for path in checkpoints]
    members = [load_classifier(path, backbone.feature_dim) for path in paths]
    for path, member in zip(paths, members, strict=True):
        if member.n_classes != len(card["classes"]):
            raise ValueError(f"{path} must tell {len(card['classes'])} classes, got {member.n_classes}. Leave it out.")
    return ClipClassifier(members, card, cfg, backbone, compile_forward(backbone.model, cfg.precision))


def classify_clip(video: str | Path, classifier: ClipClassifier) -> dict[str, float]:
    """Probability of each class: the mean over checkpoints, and over the views that the run tested with.

    Raises:
        helpers.clip_run.CLIP_ERRORS: The video cannot be used.
    """
    cfg, path = classifier.cfg, Path(video)
    tta = tuple(name for name in view_names(0, cfg.tta_views)[1] if name.startswith("tta"))
    px, backend = classifier.backbone.input_px, backend_name("auto", [path])
    pieces = clip_frames(FrameJob(path, -1, path.stem, (PLAIN, *tta), cfg, backend, px))
    rows = rows_of_clip(FrameRows(), pieces, classifier.forward, cfg.batch_size, classifier.backbone.preprocess)
    p = []
    for view in dict.fromkeys(rows.views):
        seen = rows.views == view
        sequence = rows.features[seen], rows.t_start_s[seen], rows.valid[seen]
        features, _, valid = average_scales(sequence, cfg.scales)
        inputs = {"features": features[None], "mask": valid[None]}
        p += [predict_classes(member, inputs)[0] for member in classifier.members]
    return dict(zip(classifier.card["classes"], np.mean(p, axis=0).astype(float).tolist(), strict=True))
