"""Figures: one module per notebook, functions `plot_*(data, *, title="")` that draw arrays and tables.

Everywhere `title` is the finding, the clip, or what is to be seen; an Axes is returned, or a Figure of several. Nothing
here computes a result, shows a figure or writes a file, `save` apart. This module holds the common look and the pieces
that several figures are made of.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.clips import TRAITS
from helpers.files import replacing

# Okabe and Ito's palette: told apart in the common forms of colour blindness.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
BLUE, ORANGE, GREEN, RED, PINK, SKY, YELLOW = PALETTE
TRAIT_COLORS = dict(zip(TRAITS, (BLUE, ORANGE, RED, GREEN, PINK), strict=True))
NEUTRAL, ACCENT = "#9A9A9A", "#333333"


def use_style() -> None:
    """Set the look of all figures: 100 dpi, text of 9 pt and more, light grid, viridis."""
    look = {"figure.dpi": 100, "legend.frameon": False, "axes.titlelocation": "left", "lines.linewidth": 1.5}
    look |= {"axes.edgecolor": "0.6", "grid.color": "0.9", "image.cmap": "viridis"}
    sns.set_theme(context="paper", style="whitegrid", font_scale=1.08, rc=look)


def save(fig: Figure, run_dir: str | Path, name: str) -> Path:
    """Write a figure to `<run_dir>/figures/<name>.png` atomically; return the path.

    The first one of a notebook, named by its two digits, removes all that it has left there before.
    """
    path = Path(run_dir) / "figures" / f"{name}.png"
    _remove_figures(path.parent, name.partition("_")[0])
    with replacing(path) as part:
        fig.savefig(part, dpi=mpl.rcParams["figure.dpi"], bbox_inches="tight")
    return path


@cache  # once a process, which is once a notebook
def _remove_figures(folder: Path, digits: str) -> None:
    for path in folder.glob(f"{digits}_*"):
        path.unlink(missing_ok=True)


def axes(ax: Axes | None, size: tuple[float, float], *, grid: str = "both", **texts) -> Axes:
    """The given axes, or those of a new figure of this size in inches.

    `grid`: lines across "x", "y", "both" or neither, "". `texts`: what `Axes.set` takes, as title, labels and limits.
    """
    if ax is None:
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    ax.set(**texts)
    ax.grid(False)
    if grid:
        ax.grid(True, axis=grid)
    return ax


def panels(rows: int, columns: int, size: tuple[float, float], *, title: str = "", **how) -> tuple[Figure, np.ndarray]:
    """A new figure of this size in inches with a title, and its axes (rows, columns); `how`: see `plt.subplots`."""
    fig, array = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **how)
    fig.suptitle(title)
    return fig, array


def spoken(name: str) -> str:
    """The name of a model or class as it stands on a figure."""
    return name.replace("_", " ")


def say(ax: Axes, words: str) -> Axes:
    """Write in the middle of axes why they are empty; returns them."""
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", wrap=True)
    ax.set(xticks=[], yticks=[])
    return ax


def legend_below(fig: Figure) -> None:
    """Put one legend of all axes below the figure, each label once."""
    pairs = [ax.get_legend_handles_labels() for ax in fig.axes]
    kinds = {label: handle for handles, labels in pairs for handle, label in zip(handles, labels, strict=True)}
    fig.legend(kinds.values(), kinds.keys(), loc="outside lower center", ncols=4)


def matrix(values: pd.DataFrame, ax: Axes, *, bar: str, **look) -> None:
    """Draw a table as coloured cells with a number in each and a labelled colour bar; `look`: of `seaborn.heatmap`."""
    texts = {"annot": values.round(2) + 0.0, "fmt": ".2f", "annot_kws": {"fontsize": 9}}  # no negative zero
    sns.heatmap(values, ax=ax, cbar_kws={"label": bar}, **texts, **look)
    ax.tick_params(axis="y", rotation=0)


def plot_intervals(
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]], what: str, lines: Mapping[str, float], *, title: str = ""
) -> Axes:
    """Draw values with their intervals, by row and kind: `value` and `interval` [low, high], either may be None.

    `what` the values are is the label of their axis; `lines`: values to compare with, by their names. Every row has the
    kinds of the first, at most three.
    """
    ax = axes(None, (7.5, 1.1 + 0.42 * len(rows)), xlabel=what, title=title)
    kinds = list(next(iter(rows.values())))
    for k, (kind, color, form) in enumerate(zip(kinds, (RED, NEUTRAL, GREEN), "os^", strict=False)):
        y = np.arange(len(rows)) + 0.22 * (k - (len(kinds) - 1) / 2)
        ends = [row[kind]["interval"] or [None] * 2 for row in rows.values()]
        value, (low, high) = np.array([row[kind]["value"] for row in rows.values()], float), np.array(ends, float).T
        reach = np.maximum([value - low, high - value], 0)
        ax.errorbar(value, y, xerr=reach, color=color, fmt=form, ms=6, label=kind)
    for (name, value), style in zip(lines.items(), (":", "--", "-."), strict=False):
        ax.axvline(value, color=ACCENT, ls=style, lw=1, label=name)
    ax.set_yticks(range(len(rows)), map(spoken, rows))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def step_of(t_s: np.ndarray) -> float:
    """Seconds from one time to the next, the median."""
    return float(np.median(np.diff(t_s))) if len(t_s) > 1 else 0.5


def time_rows(
    ax: Axes, values: np.ndarray, t_s: np.ndarray, names: Sequence[str], bar: str, *, signed: bool = False
) -> None:
    """Draw values (rows, n) as cells around their times in seconds, (n,), a named row each; colours begin at 0, or are
    centred on it.
    """
    edges = np.append(t_s - step_of(t_s) / 2, t_s[-1] + step_of(t_s) / 2)
    top = np.nanmax(np.abs(values), initial=1e-9)
    look = {"cmap": "RdBu_r", "vmin": -top} if signed else {"cmap": "viridis", "vmin": 0}
    cells = ax.pcolormesh(edges, np.arange(len(values) + 1) - 0.5, values, vmax=top, **look)
    if len(names):
        ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.grid(False)
    ax.figure.colorbar(cells, ax=ax, label=bar, pad=0.01)


def picture_at(ax: Axes, image: np.ndarray, t_s: float, side_s: float, **look) -> mpl.image.AxesImage:
    """Draw a picture `side_s` seconds wide around its time on a time axis."""
    shown = ax.imshow(image, extent=(t_s - side_s / 2, t_s + side_s / 2, 0, 1), aspect="auto", **look)
    ax.set(ylim=(0, 1), yticks=[])
    ax.grid(False)
    return shown
