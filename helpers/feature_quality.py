"""Whether features are any good: what tells clips and sources apart, and which channels say nothing.

In: the feature files of a stage, or one mean row per clip (index key, one column per channel). Out: tables, beside what
chance would give. Clips of one source show one person in one place, so features that keep them together know who
somebody is: that is no evidence that they know what viewers see in them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics.pairwise import cosine_similarity

from helpers.align import varying
from helpers.clips import targets_of
from helpers.store import FeatureFile, read_features, valid_rows

MOST_CLIPS, MOST_OF_SOURCE = 1000, 50  # clips whose pairs are looked at: half a million pairs
SAMPLED_ROWS = 4096
DRAWS = 500  # of what chance gives
EXACT_CLIPS = 500  # below, t-SNE needs no tree, which waits for its threads more than it computes


def usable_clips(table: pd.DataFrame, manifest: dict[str, Any]) -> list[str]:
    """Keys of the clips of `clips.csv` that have features, by the manifest of 03 or 04."""
    failed = {entry["clip"] for entry in manifest["failed"] if "row" not in entry}
    return [key for key in table.index if key not in failed]


def rated_or_all(table: pd.DataFrame, keys: Iterable[str]) -> list[str]:
    """Those of some clips of `clips.csv` that have a rating, in their order; all of them where none has."""
    keys = list(keys)
    rated = table.loc[keys, targets_of(table)].notna().any(axis=1).to_numpy(bool)
    return [key for key, one in zip(keys, rated, strict=True) if one or not rated.any()]


def example_clip(folder: str | Path, table: pd.DataFrame, usable: Sequence[str]) -> tuple[str, FeatureFile]:
    """The first clip that has a valid row, a rated one where there are any, and all its rows."""
    for key in rated_or_all(table, usable):
        if valid_rows(path := Path(folder) / f"{key}.npz"):
            return key, read_features(path)
    raise ValueError(f"{folder} must hold a clip with a valid row, got none. See why clips failed.")


def mean_features(folder: str | Path, table: pd.DataFrame, keys: Iterable[str]) -> pd.DataFrame:
    """Average the valid rows of clips of a stage: a row per clip that has any, clips of a source beside each other."""
    found = {key: valid_rows(Path(folder) / f"{key}.npz") for key in keys}
    means = pd.DataFrame({key: rows.features.mean(axis=0) for key, rows in found.items() if rows is not None}).T
    return means.loc[table.loc[means.index, "source"].sort_values(kind="stable").index]


def sample_rows(folder: str | Path, keys: Sequence[str]) -> np.ndarray:
    """Draw valid rows of a stage, as many of each clip where possible, with one clip in memory at a time.

    Returns:
        float32 (n, D) in the order of the keys, n <= `SAMPLED_ROWS`; ValueError where there is none.
    """
    rng = np.random.default_rng(0)
    keys = [keys[i] for i in np.sort(rng.permutation(len(keys))[:SAMPLED_ROWS])]
    of_each, found = max(1, SAMPLED_ROWS // max(1, len(keys))), []
    for key in keys:
        rows = valid_rows(Path(folder) / f"{key}.npz")
        if rows is not None:
            found.append(rows.features[np.sort(rng.permutation(len(rows.features))[:of_each])])
    return np.concatenate(found)


def standardised(rows: np.ndarray) -> np.ndarray:
    """Rows (n, D) with mean 0 and sd 1 per channel; channels that do not vary are 0."""
    varies = varying(rows)
    sd = np.where(varies, rows.std(axis=0), 1)
    return np.where(varies, (rows - rows.mean(axis=0)) / sd, 0).astype("float32")


def apart(clip_means: pd.DataFrame, key: str) -> np.ndarray:
    """The direction in which one clip lies from the mean clip, each channel in its standard deviations.

    Returns:
        float32 (D,), such that features @ direction rises by 1 per standard deviation on the way from the mean clip to
        this one. Where clips are equal, or there is one: the direction of its features.
    """
    rows = clip_means.to_numpy("float32")
    if not varying(rows).any():
        return rows[0] / max(float(np.linalg.norm(rows[0])), 1e-30)
    z = standardised(rows)[clip_means.index.get_loc(key)]
    return (z / max(float(np.linalg.norm(z)), 1e-30) / np.where(z != 0, rows.std(axis=0), 1)).astype("float32")


def consistency(clip_means: pd.DataFrame, sources: Sequence[str]) -> pd.DataFrame | None:
    """Measure how alike the clips of one source are, and how far sources lie from each other.

    Args:
        clip_means: A row per clip, its channels standardised here: raw features of one sign look alike anyhow. Of more
            than `MOST_OF_SOURCE` of a source and `MOST_CLIPS` in all, some are drawn.
        sources: Of each clip, (n,).

    Returns:
        Rows "within sources: cosine similarity" and "between sources: cosine distance", means over pairs; columns
        value, permuted_low, permuted_high (95 % of the same with the sources permuted). None when no two clips share a
        source, or all do, or all clips are equal.
    """
    rng, sources = np.random.default_rng(0), pd.Series(np.asarray(sources))
    few = (sources.groupby(sources).cumcount() < MOST_OF_SOURCE).to_numpy()
    names, sizes = np.unique(sources[few], return_counts=True)
    order = rng.permutation(len(names))
    chosen = few & sources.isin(names[order[np.cumsum(sizes[order]) - sizes[order] < MOST_CLIPS]]).to_numpy()
    codes, rows = pd.factorize(sources[chosen])[0], clip_means.to_numpy("float32")[chosen]
    if not 1 < len(set(codes)) < len(codes) or not varying(rows).any():
        return None
    pairs = np.triu_indices(len(rows), 1)
    similarity = cosine_similarity(standardised(rows)).astype("float64")[pairs]

    def within_between(codes: np.ndarray) -> tuple[float, float]:
        same = codes[pairs[0]] == codes[pairs[1]]
        return similarity[same].mean(), 1 - similarity[~same].mean()

    permuted = [within_between(rng.permutation(codes)) for _ in range(DRAWS)]
    low, high = np.percentile(permuted, [2.5, 97.5], axis=0)
    index = ["within sources: cosine similarity", "between sources: cosine distance"]
    return pd.DataFrame({"value": within_between(codes), "permuted_low": low, "permuted_high": high}, index=index)


def planes(clip_means: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Lay clips out in a plane, by PCA and by t-SNE, which keeps neighbours together; its distances mean nothing.

    Returns:
        A row per clip, columns x and y; `attrs["shares"]` of PCA are the shares of the variance. None unless there are
        3 clips that differ in 2 channels or more.
    """
    rows, n = clip_means.to_numpy("float32"), len(clip_means)
    if n < 3 or rows.shape[1] < 2 or not varying(rows).any():
        return None
    pca = PCA(2, svd_solver="full").fit(z := standardised(rows))
    how = "exact" if n < EXACT_CLIPS else "barnes_hut"
    tsne = TSNE(2, perplexity=min(10, (n - 1) / 3), init="pca", method=how, random_state=0)
    points = pca.transform(z), tsne.fit_transform(z)
    by_pca, by_tsne = (pd.DataFrame(each, index=clip_means.index, columns=["x", "y"]) for each in points)
    by_pca.attrs["shares"] = pca.explained_variance_ratio_.tolist()
    return by_pca, by_tsne


def best_rating(table: pd.DataFrame, x: pd.Series) -> pd.Series | None:
    """The target of `clips.csv` whose ratings go best with a number of each clip, index key; None without ratings."""
    ratings = table.loc[x.index, targets_of(table)].dropna(axis=1, how="all")
    varied = ratings.loc[:, ratings.nunique() > 1]
    return ratings[varied.corrwith(x).abs().idxmax()] if len(varied.columns) else None
