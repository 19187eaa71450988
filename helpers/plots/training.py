"""Pictures of notebook 06: learning curves, the table of models, predictions beside truth and constant, intervals.

In: the tables and dictionaries of `helpers.training.experiment` and `helpers.training.results`. Out: Figures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from helpers.clips import DISPLAY, LETTERS, TRAITS
from helpers.plots import ACCENT, NEUTRAL, TRAIT_COLORS

MODEL_COLORS = {
    "token_cross_attention": "#D55E00",
    "token_cross_attention_shuffled": "#CC79A7",
    "one_token_cross_attention": "#E69F00",
    "aligned_mlp": "#009E73",
    "concat_mlp": "#56B4E9",
}


def plot_history(history: pd.DataFrame) -> Figure:
    """Draw training and validation error over the epochs, mean over seeds; dots mark the epochs that were kept.

    Args:
        history: Columns model, seed, epoch, loss, val_loss (mean squared errors on the rating scale).
    """
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharex=True, sharey=True, layout="constrained")
    for name, rows in history.groupby("model", sort=False):
        color = MODEL_COLORS.get(name, NEUTRAL)
        for ax, column in zip(axes, ("loss", "val_loss"), strict=True):
            curves = np.sqrt(rows.pivot(index="epoch", columns="seed", values=column))
            ax.plot(curves.index + 1, curves.mean(axis=1), color=color, lw=1.5, label=name.replace("_", " "))
            if column == "val_loss":
                best = curves.idxmin()
                ax.plot(best + 1, [curves.loc[e, s] for s, e in best.items()], "o", color=color, ms=4)
    axes[0].set(xlabel="epoch", ylabel="root mean squared error", title="training clips", yscale="log")
    axes[1].set(xlabel="epoch", title="validation clips, dots: the epochs kept")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter("{x:.2f}")
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return fig


def plot_models(models: Mapping[str, Any], *, targets: Sequence[str] = TRAITS) -> Figure:
    """Draw test R² of every model, one panel per trait: a bar is the mean over seeds, a dot one seed.

    Args:
        models: `models` of `training.json`.
        targets: Traits to draw.
    """
    letters = [dict(zip(TRAITS, LETTERS, strict=True)).get(target, target) for target in targets]
    names = list(models)
    size = 8, max(3.4, 1.2 + 0.3 * len(names))
    fig, axes = plt.subplots(1, len(targets), figsize=size, sharey=True, layout="constrained", squeeze=False)
    y = np.arange(len(names))[::-1]
    for ax, target, letter in zip(axes[0], targets, letters, strict=True):
        values = np.array([_number(models[name]["r2"][letter]) for name in names])
        ax.barh(y, values, color=TRAIT_COLORS.get(target, NEUTRAL), alpha=0.45, height=0.7)
        for row, name in zip(y, names, strict=True):
            seeds = [_number(seed["r2"][letter]) for seed in models[name]["seeds"]]
            ax.plot(seeds, [row] * len(seeds), ".", color=ACCENT, ms=4)
        ax.axvline(0, color=ACCENT, lw=1)
        ax.set_title(DISPLAY.get(target, target).replace(" ", "\n", 1), fontsize=9)
        ax.set(xlim=(-0.6, 1.0), xlabel="test R²")
        ax.set_xticks([-0.5, 0, 0.5, 1], ["−.5", "0", ".5", "1"])
    fig.supxlabel("bars: means over seeds, dots: seeds", fontsize=9)
    axes[0, 0].set_yticks(y, [name.replace("_", " ").replace(" cross", "\ncross") for name in names])
    return fig


def plot_predictions(table: pd.DataFrame, constant: Mapping[str, float]) -> Figure:
    """Draw predictions against truth per trait, with the constant predictor and the line of a perfect one.

    Black squares are means over fifths of the clips by prediction: on the dotted line, the model is calibrated. The
    network's output is not bounded: predictions beyond 0 or 1 are crosses on the edge.

    Args:
        table: Columns trait, truth, prediction: one model, one seed, test clips.
        constant: What the constant predictor says, by trait.
    """
    fig, axes = _panels(table["trait"].unique(), 3.0)
    for ax, (trait, rows) in zip(axes, table.groupby("trait", sort=False), strict=True):
        ax.plot([0, 1], [0, 1], ":", color=ACCENT, lw=1, label="perfect")
        ax.axhline(constant[trait], color=NEUTRAL, lw=1.5, label="constant predictor")
        color, within = TRAIT_COLORS.get(trait, NEUTRAL), rows["prediction"].clip(0, 1)
        beyond = within != rows["prediction"]
        ax.plot(rows["truth"], within.mask(beyond), ".", color=color, ms=4, alpha=0.6)
        if beyond.any():
            ax.plot(rows["truth"][beyond], within[beyond], "x", color=color, ms=5, clip_on=False, label="beyond 0 or 1")
        fifths = rows.groupby(pd.qcut(rows["prediction"].rank(method="first"), min(5, len(rows)), labels=False))
        means = fifths[["truth", "prediction"]].mean()
        ax.plot(means["truth"], means["prediction"], "s", color="k", ms=4, label="means of fifths")
        ours = 1 - np.abs(rows["truth"] - rows["prediction"]).mean()
        floor = 1 - np.abs(rows["truth"] - constant[trait]).mean()
        ax.set_title(f"{_name(trait)}\n1−MAE {ours:.2f}\nconstant {floor:.2f}", fontsize=10)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="rating")
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.set_box_aspect(1)
    axes[0].set_ylabel("prediction")
    kinds = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(kinds.values(), kinds.keys(), loc="outside lower center", ncols=4, frameon=False)
    return fig


def plot_residuals(table: pd.DataFrame, constant: Mapping[str, float], half_width: Mapping[str, float]) -> Figure:
    """Draw the distribution of errors per trait beside the constant's, and how many the 90 % interval holds.

    Args:
        table: Columns trait, truth, prediction: one model, one seed, test clips.
        constant: What the constant predictor says, by trait.
        half_width: Half width of the 90 % interval, by trait; from validation clips.
    """
    fig, axes = _panels(table["trait"].unique(), 2.4)
    bins = np.linspace(-0.6, 0.6, 25)
    for ax, (trait, rows) in zip(axes, table.groupby("trait", sort=False), strict=True):
        error, floor = rows["prediction"] - rows["truth"], constant[trait] - rows["truth"]
        ax.hist(floor.clip(bins[0], bins[-1]), bins, color=NEUTRAL, histtype="step", label="constant predictor")
        ax.hist(error.clip(bins[0], bins[-1]), bins, color=TRAIT_COLORS.get(trait, NEUTRAL), alpha=0.7)
        ax.axvspan(-half_width[trait], half_width[trait], color="k", alpha=0.08, lw=0, label="90 % interval")
        held = (error.abs() <= half_width[trait]).mean()
        ax.set_title(f"{_name(trait)}\n{held:.0%} inside", fontsize=10)
        ax.set(xlim=(-0.6, 0.6), xlabel="prediction − rating")
    axes[0].set_ylabel("test clips")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return fig


def _panels(traits: Sequence[str], height: float) -> tuple[Figure, Sequence[Axes]]:
    fig, axes = plt.subplots(1, len(traits), figsize=(8, height), sharey=True, layout="constrained", squeeze=False)
    return fig, axes[0]


def _name(trait: str) -> str:
    return DISPLAY.get(trait, trait).replace(" (", "\n(")


def _number(value: float | None) -> float:
    return np.nan if value is None else value
