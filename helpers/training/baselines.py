"""What a network has to beat: predictors without one.

In: `Aligned` clips with ratings (NaN where unrated) and which of them are for training and validation. Out: predictions
float (N, k) for these and further clips.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge

from helpers.align import Aligned

RIDGE_ALPHAS = 10.0 ** np.arange(0, 5.1, 0.5)

Predictor = Callable[[Sequence[Aligned], np.ndarray, np.ndarray], list[np.ndarray]]


def constant(sets: Sequence[Aligned], train: np.ndarray, validation: np.ndarray) -> list[np.ndarray]:
    """Answer the mean training rating of each target for every clip.

    Args:
        sets: Clips to predict; those of the first one are trained on.
        train, validation: Which clips of the first set these are, bool (N,).

    Returns:
        Predictions (N, k) of each set.
    """
    mean = np.nanmean(sets[0].labels[train], 0)
    return [np.tile(mean, (len(clips), 1)) for clips in sets]


def same_video(sets: Sequence[Aligned], train: np.ndarray, validation: np.ndarray) -> list[np.ndarray]:
    """Answer the mean rating of the training clips of the same source, shrunken to the mean of all: sees no pixel.

    Whatever it knows beyond the constant is what the split leaks; by source it is the constant. The weight of a source
    with n clips is n vb / (n vb + vw), the best linear predictor in a one-way random-effects model, with the variances
    between and within sources from the analysis of variance (Searle, Casella and McCulloch 1992, ch. 3).
    Arguments and result are those of `constant`.
    """
    labels, sources = sets[0].labels[train].astype(float), sets[0].sources[train]
    columns = [_shrunken_means(pd.Series(column, index=sources).dropna()) for column in labels.T]
    return [np.stack([means.reindex(s.sources).fillna(mean) for means, mean in columns], 1) for s in sets]


def _shrunken_means(ratings: pd.Series) -> tuple[pd.Series, float]:
    """Shrunken mean of each source (the index) and the mean of all ratings."""
    groups = ratings.groupby(level=0)
    size, mean, overall = groups.size(), groups.mean(), float(ratings.mean())
    n, n_groups = len(ratings), len(size)
    if n_groups < 2 or n_groups == n:
        return mean.iloc[:0], overall  # nothing tells the variance between sources from that within
    within = float(((ratings - groups.transform("mean")) ** 2).sum()) / (n - n_groups)
    typical_size = (n - float((size**2).sum()) / n) / (n_groups - 1)
    between = max(0.0, (float((size * (mean - overall) ** 2).sum()) / (n_groups - 1) - within) / typical_size)
    if between == 0:
        return mean.iloc[:0], overall
    weight = size * between / (size * between + within)
    return overall + weight * (mean - overall), overall


def ridge(*streams: str) -> Predictor:
    """Make the ridge regression on the mean tokens of these streams; its penalty is chosen on the validation clips."""

    def predict(sets: Sequence[Aligned], train: np.ndarray, validation: np.ndarray) -> list[np.ndarray]:
        pooled = [clips.pooled() for clips in sets]
        x = [np.concatenate([streams_of[name] for name in streams], 1) for streams_of in pooled]
        mean, sd = x[0][train].mean(0), x[0][train].std(0)
        x = [(part - mean) / np.where(sd > 0, sd, 1) for part in x]
        models = fit_ridge(x[0], sets[0].labels, train, validation)
        return [np.stack([m.predict(part) for m in models], 1) for part in x]

    return predict


def fit_ridge(x: np.ndarray, y: np.ndarray, train: np.ndarray, validation: np.ndarray) -> list[Ridge]:
    """Fit one ridge regression per target on standardised x, its penalty chosen on the validation clips.

    Args:
        x: (N, D).
        y: (N, k), NaN where unrated; each target is fitted to the clips that have it.
        train, validation: bool (N,).
    """
    models = []
    for column in y.T:
        fitted_on, chosen_on = (part & ~np.isnan(column) for part in (train, validation))
        tried = [Ridge(alpha).fit(x[fitted_on], column[fitted_on]) for alpha in RIDGE_ALPHAS]
        errors = [np.mean((m.predict(x[chosen_on]) - column[chosen_on]) ** 2) for m in tried]
        models.append(tried[int(np.argmin(errors))])
    return models


BASELINES: dict[str, Predictor] = {
    "constant": constant,
    "same_video": same_video,
    "ridge_face": ridge("static"),
    "ridge_motion": ridge("dynamic"),
    "ridge": ridge("static", "dynamic"),
}
