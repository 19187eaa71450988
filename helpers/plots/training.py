"""Figures of 06: learning curves, the table of models, where errors lie, intervals, and dashboards of one training.

In: the tables and dictionaries of `helpers.results`, `helpers.train` and `helpers.metrics`. Out: Axes, or Figures.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
GROUP_MEASURES = {"mae_over_others": "mean absolute error", "bias_over_others": "mean signed error"}


def plot_correlations(truth: pd.DataFrame, prediction: pd.DataFrame) -> Figure:
    """Draw the correlations between traits of the ratings beside those of the predictions, [-1, 1]."""
    letters = [dict(zip(TRAITS, LETTERS, strict=True)).get(name, name) for name in truth.columns]
    fig, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
    for ax, table, title in zip(axes, (truth, prediction), ("ratings", "predictions"), strict=True):
        image = ax.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1)
        for (row, column), value in np.ndenumerate(table.to_numpy()):
            dark = abs(value) > 0.6
            ax.text(column, row, f"{value:+.2f}", ha="center", va="center", fontsize=9, color="w" if dark else "k")
        off_diagonal = table.to_numpy()[~np.eye(len(table), dtype=bool)]
        ax.set_title(f"{title}: mean |r| {np.nanmean(np.abs(off_diagonal)):.2f}" if len(table) > 1 else title)
        ax.set_xticks(range(len(letters)), letters)
        ax.set_yticks(range(len(letters)), letters)
        ax.grid(False)
    fig.colorbar(image, ax=axes, label="Pearson r", shrink=0.8)
    return fig


def plot_calibration(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw mean rating over mean prediction per trait (`errors.calibration`); on the dotted line it is calibrated."""
    if ax is None:
        _, ax = plt.subplots(figsize=(4.2, 4), layout="constrained")
    letters = dict(zip(TRAITS, LETTERS, strict=True))
    ax.plot([0, 1], [0, 1], ":", color=ACCENT, lw=1, label="calibrated")
    for trait, rows in table.groupby("trait", sort=False):
        label = f"{letters.get(trait, trait)}, slope {rows['slope'].iloc[0]:.2f}"
        ax.plot(rows["prediction"], rows["truth"], "o-", ms=4, color=TRAIT_COLORS.get(trait, NEUTRAL), label=label)
    ax.set(xlabel="mean prediction of a fifth of the clips", ylabel="their mean rating", xlim=(0, 1), ylim=(0, 1))
    ax.set_box_aspect(1)
    ax.legend(frameon=False)
    return ax


def plot_errors_by_source(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean absolute error of each source, worst first, and in what share of it all its clips err alike."""
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
    x = np.arange(len(table))
    ax.bar(x, table["mae"], color=NEUTRAL, width=0.9, label="mean absolute error")
    ax.plot(x, table["bias"], ".", color="#D55E00", label="mean of prediction − rating")
    ax.axhline(0, color=ACCENT, lw=1)
    worst = table.index[0] if len(table) else ""
    ax.set(
        xlabel="source, worst first",
        ylabel="error (ratings: 0 to 1)",
        title=f"{len(table)} sources, the worst is {worst}",
    )
    ax.set_xticks([])
    ax.legend(frameon=False)
    return ax


def plot_errors_by_length(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the errors over clip length (`errors.errors_by_length`), the number of clips at each point."""
    if ax is None:
        _, ax = plt.subplots(figsize=(4.2, 2.6), layout="constrained")
    ax.plot(table["length_s"], table["mae"], "o-", color=ACCENT, label="mean absolute error")
    ax.plot(table["length_s"], table["bias"], "o-", color="#D55E00", label="mean of prediction − rating")
    for _, row in table.iterrows():
        ax.annotate(f"{row['clips']:.0f}", (row["length_s"], row["mae"]), xytext=(0, 5), textcoords="offset points")
    ax.axhline(0, color=NEUTRAL, lw=1)
    ax.margins(x=0.1, y=0.25)
    ax.set(xlabel="clip length (s)", ylabel="error (ratings: 0 to 1)", title="numbers: clips")
    ax.legend(frameon=False)
    return ax


def plot_intervals(table: pd.DataFrame, column: str = "over_constant", *, ax: Axes | None = None) -> Axes:
    """Draw a difference of mean R² with its interval per model, best on top; those that tell nothing apart.

    Args:
        table: As `compare.table_of` makes it.
        column: "over_constant", each model minus the constant, or "under_token", the token model minus each.
        ax: To draw on.
    """
    rows = table.dropna(subset=[column]).sort_values(column)
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.28 * len(rows) + 1), layout="constrained")
    y, what = np.arange(len(rows)), INTERVALS[column]
    low, high = rows[f"{column}_low"], rows[f"{column}_high"]
    kinds = (low > 0, "#0072B2", what.better), ((low <= 0) & (high >= 0), NEUTRAL, what.same)
    for chosen, color, label in (*kinds, (high < 0, "#D55E00", what.worse)):
        if chosen.any():
            reach = [(rows[column] - low)[chosen], (high - rows[column])[chosen]]
            ax.errorbar(rows[column][chosen], y[chosen], xerr=reach, fmt="o", ms=4, color=color, label=label)
    ax.axvline(0, color=ACCENT, lw=1)
    ax.set_yticks(y, [name.replace("_", " ") for name in rows.index])
    ax.set(xlabel="difference of mean test R², 95 % interval by source", ylim=(-0.6, len(rows) - 0.4), title=what.title)
    return ax


def plot_comparisons(table: pd.DataFrame) -> Figure:
    """Draw every model minus the constant, and the token model minus every other, with 95 % intervals by source."""
    height = 0.24 * table["over_constant"].notna().sum() + 1.1
    fig, axes = plt.subplots(2, 1, figsize=(7.5, 2 * height), layout="constrained")
    for ax, column in zip(axes, INTERVALS, strict=True):
        plot_intervals(table, column, ax=ax)
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def plot_group_errors(found: Mapping[str, Any]) -> Figure:
    """Draw how the errors of each group differ from everyone else's, with 95 % intervals by source.

    Args:
        found: What `groups.group_errors` returned.
    """
    size = 7.5, 0.35 * len(found) + 1.4
    fig, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    y = np.arange(len(found))[::-1]
    names = [f"{group} ({errors['clips']} clips)" for group, errors in found.items()]
    for ax, (measure, title) in zip(axes, GROUP_MEASURES.items(), strict=True):
        value, low, high = (
            np.array([_number(errors[measure][end]) for errors in found.values()]) for end in ("value", "low", "high")
        )
        apart = (low > 0) | (high < 0)
        for chosen, color, label in ((apart, "#D55E00", "differs"), (~apart, NEUTRAL, "not told apart")):
            reach = [(value - low)[chosen], (high - value)[chosen]]
            ax.errorbar(value[chosen], y[chosen], xerr=reach, fmt="o", ms=4, color=color, label=label)
        ax.axvline(0, color=ACCENT, lw=1)
        ax.set(xlabel="group minus all others (ratings: 0 to 1)", title=title, ylim=(-0.6, len(found) - 0.4))
    axes[0].set_yticks(y, names)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return fig


LETTER_COLORS = {letter: TRAIT_COLORS[trait] for letter, trait in zip(LETTERS, TRAITS, strict=True)}
TRAIN, VALIDATION = "#0072B2", "#D55E00"
PART_COLORS = {"start": "#E69F00", "steps": "#0072B2", "validation": "#D55E00", "other": NEUTRAL}
WIDTH = 112  # letters of a line of recommendations

Entries = Sequence[Mapping[str, Any]]


def plot_losses(epochs: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw training and validation error over the epochs; a dot marks the epoch that was kept.

    Args:
        epochs: Entries with epoch, loss, val_loss (mean squared errors).
    """
    ax = _axes(ax)
    table = pd.DataFrame(epochs)
    for column, color, label in (("loss", TRAIN, "training"), ("val_loss", VALIDATION, "validation")):
        ax.plot(table["epoch"] + 1, np.sqrt(table[column]), color=color, label=label)
    best = table["val_loss"].idxmin()
    ax.plot(table["epoch"][best] + 1, np.sqrt(table["val_loss"][best]), "o", color=VALIDATION, ms=5)
    ax.set(xlabel="epoch", ylabel="root mean squared error", title="error, dot: the epoch kept")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return ax


def plot_batches(batches: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw the mean loss of each epoch so far, execution by execution.

    Args:
        batches: Entries with epoch, step, loss, in the order of time.
    """
    ax = _axes(ax)
    table = pd.DataFrame(batches)
    per_epoch = table["step"].max() + 1
    ax.plot(table["epoch"] + (table["step"] + 1) / per_epoch, table["loss"], color=TRAIN, lw=1)
    often = f"batches: after every {table['step'].iloc[0] + 1} steps"
    ax.set(xlabel="epoch", ylabel="mean squared error so far", title=often, yscale="log")
    return ax


def plot_rates(rates: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw the learning rate at the end of each epoch.

    Args:
        rates: Entries with epoch, learning_rate.
    """
    ax = _axes(ax)
    table = pd.DataFrame(rates)
    ax.step(table["epoch"] + 1, table["learning_rate"], where="mid", color=ACCENT)
    ax.set(xlabel="epoch", ylabel="learning rate", title="learning rate", yscale="log")
    return ax


def plot_traits(metrics: Mapping[str, Any], constant: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw the mean absolute error of each trait beside the constant predictor's.

    Args:
        metrics, constant: Of the model and of the constant, with `mae` by letter (other targets by name) and `mean`.
    """
    ax = _axes(ax)
    others = [name for name in metrics["mae"] if name not in (*LETTERS, "mean")]
    names = [letter for letter in LETTERS if letter in metrics["mae"]] + others
    x = np.arange(len(names))
    colors = [LETTER_COLORS.get(name, NEUTRAL) for name in names]
    ax.bar(x - 0.2, [_number(metrics["mae"][name]) for name in names], 0.38, color=colors)
    ax.bar(x + 0.2, [_number(constant["mae"][name]) for name in names], 0.38, color="0.85", edgecolor="0.5", hatch="//")
    r2 = ["–" if metrics["r2"][name] is None else f"{metrics['r2'][name]:.2f}" for name in names]
    ax.set_xticks(x, [f"{name}\n{value}" for name, value in zip(names, r2, strict=True)])
    ax.set(xlabel="trait, test R²", ylabel="mean absolute error", title="test rows, hatched: the constant")
    return ax


def plot_epoch_correlations(epochs: Entries, rates: Entries, times: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw how what was measured per epoch goes together, as Pearson correlations over the epochs.

    Args:
        epochs, rates, times: The `epoch` entries of losses, learning rates and seconds.
    """
    ax = _axes(ax)
    wanted = ((epochs, ["loss", "val_loss"]), (rates, ["learning_rate"]), (times, ["seconds"]))
    table = pd.concat([pd.DataFrame(entries).set_index("epoch")[names] for entries, names in wanted], axis=1)
    values = table.corr().to_numpy()
    names = ["loss", "val.\nloss", "rate", "time"]
    image = ax.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        ax.text(column, row, text, ha="center", va="center", color="w" if abs(value) > 0.6 else "k", fontsize=9)
    ax.grid(False)
    ax.set_title("what goes together")
    ax.figure.colorbar(image, ax=ax, label="correlation over epochs")
    return ax


def plot_epoch_times(epochs: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw the seconds of each epoch by what they went into.

    Args:
        epochs: Entries with epoch, steps_s, validation_s, other_s.
    """
    ax = _axes(ax)
    table = pd.DataFrame(epochs)
    bottom = np.zeros(len(table))
    for part in ("steps", "validation", "other"):
        seconds = table[f"{part}_s"].to_numpy()
        ax.bar(table["epoch"] + 1, seconds, 0.9, bottom=bottom, color=PART_COLORS[part], label=part, lw=0)
        bottom += seconds
    ax.set(xlabel="epoch", ylabel="time (s)", title="epochs, the first with its start")
    ax.legend(frameon=False)
    return ax


def plot_time_distribution(epochs: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw the distribution of the seconds per epoch, without the first one, which holds the start.

    Args:
        epochs: Entries with seconds.
    """
    ax = _axes(ax)
    seconds = pd.DataFrame(epochs)["seconds"]
    later = seconds[1:] if len(seconds) > 1 else seconds
    ax.hist(later, bins=min(30, max(5, len(later) // 3)), color=PART_COLORS["steps"], alpha=0.7)
    ax.axvline(later.median(), color=ACCENT, lw=1.5, label=f"median {later.median():.2f} s")
    ax.set(xlabel="time per epoch (s)", ylabel="epochs", title="epochs after the first")
    ax.legend(frameon=False)
    return ax


def plot_step_times(executions: Entries, *, ax: Axes | None = None) -> Axes:
    """Draw the distribution of the time per step, without the first execution, which holds the tracing.

    Args:
        executions: Entries with steps, seconds.
    """
    ax = _axes(ax)
    table = pd.DataFrame(executions)
    step_ms = 1000 * table["seconds"] / table["steps"]
    later = step_ms[1:] if len(step_ms) > 1 else step_ms
    ax.hist(later, bins=min(30, max(5, len(later) // 3)), color=PART_COLORS["steps"], alpha=0.7)
    ax.axvline(later.median(), color=ACCENT, lw=1.5, label=f"median {later.median():.2f} ms")
    ax.set(xlabel="time per step (ms)", ylabel="executions", title="steps")
    ax.legend(frameon=False)
    return ax


def plot_time_shares(share: Mapping[str, float], *, ax: Axes | None = None) -> Axes:
    """Draw the shares of start, steps, validation and the rest.

    Args:
        share: Part to share of the time, summing to 1.
    """
    ax = _axes(ax)
    y = np.arange(len(PART_COLORS))[::-1]
    bars = ax.barh(y, [share[part] for part in PART_COLORS], color=list(PART_COLORS.values()))
    ax.bar_label(bars, [f"{share[part]:.0%}" for part in PART_COLORS], padding=3)
    ax.set_yticks(y, list(PART_COLORS))
    ax.set(xlabel="share of the time", xlim=(0, 1.12), title="where the time went")
    return ax


def plot_dashboard(logs: Mapping[str, Mapping[str, Entries]], found: Mapping[str, Any]) -> Figure:
    """Draw losses, batches, learning rate, traits and correlations on one page.

    Args:
        logs: `metrics`, `times` and `rates`, each as its file holds it.
        found: `metrics`, `constant` and `verdict` of the test rows.
    """
    fig, axes = plt.subplots(3, 2, figsize=(8, 8.4), layout="constrained")
    plot_losses(logs["metrics"]["epoch"], ax=axes[0, 0])
    plot_batches(logs["metrics"]["batch"], ax=axes[0, 1])
    plot_rates(logs["rates"]["epoch"], ax=axes[1, 0])
    plot_epoch_correlations(*(logs[name]["epoch"] for name in ("metrics", "rates", "times")), ax=axes[1, 1])
    plot_traits(found["metrics"], found["constant"], ax=axes[2, 0])
    plot_time_shares(found["time"]["share"], ax=axes[2, 1])
    fig.suptitle(textwrap.fill(found["verdict"], 90))
    return fig


def plot_time_dashboard(times: Mapping[str, Entries], analysis: Mapping[str, Any]) -> Figure:
    """Draw epochs, steps and shares of the time on one page, over what is recommended.

    Args:
        times: `epoch` and `execution` entries.
        analysis: What `helpers.callbacks.analyse_time` returned.
    """
    fig, axes = plt.subplots(2, 2, figsize=(8, 6.2), layout="constrained")
    plot_epoch_times(times["epoch"], ax=axes[0, 0])
    plot_time_distribution(times["epoch"], ax=axes[0, 1])
    plot_step_times(times["execution"], ax=axes[1, 0])
    plot_time_shares(analysis["share"], ax=axes[1, 1])
    lines = [textwrap.fill(f"• {sentence}", WIDTH) for sentence in analysis["recommendations"]]
    fig.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=9)
    fig.suptitle(f"{analysis['epochs']} epochs in {analysis['total_s']:.1f} s, median {analysis['epoch_s']:.2f} s")
    return fig


def _axes(ax: Axes | None) -> Axes:
    return plt.subplots(figsize=(4, 3), layout="constrained")[1] if ax is None else ax


def _number(value: float | None) -> float:
    return np.nan if value is None else value
