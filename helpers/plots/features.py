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

from helpers.plots import ACCENT, BLUE, NEUTRAL, RED, SKY, axes, legend_below, pictures_beside, say

IN_DECODERS = ("reading", "decoding", "cropping", "flow")  # what decoder processes do, in their order
NOT_RECORDED = "Not recorded: an older version made these rows.\nDelete the stage's folder to make and time them again."
TILE_IN = 1.0  # side of a small picture, in inches


def plot_time_spent(spent_s: dict[str, float], total_s: float, workers: int, *, ax: Axes | None = None) -> Axes:
    """Draw where the time of an extraction went; what reaches the line has kept the others waiting.

    Args:
        spent_s: Seconds by what was done in them, of all decoder processes together, as `extraction_log.json` has them;
            empty where that is of a version that did not record them: the chart says so.
        total_s: From begin to end.
        workers: Decoder processes, which share all but the network and the writing; a bar is what each of them spent.
    """
    ax = axes(ax, (7, 0.9 + 0.32 * max(len(spent_s), 2)))
    ax.set(xlabel="seconds", xlim=(0, 1.12 * total_s))
    if not spent_s:
        return say(ax, NOT_RECORDED)
    alone = {what: spent_s[what] for what in ("network", "writing") if what in spent_s}
    shared = {what: spent_s[what] / workers for what in IN_DECODERS if what in spent_s}
    for parts, label in ((shared, f"each of {workers} decoder processes"), (alone, "this process")):
        bars = ax.barh(list(parts), list(parts.values()), label=label)
        shares = [f"{value / total_s:.0%}" for value in parts.values()]
        ax.bar_label(bars, shares, padding=3, fontsize=9, bbox={"fc": "w", "ec": "none", "pad": 1})  # over the line
    ax.axvline(total_s, color="0.4", lw=1, ls="--", label="from begin to end")
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    legend_below(ax.figure)
    return ax


def plot_rows(features: np.ndarray, t_s: np.ndarray, *, n_channels: int = 64, title: str = "", ax: Axes | None = None):
    """Draw a clip's rows over time: the channels that vary most, each standardised over the clip.

    Args:
        features: (n, D).
        t_s: Centre of each row in seconds, (n,).
        n_channels: How many channels are shown.
    """
    ax = axes(ax, (7, 2.8))
    sd = features.std(axis=0)
    most = np.argsort(sd)[::-1][:n_channels]
    most = most[sd[most] > 1e-7 * max(float(sd.max()), 1e-30)]  # those that vary
    ax.set(xlabel="time (s)", ylabel="channel", title=title)
    if not len(most):
        return say(ax, f"no channel varies over the clip's {len(t_s)} rows")
    rows = (features[:, most] - features[:, most].mean(axis=0)) / sd[most]
    half = (t_s[1] - t_s[0]) / 2 if len(t_s) > 1 else 0.5
    extent = (t_s[0] - half, t_s[-1] + half, rows.shape[1], 0)
    limit = float(np.abs(rows).max(initial=1e-9))
    image = ax.imshow(rows.T, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent)
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label="standard deviations")
    return ax


def plot_feature_maps(
    maps: np.ndarray, channels: Sequence[int], side_px: float, *, columns: int = 6, title: str = ""
) -> Figure:
    """Draw what single channels of a layer say, on one scale.

    Args:
        maps: Activation of each channel, (n, H', W').
        channels: Their numbers, (n,).
        side_px: Side of the network's input in pixels: the axes are in its pixels.
        columns: Maps per row.
    """
    scale = {"cmap": "viridis", "vmin": min(0.0, float(maps.min())), "vmax": max(float(maps.max()), 1e-9)}
    fig = _tiles(maps, [f"channel {c}" for c in channels], side_px, columns, title, **scale)
    fig.colorbar(fig.axes[0].images[0], ax=fig.axes, label="activation", pad=0.01)
    return fig


def plot_maximised(pictures: np.ndarray, labels: Sequence[str], *, columns: int = 6, title: str = "") -> Figure:
    """Draw the inputs that channels answer to most.

    Args:
        pictures: RGB uint8 (n, S, S, 3).
        labels: Of each picture, such as its channel, (n,).
        columns: Pictures per row.
    """
    return _tiles(pictures, labels, pictures.shape[2], columns, title, interpolation="nearest")


def _tiles(images: np.ndarray, labels: Sequence[str], side_px: float, columns: int, title: str, **look) -> Figure:
    """Small pictures in rows, the outer axes in pixels of the network's input."""
    columns = min(len(images), columns)
    rows = -(-len(images) // columns)
    size = (TILE_IN * columns + 1.0, (TILE_IN + 0.2) * rows + 0.6)
    fig, panels = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for k, ax in enumerate(panels.flat):
        if k >= len(images):
            ax.remove()
            continue
        ax.imshow(images[k], extent=(0, side_px, side_px, 0), **look)
        ax.set_title(labels[k], fontsize=9)
        ax.set_xticks([0, side_px] if k + columns >= len(images) else [])
        ax.set_yticks([0, side_px] if k % columns == 0 else [])
        ax.grid(False)
    fig.supxlabel("x (px of the input)", fontsize=10)
    fig.supylabel("y (px)", fontsize=10)
    fig.suptitle(title)
    return fig


def plot_overlay(
    pictures: np.ndarray, heat: np.ndarray, t_s: Sequence[float], *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw maps over the pictures they are about, side by side along time, on one scale.

    Args:
        pictures: RGB uint8 (n, S, S, 3).
        heat: (n, H', W'), such as `grad_cam` makes: red above 0, blue below, see-through where there is nothing.
        t_s: Time of each picture in seconds, (n,).
    """
    n, side = pictures.shape[:2]
    ax = axes(ax, (8, 7 / max(n, 2) + 0.9))
    pictures_beside(ax, pictures, t_s)
    share = heat / max(float(np.abs(heat).max()), 1e-30)
    scale = ScalarMappable(Normalize(-1, 1), "RdBu_r")
    for k in range(n):
        look = {"cmap": scale.cmap, "norm": scale.norm, "interpolation": "bilinear"}
        extent = (k * side - 0.5, (k + 1) * side - 0.5, side - 0.5, -0.5)
        ax.imshow(share[k], extent=extent, alpha=0.1 + 0.7 * np.abs(share[k]), **look)
    ax.set(xlim=(-0.5, n * side - 0.5), ylim=(side - 0.5, -0.5), title=title)
    ax.figure.colorbar(scale, ax=ax, label="share of\nthe largest", pad=0.01)
    return ax


def plot_layers(names: Sequence[str], values: Sequence[np.ndarray], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw how the activations of layers are distributed: how large they are, and how many are 0.

    Args:
        names: Of the layers, in their order.
        values: Activations of each layer, of any shape.
    """
    ax = axes(ax, (6.5, 1.2 + 0.34 * len(names)))
    rows = np.arange(len(names))
    low, middle, high = np.array([np.percentile(one, [5, 50, 95]) for one in values]).T
    ax.barh(rows, high - low, 0.5, low, color=NEUTRAL, alpha=0.6, label="5 to 95 % of all activations")
    ax.plot(middle, rows, "o", color=ACCENT, ms=5, label="median")
    zero = [float((one == 0).mean()) for one in values]
    ax.set_yticks(rows, [f"{name}\n{share:.0%} are 0" for name, share in zip(names, zero, strict=True)])
    ax.set(xlabel="activation", title=title, ylim=(len(names) - 0.4, -0.6))
    ax.grid(False, axis="y")
    legend_below(ax.figure)
    return ax


def plot_points(
    points: pd.DataFrame,
    *,
    sources: Sequence[str] | None = None,
    ratings: pd.Series | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw clips in a plane; clips of one source are joined by a line, or the colour is a rating.

    Args:
        points: As `feature_quality.planes` makes them: columns x and y, and the shares of the variance for PCA.
        sources: Of each clip, (n,).
        ratings: Of each clip, in [0, 1], (n,), NaN where unrated, which is drawn as a cross; its name is the target's.
    """
    ax = axes(ax, (4, 3.4))
    if ratings is not None:
        rated = ratings.notna().to_numpy()
        ax.plot(points["x"][~rated], points["y"][~rated], "x", color=NEUTRAL, ms=5)
        look = {"cmap": "viridis", "vmin": 0, "vmax": 1, "s": 28}
        dots = ax.scatter(points["x"][rated], points["y"][rated], c=ratings[rated], **look)
        ax.figure.colorbar(dots, ax=ax, label=f"rating of {ratings.name}")
    else:
        groups = points.groupby(np.arange(len(points)) if sources is None else np.asarray(sources), sort=False)
        for (_, rows), color in zip(groups, sns.color_palette("husl", len(groups)), strict=True):
            ax.plot(rows["x"], rows["y"], "o-", color=color, ms=5, lw=1, alpha=0.85)
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
        pca, tsne: As `feature_quality.planes` makes them, of the same clips.
        sources: Of each clip, (n,).
        ratings: Of each clip, its name that of the target; None where there are none.
    """
    fig, panels = plt.subplots(1, 3, figsize=(8, 2.9), width_ratios=(1, 1.25, 1), layout="constrained")
    plot_points(pca, sources=sources, title="PCA, sources joined", ax=panels[0])
    if ratings is not None:
        plot_points(pca, ratings=ratings, title="the same, by rating", ax=panels[1])
    panels[1].set_visible(ratings is not None)
    plot_points(tsne, sources=sources, title="t-SNE, sources joined", ax=panels[2])
    fig.suptitle(title)
    return fig


def plot_consistency(table: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw how alike sources are within and between, beside the same with permuted sources (`consistency`)."""
    ax = axes(ax, (7, 1.3 + 0.32 * len(table)))
    rows = np.arange(len(table))
    width = table["permuted_high"] - table["permuted_low"]
    ax.barh(rows, width, 0.5, table["permuted_low"], color=NEUTRAL, alpha=0.6, label="permuted sources (95 %)")
    ax.plot(table["value"], rows, "o", color=RED, ms=6, label="measured")
    ax.axvline(0, color=ACCENT, lw=0.8)
    ax.set_yticks(rows, table.index)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.grid(False, axis="y")
    ax.use_sticky_edges = False
    ax.margins(x=0.06)
    ax.set(xlabel="cosine similarity or distance", title=title)
    legend_below(ax.figure)
    return ax


def plot_channels(rows: np.ndarray, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw how every channel is distributed over rows (n, D): channels side by side, in the order of their medians."""
    ax = axes(ax, (6.5, 2.3))
    quantiles = np.percentile(rows, [5, 25, 50, 75, 95], axis=0)
    quantiles = quantiles[:, np.argsort(quantiles[2], kind="stable")]
    rank = np.arange(1, rows.shape[1] + 1)
    ax.fill_between(rank, quantiles[0], quantiles[4], color=SKY, alpha=0.4, lw=0, label="5 to 95 % of the rows")
    ax.fill_between(rank, quantiles[1], quantiles[3], color=BLUE, alpha=0.6, lw=0, label="25 to 75 %")
    ax.plot(rank, quantiles[2], color=ACCENT, lw=1.2, label="median")
    ax.set(xlabel="channel, by its median", ylabel="value of the feature", title=title, xlim=(1, max(len(rank), 2)))
    ax.locator_params(axis="y", nbins=5)
    ax.legend(loc="upper left")
    return ax
