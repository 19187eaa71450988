"""Whether features are any good: what tells clips and sources apart, and which channels say nothing.

In: the feature files of a stage, or one mean row per clip (index key, one column per channel). Out: tables, beside what
chance would give, and the figures that 03 and 04 have in common. Clips of one source show one person in one place, so
features that keep them together know who somebody is: that is no evidence that they know what viewers see in them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics.pairwise import cosine_similarity

from helpers import plots
from helpers.clips import DISPLAY, targets_of
from helpers.files import read_json
from helpers.plots import features as pictures
from helpers.reduction import varying
from helpers.store import FeatureFile, read_features, valid_rows
from helpers.workers import cores

MOST_CLIPS = 1000  # clips whose pairs are looked at: half a million pairs
SAMPLED_ROWS = 4096
DRAWS = 500  # of what chance gives
EXACT_CLIPS = 500  # below, t-SNE needs no tree, which waits for its threads more than it computes
NUMBERS = {"static": "03", "dynamic": "04"}  # of the notebooks


def rated_or_all(table: pd.DataFrame, keys: Iterable[str]) -> list[str]:
    """Those of some clips of `clips.csv` that have a rating, in their order; all of them where none has."""
    keys = list(keys)
    rated = table.loc[keys, targets_of(table)].notna().any(axis=1).to_numpy(bool)
    return [key for key, one in zip(keys, rated, strict=True) if one or not rated.any()]


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


def effective_dimensions(rows: np.ndarray) -> float:
    """How many directions of equal variance would spread as the standardised rows do: (sum l)^2 / sum l^2."""
    z = standardised(rows).astype("float64")
    products = z @ z.T if len(z) < z.shape[1] else z.T @ z  # of the same eigenvalues l but for zeros
    return float(np.trace(products) ** 2 / max(np.square(products).sum(), 1e-30))


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


def consistency(clip_means: pd.DataFrame, sources: Sequence[str], *, standardise: bool = True) -> pd.DataFrame | None:
    """Measure how alike the clips of one source are, and how far sources lie from each other.

    Args:
        clip_means: A row per clip; of more than `MOST_CLIPS` some sources are drawn.
        sources: Of each clip, (n,).
        standardise: Whether channels are standardised over the clips; raw features of one sign look alike anyhow.

    Returns:
        Rows "within sources: cosine similarity" and "between sources: cosine distance", means over pairs; columns
        value, permuted, permuted_low, permuted_high (95 %; the same with the sources permuted). None when no two clips
        share a source, or all do, or all clips are equal.
    """
    rng = np.random.default_rng(0)
    names, sizes = np.unique(sources, return_counts=True)
    order = rng.permutation(len(names))
    chosen = np.isin(sources, names[order[np.cumsum(sizes[order]) - sizes[order] < MOST_CLIPS]])
    codes, rows = pd.factorize(np.asarray(sources)[chosen])[0], clip_means.to_numpy("float32")[chosen]
    if not 1 < len(set(codes)) < len(codes) or not varying(rows).any():
        return None
    pairs = np.triu_indices(len(rows), 1)
    similarity = cosine_similarity(standardised(rows) if standardise else rows).astype("float64")[pairs]

    def within_between(codes: np.ndarray) -> tuple[float, float]:
        same = codes[pairs[0]] == codes[pairs[1]]
        return similarity[same].mean(), 1 - similarity[~same].mean()

    permuted = [within_between(rng.permutation(codes)) for _ in range(DRAWS)]
    low, high = np.percentile(permuted, [2.5, 97.5], axis=0)
    columns = {"value": within_between(codes), "permuted": np.mean(permuted, axis=0)}
    index = ["within sources: cosine similarity", "between sources: cosine distance"]
    return pd.DataFrame(columns | {"permuted_low": low, "permuted_high": high}, index=index)


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


@dataclass(frozen=True)
class Review:
    """The features of a stage as its notebook shows them; every `show_...` draws, saves and shows figures.

    Attributes:
        folder: `static/` or `dynamic/` of a run.
        table: `clips.csv`.
        manifest: Of the stage.
    """

    folder: Path
    table: pd.DataFrame
    manifest: dict[str, Any]

    @property
    def failed(self) -> pd.Series:
        """Why clips have no features, index key."""
        failed = {entry["clip"]: entry["reason"] for entry in self.manifest["failed"] if "row" not in entry}
        return pd.Series(failed, name="reason", dtype="str")

    @property
    def usable(self) -> list[str]:
        """Keys of the clips that have features."""
        return [key for key in self.table.index if key not in self.failed.index]

    def __str__(self) -> str:
        rows, invalid = (self.manifest["counts"][name] for name in ("rows", "invalid_rows"))
        return f"{len(self.usable)} of {len(self.table)} clips, {rows} rows, {invalid} of them masked"

    def example(self) -> tuple[str, FeatureFile]:
        """The first clip that has a valid row, a rated one where there are any, and all its rows."""
        for key in rated_or_all(self.table, self.usable):
            if valid_rows(path := self.folder / f"{key}.npz"):
                return key, read_features(path)
        raise ValueError(f"{self.folder} must hold a clip with a valid row, got none. See why clips failed.")

    @cached_property
    def clip_means(self) -> pd.DataFrame:
        """Mean row of each clip that has one."""
        return mean_features(self.folder, self.table, self.usable)

    @cached_property
    def _rated_means(self) -> pd.DataFrame:
        return self.clip_means.loc[rated_or_all(self.table, self.clip_means.index)]

    def _show(self, drawn: Axes | Figure, name: str) -> None:
        plots.save(drawn.figure, self.folder.parent, f"{NUMBERS[self.folder.name]}_{name}")
        plt.show()

    def show_time(self, workers: int) -> None:
        """Where the time of the extraction went, by decoder process; 0 workers are one per core."""
        log = read_json(self.folder / "extraction_log.json")
        spent_s, total_s = log.get("seconds_spent", {}), log["extraction_time_seconds"]
        self._show(pictures.plot_time_spent(spent_s, total_s, workers or cores()), "time")

    def show_rows(self, key: str, rows: FeatureFile) -> None:
        """The rows of one clip over time."""
        self._show(pictures.plot_rows(rows.features, rows.t_s, title=f"{key}: the 64 channels that vary most"), "rows")

    def show_channels(self) -> None:
        """How the channels are distributed over some rows of all clips, and how many of them say something."""
        rows = sample_rows(self.folder, self.clip_means.index)
        print(f"sampled {rows.shape}, {varying(rows).mean():.0%} of the channels vary")
        print(f"effective dimensions about {effective_dimensions(rows):.0f}")
        self._show(pictures.plot_channels(rows, title="how the channels are distributed"), "channels")

    def show_consistency(self) -> None:
        """Whether the features know who it is."""
        means = self._rated_means
        sources = self.table.loc[means.index, "source"].to_numpy()
        table, raw = (consistency(means, sources, standardise=each) for each in (True, False))
        if table is None or raw is None:
            print("no two clips share a source, or all do, or the clips do not differ")
            return
        same, raw = table.iloc[0], raw.iloc[0]
        more = "more" if same["value"] > same["permuted_high"] else "no more"
        said = f"clips of one source are {more} alike than chance"
        chance = f"{raw['permuted_low']:.4f} to {raw['permuted_high']:.4f} with permuted sources"
        print(f"{said}\nraw: cosine similarity {raw['value']:.4f} within sources, {chance}")
        self._show(pictures.plot_consistency(table, title=said), "consistency")

    def show_plane(self) -> None:
        """The clips in a plane; the rating shown is the one that goes best with the first component."""
        means = self._rated_means
        found = planes(means)
        if found is None:
            print("no plane is drawn: it takes 3 clips that differ in 2 channels or more")
            return
        ratings = self.table.loc[means.index, targets_of(self.table)].rename(columns=DISPLAY).dropna(axis=1, how="all")
        varied = ratings.loc[:, ratings.nunique() > 1]
        best = ratings[varied.corrwith(found[0]["x"]).abs().idxmax()] if len(varied.columns) else None
        sources, title = self.table.loc[means.index, "source"].to_numpy(), f"{len(means)} clips by their mean features"
        self._show(pictures.plot_plane(*found, sources, ratings=best, title=title), "plane")
