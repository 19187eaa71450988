"""Would the picture look the same anyway: maps of models that learned nothing, and of models trained alike.

In: models, clips, the mean motion token. Out: rank correlations per clip between what two models show, with intervals.
After Adebayo et al. (2018), Sanity checks for saliency maps: what an untrained model shows as well is no explanation.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import keras
import numpy as np
from scipy.stats import spearmanr

from helpers.align import Aligned
from helpers.attention import get_attention_weights
from helpers.config import TrainingConfig
from helpers.evidence.occlusion import mean_motion, occlusion
from helpers.evidence.relevance import per_motion_token, relevance
from helpers.science.intervals import mean_interval
from helpers.training.train import TrainingData, load_trained, rated_clips, split_of
from helpers.training.variants import TOKEN_MODEL

MEASURES = ("attention", "relevance", "occlusion")
SHOWN_CLIPS = 60  # enough for an interval of a few hundredths

Shown = dict[str, np.ndarray]  # by measure (N, values), NaN where a mask is False


def show(model: keras.Model, clips: Aligned, baseline: np.ndarray, column: int) -> Shown:
    """What one model shows of each clip.

    Returns:
        `attention`, mean over heads, (N, Ts * Td); `relevance` and `occlusion`, absolute, of the target in that column,
        (N, Td). NaN where a mask is False.
    """
    inputs, n = clips.inputs(), len(clips)
    maps = get_attention_weights(model, inputs).mean(1)  # (N, Ts, Td)
    real = clips.static_mask[:, :, None] & clips.dynamic_mask[:, None]
    worth = per_motion_token(relevance(model, inputs, baseline))[:, column]
    effects = occlusion(model, inputs, column, baseline)
    return {
        "attention": np.where(real, maps, np.nan).reshape(n, -1),
        "relevance": np.where(clips.dynamic_mask, np.abs(worth), np.nan),
        "occlusion": np.where(clips.dynamic_mask, np.abs(effects), np.nan),
    }


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of the rows of two arrays (N, values), (N,).

    Values that are NaN in either are left out; NaN where less than three are left, or one side does not vary.
    """
    found = np.full(len(a), np.nan)
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        both = ~(np.isnan(x) | np.isnan(y))
        if both.sum() > 2 and np.ptp(x[both]) > 0 and np.ptp(y[both]) > 0:
            found[i] = spearmanr(x[both], y[both]).statistic
    return found


def randomisation(
    model: keras.Model, others: Mapping[str, keras.Model], clips: Aligned, baseline: np.ndarray, column: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compare what a model shows of some clips with what models show that cannot have learned it.

    Args:
        model: The trained one.
        others: By name, such as "before training".
        clips: That none was trained on.
        baseline, column: See `occlusion.occlusion`.

    Returns:
        By name and measure ("attention", "relevance", "occlusion") `value`, mean rank correlation over clips, and
        `interval` [low, high] over sources. Near 1: the measure does not show what was learned.
    """
    own = show(model, clips, baseline, column)
    found = {}
    for name, other in others.items():
        shown = show(other, clips, baseline, column)
        found[name] = {
            measure: mean_interval([rank_correlation(own[measure], shown[measure])], [clips.sources])
            for measure in MEASURES
        }
    return found


def agreement(data: TrainingData, cfg: TrainingConfig, column: int) -> dict[str, Any] | None:
    """Compare what models show that were trained alike, with other seeds and other clips.

    Args:
        data: What the models were trained on. Compared on its live clips, which none was trained on; where there are
            fewer than two, on the clips that are test clips of both.
        cfg: As the training; `cfg.out` holds the trained models.
        column: Of the target.

    Returns:
        By measure `value` and `interval` (mean over clips and pairs of seeds), and `other_clips`, the same with each
        clip's picture held against another clip's: what is as high there says nothing about the clip. `clips`, how
        many were compared. None with a single seed, or without a clip that both have not seen.
    """
    pairs = [_pair(data, cfg, column, a, b) for a, b in combinations(cfg.seeds, 2)]
    pairs = [pair for pair in pairs if len(pair[0]) > 1]
    if not pairs:
        return None
    sources = [clips.sources for clips, _, _ in pairs]
    found: dict[str, Any] = {"clips": int(sum(len(clips) for clips, _, _ in pairs))}
    for measure in MEASURES:
        same = [rank_correlation(a[measure], b[measure]) for _, a, b in pairs]
        others = [rank_correlation(a[measure], np.roll(b[measure], 1, axis=0)) for _, a, b in pairs]
        of_others = mean_interval(others, sources)
        found[measure] = mean_interval(same, sources) | {
            "other_clips": of_others["value"],
            "other_clips_interval": of_others["interval"],
        }
    return found


def _pair(data: TrainingData, cfg: TrainingConfig, column: int, a: int, b: int) -> tuple[Aligned, Shown, Shown]:
    """Clips that neither seed was trained on, and what both models show of them."""
    bank = rated_clips(data)
    splits = [split_of(bank, cfg, seed) for seed in (a, b)]
    live = data.live_clips
    enough = live is not None and len(live) > 1
    unseen = live if enough else bank.take((splits[0] == "test") & (splits[1] == "test"))
    clips = unseen.take(np.arange(min(len(unseen), SHOWN_CLIPS)))
    if len(clips) < 2:
        return clips, {}, {}
    baselines = [mean_motion(bank.take(split == "train")) for split in splits]
    models: Sequence[keras.Model] = [load_trained(cfg, TOKEN_MODEL, seed) for seed in (a, b)]
    return clips, *(show(m, clips, base, column) for m, base in zip(models, baselines, strict=True))


def agreement_rows(found: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Lay `agreement` out as two comparisons by measure, each `value` and `interval`: the same clip, another clip."""
    ends = {"the same clip": ("value", "interval"), "another clip": ("other_clips", "other_clips_interval")}
    return {
        name: {m: {"value": found[m][value], "interval": found[m][interval]} for m in MEASURES}
        for name, (value, interval) in ends.items()
    }
