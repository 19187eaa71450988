"""Pictures of notebook 07: attention over the clip's own frames and motion, its maps, and the evidence beside them.

In: arrays as `helpers.attention` computes them. Out: Axes, or Figures for grids.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from helpers.plots import ACCENT

WARM, COOL = "#E69F00", "#56B4E9"
WIDTH_IN, MOST_PICTURES = 7.2, 10


def plot_clip_attention(
    crops: np.ndarray,
    speed: np.ndarray,
    attention: np.ndarray,
    static_t_s: np.ndarray,
    dynamic_t_s: np.ndarray,
    effects: np.ndarray,
    *,
    windows: Mapping[str, tuple[float, float]] | None = None,
    title: str = "",
) -> Figure:
    """Draw one clip on its time axis: faces above, motion below, attention between them, and what occlusion says.

    Args:
        crops: Face of each face token, RGB uint8 (Ts, S, S, 3).
        speed: Mean speed of each motion token in px per frame, (Td, S, S).
        attention: Mean over heads, (Ts, Td); rows sum to 1. A line's strength is its weight.
        static_t_s, dynamic_t_s: Centres in seconds, (Ts,), (Td,).
        effects: Change of the prediction when a motion token is taken away, (Td,).
        windows: Name to start and stop in seconds of what was planted.
        title: What is to be seen, or the clip.
    """
    span_s = (min(static_t_s[0], dynamic_t_s[0]) - 0.4, max(static_t_s[-1], dynamic_t_s[-1]) + 0.4)
    step = -(-max(len(static_t_s), len(dynamic_t_s)) // MOST_PICTURES)
    side_s = 0.94 * step * float(np.median(np.diff(dynamic_t_s))) if len(dynamic_t_s) > 1 else 0.5
    side_in = WIDTH_IN * side_s / (span_s[1] - span_s[0])
    heights = (side_in, 1.2, side_in, 1.3)
    fig, axes = plt.subplots(
        4, 1, figsize=(8, sum(heights) + 1), sharex=True, height_ratios=heights, layout="constrained"
    )
    draw_strips(axes[0], axes[2], crops, speed, static_t_s, dynamic_t_s, side_s, step)
    _links(axes[1], attention, static_t_s, dynamic_t_s)
    plot_effects(dynamic_t_s, effects, windows=windows, ax=axes[3])
    for ax, label in zip(axes, ("face", "attention", "motion", "change of\nthe score"), strict=True):
        ax.set(xlim=span_s, ylabel=label, xlabel="")
    axes[3].set_xlabel("time (s)")
    fig.suptitle(title)
    return fig


def draw_strips(
    face_ax: Axes,
    motion_ax: Axes,
    crops: np.ndarray,
    speed: np.ndarray,
    static_t_s: np.ndarray,
    dynamic_t_s: np.ndarray,
    side_s: float,
    step: int,
) -> None:
    """Draw every `step`th face and motion token of a clip at its time, `side_s` seconds wide, with a bar of the speed.

    The arrays are those of `plot_clip_attention`.
    """
    for k in range(0, len(static_t_s), step):
        draw_picture(face_ax, crops[k], static_t_s[k], side_s)
    brightest = float(speed.max()) or 1.0
    for k in range(0, len(dynamic_t_s), step):
        image = draw_picture(motion_ax, speed[k], dynamic_t_s[k], side_s, cmap="viridis", vmin=0, vmax=brightest)
    unit = f"mean speed\n(px/frame\nof {speed.shape[-1]} px)"
    motion_ax.figure.colorbar(image, ax=motion_ax, label=unit, pad=0.01)


def draw_picture(ax: Axes, image: np.ndarray, t_s: float, side_s: float, **look):
    """Draw a picture `side_s` seconds wide around its time on a time axis; returns what imshow does."""
    shown = ax.imshow(image, extent=(t_s - side_s / 2, t_s + side_s / 2, 0, 1), aspect="auto", **look)
    ax.set(ylim=(0, 1), yticks=[])
    ax.grid(False)
    return shown


def _links(ax: Axes, attention: np.ndarray, static_t_s: np.ndarray, dynamic_t_s: np.ndarray) -> None:
    """Lines from each face token (top) to each motion token (bottom), as dark as the weight."""
    pairs = [(i, j) for i in range(len(static_t_s)) for j in range(len(dynamic_t_s))]
    lines = [[(static_t_s[i], 1), (dynamic_t_s[j], 0)] for i, j in pairs]
    weights = np.array([attention[i, j] for i, j in pairs])
    share = weights / max(float(weights.max()), 1e-9)
    ax.add_collection(LineCollection(lines, colors=[(0.2, 0.2, 0.2, a) for a in share], linewidths=0.3 + 2 * share))
    ax.set(ylim=(0, 1), yticks=[])
    ax.grid(False)


def plot_effects(
    t_s: np.ndarray,
    effects: np.ndarray,
    *,
    windows: Mapping[str, tuple[float, float]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how far the prediction moves when each motion token is replaced by the mean one.

    Args:
        t_s: Centre of each motion token in seconds, (Td,).
        effects: Change of the prediction, (Td,).
        windows: Name to start and stop in seconds; shaded.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 2.2), layout="constrained")
    width = 0.8 * float(np.median(np.diff(t_s))) if len(t_s) > 1 else 0.4
    for (name, (start, stop)), color in zip((windows or {}).items(), (WARM, COOL), strict=False):
        ax.axvspan(start, stop, color=color, alpha=0.35, lw=0, label=name)
    ax.bar(t_s, effects, width, color=ACCENT)
    ax.axhline(0, color=ACCENT, lw=0.8)
    ax.set(xlabel="time (s)", ylabel="change of the score")
    if windows:
        ax.legend(loc="upper left", ncols=2, frameon=False, borderaxespad=0.1)
        ax.margins(y=0.35)
    return ax


def plot_attention_map(
    attention: np.ndarray, static_t_s: np.ndarray, dynamic_t_s: np.ndarray, *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw one map of attention, face tokens against motion tokens; rows sum to 1.

    Args:
        attention: (Ts, Td).
        static_t_s, dynamic_t_s: Centres in seconds, (Ts,), (Td,).
        title: Head or clip.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(4.2, 3.6), layout="constrained")
    image = _map(ax, attention, static_t_s, dynamic_t_s, float(attention.max()))
    ax.figure.colorbar(image, ax=ax, label="attention")
    ax.set(xlabel="motion token (s)", ylabel="face token (s)", title=title)
    return ax


def _map(ax: Axes, attention: np.ndarray, static_t_s: np.ndarray, dynamic_t_s: np.ndarray, top: float):
    ax.grid(False)
    image = ax.pcolormesh(dynamic_t_s, static_t_s, attention, shading="nearest", cmap="viridis", vmin=0, vmax=top)
    half_s = float(np.median(np.diff(static_t_s))) / 2 if len(static_t_s) > 1 else 0.5
    ax.set_ylim(static_t_s[-1] + half_s, static_t_s[0] - half_s)  # time runs down
    return image


def plot_heads(
    attention: np.ndarray, static_t_s: np.ndarray, dynamic_t_s: np.ndarray, entropy: Sequence[float], *, title: str = ""
) -> Figure:
    """Draw the map of every head on one scale, its entropy above it (1 = uniform).

    Args:
        attention: Of one clip, (heads, Ts, Td).
        static_t_s, dynamic_t_s: Centres in seconds, (Ts,), (Td,).
        entropy: Share of the uniform row's entropy, (heads,).
        title: The clip.
    """
    n = len(attention)
    rows = -(-n // 4)
    fig, axes = plt.subplots(
        rows, min(n, 4), figsize=(8, 2.5 * rows + 0.2), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for h, ax in enumerate(axes.flat[:n]):
        image = _map(ax, attention[h], static_t_s, dynamic_t_s, float(attention.max()))
        ax.set_title(f"head {h + 1}: entropy {entropy[h]:.2f}", fontsize=9)
    fig.colorbar(image, ax=axes, label="attention", pad=0.01)
    fig.supxlabel("motion token (s)", fontsize=10)
    fig.supylabel("face token (s)", fontsize=10)
    fig.suptitle(title)
    return fig


def plot_lag(profiles: Mapping[str, pd.DataFrame], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw mean attention by how much later the motion token is than the face token.

    Args:
        profiles: Name to columns lag_s, attention.
        title: The finding.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
    for (name, profile), style in zip(profiles.items(), ("-", "--", ":", "-."), strict=False):
        ax.plot(profile["lag_s"], profile["attention"], style, marker="o", ms=3, label=name)
    ax.set(xlabel="motion token later than face token by (s)", ylabel="mean attention", title=title, ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def plot_entropy(entropy: np.ndarray, *, title: str = "") -> Figure:
    """Draw how the entropy of each head spreads over clips: beside that of a uniform map, 1, and close up.

    Args:
        entropy: (clips, heads).
        title: The finding.
    """
    fig, (whole, close) = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
    for ax in (whole, close):
        heads = [f"head {h + 1}" for h in range(entropy.shape[1])]
        ax.boxplot(entropy, tick_labels=heads, medianprops={"color": "#D55E00"})
    whole.axhline(1, color=ACCENT, ls=":", lw=1, label="uniform")
    whole.set(ylabel="entropy / uniform", ylim=(0, 1.08))
    whole.legend(frameon=False, loc="center right")
    close.set_title("close up", fontsize=10)
    fig.suptitle(title)
    return fig


def plot_share_against_effect(
    share: np.ndarray, effects: np.ndarray, *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw the attention that motion tokens get against what taking them away does.

    Args:
        share: Attention per motion token of many clips, (n,).
        effects: Absolute change of the prediction, (n,).
        title: The finding.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
    ax.plot(share, effects, ".", color=ACCENT, alpha=0.35, ms=4)
    ax.set(xlabel="share of the clip's attention", ylabel="|change of the score|", title=title, ylim=(0, None))
    return ax
