"""Figures of 07 and 09: attention over the clip's own frames and motion, its maps, and whether what is seen is real.

`view`: a `helpers.explorer.ClipView`; `result`: a `helpers.score.ClipScore`. Ts face tokens, Td motion tokens, k
traits; times are the tokens' centres in seconds.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from helpers.clips import name_of
from helpers.plots import ACCENT, ORANGE, SKY, axes, panels, picture_at, plot_intervals, say, step_of, time_rows

WINDOW_COLORS = ORANGE, SKY
MOST_PICTURES, ARROWS = 10, 14  # arrows along a side of the picture of motion
MOST_LINES = 5_000  # of a clip's attention; the faintest are left out
WIDTH_IN, ROW_IN = 5.9, 1.3  # of a time axis
EFFECT = "contribution\nto the score"


def plot_clip_attention(view, targets: Sequence[str], *, title: str = "") -> Figure:
    """Draw one clip on its time axis: faces, the attention from them to the motion below, a row per head, a row per
    trait with what each motion token contributes to its score.

    A line's strength is its weight, the mean over heads; `targets`: names of the k traits.
    """
    fig, rows = _timeline(view, ("face", "attention", "motion", "share of\nattention", EFFECT), title)
    _links(rows["attention"], view.head(None), view.face_t_s, view.motion_t_s)
    heads, traits = rows["share of\nattention"], rows[EFFECT]
    names = [f"head {h + 1}" for h in range(len(view.attention))]
    time_rows(heads, view.attention.mean(axis=1), view.motion_t_s, names, "share")
    time_rows(traits, view.effects.T, view.motion_t_s, list(map(name_of, targets)), "score", signed=True)
    for (name, ends), color in zip(view.windows.items(), WINDOW_COLORS, strict=False):
        for ax, label in ((heads, ""), (traits, name)):
            ax.vlines(ends, *ax.get_ylim(), color=color, lw=2, label=label)
    if view.windows:
        fig.legend(*traits.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return fig


def _timeline(view, labels: Sequence[str], title: str) -> tuple[Figure, dict[str, Axes]]:
    """Rows on the clip's time axis by label, but for faces or motion that there are no pictures of; these are drawn."""
    labels = [label for label in labels if {"face": view.crops, "motion": view.speed}.get(label, ()) is not None]
    all_s, step_s = np.concatenate([view.face_t_s, view.motion_t_s]), step_of(view.motion_t_s)
    span_s = all_s.min() - 0.6 * step_s, all_s.max() + 0.6 * step_s
    every = -(-max(len(view.face_t_s), len(view.motion_t_s)) // MOST_PICTURES)
    side_s = 0.94 * every * step_s
    side_in = WIDTH_IN * side_s / (span_s[1] - span_s[0])
    tall = [side_in if label in ("face", "motion") else ROW_IN for label in labels]
    fig, array = panels(len(tall), 1, (8, sum(tall) + 1.3), title=title, sharex=True, height_ratios=tall)
    rows = dict(zip(labels, array[:, 0], strict=True))
    for label, ax in rows.items():
        ax.set(xlim=span_s, ylabel=label)
    array[-1, 0].set_xlabel("time (s)")
    for t_s, crop in zip(view.face_t_s[::every], () if view.crops is None else view.crops[::every], strict=False):
        picture_at(rows["face"], crop, t_s, side_s)
    if view.speed is not None:
        top = float(view.speed.max()) or 1.0
        for t_s, speed in zip(view.motion_t_s[::every], view.speed[::every], strict=True):
            image = picture_at(rows["motion"], speed, t_s, side_s, vmin=0, vmax=top)
        unit = f"mean speed\n(px/frame\nof {view.speed.shape[-1]} px)"
        fig.colorbar(image, ax=rows["motion"], label=unit, pad=0.01)
    return fig, rows


def _links(ax: Axes, attention: np.ndarray, face_t_s: np.ndarray, motion_t_s: np.ndarray) -> None:
    """Lines from each face token (top) to each motion token (bottom), as dark as the weight."""
    strong = np.sort(np.argsort(-attention.ravel(), kind="stable")[:MOST_LINES])
    lines = [[(face_t_s[i // len(motion_t_s)], 1), (motion_t_s[i % len(motion_t_s)], 0)] for i in strong]
    share = attention.ravel()[strong] / max(float(attention.max()), 1e-9)
    ax.add_collection(LineCollection(lines, colors=[(0.2, 0.2, 0.2, a) for a in share], linewidths=0.3 + 2 * share))
    axes(ax, (), grid="", ylim=(0, 1), yticks=[])


def plot_attention_map(
    attention: np.ndarray, face_t_s: np.ndarray, motion_t_s: np.ndarray, *, top: float | None = None, ax=None
) -> Axes:
    """Draw one map of attention (Ts, Td), face tokens, time running down, against motion tokens; rows sum to 1.

    `top` ends the scale of the colours, by default the largest weight.
    """
    ax = axes(ax, (4.2, 3.6), grid="", xlabel="motion token (s)", ylabel="face token (s)")
    image = ax.pcolormesh(motion_t_s, face_t_s, attention, shading="nearest", vmin=0, vmax=top)
    half_s = step_of(face_t_s) / 2
    ax.set_ylim(face_t_s[-1] + half_s, face_t_s[0] - half_s)
    if top is None:
        ax.figure.colorbar(image, ax=ax, label="attention")
    return ax


def plot_heads(
    attention: np.ndarray, face_t_s: np.ndarray, motion_t_s: np.ndarray, entropy: Sequence[float], *, title: str = ""
) -> Figure:
    """Draw the map of every head, (heads, Ts, Td), on one scale, its entropy, (heads,), above it (1 = uniform)."""
    n, rows = len(attention), -(-len(attention) // 4)
    fig, array = panels(rows, min(n, 4), (8, 2.5 * rows + 0.2), title=title, sharex=True, sharey=True)
    for h, ax in enumerate(array.flat[:n]):
        plot_attention_map(attention[h], face_t_s, motion_t_s, top=float(attention.max()), ax=ax)
        ax.set_title(f"head {h + 1}: entropy {entropy[h]:.2f}", fontsize=9)
        ax.label_outer()
    fig.colorbar(array.flat[0].collections[0], ax=array, label="attention", pad=0.01)
    return fig


def plot_lag(profiles: Mapping[str, pd.DataFrame], *, title: str = "") -> Axes:
    """Draw mean attention by how much later the motion token is than the face token: columns lag_s, attention."""
    ax = axes(None, (7, 2.8), title=title)
    rows = pd.concat(profiles, names=["model", "step"]).reset_index("model")
    sns.lineplot(rows, x="lag_s", y="attention", hue="model", style="model", markers=True, ax=ax)
    ax.set(xlabel="motion token later than face token by (s)", ylabel="mean attention", ylim=(0, None))
    return ax


def plot_share_against_effect(share: np.ndarray, effects: np.ndarray, *, title: str = "") -> Axes:
    """Draw the attention that motion tokens get, (n,), against what they contribute, its absolute value, (n,)."""
    ax = axes(None, (7, 2.8), xlabel="share of the clip's attention", ylabel="|contribution to the score|", title=title)
    sns.scatterplot(x=share, y=effects, color=ACCENT, alpha=0.35, s=14, ax=ax)
    ax.set_ylim(0)
    return ax


def plot_clips(
    shares: np.ndarray, names: Sequence[str], t_s: np.ndarray, *, inside: np.ndarray | None = None, title: str = ""
) -> Axes:
    """Draw several clips under each other, one row each: what share of all effects on the score each motion token has,
    (clips, Td), NaN where there is none; `t_s`: their centres in seconds, (Td,).

    `inside`: tokens in a planted window, bool (clips, Td); outlined.
    """
    ax = axes(None, (8, 1.2 + 0.27 * len(names)), xlabel="time (s)", title=title)
    time_rows(ax, shares, t_s, names, "share of the clip's effects")
    width = 0.92 * step_of(t_s)
    for row, token in np.argwhere(inside) if inside is not None else ():
        corner = t_s[token] - width / 2, row - 0.44
        ax.add_patch(plt.Rectangle(corner, width, 0.88, fill=False, ec=ORANGE, lw=1.6))
    return ax


def plot_segment(view, segment: int, *, head: int | None = None, title: str = "") -> Figure:
    """Draw one stretch of motion: the face of its time, where it moves, and which faces attend to it in each head.

    The scales are the clip's own; `segment`: number of the motion token; `head`: the one that is marked, None for none.
    """
    size = (6.6, 2.35 + 0.45 * bool(title))  # notebook width: the explorer's text is then not scaled down
    fig, ((shown, moving, weights),) = panels(1, 3, size, title=title, width_ratios=(1, 1.25, 1.45))
    face = view.face_of(segment)
    for ax, part, what in ((shown, view.crops, f"face at {view.face_t_s[face]:.2f} s"), (moving, view.speed, "motion")):
        ax.set_title(what)
        ax.axis("off")
        if part is None:
            say(ax, "no picture:\nnot made of\nthis video here")
    if view.crops is not None:
        shown.imshow(view.crops[face])
    if view.speed is not None:
        _arrows(moving, view.speed[segment], view.flow[segment], float(view.speed.max()))
    _weights_by_head(weights, view, segment, head)
    return fig


def _weights_by_head(ax: Axes, view, segment: int, head: int | None) -> None:
    """What each face gives to a motion token in each head, the face of its time marked."""
    heads = np.arange(1, len(view.attention) + 1)
    top = view.attention.max()
    image = ax.pcolormesh(view.face_t_s, heads, view.attention[:, :, segment], shading="nearest", vmin=0, vmax=top)
    ax.plot(view.face_t_s[view.face_of(segment)], 0.36, marker="v", color=ACCENT, clip_on=False, ms=6)
    ax.set(xlabel="face token (s)", ylabel="head", yticks=heads, ylim=(len(heads) + 0.5, 0.5))
    ax.set_title("attention to this motion", pad=10)
    if head is not None:
        ax.get_yticklabels()[head].set(color=ACCENT, fontweight="bold")
    ax.figure.colorbar(image, ax=ax, label="attention")


def _arrows(ax: Axes, speed: np.ndarray, flow: np.ndarray, fastest_px: float) -> None:
    """Mean speed (S, S) in px per frame as colour, the flow (S, S, 2) of its fastest moment as arrows."""
    image = ax.imshow(speed, vmin=0, vmax=max(fastest_px, 1e-6))
    step = max(1, len(speed) // ARROWS)
    y, x = np.mgrid[step // 2 : len(speed) : step, step // 2 : len(speed) : step]
    dx, dy = np.moveaxis(flow[y, x], -1, 0)
    longest = max(float(np.hypot(dx, dy).max()), 1e-6)
    ax.quiver(x, y, dx, dy, color="white", angles="xy", scale_units="xy", scale=longest / (1.6 * step), width=0.008)
    ax.figure.colorbar(image, ax=ax, label="speed (px/frame)", shrink=0.9)


def plot_score(result) -> Axes:
    """Draw each trait's score with its interval, and the constant beside it."""
    rows = {
        name_of(target): {
            "score, 90 % interval": {"value": value, "interval": [result.low[target], result.high[target]]},
            "constant predictor": {"value": result.constant[target], "interval": None},
        }
        for target, value in result.score.items()
    }
    ax = plot_intervals(rows, "apparent trait (scale of the ratings)", {}, title=result.video)
    ax.set_xlim(0, 1)
    return ax


def plot_looks(result, faces: Sequence[np.ndarray]) -> Figure:
    """Draw a clip's faces, the attention on its motion and what each stretch of motion does to the scores, over time.

    `faces`: RGB uint8 (S, S, 3), evenly spread over the clip.
    """
    fig, ((seen,), (looked,), (moved,)) = panels(3, 1, (7, 4.6), sharex=True, height_ratios=(0.6, 1, 1.6))
    side_s = result.duration_s / len(faces)
    for place, face in enumerate(faces):
        picture_at(seen, face, (place + 0.5) * side_s, 0.97 * side_s)
    seen.set(ylabel="face", title=f"{result.video}: where it looked, and what moved its scores")
    t_s, share = np.array(result.motion_t_s), np.array(result.motion_share)
    looked.bar(t_s, share, 0.92 * step_of(t_s), color="C1")
    looked.axhline(1 / len(share), ls=":", c="0.4", label="uniform")
    looked.set(ylabel="attention share", ylim=(0, 1.35 * share.max()))
    looked.legend(loc="upper right")
    effects, names = np.array(list(result.effects.values())), list(map(name_of, result.effects))  # (targets, parts)
    time_rows(moved, effects, np.mean(result.parts_s, axis=1), names, "effect on the score", signed=True)
    moved.set(xlabel="time (s)", xlim=(0, result.duration_s))
    return fig
