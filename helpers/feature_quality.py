"""Whether features are any good: what tells clips and sources apart, and whether a clip is out of distribution.

Clips of one source show one person in one place, so features that keep them together know who somebody is: that is no
evidence that they know what viewers see in them. A clip that is unlike the training clips has intervals that promise
nothing: its distance is Mahalanobis's (Lee et al. 2018, NeurIPS, arXiv:1807.03888), beside those of held-out clips,
judged by a conformal p-value (Bates et al. 2023, Ann. Statist. 51:149).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics.pairwise import cosine_similarity

from helpers.align import Aligned, varying
from helpers.clips import targets_of
from helpers.store import STREAMS, FeatureFile, read_arrays, read_features, valid_rows, write_arrays

MOST_CLIPS, MOST_OF_SOURCE = 1000, 50  # clips whose pairs are looked at: half a million pairs
DRAWS = 500  # of what chance gives
EXACT_CLIPS = 500  # below, t-SNE needs no tree, which waits for its threads more than it computes
MOST_TOKENS = 20_000  # that a covariance is made from, evenly spread: 80 MB at 512 channels
RARE = 0.01  # share of clips like the held-out ones that may be called unlike


def usable_clips(table: pd.DataFrame, manifest: dict[str, Any]) -> list[str]:
    """Keys of the clips of `clips.csv` that have features, by the manifest of 03 or 04; rated ones first."""
    failed = {entry["clip"] for entry in manifest["failed"] if "row" not in entry}
    unrated = table[targets_of(table)].isna().all(axis=1)
    return [key for key in table.index[np.argsort(unrated, kind="stable")] if key not in failed]


def example_clip(folder: str | Path, usable: Sequence[str]) -> tuple[str, FeatureFile]:
    """The first clip whose rows are all valid, or else some, and all its rows; ValueError where there is none."""
    for enough in (np.all, np.any):
        for key in usable:
            rows = read_features(Path(folder) / f"{key}.npz")
            if rows.valid.any() and enough(rows.valid):
                return key, rows
    raise ValueError(f"{folder} must hold a clip with a valid row, got none. See why clips failed.")


def mean_features(folder: str | Path, table: pd.DataFrame, keys: Iterable[str]) -> pd.DataFrame:
    """Average the valid rows of clips of a stage: a row per clip that has any, clips of a source beside each other."""
    found = ((key, valid_rows(Path(folder) / f"{key}.npz")) for key in keys)
    means = pd.DataFrame({key: rows.features.mean(axis=0) for key, rows in found if rows is not None}).T
    return means.loc[table.loc[means.index, "source"].sort_values(kind="stable").index]


def standardised(rows: np.ndarray) -> np.ndarray:
    """Rows (n, D) with mean 0 and sd 1 per channel; channels that do not vary are 0."""
    varies = varying(rows)
    sd = np.where(varies, rows.std(axis=0), 1)
    return np.where(varies, (rows - rows.mean(axis=0)) / sd, 0).astype("float32")


def apart(clip_means: pd.DataFrame, key: str) -> np.ndarray:
    """The direction in which one clip lies from the mean clip, float32 (D,), each channel in its standard deviations:
    features @ direction rises by 1 per standard deviation on the way from the mean clip to this one. Where clips are
    equal, or there is one: the direction of its features.
    """
    rows = clip_means.to_numpy("float32")
    if not varying(rows).any():
        return rows[0] / max(float(np.linalg.norm(rows[0])), 1e-30)
    z = standardised(rows)[clip_means.index.get_loc(key)]
    return (z / max(float(np.linalg.norm(z)), 1e-30) / np.where(z != 0, rows.std(axis=0), 1)).astype("float32")


def consistency(clip_means: pd.DataFrame, sources: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]] | None:
    """Measure how alike the clips of one source are, and how far sources lie from each other.

    Channels are standardised here: raw features of one sign look alike anyhow. At most `MOST_CLIPS` are looked at, in
    the order of `sources`, (n,), and of a source `MOST_OF_SOURCE`.

    Returns:
        By "similarity within sources" and "distance between sources", means of the cosine over pairs: `value` of what
        is "measured", and of "permuted sources", with the 95 % `interval`. None when no two clips share a source, or
        all do, or all clips are equal.
    """
    few = pd.Series(np.asarray(sources)).groupby(np.asarray(sources)).cumcount() < MOST_OF_SOURCE
    chosen = np.flatnonzero(few)[:MOST_CLIPS]
    codes, rows = pd.factorize(np.asarray(sources)[chosen])[0], clip_means.to_numpy("float32")[chosen]
    if not 1 < len(set(codes)) < len(codes) or not varying(rows).any():
        return None
    pairs, rng = np.stack(np.triu_indices(len(rows), 1)), np.random.default_rng(0)
    similarity = cosine_similarity(standardised(rows)).astype("float64")
    same, total = pairs[:, codes[pairs[0]] == codes[pairs[1]]], similarity[tuple(pairs)].sum()

    def within_between(order: np.ndarray) -> tuple[float, float]:
        within = similarity[order[same[0]], order[same[1]]]
        return within.mean(), 1 - (total - within.sum()) / (pairs.shape[1] - len(within))

    names = "similarity within sources", "distance between sources"
    permuted = np.transpose([within_between(rng.permutation(len(codes))) for _ in range(DRAWS)])
    return {
        name: {
            "measured": {"value": value, "interval": None},
            "permuted sources": {"value": draws.mean(), "interval": np.percentile(draws, [2.5, 97.5]).tolist()},
        }
        for name, value, draws in zip(names, within_between(np.arange(len(codes))), permuted, strict=True)
    }


def planes(clip_means: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Lay clips out in a plane, by PCA and by t-SNE, which keeps neighbours together; its distances mean nothing.

    A row per clip, columns x and y; `attrs["shares"]` of PCA are the shares of the variance. None unless there are 3
    clips that differ in 2 channels or more.
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


class TrainingTokens(NamedTuple):
    """The training tokens of one stream: their mean (D,), their precision matrix (D, D), float32, and the distances of
    clips that were not trained on, increasing, float32 (n,).
    """

    mean: np.ndarray
    precision: np.ndarray
    held_out: np.ndarray

    def distance(self, tokens: np.ndarray) -> float:
        """Root mean square distance of a clip's tokens (n, D) from the mean; 1 for training tokens on average."""
        away = tokens - self.mean
        return float(np.sqrt(((away @ self.precision) * away).sum(1).mean() / len(self.mean)))

    def describe(self, tokens: np.ndarray) -> dict[str, Any]:
        """How far a clip's tokens (n, D) lie away: `distance`; `farthest_held_out`; `held_out_clips`, their number n;
        `p_value`, the share of clips like them that lie so far away: (1 + number at least as far) / (1 + n); `unlike`:
        whether that is `RARE` at most, or the smallest that n allows.
        """
        distance, n = self.distance(tokens), len(self.held_out)
        p_value = float(1 + (self.held_out >= distance).sum()) / (1 + n)
        return {
            "distance": round(distance, 4),
            "farthest_held_out": round(float(self.held_out[-1]), 4),
            "held_out_clips": n,
            "p_value": round(p_value, 6),
            "unlike": p_value <= max(RARE, 1 / (1 + n)),
        }


def write_training_tokens(path: str | Path, training: Aligned, held_out: Aligned) -> None:
    """Describe the tokens of both streams of the training clips, and how far held-out clips lie from them, as npz."""
    arrays = {}
    for name in STREAMS:
        features, mask = f"{name}_features", f"{name}_mask"
        tokens = getattr(training, features)[getattr(training, mask)]
        chosen = tokens[np.linspace(0, len(tokens) - 1, min(len(tokens), MOST_TOKENS)).astype(int)]
        precision = LedoitWolf().fit(chosen.astype(np.float64)).precision_.astype("float32")
        own = TrainingTokens(chosen.mean(0), precision, np.empty(0, "float32"))
        later = zip(getattr(held_out, features), getattr(held_out, mask), strict=True)
        distances = np.sort([own.distance(clip[real]) for clip, real in later]).astype("float32")
        arrays |= {f"{name}_{part}": of for part, of in own._replace(held_out=distances)._asdict().items()}
    write_arrays(path, **arrays)


def read_training_tokens(path: str | Path) -> dict[str, TrainingTokens]:
    """Read what `write_training_tokens` wrote."""
    arrays = read_arrays(path)
    try:
        return {name: TrainingTokens(*(arrays[f"{name}_{p}"] for p in TrainingTokens._fields)) for name in STREAMS}
    except KeyError as error:
        raise ValueError(f"{path} is damaged, or of an older version: {error} is missing. Run 06 again.") from None
