"""Figures of 03 and 04 about the quality of features: where clips lie, what sources and ratings have to do with it, and
what the channels say.

In: tables as `helpers.feature_quality` makes them. Out: Axes, or a Figure for grids.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plots import ACCENT, NEUTRAL

KINDS = {
    "in use": "#009E73",
    "mostly zero": "#56B4E9",
    "saturated": "#E69F00",
    "constant": "#CC79A7",
    "dead": "#D55E00",
}


def plot_points(
    points: pd.DataFrame,
    *,
    sources: Sequence[str] | None = None,
    ratings: Sequence[float] | None = None,
    name: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw clips in a plane; clips of one source are joined by a line, or the colour is a rating.

    Args:
        points: As `Comparison.planes` makes them: columns x and y, and the shares of the variance for PCA.
        sources: Of each clip, (n,).
        ratings: Of each clip, in [0, 1], (n,), NaN where unrated, which is drawn as a cross.
        name: Of the rating.
        title: Finding.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(4, 3.4), layout="constrained")
    x, y = points["x"].to_numpy(), points["y"].to_numpy()
    if ratings is not None:
        rated = np.isfinite(np.asarray(ratings, float))
        ax.plot(x[~rated], y[~rated], "x", color=NEUTRAL, ms=5)
        dots = ax.scatter(x[rated], y[rated], c=np.asarray(ratings)[rated], cmap="viridis", vmin=0, vmax=1, s=28)
        ax.figure.colorbar(dots, ax=ax, label=f"rating of {name}")
    else:
        codes, names = pd.factorize(np.asarray(sources if sources is not None else np.arange(len(x)).astype(str)))
        for k, color in zip(range(len(names)), sns.color_palette("husl", len(names)), strict=True):
            ax.plot(x[codes == k], y[codes == k], "o-", color=color, ms=5, lw=1, alpha=0.85)
    shares = points.attrs.get("shares")
    labels = [f"component {k + 1}: {share:.0%} of variance" for k, share in enumerate(shares or ())]
    xlabel, ylabel = labels or ("t-SNE 1 (no unit)", "t-SNE 2 (no unit)")
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.locator_params(nbins=5)
    return ax


def plot_plane(
    pca: pd.DataFrame, tsne: pd.DataFrame, sources: Sequence[str], *, ratings: pd.Series | None = None, title: str = ""
) -> Figure:
    """Draw clips in the plane three times: PCA by source, PCA by a rating, t-SNE by source.

    Args:
        pca, tsne: As `Comparison.planes` makes them, of the same clips.
        sources: Of each clip, (n,).
        ratings: Of each clip, its name that of the target; None where there are none.
        title: Finding.
    """
    fig, axes = plt.subplots(1, 3, figsize=(8, 2.9), width_ratios=(1, 1.25, 1), layout="constrained")
    plot_points(pca, sources=sources, title="PCA, sources joined", ax=axes[0])
    if ratings is not None:
        plot_points(pca, ratings=ratings.to_numpy(), name=str(ratings.name), title="the same, by rating", ax=axes[1])
    axes[1].set_visible(ratings is not None)
    plot_points(tsne, sources=sources, title="t-SNE, sources joined", ax=axes[2])
    fig.suptitle(title)
    return fig


def plot_consistency(table: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw how alike sources are within and between, beside the same with permuted sources.

    Args:
        table: As `consistency` makes it.
        title: Finding.
        ax: Axes to draw on; a new figure by default.
    """
    ax = _with_chance(table, "95 % over sources", "permuted sources (95 %)", ax)
    rows = np.arange(len(table))
    ax.errorbar(table["value"], rows, xerr=_arms(table), fmt="none", color=ACCENT, capsize=3)
    ax.set(xlabel="cosine similarity or distance", title=title)
    return ax


def plot_rating_relation(table: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw for each target whether clips of similar rating have similar features, beside permuted ratings.

    Args:
        table: As `rating_relation` makes it.
        title: Finding.
        ax: Axes to draw on; a new figure by default.
    """
    ax = _with_chance(table, "", "permuted ratings (95 % of each)", ax)
    ax.set(xlabel="correlation of likeness in features with likeness in rating", title=title)
    return ax


def _with_chance(table: pd.DataFrame, measured: str, chance: str, ax: Axes | None) -> Axes:
    """A row per entry: what chance gives as a bar, what was measured as a dot."""
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 1.3 + 0.32 * len(table)), layout="constrained")
    rows = np.arange(len(table))
    width = table["permuted_high"] - table["permuted_low"]
    ax.barh(rows, width, 0.5, table["permuted_low"], color=NEUTRAL, alpha=0.6, label=chance)
    label = "measured" + (f" ({measured})" if measured else "")
    ax.plot(table["value"], rows, "o", color="#D55E00", ms=6, label=label)
    ax.axvline(0, color=ACCENT, lw=0.8)
    ax.set_yticks(rows, table.index)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.grid(False, axis="y")
    ax.use_sticky_edges = False
    ax.margins(x=0.06)
    ax.figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return ax


def _arms(table: pd.DataFrame) -> np.ndarray:
    """Lengths of the error bars, (2, n), none of them negative."""
    return np.maximum([table["value"] - table["low"], table["high"] - table["value"]], 0)


def plot_channels(rows: np.ndarray, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw how every channel is distributed over the rows: channels side by side, in the order of their medians.

    Args:
        rows: (n, D).
        title: Finding.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6.5, 2.3), layout="constrained")
    quantiles = np.percentile(rows, [5, 25, 50, 75, 95], axis=0)
    quantiles = quantiles[:, np.argsort(quantiles[2], kind="stable")]
    rank = np.arange(1, rows.shape[1] + 1)
    ax.fill_between(rank, quantiles[0], quantiles[4], color="#56B4E9", alpha=0.4, lw=0, label="5 to 95 % of the rows")
    ax.fill_between(rank, quantiles[1], quantiles[3], color="#0072B2", alpha=0.6, lw=0, label="25 to 75 %")
    ax.plot(rank, quantiles[2], color=ACCENT, lw=1.2, label="median")
    ax.set(xlabel="channel, by its median", ylabel="value of the feature", title=title, xlim=(1, len(rank)))
    ax.locator_params(axis="y", nbins=5)
    ax.legend(frameon=False, loc="upper left")
    return ax


def plot_channel_health(counts: pd.Series, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw how many channels say something, and what is the matter with the others.

    Args:
        counts: As `channel_health` makes it.
        title: Finding.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6.5, 1.8), layout="constrained")
    counts = counts[list(KINDS)]
    bars = ax.barh(counts.index, counts, color=list(KINDS.values()), height=0.7)
    ax.bar_label(bars, [f" {n} ({n / max(counts.sum(), 1):.1%})" for n in counts], fontsize=9)
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.set(xlabel="channels", title=title, xlim=(0, 1.2 * max(counts.max(), 1)))
    return ax
