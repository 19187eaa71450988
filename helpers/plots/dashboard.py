"""Dashboards of one training: losses, batches, learning rate, traits, correlations, and where the time went.

In: the lists of `helpers.training.callbacks`, results of `helpers.training.training_system` and
`helpers.training.training_time`. Out: Axes, and two Figures that put them together.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers.clips import LETTERS, TRAITS
from helpers.plots import ACCENT, NEUTRAL, TRAIT_COLORS

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


def plot_correlations(epochs: Entries, rates: Entries, times: Entries, *, ax: Axes | None = None) -> Axes:
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


def plot_shares(share: Mapping[str, float], *, ax: Axes | None = None) -> Axes:
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
    plot_correlations(*(logs[name]["epoch"] for name in ("metrics", "rates", "times")), ax=axes[1, 1])
    plot_traits(found["metrics"], found["constant"], ax=axes[2, 0])
    plot_shares(found["time"]["share"], ax=axes[2, 1])
    fig.suptitle(textwrap.fill(found["verdict"], 90))
    return fig


def plot_time_dashboard(times: Mapping[str, Entries], analysis: Mapping[str, Any]) -> Figure:
    """Draw epochs, steps and shares of the time on one page, over what is recommended.

    Args:
        times: `epoch` and `execution` entries.
        analysis: What `helpers.training.training_time.analyse_time` returned.
    """
    fig, axes = plt.subplots(2, 2, figsize=(8, 6.2), layout="constrained")
    plot_epoch_times(times["epoch"], ax=axes[0, 0])
    plot_time_distribution(times["epoch"], ax=axes[0, 1])
    plot_step_times(times["execution"], ax=axes[1, 0])
    plot_shares(analysis["share"], ax=axes[1, 1])
    lines = [textwrap.fill(f"• {sentence}", WIDTH) for sentence in analysis["recommendations"]]
    fig.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=9)
    fig.suptitle(f"{analysis['epochs']} epochs in {analysis['total_s']:.1f} s, median {analysis['epoch_s']:.2f} s")
    return fig


def _axes(ax: Axes | None) -> Axes:
    return plt.subplots(figsize=(4, 3), layout="constrained")[1] if ax is None else ax


def _number(value: float | None) -> float:
    return np.nan if value is None else value
