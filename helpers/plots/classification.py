"""Figures of 08: accuracies beside the baselines, confusion, gains."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from helpers.plots import ACCENT, BLUE, NEUTRAL, RED, axes, intervals, legend_below, matrix, named_rows, spoken

BASELINES = ("majority", "bag_of_frames")


def plot_accuracies(models: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw the accuracy of every model of `classification.json` with its interval; the dotted line is the majority."""
    table, floor = pd.DataFrame(models).T, models["majority"]["accuracy"]
    best, y = table["accuracy"].astype(float).idxmax(), np.arange(len(models))
    low, high = zip(*(one["interval"] or (np.nan, np.nan) for one in models.values()), strict=True)
    title = f"{spoken(best)}: {models[best]['accuracy']:.2f}, majority {floor:.2f}"
    label = "accuracy, line: 95 % interval, diamond: mean over damaged clips"
    ax = axes(ax, (7, 0.45 * len(models) + 1), grid="x", xlim=(0, 1), xlabel=label, title=title)
    ax.barh(y, table["accuracy"], 0.65, color=[NEUTRAL if name in BASELINES else BLUE for name in models], alpha=0.5)
    intervals(ax, table["accuracy"], low, high, y, color=ACCENT, fmt="none")
    ax.plot(table["accuracy_corrupted"].astype(float), y, "D", color=RED, ms=5)
    ax.axvline(floor, ls=":", color=ACCENT, lw=1)
    named_rows(ax, [spoken(name) for name in models])
    return ax


def plot_confusion(counts: np.ndarray, classes: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Draw how many clips, int (k, k), of each class (rows) are taken for which; the colour is the share of the row."""
    counts = np.asarray(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [spoken(name).replace(" ", "\n") for name in classes]
    ax = axes(ax, (4.6, 3.8), grid="")
    look = {"cmap": "viridis", "vmin": 0, "vmax": 1, "xticklabels": names, "yticklabels": names}
    matrix(share, ax, bar="share of the true class", texts=counts, **look)
    ax.set(xlabel="predicted", ylabel="true class", title=f"{np.trace(counts)} of {counts.sum()} clips right")
    return ax


def plot_gains(gains: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw what each step, "a - b" of `classification.json`, adds to the accuracy, with paired intervals."""
    texts = {"xlabel": "difference of accuracies, 95 % interval", "title": "what each step adds"}
    ax = axes(ax, (7, 0.6 * len(gains) + 1.2), **texts)
    kinds = {"clean": (BLUE, "clips as they are", -0.15), "corrupted": (RED, "damaged clips", 0.15)}
    for kind, (color, label, shift) in kinds.items():
        steps = [step[kind] for step in gains.values()]
        low, high = zip(*(step["interval"] or (None, None) for step in steps), strict=True)
        y = np.arange(len(steps)) + shift
        intervals(ax, [step["difference"] for step in steps], low, high, y, color=color, ms=6, lw=2, label=label)
    ax.axvline(0, color=ACCENT, lw=1)
    named_rows(ax, [spoken(step).replace(" - ", "\n− ") for step in gains])
    legend_below(ax.figure)
    return ax
