"""How good predictions are: metrics per target, beside the constant predictor.

In: `truth` and `prediction`, float arrays (N, k) over a whole set, scores in [0, 1]. NaN in `truth` means unrated and
is left out; every metric of a target without ratings is NaN. Out: float64 arrays (k,), tables, or a dict for JSON.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from helpers.clips import LETTERS, TRAITS

Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]


def mae(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the mean absolute error per target, (k,)."""
    truth, prediction = _paired(truth, prediction)
    return _mean(np.abs(truth - prediction))


def mse(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the mean squared error per target, (k,)."""
    truth, prediction = _paired(truth, prediction)
    return _mean((truth - prediction) ** 2)


def mean_accuracy(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return 1 - MAE per target, (k,): the score of the ChaLearn First Impressions challenge."""
    return 1 - mae(truth, prediction)


def skill(truth: np.ndarray, prediction: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """Return 1 - MSE / MSE of always answering `constant` (k,), per target: 0 is no better, 1 is perfect."""
    baseline = np.broadcast_to(np.asarray(constant, np.float64), np.shape(truth))
    return 1 - ratio(mse(truth, prediction), mse(truth, baseline))


def r2(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the coefficient of determination per target, (k,), as `sklearn.metrics.r2_score`; NaN for constant truth.

    Written out, like `pearson`, because scikit-learn and SciPy refuse NaN and constant columns.
    """
    return 1 - ratio(mse(truth, prediction), _moments(truth, prediction)[2])


def pearson(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return Pearson's r per target, (k,), as `scipy.stats.pearsonr`; 0 where prediction or truth is constant."""
    _, _, var_truth, var_prediction, covariance = _moments(truth, prediction)
    return ratio(covariance, np.sqrt(var_truth * var_prediction), 0.0)


def ccc(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return Lin's concordance correlation per target, (k,); 0 where prediction or truth is constant.

    2 cov / (var_truth + var_prediction + (mean_truth - mean_prediction)^2) with moments over N, as Lin (1989,
    Biometrics 45:255) has them.
    """
    mean_truth, mean_prediction, var_truth, var_prediction, covariance = _moments(truth, prediction)
    return ratio(2 * covariance, var_truth + var_prediction + (mean_truth - mean_prediction) ** 2, 0.0)


def score_table(
    truth: np.ndarray, prediction: np.ndarray, constant: np.ndarray, targets: Sequence[str] = TRAITS
) -> pd.DataFrame:
    """Score predictions with every metric beside each other.

    Args:
        truth, prediction: (N, k).
        constant: What the constant predictor says, usually the mean of the training ratings, (k,).
        targets: Names of the k columns.

    Returns:
        One row per target and a last row `mean` (over the targets that have a value); columns `mean_accuracy`, `mae`,
        `r2`, `pearson`, `ccc`, `skill`. A constant prediction has 0 in `pearson` and `ccc`.
    """
    columns = {name: metric(truth, prediction) for name, metric in METRICS.items()}
    columns["skill"] = skill(truth, prediction, constant)
    table = pd.DataFrame(columns, index=pd.Index(targets, name="target"))
    table.loc["mean"] = table.mean()
    return table


def as_summary(table: pd.DataFrame) -> dict[str, dict[str, float | None] | float | None]:
    """Return a score table as `summary.json` holds it.

    Returns:
        `r2`, `ccc`, `pearson`, `mae`, `skill`: dicts by the traits' letters (other targets by their names) and `mean`;
        `mean_accuracy`: one number. None stands for NaN.
    """
    letters = dict(zip(TRAITS, LETTERS, strict=True))
    names = [letters.get(target, target) for target in table.index]
    values = {metric: [None if math.isnan(value) else float(value) for value in table[metric]] for metric in table}
    summary = {metric: dict(zip(names, column, strict=True)) for metric, column in values.items()}
    return summary | {"mean_accuracy": summary["mean_accuracy"]["mean"]}


def constant_floor(train: np.ndarray, test: np.ndarray, targets: Sequence[str] = TRAITS) -> pd.DataFrame:
    """Score the predictor that answers the mean training rating for everyone: what any model has to beat.

    Args:
        train: Ratings to take the means of, (N, k).
        test: Ratings to predict, (M, k).
        targets: Names of the k columns.

    Returns:
        The columns of `score_table` without `skill`, and `constant` (the mean training rating).
    """
    constant = _mean(np.asarray(train, np.float64))
    table = score_table(test, np.broadcast_to(constant, np.shape(test)), constant, targets).drop(columns="skill")
    table.insert(0, "constant", [*constant, pd.Series(constant).mean()])
    return table


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
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}.")
    ordered = np.sort(np.abs(np.asarray(residuals, np.float64)), axis=0)  # NaN goes last
    n_rated = (~np.isnan(ordered)).sum(axis=0)
    rank = np.ceil((n_rated + 1) * level - 1e-9).astype(int)
    widths = [column[r - 1] if r <= n else math.inf for column, r, n in zip(ordered.T, rank, n_rated, strict=True)]
    return np.array(widths)


METRICS: dict[str, Metric] = {"mean_accuracy": mean_accuracy, "mae": mae, "r2": r2, "pearson": pearson, "ccc": ccc}


def _paired(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, the prediction NaN where the truth is."""
    truth, prediction = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    if truth.ndim != 2 or truth.shape != prediction.shape:
        raise ValueError(f"truth and prediction must both be (N, k), got {truth.shape} and {prediction.shape}.")
    unrated = np.isnan(truth)
    if not (np.isfinite(prediction) | unrated).all():
        raise ValueError("prediction must be finite wherever truth is, got NaN or infinity.")
    return truth, np.where(unrated, np.nan, prediction)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis without NaN; NaN where there is nothing else."""
    n = (~np.isnan(values)).sum(axis=0)
    return np.where(n > 0, np.nansum(values, axis=0) / np.maximum(n, 1), np.nan)


def _moments(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, ...]:
    """Means, variances and covariance over N of each target; exactly 0 variance where a column is constant."""
    pair = _paired(truth, prediction)
    means = [_mean(values) for values in pair]
    constant = [np.fmax.reduce(values) == np.fmin.reduce(values) for values in pair]
    t, p = (np.where(same, 0, values - mean) for values, mean, same in zip(pair, means, constant, strict=True))
    return *means, _mean(t**2), _mean(p**2), _mean(t * p)


def ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: float = math.nan) -> np.ndarray:
    """numerator / denominator, `otherwise` where the denominator is 0; NaN stays NaN."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, otherwise), where=denominator != 0)
