"""Figure of 10: what the models are worth in one picture."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from helpers.clips import LETTERS, TRAITS
from helpers.plots import ACCENT, NEUTRAL, axes, legend_below, name_of, say, spoken
from helpers.plots.training import MODEL_COLORS


def plot_verdict(models: dict[str, Any], names: list[str], letters: list[str]) -> Axes:
    """Draw test R² of a few models of `summary.json` per target: a line at the mean over seeds, a dot for each seed.

    `names`: those that are drawn, in this order; `letters`: targets as `models` names them.
    """
    title = "What the models are worth: 0 is the constant, 1 is perfect"
    ax = axes(None, (7, 3.2), grid="y", ylabel="test R²", title=title)
    if all(value is None for name in names for value in models[name]["r2"].values()):
        return say(ax, "R² needs 2 test clips of different ratings")
    for k, name in enumerate(names):
        color = ACCENT if name == "constant" else MODEL_COLORS.get(name, NEUTRAL)
        x = np.arange(len(letters)) + (k - (len(names) - 1) / 2) * 0.7 / len(names)
        means = np.array([models[name]["r2"][letter] for letter in letters], float)
        ax.plot(x, means, "_", color=color, ms=14, mew=2.5, label=spoken(name))
        for seed in models[name]["seeds"]:
            ax.plot(x, np.array([seed.get("r2", {}).get(letter) for letter in letters], float), ".", color=color)
    ax.axhline(0, color=ACCENT, lw=0.8)
    ax.set_ylim(top=1)
    full = {letter: name_of(trait, lines=2) for letter, trait in zip(LETTERS, TRAITS, strict=True)}
    ax.set_xticks(range(len(letters)), [full.get(letter, letter) for letter in letters])
    legend_below(ax.figure)
    return ax
