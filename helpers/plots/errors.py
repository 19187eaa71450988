"""Pictures of where a model's errors lie, by trait, source, clip length and group, and of differences between models.

In: the tables of `helpers.metrics`, `helpers.statistics` and `helpers.compare`. Out: Figures and
Axes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.clips import LETTERS, TRAITS
from helpers.plots import ACCENT, NEUTRAL, TRAIT_COLORS


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


def _number(value: float | None) -> float:
    return np.nan if value is None else value
