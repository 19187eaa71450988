"""How good predictions are, and what can be told from so few sources: metrics, one bootstrap over sources, groups.

`truth` and `prediction` are float arrays (N, k), scores in [0, 1]; NaN is left out. Clips of one source are not
independent, so whole sources are drawn, with replacement (Efron and Tibshirani 1993, ch. 8).
"""

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtrit

from helpers.clips import TRAITS, letter_of

EQUAL = 1e-12  # a variance below is that of equal values, up to rounding


def score_target(truth: np.ndarray, prediction: np.ndarray, constant: float) -> dict[str, float]:
    """Score the predictions of one target, (N,), beside those of a constant.

    Returns mean_accuracy (1 - mae, the score of the ChaLearn First Impressions challenge); mae; mse; r2; pearson; ccc,
    Lin's concordance correlation, 2 cov / (var_truth + var_prediction + (mean_truth - mean_prediction)^2) with moments
    over N (Lin 1989, Biometrics 45:255); skill: 1 - MSE / MSE of the constant. pearson and ccc are 0 where the
    prediction is constant; where truth is, as that of a single clip, these and r2 do not exist: NaN.
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


def conformal_quantile(residuals: np.ndarray, level: float = 0.9) -> np.ndarray:
    """Return the half width of a prediction interval per target (split conformal; Lei et al. 2018, JASA 113:1094).

    prediction ± half width holds the rating of a new clip with probability `level` at least, whatever the model, if
    that clip and those of `residuals`, truth - prediction of clips that it did not see, (n, k), are exchangeable: the
    ceil((n + 1) level)-th smallest absolute one that is no NaN, (k,); infinite where n is too small (under 9 for 0.9).
    """
    sizes = np.pad(np.abs(np.asarray(residuals, np.float64)), ((0, 1), (0, 0)), constant_values=math.inf)
    rank = np.ceil((np.isfinite(sizes).sum(0) + 1) * level - 1e-9).astype(int)
    ordered = np.sort(np.where(np.isnan(sizes), math.inf, sizes), 0)
    return np.take_along_axis(ordered, rank[None] - 1, 0)[0]


DRAWS, LEVEL = 2000, 0.95
CAVEATS = (  # of every model's card
    "Raters of apparent traits are biased by the gender, ethnicity and age that they perceive (Jacques Junior et al. "
    "2021, Person perception biases exposed), and models take biases over (Yan et al. 2020, Mitigating biases in "
    "multimodal personality assessment): errors by group are known only where ratings.csv has a column group.",
    "A score is what viewers would say of a clip, not what a person is.",
)
NONE = "–"  # for a number that does not exist
FEWEST = 8  # sources: of fewer, comparisons raise more than 8 % false alarms (`benchmarks.calibration`)


def resampled_sums(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[list[np.ndarray], int]:
    """Sum over the clips of `DRAWS` draws of whole sources, after the set as it is.

    `parts`: values (N, ...) and sources (N,) of some clips each, as those of a seed; all see the same draws. Returns
    the sums (DRAWS + 1, ...) of each part, and the number of different sources.
    """
    sources = [np.asarray(of_part).astype(str) for _, of_part in parts]
    names, sums = np.unique(np.concatenate(sources)), []
    for (values, _), of_part in zip(parts, sources, strict=True):
        per_source = np.zeros((len(names), *values.shape[1:]))
        np.add.at(per_source, np.searchsorted(names, of_part), values)
        sums.append(np.tensordot(_counts(len(names), DRAWS), per_source, 1))
    return sums, len(names)


@lru_cache(maxsize=1)
def _counts(k: int, draws: int) -> np.ndarray:
    """How often the set as it is, and each draw, holds each of k sources: (draws + 1, k)."""
    random, counts = np.random.RandomState(0), np.ones((draws + 1, k))
    for draw in counts[1:]:
        draw[:] = np.bincount(random.randint(k, size=k), minlength=k)
    return counts


def _mean_over(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean without NaN; NaN where there is nothing else."""
    return np.ma.masked_invalid(values).mean(axis).filled(np.nan)


def _with_ends(draws: np.ndarray, k: int, level: float) -> np.ndarray:
    """The set as it is, low and high end over the draws, (3, ...); NaN for few of k sources, or without a value.

    The expanded percentile interval, wider as t is than z, and as a sample of k varies less than it should (Hesterberg
    2015, Am. Stat. 69:371).
    """
    known, k = np.isfinite(draws[1:]).any(0) & (k >= FEWEST), max(k, 2)
    tail = ndtr(math.sqrt(k / (k - 1)) * stdtrit(k - 1, (1 - level) / 2))
    ends = np.nanquantile(np.where(known, draws[1:], 0), [tail, 1 - tail], axis=0)
    return np.stack([draws[0], *np.where(known, ends, np.nan)])


def mean_interval(
    values: Sequence[np.ndarray], sources: Sequence[np.ndarray], level: float = LEVEL
) -> dict[str, float | list[float] | None]:
    """Mean over clips, then over seeds, `value`, with its `interval` [low, high] over sources; None where there is
    nothing to average, or fewer than `FEWEST` sources.

    Per seed `values` of each clip, (N,), NaN for none, and `sources`, str (N,).
    """
    kept = [(v[~np.isnan(v)], s[~np.isnan(v)]) for v, s in zip(values, sources, strict=True) if not np.isnan(v).all()]
    if not kept:
        return {"value": None, "interval": None}
    sums, n_sources = resampled_sums([(np.column_stack([v, np.ones(len(v))]), s) for v, s in kept])
    with np.errstate(invalid="ignore"):  # a draw without any of a seed's clips
        means = np.stack([total[:, 0] / total[:, 1] for total in sums])
    value, low, high = _with_ends(_mean_over(means, 0), n_sources, level).tolist()
    return {"value": value, "interval": None if np.isnan(low) else [low, high]}


Pair = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # one seed's test clips: truth, a, b (N, k), sources (N,)


def r2_differences(pairs: Sequence[Pair], level: float = LEVEL) -> tuple[np.ndarray, int]:
    """Compare two models: both, and all seeds, are scored on the same draw. A difference is the mean over the seeds.

    R² is against the mean of the whole test set in every draw: against the draw's own, which lies nearer to the clips
    drawn, any model would gain on a constant (+.005 on the sample). Returns float64 (k + 1, 3), R²(a) - R²(b) with the
    interval's ends (NaN for fewer than `FEWEST` sources), the last row the mean over the targets that have a
    value; and the number of sources.
    """
    parts = []
    for truth, a, b, sources in pairs:
        middle = _mean_over(truth, 0)
        squares = np.square(np.stack([truth - middle, truth - a, truth - b], 1).astype(np.float64))
        parts.append((np.nan_to_num(squares), sources))  # an unrated clip counts for nothing
    sums, n_sources = resampled_sums(parts)
    per_seed = [(of[:, 2] - of[:, 1]) / np.where(of[:, 0] < EQUAL, np.nan, of[:, 0]) for of in sums]
    differences = _mean_over(np.stack(per_seed), 0)
    differences = np.column_stack([differences, _mean_over(differences, 1)])  # (DRAWS + 1, k + 1)
    return _with_ends(differences, n_sources, level).T, n_sources


def compare_models(predictions: pd.DataFrame, a: str, b: str) -> dict[str, Any]:
    """Compare the R² of the models called a and b in a table, `predictions.csv`, on their test clips.

    Returns `a`, `b`, `metric` ("r2"), `difference`, `low`, `high` (mean over targets), `targets` (the same three for
    each, traits by their letters), `sources` and `clips` (numbers of both, over all seeds), `verdict`.
    """
    targets = predictions["trait"].drop_duplicates().tolist()
    test, pairs = predictions[predictions["split"] == "test"], []
    for _, rows in test.groupby("seed", sort=False):
        of_a, of_b = (rows[rows["model"] == name].pivot(index=["clip", "source"], columns="trait") for name in (a, b))
        if not len(of_a) or not of_a.index.equals(of_b.index):
            raise ValueError(f"{a} and {b} must be models with predictions for the same clips. Train both.")
        columns = of_a["truth"], of_a["prediction"], of_b["prediction"]
        sources = of_a.index.get_level_values("source").to_numpy(str)
        pairs.append((*(column[targets].to_numpy() for column in columns), sources))
    rows, n_sources = r2_differences(pairs)
    rows = np.where(np.isfinite(rows), rows.astype(object), None)
    ends = [dict(zip(("difference", "low", "high"), row, strict=True)) for row in rows.tolist()]
    found = {"a": a, "b": b, "metric": "r2"} | ends[-1]
    found["targets"] = {letter_of(target): end for target, end in zip(targets, ends[:-1], strict=True)}
    found |= {"sources": n_sources, "clips": sum(len(sources) for *_, sources in pairs)}
    return found | {"verdict": verdict(found)}


def comparisons(predictions: pd.DataFrame, names: Sequence[str], main: str) -> list[dict[str, Any]]:
    """Compare every model with the constant, and the main model, where it is among them, with every other."""
    pairs = [(name, "constant") for name in names if name != "constant"]
    pairs += [(main, name) for name in names if main in names and name not in ("constant", main)]
    return [compare_models(predictions, a, b) for a, b in pairs]


def verdict(found: dict[str, Any]) -> str:
    """Say what a comparison came to: better or worse, the whole interval being on that side of 0; not to be told apart;
    or why it has no interval.
    """
    a, b = (found[side].replace("_", " ") for side in "ab")
    than = "a constant" if b == "constant" else b
    unit = "mean R²" if len(found.get("targets", ())) > 1 else "R²"
    difference, low, high = (found[end] for end in ("difference", "low", "high"))
    if difference is None:
        return f"{a} cannot be compared with {than}: {unit} needs 2 test clips of different ratings."
    if low is None:
        few = f"{found['sources']} sources are too few for an interval, which needs {FEWEST}"
        return f"{a} cannot be compared with {than}: {signed(difference)} {unit} on the test clips, but {few}."
    if low > 0 or (high < 0 and b != "constant"):
        least, most = sorted(map(abs, (low, high)))
        how = "better" if low > 0 else "worse"
        return f"{a} is {how} than {than} by {abs(difference):.3f} {unit} [{least:.3f}, {most:.3f}]."
    measured = f"{signed(difference)} {unit} [{signed(low)}, {signed(high)}]."
    if b == "constant":
        return f"{a} is no better than {than}: {measured}"
    return f"{a} and {than} cannot be told apart: {measured}"


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with so many decimals; `NONE` where there is none. What rounds to 0 has no minus."""
    if value is None or np.isnan(value):
        return NONE
    return f"{round(value, digits) + 0.0:{'+' if sign else ''},.{digits}f}"


signed = partial(number, digits=3, sign=True)


def group_errors(predictions: pd.DataFrame, groups: pd.Series) -> dict[str, dict[str, float | None]]:
    """Measure one model's errors in each group of clips: does it serve some people worse than others.

    `predictions`: columns clip, source, truth, prediction of one model's held-out clips, every target and seed;
    `groups`: group of each clip, index clip, "" for none. Returns by group `clips`, `sources`, `mae` (mean of
    |prediction - truth|) and `bias` (of prediction - truth), each with the ends `_low` and `_high` of its interval over
    sources; None for fewer than `FEWEST`.
    """
    rows = predictions.dropna(subset=["truth"])
    rows = rows.assign(group=rows["clip"].map(groups).replace("", np.nan), bias=rows["prediction"] - rows["truth"])
    found: dict[str, dict[str, float | None]] = {}
    for group, own in rows.assign(mae=rows["bias"].abs()).groupby("group"):
        errors = own[["clip", "source"]].nunique().set_axis(["clips", "sources"]).to_dict()
        for name in ("mae", "bias"):
            mean = mean_interval([own[name].to_numpy()], [own["source"].to_numpy(str)])
            low, high = mean["interval"] or (None, None)
            errors |= {name: mean["value"], f"{name}_low": low, f"{name}_high": high}
        found[str(group)] = errors
    return found


def model_warnings(
    weights: Sequence[str], *, synthetic: bool = False, invented: bool = False, split: str | None = None
) -> list[str]:
    """What weakens everything that a model says, by the names of the weights behind it, whether its clips are synthetic
    and its ratings invented, and the warning of its split.
    """
    found = {
        "the networks have random weights: their scores say nothing about people": "random" in weights,
        "the model was trained on synthetic clips: what it learned is about drawings, not about people": synthetic,
        "the ratings of the training clips were invented: no score of this model means anything": invented,
        f"the model's own scores are too high: {split}": split,
    }
    return [text for text, holds in found.items() if holds]
