"""Is one model better than another: paired bootstrap over sources, and the answer in words.

In: truth and predictions of two models on the same test clips (N, k), once per seed, with the clips' sources. Out:
differences per target and on average with intervals, and sentences. NaN in `truth` means unrated and is left out.

Means over clips with intervals: whole sources are drawn, because clips of one source are not independent.

In: one value per clip, once per seed, with the clips' sources. Out: the mean and the ends of its interval.

Errors by subgroup of clips: does the model serve some people worse than others.

In: predictions with truth and source, and the group of each clip. Out: per group the mean absolute error, the mean
signed error and what both differ by from everyone else, with intervals by a bootstrap over sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from helpers.clips import LETTERS, TRAITS
from helpers.metrics import ratio

DRAWS, LEVEL = 2000, 0.95


@dataclass(frozen=True)
class Paired:
    """One seed's test clips as two models saw them: `truth`, `a` and `b` (N, k), `sources` (N,)."""

    truth: np.ndarray
    a: np.ndarray
    b: np.ndarray
    sources: np.ndarray


def bootstrap_differences(
    sets: Sequence[Paired], metric: str = "r2", *, n: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> np.ndarray:
    """Compare two models by a paired bootstrap over sources.

    Clips of one source are not independent, so whole sources are drawn, with replacement (Efron and Tibshirani 1993,
    ch. 8); both models, and all seeds, are scored on the same draw. A difference is the mean over the seeds. R² is
    measured against the mean of the whole test set in every draw: against the draw's own, which lies nearer to the
    clips drawn, any model would gain on a constant (+.005 on the sample).

    Args:
        sets: One per seed; their test clips may differ.
        metric: "mean_accuracy", "mae", "mse", "r2", "pearson" or "ccc", as in `helpers.metrics`.
        n: Number of draws.
        level: Coverage of the percentile interval.
        seed: Of the draws.

    Returns:
        float64 (k + 1, 3): metric(a) - metric(b), the interval's low and high end; the last row is the mean over the
        targets that have a value.
    """
    if metric not in FROM_SUMS:
        raise ValueError(f"metric must be one of {', '.join(FROM_SUMS)}, got {metric!r}.")
    names = np.unique(np.concatenate([s.sources.astype(str) for s in sets]))
    if len(names) < 2:
        raise ValueError(f"sources must be at least 2 different ones, got {len(names)}. Test on clips of more sources.")
    random = np.random.RandomState(seed)
    drawn = np.stack([np.bincount(random.randint(len(names), size=len(names)), minlength=len(names)) for _ in range(n)])
    counts = np.vstack([np.ones(len(names)), drawn])  # (n + 1, sources), the first row is the test set as it is
    per_pair = [_pair_differences(s, names, counts, metric) for s in sets]  # (n + 1, k) each
    differences = _mean_over(np.stack(per_pair), 0)
    differences = np.column_stack([differences, _mean_over(differences, 1)])  # (n + 1, k + 1)
    ends = np.nanquantile(differences[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.stack([differences[0], *ends], 1)


def _pair_differences(pair: Paired, names: np.ndarray, counts: np.ndarray, metric: str) -> np.ndarray:
    """metric(a) - metric(b) of each draw and target, (draws, k)."""
    if not len(pair.truth) == len(pair.a) == len(pair.b) == len(pair.sources):
        raise ValueError(f"sources must be {len(pair.truth)}, one per clip, got {len(pair.sources)}.")
    of_clip = np.searchsorted(names, pair.sources.astype(str))
    values = [FROM_SUMS[metric](_drawn_sums(pair.truth, p, of_clip, counts)) for p in (pair.a, pair.b)]
    return values[0] - values[1]


def _drawn_sums(truth: np.ndarray, prediction: np.ndarray, of_clip: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means over each draw of what every metric is made of, (7, draws, k): see FROM_SUMS."""
    truth, prediction = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    rated = ~np.isnan(truth)
    middle = np.where(rated, truth, 0).sum(0) / np.maximum(rated.sum(0), 1)  # shifts both: squares stay exact
    t, p = np.where(rated, truth - middle, 0), np.where(rated, prediction - middle, 0)
    each = np.stack([rated, t, p, t**2, p**2, t * p, np.abs(t - p)])  # (7, N, k)
    per_source = np.zeros((len(each), counts.shape[1], truth.shape[1]))
    np.add.at(per_source.transpose(1, 0, 2), of_clip, each.transpose(1, 0, 2))
    sums = np.einsum("ds,qsk->qdk", counts, per_source)
    with np.errstate(invalid="ignore"):  # no rating drawn: NaN
        return np.concatenate([sums[:1], sums[1:] / sums[:1]])


def _mse(m: np.ndarray) -> np.ndarray:
    return m[3] - 2 * m[5] + m[4]


def _variances(m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variance of truth and prediction and their covariance; a variance within rounding of 0 is 0."""
    truth, prediction = (np.where(v < 1e-12, 0, v) for v in (m[3] - m[1] ** 2, m[4] - m[2] ** 2))
    return truth, prediction, m[5] - m[1] * m[2]


def _pearson(m: np.ndarray) -> np.ndarray:
    truth, prediction, covariance = _variances(m)
    return ratio(covariance, np.sqrt(truth * prediction), 0.0)


def _ccc(m: np.ndarray) -> np.ndarray:
    truth, prediction, covariance = _variances(m)
    return np.where(prediction == 0, 0.0, ratio(2 * covariance, truth + prediction + (m[1] - m[2]) ** 2, 0.0))


FROM_SUMS = {  # m: number rated; means of truth, prediction, their squares, their product, their absolute difference
    "mean_accuracy": lambda m: 1 - m[6],
    "mae": lambda m: m[6],
    "mse": _mse,
    "r2": lambda m: 1 - ratio(_mse(m), np.where(m[3] < 1e-12, 0, m[3])),  # truth is 0 where the test set's mean is
    "pearson": _pearson,
    "ccc": _ccc,
}


def _mean_over(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean without NaN; NaN where there is nothing else."""
    n = (~np.isnan(values)).sum(axis)
    return np.where(n > 0, np.nansum(values, axis) / np.maximum(n, 1), np.nan)


def paired_sets(predictions: pd.DataFrame, a: str, b: str) -> tuple[list[Paired], list[str]]:
    """Take two models' test clips out of `predictions.csv`: one set per seed, and the targets in their order."""
    targets = predictions["trait"].drop_duplicates().tolist()
    rows = predictions[predictions["split"] == "test"]
    sets = []
    for seed in rows["seed"].unique():
        wide = [
            rows[(rows["seed"] == seed) & (rows["model"] == name)].pivot(
                index=["clip", "source"], columns="trait", values=["truth", "prediction"]
            )
            for name in (a, b)
        ]
        if not len(wide[0]) or not wide[0].index.equals(wide[1].index):
            raise ValueError(f"{a} and {b} must be models with predictions for the same clips. Train both.")
        truth, first, second = (
            table[column][targets].to_numpy()
            for table, column in ((wide[0], "truth"), (wide[0], "prediction"), (wide[1], "prediction"))
        )
        sets.append(Paired(truth, first, second, wide[0].index.get_level_values("source").to_numpy(str)))
    return sets, targets


def compare_models(predictions: pd.DataFrame, a: str, b: str, metric: str = "r2", **options: Any) -> dict[str, Any]:
    """Compare any two models of a table.

    Args:
        predictions: As `predictions.csv` has them.
        a, b: Names of models in it.
        metric: See `bootstrap_differences`, which `options` go to.

    Returns:
        `a`, `b`, `metric`, `difference`, `low`, `high` (mean over targets), `targets` (the same three for each, traits
        by their letters), `sources` and `clips` (numbers of both, over all seeds), `verdict`.
    """
    return compare_sets(*paired_sets(predictions, a, b), a, b, metric, **options)


def compare_sets(
    sets: Sequence[Paired], targets: Sequence[str], a: str, b: str, metric: str = "r2", **options: Any
) -> dict[str, Any]:
    """Compare two models of these names by their predictions; see `compare_models`."""
    rows = bootstrap_differences(sets, metric, **options)
    letters = dict(zip(TRAITS, LETTERS, strict=True))
    ends = [dict(zip(("difference", "low", "high"), map(_or_none, row), strict=True)) for row in rows]
    found = {"a": a, "b": b, "metric": metric} | ends[-1]
    found["targets"] = {letters.get(target, target): end for target, end in zip(targets, ends[:-1], strict=True)}
    found["sources"] = len(np.unique(np.concatenate([s.sources for s in sets])))
    found["clips"] = int(sum(len(s.truth) for s in sets))
    return found | {"verdict": verdict(found)}


def verdict(found: dict[str, Any]) -> str:
    """Say what a comparison came to: better, worse, or not to be told apart, with the interval.

    Better and worse mean that the whole interval lies on that side of 0.
    """
    a, b = (found[side].replace("_", " ") for side in "ab")
    r2 = "mean R²" if len(found.get("targets", ())) > 1 else "R²"
    unit = {"r2": r2, "mean_accuracy": "mean accuracy"}.get(found["metric"], found["metric"])
    if None in (found["difference"], found["low"], found["high"]):
        return f"{a} cannot be compared with {b}: too few rated test clips."
    errors = found["metric"] in ("mae", "mse")
    low, high = found["low"], found["high"]
    better, worse = (high < 0, low > 0) if errors else (low > 0, high < 0)
    difference, interval = signed(found["difference"]), f"[{signed(low)}, {signed(high)}]"
    if better or (worse and b != "constant"):
        how = "better" if better else "worse"
        least, most = sorted(map(abs, (low, high)))
        return f"{a} is {how} than {_the(b)} by {abs(found['difference']):.3f} {unit} [{least:.3f}, {most:.3f}]."
    if b == "constant":
        return f"{a} is no better than a constant: {difference} {unit} {interval}."
    return f"{a} and {_the(b)} cannot be told apart: {difference} {unit} {interval}."


def signed(value: float) -> str:
    """Three decimals with a sign; what rounds to 0 is +0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def _the(name: str) -> str:
    return "a constant" if name == "constant" else name


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def comparisons(predictions: pd.DataFrame, names: Sequence[str], main: str) -> list[dict[str, Any]]:
    """Compare every model with the constant, and the main model, where it is among them, with every other."""
    pairs = [(name, "constant") for name in names if name != "constant"]
    pairs += [(main, name) for name in names if main in names and name not in ("constant", main)]
    return [compare_models(predictions, a, b) for a, b in pairs]


def mean_interval(
    values: Sequence[np.ndarray],
    sources: Sequence[np.ndarray],
    *,
    n: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, float | list[float] | None]:
    """Mean over clips, then over seeds, with a bootstrap interval over sources (Efron and Tibshirani 1993, ch. 8).

    Args:
        values: Per seed one value per clip, (N,); NaN is left out.
        sources: Per seed the clips' sources, str (N,); all seeds see the same draw of sources.
        n: Number of draws.
        level: Coverage of the percentile interval.
        seed: Of the draws.

    Returns:
        `value` and `interval` [low, high]; None where there is nothing to average, or a single source.
    """
    if len(values) != len(sources) or any(len(v) != len(s) for v, s in zip(values, sources, strict=False)):
        raise ValueError(
            f"sources must be one per value, got {[len(s) for s in sources]} for {[len(v) for v in values]}."
        )
    kept = [(v[~np.isnan(v)], s[~np.isnan(v)].astype(str)) for v, s in zip(values, sources, strict=True)]
    kept = [(v, s) for v, s in kept if len(v)]
    if not kept:
        return {"value": None, "interval": None}
    value = float(np.mean([v.mean() for v, _ in kept]))
    names = np.unique(np.concatenate([s for _, s in kept]))
    if len(names) < 2:
        return {"value": value, "interval": None}
    random = np.random.RandomState(seed)
    counts = np.stack(
        [np.bincount(random.randint(len(names), size=len(names)), minlength=len(names)) for _ in range(n)]
    )
    means = []
    for v, s in kept:
        of_clip = np.searchsorted(names, s)
        total, number = (np.bincount(of_clip, weights=w, minlength=len(names)) for w in (v, np.ones(len(v))))
        with np.errstate(invalid="ignore"):  # a draw without clips of this seed
            means.append(counts @ total / (counts @ number))
    ends = np.nanquantile(np.nanmean(np.stack(means), 0), [(1 - level) / 2, (1 + level) / 2])
    return {"value": value, "interval": [float(end) for end in ends]}


CRITICISM = (
    "Raters of apparent traits are biased by the gender, ethnicity and age that they perceive (Jacques Junior et al. "
    "2021, Person perception biases exposed), and models take biases over (Yan et al. 2020, Mitigating biases in "
    "multimodal personality assessment)."
)
FEWEST = 5  # sources on either side: no resampling of fewer reaches a coverage of 95 %
MEASURES = ("mae", "bias", "mae_over_others", "bias_over_others")


def group_errors(
    predictions: pd.DataFrame, groups: pd.Series, *, n: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Measure one model's errors in each group.

    Args:
        predictions: Columns seed, clip, source, truth, prediction: one model's held-out clips, every target.
        groups: Group of each clip, index clip; clips without one ("" or absent) count to no group, but to the others.
        n: Draws of whole sources, with replacement.
        level: Coverage of the intervals.
        seed: Of the draws.

    Returns:
        By group: `clips`, `sources`, and `mae` (mean |truth - prediction|), `bias` (mean of prediction - truth),
        `mae_over_others`, `bias_over_others` (the group's minus everyone else's), each {"value", "low", "high"};
        means over targets and seeds. None where nothing can be said, as for intervals of fewer than `FEWEST` sources.
    """
    rows = predictions.dropna(subset=["truth"])
    rows = rows.assign(group=rows["clip"].map(groups).fillna(""), error=rows["prediction"] - rows["truth"])
    names = np.unique(rows["source"].astype(str))
    random = np.random.RandomState(seed)
    drawn = np.stack([np.bincount(random.randint(len(names), size=len(names)), minlength=len(names)) for _ in range(n)])
    counts = np.vstack([np.ones(len(names)), drawn])  # the first row is the clips as they are
    found = {}
    for group in sorted(set(rows["group"]) - {""}):
        of_group = rows["group"] == group
        ours, others = (_errors(part, names, counts) for part in (rows[of_group], rows[~of_group]))
        table = np.stack([*ours, ours[0] - others[0], ours[1] - others[1]])  # (4, draws)
        own = rows[of_group]
        known = {"clips": int(own["clip"].nunique()), "sources": int(own["source"].nunique())}
        fewest = min(known["sources"], rows[~of_group]["source"].nunique())
        n_sources = (known["sources"], known["sources"], fewest, fewest)
        ends = (_ends(*each, level) for each in zip(table, n_sources, strict=True))
        found[str(group)] = known | dict(zip(MEASURES, ends, strict=True))
    return found


def _errors(rows: pd.DataFrame, names: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean absolute and mean signed error of each draw, (draws,) each; NaN where none of the rows is drawn."""
    of_row = np.searchsorted(names, rows["source"].astype(str))
    error = rows["error"].to_numpy()
    weights = np.abs(error), error, np.ones(len(error))
    sums = [counts @ np.bincount(of_row, weights=w, minlength=len(names)) for w in weights]
    with np.errstate(invalid="ignore"):
        return sums[0] / sums[2], sums[1] / sums[2]


def _ends(draws: np.ndarray, n_sources: int, level: float) -> dict[str, float | None]:
    """The value, which is the first of the draws, and the ends of its interval; None for those of few sources."""
    value, rest = draws[0], draws[1:][np.isfinite(draws[1:])]
    if n_sources < FEWEST or not np.isfinite(value) or not len(rest):
        return {"value": float(value) if np.isfinite(value) else None, "low": None, "high": None}
    tail = expanded_tail(level, n_sources)
    low, high = np.quantile(rest, [tail, 1 - tail])
    return {"value": float(value), "low": float(low), "high": float(high)}


def expanded_tail(level: float, n: int) -> float:
    """Share of the draws to leave out on either side, so that few sources do not make the interval too narrow.

    The expanded percentile interval of Hesterberg (2015, What teachers should know about the bootstrap):
    a percentile interval of n values is narrower than that of the t distribution by about as much as is added here.
    """
    return float(stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, n - 1)))


def in_words(found: dict[str, dict[str, Any]]) -> list[str]:
    """One sentence per group whose errors differ from the others', or one that says that none can be told to."""
    said = []
    for group, errors in found.items():
        for measure, what in (("mae_over_others", "mean absolute error"), ("bias_over_others", "mean signed error")):
            d = errors[measure]
            if d["low"] is not None and (d["low"] > 0 or d["high"] < 0):
                interval = f"[{signed(d['low'])}, {signed(d['high'])}]"
                said.append(f"{group}: {what} differs from that of the others by {signed(d['value'])} {interval}.")
    if found and not said:
        said.append(f"No group's errors can be told from the others': {', '.join(found)}.")
    return said


def caveats(found: dict[str, dict[str, Any]]) -> list[str]:
    """What a model's card says about groups of people, measured or not."""
    said = in_words(found) or ["Errors by group are unknown: no groups were given (column group of ratings.csv)."]
    return [f"{' '.join(said)} {CRITICISM}", "A score is what viewers would say of a clip, not what a person is."]
