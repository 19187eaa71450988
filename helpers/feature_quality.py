"""Whether features are any good: what tells sources apart, what goes with the ratings, and which channels say nothing.

In: the feature files of a stage, or one mean row per clip (index key, one column per channel). Out: tables, with
intervals and with what chance would give, and sentences. Clips of one source show one person in one place, so features
that keep them together know who somebody is: that is no evidence that they know what viewers see in them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics.pairwise import cosine_similarity

from helpers.clips import DISPLAY, targets_of
from helpers.reduction import EQUAL, varying
from helpers.statistics import FEWEST
from helpers.store import valid_rows

MOST_CLIPS = 1000  # clips whose pairs are looked at: a million pairs
SAMPLED_ROWS = 4096
DRAWS = 500  # of intervals, and of what chance gives
EXACT_CLIPS = 500  # below, t-SNE needs no tree, which waits for its threads more than it computes


def extracted(table: pd.DataFrame, manifest: dict[str, Any]) -> tuple[list[str], pd.Series, str]:
    """Say what came of a stage: keys of the clips that have features, why the others failed, and both in words."""
    failed = {entry["clip"]: entry["reason"] for entry in manifest["failed"] if "row" not in entry}
    usable, counts = [key for key in table.index if key not in failed], manifest["counts"]
    said = f"{len(usable)} of {len(table)} clips, {counts['rows']} rows, {counts['invalid_rows']} of them masked"
    return usable, pd.Series(failed, name="reason", dtype="str"), said


def rated_or_all(table: pd.DataFrame, keys: Iterable[str]) -> list[str]:
    """Those of some clips that have a rating, in their order; all of them where none has."""
    keys = list(keys)
    rated = table.loc[keys, targets_of(table)].notna().any(axis=1).to_numpy(bool)
    return [key for key, one in zip(keys, rated, strict=True) if one or not rated.any()]


def mean_features(folder: str | Path, table: pd.DataFrame, keys: Iterable[str]) -> pd.DataFrame:
    """Average the valid rows of clips: a row per clip that has any, clips of one source beside each other.

    Args:
        folder: `static/` or `dynamic/` of a run.
        table: `clips.csv`.
        keys: Clips.
    """
    found = {key: valid_rows(Path(folder) / f"{key}.npz") for key in keys}
    means = pd.DataFrame({key: rows.features.mean(axis=0) for key, rows in found.items() if rows is not None}).T
    return means.loc[table.loc[means.index, "source"].sort_values(kind="stable").index]


def sample_rows(folder: str | Path, keys: Sequence[str]) -> np.ndarray:
    """Draw valid rows of a stage, as many of each clip where possible, with one clip in memory at a time.

    Args:
        folder: `static/` or `dynamic/` of a run.
        keys: Clips.

    Returns:
        float32 (n, D) in the order of the keys, n <= `SAMPLED_ROWS`.
    """
    rng = np.random.default_rng(0)
    keys = [keys[i] for i in np.sort(rng.permutation(len(keys))[:SAMPLED_ROWS])]
    of_each, found = max(1, SAMPLED_ROWS // max(1, len(keys))), []
    for key in keys:
        rows = valid_rows(Path(folder) / f"{key}.npz")
        if rows is not None:
            found.append(rows.features[np.sort(rng.permutation(len(rows.features))[:of_each])])
    if not found:
        raise ValueError(f"{folder} must hold valid rows of these clips, got none. Run its notebook first.")
    return np.concatenate(found)


def channel_health(rows: np.ndarray) -> pd.Series:
    """Count the channels by what they can say; every channel counts once.

    Args:
        rows: (n, D).

    Returns:
        Index: dead (0 in every row), constant (one other value in every row), mostly zero (0 in 9 of 10 rows),
        saturated (half of the rows at the channel's own largest value), in use. Values sum to D.
    """
    low, high = rows.min(axis=0), rows.max(axis=0)
    size = np.maximum(np.abs(low), np.abs(high))
    kinds = {
        "dead": size == 0,
        "constant": high - low <= EQUAL * size,
        "mostly zero": (rows == 0).mean(axis=0) >= 0.9,
        "saturated": (rows >= high - EQUAL * (high - low)).mean(axis=0) >= 0.5,
    }
    first = pd.Series(np.select(list(kinds.values()), list(kinds), default="in use"))
    return first.value_counts().reindex([*kinds, "in use"], fill_value=0).rename("channels")


def effective_dimensions(rows: np.ndarray) -> float:
    """How many directions of equal variance would spread as the standardised rows do: (sum l)^2 / sum l^2."""
    spread = np.square(np.linalg.svd(standardised(rows), compute_uv=False).astype("float64"))
    return float(spread.sum() ** 2 / np.square(spread).sum()) if spread.sum() else 0.0


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
    if all_equal(clip_means):
        return rows[0] / max(float(np.linalg.norm(rows[0])), 1e-30)
    z = standardised(rows)[clip_means.index.get_loc(key)]
    return (z / max(float(np.linalg.norm(z)), 1e-30) / np.where(z != 0, rows.std(axis=0), 1)).astype("float32")


def no_plane(clip_means: pd.DataFrame) -> str:
    """Say why clips cannot be laid out in a plane; "" where they can."""
    if (n := len(clip_means)) < 3:
        return f"clip_means must have 3 clips or more to be laid out in a plane, got {n}."
    if all_equal(clip_means):
        return f"clip_means must differ between clips to be laid out in a plane, got {n} equal ones."
    return (
        "" if clip_means.shape[1] > 1 else "clip_means must have 2 channels or more to be laid out in a plane, got 1."
    )


def all_equal(clip_means: pd.DataFrame) -> bool:
    """Whether no channel tells one clip from another, as in copies of a clip."""
    return not varying(clip_means.to_numpy("float32")).any()


def consistency(clip_means: pd.DataFrame, sources: Sequence[str], *, standardise: bool = True) -> pd.DataFrame | None:
    """Measure how alike the clips of one source are, and how far sources lie from each other.

    Args:
        clip_means: A row per clip; of more than 1000 clips some sources are drawn.
        sources: Of each clip, (n,).
        standardise: Whether channels are standardised over the clips; raw features of one sign look alike anyhow.

    Returns:
        Rows "within sources: cosine similarity" and "between sources: cosine distance"; columns value, low, high (95 %,
        over sources; NaN for fewer than `FEWEST` of them), permuted, permuted_low, permuted_high (the same with the
        sources permuted). None when no two clips share a source, or all do, or all clips are equal.
    """
    rng = np.random.default_rng(0)
    chosen = _whole_sources(np.asarray(sources), rng)
    codes, names = pd.factorize(np.asarray(sources)[chosen])
    rows = clip_means.to_numpy("float32")[chosen]
    if len(names) < 2 or len(names) == len(codes) or not varying(rows).any():
        return None
    similarity = cosine_similarity(standardised(rows) if standardise else rows).astype("float64")
    np.fill_diagonal(similarity, 0)
    sums, pairs = _by_sources(similarity, codes)
    once, k = np.ones(len(names)), len(names)
    drawn = [_within_between(sums, pairs, weight) for weight in rng.multinomial(k, once / k, DRAWS)]
    permuted = [_within_between(*_by_sources(similarity, rng.permutation(codes)), once) for _ in range(DRAWS)]
    columns = {"value": _within_between(sums, pairs, once)}
    columns["low"], columns["high"] = np.nanpercentile(drawn, [2.5, 97.5], axis=0) if k >= FEWEST else (np.nan, np.nan)
    columns["permuted"] = np.mean(permuted, axis=0)
    columns["permuted_low"], columns["permuted_high"] = np.percentile(permuted, [2.5, 97.5], axis=0)
    return pd.DataFrame(columns, index=["within sources: cosine similarity", "between sources: cosine distance"])


def _whole_sources(sources: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places of the clips of as many sources, drawn by chance, as `MOST_CLIPS` allows."""
    names, sizes = np.unique(sources, return_counts=True)
    order = rng.permutation(len(names))
    kept = names[order[np.cumsum(sizes[order]) <= MOST_CLIPS]]
    return np.flatnonzero(np.isin(sources, kept))


def _by_sources(similarity: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of similarity and numbers of ordered pairs, for each source with each, (k, k)."""
    member = np.eye(codes.max() + 1)[codes]  # (n, k)
    sizes = member.sum(axis=0)
    return member.T @ similarity @ member, np.outer(sizes, sizes) - np.diag(sizes)


def _within_between(sums: np.ndarray, pairs: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Mean similarity within and mean distance between sources that count `weight` times, (k,)."""
    within, n_within = weight @ np.diag(sums), weight @ np.diag(pairs)
    between, n_between = (weight @ m @ weight - np.square(weight) @ np.diag(m) for m in (sums, pairs))
    return within / n_within if n_within else np.nan, 1 - between / n_between if n_between else np.nan


def rating_relation(clip_means: pd.DataFrame, ratings: pd.DataFrame, sources: Sequence[str]) -> pd.DataFrame:
    """Measure whether clips with similar ratings have similar features, over pairs of clips of different sources.

    The test of Mantel (1967): correlation over pairs of the features' cosine similarity with minus the difference of
    the ratings; chance is permuted ratings. Within a source identity would answer.

    Args:
        clip_means: A row per clip.
        ratings: Same index, one column per target; NaN where unrated.
        sources: Of each clip, (n,).

    Returns:
        Index target; columns value, permuted_low, permuted_high (95 %), p (one-sided, times the number of targets:
        Bonferroni), clips. Targets with fewer than 5 rated clips, without two sources, or of which ratings or features
        do not vary, are left out.
    """
    rng, rows = np.random.default_rng(0), {}
    for target in ratings:
        rated = np.flatnonzero(ratings[target].notna().to_numpy())
        rated = rated[_whole_sources(np.asarray(sources)[rated], rng)]
        other = np.triu(np.asarray(sources)[rated][:, None] != np.asarray(sources)[rated][None, :])
        if len(rated) < 5 or not other.any():
            continue
        alike = cosine_similarity(standardised(clip_means.to_numpy("float32")[rated]))[other]
        score = ratings[target].to_numpy("float64")[rated]
        value = _closeness(score, other, alike)
        if np.isnan(value):
            continue
        permuted = np.array([_closeness(rng.permutation(score), other, alike) for _ in range(DRAWS)])
        low, high = np.nanpercentile(permuted, [2.5, 97.5])
        p = (1 + (permuted >= value).sum()) / (1 + DRAWS)
        rows[target] = {"value": value, "permuted_low": low, "permuted_high": high, "p": p, "clips": len(rated)}
    columns = ["value", "permuted_low", "permuted_high", "p", "clips"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.assign(p=np.minimum(table["p"].astype(float) * len(table), 1))


def relation_sentence(table: pd.DataFrame) -> str:
    """Say what `rating_relation` found, at 5 % over all targets."""
    if not len(table):
        return "similar ratings, similar features: too few rated clips, or ratings or features that do not vary"
    related = table.index[table["p"] < 0.05].tolist()
    return f"similar ratings, similar features: {', '.join(related) or 'for no target'}"


def _closeness(score: np.ndarray, pairs: np.ndarray, alike: np.ndarray) -> float:
    """Correlation over pairs of closeness in score with likeness; NaN where either does not vary."""
    near = -np.abs(score[:, None] - score[None, :])[pairs]
    return float(np.corrcoef(near, alike)[0, 1]) if np.ptp(near) > EQUAL and np.ptp(alike) > EQUAL else np.nan


@dataclass(frozen=True)
class Comparison:
    """What the features of clips have to do with who is seen, and with how they are rated.

    Attributes:
        clip_means: A row per clip, of those that are rated where any is.
        sources: Of each clip, (n,).
        ratings: Of each clip, columns as targets are shown.
        same, raw: See `consistency`; of standardised and of raw features.
        relation: See `rating_relation`.
    """

    clip_means: pd.DataFrame
    sources: np.ndarray
    ratings: pd.DataFrame
    same: pd.DataFrame | None
    raw: pd.DataFrame | None
    relation: pd.DataFrame

    def on_sources(self) -> list[str]:
        """Say whether the features know who it is."""
        if self.same is None:
            return [
                "the clips do not differ" if all_equal(self.clip_means) else "no two clips share a source, or all do"
            ]
        same, raw = self.same.iloc[0], self.raw.iloc[0]
        more = "more" if same["value"] > same["permuted_high"] else "no more"
        chance = f"{raw['permuted_low']:.4f} to {raw['permuted_high']:.4f} with permuted sources"
        return [
            f"clips of one source are {more} alike than chance",
            f"raw: cosine similarity {raw['value']:.4f} within sources, {chance}",
        ]

    def planes(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Lay the clips out in a plane, where `no_plane` says nothing against it: by PCA, and by t-SNE.

        Returns:
            A row per clip, columns x and y; `attrs["shares"]` of PCA are the shares of the variance. t-SNE keeps
            neighbours together; its distances mean nothing.
        """
        z, n = standardised(self.clip_means.to_numpy("float32")), len(self.clip_means)
        pca = PCA(2, svd_solver="full").fit(z)
        how = "exact" if n < EXACT_CLIPS else "barnes_hut"
        tsne = TSNE(2, perplexity=min(10, (n - 1) / 3), init="pca", method=how, random_state=0)
        points = pca.transform(z), tsne.fit_transform(z)
        by_pca, by_tsne = (pd.DataFrame(each, index=self.clip_means.index, columns=["x", "y"]) for each in points)
        by_pca.attrs["shares"] = pca.explained_variance_ratio_.tolist()
        return by_pca, by_tsne

    def best_rating(self) -> pd.Series | None:
        """The rating that goes best with the features; None without one."""
        return self.ratings[self.relation["value"].idxmax()] if len(self.relation) else None


def compare_clips(clip_means: pd.DataFrame, table: pd.DataFrame) -> Comparison:
    """Compare clips by their mean features; `table` is `clips.csv`."""
    means = clip_means.loc[rated_or_all(table, clip_means.index)]
    sources = table.loc[means.index, "source"].to_numpy()
    ratings = table.loc[means.index, targets_of(table)].rename(columns=DISPLAY)
    raw = consistency(means, sources, standardise=False)
    return Comparison(
        means, sources, ratings, consistency(means, sources), raw, rating_relation(means, ratings, sources)
    )
