"""How far raters agree, and what that leaves a model to reach.

In: ratings of clips by several raters. Out: per target the reliability of the mean rating and the ceilings it sets.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def reliability(ratings: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """Measure the reliability of mean ratings: intraclass correlation (Shrout and Fleiss 1979, Psych. Bull. 86:420).

    Where all raters rated the same clips it is ICC(2,k): absolute agreement, raters as a random sample. Where raters
    differ from clip to clip it is ICC(1,k), in which a rater's leniency counts as error, k being the harmonic mean of
    the raters per clip. ICC(1,k) is ICC(1,1) stepped up by Spearman and Brown's formula.

    Noise in the mean rating bounds every model: one that knew the true score would correlate with it by the root of
    the reliability (Spearman 1904, Am. J. Psych. 15:72), and reach the reliability itself as R².

    Args:
        ratings: One row per clip and rater: columns `key`, `rater`, and one per target (NaN = not rated).
        targets: The rating columns.

    Returns:
        Index target; `clips` with two raters or more, `raters`, `per_clip` (mean number of raters), `kind`
        ("ICC(2,k)" or "ICC(1,k)"), `single` (of one rater), `mean` (of the mean rating), `max_pearson`, `max_r2`; NaN
        where no two raters rated a clip, or nothing varies. A negative estimate is given as 0.
    """
    rows = {target: _of_target(ratings[["key", "rater", target]].dropna(), target) for target in targets}
    return pd.DataFrame.from_dict(rows, "index").rename_axis("target")


def as_records(table: pd.DataFrame | None) -> dict[str, dict] | None:
    """The table for JSON: one dict per target, None for NaN; None where no raters are named."""
    return None if table is None else table.astype(object).where(table.notna(), None).to_dict("index")


def _of_target(long: pd.DataFrame, target: str) -> dict[str, float | int | str]:
    table = long.pivot(index="key", columns="rater", values=target)
    table = table[table.count(axis=1) > 1]
    table = table.dropna(axis=1, how="all")
    counts = table.count(axis=1)
    known = {"clips": len(table), "raters": table.shape[1], "per_clip": float(counts.mean())}
    if len(table) < 2:
        return known | dict.fromkeys(("kind", "single", "mean", "max_pearson", "max_r2"), np.nan)
    crossed = bool(table.notna().all(axis=None))
    single, mean = _two_way(table.to_numpy()) if crossed else _one_way(table, counts)
    ceilings = {"max_pearson": float(np.sqrt(mean)), "max_r2": mean}
    return known | {"kind": "ICC(2,k)" if crossed else "ICC(1,k)", "single": single, "mean": mean} | ceilings


def _two_way(x: np.ndarray) -> tuple[float, float]:
    """ICC(2,1) and ICC(2,k) of x (clips, raters)."""
    n, k = x.shape
    of_clips = k * np.sum((x.mean(1) - x.mean()) ** 2) / (n - 1)
    of_raters = n * np.sum((x.mean(0) - x.mean()) ** 2) / (k - 1)
    error = np.sum((x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()) ** 2) / ((n - 1) * (k - 1))
    leniency = (of_raters - error) / n
    single = _share(of_clips - error, of_clips + (k - 1) * error + k * leniency)
    return single, _share(of_clips - error, of_clips + leniency)


def _one_way(table: pd.DataFrame, counts: pd.Series) -> tuple[float, float]:
    """ICC(1,1) and ICC(1,k) from the analysis of variance of clips with unequal numbers of raters."""
    n, total = len(table), int(counts.sum())
    means, overall = table.mean(axis=1), float(table.stack().mean())
    within = float(table.sub(means, axis=0).pow(2).sum(axis=None)) / (total - n)
    between = float((counts * (means - overall) ** 2).sum()) / (n - 1)
    typical = (total - float((counts**2).sum()) / total) / (n - 1)
    of_clips = max(0.0, (between - within) / typical)
    harmonic = n / float((1 / counts).sum())
    return _share(of_clips, of_clips + within), _share(of_clips, of_clips + within / harmonic)


def _share(part: float, whole: float) -> float:
    """part / whole; 0 for a negative estimate, NaN where nothing varies."""
    if part < 0:
        return 0.0
    return float(part / whole) if whole > 0 else float("nan")
