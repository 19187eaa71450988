"""Figures of 05: how the tokens of both streams lie on a clip's time axis, and what the reduction keeps."""

import numpy as np
from matplotlib.axes import Axes

from helpers.plots import axes, say


def plot_token_times(
    static_t_s: np.ndarray, dynamic_t_s: np.ndarray, *, segment_s: float, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw a clip's face tokens (Ts,) as dots, its motion tokens (Td,), `segment_s` long, as bars, by their centres."""
    ax = axes(ax, (7, 1.8), xlabel="time (s)", ylim=(-0.6, 1.6), title=title)
    ax.set_yticks([0, 1], ["motion", "face"])
    ax.plot(static_t_s, np.ones(len(static_t_s)), "o", color="C0")
    ax.barh(np.zeros(len(dynamic_t_s)), segment_s, 0.4, dynamic_t_s - segment_s / 2, color="C1", ec="w", lw=0.7)
    return ax


def plot_component_spread(tokens: dict[str, np.ndarray], *, ax: Axes | None = None) -> Axes:
    """Draw the standard deviation of each reduced channel, per stream: its name to its tokens, (n, D)."""
    ax = axes(ax, (6, 3), xlabel="channel after reduction", ylabel="standard deviation over tokens")
    if not any(rows.std(axis=0).any() for rows in tokens.values()):
        return say(ax, "no channel varies over the tokens")
    for name, rows in tokens.items():
        ax.plot(np.arange(1, rows.shape[1] + 1), rows.std(axis=0), ".-", label=name)
    ax.set_yscale("log")
    ax.legend()
    return ax
