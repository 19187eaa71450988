"""Pictures: one module per notebook, functions `plot_*(data, *, ax=None)` that draw arrays and tables.

Here: the common look, the colours of the traits, and how a figure is saved. Nothing here or in the modules computes a
result, shows a figure or writes a file, `save` apart.
"""

from pathlib import Path

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

from helpers.clips import TRAITS
from helpers.files import replacing

# Okabe and Ito's palette: told apart in the common forms of colour blindness.
TRAIT_COLORS = dict(zip(TRAITS, ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7"), strict=True))
NEUTRAL, ACCENT = "#9A9A9A", "#333333"


def use_style() -> None:
    """Set the look of all figures: 100 dpi, constrained layout, text of 9 pt and more, light grid."""
    sns.set_theme(
        style="whitegrid",
        rc={
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "figure.titlesize": 12,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.fontsize": 9,
            "axes.titlelocation": "left",
            "axes.edgecolor": "0.6",
            "grid.color": "0.9",
        },
    )


def save(fig: Figure, run_dir: str | Path, name: str) -> Path:
    """Write a figure to `<run_dir>/figures/<name>.png` atomically; return the path."""
    path = Path(run_dir) / "figures" / f"{name}.png"
    with replacing(path) as part:
        fig.savefig(part, dpi=mpl.rcParams["figure.dpi"])
    return path
