"""Pictures of notebook 07 on clips' own time axes: what each head reads, and what that is worth to each trait.

In: arrays as `helpers.attention` and `helpers.attention` compute them. Out: Figures.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.clips import DISPLAY
from helpers.plots.attention import COOL, MOST_PICTURES, WARM, WIDTH_IN, draw_strips


def plot_heads_and_traits(
    crops: np.ndarray,
    speed: np.ndarray,
    shares: np.ndarray,
    relevance: np.ndarray,
    targets: Sequence[str],
    static_t_s: np.ndarray,
    dynamic_t_s: np.ndarray,
    *,
    windows: Mapping[str, tuple[float, float]] | None = None,
    title: str = "",
) -> Figure:
    """Draw one clip on its time axis: faces, motion, a row per head, a row per trait.

    Args:
        crops: Face of each face token, RGB uint8 (Ts, S, S, 3).
        speed: Mean speed of each motion token in px per frame, (Td, S, S).
        shares: Share of each head's attention per motion token, (heads, Td).
        relevance: Signed, of each trait and motion token, (k, Td), in units of the score.
        targets: Names of the k rows.
        static_t_s, dynamic_t_s: Centres in seconds, (Ts,), (Td,).
        windows: Name to start and stop in seconds of what was planted.
        title: What is to be seen, or the clip.
    """
    step_s = float(np.median(np.diff(dynamic_t_s))) if len(dynamic_t_s) > 1 else 0.5
    span_s = (min(static_t_s[0], dynamic_t_s[0]) - 0.6 * step_s, max(static_t_s[-1], dynamic_t_s[-1]) + 0.6 * step_s)
    step = -(-max(len(static_t_s), len(dynamic_t_s)) // MOST_PICTURES)
    side_s = 0.94 * step * step_s
    side_in = (WIDTH_IN - 1.6) * side_s / (span_s[1] - span_s[0])
    heights = (side_in, side_in, 0.22 * len(shares) + 0.1, 0.22 * len(targets) + 0.1)
    fig, axes = plt.subplots(
        4, 1, figsize=(8, sum(heights) + 1.3), sharex=True, height_ratios=heights, layout="constrained"
    )
    draw_strips(axes[0], axes[1], crops, speed, static_t_s, dynamic_t_s, side_s, step)
    heads = [f"head {h + 1}" for h in range(len(shares))]
    _rows(axes[2], shares, dynamic_t_s, step_s, heads, "share", cmap="viridis", vmin=0)
    most = float(np.abs(relevance).max()) or 1.0
    names = [DISPLAY.get(target, target) for target in targets]
    _rows(axes[3], relevance, dynamic_t_s, step_s, names, "relevance\n(score)", cmap="RdBu_r", vmin=-most, vmax=most)
    for (name, (start, stop)), color in zip((windows or {}).items(), (WARM, COOL), strict=False):
        for ax in axes[2:]:
            ax.axvline(start, color=color, lw=2)
            ax.axvline(stop, color=color, lw=2, label=name if ax is axes[3] else "")
    for ax, label in zip(axes, ("face", "motion", "attention", "relevance"), strict=True):
        ax.set(xlim=span_s, ylabel=label)
    axes[3].set_xlabel("time (s)")
    if windows:
        fig.legend(*axes[3].get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    fig.suptitle(title)
    return fig


def _rows(ax: Axes, values: np.ndarray, t_s: np.ndarray, step_s: float, names: list[str], label: str, **look) -> None:
    """One row of coloured cells per name, on the time axis."""
    edges = np.append(t_s - step_s / 2, t_s[-1] + step_s / 2)
    cells = ax.pcolormesh(edges, np.arange(len(names) + 1) - 0.5, values, **look)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(False)
    ax.figure.colorbar(cells, ax=ax, label=label, pad=0.01)


def plot_clips(
    relevance: np.ndarray,
    names: Sequence[str],
    t_s: np.ndarray,
    entropy: Sequence[float],
    *,
    inside: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Draw several clips under each other, one row each: the share of relevance of its motion tokens.

    Args:
        relevance: Share per motion token, (clips, Td), NaN where there is no token; rows sum to 1.
        names: Of the clips.
        t_s: Centres of the tokens in seconds, (Td,).
        entropy: Of each clip's attention, 1 = uniform; shown beside the name.
        inside: Tokens in a planted window, bool (clips, Td); outlined.
        title: The finding.
    """
    step_s = float(np.median(np.diff(t_s))) if len(t_s) > 1 else 0.5
    fig, ax = plt.subplots(figsize=(8, 1.2 + 0.27 * len(names)), layout="constrained")
    labels = [f"{name}  ({e:.3f})" for name, e in zip(names, entropy, strict=True)]
    _rows(ax, relevance, t_s, step_s, labels, "share of the clip's relevance", cmap="viridis", vmin=0)
    for row, token in np.argwhere(inside) if inside is not None else ():
        ax.add_patch(
            plt.Rectangle((t_s[token] - 0.46 * step_s, row - 0.44), 0.92 * step_s, 0.88, fill=False, ec=WARM, lw=1.6)
        )
    ax.set(xlabel="time (s)", ylabel="clip (entropy of its attention)", title=title)
    return fig


def plot_groups(profiles: Mapping[str, np.ndarray], t_s: np.ndarray, *, ylabel: str, title: str = "") -> Axes:
    """Draw a mean profile over time per group of clips.

    Args:
        profiles: By group, one value per motion token and clip, (clips, Td); the band is the middle half of the clips.
        t_s: Centres of the tokens in seconds, (Td,).
        ylabel: What the values are.
        title: The finding.
    """
    _, ax = plt.subplots(figsize=(7.5, 2.8), layout="constrained")
    for (name, values), color in zip(profiles.items(), ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=False):
        low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
        ax.fill_between(t_s, low, high, color=color, alpha=0.15, lw=0)
        ax.plot(t_s, middle, "o-", ms=3, color=color, label=f"{name} ({len(values)} clips)")
    ax.set(xlabel="time (s)", ylabel=ylabel, ylim=(0, None), title=title)
    ax.legend(frameon=False)
    return ax
