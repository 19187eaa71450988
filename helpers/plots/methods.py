"""Figures of 02 about its methods: what steadying the box changes, whether decoders agree, how wrong flow methods are.

In: pixels, and tables as `helpers.video` and `benchmarks.flow` make them. Out: Axes.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from helpers.plots import ACCENT, NEUTRAL

ERRORS = ("clean_px", "noisy_px")  # columns of `benchmarks.flow.accuracy_table`
BLUE, RED = "#0072B2", "#D55E00"


def plot_jitter(jitter_px: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw by how much the centre of a clip's box jumps from sample to sample: clips, quartiles, median of each way.

    Args:
        jitter_px: One row per clip, one column per way, in pixels.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 2.4), layout="constrained")
    rows = np.arange(len(jitter_px.columns))
    quarter, middle, three_quarters = jitter_px.quantile([0.25, 0.5, 0.75]).to_numpy()
    ax.hlines(rows, quarter, three_quarters, color="0.8", lw=16, zorder=1)
    ax.vlines(middle, rows - 0.3, rows + 0.3, color=ACCENT, lw=2, zorder=3)
    spread = np.linspace(-0.18, 0.18, len(jitter_px))
    for row, name in zip(rows, jitter_px, strict=True):
        ax.plot(jitter_px[name], row + spread, ".", color=BLUE, alpha=0.5, ms=5)
        ax.text(jitter_px[name].max(), row, f"   median {jitter_px[name].median():.1f} px", va="center", fontsize=9)
    ax.set_yticks(rows, jitter_px.columns)
    ax.set(xlabel="jitter of the box's centre (px per sample)", ylim=(len(rows) - 0.5, -0.5))
    ax.set_xlim(-0.02 * jitter_px.max(axis=None) - 0.02, 1.32 * jitter_px.max(axis=None) + 0.1)
    ax.grid(axis="y", visible=False)
    before, after = jitter_px.median().iloc[:2]
    ax.set_title(f"Smoothing leaves {after / max(before, 1e-9):.0%} of the jitter, one box for the clip none")
    return ax


def plot_speeds(t_s: np.ndarray, speeds: Mapping[str, np.ndarray], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the mean speed in crops over time, a line per way of cropping.

    Args:
        t_s: Time of each flow field in seconds, (n,).
        speeds: Name to mean length of the flow, (n,), pixels per frame.
        title: Finding.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 2.3), layout="constrained")
    for (name, values), color in zip(speeds.items(), (BLUE, RED, "#009E73"), strict=False):
        ax.plot(t_s, values, color=color, label=f"{name}: mean {values.mean():.1f}")
    top = max(values.max() for values in speeds.values())
    ax.set(xlabel="time (s)", ylabel="speed (px per frame)", ylim=(0, 1.4 * top + 1e-9), title=title)
    ax.legend(loc="upper left", ncols=len(speeds), frameon=False)
    return ax


def plot_decoders(table: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the speed of decoders against the reference, and whether they deliver its frames.

    Args:
        table: As `helpers.video.parity_table` returns it, index the backend.
        title: Finding.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 3), layout="constrained")
    table = table.reindex(columns=["times_reference", "exact", "mean_levels", "max_levels"])
    speed = table["times_reference"].astype(float)
    colors = np.where(table["exact"].eq(True), BLUE, RED)
    ax.barh(range(len(table)), speed.fillna(0), height=0.6, color=colors)
    right = 1.12 * max(speed.max(), 1)
    for y, row in enumerate(table.itertuples()):
        text = "cannot be used on this machine"
        if np.isfinite(speed.iloc[y]):
            frames = "same frames and times" if row.exact else "NOT THE SAME FRAMES"
            text = f"{frames}, pixels differ by {row.mean_levels:.1f} levels, at most {row.max_levels:.0f}"
            ax.text(speed.iloc[y], y, f"{speed.iloc[y]:.2f} ", va="center", ha="right", fontsize=9, color="white")
        ax.text(right, y, text, va="center", fontsize=9, color="k" if np.isfinite(speed.iloc[y]) else "0.4")
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
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    warps, methods = table["warp"].unique(), table["method"].unique()
    motion_px = table.groupby("warp")["motion_px"].first()
    clean, noisy = (table.pivot(index="warp", columns="method", values=c).loc[warps, methods] for c in ERRORS)
    norm = LogNorm(max(clean.min(axis=None), 0.01), max(clean.max(axis=None), 0.02))
    image = ax.imshow(clean, cmap="viridis", norm=norm, aspect="auto")
    for (row, column), error in np.ndenumerate(clean.to_numpy()):
        color = "k" if norm(error) > 0.55 else "w"
        text = f"{error:.2f} / {noisy.iloc[row, column]:.2f}"
        ax.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
    ax.set_xticks(range(len(methods)), methods)
    ax.set_yticks(range(len(warps)), [f"{warp}\n(mean {motion_px[warp]:.1f} px)" for warp in warps])
    ax.grid(False)
    ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 5) if norm.vmin <= t <= norm.vmax]
    bar = ax.figure.colorbar(image, ax=ax, label="clean pictures (px)")
    bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks], minor=False)
    bar.minorticks_off()
    ax.set_title("Mean end-point error (px): clean / noisy pictures")
    return ax


def plot_error_against_speed(table: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the mean error of each flow method over all motions against its speed, clean and noisy.

    Args:
        table: As `benchmarks.flow.accuracy_table` returns it.
        title: Finding.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(4.4, 3.6), layout="constrained")
    means = table.groupby("method", sort=False)[[*ERRORS, "fields_per_s"]].mean()
    ax.vlines(means["fields_per_s"], means[ERRORS[0]], means[ERRORS[1]], color=NEUTRAL, lw=1)
    for column, label, face in zip(ERRORS, ("clean pictures", "with noise"), (BLUE, "white"), strict=True):
        ax.plot(means["fields_per_s"], means[column], "o", color=BLUE, markerfacecolor=face, label=label)
    for name, row in means.iterrows():
        top = max(row[ERRORS[0]], row[ERRORS[1]])
        how = {"textcoords": "offset points", "rotation": 30, "rotation_mode": "anchor", "fontsize": 9}
        ax.annotate(name, (row["fields_per_s"], top), (0, 7), **how)
    ax.set(xscale="log", ylim=(0, 1.45 * means[list(ERRORS)].max(axis=None)), title=title)
    ax.margins(x=0.3)
    ax.set(xlabel="fields per second, one core", ylabel="mean end-point error (px)")
    ax.legend(frameon=False)
    return ax
