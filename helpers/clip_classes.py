"""Names the class of a video: the trained classifiers of a run as one ensemble, as far as a user is concerned.

In: a run's `classification/`. Out: `classification/model/` (`card.json` and the checkpoints of the best row of the
table, every fold and seed), and probabilities of the classes for videos that nobody labelled. Classifiers of several
runs, each with its own backbone, are one ensemble too.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.backbones import Backbone, build_backbone
from helpers.classification import TRAINING_PARAMETERS, models_folder
from helpers.classifier import FrameClassifier, load_classifier, predict_classes
from helpers.clip_features import DECISIVE, FrameRows, average_scales
from helpers.clip_frames import PLAIN, FrameJob, clip_frames, view_names
from helpers.config import ClassificationConfig
from helpers.files import code_version, needs, read_json, replacing, write_json
from helpers.forward import Forward, compile_forward
from helpers.pipeline import rows_of_clip
from helpers.video import backend_name


@dataclass(frozen=True)
class ClipClassifier:
    """An ensemble of checkpoints and the backbone before them: load it once, classify many videos.

    `others` are classifiers of other runs to average with, each by its own features; every run counts alike.
    """

    members: Sequence[FrameClassifier]
    card: dict[str, Any]
    cfg: ClassificationConfig
    backbone: Backbone
    forward: Forward
    others: Sequence["ClipClassifier"] = ()


def keep_model(cfg: ClassificationConfig, results: dict[str, Any]) -> dict[str, Any]:
    """Write `classification/model/`: the checkpoints of all folds and seeds, and `card.json`.

    Each checkpoint has seen other clips; the accuracy on the card is that of clips which none of its makers saw.

    Args:
        cfg: Parameters of the run.
        results: What `evaluate_all` returned.

    Returns:
        The card: `classes`, `checkpoints`, `metrics`, `split`, `config`, `tta_views`, `weights`, `drawn`
        (whether its clips are synthetic, with a planted truth), `code_version`.
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
        "config": {name: getattr(cfg, name) for name in (*DECISIVE, "scales", *TRAINING_PARAMETERS)},
        "tta_views": cfg.tta_views,
        "weights": cfg.weights,
        "drawn": (cfg.data / "truth.csv").exists(),
        "code_version": code_version(),
    }
    write_json(folder / "card.json", card)
    return card


def load_clip_classifier(folder: str | Path, further: Sequence[str | Path] = ()) -> ClipClassifier:
    """Load the classifier that `keep_model` wrote.

    Args:
        folder: `classification/model/` of a run.
        further: What to average with, of the same classes: `.keras` files for features of the same backbone, or such
            folders of other runs, of any backbone.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A model of traits, a checkpoint for features of another width, or for other classes.
    """
    folder, further = Path(folder), [Path(path) for path in further]
    card = _read_card(folder)
    classes, runs = card["classes"], [path for path in further if path.is_dir()]
    for run in runs:  # before anything is loaded
        if (others := _read_card(run)["classes"]) != classes:
            raise ValueError(
                f"{run} must tell the {len(classes)} classes {', '.join(classes)}, got {len(others)}: "
                f"{', '.join(others)}. Leave it out."
            )
    cfg = ClassificationConfig.checked(card["config"] | {"tta_views": card["tta_views"]})
    backbone = build_backbone(cfg.backbone, cfg.weights, input_px=cfg.input_px)
    paths = [folder / name for name in card["checkpoints"]] + [path for path in further if path not in runs]
    members = [load_classifier(path, backbone.feature_dim) for path in paths]
    for path, member in zip(paths, members, strict=True):
        if member.n_classes != len(classes):
            raise ValueError(f"{path} must tell {len(classes)} classes, got {member.n_classes}. Leave it out.")
    forward = compile_forward(backbone.model, cfg.precision, backbone.prepare)
    return ClipClassifier(members, card, cfg, backbone, forward, [load_clip_classifier(run) for run in runs])


def _read_card(folder: Path) -> dict[str, Any]:
    """The card of a classifier; ValueError where it is that of another model."""
    card = read_json(needs(folder / "card.json", "08_clip_classification"))
    if "classes" not in card:
        raise ValueError(
            f"{folder} must be a model of classes, got one of traits. Name the folder classification/model of a run."
        )
    return card


def warnings_of(classifier: ClipClassifier) -> list[str]:
    """What weakens everything that a classifier, or one that it is averaged with, says: sentences."""
    runs, said = (classifier, *classifier.others), []
    if any(run.cfg.weights == "random" for run in runs):
        said.append("the backbone has random weights: these probabilities say nothing about a real video")
    if any(run.card.get("drawn") for run in runs):
        said.append("the model was trained on drawn clips: what it learned is about drawings, not about people")
    return said


def classify_clip(video: str | Path, classifier: ClipClassifier) -> dict[str, float]:
    """Probability of each class: the mean over checkpoints, over the views that the run tested with, and over runs.

    Raises:
        VideoError: The video cannot be used.
    """
    p = np.mean([_probabilities(Path(video), run) for run in (classifier, *classifier.others)], axis=0)
    return dict(zip(classifier.card["classes"], p.astype(float).tolist(), strict=True))


def _probabilities(video: Path, run: ClipClassifier) -> np.ndarray:
    """What one run's classifier says of a video, (n_classes,)."""
    cfg, tta = run.cfg, [name for name in view_names(0, run.cfg.tta_views)[1] if name.startswith("tta")]
    backend = backend_name()
    job = FrameJob(video, -1, video.stem, (PLAIN, *tta), cfg, backend, run.backbone.input_px)
    rows = rows_of_clip(FrameRows(), clip_frames(job), run.forward, cfg.batch_size)
    p = []
    for view in job.views:
        own = rows.views == view
        features, _, valid = average_scales((rows.features[own], rows.t_start_s[own], rows.valid[own]), cfg.scales)
        inputs = {"features": features[None], "mask": valid[None]}
        p += [predict_classes(member, inputs)[0] for member in run.members]
    return np.mean(p, axis=0)
