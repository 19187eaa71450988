"""Figures of 04 about features in time: single channels, energy over space and time, and flow above the features.

In: arrays of one clip, times in seconds, positions in pixels of the network's input. Out: Axes, or Figures for grids,
or pictures for an animation.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plots import ACCENT
from helpers.plots.attention import draw_picture

MOST_PICTURES = 9
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")  # Okabe and Ito


def plot_evolution(
    t_s: np.ndarray, values: np.ndarray, labels: Sequence[str], *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw several features over time in one picture, each between its own smallest and largest value.

    Args:
        t_s: Time of each row in seconds, (n,).
        values: (n, k).
        labels: Of the k features.
        title: Finding or clip.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 2.4), layout="constrained")
    low = values.min(axis=0)
    scaled = (values - low) / np.maximum(values.max(axis=0) - low, 1e-30)
    for k, label in enumerate(labels):
        style = ("-", "--", ":")[k // len(COLORS) % 3]
        ax.plot(t_s, scaled[:, k], style, marker="o", ms=3, color=COLORS[k % len(COLORS)], label=label)
    ax.set(xlabel="time (s)", ylabel="feature, from its\nsmallest to largest", title=title)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_space_time(
    energy: np.ndarray,
    t_s: np.ndarray,
    position_px: np.ndarray,
    *,
    axis: str = "x",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw energy over time and one direction in space.

    Args:
        energy: (T', P), averaged over the other direction.
        t_s: Centre of each step in seconds, (T',).
        position_px: Centre of each position in pixels of the input, (P,).
        axis: "x" or "y".
        title: Finding or clip.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
    mesh = ax.pcolormesh(t_s, position_px, energy.T, shading="nearest", cmap="viridis", vmin=0)
    ax.grid(False)
    if axis == "y":
        ax.invert_yaxis()  # as in the picture: up is up
    ax.figure.colorbar(mesh, ax=ax, label="activation (rms)")
    ax.set(xlabel="time (s)", ylabel=f"{axis} (px of the input)", title=title)
    return ax


def plot_surface(
    energy: np.ndarray, t_s: np.ndarray, position_px: np.ndarray, *, axis: str = "x", title: str = ""
) -> Figure:
    """Draw the same as a surface over time and space; arguments as for `plot_space_time`."""
    fig = plt.figure(figsize=(5.5, 3.4), layout="constrained")
    ax = fig.add_subplot(projection="3d")
    t, position = np.meshgrid(t_s, position_px, indexing="ij")
    surface = ax.plot_surface(t, position, energy, cmap="viridis", vmin=0, lw=0, antialiased=False)
    fig.colorbar(surface, ax=ax, label="activation (rms)", shrink=0.7, pad=0.12)
    ax.view_init(elev=38, azim=-60)
    ax.set_box_aspect(None, zoom=0.82)  # leaves room for the labels, which no layout knows of in 3-D
    ax.set_xlabel("time (s)", labelpad=8)
    ax.set_ylabel(f"{axis} (px of the input)", labelpad=8)
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

    Args:
        flow_rgb: RGB uint8 (n, S, S, 3).
        flow_t_s: Time of each in seconds, (n,).
        energy: Of a layer, (T', H', W').
        energy_t_s: Centre of each step in seconds, (T',).
        features: Rows of the clip, (m, k), such as the channels that vary most, standardised.
        features_t_s: Centre of each row in seconds, (m,).
        title: The clip.
    """
    half = float(np.median(np.diff(features_t_s))) / 2 if len(features_t_s) > 1 else 0.25
    span = (min(flow_t_s[0], features_t_s[0] - half), max(flow_t_s[-1], features_t_s[-1] + half))
    side_s = 0.96 * (span[1] - span[0]) / MOST_PICTURES
    side_in = 6.6 * 0.96 / MOST_PICTURES
    fig, axes = plt.subplots(
        3, 1, figsize=(8, 2 * side_in + 3.1), sharex=True, height_ratios=(side_in, side_in, 1.5), layout="constrained"
    )
    at = span[0] + (np.arange(MOST_PICTURES) + 0.5) * (span[1] - span[0]) / MOST_PICTURES
    look = {"cmap": "viridis", "interpolation": "nearest", "vmin": 0, "vmax": float(energy.max())}
    for t in at:
        draw_picture(axes[0], flow_rgb[np.abs(flow_t_s - t).argmin()], t, side_s, interpolation="nearest")
        image = draw_picture(axes[1], energy[np.abs(energy_t_s - t).argmin()], t, side_s, **look)
    fig.colorbar(image, ax=axes[1], label="rms", pad=0.01)
    limit = max(float(np.abs(features).max()), 1e-9)
    channels = np.arange(features.shape[1])
    mesh = axes[2].pcolormesh(
        features_t_s, channels, features.T, shading="nearest", cmap="RdBu_r", vmin=-limit, vmax=limit
    )
    fig.colorbar(mesh, ax=axes[2], label="standard\ndeviations", pad=0.01)
    axes[2].grid(False)
    for ax, label in zip(axes, ("flow", "activation", "channel, by\nits spread"), strict=True):
        ax.set(ylabel=label, xlim=span)
    axes[2].set_xlabel("time (s)")
    fig.suptitle(title)
    return fig


def draw_evolution(
    flow_rgb: np.ndarray, energy: np.ndarray, features: np.ndarray, t_s: np.ndarray, *, title: str = ""
) -> np.ndarray:
    """Draw the pictures of an animation: the flow of a moment, what the network answers, and its features so far.

    Args:
        flow_rgb: RGB uint8 (n, S, S, 3).
        energy: Of a layer, (n, H', W').
        features: Mean over space of some channels at each moment, (n, k).
        t_s: Time of each moment in seconds, (n,), increasing.
        title: The clip.

    Returns:
        RGB uint8 (n, 270, 420, 3).
    """
    fig, axes = plt.subplot_mosaic([["flow", "energy"], ["line", "line"]], figsize=(4.2, 2.7), height_ratios=(2, 1.2))
    fig.set_dpi(100)
    side = flow_rgb.shape[1]
    extent = (0, side, side, 0)
    left = axes["flow"].imshow(flow_rgb[0], extent=extent)
    right = axes["energy"].imshow(energy[0], extent=extent, cmap="viridis", vmin=0, vmax=float(energy.max()))
    fig.colorbar(right, ax=axes["energy"], label="activation (rms)")
    axes["line"].plot(t_s, features, lw=1)
    now = axes["line"].axvline(t_s[0], color=ACCENT, lw=1.5)
    axes["line"].set(xlabel="time (s)", ylabel=f"{features.shape[1]} channels", yticks=[])
    for name in ("flow", "energy"):
        axes[name].set(xticks=[], yticks=[], title=name if name == "flow" else "answer of the layer")
        axes[name].set_xlabel(f"{side} px")
    fig.suptitle(title, fontsize=9)
    frames = []
    for k, t in enumerate(t_s):
        left.set_data(flow_rgb[k])
        right.set_data(energy[k])
        now.set_xdata([t, t])
        fig.canvas.draw()
        if k == 0:
            fig.set_layout_engine("none")  # laid out once: nothing moves but the data
        frames.append(np.asarray(fig.canvas.buffer_rgba())[..., :3].copy())
    plt.close(fig)
    return np.stack(frames)
