"""Figures of 02 about the clips: the faces of one and of all, the path of a box, the crops and their flow.

In: arrays and tables, pixels and seconds. Out: Axes, or a Figure for grids.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

from helpers.plots import ACCENT, NEUTRAL

# By the names in `helpers.tracks.SOURCES`: colour, line, and the marker of a sample.
SOURCE_LOOKS = {
    "detected": ("#E69F00", "-", "o"),
    "tracked": ("#56B4E9", "-", "."),
    "interpolated": ("#CC79A7", ":", "x"),
    "none": ("0.85", "", ""),
}
FRAME_IN = 1.3  # width of a frame on the contact sheet, in inches


def plot_contact_sheet(
    frames: np.ndarray,
    t_s: Sequence[float],
    *,
    boxes: np.ndarray | None = None,
    sources: Sequence[str] | None = None,
    stable_box: np.ndarray | None = None,
    columns: int = 6,
    title: str = "",
) -> Figure:
    """Draw frames in rows, each with its time, the box of the face, where that box is from, and the clip's stable box.

    Args:
        frames: RGB uint8 (n, H, W, 3).
        t_s: Time of each frame in seconds, (n,).
        boxes: x0, y0, x1, y1 in pixels of each frame's face, (n, 4), NaN where there is none.
        sources: Where each box is from, a key of `SOURCE_LOOKS`, (n,); default: all are detected.
        stable_box: x0, y0, x1, y1 in pixels, drawn dashed in white on every frame.
        columns: Frames per row.
        title: Title of the figure: the clip's key, or what is to be seen.
    """
    boxes = np.full((len(frames), 4), np.nan) if boxes is None else boxes
    sources = ["detected"] * len(frames) if sources is None else list(sources)
    n_rows = -(-len(frames) // columns)
    height = FRAME_IN * frames.shape[1] / frames.shape[2] + 0.25
    size = (FRAME_IN * columns, height * n_rows + 0.65)
    fig, axes = plt.subplots(n_rows, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    for ax, frame, t, box, source in zip(axes.flat, frames, t_s, boxes, sources, strict=False):
        ax.imshow(frame)
        ax.set_title(f"{t:.2f} s" if np.isfinite(box).all() else f"{t:.2f} s, no box", fontsize=9)
        if stable_box is not None:
            _outline(ax, stable_box, "white", "--", 1.2)
        if np.isfinite(box).all():
            _outline(ax, box, *SOURCE_LOOKS[source][:2], 2)
    drawn = [name for name in SOURCE_LOOKS if name in set(np.array(sources)[np.isfinite(boxes).all(axis=1)])]
    handles = [
        Line2D([], [], color=SOURCE_LOOKS[name][0], ls=SOURCE_LOOKS[name][1], lw=2, label=name) for name in drawn
    ]
    if stable_box is not None:
        handles.append(Line2D([], [], color="0.5", ls="--", lw=1.2, label="the clip's one box"))
    if handles:
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    fig.suptitle(title)
    return fig


def _outline(ax: Axes, box_xyxy: np.ndarray, color: str, line: str, width: float) -> None:
    """A box with a dark rim, so that it is seen on any picture."""
    x0, y0, x1, y1 = box_xyxy
    box = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linestyle=line, linewidth=width)
    box.set_path_effects([withStroke(linewidth=width + 1.2, foreground="0.1")])
    ax.add_patch(box)


def plot_coverage(coverage: np.ndarray, n_refused: int, *, min_coverage: float, ax: Axes | None = None) -> Axes:
    """Draw how many clips show the face in which share of the looked-at frames, and how many are refused.

    Args:
        coverage: Share of the looked-at frames with the main face, in [0, 1], one per usable clip.
        n_refused: Clips without a track: unreadable, or with too little face.
        min_coverage: Least share that is allowed.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(5.5, 3), layout="constrained")
    counts, edges = np.histogram(coverage, bins=20, range=(0, 1))
    bars = ax.bar(edges[:-1], counts, 0.05, align="edge", color=SOURCE_LOOKS["detected"][0])
    refused = ax.bar([-0.175], [n_refused], 0.05, color="white", edgecolor=ACCENT, hatch="////")
    for bar in (*bars, *refused):
        if bar.get_height():
            at = (bar.get_x() + bar.get_width() / 2, bar.get_height())
            ax.annotate(f"{bar.get_height():.0f}", at, (0, 2), textcoords="offset points", ha="center", fontsize=9)
    ax.axvline(min_coverage, color=ACCENT, ls="--", lw=1)
    ax.text(min_coverage, 0.92, " least allowed", fontsize=9, va="center", transform=ax.get_xaxis_transform())
    ax.set_xticks([-0.175, 0, 0.25, 0.5, 0.75, 1], ["refused", "0%", "25%", "50%", "75%", "100%"])
    ax.set(xlim=(-0.25, 1.04), yscale="log", ylim=(0.5, 3 * max(*counts, n_refused, 1)))
    ax.yaxis.set_major_formatter("{x:.0f}")
    ax.set(xlabel="looked-at frames that show the face", ylabel="clips")
    n_whole = int((np.asarray(coverage) == 1).sum())
    ax.set_title(f"{n_whole} of {len(coverage) + n_refused} clips show the face at every look")
    return ax


def plot_sources(shares: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw which share of the samples has a box from where.

    Args:
        shares: A row per clip or group of clips; columns are keys of `SOURCE_LOOKS`, rows sum to 1.
        title: Finding.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 0.4 * len(shares) + 1.4), layout="constrained")
    left = np.zeros(len(shares))
    for name in shares:
        width = shares[name].to_numpy()
        ax.barh(range(len(shares)), width, left=left, height=0.62, color=SOURCE_LOOKS[name][0], label=name)
        for y in np.flatnonzero(width > 0.08):
            ax.text(left[y] + width[y] / 2, y, f"{width[y]:.0%}", ha="center", va="center", fontsize=9)
        left = left + width
    ax.set_yticks(range(len(shares)), shares.index)
    ax.set(xlim=(0, 1), ylim=(len(shares) - 0.5, -0.5), xlabel="share of the samples", title=title)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.24), ncols=4, frameon=False, columnspacing=1.2)
    return ax


def plot_box_path(
    t_s: np.ndarray,
    found_xyxy: np.ndarray,
    boxes_xyxy: np.ndarray,
    *,
    sources: Sequence[str],
    confidence: np.ndarray,
    stable_box: np.ndarray,
    title: str = "",
) -> Figure:
    """Draw the centre of a face's box over time, as found and smoothed, and the detector's confidence.

    Args:
        t_s: Time of each sample in seconds, (n,).
        found_xyxy, boxes_xyxy: The box as found and smoothed, pixels of the frame, (n, 4), NaN where there is none.
        sources: Where each box is from, a key of `SOURCE_LOOKS`, (n,).
        confidence: Of each sample in the detector's own unit, (n,).
        stable_box: The clip's one box, (4,).
        title: Finding or clip.
    """
    fig, axes = plt.subplots(3, 1, figsize=(7, 4.2), sharex=True, height_ratios=(2, 2, 1), layout="constrained")
    for k, (ax, axis) in enumerate(zip(axes, "xy", strict=False)):
        _by_source(ax, t_s, (found_xyxy[:, k] + found_xyxy[:, k + 2]) / 2, sources)
        ax.plot(t_s, (boxes_xyxy[:, k] + boxes_xyxy[:, k + 2]) / 2, color=ACCENT, lw=1.6, label="smoothed")
        ax.axhline((stable_box[k] + stable_box[k + 2]) / 2, color=ACCENT, ls="--", lw=1, label="the clip's one box")
        ax.set_ylabel(f"centre {axis} (px)")
    axes[1].invert_yaxis()
    _by_source(axes[2], t_s, np.where(confidence > 0, confidence, np.nan), sources)
    axes[2].set(xlabel="time (s)", ylabel="confidence", ylim=(0, 1.2 * max(confidence.max(), 1e-9)))
    fig.align_ylabels()
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    fig.suptitle(title)
    return fig


def _by_source(ax: Axes, t_s: np.ndarray, values: np.ndarray, sources: Sequence[str]) -> None:
    ax.plot(t_s, values, color=NEUTRAL, lw=0.8)
    for name, (color, _, marker) in SOURCE_LOOKS.items():
        chosen = np.array(sources) == name
        if marker and chosen.any():
            ax.plot(t_s[chosen], values[chosen], marker, color=color, label=name)


def plot_crops(crops: np.ndarray, t_s: Sequence[float], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw face crops side by side along time.

    Args:
        crops: RGB uint8 (n, S, S, 3).
        t_s: Time of each crop in seconds, (n,).
        title: What is to be seen.
        ax: Axes to draw on; a new figure by default.
    """
    n, side = crops.shape[:2]
    if ax is None:
        _, ax = plt.subplots(figsize=(1.15 * n, 2.0), layout="constrained")
    ax.imshow(np.concatenate(list(crops), axis=1))
    ax.set_xticks((np.arange(n) + 0.5) * side, [f"{t:.2f}" for t in t_s])
    ax.set_yticks([])
    ax.grid(False)
    ax.set(xlabel="time (s)", title=title)
    return ax


def plot_flow(
    flow_rgb: np.ndarray, wheel_rgb: np.ndarray, max_px: float, *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw coloured flow with its wheel as legend.

    Args:
        flow_rgb: RGB uint8 (H, W, 3), from `helpers.flow.flow_to_rgb`.
        wheel_rgb: RGB uint8 (S, S, 3), from `helpers.flow.flow_wheel`.
        max_px: Length at the wheel's rim, pixels per frame.
        title: What is to be seen.
        ax: Axes to draw on; a new figure by default.
    """
    ax = _picture(flow_rgb, title, ax)
    legend = ax.inset_axes([1.14, 0.55, 0.38, 0.38])
    legend.imshow(wheel_rgb)
    legend.axis("off")
    legend.set_title("direction", fontsize=9, loc="center")
    legend.text(
        0.5, -0.08, f"rim: {max_px:.2g} px per frame", fontsize=9, ha="center", va="top", transform=legend.transAxes
    )
    return ax


def plot_flow_magnitude(
    magnitude_px: np.ndarray, *, max_px: float | None = None, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw how far every pixel moves.

    Args:
        magnitude_px: Length of the flow, (H, W), pixels per frame.
        max_px: End of the colour scale; default the largest.
        title: What is to be seen.
        ax: Axes to draw on; a new figure by default.
    """
    ax = _picture(magnitude_px, title, ax, cmap="viridis", vmin=0, vmax=max_px)
    ax.figure.colorbar(ax.images[0], ax=ax, label="px per frame", shrink=0.8)
    return ax


def plot_flow_arrows(
    crop: np.ndarray,
    flow: np.ndarray,
    *,
    step_px: int = 14,
    stretch: float = 1.0,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw flow as arrows over the picture that it starts from.

    Args:
        crop: RGB uint8 (H, W, 3).
        flow: (H, W, 2), (dx, dy) in pixels per frame, of the same height and width.
        step_px: One arrow every so many pixels.
        stretch: Pixels of an arrow per pixel of motion.
        title: What is to be seen.
        ax: Axes to draw on; a new figure by default.
    """
    ax = _picture(crop, title, ax)
    y, x = np.mgrid[step_px // 2 : crop.shape[0] : step_px, step_px // 2 : crop.shape[1] : step_px]
    dx, dy = np.moveaxis(flow[y, x], -1, 0) * stretch
    ax.quiver(x, y, dx, dy, color="#E69F00", angles="xy", scale_units="xy", scale=1, width=0.006)
    scale = "arrows to scale" if stretch == 1 else f"arrows {stretch:g} times the motion"
    ax.text(0.5, -0.02, scale, fontsize=9, ha="center", va="top", transform=ax.transAxes)
    return ax


def _picture(image: np.ndarray, title: str, ax: Axes | None, **look) -> Axes:
    if ax is None:
        _, ax = plt.subplots(figsize=(4, 3), layout="constrained")
    ax.imshow(image, **look)
    ax.axis("off")
    ax.set_title(title)
    return ax
