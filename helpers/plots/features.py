"""Figures of 03 and 04: rows along a clip and between clips, what a network sees, what rows are worth, motion in time.

Times are in seconds, positions in pixels of the network's input.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from helpers.clips import name_of
from helpers.plots import ACCENT, BLUE, NEUTRAL, PALETTE, SKY, axes, legend_below, panels, picture_at, say, time_rows
from helpers.plots.preparation import plot_crops

IN_DECODERS = ("reading", "decoding", "cropping", "flow")  # what decoder processes do, in their order
IN_PARENT = ("network", "writing")
TILES, TILE_IN = 6, 1.0  # small pictures per row, and the side of one in inches
MOST_PICTURES = 9  # along a clip
CHANNELS = 64  # of a clip's rows, those that vary most


def plot_time_spent(log: Mapping[str, Any], workers: int, *, title: str = "") -> Axes:
    """Draw where the time of an extraction went (`extraction_log.json`); what reaches the line kept the others waiting.

    `workers`: decoder processes, which share all but the network and the writing; a bar is what each of them spent.
    """
    spent_s, total_s = log["seconds_spent"], log["extraction_time_seconds"]
    size = 7, 0.9 + 0.32 * max(len(spent_s), 2)
    ax = axes(None, size, grid="x", xlabel="seconds", xlim=(0, 1.12 * total_s), title=title)
    decoders, this = (IN_DECODERS, workers, f"each of {workers} decoder processes"), (IN_PARENT, 1, "this process")
    for whats, n, label in (decoders, this):
        parts = {what: spent_s[what] / n for what in whats if what in spent_s}
        bars = ax.barh(list(parts), list(parts.values()), label=label)
        shares = [f"{value / total_s:.0%}" for value in parts.values()]
        ax.bar_label(bars, shares, padding=3, fontsize=9, bbox={"fc": "w", "ec": "none", "pad": 1})  # over the line
    ax.axvline(total_s, color="0.4", lw=1, ls="--", label="from begin to end")
    ax.invert_yaxis()
    legend_below(ax.figure)
    return ax


def plot_rows(features: np.ndarray, t_s: np.ndarray, *, title: str = "") -> Axes:
    """Draw a clip's rows (n, D) over time in seconds, (n,): the channels that vary most, standardised over the clip."""
    ax = axes(None, (7, 2.8), grid="", xlabel="time (s)", ylabel="channel", title=title)
    sd = features.std(axis=0)
    most = np.argsort(sd)[::-1][:CHANNELS]
    most = most[sd[most] > 1e-7 * max(float(sd.max()), 1e-30)]  # those that vary
    if not len(most):
        return say(ax, f"no channel varies over the clip's {len(t_s)} rows")
    rows = (features[:, most] - features[:, most].mean(axis=0)) / sd[most]
    time_rows(ax, rows.T, t_s, (), "standard deviations", signed=True)
    return ax


def plot_channel_pictures(images: np.ndarray, channels: Sequence[int], side_px: float, *, title: str = "") -> Figure:
    """Draw a picture per channel of a layer, in pixels of the network's input: what it says, (n, H', W'), on one scale,
    or the inputs that it answers to most, RGB uint8 (n, S, S, 3).
    """
    look = {"vmin": min(0.0, float(images.min())), "vmax": max(float(images.max()), 1e-9)}
    columns = min(len(images), TILES)
    rows = -(-len(images) // columns)
    fig, array = panels(rows, columns, (TILE_IN * columns + 1.0, (TILE_IN + 0.2) * rows + 0.6), title=title)
    for ax in array.flat[len(images) :]:
        ax.remove()
    for k, (ax, image) in enumerate(zip(array.flat, images, strict=False)):
        shown = ax.imshow(image, extent=(0, side_px, side_px, 0), interpolation="nearest", **look)
        ax.set_title(f"channel {channels[k]}", fontsize=9)
        ax.set(xticks=[0, side_px] * (k + columns >= len(images)), yticks=[0, side_px] * (k % columns == 0))
        ax.grid(False)
    fig.supxlabel("x (px of the input)", fontsize=10)
    fig.supylabel("y (px)", fontsize=10)
    if images.ndim == 3:
        fig.colorbar(shown, ax=fig.axes, label="activation", pad=0.01)
    return fig


def plot_overlay(pictures: np.ndarray, heat: np.ndarray, t_s: Sequence[float], *, title: str = "") -> Axes:
    """Draw maps (n, H', W'), as `grad_cam` makes them, over the pictures they are about, RGB uint8 (n, S, S, 3), side
    by side along time, (n,), on one scale: red above 0, blue below, see-through where there is nothing.
    """
    n, side = pictures.shape[:2]
    ax = plot_crops(pictures, t_s, title=title)
    ax.figure.set_size_inches(8, 7 / max(n, 2) + 0.9)
    share = heat / max(float(np.abs(heat).max()), 1e-30)
    scale = ScalarMappable(Normalize(-1, 1), "RdBu_r")
    for k in range(n):
        look = {"cmap": scale.cmap, "norm": scale.norm, "interpolation": "bilinear"}
        extent = (k * side - 0.5, (k + 1) * side - 0.5, side - 0.5, -0.5)
        ax.imshow(share[k], extent=extent, alpha=0.1 + 0.7 * np.abs(share[k]), **look)
    ax.set(xlim=(-0.5, n * side - 0.5), ylim=(side - 0.5, -0.5))
    ax.figure.colorbar(scale, ax=ax, label="share of\nthe largest", pad=0.01)
    return ax


def plot_layers(names: Sequence[str], values: Sequence[np.ndarray], *, title: str = "") -> Axes:
    """Draw how the activations of layers, of any shape, are distributed: how large they are, and how many are 0."""
    ax = axes(None, (6.5, 1.2 + 0.34 * len(names)), grid="x", xlabel="activation", title=title)
    low, middle, high = np.array([np.percentile(one, [5, 50, 95]) for one in values]).T
    ax.barh(range(len(names)), high - low, 0.5, low, color=NEUTRAL, alpha=0.6, label="5 to 95 % of all activations")
    ax.plot(middle, range(len(names)), "o", color=ACCENT, ms=5, label="median")
    texts = [f"{name}\n{(one == 0).mean():.0%} are 0" for name, one in zip(names, values, strict=True)]
    ax.set_yticks(range(len(names)), texts)
    ax.set_ylim(len(names) - 0.4, -0.6)
    legend_below(ax.figure)
    return ax


def plot_plane(
    pca: pd.DataFrame, tsne: pd.DataFrame, sources: Sequence[str], ratings: pd.Series, *, title: str = ""
) -> Figure:
    """Draw clips in the plane three times: PCA by source, PCA by a rating, t-SNE by source (`feature_quality.planes`).

    `sources`: of each clip, (n,), those of one are joined. `ratings`: of each clip, in [0, 1], NaN where unrated (a
    cross), its name the target.
    """
    fig, ((by_source, by_rating, near),) = panels(1, 3, (8, 2.9), title=title, width_ratios=(1, 1.25, 1))
    components = [f"component {k + 1}: {share:.0%} of variance" for k, share in enumerate(pca.attrs["shares"])]
    neighbours = ["t-SNE 1 (no unit)", "t-SNE 2 (no unit)"]
    for ax, points, labels, what in ((by_source, pca, components, "PCA"), (near, tsne, neighbours, "t-SNE")):
        groups = points.groupby(np.asarray(sources), sort=False)
        for (_, rows), color in zip(groups, sns.color_palette("husl", len(groups)), strict=True):
            ax.plot(rows["x"], rows["y"], "o-", color=color, ms=5, lw=1, alpha=0.85)
        ax.set(xlabel=labels[0], ylabel=labels[1], title=f"{what}, sources joined")
    rated = ratings.notna().to_numpy()
    by_rating.plot(pca["x"][~rated], pca["y"][~rated], "x", color=NEUTRAL, ms=5)
    dots = by_rating.scatter(pca["x"][rated], pca["y"][rated], c=ratings[rated], vmin=0, vmax=1, s=28)
    fig.colorbar(dots, ax=by_rating, label=f"rating of {name_of(ratings.name)}")
    by_rating.set(xlabel=components[0], ylabel=components[1], title="the same, by rating")
    for ax in (by_source, by_rating, near):
        ax.locator_params(nbins=5)
    return fig


def plot_channels(rows: np.ndarray, *, title: str = "") -> Axes:
    """Draw how every channel is distributed over clips, rows (n, D): side by side, in the order of their medians."""
    rank = np.arange(1, rows.shape[1] + 1)
    what = {"xlabel": "channel, by its median", "ylabel": "value of the feature", "xlim": (1, max(len(rank), 2))}
    ax = axes(None, (6.5, 2.3), title=title, **what)
    quantiles = np.percentile(rows, [5, 25, 50, 75, 95], axis=0)
    quantiles = quantiles[:, np.argsort(quantiles[2], kind="stable")]
    ax.fill_between(rank, quantiles[0], quantiles[4], color=SKY, alpha=0.4, lw=0, label="5 to 95 % of the clips")
    ax.fill_between(rank, quantiles[1], quantiles[3], color=BLUE, alpha=0.6, lw=0, label="25 to 75 %")
    ax.plot(rank, quantiles[2], color=ACCENT, lw=1.2, label="median")
    ax.locator_params(axis="y", nbins=5)
    ax.legend(loc="upper left")
    return ax


def plot_evolution(t_s: np.ndarray, values: np.ndarray, labels: Sequence[str], *, title: str = "") -> Axes:
    """Draw k features (n, k) over time (n,), each between its own smallest and largest value."""
    ax = axes(None, (7, 2.4), title=title)
    scaled = (values - values.min(axis=0)) / np.maximum(np.ptp(values, axis=0), 1e-30)
    pd.DataFrame(scaled, t_s, labels).plot(ax=ax, marker="o", ms=3, color=PALETTE)
    ax.set(xlabel="time (s)", ylabel="feature, from its\nsmallest to largest")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_space_time(energy: np.ndarray, t_s: np.ndarray, position_px: np.ndarray, *, title: str = "") -> Figure:
    """Draw energy (T', H', W') over time and x, and over time and y, averaged over the other.

    `t_s`: centre of each step in seconds, (T',); `position_px`: of each place in pixels of the input, both ways alike.
    """
    fig, array = panels(2, 1, (7, 4.2), title=title, sharex=True)
    for ax, axis, other in zip(array[:, 0], "xy", (1, 2), strict=True):
        mesh = ax.pcolormesh(t_s, position_px, energy.mean(axis=other).T, shading="nearest", vmin=0)
        fig.colorbar(mesh, ax=ax, label="activation (rms)")
        ax.set(ylabel=f"{axis} (px of the input)", title=f"mean over {'yx'[other - 1]}")
    array[1, 0].invert_yaxis()  # as in the picture: up is up
    array[1, 0].set_xlabel("time (s)")
    return fig


def plot_surface(energy: np.ndarray, t_s: np.ndarray, position_px: np.ndarray, *, title: str = "") -> Figure:
    """Draw energy over time and x, (T', W'), as a surface; arguments as for `plot_space_time`."""
    fig, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained", subplot_kw={"projection": "3d"})
    t, position = np.meshgrid(t_s, position_px, indexing="ij")
    surface = ax.plot_surface(t, position, energy, cmap="viridis", vmin=0, lw=0, antialiased=False)
    fig.colorbar(surface, ax=ax, label="activation (rms)", shrink=0.7, pad=0.12)
    ax.view_init(elev=38, azim=-60)
    ax.set_box_aspect(None, zoom=0.82)  # leaves room for the labels, which no layout knows of in 3-D
    ax.set_xlabel("time (s)", labelpad=8)
    ax.set_ylabel("x (px of the input)", labelpad=8)
    ax.set(zlabel="activation", title=title)
    return fig


def plot_flow_and_features(
    flow_rgb: np.ndarray,
    flow_t_s: np.ndarray,
    energy: np.ndarray,
    energy_t_s: np.ndarray,
    features: np.ndarray,
    features_t_s: np.ndarray,
    *,
    title: str = "",
) -> Figure:
    """Draw one clip on its time axis: flow, where the network answers to it, and the features of each segment.

    `flow_rgb`: RGB uint8 (n, S, S, 3); `energy`: of a layer, (T', H', W'); `features`: rows of the clip, standardised,
    (m, k); each with its times in seconds, (n,), (T',) and (m,), those of the layer and of the rows the centres.
    """
    tall = (0.7, 0.7, 1.5)
    fig, ((above,), (middle,), (below,)) = panels(3, 1, (8, 4.5), title=title, sharex=True, height_ratios=tall)
    time_rows(below, features.T, features_t_s, (), "standard\ndeviations", signed=True)
    start_s, stop_s = below.get_xlim()
    span = min(flow_t_s[0], start_s), max(flow_t_s[-1], stop_s)
    step_s = (span[1] - span[0]) / MOST_PICTURES
    look = {"interpolation": "nearest", "vmin": 0, "vmax": float(energy.max())}
    for t in span[0] + (np.arange(MOST_PICTURES) + 0.5) * step_s:
        picture_at(above, flow_rgb[np.abs(flow_t_s - t).argmin()], t, 0.96 * step_s, interpolation="nearest")
        image = picture_at(middle, energy[np.abs(energy_t_s - t).argmin()], t, 0.96 * step_s, **look)
    fig.colorbar(image, ax=middle, label="rms", pad=0.01)
    for ax, label in ((above, "flow"), (middle, "activation"), (below, "channel, by\nits spread")):
        ax.set(ylabel=label, xlim=span)
    below.set_xlabel("time (s)")
    return fig


def animate_evolution(
    flow_rgb: np.ndarray, energy: np.ndarray, features: np.ndarray, t_s: np.ndarray, *, title: str = ""
) -> FuncAnimation:
    """Animate the flow of n moments, what the network answers, and features, four moments a second.

    `flow_rgb`: RGB uint8 (n, S, S, 3); `energy`: of a layer, (n, H', W'); `features`: mean over space of some channels,
    (n, k); `t_s`: times of the moments in seconds, (n,), increasing.
    """
    mosaic = [["flow", "energy"], ["line", "line"]]
    fig, axs = plt.subplot_mosaic(mosaic, figsize=(4.2, 2.7), height_ratios=(2, 1.2), layout="constrained")
    side = flow_rgb.shape[1]
    look = {"extent": (0, side, side, 0), "vmin": 0, "vmax": float(energy.max())}
    shown = [axs[name].imshow(of[0], **look) for name, of in (("flow", flow_rgb), ("energy", energy))]
    fig.colorbar(shown[1], ax=axs["energy"], label="activation (rms)")
    axs["line"].plot(t_s, features, lw=1)
    now = axs["line"].axvline(t_s[0], color=ACCENT, lw=1.5)
    axs["line"].set(xlabel="time (s)", ylabel=f"{features.shape[1]} channels", yticks=[])
    for name, what in (("flow", "flow"), ("energy", "answer of the layer")):
        axs[name].set(xticks=[], yticks=[], title=what, xlabel=f"{side} px")
    fig.suptitle(title, fontsize=9)

    def show(k: int) -> None:
        shown[0].set_data(flow_rgb[k])
        shown[1].set_data(energy[k])
        now.set_xdata([t_s[k]] * 2)

    return FuncAnimation(fig, show, len(t_s), interval=250)
