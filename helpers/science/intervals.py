"""Means over clips with intervals: whole sources are drawn, because clips of one source are not independent.

In: one value per clip, once per seed, with the clips' sources. Out: the mean and the ends of its interval.
"""

from collections.abc import Sequence

import numpy as np

from helpers.science.comparison import DRAWS, LEVEL


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
