"""Trains the classifiers of all folds and seeds, and says how good they are beside the baselines.

Written below `<out>/classification/`: for each training `models/<model>-<fold>-<seed>.npz` (the probabilities (n_test,
n_classes) of its test clips in every view, and their rows) and, for networks, `.keras`; of all, `classification.json`,
`predictions.csv` and `model/`, the ensemble. A training that is there is not done again. Every interval is a bootstrap
over sources; every difference is paired.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
from sklearn import metrics
from sklearn.utils.class_weight import compute_sample_weight

from helpers.classifier import FrameClassifier, build_classifier, fit_bag
from helpers.clip_features import Fold, LabelledClips, plan_folds
from helpers.clip_frames import CORRUPTIONS, PLAIN, tta_names, view_names
from helpers.clips import is_synthetic
from helpers.config import ClassificationConfig, TrainingConfig
from helpers.files import code_version, replacing, write_json
from helpers.statistics import NONE, mean_interval
from helpers.store import read_arrays
from helpers.train import Trainer, fingerprint, job_file, train_missing
from helpers.workers import cores

MAJORITY, BAG, BILSTM, AUGMENTED, ENSEMBLE = "majority", "bag_of_frames", "bilstm", "bilstm_augmented", "ensemble"
TABLE_ORDER = (MAJORITY, BAG, BILSTM, f"{BILSTM}_tta", AUGMENTED, f"{AUGMENTED}_tta", ENSEMBLE)
NOT_DECISIVE = ("data_dir", "out_dir", "workers", "progress")  # for results
ADAPT_FRAMES = 4096  # that principal components are fitted to, about
Probabilities = Mapping[str, Mapping[str, np.ndarray]]  # model -> view (plain or a corruption) -> (N, n_classes)


class Job(NamedTuple):
    """One training: the name of the model, the number of the fold, the seed of weights and order."""

    model: str
    fold: int
    seed: int


def plan_jobs(cfg: ClassificationConfig, n_folds: int) -> list[Job]:
    """The trainings of a run, fold by fold; those of the ensemble come first, their seeds follow `cfg.seed`."""
    best, single = (AUGMENTED, [BILSTM, BAG]) if cfg.views else (BILSTM, [BAG])
    models = [(best, cfg.seed + k) for k in range(cfg.n_models)] + [(name, cfg.seed) for name in single]
    return [Job(name, fold, seed) for fold in range(n_folds) for name, seed in models]


def train_all(clips: LabelledClips, cfg: ClassificationConfig, jobs: Sequence[Job]) -> None:
    """Do every training that is not done, in `cfg.workers` processes (0: one per core)."""
    config = cfg.as_dict(without=(*NOT_DECISIVE, "n_models", "batch_size"))
    known, n = fingerprint([clips.manifest["identity"], clips.table.to_csv(), config]), cfg.workers or cores()
    groups = [[jobs[k] for k in part] for part in np.array_split(np.arange(len(jobs)), min(n, len(jobs)))]
    train_missing(make_trainings, (clips, cfg), _folder(cfg), groups, known, workers=n, progress=cfg.progress)


def _folder(cfg: ClassificationConfig) -> Path:
    return cfg.out / "classification" / "models"


def make_trainings(
    context: tuple[LabelledClips, ClassificationConfig], jobs: Sequence[Job]
) -> Iterator[tuple[dict[str, np.ndarray], keras.Model | None]]:
    """Do trainings in a worker; the clips of a fold are read once, each kind of network is compiled once."""
    clips, cfg = context
    how = {name: getattr(cfg, name) for name in ("epochs", "learning_rate", "patience")}
    training = TrainingConfig(batch_size=cfg.clips_per_batch, weight_decay=0.0, schedule="cosine", **how)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=cfg.label_smoothing)
    shape, trainers = (clips.manifest["counts"]["feature_dim"], len(clips.classes)), {}
    tested = [PLAIN, *view_names(0, cfg.tta_views)[1]]
    for number, of_fold in groupby(jobs, key=lambda job: job.fold):
        fold, fitted = plan_folds(clips, cfg)[number], build_classifier(*shape, cfg, seed=0)
        train, validation, test = read_fold(clips, fold, cfg, fitted)
        for name, _, seed in of_fold:
            used, model = train, None
            if name != AUGMENTED:
                used = keras.tree.map_structure(lambda array: array[:: cfg.views + 1], train)  # the plain views
            if name == BAG:
                p = fit_bag(used.means, used.labels, validation.means, validation.labels)(test.means)
            else:
                if name not in trainers:
                    trainers[name] = Trainer(build_classifier(*shape, cfg, seed=0), training, loss)
                model = build_classifier(*shape, cfg, seed)  # the last to set the seed, which the order of batches has
                model.reduction.set_weights(fitted.reduction.get_weights())
                p = _train(trainers[name], model, used, validation).classify(test.inputs)
            p = p.astype("float32").reshape(len(fold.test), len(tested), -1)
            yield {"test": fold.test} | {f"p_{view}": p[:, k] for k, view in enumerate(tested)}, model


class Part(NamedTuple):
    """Clips of a fold in their views, clip by clip: what a network takes, means over frames (N, D), labels (N,)."""

    inputs: dict[str, np.ndarray]
    means: np.ndarray
    labels: np.ndarray


def read_fold(
    clips: LabelledClips, fold: Fold, cfg: ClassificationConfig, network: FrameClassifier
) -> tuple[Part, Part, Part]:
    """Fit a network's reduction to training clips, and read and reduce the clips for training, validation and test.

    Principal components are those of the training clips in all of their views. Of features, one clip is held at a time.
    """
    training, testing = ([PLAIN, *views] for views in view_names(cfg.views, cfg.tta_views))

    def frames(rows: np.ndarray, views: list[str], means: list[np.ndarray]) -> Iterator[np.ndarray]:
        for key in clips.table.index[rows]:
            for features, _, valid in clips.read(key, views):
                means.append(features[valid].mean(axis=0))
                yield features[valid]

    n = max(1, ADAPT_FRAMES // (len(fold.train) * len(training)))
    spread = (x[np.linspace(0, len(x) - 1, min(len(x), n)).astype(int)] for x in frames(fold.train, training, []))
    network.adapt(np.concatenate(list(spread)))
    labels, parts = clips.table["label"].to_numpy(), []
    for rows, views in zip(fold, (training, [PLAIN], testing), strict=True):
        inputs = network.reduce(frames(rows, views, means := []))
        parts.append(Part(inputs, np.stack(means), np.repeat(labels[rows], len(views))))
    return tuple(parts)


def _train(trainer: Trainer, start: FrameClassifier, train: Part, validation: Part) -> FrameClassifier:
    """Train from `start`, which ends as trained; returns the network that is compiled. Classes count alike."""
    one_hot = np.eye(start.n_classes, dtype="float32")
    weights = compute_sample_weight("balanced", train.labels).astype("float32")
    known = validation.inputs, one_hot[validation.labels]
    trainer.fit(start, (train.inputs, one_hot[train.labels], weights), known)
    return trainer.model


def evaluate_all(clips: LabelledClips, cfg: ClassificationConfig) -> dict[str, Any]:
    """Train what is not trained, score every model on clips that it did not see, and write results and ensemble.

    Returns:
        What `classification.json` holds: `models` (see `score_models`), `best` (the last of them) and `members` (its
        trainings), `gains`, `per_class`, `confusion`, `classes`, `split`, `config`.
    """
    folds = plan_folds(clips, cfg)
    jobs = plan_jobs(cfg, len(folds))
    train_all(clips, cfg, jobs)
    tested = clips.table.iloc[np.concatenate([fold.test for fold in folds])]
    tested = tested.assign(fold=np.repeat(range(len(folds)), [len(fold.test) for fold in folds]))
    p, truth, sources = probabilities(clips.table, folds, cfg), tested["label"].to_numpy(), tested["source"].to_numpy()
    right = pd.DataFrame({(model, view): x.argmax(1) == truth for model, of in p.items() for view, x in of.items()})
    right = right.astype(float)
    every, best = clips.table["source"].to_numpy(), list(p)[-1]
    said = p[best][PLAIN].argmax(axis=1)
    report = metrics.classification_report(
        truth, said, labels=range(len(clips.classes)), target_names=clips.classes, output_dict=True, zero_division=0.0
    )
    per_class = pd.DataFrame({name: report[name] for name in clips.classes})
    results = {
        "models": score_models(right, sources),
        "gains": gains(right, sources),
        "best": best,
        "members": [job_file(_folder(cfg), job).stem for job in jobs if job.model == jobs[0].model],
        "per_class": per_class.rename({"f1-score": "f1", "support": "clips"}).to_dict(),
        "confusion": metrics.confusion_matrix(truth, said).tolist(),
        "classes": clips.classes,
        "split": {
            "by": cfg.split,
            "folds": len(folds),
            "test_clips_sharing_a_source_with_train": max(
                int(np.isin(every[fold.test], every[fold.train]).sum()) for fold in folds
            ),
            "clips": len(clips.table),
            "sources": clips.table["source"].nunique(),
            "test_clips": len(tested),
            "test_sources": tested["source"].nunique(),
        },
        "config": cfg.as_dict(without=NOT_DECISIVE),
    }
    with replacing(cfg.out / "classification" / "predictions.csv") as part:
        _prediction_table(p, tested, clips.classes).to_csv(part, index=False, float_format="%.9g")
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
    card = {name: results[name] for name in ("classes", "split", "config")} | {
        "checkpoints": names,
        "metrics": results["models"],
        "tta_views": cfg.tta_views,
        "weights": cfg.weights,
        "drawn": is_synthetic(cfg.data),
        "code_version": code_version(),
    }
    write_json(folder / "card.json", card)


def probabilities(table: pd.DataFrame, folds: Sequence[Fold], cfg: ClassificationConfig) -> Probabilities:
    """What every model of the table says of the test clips, fold by fold, as they are and corrupted.

    Returns:
        Probabilities (n_test, n_classes) by model, from the majority to the ensemble, and by view.
    """
    shown, jobs = [PLAIN, *CORRUPTIONS], plan_jobs(cfg, 1)
    best = jobs[0].model

    def gathered(model: str, seed: int) -> dict[str, np.ndarray]:
        files = [read_arrays(job_file(_folder(cfg), Job(model, fold, seed))) for fold in range(len(folds))]
        return {name[2:]: np.concatenate([file[name] for file in files]) for name in files[0] if name[:2] == "p_"}

    def averaged(p: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {view: np.mean([p[name] for name in (view, *tta_names(view, cfg.tta_views))], axis=0) for view in shown}

    n_classes = table["label"].max() + 1
    counts = [np.bincount(table["label"].iloc[fold.train], minlength=n_classes) for fold in folds]
    majority = np.concatenate([[n / n.sum()] * len(fold.test) for n, fold in zip(counts, folds, strict=True)])
    single = {name: gathered(name, cfg.seed) for name in (BAG, BILSTM, best)}
    members = [averaged(gathered(best, job.seed)) for job in jobs if job.model == best]
    p = {MAJORITY: dict.fromkeys(shown, majority)}
    p |= {name: {view: of[view] for view in shown} for name, of in single.items()}
    if cfg.tta_views:
        p[f"{best}_tta"] = members[0]
    return p | {ENSEMBLE: {view: np.mean([member[view] for member in members], axis=0) for view in shown}}


def score_models(right: pd.DataFrame, sources: np.ndarray) -> dict[str, dict[str, Any]]:
    """Accuracy of every model with its interval and its difference to the baselines, paired.

    Args:
        right: Whether it is right, 0.0 or 1.0, by clip (rows), and by model and view (columns).
        sources: Source of each clip, (N,).

    Returns:
        By model: `accuracy`, `interval`, `minus_majority` and `minus_bag_of_frames` ([low, high] of 95 %),
        `accuracy_corrupted` (mean over corruptions), `n_clips`.
    """
    scores = {}
    for name in right.columns.unique(0):
        value, ends = mean_interval([right[name][PLAIN].to_numpy()], [sources]).values()
        scores[name] = {"accuracy": value, "interval": ends, "n_clips": len(right)}
        for base in (MAJORITY, BAG):
            gain = (right[name][PLAIN] - right[base][PLAIN]).to_numpy()
            scores[name][f"minus_{base}"] = mean_interval([gain], [sources])["interval"]
        scores[name]["accuracy_corrupted"] = float(right[name].drop(columns=PLAIN).mean().mean())
    return scores


def gains(right: pd.DataFrame, sources: np.ndarray) -> dict[str, dict[str, Any]]:
    """What each step adds to the one before it: augmentation, averaging over views, the ensemble; see `score_models`.

    Returns:
        By "a - b": `clean` and `corrupted` (all corruptions together), each with the difference of accuracies as
        `value` and its `interval`, paired over the same clips.
    """
    steps: dict[str, dict[str, Any]] = {}
    for before, after in pairwise(name for name in right.columns.unique(0) if name not in (MAJORITY, BAG)):
        gain = right[after] - right[before]
        for kind, values in {"clean": gain[PLAIN], "corrupted": gain.drop(columns=PLAIN).mean(axis=1)}.items():
            steps.setdefault(f"{after} - {before}", {})[kind] = mean_interval([values.to_numpy()], [sources])
    return steps


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
    table = table.map(lambda value: NONE if value is None else np.round(value, 3).tolist())
    return table.loc[[name for name in TABLE_ORDER if name in models]]  # JSON has them by name
