"""Figures of 00: how fast this machine is, by operation and by batch size."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plots import axes, panels


def plot_speed(speed: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the work per second of each timed operation: index the operation, column `gflop_per_s`."""
    ax = axes(ax, (7, 2.2), grid="x", title="What the networks are made of, on this machine")
    sns.barplot(x=speed["gflop_per_s"], y=speed.index, color="C0", saturation=1, ax=ax)
    ax.bar_label(ax.containers[0], fmt="%.0f", padding=3)
    ax.margins(x=0.1)
    ax.set(xlabel="GFLOP/s (more is faster)", ylabel="")
    return ax


def plot_throughput(throughput: pd.DataFrame) -> Figure:
    """Draw each network's samples per second over the batch size; where memory ran out stands a mark on the axis.

    `throughput`: columns network, unit, batch, per_s (NaN: out of memory).
    """
    networks = list(throughput.groupby("network", sort=False))
    fig, (row,) = panels(1, len(networks), (7, 2.6))
    for number, (ax, (name, rows)) in enumerate(zip(row, networks, strict=True)):
        failed = rows.loc[rows["per_s"].isna(), "batch"]
        ax.plot(rows["batch"], rows["per_s"], marker="o", color=f"C{number}")
        if len(failed):
            ax.plot(failed, [0] * len(failed), "x", color="C3", label="out of memory", clip_on=False)
            ax.legend()
        ax.set_xscale("log", base=2)
        ax.set_xticks(rows["batch"], [str(batch) for batch in rows["batch"]], minor=False)
        top = None if rows["per_s"].isna().all() else 1.15 * rows["per_s"].max()
        ax.set(xlabel="batch size", ylabel=rows["unit"].iloc[0], title=name, ylim=(0, top))
    return fig
