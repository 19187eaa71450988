"""Figures of 03 and 04: what the rows of a network look like along a clip and between clips."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

IN_DECODERS = ("reading", "decoding", "cropping", "flow")  # what decoder processes do, in their order

NOT_RECORDED = "Not recorded: an older version made these rows.\nDelete the stage's folder to make and time them again."


def plot_time_spent(spent_s: dict[str, float], total_s: float, workers: int, *, ax: Axes | None = None) -> Axes:
    """Draw where the time of an extraction went; what reaches the line has kept the others waiting.

    Args:
        spent_s: Seconds by what was done in them, of all decoder processes together, as `extraction_log.json` has them;
            empty where that is of a version that did not record them: the chart says so.
        total_s: From begin to end.
        workers: Decoder processes, which share all but the network and the writing; a bar is what each of them spent.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.9 + 0.32 * max(len(spent_s), 2)), layout="constrained")
    if not spent_s:
        ax.text(0.5, 0.5, NOT_RECORDED, transform=ax.transAxes, ha="center", va="center", wrap=True)
        ax.set(xlabel="seconds", xlim=(0, 1.08 * total_s), yticks=[])
        return ax
    alone = {what: spent_s[what] for what in ("network", "writing") if what in spent_s}
    shared = {what: spent_s[what] / workers for what in IN_DECODERS if what in spent_s}
    for parts, label in ((shared, f"each of {workers} decoder processes"), (alone, "this process")):
        bars = ax.barh(list(parts), list(parts.values()), label=label)
        shares = [f"{value / total_s:.0%}" for value in parts.values()]
        ax.bar_label(bars, shares, padding=3, fontsize=8, bbox={"fc": "w", "ec": "none", "pad": 1})  # over the line
    ax.axvline(total_s, color="0.4", lw=1, ls="--", label="from begin to end")
    ax.invert_yaxis()
    ax.figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    ax.set(xlabel="seconds", xlim=(0, 1.12 * total_s))
    ax.grid(False, axis="y")
    return ax


def plot_similarity(similarity: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the similarity of clips, in the order of the table; a block on the diagonal is a source."""
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 5), layout="constrained")
    image = ax.imshow(similarity, cmap="RdBu_r", vmin=-1, vmax=1)
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label="cosine similarity")
    ax.set(xlabel="clip", ylabel="clip (clips of one source are neighbours)", title=title)
    return ax


def plot_rows(features: np.ndarray, t_s: np.ndarray, *, n_channels: int = 64, title: str = "", ax: Axes | None = None):
    """Draw a clip's rows over time: the channels that vary most, each standardised over the clip.

    Args:
        features: (n, D).
        t_s: Centre of each row in seconds, (n,).
        n_channels: How many channels are shown.
        title: Finding or clip.
        ax: Axes to draw on; a new figure by default.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
    sd = features.std(axis=0)
    most = np.argsort(sd)[::-1][:n_channels]
    most = most[sd[most] > 1e-7 * max(float(sd.max()), 1e-30)]  # those that vary
    rows = (features[:, most] - features[:, most].mean(axis=0)) / sd[most]
    half = (t_s[1] - t_s[0]) / 2 if len(t_s) > 1 else 0.5
    extent = (t_s[0] - half, t_s[-1] + half, rows.shape[1], 0)
    limit = float(np.abs(rows).max()) if rows.size else 1.0
    image = ax.imshow(rows.T, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent)
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label="standard deviations")
    ax.set(xlabel="time (s)", ylabel="channel", title=title)
    return ax
