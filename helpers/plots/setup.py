"""Figures of 00: how fast this machine is, by operation and by batch size."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def plot_speed(speed: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the work per second of each timed operation.

    Args:
        speed: Index = the operation; column `gflop_per_s`.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 2.2), layout="constrained")
    bars = ax.barh(speed.index, speed["gflop_per_s"], color="C0")
    ax.bar_label(bars, fmt="%.0f", padding=3)
    ax.margins(x=0.1)
    ax.invert_yaxis()
    ax.set(xlabel="GFLOP/s (more is faster)", title="What the networks are made of, on this machine")
    return ax


def plot_throughput(throughput: pd.DataFrame) -> Figure:
    """Draw each network's samples per second over the batch size; where memory ran out stands a mark on the axis.

    Args:
        throughput: Columns network, unit, batch, per_s (NaN: out of memory), as of `helpers.machine`.
    """
    networks = list(throughput.groupby("network", sort=False))
    figure, axes = plt.subplots(1, len(networks), figsize=(7, 2.6), layout="constrained", squeeze=False)
    for number, (ax, (name, rows)) in enumerate(zip(axes[0], networks, strict=True)):
        ran, failed = rows[rows["per_s"].notna()], rows[rows["per_s"].isna()]
        ax.plot(ran["batch"], ran["per_s"], marker="o", color=f"C{number}")
        if len(failed):
            ax.plot(failed["batch"], [0] * len(failed), "x", color="C3", label="out of memory", clip_on=False)
            ax.legend(frameon=False)
        ax.set_xscale("log", base=2)
        ax.set_xticks(rows["batch"], [str(batch) for batch in rows["batch"]], minor=False)
        top = 1.15 * ran["per_s"].max() if len(ran) else None
        ax.set(xlabel="batch size", ylabel=rows["unit"].iloc[0], title=name, ylim=(0, top))
    return figure
