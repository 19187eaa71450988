"""Figures of 02: faces, the path of a box, crops and their flow; how steady the box is, whether decoders agree, and how
wrong flow methods are.

In: arrays and tables, pixels and seconds, as `helpers.parity` and `benchmarks.flow` make them. Out: Axes, or a Figure
for grids.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

from helpers.plots import (
    ACCENT,
    BLUE,
    GREEN,
    NEUTRAL,
    ORANGE,
    PINK,
    RED,
    SKY,
    axes,
    legend_below,
    matrix,
    pictures_beside,
)

# By the names in `helpers.tracks.SOURCES`: colour, line, and the marker of a sample.
SOURCE_LOOKS = {
    "detected": (ORANGE, "-", "o"),
    "tracked": (SKY, "-", "."),
    "interpolated": (PINK, ":", "x"),
    "none": ("0.85", "", ""),
}
FRAME_IN = 1.3  # width of a frame on the contact sheet, in inches
ERRORS = ["clean_px", "noisy_px"]  # columns of `benchmarks.flow.accuracy_table`


def plot_contact_sheet(
    frames: np.ndarray,
    t_s: Sequence[float],
    *,
    boxes: np.ndarray,
    sources: Sequence[str],
    stable_box: np.ndarray,
    columns: int = 6,
    title: str = "",
) -> Figure:
    """Draw frames in rows, each with its time, the box of the face, where that box is from, and the clip's stable box.

    Args:
        frames: RGB uint8 (n, H, W, 3).
        t_s: Time of each frame in seconds, (n,).
        boxes: x0, y0, x1, y1 in pixels of each frame's face, (n, 4), NaN where there is none.
        sources: Where each box is from, a key of `SOURCE_LOOKS`, (n,).
        stable_box: x0, y0, x1, y1 in pixels, drawn dashed on every frame.
        columns: Frames per row.
    """
    n_rows = -(-len(frames) // columns)
    height = FRAME_IN * frames.shape[1] / frames.shape[2] + 0.25
    size = (FRAME_IN * columns, height * n_rows + 0.65)
    fig, panels = plt.subplots(n_rows, columns, figsize=size, squeeze=False, layout="constrained")
    shown = np.isfinite(boxes).all(axis=1)
    for ax in panels.flat:
        ax.axis("off")
    for ax, frame, t, box, source, has_box in zip(panels.flat, frames, t_s, boxes, sources, shown, strict=False):
        ax.imshow(frame)
        ax.set_title(f"{t:.2f} s" if has_box else f"{t:.2f} s, no box", fontsize=9)
        _outline(ax, stable_box, "white", "--", 1.2)
        if has_box:
            _outline(ax, box, *SOURCE_LOOKS[source][:2], 2)
    looks = {name: look for name, look in SOURCE_LOOKS.items() if name in set(np.asarray(sources)[shown])}
    handles = [Line2D([], [], color=color, ls=line, lw=2, label=name) for name, (color, line, _) in looks.items()]
    handles.append(Line2D([], [], color="0.5", ls="--", lw=1.2, label="the clip's one box"))
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    fig.suptitle(title)
    return fig


def _outline(ax: Axes, box_xyxy: np.ndarray, color: str, line: str, width: float) -> None:
    """A box with a dark rim, so that it is seen on any picture."""
    x0, y0, x1, y1 = box_xyxy
    rim = [withStroke(linewidth=width + 1.2, foreground="0.1")]
    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=color, ls=line, lw=width, path_effects=rim))


def plot_coverage(coverage: np.ndarray, n_refused: int, *, min_coverage: float, ax: Axes | None = None) -> Axes:
    """Draw how many clips show the face in which share of the looked-at frames, and how many are refused.

    Args:
        coverage: Share of the looked-at frames with the main face, in [0, 1], one per usable clip.
        n_refused: Clips without a track: unreadable, or with too little face.
        min_coverage: Least share that is allowed.
    """
    ax = axes(ax, (5.5, 3))
    counts, edges = np.histogram(coverage, bins=20, range=(0, 1))
    usable = ax.bar(edges[:-1], counts, 0.05, align="edge", color=ORANGE)
    refused = ax.bar([-0.175], [n_refused], 0.05, color="white", edgecolor=ACCENT, hatch="////")
    for bars in (usable, refused):
        ax.bar_label(bars, fmt=lambda n: f"{n:.0f}" if n else "", padding=2, fontsize=9)
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
    """
    ax = axes(ax, (6, 0.4 * len(shares) + 1.4))
    shares.plot.barh(stacked=True, width=0.62, color=[SOURCE_LOOKS[name][0] for name in shares], ax=ax)
    for bars in ax.containers:
        ax.bar_label(bars, fmt=lambda share: f"{share:.0%}" if share > 0.08 else "", label_type="center", fontsize=9)
    ax.set(xlim=(0, 1), ylim=(len(shares) - 0.5, -0.5), xlabel="share of the samples", title=title)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.24), ncols=4, columnspacing=1.2)
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
    """
    fig, panels = plt.subplots(3, 1, figsize=(7, 4.2), sharex=True, height_ratios=(2, 2, 1), layout="constrained")
    for k, (ax, axis) in enumerate(zip(panels, "xy", strict=False)):
        found, smoothed, stable = ((box[..., k] + box[..., k + 2]) / 2 for box in (found_xyxy, boxes_xyxy, stable_box))
        _by_source(ax, t_s, found, sources)
        ax.plot(t_s, smoothed, color=ACCENT, lw=1.6, label="smoothed")
        ax.axhline(stable, color=ACCENT, ls="--", lw=1, label="the clip's one box")
        ax.set_ylabel(f"centre {axis} (px)")
    panels[1].invert_yaxis()
    _by_source(panels[2], t_s, np.where(confidence > 0, confidence, np.nan), sources)
    panels[2].set(xlabel="time (s)", ylabel="confidence", ylim=(0, 1.2 * max(confidence.max(), 1e-9)))
    fig.align_ylabels()
    legend_below(fig, panels[0], ncols=5)
    fig.suptitle(title)
    return fig


def _by_source(ax: Axes, t_s: np.ndarray, values: np.ndarray, sources: Sequence[str]) -> None:
    ax.plot(t_s, values, color=NEUTRAL, lw=0.8)
    for name, (color, _, marker) in SOURCE_LOOKS.items():
        chosen = np.array(sources) == name
        if marker and chosen.any():
            ax.plot(t_s[chosen], values[chosen], marker, color=color, label=name)


def plot_crops(crops: np.ndarray, t_s: Sequence[float], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw face crops, RGB uint8 (n, S, S, 3), side by side, each over its time in seconds, (n,)."""
    ax = axes(ax, (max(1.15 * len(crops), 4.0), 2.0))
    pictures_beside(ax, crops, t_s)
    ax.set_title(title, wrap=True)
    return ax


def plot_flow(
    flow_rgb: np.ndarray, wheel_rgb: np.ndarray, max_px: float, *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw coloured flow with its wheel as legend.

    Args:
        flow_rgb: RGB uint8 (H, W, 3), from `helpers.plots.flow.flow_to_rgb`.
        wheel_rgb: RGB uint8 (S, S, 3), from `helpers.plots.flow.flow_wheel`.
        max_px: Length at the wheel's rim, pixels per frame.
    """
    ax = _picture(flow_rgb, title, ax)
    legend = ax.inset_axes([1.14, 0.55, 0.38, 0.38])
    legend.imshow(wheel_rgb)
    legend.axis("off")
    legend.set_title("direction", fontsize=9, loc="center")
    rim = f"rim: {max_px:.2g} px per frame"
    legend.text(0.5, -0.08, rim, fontsize=9, ha="center", va="top", transform=legend.transAxes)
    return ax


def plot_flow_magnitude(
    magnitude_px: np.ndarray, *, max_px: float | None = None, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw how far every pixel moves, (H, W) in pixels per frame; `max_px` ends the scale, by default the largest."""
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
    """
    ax = _picture(crop, title, ax)
    y, x = np.mgrid[step_px // 2 : crop.shape[0] : step_px, step_px // 2 : crop.shape[1] : step_px]
    dx, dy = np.moveaxis(flow[y, x], -1, 0) * stretch
    ax.quiver(x, y, dx, dy, color=ORANGE, angles="xy", scale_units="xy", scale=1, width=0.006)
    scale = "arrows to scale" if stretch == 1 else f"arrows {stretch:g} times the motion"
    ax.text(0.5, -0.02, scale, fontsize=9, ha="center", va="top", transform=ax.transAxes)
    return ax


def _picture(image: np.ndarray, title: str, ax: Axes | None, **look) -> Axes:
    ax = axes(ax, (4, 3))
    ax.imshow(image, **look)
    ax.axis("off")
    ax.set_title(title)
    return ax


def plot_jitter(jitter_px: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw by how much the centre of a clip's box jumps from sample to sample: clips, quartiles, median of each way.

    Args:
        jitter_px: One row per clip, one column per way, in pixels.
    """
    ax = axes(ax, (6, 2.4))
    rows = np.arange(len(jitter_px.columns))
    quarter, middle, three_quarters = jitter_px.quantile([0.25, 0.5, 0.75]).to_numpy()
    ax.barh(rows, three_quarters - quarter, 0.6, quarter, color="0.85")
    ax.vlines(middle, rows - 0.3, rows + 0.3, color=ACCENT, lw=2, zorder=3)
    sns.stripplot(jitter_px, orient="h", jitter=0.18, color=BLUE, alpha=0.5, size=4, ax=ax)
    for row, name in enumerate(jitter_px):
        ax.text(jitter_px[name].max(), row, f"   median {jitter_px[name].median():.1f} px", va="center", fontsize=9)
    largest = jitter_px.max(axis=None)
    ax.set(xlabel="jitter of the box's centre (px per sample)", xlim=(-0.02 * largest - 0.02, 1.32 * largest + 0.1))
    before, after = jitter_px.median().iloc[:2]
    ax.set_title(f"Smoothing leaves {after / max(before, 1e-9):.0%} of the jitter, one box for the clip none")
    return ax


def plot_speeds(t_s: np.ndarray, speeds: Mapping[str, np.ndarray], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the mean speed in crops over time, a line per way of cropping.

    Args:
        t_s: Time of each flow field in seconds, (n,).
        speeds: Name to mean length of the flow, (n,), pixels per frame.
    """
    ax = axes(ax, (7, 2.3))
    for (name, values), color in zip(speeds.items(), (BLUE, RED, GREEN), strict=False):
        ax.plot(t_s, values, color=color, label=f"{name}: mean {values.mean():.1f}")
    top = max(values.max() for values in speeds.values())
    ax.set(xlabel="time (s)", ylabel="speed (px per frame)", ylim=(0, 1.4 * top + 1e-9), title=title)
    ax.legend(loc="upper left", ncols=len(speeds))
    return ax


def plot_decoders(table: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the speed of decoders against the reference, and whether they deliver its frames.

    Args:
        table: As `helpers.parity.parity_table` returns it, index the backend.
    """
    ax = axes(ax, (8, 3))
    table = table.reindex(columns=["times_reference", "exact", "mean_levels", "max_levels"])
    speed = table["times_reference"].astype(float)
    ax.barh(range(len(table)), speed.fillna(0), 0.6, color=np.where(table["exact"].eq(True), BLUE, RED))
    right = 1.12 * max(speed.max(), 1)
    for y, row in enumerate(table.itertuples()):
        ran = np.isfinite(speed.iloc[y])
        text = "cannot be used on this machine"
        if ran:
            frames = "same frames and times" if row.exact else "NOT THE SAME FRAMES"
            text = f"{frames}, pixels differ by {row.mean_levels:.1f} levels, at most {row.max_levels:.0f}"
            ax.text(speed.iloc[y], y, f"{speed.iloc[y]:.2f} ", va="center", ha="right", fontsize=9, color="white")
        ax.text(right, y, text, va="center", fontsize=9, color="k" if ran else "0.4")
    ax.axvline(1, color=ACCENT, ls="--", lw=1)
    ax.set_yticks(range(len(table)), table.index)
    ax.set(xlim=(0, 2.4 * right), ylim=(len(table) - 0.5, -0.5), title=title)
    ax.set_xlabel(f"speed, times {table.index[0]} (measured just now)")
    ax.grid(False)
    return ax


def plot_flow_errors(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the end-point errors of flow methods on known motions as a table of colours, "clean / noisy" in each cell.

    Args:
        table: As `benchmarks.flow.accuracy_table` returns it.
    """
    ax = axes(ax, (6, 3.6))
    warps, methods = table["warp"].unique(), table["method"].unique()
    motion_px = table.groupby("warp")["motion_px"].first()
    clean, noisy = (table.pivot(index="warp", columns="method", values=c).loc[warps, methods] for c in ERRORS)
    texts = clean.map("{:.2f} / ".format) + noisy.map("{:.2f}".format)
    norm = LogNorm(max(clean.min(axis=None), 0.01), max(clean.max(axis=None), 0.02))
    matrix(clean, ax, bar="clean pictures (px)", texts=texts, cmap="viridis", norm=norm)
    ax.set_yticks(np.arange(len(warps)) + 0.5, [f"{warp}\n(mean {motion_px[warp]:.1f} px)" for warp in warps])
    bar = ax.collections[0].colorbar
    ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 5) if norm.vmin <= t <= norm.vmax]
    bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
    bar.minorticks_off()
    ax.set(xlabel="", ylabel="", title="Mean end-point error (px): clean / noisy pictures")
    return ax


def plot_error_against_speed(table: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the mean error of each flow method over all motions against its speed, clean and noisy.

    Args:
        table: As `benchmarks.flow.accuracy_table` returns it.
    """
    ax = axes(ax, (4.4, 3.6))
    means = table.groupby("method", sort=False)[[*ERRORS, "fields_per_s"]].mean()
    ax.vlines(means["fields_per_s"], means["clean_px"], means["noisy_px"], color=NEUTRAL, lw=1)
    for column, label, face in zip(ERRORS, ("clean pictures", "with noise"), (BLUE, "white"), strict=True):
        ax.plot(means["fields_per_s"], means[column], "o", color=BLUE, markerfacecolor=face, label=label)
    tops = means[ERRORS].max(axis=1)
    how = {"textcoords": "offset points", "rotation": 30, "rotation_mode": "anchor", "fontsize": 9}
    for name, speed in means["fields_per_s"].items():
        ax.annotate(name, (speed, tops[name]), (0, 7), **how)
    ax.set(xscale="log", ylim=(0, 1.45 * tops.max()), title=title)
    ax.margins(x=0.3)
    ax.set(xlabel="fields per second, one core", ylabel="mean end-point error (px)")
    ax.legend()
    return ax
