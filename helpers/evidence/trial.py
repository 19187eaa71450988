"""Whether what is seen of a model is real: measures on test clips, beside their control and the planted truth.

In: the trained token model and its control (trained on shuffled motion) of every seed, and the clips they were trained
on. Out: the content of `attention.json`; figures that need a planted truth are None where there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from helpers.align import Aligned
from helpers.attention import attention_by_time, get_attention_weights
from helpers.config import TrainingConfig
from helpers.evidence.occlusion import (
    column_of,
    curves,
    mean_motion,
    occlusion,
    order_of,
    random_orders,
    replaced_per_step,
)
from helpers.evidence.planted import planted_windows, pointing, pointing_at
from helpers.evidence.relevance import gradient_attention, per_motion_token, relevance
from helpers.science.intervals import mean_interval
from helpers.training.train import TrainingData, load_trained, rated_clips, split_of
from helpers.training.variants import SHUFFLED_MODEL, TOKEN_MODEL, shuffle_motion, shuffled_order, variant_of

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
