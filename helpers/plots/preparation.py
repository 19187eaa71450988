"""Figures of 02: the frames that were looked at and the faces in them, the crops, and their optical flow."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle


def plot_contact_sheet(
    frames: np.ndarray,
    t_s: Sequence[float],
    *,
    boxes: Sequence[np.ndarray] | None = None,
    stable_box: np.ndarray | None = None,
    columns: int = 5,
    title: str = "",
) -> Figure:
    """Draw frames in rows, each with its time, the faces found in it and the clip's one stable box.

    Args:
        frames: RGB uint8 (n, H, W, 3).
        t_s: Time of each frame in seconds, (n,).
        boxes: Per frame, the boxes found: x0, y0, x1, y1 in pixels, (k, 4); drawn in full orange.
        stable_box: x0, y0, x1, y1 in pixels, drawn dashed in white on every frame.
        columns: Frames per row.
        title: Title of the figure, the clip's key.
    """
    rows = -(-len(frames) // columns)
    height = 2 * frames.shape[1] / frames.shape[2] + 0.25
    fig, axes = plt.subplots(
        rows, columns, figsize=(2 * columns, height * rows + 0.65), squeeze=False, layout="constrained"
    )
    for ax in axes.flat:
        ax.axis("off")
    for k, (ax, frame) in enumerate(zip(axes.flat, frames, strict=False)):
        ax.imshow(frame)
        ax.set_title(f"{t_s[k]:.2f} s", fontsize=9)
        for box in [] if boxes is None else boxes[k]:
            ax.add_patch(_outline(box, edgecolor="#E69F00", linewidth=2))
        if stable_box is not None:
            ax.add_patch(_outline(stable_box, edgecolor="0.1", linewidth=2.4))
            ax.add_patch(_outline(stable_box, edgecolor="white", linewidth=1.2, linestyle="--"))
    found = [] if boxes is None else [Line2D([], [], color="#E69F00", lw=2, label="face found in this frame")]
    stable = [] if stable_box is None else [Line2D([], [], color="0.5", lw=1.2, ls="--", label="the clip's one box")]
    if found or stable:
        fig.legend(handles=found + stable, loc="outside lower center", ncols=2, frameon=False)
    fig.suptitle(title)
    return fig


def _outline(box_xyxy: np.ndarray, **look) -> Rectangle:
    x0, y0, x1, y1 = box_xyxy
    return Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, **look)


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
    scale = "arrows to scale" if stretch == 1 else f"arrows {stretch:g} times as long as the motion"
    ax.text(0.5, -0.02, scale, fontsize=9, ha="center", va="top", transform=ax.transAxes)
    return ax


def _picture(image: np.ndarray, title: str, ax: Axes | None, **look) -> Axes:
    if ax is None:
        _, ax = plt.subplots(figsize=(4, 3), layout="constrained")
    ax.imshow(image, **look)
    ax.axis("off")
    ax.set_title(title)
    return ax
