"""Figures of 05: how the tokens of both streams lie on a clip's time axis."""

import numpy as np
from matplotlib.axes import Axes

from helpers.plots import axes


def plot_token_times(
    static_t_s: np.ndarray, dynamic_t_s: np.ndarray, *, segment_s: float, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw a clip's face tokens (Ts,) as dots, its motion tokens (Td,), `segment_s` long, as bars, by their centres."""
    ax = axes(ax, (7, 1.8), xlabel="time (s)", ylim=(-0.6, 1.6), title=title)
    ax.set_yticks([0, 1], ["motion", "face"])
    ax.plot(static_t_s, np.ones(len(static_t_s)), "o", color="C0")
    ax.barh(np.zeros(len(dynamic_t_s)), segment_s, 0.4, dynamic_t_s - segment_s / 2, color="C1", ec="w", lw=0.7)
    return ax
