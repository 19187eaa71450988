"""Pictures of 08: accuracies beside the baselines, confusion, ROC and precision-recall, reliability, robustness.

In: the dictionaries and tables of `helpers.classification`. Out: Axes, or Figures where there are several.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plots import ACCENT, NEUTRAL

CLASS_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")  # Okabe and Ito
BASELINES = ("majority", "bag_of_frames")
FEW_CLIPS = 5  # fewer in a bin tell no share


def plot_accuracies(models: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw the accuracy of every model with its interval; the dotted line is the majority.

    Args:
        models: `models` of `classification.json`.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.45 * len(models) + 1), layout="constrained")
    y = np.arange(len(models))[::-1]
    for row, (name, scores) in zip(y, models.items(), strict=True):
        color = NEUTRAL if name in BASELINES else CLASS_COLORS[0]
        low, high = scores["interval"]
        ax.barh(row, scores["accuracy"], color=color, alpha=0.5, height=0.65)
        ax.plot([low, high], [row, row], color=ACCENT, lw=1.5)
        if scores["accuracy_corrupted"] is not None:
            ax.plot(scores["accuracy_corrupted"], row, "D", color=CLASS_COLORS[3], ms=5)
    floor = models["majority"]["accuracy"]
    ax.axvline(floor, ls=":", color=ACCENT, lw=1)
    ax.set_yticks(y, [_spoken(name) for name in models])
    ax.set(xlim=(0, 1), xlabel="accuracy, line: 95 % interval, diamond: mean over damaged clips")
    best = max(models, key=lambda name: models[name]["accuracy"])
    ax.set_title(f"{_spoken(best)}: {models[best]['accuracy']:.2f}, majority {floor:.2f}")
    ax.grid(axis="y", visible=False)
    return ax


def plot_confusion(counts: np.ndarray, classes: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Draw how many clips of each class (rows) are taken for which (columns); the colour is the share of the row.

    Args:
        counts: Clips, int (k, k).
        classes: Names of the k classes.
    """
    counts = np.asarray(counts)
    if ax is None:
        _, ax = plt.subplots(figsize=(4.6, 3.8), layout="constrained")
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = ax.imshow(share, cmap="viridis", vmin=0, vmax=1)
    for (i, j), n in np.ndenumerate(counts):
        ax.text(j, i, n, ha="center", va="center", color="k" if share[i, j] > 0.6 else "w")
    names = [_spoken(name).replace(" ", "\n") for name in classes]
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="predicted", ylabel="true class")
    ax.set_title(f"{np.trace(counts)} of {counts.sum()} clips right")
    ax.grid(visible=False)
    ax.figure.colorbar(image, ax=ax, label="share of the true class")
    return ax


def plot_curves(curves: Mapping[str, Mapping[str, np.ndarray]], table: pd.DataFrame) -> Figure:
    """Draw the ROC and the precision-recall curve of each class against the others; dotted: chance.

    Args:
        curves: What `class_curves` returns.
        table: What `per_class` returns: `roc_auc`, `average_precision` and `clips` by class.
    """
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.6), sharex=True, sharey=True, layout="constrained")
    for k, (color, (name, points)) in enumerate(zip(_colors(len(curves)), curves.items(), strict=True)):
        row, label = table.loc[name], _spoken(name)
        width = 1.5 + 1.5 * (len(curves) - k)  # the first ones show where curves coincide
        axes[0].plot(points["fpr"], points["tpr"], color=color, lw=width, label=f"{label} {row['roc_auc']:.2f}")
        precision = f"{label} {row['average_precision']:.2f}"
        axes[1].step(points["recall"], points["precision"], where="post", color=color, lw=width, label=precision)
        axes[1].axhline(row["clips"] / table["clips"].sum(), ls=":", lw=1, color=color)
    axes[0].plot([0, 1], [0, 1], ":", color=ACCENT, lw=1)
    axes[0].set(xlabel="false positive rate", ylabel="true positive rate", title="ROC, area under it")
    axes[1].set(xlabel="recall", ylabel="precision", title="precision-recall, average precision")
    for ax in axes:
        ax.set(xlim=(-0.02, 1.02), ylim=(0, 1.02))
        ax.yaxis.set_tick_params(labelleft=True)
        ax.legend(loc="lower right" if ax is axes[0] else "lower left", frameon=True)
    return fig


def plot_reliability(tables: Mapping[str, pd.DataFrame], errors: Mapping[str, float]) -> Figure:
    """Draw how often models are right against how sure they are, one panel per model; above, how many clips there are.

    Where there are fewer than `FEW_CLIPS`, an open dot stands without a bar.

    Args:
        tables: What `reliability` returns, by model.
        errors: Expected calibration error, by model.
    """
    size = {"figsize": (8, 3.6), "layout": "constrained", "squeeze": False, "height_ratios": (1, 3)}
    fig, axes = plt.subplots(2, len(tables), sharex=True, sharey="row", **size)
    for (above, ax), (name, table) in zip(axes.T, tables.items(), strict=True):
        width = table["high"] - table["low"]
        middle = (table["low"] + table["high"]) / 2
        counts = above.bar(middle, table["clips"], width=0.9 * width, color=NEUTRAL)
        above.bar_label(counts, [str(n) if n else "" for n in table["clips"]], fontsize=9)
        above.margins(y=0.3)
        enough = table["clips"] >= FEW_CLIPS
        ax.plot([0, 1], [0, 1], ":", color=ACCENT, lw=1)
        ax.bar(middle, table["accuracy"].where(enough), width=0.9 * width, color=CLASS_COLORS[0], alpha=0.35)
        ax.plot(table["confidence"], table["accuracy"], "o", color=CLASS_COLORS[0], mfc="none", ms=4)
        ax.plot(table["confidence"], table["accuracy"].where(enough), "o", color=CLASS_COLORS[0], ms=4)
        above.set_title(f"{_spoken(name)}\ncalibration error {errors[name]:.2f}", fontsize=10)
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="probability of the predicted class")
    axes[0, 0].set_ylabel("clips")
    axes[1, 0].set_ylabel("share right")
    return fig


def plot_robustness(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw accuracies as a table of colours: models in rows, the clips as they are and damaged in columns.

    Args:
        table: What `robustness` returns.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 0.45 * len(table) + 1.4), layout="constrained")
    image = ax.imshow(table.to_numpy(), cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(table.to_numpy()):
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", color="k" if value > 0.6 else "w")
    ax.set_xticks(range(table.shape[1]), [_spoken(name) for name in table.columns])
    ax.set_yticks(range(len(table)), [_spoken(name) for name in table.index])
    ax.set(xlabel="the clips")
    ax.set_title("accuracy on clips as they are, and damaged")
    ax.grid(visible=False)
    ax.figure.colorbar(image, ax=ax, label="accuracy")
    return ax


def plot_gains(gains: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw what each step adds to the accuracy, with paired intervals.

    Args:
        gains: `gains` of `classification.json`: by "a - b", by kind of clips, `difference` and `interval`.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.6 * len(gains) + 1.2), layout="constrained")
    colors = {"clean": CLASS_COLORS[0], "corrupted": CLASS_COLORS[3]}
    for row, kinds in enumerate(gains.values()):
        for kind, gain in kinds.items():
            y = -row + (0.15 if kind == "clean" else -0.15)
            ax.plot(gain["interval"], [y, y], color=colors[kind], lw=2)
            ax.plot(
                gain["difference"],
                y,
                "o",
                color=colors[kind],
                ms=6,
                label={"clean": "clips as they are", "corrupted": "damaged clips"}[kind],
            )
    ax.axvline(0, color=ACCENT, lw=1)
    names = [f"{_spoken(step.split(' - ')[0])}\n− {_spoken(step.split(' - ')[1])}" for step in gains]
    ax.set_yticks(-np.arange(len(gains)), names)
    ax.set(xlabel="difference of accuracies, 95 % interval", ylim=(0.6 - len(gains), 0.6))
    ax.set_title("what each step adds")
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))  # each kind once
    ax.legend(handles.values(), handles.keys(), frameon=True, loc="best")
    return ax


def _colors(n: int) -> list:
    """A colour per class: those told apart in colour blindness, or a colour map's where there are more classes."""
    if n <= len(CLASS_COLORS):
        return list(CLASS_COLORS[:n])
    return list(plt.get_cmap("viridis")(np.linspace(0, 0.95, n)))


def _spoken(name: str) -> str:
    return name.replace("_", " ")
