"""Pictures of notebook 07 that say whether what is seen is real: each measure beside its control.

In: parts of `attention.json` as `helpers.evidence` and `helpers.evidence` make them. Out: Axes, or Figures
for grids.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.clips import DISPLAY
from helpers.plots import ACCENT, NEUTRAL, TRAIT_COLORS

TRUE = "#D55E00"
ORDERS = {
    "occlusion": ("#D55E00", "-"),
    "relevance": ("#0072B2", "--"),
    "attention": ("#009E73", "-."),
    "random": (NEUTRAL, ":"),
}
MODELS = {"true": "true model", "shuffled": "trained on shuffled motion"}


def plot_pointing(evidence: Mapping[str, Any], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw in how many test clips the largest effect lies in a planted window: bars are means, dots seeds.

    Args:
        evidence: As `helpers.evidence.evaluate` returns it; lines are its intervals over sources.
        title: The finding.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 2.6), layout="constrained")
    labels = {
        "occlusion_pointing": "one token away: true model",
        "occlusion_pointing_shuffled": "one token away: shuffled motion",
        "deletion_pointing": "random deletions: true model",
        "deletion_pointing_shuffled": "random deletions: shuffled motion",
    }
    for row, name in enumerate(labels):
        color = NEUTRAL if name.endswith("shuffled") else TRUE
        ax.barh(-row, evidence[name], color=color, alpha=0.6, height=0.65)
        _interval(ax, evidence[name], evidence[f"{name}_interval"], -row)
        seeds = [seed[name] for seed in evidence["seeds"]]
        ax.plot(seeds, [-row + 0.2] * len(seeds), ".", color=ACCENT, ms=4)
    ax.axvline(evidence["occlusion_chance"], color=ACCENT, ls=":", label="any token")
    ax.axvline(evidence["motion_pointing"], color=ACCENT, ls="--", label="token of most unusual motion")
    ax.set_yticks([-row for row in range(len(labels))], list(labels.values()))
    ax.set(xlim=(0, 1.02), xlabel="share of test clips whose largest effect lies in a planted window", title=title)
    ax.legend(
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(0.0, -0.28),
        ncols=2,
        title="without a model:",
        title_fontsize=10,
    )
    return ax


def _interval(ax: Axes, value: float, interval: list[float] | None, y: float) -> None:
    if interval is not None:
        ax.errorbar(value, y, xerr=[[value - interval[0]], [interval[1] - value]], color=ACCENT, capsize=3, lw=1)


def plot_shares(measures: Mapping[str, Mapping[str, Mapping[str, Any]]], *, title: str = "") -> Figure:
    """Draw per trait how much of a measure lies in planted windows, beside the control and the uniform share.

    Args:
        measures: By name and target, what `helpers.evidence.share_table` returns.
        title: The finding.
    """
    fig, axes = plt.subplots(
        1, len(measures), figsize=(8, 3.0), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (name, rows) in zip(axes.flat, measures.items(), strict=True):
        for y, (target, row) in enumerate(rows.items()):
            color = TRAIT_COLORS.get(target, TRUE)
            ax.barh(-y, row["inside"], 0.36, color=color)
            ax.barh(-y - 0.38, row["inside_shuffled"], 0.3, color=NEUTRAL, label="" if y else "shuffled motion")
            _interval(ax, row["inside"], row["interval"], -y)
            _interval(ax, row["inside_shuffled"], row["interval_shuffled"], -y - 0.38)
        ax.axvline(row["uniform"], color=ACCENT, ls=":", label="uniform")
        ax.set_yticks([-y - 0.15 for y in range(len(rows))], [DISPLAY.get(target, target) for target in rows])
        ax.set(xlim=(0, 1), title=name, xlabel="share in planted windows")
    axes.flat[-1].legend(frameon=False, loc="lower right")
    fig.suptitle(title)
    return fig


def plot_deletion(table: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draw curves of deletion and insertion, the model's beside those of its control.

    Args:
        table: As `helpers.evidence.deletion_table` returns it.
        title: The finding.
    """
    fig, axes = plt.subplots(2, 2, figsize=(8, 5.2), sharex=True, sharey=True, layout="constrained")
    for column, (key, model) in enumerate(MODELS.items()):
        for row, (kind, what) in enumerate((("deletion", "taken away"), ("insertion", "put back"))):
            ax = axes[row, column]
            for order, (color, style) in ORDERS.items():
                ax.plot(
                    table["replaced"],
                    table[key][order][kind],
                    style,
                    color=color,
                    label="at random" if order == "random" else f"by {order}",
                    lw=1.8,
                )
            ax.set(title=f"{model}: {kind}", xlabel=f"share of motion tokens {what}")
            if not column:
                ax.set_ylabel("mean |change of the score|")
    axes[0, 0].set_ylim(0, None)
    axes[0, 1].legend(frameon=False, loc="upper left")
    fig.suptitle(title)
    return fig


def plot_correlations(
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]], *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw how alike two models' maps are, by measure.

    Args:
        rows: By comparison and measure, `value` and `interval`, as `helpers.evidence` returns them.
        title: The finding.
        ax: Axes to draw on; a new figure by default.
    """
    measures = list(next(iter(rows.values())))
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 0.9 + 0.55 * len(rows)), layout="constrained")
    for k, measure in enumerate(measures):
        y = np.arange(len(rows)) + 0.22 * (k - (len(measures) - 1) / 2)
        values = [row[measure]["value"] for row in rows.values()]
        color, marker = ORDERS[measure][0], "osD^"[k % 4]
        for each, row in zip(y, rows.values(), strict=True):
            low, high = row[measure]["interval"] or [row[measure]["value"]] * 2
            ax.plot([low, high], [each, each], color=color, lw=1.5)
        ax.plot(values, y, marker, color=color, ms=6, ls="", label=measure)
    ax.axvline(0, color=ACCENT, lw=0.8)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(-0.3, 1.02), ylim=(len(rows) - 0.5, -0.5), xlabel="rank correlation of two models' maps", title=title)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
