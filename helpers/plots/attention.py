"""Figures of 07: attention over the clip's own frames and motion, its maps, and whether what is seen is real.

In: a `helpers.gallery.ClipView`, arrays as `helpers.attention` computes them, parts of `attention.json`. Out: Axes, or
Figures for grids. Ts face tokens, Td motion tokens, k traits; times are the tokens' centres in seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

from helpers.plots import (
    ACCENT,
    BLUE,
    GREEN,
    NEUTRAL,
    ORANGE,
    PINK,
    RED,
    SKY,
    TRAIT_COLORS,
    axes,
    intervals,
    name_of,
    picture_at,
)

WARM, COOL = ORANGE, SKY
WIDTH_IN, MOST_PICTURES, ARROWS = 5.9, 10, 14  # arrows along a side of the picture of motion
MOST_LINES = 5_000  # of a clip's attention; the faintest are left out
SEGMENT_IN = (6.6, 2.35)  # at notebook width: the explorer's text is then not scaled down
COLORS = {"occlusion": RED, "relevance": BLUE, "attention": GREEN}
Windows = Mapping[str, tuple[float, float]]  # start and stop in seconds of what was planted, by name


def plot_clip_attention(view, effects: np.ndarray, *, title: str = "") -> Figure:
    """Draw one clip on its time axis: faces above, motion below, attention between them, and what occlusion says.

    A line's strength is its weight, the mean over heads; `effects` (Td,): change of the prediction without each token.
    """
    fig, rows = _timeline(view, ("face", "attention", "motion", "change of\nthe score"), 1.3)
    _links(rows["attention"], view.attention.mean(axis=0), view.face_t_s, view.motion_t_s)
    _strips(rows, view)
    what = "change of\nthe score"
    plot_effects(view.motion_t_s, effects, windows=view.windows, ax=rows[what]).set(ylabel=what)
    fig.suptitle(title)
    return fig


def plot_heads_and_traits(view, relevance: np.ndarray, targets: Sequence[str], *, title: str = "") -> Figure:
    """Draw one clip on its time axis: faces, motion, a row per head, a row per trait.

    `relevance` (k, Td): signed, of each trait and motion token, in units of the score; `targets`: names of the k rows.
    """
    labels = ("face", "motion", "attention", "relevance")
    fig, rows = _timeline(view, labels, 0.22 * max(len(targets), len(view.attention)) + 0.1)
    _strips(rows, view)
    heads, traits = rows["attention"], rows["relevance"]
    names = [f"head {h + 1}" for h in range(len(view.attention))]
    _rows(heads, view.attention.mean(axis=1), view.motion_t_s, names, "share", cmap="viridis", vmin=0)
    look = {"cmap": "RdBu_r", "norm": CenteredNorm()}
    _rows(traits, relevance, view.motion_t_s, [name_of(target) for target in targets], "relevance\n(score)", **look)
    for (name, ends), color in zip(view.windows.items(), (WARM, COOL), strict=False):
        for ax, label in ((heads, ""), (traits, name)):
            ax.vlines(ends, *ax.get_ylim(), color=color, lw=2, label=label)
    if view.windows:
        fig.legend(*traits.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    fig.suptitle(title)
    return fig


def _timeline(view, labels: Sequence[str], height: float) -> tuple[Figure, dict[str, Axes]]:
    """Rows on the clip's time axis by label, but for faces or motion that there are no pictures of; these are square,
    the others `height` inches high.
    """
    labels = [label for label in labels if {"face": view.crops, "motion": view.speed}.get(label, ()) is not None]
    all_s, step_s = np.concatenate([view.face_t_s, view.motion_t_s]), _step(view.motion_t_s)
    span_s = all_s.min() - 0.6 * step_s, all_s.max() + 0.6 * step_s
    side_in = WIDTH_IN * _shown(view)[1] / (span_s[1] - span_s[0])
    tall = [side_in if label in ("face", "motion") else height for label in labels]
    size = {"figsize": (8, sum(tall) + 1.3), "height_ratios": tall, "layout": "constrained"}
    fig, rows = plt.subplots(len(tall), 1, sharex=True, **size)
    for ax, label in zip(rows, labels, strict=True):
        ax.set(xlim=span_s, ylabel=label)
    rows[-1].set_xlabel("time (s)")
    return fig, dict(zip(labels, rows, strict=True))


def _step(t_s: np.ndarray) -> float:
    return float(np.median(np.diff(t_s))) if len(t_s) > 1 else 0.5


def _shown(view) -> tuple[int, float]:
    """The step in which tokens are shown as pictures, and the width of a picture in seconds."""
    step = -(-max(len(view.face_t_s), len(view.motion_t_s)) // MOST_PICTURES)
    return step, 0.94 * step * _step(view.motion_t_s)


def _strips(rows: Mapping[str, Axes], view) -> None:
    """Draw some of the faces and of the speeds of motion at their times, with a bar of the speed, where there are."""
    step, side_s = _shown(view)
    for t_s, crop in zip(view.face_t_s[::step], () if view.crops is None else view.crops[::step], strict=False):
        picture_at(rows["face"], crop, t_s, side_s)
    if view.speed is not None:
        look = {"cmap": "viridis", "vmin": 0, "vmax": float(view.speed.max()) or 1.0}
        for t_s, speed in zip(view.motion_t_s[::step], view.speed[::step], strict=True):
            image = picture_at(rows["motion"], speed, t_s, side_s, **look)
        unit = f"mean speed\n(px/frame\nof {view.speed.shape[-1]} px)"
        rows["motion"].figure.colorbar(image, ax=rows["motion"], label=unit, pad=0.01)


def _links(ax: Axes, attention: np.ndarray, static_t_s: np.ndarray, dynamic_t_s: np.ndarray) -> None:
    """Lines from each face token (top) to each motion token (bottom), as dark as the weight."""
    strong = np.sort(np.argsort(-attention.ravel(), kind="stable")[:MOST_LINES])
    lines = [[(static_t_s[i // len(dynamic_t_s)], 1), (dynamic_t_s[i % len(dynamic_t_s)], 0)] for i in strong]
    share = attention.ravel()[strong] / max(float(attention.max()), 1e-9)
    ax.add_collection(LineCollection(lines, colors=[(0.2, 0.2, 0.2, a) for a in share], linewidths=0.3 + 2 * share))
    ax.set(ylim=(0, 1), yticks=[])
    ax.grid(False)


def plot_effects(
    t_s: np.ndarray,
    effects: np.ndarray,
    *,
    windows: Windows | None = None,
    color: str = ACCENT,
    label: str = "change of the score",
    ax: Axes | None = None,
) -> Axes:
    """Draw what each motion token does to a score: signed, (Td,), at its centre; what was planted is shaded."""
    ax = axes(ax, 7, 2.2)
    _shade(ax, windows)
    ax.bar(t_s, effects, 0.8 * _step(t_s), color=color)
    ax.axhline(0, color=ACCENT, lw=0.8)
    ax.set(xlabel="time (s)", ylabel=label)
    if windows:
        ax.legend(loc="upper left", ncols=2, borderaxespad=0.1)
        ax.margins(y=0.35)
    return ax


def _shade(ax: Axes, windows: Windows | None) -> None:
    for (name, (start, stop)), color in zip((windows or {}).items(), (WARM, COOL), strict=False):
        ax.axvspan(start, stop, color=color, alpha=0.35, lw=0, label=name)


def plot_attention_map(
    attention: np.ndarray, static_t_s: np.ndarray, dynamic_t_s: np.ndarray, *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw one map of attention (Ts, Td), face tokens against motion tokens; rows sum to 1."""
    ax = axes(ax, 4.2, 3.6)
    image = _map(ax, attention, static_t_s, dynamic_t_s, float(attention.max()))
    ax.figure.colorbar(image, ax=ax, label="attention")
    ax.set(xlabel="motion token (s)", ylabel="face token (s)", title=title)
    return ax


def _map(ax: Axes, attention: np.ndarray, static_t_s: np.ndarray, dynamic_t_s: np.ndarray, top: float):
    image = ax.pcolormesh(dynamic_t_s, static_t_s, attention, shading="nearest", cmap="viridis", vmin=0, vmax=top)
    half_s = _step(static_t_s) / 2
    ax.set_ylim(static_t_s[-1] + half_s, static_t_s[0] - half_s)  # time runs down
    return image


def plot_heads(
    attention: np.ndarray, static_t_s: np.ndarray, dynamic_t_s: np.ndarray, entropy: Sequence[float], *, title: str = ""
) -> Figure:
    """Draw the map of every head, (heads, Ts, Td), on one scale, its entropy, (heads,), above it (1 = uniform)."""
    n, rows = len(attention), -(-len(attention) // 4)
    size = {"figsize": (8, 2.5 * rows + 0.2), "squeeze": False, "layout": "constrained"}
    fig, panels = plt.subplots(rows, min(n, 4), sharex=True, sharey=True, **size)
    for h, ax in enumerate(panels.flat[:n]):
        image = _map(ax, attention[h], static_t_s, dynamic_t_s, float(attention.max()))
        ax.set_title(f"head {h + 1}: entropy {entropy[h]:.2f}", fontsize=9)
    fig.colorbar(image, ax=panels, label="attention", pad=0.01)
    fig.supxlabel("motion token (s)", fontsize=10)
    fig.supylabel("face token (s)", fontsize=10)
    fig.suptitle(title)
    return fig


def plot_lag(profiles: Mapping[str, pd.DataFrame], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw mean attention by how much later the motion token is than the face token: columns lag_s, attention."""
    ax = axes(ax, 7, 2.8)
    for (name, profile), style in zip(profiles.items(), ("-", "--", ":", "-."), strict=False):
        ax.plot(profile["lag_s"], profile["attention"], style, marker="o", ms=3, label=name)
    ax.set(xlabel="motion token later than face token by (s)", ylabel="mean attention", title=title, ylim=(0, None))
    ax.legend()
    return ax


def plot_entropy(entropy: np.ndarray, *, title: str = "") -> Figure:
    """Draw how the entropy of each head spreads over (clips, heads): beside that of a uniform map, 1, and close up."""
    fig, (whole, close) = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
    for ax in (whole, close):
        heads = [f"head {h + 1}" for h in range(entropy.shape[1])]
        ax.boxplot(entropy, tick_labels=heads, medianprops={"color": RED})
    whole.axhline(1, color=ACCENT, ls=":", lw=1, label="uniform")
    whole.set(ylabel="entropy / uniform", ylim=(0, 1.08))
    whole.legend(loc="center right")
    close.set_title("close up", fontsize=10)
    fig.suptitle(title)
    return fig


def plot_share_against_effect(
    share: np.ndarray, effects: np.ndarray, *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw the attention that motion tokens get, (n,), against what taking them away does, its absolute value, (n,)."""
    ax = axes(ax, 7, 2.8)
    ax.plot(share, effects, ".", color=ACCENT, alpha=0.35, ms=4)
    ax.set(xlabel="share of the clip's attention", ylabel="|change of the score|", title=title, ylim=(0, None))
    return ax


def _rows(ax: Axes, values: np.ndarray, t_s: np.ndarray, names: Sequence[str], label: str, **look) -> None:
    """One row of coloured cells per name, on the time axis."""
    edges = np.append(t_s - _step(t_s) / 2, t_s[-1] + _step(t_s) / 2)
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
        names, entropy: Of the clips, and of their attention (1 = uniform), shown beside the name.
        t_s: Centres of the tokens in seconds, (Td,).
        inside: Tokens in a planted window, bool (clips, Td); outlined.
    """
    fig, ax = plt.subplots(figsize=(8, 1.2 + 0.27 * len(names)), layout="constrained")
    labels = [f"{name}  ({e:.3f})" for name, e in zip(names, entropy, strict=True)]
    _rows(ax, relevance, t_s, labels, "share of the clip's relevance", cmap="viridis", vmin=0)
    width = 0.92 * _step(t_s)
    for row, token in np.argwhere(inside) if inside is not None else ():
        corner = t_s[token] - width / 2, row - 0.44
        ax.add_patch(plt.Rectangle(corner, width, 0.88, fill=False, ec=WARM, lw=1.6))
    ax.set(xlabel="time (s)", ylabel="clip (entropy of its attention)", title=title)
    return fig


def plot_groups(profiles: Mapping[str, np.ndarray], t_s: np.ndarray, *, ylabel: str, title: str = "") -> Axes:
    """Draw the median profile over time of groups of clips, (clips, Td) each; the band is their middle half."""
    ax = axes(None, 7.5, 2.8)
    for (name, values), color in zip(profiles.items(), (BLUE, RED, GREEN, PINK), strict=False):
        low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
        ax.fill_between(t_s, low, high, color=color, alpha=0.15, lw=0)
        ax.plot(t_s, middle, "o-", ms=3, color=color, label=f"{name} ({len(values)} clips)")
    ax.set(xlabel="time (s)", ylabel=ylabel, ylim=(0, None), title=title)
    ax.legend()
    return ax


def plot_pointing(evidence: Mapping[str, Any], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw in how many test clips the largest effect lies in a planted window: bars are means, dots seeds.

    Args:
        evidence: As `helpers.evidence.evaluate` returns it; lines are its intervals over sources.
    """
    ax = axes(ax, 7.5, 2.6)
    labels = {
        "occlusion_pointing": "true model",
        "occlusion_pointing_shuffled": "trained on shuffled motion",
    }
    for row, name in enumerate(labels):
        _bar(ax, row, evidence[name], evidence[f"{name}_interval"], NEUTRAL if name.endswith("shuffled") else RED)
        seeds = [seed[name] for seed in evidence["seeds"]]
        ax.plot(seeds, [row - 0.2] * len(seeds), ".", color=ACCENT, ms=4)
    ax.axvline(evidence["occlusion_chance"], color=ACCENT, ls=":", label="any token")
    ax.axvline(evidence["motion_pointing"], color=ACCENT, ls="--", label="token of most unusual motion")
    ax.set_yticks(range(len(labels)), list(labels.values()))
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.02), xlabel="share of test clips whose largest effect lies in a planted window", title=title)
    place = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.28), "ncols": 2}
    ax.legend(title="without a model:", title_fontsize=10, **place)
    return ax


def _bar(ax: Axes, y: float, value: float, interval: Sequence[float] | None, color: str, **look) -> None:
    """A bar with the line of its interval, where there is one."""
    ax.barh(y, value, color=color, **{"alpha": 0.6, "height": 0.65} | look)
    if interval is not None:
        intervals(ax, [value], interval[:1], interval[1:], [y], fmt="none", color=ACCENT, capsize=3, lw=1)


def plot_planted_shares(measures: Mapping[str, Mapping[str, Mapping[str, Any]]], *, title: str = "") -> Figure:
    """Draw per trait how much of a measure lies in planted windows, beside the control and the uniform share.

    Args:
        measures: By name and target, what `helpers.evidence.share_table` returns.
    """
    fig, panels = plt.subplots(1, len(measures), figsize=(8, 3.0), sharex=True, squeeze=False, layout="constrained")
    for ax, (name, rows) in zip(panels.flat, measures.items(), strict=True):
        for y, (target, row) in enumerate(rows.items()):
            look = {"alpha": 1, "height": 0.36}
            _bar(ax, y, row["inside"], row["interval"], TRAIT_COLORS.get(target, RED), **look)
            look |= {"height": 0.3, "label": "" if y else "shuffled motion"}
            _bar(ax, y + 0.38, row["inside_shuffled"], row["interval_shuffled"], NEUTRAL, **look)
        ax.axvline(row["uniform"], color=ACCENT, ls=":", label="uniform")
        names = [name_of(target) for target in rows] if ax is panels[0, 0] else []
        ax.set_yticks(np.arange(len(names)) + 0.15, names)
        ax.invert_yaxis()
        ax.set(xlim=(0, 1), title=name, xlabel="share in planted windows")
    panels.flat[-1].legend(loc="lower right")
    fig.suptitle(title)
    return fig


def plot_map_correlations(
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]], *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw how alike two models' maps are, by measure.

    Args:
        rows: By comparison and measure, `value` and `interval`, as `helpers.evidence` returns them.
    """
    ax = axes(ax, 7.5, 0.9 + 0.55 * len(rows))
    measures = list(next(iter(rows.values())))
    for k, measure in enumerate(measures):
        y = np.arange(len(rows)) + 0.22 * (k - (len(measures) - 1) / 2)
        values = [row[measure]["value"] for row in rows.values()]
        low, high = zip(*(row[measure]["interval"] or [None] * 2 for row in rows.values()), strict=True)
        look = {"color": COLORS[measure], "fmt": "osD^"[k % 4], "ms": 6, "label": measure}
        intervals(ax, values, low, high, y, **look)
    ax.axvline(0, color=ACCENT, lw=0.8)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(-0.3, 1.02), ylim=(len(rows) - 0.5, -0.5), xlabel="rank correlation of two models' maps", title=title)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def plot_segment(view, segment: int, *, head: int | None = None) -> Figure:
    """Draw one stretch of motion: the face of its time, where it moves, and which faces attend to it in each head.

    The scales are the clip's own; `segment`: number of the motion token; `head`: the one that is marked, None for none.
    """
    fig, panels = plt.subplots(1, 3, figsize=SEGMENT_IN, width_ratios=(1, 1.25, 1.45), layout="constrained")
    _close_up(panels, view, segment, head)
    return fig


def _close_up(panels: Sequence[Axes], view, segment: int, head: int | None) -> None:
    face, top = view.face_of(segment), view.attention.max()
    panels[0].set_title(f"face at {view.face_t_s[face]:.2f} s")
    for ax, part in zip(panels, (view.crops, view.speed), strict=False):
        ax.axis("off")
        if part is None:
            ax.text(0.5, 0.5, "no picture:\nnot made of\nthis video here", ha="center", va="center")
    if view.crops is not None:
        panels[0].imshow(view.crops[face])
    if view.speed is not None:
        plot_motion(view.speed[segment], view.flow[segment], float(view.speed.max()), ax=panels[1])
    plot_head_weights(view.attention[:, :, segment], view.face_t_s, top, face=face, head=head, ax=panels[2])


def plot_motion(speed: np.ndarray, flow: np.ndarray, fastest_px: float, *, ax: Axes | None = None) -> Axes:
    """Draw where a face moves, in px per frame: mean speed (S, S) as colour, up to `fastest_px`, and the flow (S, S, 2)
    of its fastest moment as arrows, which are scaled to the longest.
    """
    ax = axes(ax, 2.8, 2.3)
    image = ax.imshow(speed, cmap="viridis", vmin=0, vmax=max(fastest_px, 1e-6))
    step = max(1, len(speed) // ARROWS)
    y, x = np.mgrid[step // 2 : len(speed) : step, step // 2 : len(speed) : step]
    dx, dy = np.moveaxis(flow[y, x], -1, 0)
    longest = max(float(np.hypot(dx, dy).max()), 1e-6)
    ax.quiver(x, y, dx, dy, color="white", angles="xy", scale_units="xy", scale=longest / (1.6 * step), width=0.008)
    ax.figure.colorbar(image, ax=ax, label="speed (px/frame)", shrink=0.9)
    ax.set_title("motion")
    ax.axis("off")
    return ax


def plot_head_weights(
    weights: np.ndarray, face_t_s: np.ndarray, top: float, *, face: int, head: int | None, ax: Axes | None = None
) -> Axes:
    """Draw how much face tokens attend to one motion token, (heads, Ts), up to `top`; one face and head are marked."""
    ax = axes(ax, 3.2, 2.3)
    heads = np.arange(1, len(weights) + 1)
    image = ax.pcolormesh(face_t_s, heads, weights, shading="nearest", cmap="viridis", vmin=0, vmax=top)
    ax.plot(face_t_s[face], 0.36, marker="v", color=ACCENT, clip_on=False, ms=6)
    ax.set(xlabel="face token (s)", ylabel="head", yticks=heads, ylim=(len(weights) + 0.5, 0.5))
    ax.set_title("attention to this motion", pad=10)
    if head is not None:
        ax.get_yticklabels()[head].set(color=ACCENT, fontweight="bold")
    ax.figure.colorbar(image, ax=ax, label="attention")
    return ax


def plot_clip(view, segment: int, values: np.ndarray, *, color: str, label: str, title: str = "") -> Figure:
    """Draw what the explorer shows of a clip: its time axis, and one stretch of motion close up.

    `segment`: the motion token that is shown close up, with the face of its time. `values` (Td,): what each motion
    token does to a trait; `color`, `label`: of them.
    """
    fig = plt.figure(figsize=(7.4, 6.4), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=(1.7, 1))
    share, effect = above.subplots(2, 1, sharex=True, height_ratios=(1, 1.2))
    start_s, end_s, mean = view.t_start_s, view.t_end_s, view.attention.mean(axis=0)
    _shade(share, view.windows)
    look = {"align": "edge", "color": NEUTRAL, "alpha": 0.6, "ec": "white", "label": "mean of all faces"}
    share.bar(start_s, 100 * mean.mean(axis=0), end_s - start_s, **look)
    share.plot(view.motion_t_s, 100 * mean[view.face_of(segment)], "o", color=ACCENT, label="the face shown below")
    share.set(ylabel="attention (%)", ylim=(0, None))
    _shade(effect, view.windows)
    plot_effects(view.motion_t_s, values, color=color, label=label, ax=effect)
    for ax in (share, effect):
        ax.axvspan(start_s[segment], end_s[segment], fill=False, ec=ACCENT, lw=1.6, zorder=3)
    above.legend(*share.get_legend_handles_labels(), loc="outside upper right", ncols=4)
    _close_up(below.subplots(1, 3, width_ratios=(1, 1.25, 1.45)), view, segment, None)
    fig.suptitle(title)
    return fig
