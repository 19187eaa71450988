"""Whether what is seen of a model is real: against its control, the planted truth, and models that learned nothing.

In: the trained token model and its control (trained on shuffled motion) of every seed, the clips they were trained on,
and, where clips are synthetic, `truth.csv` beside the tokens (key, warm_s, cool_s, window_s in seconds). Out: the
content of `attention.json`; figures that need a planted truth are None where there is none.
"""

from collections.abc import Mapping, Sequence
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
    curves,
    get_attention_weights,
    gradient_attention,
    mean_motion,
    occlusion,
    order_of,
    random_orders,
    relevance,
)
from helpers.config import TrainingConfig
from helpers.experiment import TrainingData, load_trained, rated_clips, split_of
from helpers.statistics import mean_interval
from helpers.variants import SHUFFLED_MODEL, TOKEN_MODEL, shuffle_motion, shuffled_order, variant_of

DRAWS = 4  # random orders of deletion
MODELS = {"true": TOKEN_MODEL, "shuffled": SHUFFLED_MODEL}
ENDS = {"true": "", "shuffled": "_shuffled"}  # of the keys of attention.json
MEASURES = ("attention", "relevance", "occlusion")
SHOWN_CLIPS = 60  # enough for an interval of a few hundredths


def planted_windows(folder: str | Path, aligned: Aligned) -> np.ndarray | None:
    """Read which motion tokens lie in planted light windows, by half or more of their duration.

    Args:
        folder: Holds `truth.csv`: key, warm_s, cool_s, window_s in seconds.
        aligned: Clips of that table.

    Returns:
        bool (N, Td); None where the clips are not synthetic.
    """
    found = window_starts(folder, aligned)
    if found is None:
        return None
    starts_s, stops_s = found[0], found[0] + found[1][:, None]
    half_s = token_duration(aligned) / 2
    low, high = aligned.dynamic_t_s[:, :, None] - half_s, aligned.dynamic_t_s[:, :, None] + half_s
    overlap = np.minimum(high, stops_s[:, None]) - np.maximum(low, starts_s[:, None])  # (N, Td, windows)
    return np.clip(overlap, 0, None).sum(-1) >= half_s - 1e-9


def window_starts(folder: str | Path, aligned: Aligned) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the planted light windows' starts (N, 2) and length (N,) in seconds; None unless all clips have them."""
    truth = _truth(folder).reindex(aligned.clips)
    if not len(truth.columns) or truth["window_s"].isna().any():
        return None
    return truth[["warm_s", "cool_s"]].to_numpy(), truth["window_s"].to_numpy()


def window_spans(folder: str | Path, clip: str) -> dict[str, tuple[float, float]]:
    """Start and stop in seconds of what was planted in one clip, by name; empty where it is not synthetic."""
    truth = _truth(folder)
    if clip not in truth.index:
        return {}
    row = truth.loc[clip]
    return {f"{name} light": (row[f"{name}_s"], row[f"{name}_s"] + row["window_s"]) for name in ("warm", "cool")}


def _truth(folder: str | Path) -> pd.DataFrame:
    path = Path(folder) / "truth.csv"
    return pd.read_csv(path, index_col="key") if path.exists() else pd.DataFrame()


def token_duration(aligned: Aligned) -> float:
    """Duration of a motion token in seconds: the step from one to the next, for tokens that do not overlap."""
    steps = np.diff(aligned.dynamic_t_s, axis=1)[aligned.dynamic_mask[:, 1:]]
    return float(np.median(steps))


def column_of(bank: Aligned, trait: str) -> int:
    """The column of `labels` that a target stands in; ValueError lists the targets."""
    targets = bank.targets.tolist()
    if trait not in targets:
        raise ValueError(f"trait must be one of {', '.join(targets)}, got {trait!r}. Set it for 07.")
    return targets.index(trait)


@dataclass(frozen=True)
class HeldOut:
    """One trained model with its test clips as it takes them.

    Attributes:
        model: Trained.
        clips: N test clips; their motion shuffled for a control.
        inside: Which motion tokens come from a planted window, bool (N, Td); None where nothing was planted.
        baseline: Mean motion token of the training clips, (D,).
    """

    model: keras.Model
    clips: Aligned
    inside: np.ndarray | None
    baseline: np.ndarray

    def points(self, effects: np.ndarray) -> np.ndarray:
        """Whether each clip's largest effect, of (N, Td), is of a token inside, float (N,), 1 or 0."""
        largest = np.where(self.clips.dynamic_mask, np.abs(effects), -1).argmax(1)
        return self.inside[np.arange(len(largest)), largest].astype(float)

    def share(self, weight: np.ndarray) -> np.ndarray:
        """Share of each clip's weight (N, Td), not negative, that is inside, (N,); NaN where there is none."""
        weight = weight * self.clips.dynamic_mask
        total = weight.sum(1)
        return (weight * self.inside).sum(1) / np.where(total > 0, total, np.nan)

    def farthest_points(self) -> np.ndarray:
        """Whether each clip's motion token that is farthest from mean motion is inside, which needs no model, (N,)."""
        return self.points(np.linalg.norm(self.clips.dynamic_features - self.baseline, axis=-1))

    def uniform(self) -> float:
        """Mean share of the tokens that are inside: what chance gives."""
        return float(self.share(np.ones(self.inside.shape)).mean())


def held_out(name: str, bank: Aligned, inside: np.ndarray | None, cfg: TrainingConfig, seed: int) -> HeldOut:
    """Load a trained model with its test clips; shuffled motion tokens are judged by the time that they came from."""
    split = split_of(bank, cfg, seed)
    baseline, test = mean_motion(bank.take(split == "train")), split == "test"
    if variant_of(name).inputs == "shuffled":
        inside = None if inside is None else np.take_along_axis(inside, shuffled_order(bank, seed), 1)
        bank = shuffle_motion(bank, seed)
    return HeldOut(load_trained(cfg, name, seed), bank.take(test), None if inside is None else inside[test], baseline)


def measure(test: HeldOut, column: int) -> dict[str, Any]:
    """Measure one model on its test clips.

    Returns:
        `occlusion`, `attention` (N, Td), the latter each token's share; `relevance`, `gradient_attention` (N, k, Td),
        absolute; `curves` by order, see `attention.curves`, of the target in that column.
    """
    inputs, mask = test.clips.inputs(), test.clips.dynamic_mask
    effects = occlusion(test.model, inputs, test.baseline)[..., column]
    relevant = np.abs(relevance(test.model, inputs, test.baseline).sum(2))
    share = attention_by_time(get_attention_weights(test.model, inputs), test.clips.static_mask)
    orders = {"occlusion": np.abs(effects), "relevance": relevant[:, column], "attention": share}
    chosen = {name: [order_of(importance, mask)] for name, importance in orders.items()}
    chosen["random"] = random_orders(mask, DRAWS)
    return {
        "occlusion": effects,
        "attention": share,
        "relevance": relevant,
        "gradient_attention": gradient_attention(test.model, inputs).sum(2),
        "curves": curves(test.model, inputs, chosen, column, test.baseline),
    }


def evaluate(data: TrainingData, cfg: TrainingConfig, trait: str) -> dict[str, Any]:
    """Measure on each seed's test clips whether the model's answer rests on what was planted.

    Args:
        data: What the models were trained on; its folder holds `truth.csv` where the clips are synthetic.
        cfg: As the training; `cfg.out` holds the trained models.
        trait: The target whose cue is an event in time.

    Returns:
        `occlusion_pointing`, `deletion_pointing` (share of clips whose largest effect, or largest mean step over random
        deletions, is inside), the same of the control as `_shuffled`, and `motion_pointing`, that of the token farthest
        from mean motion, which needs no model; each with `_interval` [low, high] over sources; `occlusion_chance`, the
        share of tokens that are inside; `relevance`, `gradient_attention`, by target what `share_table` returns;
        `attention`, the same of the one map; `deletion`, see `deletion_table`; `seeds`, the pointing of each; `trait`.
        Without a planted truth all but `deletion` and `trait` are empty.
    """
    bank = rated_clips(data)
    column, inside = column_of(bank, trait), planted_windows(data.folder, bank)
    tests = {key: [held_out(name, bank, inside, cfg, seed) for seed in cfg.seeds] for key, name in MODELS.items()}
    found = {key: [measure(test, column) for test in of_model] for key, of_model in tests.items()}
    out = {"trait": trait, "deletion": deletion_table(tests, found)}
    if inside is None:
        return out | _nothing_planted()
    for name in ("relevance", "gradient_attention"):
        out[name] = {
            target: share_table(tests, {key: [m[name][:, k] for m in found[key]] for key in found})
            for k, target in enumerate(bank.targets.tolist())
        }
    out["attention"] = share_table(tests, {key: [m["attention"] for m in found[key]] for key in found})
    return out | _pointing(tests, found, cfg.seeds)


def _nothing_planted() -> dict[str, Any]:
    kinds = [f"{kind}_pointing{end}" for kind in ("occlusion", "deletion") for end in ENDS.values()]
    names = [kind + end for kind in (*kinds, "motion_pointing") for end in ("", "_interval")]
    return dict.fromkeys([*names, "occlusion_chance", "relevance", "gradient_attention", "attention"]) | {"seeds": []}


def _pointing(tests: dict[str, list[HeldOut]], found: dict[str, list[dict]], seeds: Sequence[int]) -> dict[str, Any]:
    """Pointing by occlusion and by deletion of the model and its control, with intervals, and of each seed."""
    hits = {}
    for key, end in ENDS.items():
        pairs = list(zip(tests[key], found[key], strict=True))
        hits[f"occlusion_pointing{end}"] = [test.points(m["occlusion"]) for test, m in pairs]
        hits[f"deletion_pointing{end}"] = [test.points(m["curves"]["random"]["effects"]) for test, m in pairs]
    chance = [test.uniform() for test in tests["true"]]
    per_seed = [
        {"seed": seed, "occlusion_chance": chance[i]} | {name: float(each[i].mean()) for name, each in hits.items()}
        for i, seed in enumerate(seeds)
    ]
    hits["motion_pointing"] = [test.farthest_points() for test in tests["true"]]
    out = {"occlusion_chance": float(np.mean(chance)), "seeds": per_seed}
    for name, each in hits.items():
        out |= _with_interval(name, each, tests["true"])
    return out


def _with_interval(name: str, values: Sequence[np.ndarray], tests: Sequence[HeldOut]) -> dict[str, Any]:
    """A mean over clips and seeds under a name, and its ends under `<name>_interval`."""
    found = mean_interval(values, [test.clips.sources for test in tests])
    return {name: found["value"], f"{name}_interval": found["interval"]}


def share_table(tests: dict[str, list[HeldOut]], weights: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Share of each clip's weight that lies inside what was planted.

    Args:
        tests: Of the model ("true") and its control ("shuffled"), one per seed.
        weights: Of each motion token, not negative, (N, Td), as in `tests`.

    Returns:
        `inside` and its `interval` [low, high]; `inside_shuffled`, `interval_shuffled` of the control; `uniform`, the
        share of tokens that are inside.
    """
    row: dict[str, Any] = {"uniform": float(np.mean([test.uniform() for test in tests["true"]]))}
    for key, end in ENDS.items():
        shares = [test.share(weight) for test, weight in zip(tests[key], weights[key], strict=True)]
        found = mean_interval(shares, [test.clips.sources for test in tests[key]])
        row |= {f"inside{end}": found["value"], f"interval{end}": found["interval"]}
    return row


def deletion_table(tests: dict[str, list[HeldOut]], found: dict[str, list[dict]]) -> dict[str, Any]:
    """Curves of deletion and insertion, and the areas under them.

    Returns:
        `replaced`: share of tokens replaced (or put back) at each step, (Td + 1); by model ("true", "shuffled") and
        order ("occlusion", "relevance", "attention", "random"): `deletion` and `insertion`, mean |change of the
        score| at each step; `deletion_area`, `insertion_area`, their means over the steps, and `_interval` of each.
        A good order has a large area of deletion and a small one of insertion.
    """
    n_tokens = tests["true"][0].clips.dynamic_mask.shape[1]
    table: dict[str, Any] = {"replaced": np.linspace(0, 1, n_tokens + 1).tolist()} | {key: {} for key in tests}
    for key, of_model in tests.items():
        for order in found[key][0]["curves"]:
            row = table[key][order] = {}
            for kind in ("deletion", "insertion"):
                per_clip = [m["curves"][order][kind] for m in found[key]]
                row[kind] = np.mean([c.mean(0) for c in per_clip], 0).tolist()
                row |= _with_interval(f"{kind}_area", [c.mean(1) for c in per_clip], of_model)
    return table


Shown = dict[str, np.ndarray]  # by measure (N, values), NaN where a mask is False


def show(model: keras.Model, clips: Aligned, baseline: np.ndarray, column: int) -> Shown:
    """What one model shows of each clip.

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
    """Compare what a model shows of some clips with what models show that cannot have learned it.

    After Adebayo et al. (2018), Sanity checks for saliency maps: what an untrained model shows as well explains
    nothing.

    Args:
        model: The trained one.
        others: By name, such as "before training".
        clips: That none was trained on.
        baseline: Mean motion token.
        column: Of the target.

    Returns:
        By name and measure ("attention", "relevance", "occlusion") `value`, mean rank correlation over clips, and
        `interval` [low, high] over sources. Near 1: the measure does not show what was learned.
    """
    own = show(model, clips, baseline, column)
    found = {}
    for name, other in others.items():
        shown = show(other, clips, baseline, column)
        found[name] = {m: mean_interval([rank_correlation(own[m], shown[m])], [clips.sources]) for m in MEASURES}
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
    pairs = [pair for a, b in combinations(cfg.seeds, 2) if (pair := _pair(data, cfg, column, a, b))]
    if not pairs:
        return None
    sources = [clips.sources for clips, _, _ in pairs]
    found: dict[str, Any] = {"clips": int(sum(map(len, sources)))}
    for m in MEASURES:
        same = mean_interval([rank_correlation(a[m], b[m]) for _, a, b in pairs], sources)
        others = mean_interval([rank_correlation(a[m], np.roll(b[m], 1, axis=0)) for _, a, b in pairs], sources)
        found[m] = same | {"other_clips": others["value"], "other_clips_interval": others["interval"]}
    return found


def _pair(data: TrainingData, cfg: TrainingConfig, column: int, a: int, b: int) -> tuple[Aligned, Shown, Shown] | None:
    """Clips that neither seed was trained on, and what both models show of them; None for fewer than two."""
    bank, live = rated_clips(data), data.live_clips
    splits = [split_of(bank, cfg, seed) for seed in (a, b)]
    enough = live is not None and len(live) > 1
    clips = live if enough else bank.take((splits[0] == "test") & (splits[1] == "test"))
    clips = clips.take(np.arange(min(len(clips), SHOWN_CLIPS)))
    if len(clips) < 2:
        return None
    baselines = [mean_motion(bank.take(split == "train")) for split in splits]
    models = [load_trained(cfg, TOKEN_MODEL, seed) for seed in (a, b)]
    return clips, *(show(m, clips, base, column) for m, base in zip(models, baselines, strict=True))


def agreement_rows(found: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Lay `agreement` out as two comparisons by measure, each `value` and `interval`: the same clip, another clip."""
    ends = {"the same clip": ("value", "interval"), "another clip": ("other_clips", "other_clips_interval")}
    return {
        name: {m: {"value": found[m][value], "interval": found[m][interval]} for m in MEASURES}
        for name, (value, interval) in ends.items()
    }
