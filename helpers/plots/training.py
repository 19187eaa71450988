"""Figures of 06: learning curves, the table of models, where errors lie, intervals, and dashboards of one training.

In: the tables and dictionaries of `helpers.experiment`, `.results` and `.metrics`; entries of the logs that
`helpers.callbacks` writes. Out: Axes, or Figures.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from helpers.clips import LETTERS, TRAITS
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
    letter_of,
    matrix,
    name_of,
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

Entries = Sequence[Mapping[str, Any]]


class Wording(NamedTuple):
    """What a panel of intervals is called, and what those above, across and below 0 are."""

    title: str
    better: str
    same: str
    worse: str


INTERVALS = {
    "over_constant": Wording("each model minus the constant", "better", "no better", "worse"),
    "under_token": Wording("the token model minus each other", "better than it", "not told apart", "worse than it"),
}


def plot_history(history: pd.DataFrame) -> Figure:
    """Draw training and validation error over the epochs, mean over seeds; dots mark the epochs that were kept.

    Args:
        history: Columns model, seed, epoch, loss, val_loss (mean squared errors on the rating scale).
    """
    fig, panels = plt.subplots(1, 2, figsize=(8, 3.2), sharex=True, sharey=True, layout="constrained")
    table = history.assign(epoch=history["epoch"] + 1, **np.sqrt(history[["loss", "val_loss"]]))
    look = {"hue": "model", "palette": {name: MODEL_COLORS.get(name, NEUTRAL) for name in table["model"].unique()}}
    for ax, column in zip(panels, ("loss", "val_loss"), strict=True):
        sns.lineplot(table, x="epoch", y=column, errorbar=None, legend=ax is panels[0], ax=ax, **look)
    kept = table.loc[table.groupby(["model", "seed"])["val_loss"].idxmin()]
    sns.scatterplot(kept, x="epoch", y="val_loss", s=20, legend=False, ax=panels[1], zorder=3, **look)
    panels[0].set(ylabel="root mean squared error", title="training clips", yscale="log")
    panels[1].set(title="validation clips, dots: the epochs kept")
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_major_formatter("{x:.2f}")
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].get_legend().remove()
    handles, names = panels[0].get_legend_handles_labels()
    fig.legend(handles, map(spoken, names), loc="outside lower center", ncols=3)
    return fig


def plot_models(models: Mapping[str, Any], *, targets: Sequence[str] = TRAITS) -> Figure:
    """Draw test R² of every model, one panel per trait: a bar is the mean over seeds, a dot one seed.

    Args:
        models: `models` of `training.json`.
        targets: Traits to draw.
    """
    names, y = list(models), np.arange(len(models))[::-1]
    fig, panels = _panels(targets, max(3.4, 1.2 + 0.3 * len(names)))
    for ax, target in zip(panels, targets, strict=True):
        letter = letter_of(target)
        values = np.array([models[name]["r2"][letter] for name in names], float)
        ax.barh(y, values, color=TRAIT_COLORS.get(target, NEUTRAL), alpha=0.45, height=0.7)
        for row, name in zip(y, names, strict=True):
            seeds = np.array([seed["r2"][letter] for seed in models[name]["seeds"]], float)
            ax.plot(seeds, [row] * len(seeds), ".", color=ACCENT, ms=4)
        ax.axvline(0, color=ACCENT, lw=1)
        ax.set_title(name_of(target, lines=2), fontsize=9)
        ax.set(xlim=(-0.6, 1.0), xlabel="test R²")
        ax.set_xticks([-0.5, 0, 0.5, 1], ["−.5", "0", ".5", "1"])
    fig.supxlabel("bars: means over seeds, dots: seeds", fontsize=9)
    panels[0].set_yticks(y, [spoken(name).replace(" cross", "\ncross") for name in names])
    return fig


def plot_predictions(table: pd.DataFrame, constant: Mapping[str, float]) -> Figure:
    """Draw predictions against truth per trait, with the constant predictor and the line of a perfect one.

    Black squares are means over fifths of the clips by prediction: on the dotted line, the model is calibrated. The
    network's output is not bounded: predictions beyond 0 or 1 are crosses on the edge.

    Args:
        table: Columns trait, truth, prediction: one model, one seed, test clips.
        constant: What the constant predictor says, by trait.
    """
    fig, panels = _panels(table["trait"].unique(), 3.0)
    for ax, (trait, rows) in zip(panels, table.groupby("trait", sort=False), strict=True):
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
    panels[0].set_ylabel("prediction")
    legend_below(fig)
    return fig


def plot_residuals(table: pd.DataFrame, constant: Mapping[str, float], half_width: Mapping[str, float]) -> Figure:
    """Draw the distribution of errors per trait beside the constant's, and how many the 90 % interval holds.

    Args:
        table: Columns trait, truth, prediction: one model, one seed, test clips.
        constant: What the constant predictor says, by trait.
        half_width: Half width of the 90 % interval, by trait; from validation clips.
    """
    fig, panels = _panels(table["trait"].unique(), 2.4)
    bins = np.linspace(-0.6, 0.6, 25)
    for ax, (trait, rows) in zip(panels, table.groupby("trait", sort=False), strict=True):
        error, floor = rows["prediction"] - rows["truth"], constant[trait] - rows["truth"]
        ax.hist(floor.clip(bins[0], bins[-1]), bins, color=NEUTRAL, histtype="step", label="constant predictor")
        ax.hist(error.clip(bins[0], bins[-1]), bins, color=TRAIT_COLORS.get(trait, NEUTRAL), alpha=0.7)
        ax.axvspan(-half_width[trait], half_width[trait], color="k", alpha=0.08, lw=0, label="90 % interval")
        held = (error.abs() <= half_width[trait]).mean()
        ax.set_title(f"{_in_brackets(trait)}\n{held:.0%} inside", fontsize=10)
        ax.set(xlim=(-0.6, 0.6), xlabel="prediction − rating")
    panels[0].set_ylabel("test clips")
    legend_below(fig)
    return fig


def _panels(traits: Sequence[str], height: float) -> tuple[Figure, Sequence[Axes]]:
    fig, panels = plt.subplots(1, len(traits), figsize=(8, height), sharey=True, layout="constrained", squeeze=False)
    return fig, panels[0]


def _in_brackets(trait: str) -> str:
    return name_of(trait).replace(" (", "\n(")


def plot_correlations(truth: pd.DataFrame, prediction: pd.DataFrame) -> Figure:
    """Draw the correlations between traits of the ratings beside those of the predictions, [-1, 1]."""
    fig, panels = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
    letters = [letter_of(name) for name in truth.columns]
    look = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1, "xticklabels": letters, "yticklabels": letters}
    for ax, table, title in zip(panels, (truth, prediction), ("ratings", "predictions"), strict=True):
        matrix(table.to_numpy(), ax, form="+.2f", square=True, **look)
        off_diagonal = table.to_numpy()[~np.eye(len(table), dtype=bool)]
        mean = pd.Series(np.abs(off_diagonal)).mean()  # NaN, without a warning, where nothing varies
        ax.set_title(f"{title}: mean |r| {number(mean)}" if len(table) > 1 else title)
    fig.colorbar(panels[0].collections[0], ax=panels, label="Pearson r", shrink=0.8)
    return fig


def plot_calibration(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw mean rating over mean prediction per trait (`metrics.calibration`); on the dotted line it is calibrated."""
    ax = axes(ax, (4.2, 4))
    ax.plot([0, 1], [0, 1], ":", color=ACCENT, lw=1, label="calibrated")
    for trait, rows in table.groupby("trait", sort=False):
        label = f"{letter_of(trait)}, slope {number(rows['slope'].iloc[0])}"
        ax.plot(rows["prediction"], rows["truth"], "o-", ms=4, color=TRAIT_COLORS.get(trait, NEUTRAL), label=label)
    ax.set(xlabel="mean prediction of a fifth of the clips", ylabel="their mean rating", xlim=(0, 1), ylim=(0, 1))
    ax.set_box_aspect(1)
    ax.legend()
    return ax


def plot_errors_by_source(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean absolute error of each source, worst first, and in what share of it all its clips err alike."""
    ax = axes(ax, (7, 2.6))
    x = np.arange(len(table))
    ax.bar(x, table["mae"], color=NEUTRAL, width=0.9, label="mean absolute error")
    ax.plot(x, table["bias"], ".", color=RED, label="mean of prediction − rating")
    ax.axhline(0, color=ACCENT, lw=1)
    worst = table.index[0] if len(table) else ""
    ax.set(xlabel="source, worst first", ylabel="error (ratings: 0 to 1)", xticks=[])
    ax.set_title(f"{len(table)} sources, the worst is {worst}")
    ax.legend()
    return ax


def plot_errors_by_length(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the errors over clip length (`metrics.errors_by_length`), the number of clips at each point."""
    ax = axes(ax, (4.2, 2.6))
    ax.plot(table["length_s"], table["mae"], "o-", color=ACCENT, label="mean absolute error")
    ax.plot(table["length_s"], table["bias"], "o-", color=RED, label="mean of prediction − rating")
    for row in table.itertuples():
        ax.annotate(f"{row.clips:.0f}", (row.length_s, row.mae), xytext=(0, 5), textcoords="offset points")
    ax.axhline(0, color=NEUTRAL, lw=1)
    ax.margins(x=0.1, y=0.25)
    ax.set(xlabel="clip length (s)", ylabel="error (ratings: 0 to 1)", title="numbers: clips")
    ax.legend()
    return ax


def plot_intervals(table: pd.DataFrame, column: str = "over_constant", *, ax: Axes | None = None) -> Axes:
    """Draw a difference of mean R² with its interval per model, best on top; those that tell nothing apart.

    Args:
        table: As `results.as_table` makes it.
        column: "over_constant", each model minus the constant, or "under_token", the token model minus each.
    """
    rows = table.dropna(subset=[column]).sort_values(column)
    ax = axes(ax, (7, 0.28 * len(rows) + 1))
    if not len(rows):
        return say(ax, f"{INTERVALS[column].title}: R² is not defined for these test clips")
    what, low, high = INTERVALS[column], rows[f"{column}_low"], rows[f"{column}_high"]
    _by_sign(ax, rows[column], low, high, (what.better, BLUE), (what.same, NEUTRAL), (what.worse, RED))
    ax.set_yticks(range(len(rows)), [spoken(name) for name in rows.index])
    ax.set(xlabel="difference of mean test R², 95 % interval by source", ylim=(-0.6, len(rows) - 0.4), title=what.title)
    return ax


def _by_sign(ax: Axes, value: pd.Series, low: pd.Series, high: pd.Series, *looks: tuple[str, str]) -> None:
    """Draw intervals, a row each from below, with label and colour of those above 0, across 0 and below it."""
    y, kinds = np.arange(len(value)), (low > 0, (low <= 0) & (high >= 0), high < 0, low.isna() & value.notna())
    for chosen, (label, color) in zip(kinds, (*looks, ("too few sources for an interval", SKY)), strict=True):
        if chosen.any():
            intervals(ax, value[chosen], low[chosen], high[chosen], y[chosen], color=color, label=label)
    ax.axvline(0, color=ACCENT, lw=1)


def plot_comparisons(table: pd.DataFrame) -> Figure:
    """Draw every model minus the constant, and the token model minus every other, with 95 % intervals by source."""
    height = 0.24 * max(table["over_constant"].notna().sum(), 2) + 1.1
    fig, panels = plt.subplots(2, 1, figsize=(7.5, 2 * height), layout="constrained")
    for ax, column in zip(panels, INTERVALS, strict=True):
        if plot_intervals(table, column, ax=ax).lines:
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def plot_group_errors(found: Mapping[str, Any]) -> Figure:
    """Draw how the errors of each group differ from everyone else's, with 95 % intervals by source.

    Args:
        found: What `metrics.group_errors` returned.
    """
    size = 7.5, 0.35 * len(found) + 1.4
    fig, panels = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    for ax, (measure, title) in zip(panels, GROUP_MEASURES.items(), strict=True):
        table = pd.DataFrame([errors[measure] for errors in found.values()], dtype=float)
        differs, same = ("differs", RED), ("not told apart", NEUTRAL)
        _by_sign(ax, table["value"], table["low"], table["high"], differs, same, differs)
        ax.set(xlabel="group minus all others (ratings: 0 to 1)", title=title, ylim=(len(found) - 0.4, -0.6))
    panels[0].set_yticks(range(len(found)), [f"{group} ({errors['clips']} clips)" for group, errors in found.items()])
    legend_below(fig)
    return fig


def plot_losses(epochs: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw training and validation error over the epochs; a dot marks the epoch that was kept.

    Args:
        epochs: Entries with epoch, loss, val_loss (mean squared errors).
    """
    ax = axes(ax, (4, 3))
    table = pd.DataFrame(epochs)
    error = np.sqrt(table[["loss", "val_loss"]]).set_index(table["epoch"] + 1)
    ax.plot(error["loss"], color=BLUE, label="training")
    ax.plot(error["val_loss"], color=RED, label="validation")
    best = error["val_loss"].idxmin()
    ax.plot(best, error["val_loss"][best], "o", color=RED, ms=5)
    ax.set(xlabel="epoch", ylabel="root mean squared error", title="error, dot: the epoch kept")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax


def plot_batches(batches: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw the mean loss of each epoch so far, by entries with epoch, step, loss, in the order of time."""
    ax = axes(ax, (4, 3))
    table = pd.DataFrame(batches)
    per_epoch = table["step"].max() + 1
    ax.plot(table["epoch"] + (table["step"] + 1) / per_epoch, table["loss"], color=BLUE, lw=1)
    often = f"batches: after every {table['step'].iloc[0] + 1} steps"
    ax.set(xlabel="epoch", ylabel="mean squared error so far", title=often, yscale="log")
    return ax


def plot_rates(rates: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw the learning rate at the end of each epoch, by entries with epoch, learning_rate."""
    ax = axes(ax, (4, 3))
    table = pd.DataFrame(rates)
    ax.step(table["epoch"] + 1, table["learning_rate"], where="mid", color=ACCENT)
    ax.set(xlabel="epoch", ylabel="learning rate", title="learning rate", yscale="log")
    return ax


def plot_traits(metrics: Mapping[str, Any], constant: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw the mean absolute error of each trait beside the constant predictor's.

    Args:
        metrics, constant: Of the model and of the constant, with `mae` by letter (other targets by name) and `mean`.
    """
    ax = axes(ax, (4, 3))
    names = sorted((name for name in metrics["mae"] if name != "mean"), key=[*LETTERS, *metrics["mae"]].index)
    ours, floor = (np.array([one["mae"][name] for name in names], float) for one in (metrics, constant))
    x = np.arange(len(names))
    ax.bar(x - 0.2, ours, 0.38, color=[LETTER_COLORS.get(name, NEUTRAL) for name in names])
    ax.bar(x + 0.2, floor, 0.38, color="0.85", edgecolor="0.5", hatch="//")
    r2 = ["–" if metrics["r2"][name] is None else f"{metrics['r2'][name]:.2f}" for name in names]
    ax.set_xticks(x, [f"{name}\n{value}" for name, value in zip(names, r2, strict=True)])
    ax.set(xlabel="trait, test R²", ylabel="mean absolute error", title="test rows, hatched: the constant")
    return ax


def plot_epoch_correlations(epochs: Entries, rates: Entries, times: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw how what was measured per epoch goes together, as Pearson correlations over the epochs.

    Args:
        epochs, rates, times: The `epoch` entries of losses, learning rates and seconds.
    """
    ax = axes(ax, (4, 3))
    wanted = ((epochs, ["loss", "val_loss"]), (rates, ["learning_rate"]), (times, ["seconds"]))
    table = pd.concat([pd.DataFrame(entries).set_index("epoch")[names] for entries, names in wanted], axis=1)
    names = ["loss", "val.\nloss", "rate", "time"]
    look = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1, "xticklabels": names, "yticklabels": names}
    matrix(table.corr().to_numpy(), ax, bar="correlation over epochs", **look)
    ax.set_title("what goes together")
    return ax


def plot_epoch_times(epochs: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw the seconds of each epoch by what they went into: entries with epoch, steps_s, validation_s, other_s."""
    ax = axes(ax, (4, 3))
    table = pd.DataFrame(epochs)
    bottom = np.zeros(len(table))
    for part in ("steps", "validation", "other"):
        ax.bar(table["epoch"] + 1, table[f"{part}_s"], 0.9, bottom, color=PART_COLORS[part], label=part, lw=0)
        bottom += table[f"{part}_s"]
    ax.set(xlabel="epoch", ylabel="time (s)", title="epochs, the first with its start")
    ax.legend()
    return ax


def plot_time_distribution(epochs: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw the distribution of the `seconds` per epoch, without the first one, which holds the start."""
    seconds = pd.DataFrame(epochs)["seconds"]
    ax = _distribution(seconds, "s", ax)
    ax.set(xlabel="time per epoch (s)", ylabel="epochs", title="epochs after the first")
    return ax


def plot_step_times(executions: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw the distribution of the time per step, by entries with steps, seconds; the first holds the tracing."""
    table = pd.DataFrame(executions)
    ax = _distribution(1000 * table["seconds"] / table["steps"], "ms", ax)
    ax.set(xlabel="time per step (ms)", ylabel="executions", title="steps")
    return ax


def _distribution(values: pd.Series, unit: str, ax: Axes | None) -> Axes:
    """A histogram of all values but the first, with their median."""
    ax = axes(ax, (4, 3))
    later = values[1:] if len(values) > 1 else values
    ax.hist(later, bins=min(30, max(5, len(later) // 3)), color=BLUE, alpha=0.7)
    ax.axvline(later.median(), color=ACCENT, lw=1.5, label=f"median {later.median():.2f} {unit}")
    ax.legend()
    return ax


def plot_time_shares(share: Mapping[str, float], *, ax: Axes | None = None) -> Axes:
    """Draw the shares of start, steps, validation and the rest of the time, summing to 1."""
    ax = axes(ax, (4, 3))
    bars = ax.barh(list(PART_COLORS), [share[part] for part in PART_COLORS], color=list(PART_COLORS.values()))
    ax.bar_label(bars, fmt="{:.0%}", padding=3)
    ax.invert_yaxis()
    ax.set(xlabel="share of the time", xlim=(0, 1.12), title="where the time went")
    return ax


def plot_dashboard(logs: Mapping[str, Mapping[str, Entries]], found: Mapping[str, Any]) -> Figure:
    """Draw losses, batches, learning rate, traits and correlations on one page.

    Args:
        logs: `metrics`, `times` and `rates`, each as its file holds it.
        found: `metrics`, `constant` and `verdict` of the test rows.
    """
    fig, panels = plt.subplots(3, 2, figsize=(8, 8.4), layout="constrained")
    plot_losses(logs["metrics"]["epoch"], ax=panels[0, 0])
    plot_batches(logs["metrics"]["batch"], ax=panels[0, 1])
    plot_rates(logs["rates"]["epoch"], ax=panels[1, 0])
    plot_epoch_correlations(*(logs[name]["epoch"] for name in ("metrics", "rates", "times")), ax=panels[1, 1])
    plot_traits(found["metrics"], found["constant"], ax=panels[2, 0])
    plot_time_shares(found["time"]["share"], ax=panels[2, 1])
    fig.suptitle(textwrap.fill(found["verdict"], 90))
    return fig


def plot_time_dashboard(times: Mapping[str, Entries], analysis: Mapping[str, Any]) -> Figure:
    """Draw epochs, steps and shares of the time on one page, over what is recommended.

    Args:
        times: `epoch` and `execution` entries.
        analysis: What `helpers.callbacks.analyse_time` returned.
    """
    fig, panels = plt.subplots(2, 2, figsize=(8, 6.2), layout="constrained")
    plot_epoch_times(times["epoch"], ax=panels[0, 0])
    plot_time_distribution(times["epoch"], ax=panels[0, 1])
    plot_step_times(times["execution"], ax=panels[1, 0])
    plot_time_shares(analysis["share"], ax=panels[1, 1])
    lines = [textwrap.fill(f"• {sentence}", 112) for sentence in analysis["recommendations"]]
    fig.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=9)
    fig.suptitle(f"{analysis['epochs']} epochs in {analysis['total_s']:.1f} s, median {analysis['epoch_s']:.2f} s")
    return fig
