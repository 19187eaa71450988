"""Figures of 06: learning curves, the table of models, where errors lie, intervals, and dashboards of one training.

In: the tables and dictionaries of `helpers.experiment`, `.results` and `.metrics`; entries of the logs that
`helpers.callbacks` writes.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from helpers.clips import LETTERS, TRAITS, letter_of, name_of
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
from helpers.statistics import number

MODEL_COLORS = {
    "token_cross_attention": RED,
    "token_cross_attention_shuffled": PINK,
    "one_token_cross_attention": ORANGE,
    "aligned_mlp": GREEN,
    "concat_mlp": SKY,
}
LETTER_COLORS = {letter: TRAIT_COLORS[trait] for letter, trait in zip(LETTERS, TRAITS, strict=True)}
PART_COLORS = {"start": ORANGE, "steps": BLUE, "validation": RED, "other": NEUTRAL}
GROUP_MEASURES = {"mae_over_others": "mean absolute error", "bias_over_others": "mean signed error"}
# by the column of `results.as_table`: the title, and what lies above, across and below 0
INTERVALS = {
    "over_constant": ("each model minus the constant", "better", "no better", "worse"),
    "under_token": ("the token model minus each other", "better than it", "not told apart", "worse than it"),
}

Entries = Sequence[Mapping[str, Any]]


def plot_history(history: pd.DataFrame) -> Figure:
    """Draw training and validation error over the epochs, mean over seeds; dots mark the epochs that were kept.

    `history`: columns model, seed, epoch, loss, val_loss (mean squared errors on the rating scale).
    """
    fig, (pair,) = panels(1, 2, (8, 3.2), sharex=True, sharey=True)
    table = history.assign(epoch=history["epoch"] + 1, **np.sqrt(history[["loss", "val_loss"]]))
    look = {"hue": "model", "palette": {name: MODEL_COLORS.get(name, NEUTRAL) for name in table["model"].unique()}}
    for ax, column in zip(pair, ("loss", "val_loss"), strict=True):
        sns.lineplot(table, x="epoch", y=column, errorbar=None, legend=ax is pair[0], ax=ax, **look)
    kept = table.loc[table.groupby(["model", "seed"])["val_loss"].idxmin()]
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

    Black squares are means over fifths of the clips by prediction: on the dotted line, the model is calibrated. The
    network's output is not bounded: predictions beyond 0 or 1 are crosses on the edge.

    Args:
        table: Columns trait, truth, prediction: one model, one seed, test clips.
        constant: What the constant predictor says, by trait.
    """
    fig, row = _by_trait(table, 3.0, "prediction")
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


def plot_calibration(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw mean rating over mean prediction per trait (`metrics.calibration`); on the dotted line it is calibrated."""
    what = {"xlabel": "mean prediction of a fifth of the clips", "ylabel": "their mean rating"}
    ax = axes(ax, (4.2, 4), xlim=(0, 1), ylim=(0, 1), box_aspect=1, **what)
    ax.plot([0, 1], [0, 1], ":", color=ACCENT, lw=1, label="calibrated")
    for trait, rows in table.groupby("trait", sort=False):
        label = f"{letter_of(trait)}, slope {number(rows['slope'].iloc[0])}"
        ax.plot(rows["prediction"], rows["truth"], "o-", ms=4, color=TRAIT_COLORS.get(trait, NEUTRAL), label=label)
    ax.legend()
    return ax


def plot_errors_by_source(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean absolute error of each source, worst first, and in what share of it all its clips err alike."""
    worst = table.index[0] if len(table) else ""
    what = {"xlabel": "source, worst first", "ylabel": "error (ratings: 0 to 1)", "xticks": []}
    ax = axes(ax, (7, 2.6), title=f"{len(table)} sources, the worst is {worst}", **what)
    x = np.arange(len(table))
    ax.bar(x, table["mae"], color=NEUTRAL, width=0.9, label="mean absolute error")
    ax.plot(x, table["bias"], ".", color=RED, label="mean of prediction − rating")
    ax.axhline(0, color=ACCENT, lw=1)
    ax.legend()
    return ax


def plot_comparisons(table: pd.DataFrame) -> Figure:
    """Draw differences of mean R² with 95 % intervals by source: every model minus the constant, and the token model
    minus every other, best on top; `table`: as `results.as_table` makes it.
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


def plot_group_errors(found: Mapping[str, Any]) -> Figure:
    """Draw how the errors of each group (`group_errors`) differ from everyone else's, with 95 % intervals by source."""
    fig, (pair,) = panels(1, 2, (7.5, 0.35 * len(found) + 1.4), sharey=True)
    for ax, (measure, title) in zip(pair, GROUP_MEASURES.items(), strict=True):
        table = pd.DataFrame([errors[measure] for errors in found.values()], dtype=float)
        differs, same = ("differs", RED), ("not told apart", NEUTRAL)
        _by_sign(ax, table["value"], table["low"], table["high"], differs, same, differs)
        ax.set(xlabel="group minus all others (ratings: 0 to 1)", title=title)
    named_rows(pair[0], [f"{group} ({errors['clips']} clips)" for group, errors in found.items()])
    legend_below(fig)
    return fig


def plot_dashboard(logs: Mapping[str, Mapping[str, Entries]], found: Mapping[str, Any]) -> Figure:
    """Draw losses, batches, learning rate, traits, correlations and time on one page.

    Args:
        logs: `metrics`, `times` and `rates`, each as its file holds it.
        found: `metrics`, `constant`, `time` and `verdict` of the test rows.
    """
    fig, ((losses, batches), (rate, together), (traits, shares)) = panels(3, 2, (8, 8.4))
    _losses(losses, pd.DataFrame(logs["metrics"]["epoch"]))
    _batches(batches, pd.DataFrame(logs["metrics"]["batch"]))
    rates = pd.DataFrame(logs["rates"]["epoch"])
    rate.step(rates["epoch"] + 1, rates["learning_rate"], where="mid", color=ACCENT)
    rate.set(xlabel="epoch", ylabel="learning rate", title="learning rate", yscale="log")
    _together(
        together, *(pd.DataFrame(logs[name]["epoch"]).set_index("epoch") for name in ("metrics", "rates", "times"))
    )
    _traits(traits, found["metrics"], found["constant"])
    _time_shares(shares, found["time"]["share"])
    fig.suptitle(textwrap.fill(found["verdict"], 90))
    return fig


def _losses(ax: Axes, epochs: pd.DataFrame) -> None:
    """Training and validation error over the epochs; a dot marks the epoch that was kept."""
    error = np.sqrt(epochs[["loss", "val_loss"]]).set_index(epochs["epoch"] + 1)
    ax.plot(error["loss"], color=BLUE, label="training")
    ax.plot(error["val_loss"], color=RED, label="validation")
    best = error["val_loss"].idxmin()
    ax.plot(best, error["val_loss"][best], "o", color=RED, ms=5)
    ax.set(xlabel="epoch", ylabel="root mean squared error", title="error, dot: the epoch kept")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()


def _batches(ax: Axes, batches: pd.DataFrame) -> None:
    """The mean loss of each epoch so far, by entries with epoch, step, loss."""
    per_epoch = batches["step"].max() + 1
    ax.plot(batches["epoch"] + (batches["step"] + 1) / per_epoch, batches["loss"], color=BLUE, lw=1)
    often = f"batches: after every {batches['step'].iloc[0] + 1} steps"
    ax.set(xlabel="epoch", ylabel="mean squared error so far", title=often, yscale="log")


def _together(ax: Axes, epochs: pd.DataFrame, rates: pd.DataFrame, times: pd.DataFrame) -> None:
    """How what was measured per epoch goes together, as Pearson correlations over the epochs."""
    table = pd.concat([epochs[["loss", "val_loss"]], rates["learning_rate"], times["seconds"]], axis=1)
    names = ["loss", "val.\nloss", "rate", "time"]
    look = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1, "xticklabels": names, "yticklabels": names}
    matrix(table.corr().to_numpy(), ax, bar="correlation over epochs", **look)
    ax.set_title("what goes together")


def _traits(ax: Axes, metrics: Mapping[str, Any], constant: Mapping[str, Any]) -> None:
    """The mean absolute error of each trait, `mae` by letter or name, beside the constant predictor's."""
    names = sorted((name for name in metrics["mae"] if name != "mean"), key=[*LETTERS, *metrics["mae"]].index)
    ours, floor = (np.array([one["mae"][name] for name in names], float) for one in (metrics, constant))
    x = np.arange(len(names))
    ax.bar(x - 0.2, ours, 0.38, color=[LETTER_COLORS.get(name, NEUTRAL) for name in names])
    ax.bar(x + 0.2, floor, 0.38, color="0.85", edgecolor="0.5", hatch="//")
    ax.set_xticks(x, [f"{name}\n{number(metrics['r2'][name])}" for name in names])
    ax.set(xlabel="trait, test R²", ylabel="mean absolute error", title="test rows, hatched: the constant")


def plot_time_dashboard(times: Mapping[str, Entries], analysis: Mapping[str, Any]) -> Figure:
    """Draw epochs, steps and shares of the time on one page, over what is recommended.

    Args:
        times: `epoch` and `execution` entries.
        analysis: What `helpers.callbacks.analyse_time` returned.
    """
    fig, ((per_epoch, epochs_after), (steps, shares)) = panels(2, 2, (8, 6.2))
    epochs, executions = pd.DataFrame(times["epoch"]), pd.DataFrame(times["execution"])
    _epoch_times(per_epoch, epochs)
    _distribution(epochs_after, epochs["seconds"], "s")
    epochs_after.set(xlabel="time per epoch (s)", ylabel="epochs", title="epochs after the first")
    _distribution(steps, 1000 * executions["seconds"] / executions["steps"], "ms")
    steps.set(xlabel="time per step (ms)", ylabel="executions", title="steps")
    _time_shares(shares, analysis["share"])
    lines = [textwrap.fill(f"• {sentence}", 112) for sentence in analysis["recommendations"]]
    fig.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=9)
    fig.suptitle(f"{analysis['epochs']} epochs in {analysis['total_s']:.1f} s, median {analysis['epoch_s']:.2f} s")
    return fig


def _epoch_times(ax: Axes, epochs: pd.DataFrame) -> None:
    """The seconds of each epoch by what they went into: entries with epoch, steps_s, validation_s, other_s."""
    bottom = np.zeros(len(epochs))
    for part in ("steps", "validation", "other"):
        ax.bar(epochs["epoch"] + 1, epochs[f"{part}_s"], 0.9, bottom, color=PART_COLORS[part], label=part, lw=0)
        bottom += epochs[f"{part}_s"]
    ax.set(xlabel="epoch", ylabel="time (s)", title="epochs, the first with its start")
    ax.legend()


def _distribution(ax: Axes, values: pd.Series, unit: str) -> None:
    """A histogram of all values but the first, which holds the start, with their median."""
    later = values[1:] if len(values) > 1 else values
    sns.histplot(later, bins=min(30, max(5, len(later) // 3)), color=BLUE, alpha=0.7, ax=ax)
    ax.axvline(later.median(), color=ACCENT, lw=1.5, label=f"median {later.median():.2f} {unit}")
    ax.legend()


def _time_shares(ax: Axes, share: Mapping[str, float]) -> None:
    """The shares of start, steps, validation and the rest of the time, summing to 1."""
    bars = ax.barh(list(PART_COLORS), [share[part] for part in PART_COLORS], color=list(PART_COLORS.values()))
    ax.bar_label(bars, fmt="{:.0%}", padding=3)
    ax.invert_yaxis()
    ax.set(xlabel="share of the time", xlim=(0, 1.12), title="where the time went")
