"""Figures of 04 about features in time: single channels, energy over space and time, and flow above the features.

In: arrays of one clip, times in seconds, positions in pixels of the network's input.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plots import ACCENT, PALETTE, axes, panels, picture_at, step_of, time_rows

MOST_PICTURES = 9


def plot_evolution(
    t_s: np.ndarray, values: np.ndarray, labels: Sequence[str], *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw k features (n, k) over time (n,), each between its own smallest and largest value."""
    ax = axes(ax, (7, 2.4), xlabel="time (s)", ylabel="feature, from its\nsmallest to largest", title=title)
    low = values.min(axis=0)
    scaled = (values - low) / np.maximum(values.max(axis=0) - low, 1e-30)
    for k, label in enumerate(labels):
        style = ("-", "--", ":")[k // len(PALETTE) % 3]
        ax.plot(t_s, scaled[:, k], style, marker="o", ms=3, color=PALETTE[k % len(PALETTE)], label=label)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_space_time(energy: np.ndarray, t_s: np.ndarray, position_px: np.ndarray, *, title: str = "") -> Figure:
    """Draw energy (T', H', W') over time and x, and over time and y, averaged over the other.

    `t_s`: centre of each step in seconds, (T',); `position_px`: of each place in pixels of the input, both ways alike.
    """
    fig, array = panels(2, 1, (7, 4.2), title=title, sharex=True)
    for ax, axis, other in zip(array[:, 0], "xy", (1, 2), strict=True):
        look = {"shading": "nearest", "cmap": "viridis", "vmin": 0}
        mesh = ax.pcolormesh(t_s, position_px, energy.mean(axis=other).T, **look)
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

    Args:
        flow_rgb, flow_t_s: RGB uint8 (n, S, S, 3), and the time of each in seconds, (n,).
        energy, energy_t_s: Of a layer, (T', H', W'), and the centre of each step, (T',).
        features, features_t_s: Rows of the clip, standardised, (m, k), and their centres, (m,).
    """
    half = step_of(features_t_s) / 2
    span = (min(flow_t_s[0], features_t_s[0] - half), max(flow_t_s[-1], features_t_s[-1] + half))
    step_s = (span[1] - span[0]) / MOST_PICTURES
    fig, ((above,), (middle,), (below,)) = panels(
        3, 1, (8, 4.5), title=title, sharex=True, height_ratios=(0.7, 0.7, 1.5)
    )
    look = {"interpolation": "nearest", "cmap": "viridis", "vmin": 0, "vmax": float(energy.max())}
    for t in span[0] + (np.arange(MOST_PICTURES) + 0.5) * step_s:
        picture_at(above, flow_rgb[np.abs(flow_t_s - t).argmin()], t, 0.96 * step_s, interpolation="nearest")
        image = picture_at(middle, energy[np.abs(energy_t_s - t).argmin()], t, 0.96 * step_s, **look)
    fig.colorbar(image, ax=middle, label="rms", pad=0.01)
    limit = max(float(np.abs(features).max()), 1e-9)
    look = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    time_rows(below, features.T, features_t_s, (), "standard\ndeviations", **look)
    for ax, label in ((above, "flow"), (middle, "activation"), (below, "channel, by\nits spread")):
        ax.set(ylabel=label, xlim=span)
    below.set_xlabel("time (s)")
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

    Returns:
        RGB uint8 (n, 270, 420, 3).
    """
    mosaic = [["flow", "energy"], ["line", "line"]]
    fig, axs = plt.subplot_mosaic(mosaic, figsize=(4.2, 2.7), dpi=100, height_ratios=(2, 1.2), layout="constrained")
    side = flow_rgb.shape[1]
    extent = (0, side, side, 0)
    left = axs["flow"].imshow(flow_rgb[0], extent=extent)
    right = axs["energy"].imshow(energy[0], extent=extent, cmap="viridis", vmin=0, vmax=float(energy.max()))
    fig.colorbar(right, ax=axs["energy"], label="activation (rms)")
    axs["line"].plot(t_s, features, lw=1)
    now = axs["line"].axvline(t_s[0], color=ACCENT, lw=1.5)
    axs["line"].set(xlabel="time (s)", ylabel=f"{features.shape[1]} channels", yticks=[])
    for name, said in (("flow", "flow"), ("energy", "answer of the layer")):
        axs[name].set(xticks=[], yticks=[], title=said, xlabel=f"{side} px")
    fig.suptitle(title, fontsize=9)
    frames = []
    for k, t in enumerate(t_s):
        left.set_data(flow_rgb[k])
        right.set_data(energy[k])
        now.set_xdata([t, t])
        fig.canvas.draw()
        fig.set_layout_engine("none")  # laid out once: nothing moves but the data
        frames.append(np.asarray(fig.canvas.buffer_rgba())[..., :3].copy())
    plt.close(fig)
    return np.stack(frames)
