"""What was planted in drawn clips, and whether something found points at it.

In: `truth.csv` beside the tokens (key, warm_s, cool_s, window_s in seconds), `Aligned` clips. Out: which tokens lie in
planted windows, and shares of clips. None where clips were not drawn: then nothing is known.

Whether what is seen of a model is real: measures on test clips, beside their control and the planted truth.

In: the trained token model and its control (trained on shuffled motion) of every seed, and the clips they were trained
on. Out: the content of `attention.json`; figures that need a planted truth are None where there is none.

Would the picture look the same anyway: maps of models that learned nothing, and of models trained alike.

In: models, clips, the mean motion token. Out: rank correlations per clip between what two models show, with intervals.
After Adebayo et al. (2018), Sanity checks for saliency maps: what an untrained model shows as well is no explanation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from helpers.align import Aligned
from helpers.attention import (
    attention_by_time,
    column_of,
    curves,
    get_attention_weights,
    gradient_attention,
    mean_motion,
    occlusion,
    order_of,
    per_motion_token,
    random_orders,
    relevance,
    replaced_per_step,
)
from helpers.config import TrainingConfig
from helpers.statistics import mean_interval
from helpers.training.train import TrainingData, load_trained, rated_clips, split_of
from helpers.training.variants import SHUFFLED_MODEL, TOKEN_MODEL, shuffle_motion, shuffled_order, variant_of


def inside_windows(t_s: np.ndarray, token_s: float, starts_s: np.ndarray, window_s: np.ndarray) -> np.ndarray:
    """Whether at least half of each token's duration lies in one clip's windows.

    Args:
        t_s: Centre of each token in seconds, (N, Td).
        token_s: Duration of a token in seconds.
        starts_s: Start of each window in seconds, (N, windows), not overlapping.
        window_s: Length of each clip's windows in seconds, (N,).

    Returns:
        bool (N, Td).
    """
    low, high = t_s[:, :, None] - token_s / 2, t_s[:, :, None] + token_s / 2
    stops_s = starts_s + window_s[:, None]
    overlap = np.minimum(high, stops_s[:, None]) - np.maximum(low, starts_s[:, None])  # (N, Td, windows)
    return np.clip(overlap, 0, None).sum(-1) >= token_s / 2 - 1e-9


def planted_windows(folder: str | Path, aligned: Aligned) -> np.ndarray | None:
    """Read which motion tokens lie in a planted light window, bool (N, Td); None when the clips were not drawn.

    Args:
        folder: Holds `truth.csv`: key, warm_s, cool_s, window_s in seconds.
        aligned: Clips of that table.
    """
    found = window_starts(folder, aligned)
    return None if found is None else inside_windows(aligned.dynamic_t_s, token_duration(aligned), *found)


def window_starts(folder: str | Path, aligned: Aligned) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the planted light windows' starts (N, 2) and length (N,) in seconds; None unless all clips were drawn."""
    path = Path(folder) / "truth.csv"
    if not path.exists():
        return None
    truth = pd.read_csv(path, index_col="key")
    if not np.isin(aligned.clips, truth.index).all():
        return None
    truth = truth.loc[aligned.clips]
    return truth[["warm_s", "cool_s"]].to_numpy(), truth["window_s"].to_numpy()


def window_spans(folder: str | Path, clip: str) -> dict[str, tuple[float, float]]:
    """Start and stop in seconds of what was planted in one clip, by name; empty when it was not drawn."""
    path = Path(folder) / "truth.csv"
    truth = pd.read_csv(path, index_col="key") if path.exists() else pd.DataFrame()
    if clip not in truth.index:
        return {}
    row = truth.loc[clip]
    return {f"{name} light": (row[f"{name}_s"], row[f"{name}_s"] + row["window_s"]) for name in ("warm", "cool")}


def token_duration(aligned: Aligned) -> float:
    """Duration of a motion token in seconds: the step from one to the next, for tokens that do not overlap."""
    steps = np.diff(aligned.dynamic_t_s, axis=1)[aligned.dynamic_mask[:, 1:]]
    return float(np.median(steps))


def event_rows(folder: str | Path, aligned: Aligned) -> np.ndarray | None:
    """Say which face tokens were taken inside a planted light window, bool (N, Ts); None for clips not drawn."""
    found = window_starts(folder, aligned)
    if found is None:
        return None
    starts_s, window_s = found
    after = aligned.static_t_s[:, :, None] - starts_s[:, None]  # (N, Ts, windows)
    return ((after >= 0) & (after <= window_s[:, None, None])).any(-1) & aligned.static_mask


def pointing_at(effects: np.ndarray, inside: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Whether each clip's largest effect is inside, float (N,), 1 or 0.

    Args:
        effects: Change of the prediction by each token, (N, Td).
        inside: bool (N, Td).
        mask: bool (N, Td), real tokens.
    """
    largest = np.where(mask, np.abs(effects), -1).argmax(1)
    return inside[np.arange(len(inside)), largest].astype(float)


def pointing(effects: np.ndarray, inside: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Share of clips whose largest effect is inside, see `pointing_at`, and what chance would give, both in [0, 1]."""
    chance = (inside & mask).sum(1) / mask.sum(1)
    return float(pointing_at(effects, inside, mask).mean()), float(chance.mean())


DRAWS = 4  # random orders of deletion
MOTION = "motion_pointing"
MODELS = {"true": TOKEN_MODEL, "shuffled": SHUFFLED_MODEL}


@dataclass(frozen=True)
class View:
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


def view_of(name: str, bank: Aligned, inside: np.ndarray | None, cfg: TrainingConfig, seed: int) -> View:
    """Load a trained model with its test clips; shuffled motion tokens are judged by the time that they came from."""
    split = split_of(bank, cfg, seed)
    baseline, test = mean_motion(bank.take(split == "train")), split == "test"
    if variant_of(name).inputs == "shuffled":
        inside = None if inside is None else np.take_along_axis(inside, shuffled_order(bank, seed), 1)
        bank = shuffle_motion(bank, seed)
    return View(load_trained(cfg, name, seed), bank.take(test), None if inside is None else inside[test], baseline)


def occlusion_pointing(
    name: str, bank: Aligned, inside: np.ndarray, cfg: TrainingConfig, seed: int, trait: str
) -> tuple[float, float]:
    """Pointing of one trained model's occlusion effects on its test clips, and what chance would give."""
    view = view_of(name, bank, inside, cfg, seed)
    effects = occlusion(view.model, view.clips.inputs(), column_of(bank, trait), view.baseline)
    return pointing(effects, view.inside, view.clips.dynamic_mask)


def measure(view: View, column: int) -> dict[str, Any]:
    """Measure one model on its test clips.

    Returns:
        `occlusion`, `attention` (N, Td), the latter each token's share; `relevance`, `gradient_attention` (N, k, Td),
        absolute; `curves` by order, see `occlusion.curves`, of the target in that column.
    """
    inputs, mask = view.clips.inputs(), view.clips.dynamic_mask
    effects = occlusion(view.model, inputs, column, view.baseline)
    relevant = np.abs(per_motion_token(relevance(view.model, inputs, view.baseline)))
    maps = get_attention_weights(view.model, inputs)
    share = np.stack([attention_by_time(m, real) for m, real in zip(maps, view.clips.static_mask, strict=True)])
    orders = {"occlusion": np.abs(effects), "relevance": relevant[:, column], "attention": share}
    chosen = {name: [order_of(importance, mask)] for name, importance in orders.items()}
    chosen["random"] = random_orders(mask, DRAWS)
    return {
        "occlusion": effects,
        "attention": share,
        "relevance": relevant,
        "gradient_attention": per_motion_token(gradient_attention(view.model, inputs)),
        "curves": curves(view.model, inputs, chosen, column, view.baseline),
    }


def evaluate(data: TrainingData, cfg: TrainingConfig, trait: str) -> dict[str, Any]:
    """Measure on each seed's test clips whether the model's answer rests on what was planted.

    Args:
        data: What the models were trained on; its folder holds `truth.csv` when the clips were drawn.
        cfg: As the training; `cfg.out` holds the trained models.
        trait: The target whose cue is an event in time.

    Returns:
        `occlusion_pointing`, `deletion_pointing` (share of clips whose largest effect, or largest mean step over random
        deletions, is inside), the same of the control as `_shuffled`, and `motion_pointing`, that of the token farthest
        from mean motion, which needs no model; each with `_interval` [low, high] over sources; `occlusion_chance`, the
        share of tokens that are inside; `relevance`, `gradient_attention`, by target what `share_inside` returns;
        `attention`, the same of the one map; `deletion`, see `deletion_table`; `seeds`, the pointing of each; `trait`.
        Without a planted truth all but `deletion` and `trait` are empty.
    """
    bank = rated_clips(data)
    column, inside = column_of(bank, trait), planted_windows(data.folder, bank)
    views = {key: [view_of(name, bank, inside, cfg, seed) for seed in cfg.seeds] for key, name in MODELS.items()}
    found = {key: [measure(view, column) for view in of_model] for key, of_model in views.items()}
    out = {"trait": trait, "deletion": deletion_table(views, found)}
    if inside is None:
        return out | _nothing_planted()
    for name in ("relevance", "gradient_attention"):
        out[name] = {
            target: share_inside(views, {key: [m[name][:, k] for m in of_model] for key, of_model in found.items()})
            for k, target in enumerate(bank.targets.tolist())
        }
    out["attention"] = share_inside(views, {key: [m["attention"] for m in of_model] for key, of_model in found.items()})
    return out | _pointing(views, found, cfg.seeds)


def _nothing_planted() -> dict[str, Any]:
    kinds = [f"{kind}_pointing{of}" for kind in ("occlusion", "deletion") for of in ("", "_shuffled")]
    names = [kind + end for kind in (*kinds, MOTION) for end in ("", "_interval")]
    return dict.fromkeys([*names, "occlusion_chance", "relevance", "gradient_attention", "attention"]) | {"seeds": []}


def _pointing(views: dict[str, list[View]], found: dict[str, list[dict]], seeds: Sequence[int]) -> dict[str, Any]:
    """Pointing by occlusion and by deletion of the model and its control, with intervals, and of each seed."""
    out: dict[str, Any] = {}
    per_seed: list[dict[str, Any]] = [{"seed": seed} for seed in seeds]
    for key, of_model in views.items():
        for kind in ("occlusion", "deletion"):
            name = f"{kind}_pointing" + ("_shuffled" if key == "shuffled" else "")
            effects = [m["occlusion"] if kind == "occlusion" else m["curves"]["random"]["effects"] for m in found[key]]
            hits = [pointing_at(e, v.inside, v.clips.dynamic_mask) for e, v in zip(effects, of_model, strict=True)]
            interval = mean_interval(hits, [v.clips.sources for v in of_model])
            out |= {name: interval["value"], f"{name}_interval": interval["interval"]}
            for row, hit in zip(per_seed, hits, strict=True):
                row[name] = float(hit.mean())
    interval = mean_interval([farthest_inside(v) for v in views["true"]], [v.clips.sources for v in views["true"]])
    out |= {MOTION: interval["value"], f"{MOTION}_interval": interval["interval"]}
    for row, view in zip(per_seed, views["true"], strict=True):
        row["occlusion_chance"] = float(_share(view.clips.dynamic_mask.astype(float), view).mean())
    chance = float(np.mean([row["occlusion_chance"] for row in per_seed]))
    return out | {"occlusion_chance": chance, "seeds": per_seed}


def farthest_inside(view: View) -> np.ndarray:
    """Whether each clip's motion token that is farthest from mean motion is inside, float (N,)."""
    distance = np.linalg.norm(view.clips.dynamic_features - view.baseline, axis=-1)
    return pointing_at(distance, view.inside, view.clips.dynamic_mask)


def share_inside(views: dict[str, list[View]], found: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Share of each clip's weight that lies inside what was planted.

    Args:
        views: Of the model ("true") and its control ("shuffled"), one per seed.
        found: Weight of each motion token, not negative, (N, Td), as in `views`.

    Returns:
        `inside` and its `interval` [low, high]; `inside_shuffled`, `interval_shuffled` of the control; `uniform`, the
        share of tokens that are inside.
    """
    uniform = np.mean([_share(v.clips.dynamic_mask.astype(float), v).mean() for v in views["true"]])
    row: dict[str, Any] = {"uniform": float(uniform)}
    for key, end in (("true", ""), ("shuffled", "_shuffled")):
        shares = [_share(weight, view) for weight, view in zip(found[key], views[key], strict=True)]
        interval = mean_interval(shares, [v.clips.sources for v in views[key]])
        row |= {f"inside{end}": interval["value"], f"interval{end}": interval["interval"]}
    return row


def _share(weight: np.ndarray, view: View) -> np.ndarray:
    """Share of the weight (N, Td) of each clip that is inside, (N,); NaN where there is none."""
    weight = weight * view.clips.dynamic_mask
    total = weight.sum(1)
    return np.divide((weight * view.inside).sum(1), total, out=np.full(len(total), np.nan), where=total > 0)


def deletion_table(views: dict[str, list[View]], found: dict[str, list[dict]]) -> dict[str, Any]:
    """Curves of deletion and insertion, and the areas under them.

    Returns:
        `replaced`: share of tokens replaced (or put back) at each step, (Td + 1); by model ("true", "shuffled") and
        order ("occlusion", "relevance", "attention", "random"): `deletion` and `insertion`, mean |change of the
        score| at each step; `deletion_area`, `insertion_area`, their means over the steps, and `_interval` of each.
        A good order has a large area of deletion and a small one of insertion.
    """
    steps = replaced_per_step(views["true"][0].clips.dynamic_mask)
    table: dict[str, Any] = {"replaced": (np.arange(steps.shape[1]) / (steps.shape[1] - 1)).tolist()}
    for key, of_model in views.items():
        sources = [v.clips.sources for v in of_model]
        table[key] = {}
        for order in found[key][0]["curves"]:
            row: dict[str, Any] = {}
            for kind in ("deletion", "insertion"):
                per_clip = [m["curves"][order][kind] for m in found[key]]
                row[kind] = np.mean([c.mean(0) for c in per_clip], 0).tolist()
                area = mean_interval([c.mean(1) for c in per_clip], sources)
                row |= {f"{kind}_area": area["value"], f"{kind}_area_interval": area["interval"]}
            table[key][order] = row
    return table


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
