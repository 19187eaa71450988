"""Figures of 05: how the tokens of both streams lie on a clip's time axis, and what the reduction keeps."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes


def plot_token_times(
    static_t_s: np.ndarray, dynamic_t_s: np.ndarray, *, segment_s: float, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw a clip's face tokens as dots and its motion tokens as bars on one time axis.

    Args:
        static_t_s: Centre of each face token in seconds, (Ts,).
        dynamic_t_s: Centre of each motion token in seconds, (Td,).
        segment_s: Length of a motion token in seconds.
        title: Finding or clip.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 1.8), layout="constrained")
    ax.plot(static_t_s, np.ones(len(static_t_s)), "o", color="C0")
    bars = {"height": 0.4, "color": "C1", "edgecolor": "w", "linewidth": 0.7}
    ax.barh(np.zeros(len(dynamic_t_s)), segment_s, left=dynamic_t_s - segment_s / 2, **bars)
    ax.set(xlabel="time (s)", yticks=[0, 1], yticklabels=["motion", "face"], ylim=(-0.6, 1.6), title=title)
    return ax


def plot_component_spread(tokens: dict[str, np.ndarray], *, ax: Axes | None = None) -> Axes:
    """Draw the standard deviation of each reduced channel, per stream.

    Args:
        tokens: Stream name to its tokens, (n, D).
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3), layout="constrained")
    for name, rows in tokens.items():
        ax.plot(np.arange(1, rows.shape[1] + 1), rows.std(axis=0), ".-", label=name)
    ax.set(xlabel="channel after reduction", ylabel="standard deviation over tokens", yscale="log")
    ax.legend(frameon=False)
    return ax
