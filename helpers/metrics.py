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

EQUAL = 1e-12  # a variance below is that of equal values, up to rounding


def score_target(truth: np.ndarray, prediction: np.ndarray, constant: float) -> dict[str, float]:
    """Score the predictions of one target, (N,), beside those of a constant.

    Returns:
        - mean_accuracy: 1 - mae, the score of the ChaLearn First Impressions challenge; mae, mse: mean absolute
          and mean squared error.
        - r2: coefficient of determination; pearson: Pearson's r.
        - ccc: Lin's concordance correlation, 2 cov / (var_truth + var_prediction + (mean_truth - mean_prediction)^2)
          with moments over N, as Lin (1989, Biometrics 45:255) has them.
        - skill: 1 - MSE / MSE of the constant.

        pearson and ccc are 0 where the prediction is constant; where truth is, as that of a single clip, these and r2
        do not exist: NaN.
    """
    rated = ~np.isnan(truth)
    truth, prediction = (np.asarray(x, np.float64)[rated] for x in (truth, prediction))
    if not len(truth):
        return dict.fromkeys(("mean_accuracy", "mae", "mse", "r2", "pearson", "ccc", "skill"), math.nan)
    mae, mse = np.abs(prediction - truth).mean(), np.square(prediction - truth).mean()
    of_constant = np.square(constant - truth).mean()
    r2 = pearson = ccc = math.nan
    (var_truth, covariance), (_, var_prediction) = np.cov(truth, prediction, ddof=0)
    if var_truth >= EQUAL:
        r2, pearson, ccc = 1 - mse / var_truth, 0.0, 0.0
        if var_prediction >= EQUAL:
            pearson = covariance / math.sqrt(var_truth * var_prediction)
            ccc = 2 * covariance / (var_truth + var_prediction + (truth.mean() - prediction.mean()) ** 2)
    skill = 1 - mse / of_constant if of_constant else math.nan
    return {"mean_accuracy": 1 - mae, "mae": mae, "mse": mse, "r2": r2, "pearson": pearson, "ccc": ccc, "skill": skill}


def score_table(
    truth: np.ndarray, prediction: np.ndarray, constant: np.ndarray, targets: Sequence[str] = TRAITS
) -> pd.DataFrame:
    """Score predictions (N, k) with every metric beside each other: a row per target, its name, with the columns of
    `score_target`, and a last row `mean` over the targets that have a value.

    `constant`: what the constant predictor says, usually the mean of the training ratings, (k,).
    """
    truth, prediction = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    if truth.ndim != 2 or truth.shape != prediction.shape or not np.isfinite(prediction[~np.isnan(truth)]).all():
        shapes = f"{truth.shape} and {prediction.shape}"
        raise ValueError(f"truth and prediction must both be (N, k), finite wherever a clip is rated, got {shapes}.")
    rows = [score_target(*of_target) for of_target in zip(truth.T, prediction.T, constant, strict=True)]
    table = pd.DataFrame(rows, index=pd.Index(targets, name="target"))
    table.loc["mean"] = table.mean()
    return table


def constant_floor(train: np.ndarray, test: np.ndarray, targets: Sequence[str] = TRAITS) -> pd.DataFrame:
    """Score the predictor that answers the mean training rating (of (N, k)) for everyone in the test ratings (M, k):
    `score_table` without `skill`, and the column `constant`, the mean training rating.
    """
    constant = pd.DataFrame(np.asarray(train, np.float64)).mean().to_numpy()
    table = score_table(test, np.broadcast_to(constant, np.shape(test)), constant, targets).drop(columns="skill")
    table.insert(0, "constant", [*constant, pd.Series(constant).mean()])
    return table


def as_summary(table: pd.DataFrame) -> dict[str, dict[str, float | None] | float | None]:
    """Return a score table as `summary.json` holds it: `r2`, `ccc`, `pearson`, `mae`, `skill`, dicts by the traits'
    letters (other targets by their names) and `mean`; `mean_accuracy`, one number. None stands for NaN.
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
    that clip and those of `residuals`, truth - prediction of clips that it did not see, (n, k), are exchangeable: the
    ceil((n + 1) level)-th smallest absolute one that is no NaN, (k,); infinite where n is too small (under 9 for 0.9).
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
