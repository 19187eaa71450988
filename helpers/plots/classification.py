"""Figures of 08: accuracies beside the baselines, confusion, ROC and precision-recall, reliability, gains."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn import metrics

from helpers.plots import ACCENT, BLUE, NEUTRAL, RED, axes, intervals, legend_below, matrix, named_rows, panels, spoken

BASELINES = ("majority", "bag_of_frames")
FEW_CLIPS = 5  # fewer in a bin tell no share


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


def plot_curves(p: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw ROC and precision-recall curve of each class against the others, of probabilities (N, k); dotted: chance."""
    fig, ((roc, pr),) = panels(1, 2, (8, 3.8))
    for k, name in enumerate(classes):
        width = 1.5 + 1.5 * (len(classes) - k)  # curves that coincide all show
        look = {"color": plt.get_cmap("viridis")(0.9 * k / (len(classes) - 1)), "lw": width}
        (fpr, tpr, _), area = metrics.roc_curve(truth == k, p[:, k]), metrics.roc_auc_score(truth == k, p[:, k])
        roc.plot(fpr, tpr, label=f"{spoken(name)} {area:.2f}", **look)
        precision, recall, _ = metrics.precision_recall_curve(truth == k, p[:, k])
        mean = metrics.average_precision_score(truth == k, p[:, k])
        pr.step(recall, precision, where="post", label=f"{spoken(name)} {mean:.2f}", **look)
        pr.axhline(np.mean(truth == k), ls=":", lw=1, color=look["color"])
    roc.plot([0, 1], [0, 1], ":", color=ACCENT, lw=1)
    for ax, corner in ((roc, "lower right"), (pr, "lower left")):
        ax.legend(loc=corner, frameon=True)
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC, area under it")
    pr.set(xlabel="recall", ylabel="precision", title="precision-recall, average precision")
    return fig


def plot_reliability(tables: Mapping[str, pd.DataFrame], errors: Mapping[str, float]) -> Figure:
    """Draw how often models are right against how sure they are, one panel per model; above, how many clips there are.

    Where there are fewer than `FEW_CLIPS`, an open dot stands without a bar.

    Args:
        tables: What `reliability` returns, by model.
        errors: Expected calibration error, by model.
    """
    fig, array = panels(2, len(tables), (8, 3.6), sharex=True, sharey="row", height_ratios=(1, 3))
    for (above, ax), (name, table) in zip(array.T, tables.items(), strict=True):
        width, middle = 0.9 * (table["high"] - table["low"]), (table["low"] + table["high"]) / 2
        above.bar_label(above.bar(middle, table["clips"], width, color=NEUTRAL), fontsize=9)
        above.margins(y=0.3)
        above.set_title(f"{spoken(name)}\ncalibration error {errors[name]:.2f}", fontsize=10)
        shares = table["accuracy"].where(table["clips"] >= FEW_CLIPS)
        ax.plot([0, 1], [0, 1], ":", color=ACCENT, lw=1)
        ax.bar(middle, shares, width, color=BLUE, alpha=0.35)
        ax.plot(table["confidence"], table["accuracy"], "o", color=BLUE, mfc="none", ms=4)
        ax.plot(table["confidence"], shares, "o", color=BLUE, ms=4)
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="probability of the predicted class")
    array[0, 0].set_ylabel("clips")
    array[1, 0].set_ylabel("share right")
    return fig


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
