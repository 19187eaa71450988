"""Trains the classifiers of all folds and seeds, and says how good they are beside the baselines.

Written below `<out>/classification/`: for each training `models/<model>-<fold>-<seed>.npz` (the probabilities (n_test,
n_classes) of its test clips in every view, and their rows) and, for networks, `.keras`; of all, `classification.json`,
`predictions.csv` and `model/`, the ensemble. A training that is there is not done again. Every interval is a bootstrap
over sources; every difference is paired.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.utils.class_weight import compute_sample_weight

from helpers.class_folders import Fold, check_folds, plan_folds
from helpers.classifier import build_classifier, fit_bag
from helpers.clip_features import ClipVariants, feature_files, read_variants
from helpers.clip_frames import CORRUPTIONS, PLAIN, tta_names, view_names
from helpers.clips import is_synthetic
from helpers.config import ClassificationConfig, TrainingConfig
from helpers.files import code_version, file_sha256, replacing, write_json
from helpers.statistics import NONE, mean_interval
from helpers.store import read_arrays
from helpers.train import Trainer, fingerprint, job_file, train_missing
from helpers.workers import cores

MAJORITY, BAG, BILSTM, AUGMENTED, ENSEMBLE = "majority", "bag_of_frames", "bilstm", "bilstm_augmented", "ensemble"
TABLE_ORDER = (MAJORITY, BAG, BILSTM, f"{BILSTM}_tta", AUGMENTED, f"{AUGMENTED}_tta", ENSEMBLE)
NOT_DECISIVE = ("data_dir", "out_dir", "workers", "progress")  # for results
BINS = 10  # of confidence, as Guo et al. (2017, ICML, arXiv:1706.04599) have 15 for larger sets
Probabilities = Mapping[str, Mapping[str, np.ndarray]]  # model -> view (plain or a corruption) -> (N, n_classes)


class Job(NamedTuple):
    """One training: the name of the model, the number of the fold, the seed of weights and order."""

    model: str
    fold: int
    seed: int


def plan_jobs(cfg: ClassificationConfig, n_folds: int) -> list[list[Job]]:
    """The trainings of a run by model and fold, the longest first; the seeds of an ensemble follow `cfg.seed`."""
    best, seeds = AUGMENTED if cfg.views else BILSTM, range(cfg.seed, cfg.seed + cfg.n_models)
    single = [BILSTM, BAG] if cfg.views else [BAG]
    groups = [[Job(best, fold, seed) for seed in seeds] for fold in range(n_folds)]
    return groups + [[Job(name, fold, cfg.seed)] for name in single for fold in range(n_folds)]


def train_all(cfg: ClassificationConfig, n_folds: int) -> None:
    """Do every training of a run that is not done, in `cfg.workers` processes (0: one per core)."""
    folder = cfg.out / "classification" / "models"
    parts = {"/".join(names): file_sha256(path) for names, path in feature_files(cfg).items()}
    known = fingerprint([parts, cfg.as_dict(without=(*NOT_DECISIVE, "n_models", "batch_size"))])
    options = {"workers": cfg.workers or cores(), "progress": cfg.progress}
    config = json.dumps(cfg.as_dict(without=NOT_DECISIVE[2:]))
    train_missing(make_trainings, (config, known), folder, plan_jobs(cfg, n_folds), known, **options)


def _file(cfg: ClassificationConfig, job: Job) -> Path:
    return job_file(cfg.out / "classification" / "models", job)


def make_trainings(
    context: tuple[str, str], jobs: Sequence[Job]
) -> Iterator[tuple[dict[str, np.ndarray], keras.Model | None]]:
    """Train one model on one fold with each seed, in a worker; the network is compiled once for all groups."""
    cfg, clips, trainer = _prepare(*context)
    fold, views = plan_folds(clips.table, cfg)[jobs[0].fold], [PLAIN, *view_names(0, cfg.tta_views)[1]]
    for model, p in _trained(jobs, fold, views, clips, trainer, cfg):
        yield {"test": fold.test, **{f"p_{view}": p[view] for view in views}}, model


@lru_cache(maxsize=1)
def _prepare(config: str, known: str) -> tuple[ClassificationConfig, ClipVariants, Trainer]:
    """Parameters and clips of a run and what its networks are trained by: once per worker and fingerprint."""
    cfg = ClassificationConfig.checked(json.loads(config))
    clips = read_variants(cfg)
    how = {name: getattr(cfg, name) for name in ("epochs", "learning_rate", "patience")}
    training = TrainingConfig(batch_size=cfg.clips_per_batch, weight_decay=0.0, schedule="cosine", **how)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=cfg.label_smoothing)
    network = build_classifier(clips.features[PLAIN].shape[-1], len(clips.classes), cfg, seed=0)
    return cfg, clips, Trainer(network, training, loss)


def _trained(
    jobs: Sequence[Job],
    fold: Fold,
    views: Sequence[str],
    clips: ClipVariants,
    trainer: Trainer,
    cfg: ClassificationConfig,
) -> Iterator[tuple[keras.Model | None, dict[str, np.ndarray]]]:
    """The network of each job and the probabilities of its test clips by view, float32 (n_test, n_classes).

    Classes count alike, however many clips they have. Principal components are those of the training clips in all of
    their views; they and what they make of frames are the same for all seeds.
    """
    names = [PLAIN, *view_names(cfg.views if jobs[0].model == AUGMENTED else 0, 0)[0]]
    labels = clips.table["label"].to_numpy()
    train, truth = [clips.frames(view, fold.train) for view in names], np.tile(labels[fold.train], len(names))
    validation = clips.frames(PLAIN, fold.validation)
    if jobs[0].model == BAG:
        predict = fit_bag(*train, truth, validation, labels[fold.validation])
        yield None, {view: predict(*clips.frames(view, fold.test)).astype("float32") for view in views}
        return
    network, one_hot = trainer.model, np.eye(len(clips.classes), dtype="float32")
    network.reduction.adapt(train)
    components, weights = network.reduction.get_weights(), compute_sample_weight("balanced", truth).astype("float32")
    train = _joined([network.reduce(*frames) for frames in train]), one_hot[truth], weights
    validation = network.reduce(*validation), one_hot[labels[fold.validation]]
    test = _joined([network.reduce(*clips.frames(view, fold.test)) for view in views])
    for job in jobs:
        start = build_classifier(network.feature_dim, network.n_classes, cfg, job.seed)
        start.reduction.set_weights(components)
        trainer.fit(start, train, validation)
        p = network.predict(test, batch_size=1024, verbose=0)
        yield start, dict(zip(views, np.split(p, len(views)), strict=True))


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def evaluate_all(cfg: ClassificationConfig) -> dict[str, Any]:
    """Train what is not trained, score every model on clips that it did not see, and write results and ensemble.

    Returns:
        What `classification.json` holds: `models` (see `score_models`), `best` (the last of them) and `members` (its
        trainings), `gains`, `per_class`, `confusion`, `calibration`, `classes`, `split`, `config`.
    """
    clips = read_variants(cfg)
    check_folds(clips.table, clips.classes, cfg)
    folds = plan_folds(clips.table, cfg)
    train_all(cfg, len(folds))
    p, rows = all_probabilities(clips, cfg)
    table, best = clips.table.iloc[rows], list(p)[-1]
    truth, sources = table["label"].to_numpy(), table["source"].to_numpy()
    every, fold_of = clips.table["source"].to_numpy(), np.zeros(len(clips.table), int)
    for number, fold in enumerate(folds):
        fold_of[fold.test] = number
    groups = plan_jobs(cfg, len(folds))
    members = [job for group in groups for job in group if job.model == groups[0][0].model]
    shared = max(int(np.isin(every[fold.test], every[fold.train]).sum()) for fold in folds)
    results = {
        "models": score_models(p, truth, sources),
        "gains": gains(p, truth, sources),
        "best": best,
        "members": [_file(cfg, job).stem for job in members],
        "per_class": per_class(p[best][PLAIN], truth, clips.classes).to_dict("index"),
        "confusion": metrics.confusion_matrix(truth, p[best][PLAIN].argmax(1)).tolist(),
        "calibration": {name: calibration_error(views[PLAIN], truth) for name, views in p.items()},
        "classes": clips.classes,
        "split": {
            "by": cfg.split,
            "folds": len(folds),
            "test_clips_sharing_a_source_with_train": shared,
            "clips": len(clips.table),
            "sources": clips.table["source"].nunique(),
            "test_clips": len(rows),
            "test_sources": table["source"].nunique(),
        },
        "config": cfg.as_dict(without=NOT_DECISIVE),
    }
    with replacing(cfg.out / "classification" / "predictions.csv") as part:
        said = _prediction_table(p, table.assign(fold=fold_of[rows]), clips.classes)
        said.to_csv(part, index=False, float_format="%.9g")
    _keep_ensemble(cfg, results)
    write_json(cfg.out / "classification" / "classification.json", results)
    return results


def _keep_ensemble(cfg: ClassificationConfig, results: dict[str, Any]) -> None:
    """Write `model/`: the checkpoints of the best model with all folds and seeds, and `card.json`.

    Each checkpoint has seen other clips; the accuracy on the card is that of clips which none of its makers saw.
    """
    folder = cfg.out / "classification" / "model"
    names = [f"{member}.keras" for member in results["members"]]
    for name in names:
        with replacing(folder / name) as part:
            shutil.copyfile(folder.parent / "models" / name, part)
    for stale in set(folder.glob("*.keras")).difference(folder / name for name in names):
        stale.unlink()
    card = {name: results[name] for name in ("classes", "split", "config")} | {
        "checkpoints": names,
        "metrics": results["models"],
        "tta_views": cfg.tta_views,
        "weights": cfg.weights,
        "drawn": is_synthetic(cfg.data),
        "code_version": code_version(),
    }
    write_json(folder / "card.json", card)


def all_probabilities(clips: ClipVariants, cfg: ClassificationConfig) -> tuple[Probabilities, np.ndarray]:
    """What every model of the table says of the test clips, as they are and corrupted.

    Returns:
        Probabilities (n_test, n_classes) by model, from the majority to the ensemble, and by view; the rows of the
        test clips, int (n_test,).
    """
    folds, shown = plan_folds(clips.table, cfg), [PLAIN, *CORRUPTIONS]
    rows = np.sort(np.concatenate([fold.test for fold in folds]))
    groups, n_classes = plan_jobs(cfg, len(folds)), len(clips.classes)

    def gathered(model: str, seed: int) -> dict[str, np.ndarray]:
        parts = [read_arrays(_file(cfg, Job(model, fold, seed))) for fold in range(len(folds))]
        order = np.argsort(np.concatenate([part["test"] for part in parts]))
        return {n[2:]: np.concatenate([part[n] for part in parts])[order] for n in parts[0] if n.startswith("p_")}

    def averaged(p: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {view: np.mean([p[name] for name in (view, *tta_names(view, cfg.tta_views))], axis=0) for view in shown}

    shares = np.full((len(clips.table), n_classes), np.nan)
    for fold in folds:
        shares[fold.test] = np.bincount(clips.table["label"].iloc[fold.train], minlength=n_classes) / len(fold.train)
    single = {name: gathered(name, cfg.seed) for name in (BAG, BILSTM, groups[0][0].model)}
    members = [averaged(gathered(*job[::2])) for job in groups[0]]
    table = {MAJORITY: dict.fromkeys(shown, shares[rows])}
    table |= {name: {view: p[view] for view in shown} for name, p in single.items()}
    if cfg.tta_views:
        table[f"{groups[0][0].model}_tta"] = averaged(single[groups[0][0].model])
    table[ENSEMBLE] = {view: np.mean([member[view] for member in members], axis=0) for view in shown}
    return table, rows


def score_models(p: Probabilities, truth: np.ndarray, sources: np.ndarray) -> dict[str, dict[str, Any]]:
    """Accuracy of every model with its interval and its difference to the baselines, paired.

    Args:
        p: Probabilities, see `all_probabilities`.
        truth: Labels, int (N,).
        sources: Source of each clip, (N,).

    Returns:
        By model: `accuracy`, `interval`, `minus_majority` and `minus_bag_of_frames` ([low, high] of 95 %),
        `accuracy_corrupted` (mean over corruptions), `n_clips`.
    """
    right, scores = _right(p, truth), {}
    for name, table in right.items():
        accuracy = mean_interval([table[PLAIN].to_numpy()], [sources])
        less = {base: (table[PLAIN] - right[base][PLAIN]).to_numpy() for base in (MAJORITY, BAG)}
        scores[name] = {"accuracy": accuracy["value"], "interval": accuracy["interval"]}
        scores[name] |= {f"minus_{b}": mean_interval([gain], [sources])["interval"] for b, gain in less.items()}
        scores[name]["accuracy_corrupted"] = float(table.drop(columns=PLAIN).mean().mean())
        scores[name]["n_clips"] = len(truth)
    return scores


def gains(p: Probabilities, truth: np.ndarray, sources: np.ndarray) -> dict[str, dict[str, Any]]:
    """What each step adds to the one before it: augmentation, averaging over views, the ensemble.

    Returns:
        By "a - b": `clean` and `corrupted` (all corruptions together), each with `difference` of accuracies and
        `interval`, paired over the same clips.
    """
    right = _right(p, truth)
    kinds = {"clean": [PLAIN], "corrupted": [view for view in p[BAG] if view != PLAIN]}
    steps: dict[str, dict[str, Any]] = {}
    for before, after in pairwise(name for name in p if name not in (MAJORITY, BAG)):
        for kind, views in kinds.items():
            gain = (right[after][views] - right[before][views]).mean(axis=1).to_numpy()
            value, ends = mean_interval([gain], [sources]).values()
            steps.setdefault(f"{after} - {before}", {})[kind] = {"difference": value, "interval": ends}
    return steps


def _right(p: Probabilities, truth: np.ndarray) -> dict[str, pd.DataFrame]:
    """By model, whether the class of highest probability is the true one: 0 or 1 by clip (rows) and view (columns)."""
    return {
        name: pd.DataFrame({view: (x.argmax(axis=1) == truth).astype(float) for view, x in views.items()})
        for name, views in p.items()
    }


def per_class(p: np.ndarray, truth: np.ndarray, classes: list[str]) -> pd.DataFrame:
    """Precision, recall, F1, clips, area under ROC and average precision of each class against the others."""
    labels = range(len(classes))
    report = metrics.classification_report(
        truth, p.argmax(axis=1), labels=labels, target_names=classes, output_dict=True, zero_division=0.0
    )
    table = pd.DataFrame(report).T.loc[list(classes)]
    table = table.rename(columns={"f1-score": "f1", "support": "clips"}).astype({"clips": int})
    table["roc_auc"] = [metrics.roc_auc_score(truth == k, p[:, k]) for k in labels]
    table["average_precision"] = [metrics.average_precision_score(truth == k, p[:, k]) for k in labels]
    return table.rename_axis("class")


def reliability(p: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    """How often the model is right where it is so sure: the reliability diagram.

    Returns:
        One row per bin of equal width of the highest probability that has clips: low, high, clips, confidence (mean),
        accuracy.
    """
    sure, right, edges = p.max(axis=1), p.argmax(axis=1) == truth, np.linspace(0, 1, BINS + 1)
    clips = np.bincount(np.searchsorted(edges[1:-1], sure), minlength=BINS)
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "clips": clips})[clips > 0].reset_index(drop=True)
    table["accuracy"], table["confidence"] = calibration_curve(right.astype(int), sure, n_bins=BINS)
    return table


def calibration_error(p: np.ndarray, truth: np.ndarray) -> float:
    """Expected calibration error: mean of |accuracy - confidence| over bins, by clips (Guo et al. 2017, equation 3)."""
    table = reliability(p, truth)
    return float(np.average((table["accuracy"] - table["confidence"]).abs(), weights=table["clips"]))


def _prediction_table(p: Probabilities, table: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Columns model, variant, clip, source, fold (that tested it), truth, prediction and `p_<class>` for each class."""
    names = np.array(classes)
    base = table.reset_index(names="clip")[["clip", "source", "fold"]].assign(truth=names[table["label"]])
    parts = {}
    for model, views in p.items():
        for view, x in views.items():
            of_classes = {f"p_{name}": x[:, k] for k, name in enumerate(classes)}
            parts[model, view] = base.assign(prediction=names[x.argmax(axis=1)], **of_classes)
    return pd.concat(parts, names=["model", "variant"]).reset_index(["model", "variant"])


def as_table(models: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row per model: accuracy and its interval, those of the differences to both baselines, accuracy corrupted."""
    table = pd.DataFrame.from_dict(models, orient="index").drop(columns="n_clips").rename_axis("model")
    table = table.map(_rounded)
    return table.loc[[name for name in TABLE_ORDER if name in models]]  # JSON has them by name


def _rounded(value: float | list[float] | None) -> Any:
    return NONE if value is None else np.round(value, 3).tolist()
