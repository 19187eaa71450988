"""Figures of 08: accuracies beside the baselines, confusion, ROC and precision-recall, reliability, gains.

In: the dictionaries and tables of `helpers.classification`. Out: Axes, or Figures where there are several.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plots import ACCENT, BLUE, NEUTRAL, PALETTE, RED, axes, intervals, legend_below, matrix, spoken

BASELINES = ("majority", "bag_of_frames")
FEW_CLIPS = 5  # fewer in a bin tell no share


def plot_accuracies(models: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw the accuracy of every model of `classification.json` with its interval; the dotted line is the majority."""
    ax = axes(ax, (7, 0.45 * len(models) + 1))
    y = np.arange(len(models))[::-1]
    table = pd.DataFrame(models).T
    table[["low", "high"]] = [ends or [np.nan] * 2 for ends in table["interval"]]
    ax.barh(y, table["accuracy"], 0.65, color=[NEUTRAL if name in BASELINES else BLUE for name in models], alpha=0.5)
    intervals(ax, table["accuracy"], table["low"], table["high"], y, color=ACCENT, fmt="none")
    ax.plot(table["accuracy_corrupted"].astype(float), y, "D", color=RED, ms=5)
    floor, best = models["majority"]["accuracy"], table["accuracy"].astype(float).idxmax()
    ax.axvline(floor, ls=":", color=ACCENT, lw=1)
    ax.set_yticks(y, [spoken(name) for name in models])
    ax.set(xlim=(0, 1), xlabel="accuracy, line: 95 % interval, diamond: mean over damaged clips")
    ax.set_title(f"{spoken(best)}: {models[best]['accuracy']:.2f}, majority {floor:.2f}")
    ax.grid(axis="y", visible=False)
    return ax


def plot_confusion(counts: np.ndarray, classes: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Draw how many clips of each class (rows) are taken for which (columns); the colour is the share of the row.

    Args:
        counts: Clips, int (k, k).
        classes: Names of the k classes.
    """
    counts = np.asarray(counts)
    ax = axes(ax, (4.6, 3.8))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [spoken(name).replace(" ", "\n") for name in classes]
    look = {"cmap": "viridis", "vmin": 0, "vmax": 1, "xticklabels": names, "yticklabels": names}
    matrix(share, ax, bar="share of the true class", texts=counts, **look)
    ax.set(xlabel="predicted", ylabel="true class", title=f"{np.trace(counts)} of {counts.sum()} clips right")
    return ax


def plot_curves(curves: Mapping[str, Mapping[str, np.ndarray]], table: pd.DataFrame) -> Figure:
    """Draw the ROC and the precision-recall curve of each class against the others; dotted: chance.

    Args:
        curves: What `class_curves` returns.
        table: What `per_class` returns: `roc_auc`, `average_precision` and `clips` by class.
    """
    fig, (roc, pr) = plt.subplots(1, 2, figsize=(8, 3.6), sharex=True, layout="constrained")
    for k, (color, (name, points)) in enumerate(zip(_colors(len(curves)), curves.items(), strict=True)):
        row = table.loc[name]
        look = {"color": color, "lw": 1.5 + 1.5 * (len(curves) - k)}  # the first ones show where curves coincide
        precision = f"{spoken(name)} {row['average_precision']:.2f}"
        roc.plot(points["fpr"], points["tpr"], label=f"{spoken(name)} {row['roc_auc']:.2f}", **look)
        pr.step(points["recall"], points["precision"], where="post", label=precision, **look)
        pr.axhline(row["clips"] / table["clips"].sum(), ls=":", lw=1, color=color)
    roc.plot([0, 1], [0, 1], ":", color=ACCENT, lw=1)
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC, area under it")
    pr.set(xlabel="recall", ylabel="precision", title="precision-recall, average precision")
    for ax, corner in ((roc, "lower right"), (pr, "lower left")):
        ax.set(xlim=(-0.02, 1.02), ylim=(0, 1.02))
        ax.legend(loc=corner, frameon=True)
    return fig


def plot_reliability(tables: Mapping[str, pd.DataFrame], errors: Mapping[str, float]) -> Figure:
    """Draw how often models are right against how sure they are, one panel per model; above, how many clips there are.

    Where there are fewer than `FEW_CLIPS`, an open dot stands without a bar.

    Args:
        tables: What `reliability` returns, by model.
        errors: Expected calibration error, by model.
    """
    size = {"figsize": (8, 3.6), "layout": "constrained", "squeeze": False, "height_ratios": (1, 3)}
    fig, panels = plt.subplots(2, len(tables), sharex=True, sharey="row", **size)
    for (above, ax), (name, table) in zip(panels.T, tables.items(), strict=True):
        width, middle = 0.9 * (table["high"] - table["low"]), (table["low"] + table["high"]) / 2
        counts = above.bar(middle, table["clips"], width, color=NEUTRAL)
        above.bar_label(counts, [str(n) if n else "" for n in table["clips"]], fontsize=9)
        above.margins(y=0.3)
        shares = table["accuracy"].where(table["clips"] >= FEW_CLIPS)
        ax.plot([0, 1], [0, 1], ":", color=ACCENT, lw=1)
        ax.bar(middle, shares, width, color=BLUE, alpha=0.35)
        ax.plot(table["confidence"], table["accuracy"], "o", color=BLUE, mfc="none", ms=4)
        ax.plot(table["confidence"], shares, "o", color=BLUE, ms=4)
        above.set_title(f"{spoken(name)}\ncalibration error {errors[name]:.2f}", fontsize=10)
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="probability of the predicted class")
    panels[0, 0].set_ylabel("clips")
    panels[1, 0].set_ylabel("share right")
    return fig


def plot_gains(gains: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw what each step adds to the accuracy, with paired intervals.

    Args:
        gains: `gains` of `classification.json`: by "a - b", by kind of clips, `difference` and `interval`.
    """
    ax = axes(ax, (7, 0.6 * len(gains) + 1.2))
    kinds = {"clean": (BLUE, "clips as they are", -0.15), "corrupted": (RED, "damaged clips", 0.15)}
    for kind, (color, label, shift) in kinds.items():
        rows = [(row + shift, step[kind]) for row, step in enumerate(gains.values()) if kind in step]
        if rows:
            low, high = zip(*(gain["interval"] or [None] * 2 for _, gain in rows), strict=True)
            differences, y = [gain["difference"] for _, gain in rows], [y for y, _ in rows]
            intervals(ax, differences, low, high, y, color=color, ms=6, lw=2, label=label)
    ax.axvline(0, color=ACCENT, lw=1)
    ax.set_yticks(range(len(gains)), [spoken(step).replace(" - ", "\n− ") for step in gains])
    ax.set(xlabel="difference of accuracies, 95 % interval", ylim=(len(gains) - 0.4, -0.6))
    ax.set_title("what each step adds")
    legend_below(ax.figure)
    return ax


def _colors(n: int) -> list:
    """A colour per class: those told apart in colour blindness, or a colour map's where there are more classes."""
    return list(PALETTE[:n] if n <= len(PALETTE) else plt.get_cmap("viridis")(np.linspace(0, 0.95, n)))
