"""Figures of 00: how fast this machine is."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes


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
