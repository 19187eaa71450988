"""How often does a test raise a false alarm, and how often does an interval hold the truth?

Every test and every interval that the workbook prints, on invented clips, three to a source, half of whose variance is
shared within their source: without any effect (false alarms at a nominal 5 %), and with a known one (coverage of
intervals at a nominal 90 %). 12, 40 and 200 sources; beside each rate its Monte Carlo standard error. A test of under
2 % is named conservative: it raises fewer alarms than it may.

    python -m benchmarks.calibration [--draws N] [--json FILE]
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from benchmarks.alternation import options_of, report
from helpers.feature_quality import TrainingTokens, consistency
from helpers.statistics import conformal_quantile, mean_interval, r2_differences

SOURCES, CLIPS = (12, 40, 200), 3
ALARMS, COVERED = 0.05, 0.90  # nominal
CONSERVATIVE = 0.02
# What is printed, by the function that computes it, and the rates that speak for it.
RATES = {
    "statistics._with_ends": ("mean", "R² difference", "R² difference, 3 seeds"),
    "statistics.mean_interval": ("mean", "share"),
    "statistics.r2_differences": ("R² difference", "R² difference, 3 seeds"),
    "statistics.compare_models": ("R² difference", "R² difference, 3 seeds"),
    "statistics.group_errors": ("mean",),
    "statistics.conformal_quantile": ("score of a clip",),
    "experiment.card_of": ("score of a clip",),
    "classifier.score_models": ("share", "mean"),
    "classifier.gains": ("mean",),
    "attention._over_seeds": ("share", "mean"),
    "attention.randomisation": ("mean",),
    "feature_quality.consistency": ("consistency",),
    "feature_quality.describe": ("unlike clip",),
}
COLUMNS = {
    "kind": "{}",
    "what": "{}",
    "sources": "{}",
    "nominal": "{:.2f}",
    "rate": "{:.3f}",
    "error": "{:.3f}",
    "note": "{}",
}

Random = np.random.Generator


def of_sources(r: Random, k: int, *shape: int) -> np.ndarray:
    """Values of variance 1, half of it shared by the clips of a source: (k * CLIPS, *shape)."""
    shared = np.repeat(r.standard_normal((k, *shape)), CLIPS, axis=0)
    return (shared + r.standard_normal((k * CLIPS, *shape))) / np.sqrt(2)


def names(k: int) -> np.ndarray:
    return np.repeat(np.arange(k), CLIPS).astype(str)


def mean(r: Random, k: int, level: float) -> bool:
    low, high = mean_interval([0.3 + of_sources(r, k)], [names(k)], level)["interval"]
    return low <= 0.3 <= high


def share(r: Random, k: int, level: float) -> bool:
    """Of clips of which something is so, as often in a source as it is there."""
    right = r.random(k * CLIPS) < np.repeat(r.beta(3, 1, k), CLIPS)
    low, high = mean_interval([right.astype(float)], [names(k)], level)["interval"]
    return low <= 0.75 <= high


def r2_difference(r: Random, k: int, level: float, effect: float, seeds: int = 1) -> bool:
    """Of predictions with errors of the same variance, .74, and, with an effect, of one of .74 and one of .5."""
    truth, pairs = of_sources(r, k, 1), []
    for _ in range(seeds):
        a = (0.5 if effect else 0.3) * truth + 0.5 * of_sources(r, k, 1)
        pairs.append((truth, a, 0.3 * truth + 0.5 * of_sources(r, k, 1), names(k)))
    (_, low, high), _ = r2_differences(pairs, level)[0]
    return low <= effect <= high


def score_of_a_clip(r: Random, k: int) -> bool:
    """Of another source than those that the interval was made from."""
    half = conformal_quantile(of_sources(r, k, 1), COVERED)
    return abs(of_sources(r, 1, 1)[0, 0]) <= half[0]


def consistent(r: Random, k: int) -> bool:
    """Clips that have nothing in common but are said to be of one source."""
    clips = pd.DataFrame(r.standard_normal((k * CLIPS, 8)))
    found = consistency(clips, names(k))["similarity within sources"]
    low, high = found["permuted sources"]["interval"]
    return not low <= found["measured"]["value"] <= high


def unlike(r: Random, k: int) -> bool:
    """A clip like the held-out ones, called unlike at this level."""
    held_out = np.sort(np.abs(of_sources(r, k))).astype("float32")
    tokens = TrainingTokens(np.zeros(1), np.eye(1), held_out)
    return tokens.describe(of_sources(r, 1)[:1, None])["p_value"] <= ALARMS


FALSE_ALARMS: dict[str, Callable[[Random, int], bool]] = {
    "mean": lambda r, k: not mean(r, k, 1 - ALARMS),
    "share": lambda r, k: not share(r, k, 1 - ALARMS),
    "R² difference": lambda r, k: not r2_difference(r, k, 1 - ALARMS, 0.0),
    "R² difference, 3 seeds": lambda r, k: not r2_difference(r, k, 1 - ALARMS, 0.0, seeds=3),
    "consistency": consistent,
    "unlike clip": unlike,
}
COVERAGE: dict[str, Callable[[Random, int], bool]] = {
    "mean": lambda r, k: mean(r, k, COVERED),
    "share": lambda r, k: share(r, k, COVERED),
    "R² difference": lambda r, k: r2_difference(r, k, COVERED, 0.24),
    "R² difference, 3 seeds": lambda r, k: r2_difference(r, k, COVERED, 0.24, seeds=3),
    "score of a clip": score_of_a_clip,
}


def rates(of: dict[str, Callable[[Random, int], bool]], kind: str, nominal: float, draws: int) -> list[dict]:
    """One row per test or interval and number of sources."""
    rows = []
    for what, happens in of.items():
        for k in SOURCES:
            r = np.random.default_rng(0)
            rate = float(np.mean([happens(r, k) for _ in range(draws)]))
            error = float(np.sqrt(rate * (1 - rate) / draws))
            note = "conservative" if kind == "false_alarms" and rate < CONSERVATIVE else ""
            rows.append({"kind": kind, "what": what, "sources": k, "nominal": nominal, "rate": rate, "error": error})
            rows[-1]["note"] = note
    return rows


def main(argv: list[str] | None = None) -> int:
    """Print the table; see the module."""
    parser = options_of(__doc__)
    parser.add_argument("--draws", type=int, default=1000, metavar="N", help="of each (default: 1000)")
    options = parser.parse_args(argv)
    rows = rates(FALSE_ALARMS, "false_alarms", ALARMS, options.draws)
    rows += rates(COVERAGE, "coverage", COVERED, options.draws)
    keys = {
        kind: {f"{row['what']}, {row['sources']} sources": row["rate"] for row in rows if row["kind"] == kind}
        for kind in ("false_alarms", "coverage")
    }
    report(rows, COLUMNS, options, **keys)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
