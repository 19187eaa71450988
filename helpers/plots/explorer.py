"""Pictures of the explorer: a clip's attention and effects on its time axis, and one stretch of motion close up.

In: arrays of one clip, as `helpers.gallery.ClipView` holds them. Out: Axes, or Figures for grids. The stretch
is a motion token; where nobody can click, `plot_clip` shows in one figure what the explorer shows of it.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plots import ACCENT, NEUTRAL
from helpers.plots.attention import COOL, WARM

SIZE_IN = (6.6, 2.35)  # at notebook width: the explorer's text is then not scaled down
ARROWS = 14  # along a side of the picture of motion


def plot_segment(
    crop: np.ndarray,
    speed: np.ndarray,
    flow: np.ndarray,
    weights: np.ndarray,
    face_t_s: np.ndarray,
    *,
    face: int,
    fastest_px: float,
    top: float,
    head: int | None = None,
) -> Figure:
    """Draw one stretch of motion: the face of its time, where it moves, and which faces attend to it in each head.

    Args:
        crop: RGB uint8 (S, S, 3).
        speed: Mean speed in px per frame, (S, S).
        flow: Its fastest moment, dx and dy in px per frame, (S, S, 2); drawn as arrows.
        weights: Attention of each face token to this motion token, (heads, Ts).
        face_t_s: Centre of each face token in seconds, (Ts,).
        face: Number of the face token shown.
        fastest_px: End of the scale of speed, that of the clip.
        top: End of the scale of attention, that of the clip.
        head: The head that is marked; None marks none.
    """
    fig, axes = plt.subplots(1, 3, figsize=SIZE_IN, width_ratios=(1, 1.25, 1.45), layout="constrained")
    _draw_segment(axes, crop, speed, flow, weights, face_t_s, face, fastest_px, top, head)
    return fig


def _draw_segment(axes: Sequence[Axes], crop, speed, flow, weights, face_t_s, face, fastest_px, top, head) -> None:
    axes[0].imshow(crop)
    axes[0].set_title(f"face at {face_t_s[face]:.2f} s")
    axes[0].axis("off")
    plot_motion(speed, flow, fastest_px, ax=axes[1])
    plot_head_weights(weights, face_t_s, top, face=face, head=head, ax=axes[2])


def plot_motion(speed: np.ndarray, flow: np.ndarray, fastest_px: float, *, ax: Axes | None = None) -> Axes:
    """Draw where a face moves: mean speed as colour, its fastest moment as arrows.

    Args:
        speed: Px per frame, (S, S).
        flow: dx and dy in px per frame, (S, S, 2). Arrows are scaled to the longest.
        fastest_px: End of the colour scale.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(2.8, 2.3), layout="constrained")
    image = ax.imshow(speed, cmap="viridis", vmin=0, vmax=max(fastest_px, 1e-6))
    step = max(1, len(speed) // ARROWS)
    y, x = np.mgrid[step // 2 : len(speed) : step, step // 2 : len(speed) : step]
    dx, dy = np.moveaxis(flow[y, x], -1, 0)
    longest = max(float(np.hypot(dx, dy).max()), 1e-6)
    ax.quiver(x, y, dx, dy, color="white", angles="xy", scale_units="xy", scale=longest / (1.6 * step), width=0.008)
    ax.figure.colorbar(image, ax=ax, label="speed (px/frame)", shrink=0.9)
    ax.set_title("motion")
    ax.axis("off")
    return ax


def plot_head_weights(
    weights: np.ndarray,
    face_t_s: np.ndarray,
    top: float,
    *,
    face: int | None = None,
    head: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how much each face token attends to one motion token, head by head.

    Args:
        weights: (heads, Ts).
        face_t_s: Centre of each face token in seconds, (Ts,).
        top: End of the colour scale.
        face: Face token that is marked.
        head: Head that is marked.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(3.2, 2.3), layout="constrained")
    heads = np.arange(1, len(weights) + 1)
    image = ax.pcolormesh(face_t_s, heads, weights, shading="nearest", cmap="viridis", vmin=0, vmax=top)
    if face is not None:
        ax.plot(face_t_s[face], 0.36, marker="v", color=ACCENT, clip_on=False, ms=6)
    ax.set(xlabel="face token (s)", ylabel="head", yticks=heads, ylim=(len(weights) + 0.5, 0.5))
    ax.set_title("attention to this motion", pad=10)
    for label, number in zip(ax.get_yticklabels(), heads, strict=True):
        if head is not None and number == head + 1:
            label.set(color=ACCENT, fontweight="bold")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label="attention")
    return ax


def plot_share(
    t_start_s: np.ndarray,
    t_end_s: np.ndarray,
    share: np.ndarray,
    row: np.ndarray,
    *,
    windows: Mapping[str, tuple[float, float]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the share of a clip's attention that each motion token gets, and what one face gives it.

    Args:
        t_start_s, t_end_s: Start and end of each motion token in seconds, (Td,).
        share: Mean over face tokens, (Td,), sums to 1.
        row: Of one face token, (Td,), sums to 1.
        windows: Name to start and stop in seconds of what was planted; shaded.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 1.8), layout="constrained")
    _shade(ax, windows)
    width = t_end_s - t_start_s
    ax.bar(t_start_s, 100 * share, width, align="edge", color=NEUTRAL, alpha=0.6, ec="white", label="mean of all faces")
    ax.plot((t_start_s + t_end_s) / 2, 100 * row, "o", color=ACCENT, ms=5, label="the face shown below")
    ax.set(xlabel="time (s)", ylabel="attention (%)", ylim=(0, None))
    return ax


def plot_measure(
    t_start_s: np.ndarray,
    t_end_s: np.ndarray,
    values: np.ndarray,
    *,
    color: str,
    label: str,
    windows: Mapping[str, tuple[float, float]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what each motion token does to a score.

    Args:
        t_start_s, t_end_s: Start and end of each motion token in seconds, (Td,).
        values: (Td,), signed.
        color: The trait's.
        label: What is measured, with the trait.
        windows: Name to start and stop in seconds of what was planted; shaded.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 1.8), layout="constrained")
    _shade(ax, windows)
    width = t_end_s - t_start_s
    ax.bar(t_start_s + 0.1 * width, values, 0.8 * width, align="edge", color=color)
    ax.axhline(0, color=ACCENT, lw=0.8)
    ax.set(xlabel="time (s)", ylabel=label)
    return ax


def _shade(ax: Axes, windows: Mapping[str, tuple[float, float]] | None) -> None:
    for (name, (start, stop)), color in zip((windows or {}).items(), (WARM, COOL), strict=False):
        ax.axvspan(start, stop, color=color, alpha=0.35, lw=0, label=name)


def plot_clip(
    crops: np.ndarray,
    speed: np.ndarray,
    flow: np.ndarray,
    attention: np.ndarray,
    face_t_s: np.ndarray,
    t_start_s: np.ndarray,
    t_end_s: np.ndarray,
    values: np.ndarray,
    *,
    segment: int,
    face: int,
    color: str,
    label: str,
    windows: Mapping[str, tuple[float, float]] | None = None,
    title: str = "",
) -> Figure:
    """Draw what the explorer shows of a clip: its time axis, and one stretch of motion close up.

    Args:
        crops: RGB uint8 (Ts, S, S, 3).
        speed, flow: Of each motion token in px per frame, (Td, S, S) and (Td, S, S, 2).
        attention: (heads, Ts, Td).
        face_t_s: Centre of each face token in seconds, (Ts,).
        t_start_s, t_end_s: Start and end of each motion token in seconds, (Td,).
        values: What each motion token does to a trait, (Td,).
        segment, face: The motion token that is shown close up, and the face token of its time.
        color, label: Of the values.
        windows: Name to start and stop in seconds of what was planted.
        title: The clip.
    """
    fig = plt.figure(figsize=(7.4, 6.4), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=(1.7, 1))
    axes = above.subplots(2, 1, sharex=True, height_ratios=(1, 1.2))
    mean = attention.mean(axis=0)
    plot_share(t_start_s, t_end_s, mean.mean(axis=0), mean[face], windows=windows, ax=axes[0])
    plot_measure(t_start_s, t_end_s, values, color=color, label=label, windows=windows, ax=axes[1])
    for ax in axes:
        ax.axvspan(t_start_s[segment], t_end_s[segment], fill=False, ec=ACCENT, lw=1.6, zorder=3)
    axes[0].set_xlabel("")
    above.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False)
    close_up = below.subplots(1, 3, width_ratios=(1, 1.25, 1.45))
    weights, fastest_px = attention[:, :, segment], float(speed.max())
    _draw_segment(
        close_up, crops[face], speed[segment], flow[segment], weights, face_t_s, face, fastest_px, attention.max(), None
    )
    fig.suptitle(title)
    return fig
