"""Figures of 07: attention over the clip's own frames and motion, its maps, and whether what is seen is real.

In: arrays as `helpers.attention` computes them, parts of `attention.json`. Out: Axes, or Figures for grids.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from helpers.clips import DISPLAY
from helpers.plots import ACCENT, NEUTRAL, TRAIT_COLORS

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


TRUE = "#D55E00"
ORDERS = {
    "occlusion": ("#D55E00", "-"),
    "relevance": ("#0072B2", "--"),
    "attention": ("#009E73", "-."),
    "random": (NEUTRAL, ":"),
}
MODELS = {"true": "true model", "shuffled": "trained on shuffled motion"}


def plot_pointing(evidence: Mapping[str, Any], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw in how many test clips the largest effect lies in a planted window: bars are means, dots seeds.

    Args:
        evidence: As `helpers.evidence.evaluate` returns it; lines are its intervals over sources.
        title: The finding.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 2.6), layout="constrained")
    labels = {
        "occlusion_pointing": "one token away: true model",
        "occlusion_pointing_shuffled": "one token away: shuffled motion",
        "deletion_pointing": "random deletions: true model",
        "deletion_pointing_shuffled": "random deletions: shuffled motion",
    }
    for row, name in enumerate(labels):
        color = NEUTRAL if name.endswith("shuffled") else TRUE
        ax.barh(-row, evidence[name], color=color, alpha=0.6, height=0.65)
        _interval(ax, evidence[name], evidence[f"{name}_interval"], -row)
        seeds = [seed[name] for seed in evidence["seeds"]]
        ax.plot(seeds, [-row + 0.2] * len(seeds), ".", color=ACCENT, ms=4)
    ax.axvline(evidence["occlusion_chance"], color=ACCENT, ls=":", label="any token")
    ax.axvline(evidence["motion_pointing"], color=ACCENT, ls="--", label="token of most unusual motion")
    ax.set_yticks([-row for row in range(len(labels))], list(labels.values()))
    ax.set(xlim=(0, 1.02), xlabel="share of test clips whose largest effect lies in a planted window", title=title)
    ax.legend(
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(0.0, -0.28),
        ncols=2,
        title="without a model:",
        title_fontsize=10,
    )
    return ax


def _interval(ax: Axes, value: float, interval: list[float] | None, y: float) -> None:
    if interval is not None:
        ax.errorbar(value, y, xerr=[[value - interval[0]], [interval[1] - value]], color=ACCENT, capsize=3, lw=1)


def plot_planted_shares(measures: Mapping[str, Mapping[str, Mapping[str, Any]]], *, title: str = "") -> Figure:
    """Draw per trait how much of a measure lies in planted windows, beside the control and the uniform share.

    Args:
        measures: By name and target, what `helpers.evidence.share_table` returns.
        title: The finding.
    """
    fig, axes = plt.subplots(
        1, len(measures), figsize=(8, 3.0), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (name, rows) in zip(axes.flat, measures.items(), strict=True):
        for y, (target, row) in enumerate(rows.items()):
            color = TRAIT_COLORS.get(target, TRUE)
            ax.barh(-y, row["inside"], 0.36, color=color)
            ax.barh(-y - 0.38, row["inside_shuffled"], 0.3, color=NEUTRAL, label="" if y else "shuffled motion")
            _interval(ax, row["inside"], row["interval"], -y)
            _interval(ax, row["inside_shuffled"], row["interval_shuffled"], -y - 0.38)
        ax.axvline(row["uniform"], color=ACCENT, ls=":", label="uniform")
        ax.set_yticks([-y - 0.15 for y in range(len(rows))], [DISPLAY.get(target, target) for target in rows])
        ax.set(xlim=(0, 1), title=name, xlabel="share in planted windows")
    axes.flat[-1].legend(frameon=False, loc="lower right")
    fig.suptitle(title)
    return fig


def plot_deletion(table: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draw curves of deletion and insertion, the model's beside those of its control.

    Args:
        table: As `helpers.evidence.deletion_table` returns it.
        title: The finding.
    """
    fig, axes = plt.subplots(2, 2, figsize=(8, 5.2), sharex=True, sharey=True, layout="constrained")
    for column, (key, model) in enumerate(MODELS.items()):
        for row, (kind, what) in enumerate((("deletion", "taken away"), ("insertion", "put back"))):
            ax = axes[row, column]
            for order, (color, style) in ORDERS.items():
                ax.plot(
                    table["replaced"],
                    table[key][order][kind],
                    style,
                    color=color,
                    label="at random" if order == "random" else f"by {order}",
                    lw=1.8,
                )
            ax.set(title=f"{model}: {kind}", xlabel=f"share of motion tokens {what}")
            if not column:
                ax.set_ylabel("mean |change of the score|")
    axes[0, 0].set_ylim(0, None)
    axes[0, 1].legend(frameon=False, loc="upper left")
    fig.suptitle(title)
    return fig


def plot_map_correlations(
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]], *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw how alike two models' maps are, by measure.

    Args:
        rows: By comparison and measure, `value` and `interval`, as `helpers.evidence` returns them.
        title: The finding.
        ax: Axes to draw on; a new figure by default.
    """
    measures = list(next(iter(rows.values())))
    if ax is None:
        _, ax = plt.subplots(figsize=(7.5, 0.9 + 0.55 * len(rows)), layout="constrained")
    for k, measure in enumerate(measures):
        y = np.arange(len(rows)) + 0.22 * (k - (len(measures) - 1) / 2)
        values = [row[measure]["value"] for row in rows.values()]
        color, marker = ORDERS[measure][0], "osD^"[k % 4]
        for each, row in zip(y, rows.values(), strict=True):
            low, high = row[measure]["interval"] or [row[measure]["value"]] * 2
            ax.plot([low, high], [each, each], color=color, lw=1.5)
        ax.plot(values, y, marker, color=color, ms=6, ls="", label=measure)
    ax.axvline(0, color=ACCENT, lw=0.8)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(-0.3, 1.02), ylim=(len(rows) - 0.5, -0.5), xlabel="rank correlation of two models' maps", title=title)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
