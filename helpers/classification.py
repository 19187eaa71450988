"""Trains the classifiers of all folds and seeds, and says how good they are beside the baselines.

In: feature files (`helpers.clip_features`) and `ClassificationConfig`. Out, below `<out>/classification/`: for each
training `models/<model>-<fold>-<seed>.npz` (the probabilities (n_test, n_classes) of its test clips in every view, the
history, the rows) and, for networks, `.keras`; of all, `classification.json`, `predictions.csv`, `history.csv`.
Processes have one thread each, so that the figures depend neither on their number nor on what was done before; a
training that is there is not done again. Every interval is a bootstrap over sources; every difference is paired.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn import metrics
from tqdm.auto import tqdm

from helpers.class_folders import check_folds, plan_folds
from helpers.classifier import Trainee, fit_bag, predict_classes
from helpers.clip_features import ClipVariants, feature_files, read_variants
from helpers.clip_frames import PLAIN
from helpers.config import ClassificationConfig
from helpers.files import file_sha256, read_json, replacing, write_json
from helpers.statistics import NONE, mean_interval
from helpers.store import read_arrays, write_arrays
from helpers.train import ONE_THREAD, is_done
from helpers.workers import ClipPool, cores

log = logging.getLogger(__name__)

MAJORITY, BAG, BILSTM, AUGMENTED, ENSEMBLE = "majority", "bag_of_frames", "bilstm", "bilstm_augmented", "ensemble"
TABLE_ORDER = (MAJORITY, BAG, BILSTM, f"{BILSTM}_tta", AUGMENTED, f"{AUGMENTED}_tta", ENSEMBLE)
TRAINING_PARAMETERS = (
    "split", "seed", "folds", "components", "units", "dropout_rate", "learning_rate", "label_smoothing",
    "clips_per_batch", "epochs", "patience", "precision",
)  # fmt: skip
PATIENCE_S = 24 * 3600.0  # that a training may take
BINS = 10  # of confidence, as Guo et al. (2017, ICML, arXiv:1706.04599) have 15 for larger sets
Probabilities = Mapping[str, Mapping[str, np.ndarray]]  # model -> view (plain or a corruption) -> (N, n_classes)


class Job(NamedTuple):
    """One training: the name of the model, the number of the fold, the seed of weights and order."""

    model: str
    fold: int
    seed: int

    @property
    def stem(self) -> str:
        return f"{self.model}-{self.fold}-{self.seed}"


def models_folder(cfg: ClassificationConfig) -> Path:
    return cfg.out / "classification" / "models"


def plan_jobs(clips: ClipVariants, cfg: ClassificationConfig) -> list[Job]:
    """The trainings of a run, the longest first; the seeds of an ensemble follow `cfg.seed`."""
    folds, best = range(len(plan_folds(clips.table, cfg))), AUGMENTED if clips.views else BILSTM
    members = [Job(best, fold, cfg.seed + i) for i in range(cfg.n_models) for fold in folds]
    single = [BILSTM, BAG] if clips.views else [BAG]
    return members + [Job(name, fold, cfg.seed) for name in single for fold in folds]


def train_all(clips: ClipVariants, cfg: ClassificationConfig) -> list[Job]:
    """Do every training of a run that is not done, in `cfg.workers` processes (0: one per core), and return all."""
    folder, jobs, stamp = models_folder(cfg), plan_jobs(clips, cfg), _stamp(cfg)
    write_json(folder / "task.json", {"config": cfg.as_dict(without=("workers", "progress")), "stamp": stamp})
    left = [job for job in jobs if not is_done(folder / f"{job.stem}.npz", stamp)]
    if not left:
        return jobs
    workers = min(cfg.workers or cores(), len(left))
    with (
        tqdm(total=len(left), unit="training", disable=not cfg.progress) as bar,
        ClipPool(serve_training, workers=workers, patience_s=PATIENCE_S, environment=ONE_THREAD) as pool,
    ):
        for job, answers in pool.run((job, (str(folder), job)) for job in left):
            list(answers)
            log.info("trained %s of fold %d with seed %d", *job)
            bar.update()
    return jobs


def _stamp(cfg: ClassificationConfig) -> str:
    """What the trainings depend on beside model, fold and seed, as sha256."""
    parts = {"/".join(names): file_sha256(path) for names, path in feature_files(cfg).items()}
    config = {name: getattr(cfg, name) for name in TRAINING_PARAMETERS}
    text = json.dumps([parts, config, os.environ.get("KERAS_BACKEND", "")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def serve_training(task: tuple[str, Job]) -> Iterator[None]:
    """Do one training in a worker process, with the data and the compiled network of the one before."""
    folder, job = task
    _train(job, *_prepare(folder))
    yield


@lru_cache(maxsize=1)
def _prepare(folder: str) -> tuple[ClipVariants, ClassificationConfig, str, Trainee]:
    """The clips of a run, its parameters, the stamp of its trainings, and what is trained."""
    task = read_json(Path(folder) / "task.json")
    cfg = ClassificationConfig.checked(task["config"])
    clips = read_variants(cfg)
    return clips, cfg, task["stamp"], Trainee(clips.features[PLAIN].shape[-1], len(clips.classes), cfg)


def _train(job: Job, clips: ClipVariants, cfg: ClassificationConfig, stamp: str, trainee: Trainee) -> None:
    """Train one model on one fold and write it: the network first, then the stamped arrays."""
    fold, arrays = plan_folds(clips.table, cfg)[job.fold], {}
    train = clips.training(fold.train, augmented=job.model == AUGMENTED)
    validation = clips.training(fold.validation, augmented=False)
    if job.model == BAG:
        predict = fit_bag(train, validation)
    else:
        history = trainee.fit(train, validation, job.seed)
        arrays = {f"history_{column}": values.to_numpy() for column, values in history.items()}
        with replacing(models_folder(cfg) / f"{job.stem}.keras") as part:
            trainee.model.save(part)

        def predict(inputs: dict[str, np.ndarray]) -> np.ndarray:
            return predict_classes(trainee.model, inputs)

    for view in (name for name in clips.features if name not in clips.views):
        arrays[f"p_{view}"] = predict(clips.inputs(view, fold.test)).astype("float32")
    write_arrays(models_folder(cfg) / f"{job.stem}.npz", stamp=stamp, test=fold.test, **arrays)


def evaluate_all(cfg: ClassificationConfig) -> dict[str, Any]:
    """Train what is not trained, score every model on clips that it did not see, and write the results.

    Returns:
        What `classification.json` holds: `models` (see `score_models`), `best` (the last of them) and `members` (its
        trainings), `gains`, `per_class`, `confusion`, `calibration`, `classes`, `split`, `config`.
    """
    clips = read_variants(cfg)
    check_folds(clips.table, clips.classes, cfg)
    jobs = train_all(clips, cfg)
    p, rows = all_probabilities(clips, cfg)
    truth, sources = (clips.table[column].to_numpy()[rows] for column in ("label", "source"))
    best = list(p)[-1]
    results = {
        "models": score_models(p, truth, sources),
        "gains": gains(p, truth, sources),
        "best": best,
        "members": [job.stem for job in jobs if job.model == jobs[0].model],
        "per_class": per_class(p[best][PLAIN], truth, clips.classes).to_dict("index"),
        "confusion": metrics.confusion_matrix(truth, p[best][PLAIN].argmax(1)).tolist(),
        "calibration": {name: calibration_error(views[PLAIN], truth) for name, views in p.items()},
        "classes": clips.classes,
        "split": _split_counts(clips.table, cfg),
        "config": cfg.as_dict(without=("data_dir", "out_dir", "workers", "progress")),
    }
    folder = cfg.out / "classification"
    with replacing(folder / "predictions.csv") as part:
        _prediction_table(p, clips, cfg).to_csv(part, index=False, float_format="%.9g")
    with replacing(folder / "history.csv") as part:
        _gather_history(cfg, jobs).to_csv(part, index=False, float_format="%.6g")
    write_json(folder / "classification.json", results)
    return results


def all_probabilities(clips: ClipVariants, cfg: ClassificationConfig) -> tuple[Probabilities, np.ndarray]:
    """What every model of the table says of the test clips, as they are and corrupted.

    Returns:
        Probabilities (n_test, n_classes) by model, from the majority to the ensemble, and by view; the rows of the
        test clips, int (n_test,). `bilstm_augmented` and `..._tta` are there where the features have views for them.
    """
    names = [BAG, BILSTM] + ([AUGMENTED] if clips.views else [])
    best, shown = names[-1], [PLAIN, *clips.corruptions]
    single = {name: _gather_probabilities(clips, cfg, name, cfg.seed) for name in names}

    def averaged(p: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {view: np.mean([p[name] for name in (view, *clips.tta(view))], axis=0) for view in shown}

    seeds = range(cfg.seed, cfg.seed + cfg.n_models)
    members = [averaged(_gather_probabilities(clips, cfg, best, seed)) for seed in seeds]
    table = {MAJORITY: dict.fromkeys(shown, _majority(clips.table, cfg))}
    table |= {name: {view: p[view] for view in shown} for name, p in single.items()}
    if clips.tta():
        table[f"{best}_tta"] = averaged(single[best])
    table[ENSEMBLE] = {view: np.mean([member[view] for member in members], axis=0) for view in shown}
    rows = _tested(clips.table, cfg).index.to_numpy()
    return {name: {v: p[rows] for v, p in views.items()} for name, views in table.items()}, rows


def _gather_probabilities(clips: ClipVariants, cfg: ClassificationConfig, model: str, seed: int) -> dict[str, Any]:
    """Test probabilities of all folds of one model and seed, by view float32 (N, n_classes); NaN where none tests."""
    p: dict[str, np.ndarray] = {}
    for fold in range(len(plan_folds(clips.table, cfg))):
        arrays = read_arrays(models_folder(cfg) / f"{Job(model, fold, seed).stem}.npz")
        for name in (name for name in arrays if name.startswith("p_")):
            whole = p.setdefault(name[2:], np.full((len(clips.table), len(clips.classes)), np.nan, "float32"))
            whole[arrays["test"]] = arrays[name]
    return p


def _majority(table: pd.DataFrame, cfg: ClassificationConfig) -> np.ndarray:
    """The shares of the classes among each fold's training clips, whatever the test clip; NaN for clips untested."""
    n_classes = table["label"].max() + 1
    p = np.full((len(table), n_classes), np.nan, "float32")
    for fold in plan_folds(table, cfg):
        p[fold.test] = np.bincount(table["label"].iloc[fold.train], minlength=n_classes) / len(fold.train)
    return p


def _gather_history(cfg: ClassificationConfig, jobs: list[Job]) -> pd.DataFrame:
    """Columns model, fold, seed, epoch, loss, val_loss, val_accuracy of all networks."""
    parts = []
    for job in (job for job in jobs if job.model != BAG):
        arrays = read_arrays(models_folder(cfg) / f"{job.stem}.npz")
        columns = {k.removeprefix("history_"): v for k, v in arrays.items() if k.startswith("history_")}
        parts.append(pd.DataFrame(job._asdict() | columns))
    return pd.concat(parts, ignore_index=True)


def score_models(p: Probabilities, truth: np.ndarray, sources: np.ndarray) -> dict[str, dict[str, Any]]:
    """Accuracy of every model with its interval and its difference to the baselines, paired.

    Args:
        p: Probabilities, see `all_probabilities`.
        truth: Labels, int (N,).
        sources: Source of each clip, (N,).

    Returns:
        By model: `accuracy`, `interval`, `minus_majority` and `minus_bag_of_frames` ([low, high] of 95 %),
        `accuracy_corrupted` (mean over corruptions; None without any), `n_clips`.
    """
    right, scores = _right(p, truth), {}
    for name, table in right.items():
        own, corrupted = table[PLAIN], table.drop(columns=PLAIN)
        accuracy = mean_interval([own.to_numpy()], [sources])
        less = {base: (own - right[base][PLAIN]).to_numpy() for base in (MAJORITY, BAG)}
        scores[name] = {"accuracy": accuracy["value"], "interval": accuracy["interval"]}
        scores[name] |= {f"minus_{b}": mean_interval([gain], [sources])["interval"] for b, gain in less.items()}
        scores[name]["accuracy_corrupted"] = None if corrupted.empty else float(corrupted.mean().mean())
        scores[name]["n_clips"] = len(truth)
    return scores


def gains(p: Probabilities, truth: np.ndarray, sources: np.ndarray) -> dict[str, dict[str, Any]]:
    """What each step adds to the one before it: augmentation, averaging over views, the ensemble.

    Returns:
        By "a - b": `clean` and, where there are corrupted copies, `corrupted` (all of them together), each with
        `difference` of accuracies and `interval`, paired over the same clips.
    """
    right = _right(p, truth)
    corruptions = [view for view in p[BAG] if view != PLAIN]
    kinds = {"clean": [PLAIN]} | ({"corrupted": corruptions} if corruptions else {})
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
    columns = metrics.precision_recall_fscore_support(truth, p.argmax(axis=1), zero_division=0.0)
    table = pd.DataFrame(dict(zip(("precision", "recall", "f1", "clips"), columns, strict=True)), index=list(classes))
    scores = {"roc_auc": metrics.roc_auc_score, "average_precision": metrics.average_precision_score}
    for column, score in scores.items():
        table[column] = [float(score(truth == k, p[:, k])) for k in range(len(classes))]
    return table.rename_axis("class")


def class_curves(p: np.ndarray, truth: np.ndarray, classes: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """Points of the ROC (`fpr`, `tpr`) and precision-recall curve (`recall`, `precision`) of each class."""
    curves = {}
    for k, name in enumerate(classes):
        fpr, tpr, _ = metrics.roc_curve(truth == k, p[:, k])
        precision, recall, _ = metrics.precision_recall_curve(truth == k, p[:, k])
        curves[name] = {"fpr": fpr, "tpr": tpr, "recall": recall, "precision": precision}
    return curves


def reliability(p: np.ndarray, truth: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """How often the model is right where it is so sure: the reliability diagram.

    Returns:
        One row per bin of equal width of the highest probability that has clips: low, high, clips, confidence (mean),
        accuracy.
    """
    sure, right = p.max(axis=1), p.argmax(axis=1) == truth
    place = np.minimum((sure * bins).astype(int), bins - 1)
    groups = pd.DataFrame({"bin": place, "confidence": sure, "accuracy": right}).groupby("bin")
    table = groups.mean().assign(clips=groups.size())
    return table.assign(low=table.index / bins, high=(table.index + 1) / bins).reset_index(drop=True)


def calibration_error(p: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: mean of |accuracy - confidence| over bins, by clips (Guo et al. 2017, equation 3)."""
    table = reliability(p, truth, bins)
    return float(np.average((table["accuracy"] - table["confidence"]).abs(), weights=table["clips"]))


def _split_counts(table: pd.DataFrame, cfg: ClassificationConfig) -> dict[str, Any]:
    """How the clips were divided, and the most test clips of a fold that share a source with its training clips."""
    folds, tested = plan_folds(table, cfg), table.iloc[_tested(table, cfg).index]
    sources = table["source"].to_numpy()
    return {
        "by": cfg.split,
        "folds": len(folds),
        "test_clips_sharing_a_source_with_train": max(
            int(np.isin(sources[fold.test], sources[fold.train]).sum()) for fold in folds
        ),
        "clips": len(table),
        "sources": table["source"].nunique(),
        "test_clips": len(tested),
        "test_sources": tested["source"].nunique(),
    }


def _tested(table: pd.DataFrame, cfg: ClassificationConfig) -> pd.Series:
    """The fold that tests each clip, by the clip's row; clips that none tests are not in it."""
    tests = [pd.Series(number, index=fold.test) for number, fold in enumerate(plan_folds(table, cfg))]
    return pd.concat(tests).sort_index()


def _prediction_table(p: Probabilities, clips: ClipVariants, cfg: ClassificationConfig) -> pd.DataFrame:
    """Columns model, variant, clip, source, fold (that tested it), truth, prediction and `p_<class>` for each class."""
    classes, fold_of = np.array(clips.classes), _tested(clips.table, cfg)
    tested = clips.table.iloc[fold_of.index].reset_index(names="clip")
    base = tested[["clip", "source"]].assign(fold=fold_of.to_numpy(), truth=classes[tested["label"]])
    parts = []
    for name, views in p.items():
        for view, x in views.items():
            said = pd.DataFrame(x, columns=[f"p_{category}" for category in classes])
            said.insert(0, "prediction", classes[x.argmax(1)])
            parts.append(pd.concat([pd.DataFrame({"model": name, "variant": view}, said.index), base, said], axis=1))
    return pd.concat(parts, ignore_index=True)


def as_table(models: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row per model: accuracy, its interval and the paired differences to both baselines as text, corrupted."""
    rows = {
        name: {
            "accuracy": scores["accuracy"],
            "95 % interval": _ends(scores["interval"], ""),
            "minus majority": _ends(scores["minus_majority"]),
            "minus bag of frames": _ends(scores["minus_bag_of_frames"]),
            "accuracy, damaged": scores["accuracy_corrupted"],
        }
        for name, scores in sorted(models.items(), key=lambda item: TABLE_ORDER.index(item[0]))  # JSON: by name
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def as_text(results: Mapping[str, Any]) -> str:
    """The tables of `classification.json` as text: models, classes of the best, gains."""
    split = results["split"]
    n_sources = split.get("test_sources", split["sources"])  # an older run has counted all of them only
    said = f"{split['test_clips']} test clips of {n_sources} sources, split by {split['by']}"
    gained = [
        f"{step}: {kind} {gain['difference']:+.3f} {_ends(gain['interval'])}"
        for step, kinds in results["gains"].items()
        for kind, gain in kinds.items()
    ]
    tables = as_table(results["models"]), pd.DataFrame.from_dict(results["per_class"], orient="index")
    return "\n\n".join([said, *(table.round(3).to_string() for table in tables), "\n".join(gained)])


def _ends(interval: list[float] | None, sign: str = "+") -> str:
    return f"[{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]" if interval else NONE
