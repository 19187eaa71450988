"""Errors by subgroup of clips: does the model serve some people worse than others.

In: predictions with truth and source, and the group of each clip. Out: per group the mean absolute error, the mean
signed error and what both differ by from everyone else, with intervals by a bootstrap over sources.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from helpers.science.comparison import DRAWS, LEVEL, signed

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
