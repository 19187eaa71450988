"""Figures of 02: faces with their boxes, crops, and their flow. In: arrays, pixels and seconds."""

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from helpers.plots import ORANGE, PINK, SKY, axes, legend_below, panels

# Of boxes, by the names in `helpers.tracks.SOURCES`: colour and line.
SOURCE_LOOKS = {"detected": (ORANGE, "-"), "tracked": (SKY, "-"), "interpolated": (PINK, ":")}
FRAME_IN, COLUMNS = 1.3, 6  # width of a frame on the contact sheet, and frames per row
ARROW_EVERY_PX, STRETCH = 14, 2  # of the picture; pixels of an arrow per pixel of motion


def plot_contact_sheet(
    frames: np.ndarray,
    t_s: Sequence[float],
    *,
    boxes: np.ndarray,
    sources: Sequence[str],
    stable_box: np.ndarray,
    title: str = "",
) -> Figure:
    """Draw frames, RGB uint8 (n, H, W, 3), in rows, each with its time in seconds, (n,), and the box of its face.

    `boxes`: x0, y0, x1, y1 in pixels, (n, 4), NaN where there is none; `sources`: where each is from, a key of
    `SOURCE_LOOKS`, (n,); `stable_box`: the clip's, (4,), drawn dashed on every frame.
    """
    n_rows = -(-len(frames) // COLUMNS)
    height = FRAME_IN * frames.shape[1] / frames.shape[2] + 0.25
    fig, array = panels(n_rows, COLUMNS, (FRAME_IN * COLUMNS, height * n_rows + 0.65), title=title)
    for ax in array.flat:
        ax.axis("off")
    for ax, frame, t, box, source in zip(array.flat, frames, t_s, boxes, sources, strict=False):
        ax.imshow(frame)
        has_box = bool(np.isfinite(box).all())
        ax.set_title(f"{t:.2f} s" if has_box else f"{t:.2f} s, no box", fontsize=9)
        _outline(ax, stable_box, "white", "--", 1.2, "the clip's one box")
        if has_box:
            _outline(ax, box, *SOURCE_LOOKS[source], 2, source)
    legend_below(fig)
    return fig


def _outline(ax: Axes, box_xyxy: np.ndarray, color: str, line: str, width: float, label: str) -> None:
    """A box with a dark rim, so that it is seen on any picture."""
    x0, y0, x1, y1 = box_xyxy
    look = {"ec": color, "ls": line, "lw": width, "label": label, "fill": False}
    rim = [withStroke(linewidth=width + 1.2, foreground="0.1")]
    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, path_effects=rim, **look))


def plot_crops(crops: np.ndarray, t_s: Sequence[float], *, title: str = "") -> Axes:
    """Draw pictures of one size, RGB uint8 (n, S, S, 3), side by side, each over its time in seconds, (n,)."""
    n, side = crops.shape[:2]
    ax = axes(None, (max(1.15 * n, 4.0), 2.0), grid="", yticks=[], xlabel="time (s)")
    ax.imshow(np.concatenate(list(crops), axis=1))
    ax.set_xticks((np.arange(n) + 0.5) * side, [f"{t:.2f}" for t in t_s])
    ax.set_title(title, wrap=True)
    return ax


def flow_to_rgb(flow: np.ndarray, max_px: float | None = None) -> np.ndarray:
    """Colour flow (..., H, W, 2) in pixels by direction (hue) and length (saturation), RGB uint8 (..., H, W, 3).

    No motion is white, right red, down yellow-green, left cyan, up violet. `max_px`: length shown in full colour;
    default: the longest vector.
    """
    length = np.linalg.norm(flow, axis=-1)
    max_px = max(float(length.max()), 1e-6) if max_px is None else max_px
    hue = np.degrees(np.arctan2(flow[..., 1], flow[..., 0])) % 360
    hsv = np.stack([hue, (length / max_px).clip(0, 1), np.ones_like(length)], axis=-1).astype(np.float32)
    rgb = cv2.cvtColor(hsv.reshape(-1, 1, 3), cv2.COLOR_HSV2RGB).reshape(hsv.shape)
    return (rgb * 255).round().astype(np.uint8)


def plot_flow(crop: np.ndarray, flow: np.ndarray, *, title: str = "") -> Figure:
    """Draw flow (H, W, 2), (dx, dy) in pixels per frame, as arrows over the picture it starts from, RGB uint8
    (H, W, 3), by its length, and by its direction with the wheel of colours.
    """
    fig, ((arrows, speed, direction),) = panels(1, 3, (7.4, 2.5), title=title)
    length = np.linalg.norm(flow, axis=-1)
    limit = max(float(np.quantile(length, 0.99)), 1e-6)
    y, x = np.mgrid[tuple(slice(ARROW_EVERY_PX // 2, side, ARROW_EVERY_PX) for side in crop.shape[:2])]
    dx, dy = np.moveaxis(flow[y, x], -1, 0) * STRETCH
    arrows.imshow(crop)
    arrows.quiver(x, y, dx, dy, color=ORANGE, angles="xy", scale_units="xy", scale=1, width=0.006)
    image = speed.imshow(length, vmin=0, vmax=limit)
    fig.colorbar(image, ax=speed, label="px per frame", shrink=0.8)
    direction.imshow(flow_to_rgb(flow, limit))
    wheel = direction.inset_axes([1.05, 0.6, 0.38, 0.38])
    wheel.imshow(_wheel())
    titles = {arrows: f"motion, {STRETCH} times", speed: "speed", direction: "direction and speed", wheel: ""}
    for ax, what in titles.items():
        ax.axis("off")
        ax.set_title(what)
    return fig


def _wheel(side_px: int = 101) -> np.ndarray:
    """The legend of `flow_to_rgb`, RGB uint8 (S, S, 3): the colour of every direction and, from the middle, speed."""
    axis = np.linspace(-1, 1, side_px, dtype=np.float32)
    flow = np.stack(np.meshgrid(axis, axis), axis=-1)
    return np.where(np.linalg.norm(flow, axis=-1, keepdims=True) > 1, np.uint8(255), flow_to_rgb(flow, 1.0))
