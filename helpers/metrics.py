"""How good predictions are: metrics per target, beside the constant predictor.

In: `truth` and `prediction`, float arrays (N, k) over a whole set, scores in [0, 1]. NaN in `truth` means unrated and
is left out; every metric of a target without ratings is NaN. Out: float64 arrays (k,), tables, or a dict for JSON.

Where a model's errors lie: calibration, correlations between traits, clip length, sources.

In: predictions of one model on held-out clips, columns clip, source, trait, truth, prediction (`predictions.csv` of
one model, one or more seeds). Out: tables for `plots.errors`. Rows without a rating are left out.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from helpers.align import Aligned
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


def calibration(predictions: pd.DataFrame, n_bins: int = 5) -> pd.DataFrame:
    """Mean prediction and mean truth in parts of equal size by prediction; the two are equal for a calibrated model.

    Returns:
        Columns trait, bin (0 is the lowest), prediction, truth (means), clips; and `slope`, of truth on prediction over
        all clips of the trait: 1 when calibrated, below 1 when predictions are spread too far.
    """
    rated = predictions.dropna(subset=["truth"])
    parts = []
    for trait, rows in rated.groupby("trait", sort=False):
        rank = rows["prediction"].rank(method="first")
        bins = pd.qcut(rank, min(n_bins, len(rows)), labels=False).rename("bin")
        means = rows.groupby(bins)[["prediction", "truth"]].mean()
        spread = rows["prediction"].var(ddof=0)
        slope = np.cov(rows["prediction"], rows["truth"], ddof=0)[0, 1] / spread if spread > 0 else np.nan
        parts.append(means.assign(clips=bins.value_counts(), trait=trait, slope=slope).reset_index())
    return pd.concat(parts, ignore_index=True)[["trait", "bin", "prediction", "truth", "clips", "slope"]]


def trait_correlations(predictions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pearson correlations between traits over clips, of the truth and of the predictions, (k, k) each.

    A model that predicts one general impression correlates traits more than their ratings do.
    """
    order = predictions["trait"].drop_duplicates()
    rated = predictions.dropna(subset=["truth"]).drop_duplicates(["clip", "trait"])
    wide = rated.pivot(index="clip", columns="trait", values=["truth", "prediction"])
    return wide["truth"][order].corr(), wide["prediction"][order].corr()


def clip_lengths(aligned: Aligned) -> pd.Series:
    """Time of each clip's last token in seconds, index clip."""
    last = [
        np.where(getattr(aligned, f"{s}_mask"), getattr(aligned, f"{s}_t_s"), 0).max(1) for s in ("static", "dynamic")
    ]
    return pd.Series(np.maximum(*last), index=pd.Index(aligned.clips, name="clip"), name="length_s")


def errors_by_length(predictions: pd.DataFrame, lengths_s: pd.Series, n_bins: int = 4) -> pd.DataFrame:
    """Mean absolute and mean signed error by clip length, in parts of about equal size; equal lengths stay together.

    Returns:
        Columns length_s (the median of the part), mae, bias, clips; one row where all clips are equally long.
    """
    rows = predictions.dropna(subset=["truth"])
    rows = rows.assign(length_s=rows["clip"].map(lengths_s), error=rows["prediction"] - rows["truth"])
    edges = np.unique(np.quantile(rows["length_s"], np.linspace(0, 1, n_bins + 1)))
    part = np.clip(np.searchsorted(edges, rows["length_s"], side="right") - 1, 0, max(len(edges) - 2, 0))
    groups = rows.groupby(part)
    return pd.DataFrame(
        {
            "length_s": groups["length_s"].median(),
            "mae": groups["error"].agg(lambda e: e.abs().mean()),
            "bias": groups["error"].mean(),
            "clips": groups["clip"].nunique(),
        }
    ).reset_index(drop=True)


def errors_by_source(predictions: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute and mean signed error of each source, worst first: index source, columns mae, bias, clips."""
    rows = predictions.dropna(subset=["truth"])
    rows = rows.assign(error=rows["prediction"] - rows["truth"])
    groups = rows.groupby("source")
    table = pd.DataFrame(
        {
            "mae": groups["error"].agg(lambda e: e.abs().mean()),
            "bias": groups["error"].mean(),
            "clips": groups["clip"].nunique(),
        }
    )
    return table.sort_values("mae", ascending=False)
