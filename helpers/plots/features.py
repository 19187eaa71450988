"""Figures of 03, most of them of 04 too: rows along a clip and between clips, what a network sees, what rows are worth.

In: arrays and tables of `helpers.saliency` and `helpers.feature_quality`. Out: Axes, or a Figure for grids.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from helpers.plots import ACCENT, NEUTRAL

IN_DECODERS = ("reading", "decoding", "cropping", "flow")  # what decoder processes do, in their order

NOT_RECORDED = "Not recorded: an older version made these rows.\nDelete the stage's folder to make and time them again."


def plot_time_spent(spent_s: dict[str, float], total_s: float, workers: int, *, ax: Axes | None = None) -> Axes:
    """Draw where the time of an extraction went; what reaches the line has kept the others waiting.

    Args:
        spent_s: Seconds by what was done in them, of all decoder processes together, as `extraction_log.json` has them;
            empty where that is of a version that did not record them: the chart says so.
        total_s: From begin to end.
        workers: Decoder processes, which share all but the network and the writing; a bar is what each of them spent.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.9 + 0.32 * max(len(spent_s), 2)), layout="constrained")
    if not spent_s:
        ax.text(0.5, 0.5, NOT_RECORDED, transform=ax.transAxes, ha="center", va="center", wrap=True)
        ax.set(xlabel="seconds", xlim=(0, 1.08 * total_s), yticks=[])
        return ax
    alone = {what: spent_s[what] for what in ("network", "writing") if what in spent_s}
    shared = {what: spent_s[what] / workers for what in IN_DECODERS if what in spent_s}
    for parts, label in ((shared, f"each of {workers} decoder processes"), (alone, "this process")):
        bars = ax.barh(list(parts), list(parts.values()), label=label)
        shares = [f"{value / total_s:.0%}" for value in parts.values()]
        ax.bar_label(bars, shares, padding=3, fontsize=8, bbox={"fc": "w", "ec": "none", "pad": 1})  # over the line
    ax.axvline(total_s, color="0.4", lw=1, ls="--", label="from begin to end")
    ax.invert_yaxis()
    ax.figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    ax.set(xlabel="seconds", xlim=(0, 1.12 * total_s))
    ax.grid(False, axis="y")
    return ax


def plot_similarity(similarity: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the similarity of clips, in the order of the table; a block on the diagonal is a source."""
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 5), layout="constrained")
    image = ax.imshow(similarity, cmap="RdBu_r", vmin=-1, vmax=1)
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label="cosine similarity")
    ax.set(xlabel="clip", ylabel="clip (clips of one source are neighbours)", title=title)
    return ax


def plot_rows(features: np.ndarray, t_s: np.ndarray, *, n_channels: int = 64, title: str = "", ax: Axes | None = None):
    """Draw a clip's rows over time: the channels that vary most, each standardised over the clip.

    Args:
        features: (n, D).
        t_s: Centre of each row in seconds, (n,).
        n_channels: How many channels are shown.
        title: Finding or clip.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
    sd = features.std(axis=0)
    most = np.argsort(sd)[::-1][:n_channels]
    most = most[sd[most] > 1e-7 * max(float(sd.max()), 1e-30)]  # those that vary
    rows = (features[:, most] - features[:, most].mean(axis=0)) / sd[most]
    half = (t_s[1] - t_s[0]) / 2 if len(t_s) > 1 else 0.5
    extent = (t_s[0] - half, t_s[-1] + half, rows.shape[1], 0)
    limit = float(np.abs(rows).max()) if rows.size else 1.0
    image = ax.imshow(rows.T, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent)
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label="standard deviations")
    ax.set(xlabel="time (s)", ylabel="channel", title=title)
    return ax


TILE_IN = 1.0  # side of a small picture, in inches


def plot_feature_maps(
    maps: np.ndarray, channels: Sequence[int], side_px: float, *, columns: int = 6, title: str = ""
) -> Figure:
    """Draw what single channels of a layer say, on one scale.

    Args:
        maps: Activation of each channel, (n, H', W').
        channels: Their numbers, (n,).
        side_px: Side of the network's input in pixels: the axes are in its pixels.
        columns: Maps per row.
        title: Layer and input.
    """
    fig, axes = _grid(len(maps), columns)
    top = max(float(maps.max()), 1e-9)
    for ax, one, channel in zip(axes.flat, maps, channels, strict=False):
        image = ax.imshow(
            one, cmap="viridis", vmin=min(0.0, float(maps.min())), vmax=top, extent=(0, side_px, side_px, 0)
        )
        ax.set_title(f"channel {channel}", fontsize=9)
    fig.colorbar(image, ax=axes, label="activation", pad=0.01)
    _pixels(fig, axes, side_px)
    fig.suptitle(title)
    return fig


def plot_maximised(pictures: np.ndarray, labels: Sequence[str], *, columns: int = 6, title: str = "") -> Figure:
    """Draw the inputs that channels answer to most.

    Args:
        pictures: RGB uint8 (n, S, S, 3).
        labels: Of each picture, such as its channel, (n,).
        columns: Pictures per row.
        title: Layer, and what was searched.
    """
    fig, axes = _grid(len(pictures), columns)
    for ax, picture, label in zip(axes.flat, pictures, labels, strict=False):
        ax.imshow(picture, interpolation="nearest")
        ax.set_title(label, fontsize=9)
    _pixels(fig, axes, pictures.shape[2])
    fig.suptitle(title)
    return fig


def _grid(n: int, columns: int) -> tuple[Figure, np.ndarray]:
    columns = min(n, columns)
    rows = -(-n // columns)
    size = (TILE_IN * columns + 1.0, (TILE_IN + 0.2) * rows + 0.6)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for k, ax in enumerate(axes.flat):
        ax.grid(False)
        ax.set_visible(k < n)
    return fig, axes


def _pixels(fig: Figure, axes: np.ndarray, side_px: float) -> None:
    """Label the outer axes in pixels of the network's input."""
    for row, column in np.ndindex(axes.shape):
        below = row == len(axes) - 1 or not axes[row + 1, column].get_visible()
        axes[row, column].set_xticks([0, side_px] if below else [])
        axes[row, column].set_yticks([0, side_px] if column == 0 else [])
    fig.supxlabel("x (px of the input)", fontsize=10)
    fig.supylabel("y (px)", fontsize=10)


def plot_overlay(
    pictures: np.ndarray, heat: np.ndarray, t_s: Sequence[float], *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw maps over the pictures they are about, side by side along time, on one scale.

    Args:
        pictures: RGB uint8 (n, S, S, 3).
        heat: (n, H', W'), such as `Saliency.heat`, which is at least 0; or `Saliency.signed`, red where it is above.
        t_s: Time of each picture in seconds, (n,).
        title: What the map is of.
        ax: Axes to draw on; a new figure by default.
    """
    n, side = pictures.shape[:2]
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 7 / n + 0.9), layout="constrained")
    ax.imshow(np.concatenate(list(pictures), axis=1))
    share = heat / max(float(np.abs(heat).max()), 1e-30)
    is_signed = bool((heat < 0).any())
    scale = ScalarMappable(Normalize(-1 if is_signed else 0, 1), "RdBu_r" if is_signed else "viridis")
    for k in range(n):
        extent = (k * side - 0.5, (k + 1) * side - 0.5, side - 0.5, -0.5)
        look = {"cmap": scale.cmap, "norm": scale.norm, "interpolation": "bilinear"}
        ax.imshow(share[k], extent=extent, alpha=0.1 + 0.7 * np.abs(share[k]), **look)  # where nothing is, see through
    ax.set(xlim=(-0.5, n * side - 0.5), ylim=(side - 0.5, -0.5), yticks=[], xlabel="time (s)", title=title)
    ax.set_xticks((np.arange(n) + 0.5) * side, [f"{t:.2f}" for t in t_s])
    ax.grid(False)
    ax.figure.colorbar(scale, ax=ax, label="share of\nthe largest", pad=0.01)
    return ax


def plot_layers(names: Sequence[str], values: Sequence[np.ndarray], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw how the activations of layers are distributed: how large they are, and how many are 0.

    Args:
        names: Of the layers, in their order.
        values: Activations of each layer, of any shape.
        title: Finding, or the input.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6.5, 1.2 + 0.34 * len(names)), layout="constrained")
    rows = np.arange(len(names))
    low, middle, high = np.array([np.percentile(one, [5, 50, 95]) for one in values]).T
    ax.barh(rows, high - low, 0.5, low, color=NEUTRAL, alpha=0.6, label="5 to 95 % of all activations")
    ax.plot(middle, rows, "o", color=ACCENT, ms=5, label="median")
    zero = [float((one == 0).mean()) for one in values]
    ax.set_yticks(rows, [f"{name}\n{share:.0%} are 0" for name, share in zip(names, zero, strict=True)])
    ax.set(xlabel="activation", title=title, ylim=(len(names) - 0.4, -0.6))
    ax.grid(False, axis="y")
    ax.figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return ax


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
