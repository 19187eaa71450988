"""Figures of 03 and 04 about what a network sees: its feature maps, where a number comes from, and what its channels
answer to most.

In: arrays as `helpers.saliency`, `helpers.saliency` and `helpers.saliency` make them. Out: Axes,
or Figures for grids.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from helpers.plots import ACCENT, NEUTRAL

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
