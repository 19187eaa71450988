"""How good predictions are: metrics per target beside the constant predictor.

In: `truth` and `prediction`, float arrays (N, k) over a whole set, scores in [0, 1]; NaN in `truth` means unrated and
is left out, and every metric of a target without ratings is NaN.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from helpers.clips import TRAITS, letter_of

COLUMNS = ("mean_accuracy", "mae", "r2", "pearson", "ccc")


def evaluate(metric: str, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return one of `METRICS` per target, (k,).

    - mae, mse: mean absolute and mean squared error; mean_accuracy: 1 - mae, the score of the ChaLearn First
      Impressions challenge.
    - r2: coefficient of determination.
    - pearson: Pearson's r; 0 where the prediction is constant.
    - ccc: Lin's concordance correlation, 2 cov / (var_truth + var_prediction + (mean_truth - mean_prediction)^2) with
      moments over N, as Lin (1989, Biometrics 45:255) has them; 0 where the prediction is constant.

    Where truth is constant, as that of a single clip is, these three do not exist: NaN.
    """
    return from_sums(metric, terms(truth, prediction).sum(0))


def terms(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """What every metric is made of, by clip: float64 (N, 8, k), 0 where unrated.

    1, truth, prediction, their squares, their product, their absolute and their squared difference; truth and
    prediction minus the mean rating of the whole set, so that squares stay exact.
    """
    truth, prediction = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    rated = ~np.isnan(truth)
    if truth.ndim != 2 or truth.shape != prediction.shape or not np.isfinite(prediction[rated]).all():
        shapes = f"{truth.shape} and {prediction.shape}"
        raise ValueError(f"truth and prediction must both be (N, k), finite wherever a clip is rated, got {shapes}.")
    middle = np.where(rated, truth, 0).sum(0) / np.maximum(rated.sum(0), 1)
    t, p = np.where(rated, truth - middle, 0), np.where(rated, prediction - middle, 0)
    return np.stack([rated, t, p, t**2, p**2, t * p, np.abs(t - p), (t - p) ** 2], 1)


def from_sums(metric: str, sums: np.ndarray) -> np.ndarray:
    """Return a metric from sums of `terms` over clips, (..., 8, k) to (..., k); NaN where no clip is rated."""
    sums = np.moveaxis(sums, -2, 0)
    return METRICS[metric](_ratio(sums, sums[0]))


def _r2(m: np.ndarray) -> np.ndarray:
    return 1 - _ratio(m[7], np.where(m[3] < 1e-12, 0, m[3]))  # truth is 0 where the mean of the whole set is


def _pearson(m: np.ndarray) -> np.ndarray:
    truth, prediction, covariance = _spread(m)
    return np.where(truth == 0, np.nan, _ratio(covariance, np.sqrt(truth * prediction), 0.0))


def _ccc(m: np.ndarray) -> np.ndarray:
    truth, prediction, covariance = _spread(m)
    return np.where(truth == 0, np.nan, _ratio(2 * covariance, truth + prediction + (m[1] - m[2]) ** 2, 0.0))


def _spread(m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances of truth and prediction and their covariance; within rounding of 0 they are 0."""
    truth, prediction = (np.where(v < 1e-12, 0, v) for v in (m[3] - m[1] ** 2, m[4] - m[2] ** 2))
    return truth, prediction, np.where(truth * prediction == 0, 0, m[5] - m[1] * m[2])


METRICS = {  # of the means of `terms`
    "mean_accuracy": lambda m: 1 - m[6],
    "mae": lambda m: m[6],
    "mse": lambda m: m[7],
    "r2": _r2,
    "pearson": _pearson,
    "ccc": _ccc,
}


def _ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: float = math.nan) -> np.ndarray:
    """numerator / denominator, `otherwise` where the denominator is 0; NaN stays NaN."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, otherwise), where=denominator != 0)


def score_table(
    truth: np.ndarray, prediction: np.ndarray, constant: np.ndarray, targets: Sequence[str] = TRAITS
) -> pd.DataFrame:
    """Score predictions (N, k) with every metric beside each other.

    Args:
        truth, prediction: (N, k).
        constant: What the constant predictor says, usually the mean of the training ratings, (k,).
        targets: Names of the k columns.

    Returns:
        One row per target and a last row `mean` (over the targets that have a value); columns `mean_accuracy`, `mae`,
        `r2`, `pearson`, `ccc`, `skill` (1 - MSE / MSE of the constant).
    """
    columns = {name: evaluate(name, truth, prediction) for name in COLUMNS}
    baseline = np.broadcast_to(np.asarray(constant, np.float64), np.shape(truth))
    columns["skill"] = 1 - _ratio(evaluate("mse", truth, prediction), evaluate("mse", truth, baseline))
    table = pd.DataFrame(columns, index=pd.Index(targets, name="target"))
    table.loc["mean"] = table.mean()
    return table


def constant_floor(train: np.ndarray, test: np.ndarray, targets: Sequence[str] = TRAITS) -> pd.DataFrame:
    """Score the predictor that answers the mean training rating (of (N, k)) for everyone in the test ratings (M, k).

    Returns:
        The columns of `score_table` without `skill`, and `constant` (the mean training rating).
    """
    constant = pd.DataFrame(np.asarray(train, np.float64)).mean().to_numpy()
    table = score_table(test, np.broadcast_to(constant, np.shape(test)), constant, targets).drop(columns="skill")
    table.insert(0, "constant", [*constant, pd.Series(constant).mean()])
    return table


def as_summary(table: pd.DataFrame) -> dict[str, dict[str, float | None] | float | None]:
    """Return a score table as `summary.json` holds it.

    Returns:
        `r2`, `ccc`, `pearson`, `mae`, `skill`: dicts by the traits' letters (other targets by their names) and `mean`;
        `mean_accuracy`: one number. None stands for NaN.
    """
    named = table.rename(index=letter_of)
    summary = named.astype(object).where(named.notna(), None).to_dict()
    return summary | {"mean_accuracy": summary["mean_accuracy"]["mean"]}


def each_number(items: Sequence[Any], reduce: Callable[[Sequence[float]], float]) -> Any:
    """Reduce the numbers at the same place in several summaries, as those of seeds; None where one is missing."""
    if isinstance(items[0], dict):
        return {key: each_number([item[key] for item in items], reduce) for key in items[0]}
    return None if None in items else float(reduce(items))


def conformal_quantile(residuals: np.ndarray, level: float = 0.9) -> np.ndarray:
    """Return the half width of a prediction interval per target (split conformal; Lei et al. 2018, JASA 113:1094).

    prediction ± half width holds the rating of a new clip with probability `level` at least, whatever the model, if
    that clip and those of `residuals` are exchangeable.

    Args:
        residuals: truth - prediction on clips that the model did not see, (n, k); NaN is left out.
        level: Coverage in (0, 1).

    Returns:
        The ceil((n + 1) level)-th smallest absolute residual of each target, (k,); infinite where n is too small for
        the level (under 9 for 0.9).
    """
    ordered = np.sort(np.abs(np.asarray(residuals, np.float64)), axis=0)  # NaN goes last
    n_rated = (~np.isnan(ordered)).sum(axis=0)
    rank = np.ceil((n_rated + 1) * level - 1e-9).astype(int)
    widths = [column[r - 1] if r <= n else math.inf for column, r, n in zip(ordered.T, rank, n_rated, strict=True)]
    return np.array(widths)


def calibration_slopes(predictions: pd.DataFrame) -> pd.Series:
    """Slope of truth on prediction by trait: 1 when calibrated, below 1 when predictions are spread too far; NaN where
    they do not vary.
    """
    rated = predictions.dropna(subset=["truth"]).groupby("trait", sort=False)
    spread = {trait: (rows["prediction"] - rows["prediction"].mean(), rows["truth"]) for trait, rows in rated}
    return pd.Series({trait: (p * truth).sum() / ((p**2).sum() or np.nan) for trait, (p, truth) in spread.items()})
