"""Figures of 06: learning curves, the table of models, where errors lie, intervals, and one training from close by."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from helpers.clips import TRAITS, letter_of, name_of
from helpers.plots import (
    ACCENT,
    BLUE,
    GREEN,
    NEUTRAL,
    ORANGE,
    PINK,
    RED,
    SKY,
    TRAIT_COLORS,
    axes,
    intervals,
    legend_below,
    matrix,
    named_rows,
    panels,
    say,
    spoken,
)

MODEL_COLORS = {
    "token_cross_attention": RED,
    "token_cross_attention_shuffled": PINK,
    "one_token_cross_attention": ORANGE,
    "aligned_mlp": GREEN,
    "concat_mlp": SKY,
}
PART_COLORS = {"steps": BLUE, "validation": RED, "other": NEUTRAL}
# by the column of `report.as_table`: the title, and what lies above, across and below 0
INTERVALS = {
    "over_constant": ("each model minus the constant", "better", "no better", "worse"),
    "under_token": ("the token model minus each other", "better than it", "not told apart", "worse than it"),
}


def plot_history(history: pd.DataFrame) -> Figure:
    """Draw training and validation error over the epochs, mean over seeds; dots mark the epochs that were kept.

    `history`: columns model, seed, epoch, loss, val_loss (mean squared errors on the rating scale).
    """
    fig, (pair,) = panels(1, 2, (8, 3.2), sharex=True, sharey=True)
    table = history.assign(epoch=history["epoch"] + 1, **np.sqrt(history[["loss", "val_loss"]]))
    look = {"hue": "model", "palette": {name: MODEL_COLORS.get(name, NEUTRAL) for name in table["model"].unique()}}
    for ax, column in zip(pair, ("loss", "val_loss"), strict=True):
        sns.lineplot(table, x="epoch", y=column, errorbar=None, legend=ax is pair[0], ax=ax, **look)
    kept = table.loc[table.fillna({"val_loss": np.inf}).groupby(["model", "seed"])["val_loss"].idxmin()]
    sns.scatterplot(kept, x="epoch", y="val_loss", s=20, legend=False, ax=pair[1], zorder=3, **look)
    pair[0].set(ylabel="root mean squared error", title="training clips", yscale="log")
    pair[1].set(title="validation clips, dots: the epochs kept")
    pair[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    pair[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    pair[0].yaxis.set_major_formatter("{x:.2f}")
    pair[0].yaxis.set_minor_formatter(NullFormatter())
    handles, names = pair[0].get_legend_handles_labels()
    pair[0].get_legend().remove()
    fig.legend(handles, map(spoken, names), loc="outside lower center", ncols=3)
    return fig


def plot_models(models: Mapping[str, Any], *, targets: Sequence[str] = TRAITS) -> Figure:
    """Draw test R² of every model of `training.json`, one panel per trait: a bar is the mean over seeds, a dot one."""
    names = [spoken(name).replace(" cross", "\ncross") for name in models]
    fig, (row,) = panels(1, len(targets), (8, max(3.4, 1.2 + 0.3 * len(names))), sharey=True)
    for ax, target in zip(row, targets, strict=True):
        letter = letter_of(target)
        values = np.array([model["r2"][letter] for model in models.values()], float)
        sns.barplot(x=values, y=names, color=TRAIT_COLORS.get(target, NEUTRAL), alpha=0.45, saturation=1, ax=ax)
        seeds = [(name, s["r2"][letter]) for name, m in zip(names, models.values(), strict=True) for s in m["seeds"]]
        dots = pd.DataFrame(seeds, columns=["model", "r2"]).astype({"r2": float})
        sns.stripplot(dots, x="r2", y="model", color=ACCENT, size=3, jitter=False, ax=ax)
        ax.axvline(0, color=ACCENT, lw=1)
        ax.set_title(name_of(target).replace(" ", "\n", 1), fontsize=9)
        ax.set(xlim=(-0.6, 1.0), xlabel="test R²", ylabel="")
        ax.set_xticks([-0.5, 0, 0.5, 1], ["−.5", "0", ".5", "1"])
    fig.supxlabel("bars: means over seeds, dots: seeds", fontsize=9)
    return fig


def plot_predictions(table: pd.DataFrame, constant: Mapping[str, float]) -> Figure:
    """Draw predictions against truth per trait, with the constant predictor and the line of a perfect one.

    Black squares are means over fifths of the clips by prediction: on the dotted line the model is calibrated. The
    network's output is not bounded: predictions beyond 0 or 1 are crosses on the edge.

    Args:
        table: Columns trait, truth, prediction: one model, one seed, test clips.
        constant: What the constant predictor says, by trait.
    """
    fig, row = _by_trait(table, 3.2, "prediction")
    for ax, (trait, rows) in zip(row, table.groupby("trait", sort=False), strict=True):
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
        ax.set_title(f"{_in_brackets(trait)}\n1−MAE {ours:.2f}\nconstant {floor:.2f}", fontsize=10)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="rating")
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.set_box_aspect(1)
    legend_below(fig)
    return fig


def plot_residuals(table: pd.DataFrame, constant: Mapping[str, float], half_width: Mapping[str, float]) -> Figure:
    """Draw the distribution of errors per trait beside the constant's, and how many the 90 % interval holds.

    `table`, `constant`: as for `plot_predictions`; `half_width`: of the interval, by trait, from validation clips.
    """
    fig, row = _by_trait(table, 2.4, "test clips")
    bins = np.linspace(-0.6, 0.6, 25)
    for ax, (trait, rows) in zip(row, table.groupby("trait", sort=False), strict=True):
        error, floor = rows["prediction"] - rows["truth"], constant[trait] - rows["truth"]
        ax.hist(floor.clip(bins[0], bins[-1]), bins, color=NEUTRAL, histtype="step", label="constant predictor")
        ax.hist(error.clip(bins[0], bins[-1]), bins, color=TRAIT_COLORS.get(trait, NEUTRAL), alpha=0.7)
        ax.axvspan(-half_width[trait], half_width[trait], color="k", alpha=0.08, lw=0, label="90 % interval")
        held = (error.abs() <= half_width[trait]).mean()
        ax.set_title(f"{_in_brackets(trait)}\n{held:.0%} inside", fontsize=10)
        ax.set(xlim=(-0.6, 0.6), xlabel="prediction − rating")
    legend_below(fig)
    return fig


def _by_trait(table: pd.DataFrame, height: float, ylabel: str) -> tuple[Figure, Sequence[Axes]]:
    fig, (row,) = panels(1, table["trait"].nunique(), (8, height), sharey=True)
    row[0].set_ylabel(ylabel)
    return fig, row


def _in_brackets(trait: str) -> str:
    return name_of(trait).replace(" (", "\n(")


def plot_comparisons(table: pd.DataFrame) -> Figure:
    """Draw differences of mean R² with 95 % intervals by source: every model minus the constant, and the token model
    minus every other, best on top; `table`: as `report.as_table` makes it.
    """
    height = 0.24 * max(table["over_constant"].notna().sum(), 2) + 1.1
    fig, array = panels(2, 1, (7.5, 2 * height))
    for ax, (column, (title, *words)) in zip(array[:, 0], INTERVALS.items(), strict=True):
        rows = table.dropna(subset=[column]).sort_values(column, ascending=False)
        axes(ax, (), title=title, xlabel="difference of mean test R², 95 % interval by source")
        if not len(rows):
            say(ax, "R² is not defined for these test clips")
            continue
        ends = (rows[name] for name in (column, f"{column}_low", f"{column}_high"))
        _by_sign(ax, *ends, *zip(words, (BLUE, NEUTRAL, RED), strict=True))
        named_rows(ax, [spoken(name) for name in rows.index])
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def _by_sign(ax: Axes, value: pd.Series, low: pd.Series, high: pd.Series, *looks: tuple[str, str]) -> None:
    """Draw intervals, a row each, with label and colour of those above 0, across 0 and below it."""
    y, kinds = np.arange(len(value)), (low > 0, (low <= 0) & (high >= 0), high < 0, low.isna() & value.notna())
    for chosen, (label, color) in zip(kinds, (*looks, ("too few sources for an interval", SKY)), strict=True):
        if chosen.any():
            intervals(ax, value[chosen], low[chosen], high[chosen], y[chosen], color=color, label=label)
    ax.axvline(0, color=ACCENT, lw=1)


def plot_dashboard(logs: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draw one training from close by: errors (a dot on the epoch kept), the loss within epochs, the learning rate,
    what goes together over the epochs, and the time of epochs and steps; `logs`: see `callbacks.read_logs`.
    """
    names = ("metrics", "rates", "times")
    epochs, rates, times = (pd.DataFrame(logs[name]["epoch"]).set_index("epoch") for name in names)
    batches, steps = pd.DataFrame(logs["metrics"]["batch"]), pd.DataFrame(logs["times"]["execution"])
    fig, array = panels(3, 2, (8, 8.4), title=title)
    losses, within, rate, together, spent, per_step = array.flat
    error = np.sqrt(epochs[["loss", "val_loss"]]).set_axis(epochs.index + 1)
    error.columns = ["training", "validation"]
    error.plot(ax=losses, color=[BLUE, RED])
    best = error["validation"].fillna(np.inf).idxmin()  # a diverged training has none
    losses.plot(best, error["validation"][best], "o", color=RED, ms=5)
    losses.set(xlabel="epoch", ylabel="root mean squared error", title="error, dot: the epoch kept")
    share = (batches["step"] + 1) / (batches["step"].max() + 1)
    within.plot(batches["epoch"] + share, batches["loss"], color=BLUE, lw=1)
    often = f"batches: after every {batches['step'].iloc[0] + 1} steps"
    within.set(xlabel="epoch", ylabel="mean squared error so far", title=often, yscale="log")
    rate.step(rates.index + 1, rates["learning_rate"], where="mid", color=ACCENT)
    rate.set(xlabel="epoch", ylabel="learning rate", title="learning rate", yscale="log")
    table = pd.concat([epochs[["loss", "val_loss"]], rates["learning_rate"], times["seconds"]], axis=1).corr()
    table = table.set_axis(names := ["loss", "val.\nloss", "rate", "time"]).set_axis(names, axis=1)
    matrix(table, together, bar="correlation over epochs", cmap="RdBu_r", vmin=-1, vmax=1)
    together.set_title("what goes together")
    _times(spent, per_step, times, steps, logs["analysis"])
    return fig


def _times(spent: Axes, per_step: Axes, epochs: pd.DataFrame, steps: pd.DataFrame, found: Mapping[str, Any]) -> None:
    """The seconds of each epoch by what they went into, and the steps but the first, which holds the start."""
    bottom = np.zeros(len(epochs))
    for part, color in PART_COLORS.items():
        label = f"{part} {found['share'][part]:.0%}"
        spent.bar(epochs.index + 1, epochs[f"{part}_s"], 0.9, bottom, color=color, label=label, lw=0)
        bottom += epochs[f"{part}_s"]
    title = f"epochs: {found['total_s']:.1f} s, start {found['share']['start']:.0%}"
    spent.set(xlabel="epoch", ylabel="time (s)", title=title)
    spent.legend()
    ms = 1000 * steps["seconds"] / steps["steps"]
    sns.histplot(ms[1:] if len(ms) > 1 else ms, bins=20, color=BLUE, alpha=0.7, ax=per_step)
    per_step.axvline(found["step_ms"], color=ACCENT, lw=1.5, label=f"median {found['step_ms']:.2f} ms")
    per_step.set(xlabel="time per step (ms)", ylabel="executions", title="steps")
    per_step.legend()
