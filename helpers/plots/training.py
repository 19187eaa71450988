"""Figures of 06: learning curves, the table of models, where errors lie, and one training from close by."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.clips import TRAITS, letter_of, name_of
from helpers.plots import ACCENT, BLUE, NEUTRAL, RED, TRAIT_COLORS, legend_below, matrix, panels, spoken


def plot_history(history: pd.DataFrame) -> Figure:
    """Draw training and validation error over the epochs, mean over seeds; dots mark the epochs that were kept.

    `history`: columns model, seed, epoch, loss, val_loss (mean squared errors on the rating scale).
    """
    table = history.assign(epoch=history["epoch"] + 1, model=history["model"].map(spoken))
    table = table.rename(columns={"loss": "training clips", "val_loss": "validation clips, dots: the epochs kept"})
    table = table.melt(["model", "seed", "epoch"], var_name="of", value_name="error")
    table["error"] = np.sqrt(table["error"])
    look = {"x": "epoch", "y": "error", "hue": "model"}
    grid = sns.relplot(table, **look, col="of", kind="line", errorbar=None, height=3, aspect=1.05)
    validation = table[table["of"] != "training clips"].fillna({"error": np.inf})  # a diverged training has none
    kept = validation.loc[validation.groupby(["model", "seed"])["error"].idxmin()]
    sns.scatterplot(kept, **look, hue_order=table["model"].unique(), s=20, legend=False, ax=grid.axes[0, 1], zorder=3)
    ticks = [0.1, 0.2, 0.5]
    grid.set(yscale="log", yticks=ticks, yticklabels=ticks, ylabel="root mean squared error").set_titles("{col_name}")
    for ax in grid.axes.flat:
        ax.minorticks_off()
    sns.move_legend(grid, "upper center", bbox_to_anchor=(0.45, 0), ncols=3, title=None)
    return grid.figure


def plot_models(models: Mapping[str, Any], *, targets: Sequence[str] = TRAITS) -> Figure:
    """Draw test R² of every model of `training.json`, one panel per trait: a bar is the mean over seeds, a dot one."""
    rows = [
        (name_of(target).replace(" ", "\n", 1), spoken(name), seed["r2"][letter_of(target)])
        for target in targets
        for name, model in models.items()
        for seed in model["seeds"]
    ]
    table = pd.DataFrame(rows, columns=["trait", "model", "r2"]).astype({"r2": float})
    height = max(3.0, 0.8 + 0.26 * len(models))
    look = {"palette": [TRAIT_COLORS.get(target, NEUTRAL) for target in targets], "alpha": 0.45, "legend": False}
    look |= {"hue": "trait", "col": "trait", "height": height, "aspect": 1.7 / height}
    grid = sns.catplot(table, x="r2", y="model", kind="bar", errorbar=None, **look)
    grid.map_dataframe(sns.stripplot, x="r2", y="model", color=ACCENT, size=3, jitter=False)
    grid.refline(x=0, color=ACCENT, ls="-").set_titles("{col_name}", size=9).set_axis_labels("test R²", "")
    grid.set(xlim=(-0.6, 1.05), xticks=[0, 0.5, 1])
    return grid.figure


def plot_predictions(table: pd.DataFrame, constant: Mapping[str, float]) -> Figure:
    """Draw predictions, cut to [0, 1], against truth per trait, with the constant predictor and the line of a perfect
    one; black squares are means over fifths of the clips by prediction: on that line the model is calibrated.

    `table`: columns trait, truth, prediction: one model, one seed, test clips. `constant`: what it says, by trait.
    """
    fig, (row,) = panels(1, table["trait"].nunique(), (8, 3.2), sharey=True)
    row[0].set_ylabel("prediction")
    for ax, (trait, rows) in zip(row, table.groupby("trait", sort=False), strict=True):
        truth, prediction = rows["truth"], rows["prediction"].clip(0, 1)
        ax.plot([0, 1], [0, 1], ":", color=ACCENT, lw=1, label="perfect")
        ax.axhline(constant[trait], color=NEUTRAL, lw=1.5, label="constant predictor")
        ax.plot(truth, prediction, ".", color=TRAIT_COLORS.get(trait, NEUTRAL), ms=4, alpha=0.6)
        fifths = pd.qcut(prediction.rank(method="first"), min(5, len(rows)), labels=False)
        ax.plot(truth.groupby(fifths).mean(), prediction.groupby(fifths).mean(), "ks", ms=4, label="means of fifths")
        ours, floor = (1 - (truth - other).abs().mean() for other in (rows["prediction"], constant[trait]))
        ax.set_title(f"{_two_lines(trait)}\n1−MAE {ours:.2f}\nconstant {floor:.2f}", fontsize=10)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="rating", xticks=[0, 0.5, 1], box_aspect=1)
    legend_below(fig)
    return fig


def plot_residuals(table: pd.DataFrame, constant: Mapping[str, float], half_width: Mapping[str, float]) -> Figure:
    """Draw the distribution of errors per trait beside the constant's, and how many the 90 % interval holds.

    `table`, `constant`: as for `plot_predictions`; `half_width`: of the interval, by trait, from validation clips.
    """
    said = {"the model": table["prediction"], "constant predictor": table["trait"].map(constant)}
    errors = pd.DataFrame({name: (of - table["truth"]).clip(-0.6, 0.6) for name, of in said.items()})
    errors = errors.assign(trait=table["trait"]).melt("trait", var_name="of", value_name="prediction − rating")
    look = {"bins": np.linspace(-0.6, 0.6, 25), "element": "step", "height": 2.6, "aspect": 0.62}
    grid = sns.displot(errors, x="prediction − rating", hue="of", palette=[BLUE, NEUTRAL], col="trait", **look)
    for trait, ax in grid.axes_dict.items():
        rows = table[table["trait"] == trait]
        held = ((rows["prediction"] - rows["truth"]).abs() <= half_width[trait]).mean()
        ax.axvspan(-half_width[trait], half_width[trait], color="k", alpha=0.08, lw=0)
        ax.set_title(f"{_two_lines(trait)}\n{held:.0%} inside", fontsize=10)
    sns.move_legend(grid, "upper center", bbox_to_anchor=(0.45, 0), ncols=2, title=None)
    return grid.set_ylabels("test clips").figure


def _two_lines(trait: str) -> str:
    return name_of(trait).replace(" (", "\n(")


def plot_dashboard(logs: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draw one training from close by: errors (a dot on the epoch kept), the loss within epochs, the learning rate,
    what goes together over the epochs, and the time of epochs and steps; `logs`: see `callbacks.read_logs`.
    """
    names = ("metrics", "rates", "times")
    epochs, rates, times = (pd.DataFrame(logs[name]["epoch"]).set_index("epoch") for name in names)
    for table in (epochs, rates, times):
        table.index += 1
    fig, array = panels(3, 2, (8, 8.4), title=title)
    _errors(*array[0], epochs[["loss", "val_loss"]], pd.DataFrame(logs["metrics"]["batch"]))
    rate = rates["learning_rate"]
    rate.plot(ax=array[1, 0], drawstyle="steps-mid", color=ACCENT, logy=True, ylabel="learning rate")
    table = pd.concat([epochs[["loss", "val_loss"]], rate, times["seconds"]], axis=1).corr()
    table = table.set_axis(names := ["loss", "val.\nloss", "rate", "time"]).set_axis(names, axis=1)
    matrix(table, array[1, 1], bar="correlation over epochs", cmap="RdBu_r", vmin=-1, vmax=1)
    array[1, 1].set_title("what goes together")
    _times(*array[2], times, pd.DataFrame(logs["times"]["execution"]), logs["analysis"])
    return fig


def _errors(losses: Axes, within: Axes, epochs: pd.DataFrame, batches: pd.DataFrame) -> None:
    error = np.sqrt(epochs).set_axis(["training", "validation"], axis=1)
    best = error["validation"].fillna(np.inf).idxmin()  # a diverged training has none
    error.plot(ax=losses, color=[BLUE, RED], ylabel="root mean squared error", title="error, dot: the epoch kept")
    losses.plot(best, error["validation"][best], "o", color=RED, ms=5)
    batches = batches.assign(epoch=batches["epoch"] + (batches["step"] + 1) / (batches["step"].max() + 1))
    what = {"ylabel": "mean squared error so far", "title": f"batches: after every {batches['step'].iloc[0] + 1} steps"}
    batches.plot("epoch", "loss", ax=within, color=BLUE, lw=1, logy=True, legend=False, **what)


def _times(spent: Axes, per_step: Axes, epochs: pd.DataFrame, steps: pd.DataFrame, found: Mapping[str, Any]) -> None:
    """The seconds of each epoch by what they went into, and the steps but the first, which holds the start."""
    bottom = np.zeros(len(epochs))
    for part, color in (("steps", BLUE), ("validation", RED), ("other", NEUTRAL)):
        label = f"{part} {found['share'][part]:.0%}"
        spent.bar(epochs.index, epochs[f"{part}_s"], 0.9, bottom, color=color, label=label, lw=0)
        bottom += epochs[f"{part}_s"]
    title = f"epochs: {found['total_s']:.1f} s, start {found['share']['start']:.0%}"
    spent.set(xlabel="epoch", ylabel="time (s)", title=title)
    spent.legend()
    ms = 1000 * steps["seconds"] / steps["steps"]
    sns.histplot(ms[1:] if len(ms) > 1 else ms, bins=20, color=BLUE, alpha=0.7, ax=per_step)
    per_step.axvline(found["step_ms"], color=ACCENT, lw=1.5, label=f"median {found['step_ms']:.2f} ms")
    per_step.set(xlabel="time per step (ms)", ylabel="executions", title="steps")
    per_step.legend()
