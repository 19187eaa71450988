"""Whether what is seen of a model is real: against its control, the planted truth, and models that learned nothing.

The control was trained on shuffled motion. Synthetic clips have `truth.csv` beside their tokens. Out: the content of
`attention.json`; figures that need a planted truth are None where there is none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.align import Aligned
from helpers.attention import (
    attention_by_time,
    deletion_area,
    get_attention_weights,
    mean_motion,
    occlusion,
    relevance,
)
from helpers.clips import is_synthetic
from helpers.config import TrainingConfig
from helpers.experiment import TrainingData, load_trained, rated_clips, split_of
from helpers.statistics import mean_interval
from helpers.variants import SHUFFLED_MODEL, TOKEN_MODEL, shuffle_motion, shuffled_order

DRAWS = 4  # random orders of deletion
MODELS = {"": TOKEN_MODEL, "_shuffled": SHUFFLED_MODEL}  # by the end of their keys in attention.json
MEASURES = ("attention", "relevance", "occlusion")
POINTING = ("occlusion_pointing", "occlusion_pointing_shuffled", "motion_pointing")
SHOWN_CLIPS = 60  # enough for an interval of a few hundredths

Shown = dict[str, np.ndarray]  # by measure (N, values), NaN where a mask is False


def planted_windows(folder: str | Path, aligned: Aligned) -> np.ndarray | None:
    """Read which motion tokens lie in planted light windows, by half or more of their duration.

    `folder` holds `truth.csv`: key, warm_s, cool_s, window_s in seconds.

    Returns:
        bool (N, Td); None unless all clips are synthetic.
    """
    truth = _truth(folder).reindex(aligned.clips)
    if not len(truth.columns) or truth["window_s"].isna().any():
        return None
    starts_s = truth[["warm_s", "cool_s"]].to_numpy()[:, None]  # (N, 1, windows)
    stops_s = starts_s + truth["window_s"].to_numpy()[:, None, None]
    half_s = token_duration(aligned) / 2
    low, high = aligned.dynamic_t_s[:, :, None] - half_s, aligned.dynamic_t_s[:, :, None] + half_s
    overlap = np.minimum(high, stops_s) - np.maximum(low, starts_s)  # (N, Td, windows)
    return np.clip(overlap, 0, None).sum(-1) >= half_s - 1e-9


def window_spans(folder: str | Path, clip: str) -> dict[str, tuple[float, float]]:
    """Start and stop in seconds of what was planted in one clip, by name; empty where it is not synthetic."""
    truth = _truth(folder)
    if clip not in truth.index:
        return {}
    row = truth.loc[clip]
    return {f"{name} light": (row[f"{name}_s"], row[f"{name}_s"] + row["window_s"]) for name in ("warm", "cool")}


def _truth(folder: str | Path) -> pd.DataFrame:
    return pd.read_csv(Path(folder) / "truth.csv", index_col="key") if is_synthetic(folder) else pd.DataFrame()


def token_duration(aligned: Aligned) -> float:
    """Duration of a motion token in seconds: the step from one to the next, for tokens that do not overlap."""
    steps = np.diff(aligned.dynamic_t_s, axis=1)[aligned.dynamic_mask[:, 1:]]
    if not steps.size:  # one token a clip, whose time is its middle
        return float(2 * np.median(aligned.dynamic_t_s[aligned.dynamic_mask]))
    return float(np.median(steps))


def show(model: keras.Model, clips: Aligned, baseline: np.ndarray, column: int) -> Shown:
    """What one model shows of each clip; `baseline` is the mean motion token, (D,).

    Returns:
        `attention`, mean over heads, (N, Ts * Td); `relevance` and `occlusion`, absolute, of the target in that column,
        (N, Td). NaN where a mask is False.
    """
    inputs = clips.inputs()
    maps = get_attention_weights(model, inputs).mean(1)  # (N, Ts, Td)
    real = clips.static_mask[:, :, None] & clips.dynamic_mask[:, None]
    worth = relevance(model, inputs, baseline).sum(2)[:, column]
    effects = occlusion(model, inputs, baseline)[..., column]
    return {
        "attention": np.where(real, maps, np.nan).reshape(len(clips), -1),
        "relevance": np.where(clips.dynamic_mask, np.abs(worth), np.nan),
        "occlusion": np.where(clips.dynamic_mask, np.abs(effects), np.nan),
    }


@dataclass(frozen=True)
class Tested:
    """What one model of one seed does on its N test clips.

    Attributes:
        clips: Their motion shuffled for a control.
        sooner: Area under each clip's deletion curve by the order of attention, minus that by random orders, (N,).
        inside: Which motion tokens come from a planted window, bool (N, Td); None where nothing was planted.
        weights: By measure what each token weighs, not negative, (N, Td): `occlusion` of the target that is asked
            about, `attention`, `motion` (distance from mean motion), and `relevance` by target, (N, k, Td).
    """

    clips: Aligned
    sooner: np.ndarray
    inside: np.ndarray | None
    weights: dict[str, np.ndarray]

    def points(self, measure: str) -> np.ndarray:
        """Whether each clip's largest weight is of a token inside, float (N,), 1 or 0."""
        largest = np.where(self.clips.dynamic_mask, self.weights[measure], -1).argmax(1)
        return self.inside[np.arange(len(largest)), largest].astype(float)

    def share(self, weight: np.ndarray) -> np.ndarray:
        """Share of each clip's weight (N, Td) that is inside, (N,); NaN where there is none."""
        weight = weight * self.clips.dynamic_mask
        total = weight.sum(1)
        return (weight * self.inside).sum(1) / np.where(total > 0, total, np.nan)

    def uniform(self) -> float:
        """Mean share of the tokens that are inside: what chance gives."""
        return float(self.share(np.ones(self.inside.shape)).mean())


def examine(name: str, bank: Aligned, inside: np.ndarray | None, cfg: TrainingConfig, seed: int, column: int) -> Tested:
    """Measure a trained model on its test clips; shuffled motion tokens are judged by the time that they came from."""
    split = split_of(bank, cfg, seed)
    baseline, test = mean_motion(bank.take(split == "train")), split == "test"
    if name == SHUFFLED_MODEL:
        inside = None if inside is None else np.take_along_axis(inside, shuffled_order(bank, seed), 1)
        bank = shuffle_motion(bank, seed)
    model, clips = load_trained(cfg, name, seed), bank.take(test)
    inputs, random = clips.inputs(), np.random.RandomState(0)
    share = attention_by_time(get_attention_weights(model, inputs), clips.static_mask)
    orders = [share, *(random.random_sample(share.shape) for _ in range(DRAWS))]
    by_attention, *at_random = [deletion_area(model, inputs, order, baseline, column) for order in orders]
    weights = {
        "occlusion": np.abs(occlusion(model, inputs, baseline)[..., column]),
        "attention": share,
        "relevance": np.abs(relevance(model, inputs, baseline).sum(2)),
        "motion": np.linalg.norm(clips.dynamic_features - baseline, axis=-1),
    }
    sooner = by_attention - np.mean(at_random, 0)
    return Tested(clips, sooner, None if inside is None else inside[test], weights)


def evaluate(data: TrainingData, cfg: TrainingConfig, column: int) -> dict[str, Any]:
    """Measure on each seed's test clips what the model's answer rests on, and whether that is what was planted.

    Args:
        data: What the models were trained on; its folder holds `truth.csv` where the clips are synthetic.
        cfg: As the training; `cfg.out` holds the trained models.
        column: Of the target whose cue is an event in time.

    Returns:
        `trait`; `deletion`: how much sooner the score moves when motion goes in the order of the attention than in
        random order, `value` and `interval` [low, high] over sources, and the same of the `control`. And, empty without
        a planted truth: `occlusion_pointing`, share of clips whose largest effect is inside, the same of the control as
        `occlusion_pointing_shuffled`, and `motion_pointing`, that of the token farthest from mean motion, which needs
        no model, each with `_interval`; `occlusion_chance`, the share of tokens that are inside; `seeds`, the pointing
        of each; `relevance`, by target what `share_table` returns; `attention`, the same of the one map.
    """
    bank = rated_clips(data)
    inside = planted_windows(data.folder, bank)
    tests = {end: [examine(name, bank, inside, cfg, s, column) for s in cfg.seeds] for end, name in MODELS.items()}
    own, control = (_mean_over_clips([test.sooner for test in tests[end]], tests[end]) for end in MODELS)
    found: dict[str, Any] = {"trait": str(bank.targets[column]), "deletion": own | {"control": control}}
    if inside is None:
        empty = [*POINTING, *(f"{name}_interval" for name in POINTING), "occlusion_chance", "relevance", "attention"]
        return found | dict.fromkeys(empty) | {"seeds": []}
    hits = {f"occlusion_pointing{end}": [test.points("occlusion") for test in tests[end]] for end in MODELS}
    chance = [test.uniform() for test in tests[""]]
    found["seeds"] = [
        {"seed": seed, "occlusion_chance": chance[i]} | {name: float(each[i].mean()) for name, each in hits.items()}
        for i, seed in enumerate(cfg.seeds)
    ]
    hits["motion_pointing"] = [test.points("motion") for test in tests[""]]
    for name, each in hits.items():  # test clips of a seed are the same for both models
        mean = _mean_over_clips(each, tests[""])
        found |= {name: mean["value"], f"{name}_interval": mean["interval"]}
    targets = enumerate(bank.targets.tolist())
    return found | {
        "occlusion_chance": float(np.mean(chance)),
        "attention": share_table(tests, lambda test: test.weights["attention"]),
        "relevance": {t: share_table(tests, lambda test, k=k: test.weights["relevance"][:, k]) for k, t in targets},
    }


def _mean_over_clips(values: Sequence[np.ndarray], tests: Sequence[Tested]) -> dict[str, Any]:
    """Mean over clips and seeds, `value`, and its `interval` over sources."""
    return mean_interval(values, [test.clips.sources for test in tests])


def share_table(tests: Mapping[str, Sequence[Tested]], weight_of: Callable[[Tested], np.ndarray]) -> dict[str, Any]:
    """Share of each clip's weight (N, Td) that lies inside what was planted.

    Returns:
        `inside` and its `interval` [low, high]; `inside_shuffled`, `interval_shuffled` of the control; `uniform`, the
        share of tokens that are inside.
    """
    row: dict[str, Any] = {"uniform": float(np.mean([test.uniform() for test in tests[""]]))}
    for end, of_model in tests.items():
        found = _mean_over_clips([test.share(weight_of(test)) for test in of_model], of_model)
        row |= {f"inside{end}": found["value"], f"interval{end}": found["interval"]}
    return row


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of the rows of two arrays (N, values), (N,).

    Values that are NaN in either are left out; NaN where less than three are left, or one side does not vary.
    """
    known = ~(np.isnan(a) | np.isnan(b))
    ranks_a, ranks_b = (pd.DataFrame(x).where(known).rank(axis=1) for x in (a, b))
    return ranks_a.corrwith(ranks_b, axis=1).where(known.sum(1) > 2).to_numpy()


def randomisation(
    model: keras.Model, others: Mapping[str, keras.Model], clips: Aligned, baseline: np.ndarray, column: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compare what a model shows of clips that it was not trained on with what others show that cannot have learned it.

    After Adebayo et al. (2018), Sanity checks for saliency maps: what an untrained model shows as well explains
    nothing.

    Returns:
        By name of the other and measure ("attention", "relevance", "occlusion") `value`, mean rank correlation over
        clips, and `interval` [low, high] over sources. Near 1: the measure does not show what was learned.
    """
    own = show(model, clips, baseline, column)
    found = {}
    for name, other in others.items():
        shown = show(other, clips, baseline, column)
        found[name] = {m: mean_interval([rank_correlation(own[m], shown[m])], [clips.sources]) for m in MEASURES}
    return found


def agreement(data: TrainingData, cfg: TrainingConfig, column: int) -> dict[str, Any] | None:
    """Compare what models show that were trained alike, with other seeds and other clips.

    They are compared on the live clips of `data`, which none was trained on; where there are fewer than two, on the
    clips that are test clips of both.

    Returns:
        By measure `value` and `interval` (mean over clips and pairs of seeds), and `other_clips`, the same with each
        clip's picture held against another clip's: what is as high there says nothing about the clip. `clips`, how
        many were compared. None with a single seed, or without a clip that both have not seen.
    """
    bank, live = rated_clips(data), data.live_clips
    splits = {seed: split_of(bank, cfg, seed) for seed in cfg.seeds}
    models = {seed: load_trained(cfg, TOKEN_MODEL, seed) for seed in cfg.seeds} if len(splits) > 1 else {}
    sources, pairs = [], []
    for pair in combinations(cfg.seeds, 2):
        unseen = np.all([splits[seed] == "test" for seed in pair], axis=0)
        clips = live if live is not None and len(live) > 1 else bank.take(unseen)
        clips = clips.take(np.arange(min(len(clips), SHOWN_CLIPS)))
        if len(clips) > 1:
            sources.append(clips.sources)
            baselines = [mean_motion(bank.take(splits[seed] == "train")) for seed in pair]
            pairs.append([show(models[s], clips, base, column) for s, base in zip(pair, baselines, strict=True)])
    if not pairs:
        return None
    found: dict[str, Any] = {"clips": int(sum(map(len, sources)))}
    for m in MEASURES:
        same = mean_interval([rank_correlation(a[m], b[m]) for a, b in pairs], sources)
        others = mean_interval([rank_correlation(a[m], np.roll(b[m], 1, axis=0)) for a, b in pairs], sources)
        found[m] = same | {"other_clips": others["value"], "other_clips_interval": others["interval"]}
    return found


def agreement_rows(found: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Lay `agreement` out as two comparisons by measure, each `value` and `interval`: the same clip, another clip."""
    ends = {"the same clip": ("value", "interval"), "another clip": ("other_clips", "other_clips_interval")}
    return {
        name: {m: {"value": found[m][value], "interval": found[m][interval]} for m in MEASURES}
        for name, (value, interval) in ends.items()
    }
