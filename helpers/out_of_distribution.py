"""How unlike a clip is to those that a model was trained on: beyond them its intervals promise nothing.

One distance per stream, in units of the training clips' own, beside those of clips that were held out (`familiar.npz`
of a model folder): Mahalanobis's (Lee et al. 2018, NeurIPS, arXiv:1807.03888), judged by a conformal p-value (Bates et
al. 2023, Ann. Statist. 51:149).
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.covariance import LedoitWolf

from helpers.align import Aligned
from helpers.store import STREAMS, read_arrays, write_arrays

MOST_TOKENS = 20_000  # that a covariance is made from, evenly spread: 80 MB at 512 channels
RARE = 0.01  # share of clips like the held-out ones that may be called unlike


class TrainingTokens(NamedTuple):
    """The training tokens of one stream: their mean (D,), their precision matrix (D, D), float32, and the distances of
    clips that were not trained on, increasing, float32 (n,).
    """

    mean: np.ndarray
    precision: np.ndarray
    held_out: np.ndarray

    def distance(self, tokens: np.ndarray) -> float:
        """Root mean square distance of a clip's tokens (n, D) from the mean; 1 for training tokens on average."""
        away = tokens - self.mean
        return float(np.sqrt(((away @ self.precision) * away).sum(1).mean() / len(self.mean)))

    def describe(self, tokens: np.ndarray) -> dict[str, Any]:
        """How far a clip's tokens (n, D) lie away.

        Returns:
            `distance`; `farthest_held_out`; `held_out_clips`, their number n; `p_value`, the share of clips like them
            that lie so far away: (1 + number at least as far) / (1 + n); `unlike`: whether that is `RARE` at most, or
            the smallest that n allows.
        """
        distance, n = self.distance(tokens), len(self.held_out)
        p_value = float(1 + (self.held_out >= distance).sum()) / (1 + n)
        return {
            "distance": round(distance, 4),
            "farthest_held_out": round(float(self.held_out[-1]), 4),
            "held_out_clips": n,
            "p_value": round(p_value, 6),
            "unlike": p_value <= max(RARE, 1 / (1 + n)),
        }


def write_training_tokens(path: str | Path, training: Aligned, held_out: Aligned) -> None:
    """Describe the tokens of both streams of the training clips, and how far held-out clips lie from them, as npz."""
    arrays = {}
    for name in STREAMS:
        features, mask = f"{name}_features", f"{name}_mask"
        tokens = getattr(training, features)[getattr(training, mask)]
        chosen = tokens[np.linspace(0, len(tokens) - 1, min(len(tokens), MOST_TOKENS)).astype(int)]
        precision = LedoitWolf().fit(chosen.astype(np.float64)).precision_.astype("float32")
        own = TrainingTokens(chosen.mean(0), precision, np.empty(0, "float32"))
        later = zip(getattr(held_out, features), getattr(held_out, mask), strict=True)
        distances = np.sort([own.distance(clip[real]) for clip, real in later]).astype("float32")
        arrays |= {f"{name}_{part}": of for part, of in own._replace(held_out=distances)._asdict().items()}
    write_arrays(path, **arrays)


def read_training_tokens(path: str | Path) -> dict[str, TrainingTokens]:
    """Read what `write_training_tokens` wrote."""
    arrays = read_arrays(path)
    try:
        return {name: TrainingTokens(*(arrays[f"{name}_{p}"] for p in TrainingTokens._fields)) for name in STREAMS}
    except KeyError as error:
        raise ValueError(f"{path} is damaged, or of an older version: {error} is missing. Run 06 again.") from None
