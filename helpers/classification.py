"""How good the classifiers are: accuracies with intervals beside the baselines, and what each step gains.

In: probabilities of test clips by model and variant (`helpers.clip_training`). Out: tables, and
`<out>/classification/classification.json`. Every interval is a bootstrap over sources; every difference is paired.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from helpers.clip_training import (
    AUGMENTED,
    BAG,
    PLAIN_MODEL,
    gather_history,
    gather_probabilities,
    train_all,
)
from helpers.clip_variants import ClipVariants, Fold, plan_folds, read_variants
from helpers.config import ClassificationConfig
from helpers.files import replacing, write_json
from helpers.statistics import Paired, bootstrap_differences
from helpers.views import PLAIN

MAJORITY, ENSEMBLE = "majority", "ensemble"
TABLE_ORDER = (MAJORITY, BAG, PLAIN_MODEL, f"{PLAIN_MODEL}_tta", AUGMENTED, f"{AUGMENTED}_tta", ENSEMBLE)
BINS = 10  # of confidence, as Guo et al. (2017, ICML, arXiv:1706.04599) have 15 for larger sets
Probabilities = Mapping[str, Mapping[str, np.ndarray]]  # model -> variant (plain or a corruption) -> (N, n_classes)


def paired_accuracy(wrong_a: np.ndarray, wrong_b: np.ndarray, sources: np.ndarray) -> tuple[float, list[float]]:
    """Difference of two models' accuracies on the same clips, with its interval by a paired bootstrap over sources.

    Args:
        wrong_a, wrong_b: Whether each model is wrong, bool (N, k): k kinds of the same N clips, which count alike.
        sources: Source of each clip, (N,).

    Returns:
        accuracy(a) - accuracy(b), and the low and high end of 95 %.
    """
    pair = Paired(np.zeros(wrong_a.shape), wrong_a.astype(float), wrong_b.astype(float), sources)
    value, low, high = bootstrap_differences([pair], "mean_accuracy")[-1]  # 1 - mean |0 - wrong|
    return float(value), [float(low), float(high)]


def is_wrong(p: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether the class of highest probability (N, n_classes) is not the true one, bool (N, 1)."""
    return (p.argmax(axis=1) != truth)[:, None]


def evaluate_all(cfg: ClassificationConfig) -> dict[str, Any]:
    """Train what is not trained, score every model on clips that it did not see, and write the results.

    Returns:
        What `classification.json` holds: `models` (see `score_models`), `best` (the last of them) and `members` (its
        trainings), `gains`, `robustness`, `per_class`, `confusion`, `calibration`, `classes`, `split`, `config`.
    """
    variants = read_variants(cfg.features, multi_scale=cfg.multi_scale)
    jobs = train_all(variants, cfg)
    p, rows = all_probabilities(variants, cfg)
    truth, sources = variants.labels[rows], variants.sources[rows]
    _check_tested(truth, variants.classes)
    best = list(p)[-1]
    members = [job.stem for job in jobs if job.model == jobs[0].model]
    results = {
        "models": score_models(p, truth, sources),
        "gains": gains(p, truth, sources),
        "robustness": robustness(p, truth).to_dict("index"),
        "best": best,
        "members": members,
        "per_class": per_class(p[best][PLAIN], truth, variants.classes).to_dict("index"),
        "confusion": confusion_matrix(truth, p[best][PLAIN].argmax(1), labels=range(len(variants.classes))).tolist(),
        "calibration": {name: calibration_error(values[PLAIN], truth) for name, values in p.items()},
        "classes": list(variants.classes),
        "split": split_counts(variants, cfg, rows),
        "config": cfg.as_dict(without=("data_dir", "out_dir", "workers", "progress")),
    }
    folder = cfg.out / "classification"
    with replacing(folder / "predictions.csv") as part:
        prediction_table(p, variants, rows, plan_folds(variants, cfg)).to_csv(part, index=False, float_format="%.9g")
    with replacing(folder / "history.csv") as part:
        gather_history(cfg, jobs).to_csv(part, index=False, float_format="%.6g")
    write_json(folder / "classification.json", results)
    return results


def as_table(models: Mapping[str, Mapping[str, Any]], order: Sequence[str] = TABLE_ORDER) -> pd.DataFrame:
    """One row per model: accuracy, low, high, the paired difference to both baselines as text, accuracy_corrupted."""
    rows = {
        name: {
            "accuracy": scores["accuracy"],
            "95 % interval": _ends(scores["interval"], ""),
            "minus majority": _ends(scores["minus_majority"]),
            "minus bag of frames": _ends(scores["minus_bag_of_frames"]),
            "accuracy, damaged": scores["accuracy_corrupted"],
        }
        for name, scores in sorted(models.items(), key=lambda item: order.index(item[0]))  # JSON has them by name
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def as_text(results: Mapping[str, Any]) -> str:
    """The tables of `classification.json`, or of runs that are joined, as text: models, classes of the best, gains."""
    split = results["split"]
    gained = [
        f"{step}: {kind} {gain['difference']:+.3f} {_ends(gain['interval'])}"
        for step, kinds in results["gains"].items()
        for kind, gain in kinds.items()
    ]
    n_sources = split.get("test_sources", split["sources"])  # an older run has counted all of them only
    said = f"{split['test_clips']} test clips of {n_sources} sources, split by {split['by']}"
    models = as_table(results["models"], results.get("order", TABLE_ORDER))
    tables = models, pd.DataFrame.from_dict(results["per_class"], orient="index")
    return "\n\n".join([said, *(table.round(3).to_string() for table in tables), "\n".join(gained)])


def _ends(interval: list[float], sign: str = "+") -> str:
    low, high = interval
    return f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def _check_tested(truth: np.ndarray, classes: tuple[str, ...]) -> None:
    absent = [name for label, name in enumerate(classes) if label not in truth]
    if absent:
        raise ValueError(f"test clips must be of all classes, got none of {absent[0]}. Add some, or leave it out.")


def all_probabilities(variants: ClipVariants, cfg: ClassificationConfig) -> tuple[Probabilities, np.ndarray]:
    """What every model of the table says of the test clips, as they are and damaged.

    Returns:
        Probabilities (n_test, n_classes) by model, from the majority to the ensemble, and by variant; the rows of the
        test clips, int (n_test,). `bilstm_augmented` and `..._tta` are there where the features have views for them.
    """
    seeds = [cfg.seed + i for i in range(cfg.n_models)]
    single = [BAG, PLAIN_MODEL] + ([AUGMENTED] if variants.views else [])
    found = {name: gather_probabilities(variants, cfg, name, cfg.seed) for name in single}
    rows = np.flatnonzero(~np.isnan(found[BAG][PLAIN][:, 0]))
    damaged = [PLAIN, *variants.corruptions]
    table = {MAJORITY: majority(variants, cfg)} | {n: {v: p[v] for v in damaged} for n, p in found.items()}
    best = single[-1]
    if variants.tta():
        table[f"{best}_tta"] = {v: averaged(found[best], [v, *variants.tta(v)]) for v in damaged}
    members = [found[best], *(gather_probabilities(variants, cfg, best, seed) for seed in seeds[1:])]
    table[ENSEMBLE] = {
        v: np.mean([averaged(member, [v, *variants.tta(v)]) for member in members], axis=0) for v in damaged
    }
    return {name: {v: p[rows] for v, p in by_variant.items()} for name, by_variant in table.items()}, rows


def averaged(p: Mapping[str, np.ndarray], names: list[str]) -> np.ndarray:
    """Mean of the probabilities of several views of the same clips, (N, n_classes)."""
    return np.mean([p[name] for name in names], axis=0)


def majority(variants: ClipVariants, cfg: ClassificationConfig) -> dict[str, np.ndarray]:
    """The shares of the classes among each fold's training clips, whatever the clip and its variant."""
    p = np.full((len(variants.keys), len(variants.classes)), np.nan, "float32")
    for fold in plan_folds(variants, cfg):
        counts = np.bincount(variants.labels[fold.train], minlength=len(variants.classes))
        p[fold.test] = counts / counts.sum()
    return dict.fromkeys([PLAIN, *variants.corruptions], p)


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
    wrong = {name: is_wrong(by_variant[PLAIN], truth) for name, by_variant in p.items()}
    never_right = np.ones((len(truth), 1), bool)  # the difference to it is the accuracy
    scores = {}
    for name in p:
        accuracy, ends = paired_accuracy(wrong[name], never_right, sources)
        damaged = [1 - is_wrong(values, truth).mean() for v, values in p[name].items() if v != PLAIN]
        scores[name] = {
            "accuracy": accuracy,
            "interval": ends,
            "minus_majority": paired_accuracy(wrong[name], wrong[MAJORITY], sources)[1],
            "minus_bag_of_frames": paired_accuracy(wrong[name], wrong[BAG], sources)[1],
            "accuracy_corrupted": float(np.mean(damaged)) if damaged else None,
            "n_clips": len(truth),
        }
    return scores


def gains(p: Probabilities, truth: np.ndarray, sources: np.ndarray) -> dict[str, dict[str, Any]]:
    """What each step adds to the one before it: augmentation, averaging over views, the ensemble.

    Returns:
        By "a - b": `clean` and, where there are damaged copies, `corrupted` (all of them together), each with
        `difference` of accuracies and `interval`, paired over the same clips.
    """
    names = [name for name in p if name not in (MAJORITY, BAG)]
    steps = pairwise(names)
    return {f"{after} - {before}": gain(p[after], p[before], truth, sources) for before, after in steps}


def gain(a: Mapping, b: Mapping, truth: np.ndarray, sources: np.ndarray) -> dict[str, dict[str, Any]]:
    """By how much the accuracy of one model's probabilities by variant exceeds another's; see `gains`."""
    kinds = {"clean": [PLAIN], "corrupted": [name for name in a if name != PLAIN]}
    return {kind: _difference(a, b, chosen, truth, sources) for kind, chosen in kinds.items() if chosen}


def _difference(a: Mapping, b: Mapping, names: list[str], truth: np.ndarray, sources: np.ndarray) -> dict[str, Any]:
    """Difference of mean accuracies over some variants, with its interval."""
    wrong = [np.hstack([is_wrong(p[name], truth) for name in names]) for p in (a, b)]  # (N, variants)
    value, ends = paired_accuracy(*wrong, sources)
    return {"difference": value, "interval": ends}


def robustness(p: Probabilities, truth: np.ndarray) -> pd.DataFrame:
    """Accuracy of every model (rows) on the clips as they are and damaged (columns)."""
    cells = {name: {v: float(1 - is_wrong(x, truth).mean()) for v, x in by.items()} for name, by in p.items()}
    return pd.DataFrame.from_dict(cells, orient="index").rename_axis("model")


def per_class(p: np.ndarray, truth: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """Precision, recall, F1, clips, area under ROC and average precision of each class against the others."""
    labels = range(len(classes))
    columns = precision_recall_fscore_support(truth, p.argmax(axis=1), labels=labels, zero_division=0.0)
    table = pd.DataFrame(dict(zip(("precision", "recall", "f1", "clips"), columns, strict=True)), index=list(classes))
    for column, score in (("roc_auc", roc_auc_score), ("average_precision", average_precision_score)):
        table[column] = [float(score(truth == k, p[:, k])) for k in labels]
    return table.rename_axis("class")


def class_curves(p: np.ndarray, truth: np.ndarray, classes: tuple[str, ...]) -> dict[str, dict[str, np.ndarray]]:
    """Points of the ROC (`fpr`, `tpr`) and precision-recall curve (`recall`, `precision`) of each class."""
    curves = {}
    for k, name in enumerate(classes):
        fpr, tpr, _ = roc_curve(truth == k, p[:, k])
        precision, recall, _ = precision_recall_curve(truth == k, p[:, k])
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


def split_counts(variants: ClipVariants, cfg: ClassificationConfig, rows: np.ndarray) -> dict[str, Any]:
    """How the clips were divided, and the most test clips of a fold that share a source with its training clips."""
    folds = plan_folds(variants, cfg)
    sources = variants.sources
    sharing = [int(np.isin(sources[fold.test], sources[fold.train]).sum()) for fold in folds]
    counts = {"clips": len(variants.keys), "sources": len(np.unique(sources)), "test_clips": len(rows)}
    counts["test_sources"] = len(np.unique(sources[rows]))
    return {"by": cfg.split, "folds": len(folds), "test_clips_sharing_a_source_with_train": max(sharing)} | counts


def prediction_table(p: Probabilities, clips: ClipVariants, rows: np.ndarray, folds: list[Fold]) -> pd.DataFrame:
    """Columns model, variant, clip, source, fold (that tested it), truth, prediction and `p_<class>` for each class."""
    classes, fold_of = np.array(clips.classes), np.zeros(len(clips.keys), int)
    for number, fold in enumerate(folds):
        fold_of[fold.test] = number
    base = {"clip": clips.keys, "source": clips.sources, "fold": fold_of, "truth": classes[clips.labels]}
    parts = [
        pd.DataFrame(
            {"model": name, "variant": variant}
            | {column: values[rows] for column, values in base.items()}
            | {"prediction": classes[x.argmax(1)]}
            | {f"p_{category}": column for category, column in zip(classes, x.T, strict=True)}
        )
        for name, by_variant in p.items()
        for variant, x in by_variant.items()
    ]
    return pd.concat(parts, ignore_index=True)
