"""What the model looks at, and what its answer rests on.

In: a trained CompletePersonalityModel and its inputs. Out: attention (B, heads, Ts, Td), which says where the model
reads, with its entropy and its share by time and by lag; and changes of the scores when motion is taken away, which is
what it rests on: the attention is one for all k targets, the effects are not. Whether that is real is judged against a
control that was trained on shuffled motion and, on synthetic clips, the planted truth.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops

from helpers.align import Aligned
from helpers.clips import is_synthetic
from helpers.config import TrainingConfig
from helpers.experiment import TrainingData, load_trained, rated_clips, split_of
from helpers.statistics import mean_interval
from helpers.variants import SHUFFLED_MODEL, TOKEN_MODEL, shuffle_motion, shuffled_order

BATCH = 256
PASS_NUMBERS = 2**22  # of tokens' channels, and of a head's attention, that go through the model at once: 16 MB each

# of the model: `static`, `dynamic`, (N, T, D), their `_t_s` in seconds and `_mask`, bool
Inputs = dict[str, np.ndarray]


def get_attention_weights(model: keras.Model, inputs: Inputs) -> np.ndarray:
    """Return the attention of a batch of clips, float32 (B, heads, Ts, Td); rows of real face tokens sum to 1.

    Warns (UserWarning) when no clip has more than one motion token: its attention is 1 whatever was learned.
    """
    batches = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="attention over a single motion token")
        for i in range(0, len(inputs["static"]), BATCH):
            batch = {name: x[i : i + BATCH] for name, x in inputs.items()}
            batches.append(ops.convert_to_numpy(model(batch, training=False, return_attention=True)[1]))
    attention = np.concatenate(batches)
    if (np.count_nonzero(attention, axis=-1) <= 1).all():
        warnings.warn(
            "no clip has more than one motion token, so every attention weight is 1 and says nothing. "
            "Pass sequences of motion tokens.",
            UserWarning,
            stacklevel=2,
        )
    return attention


def attention_entropy(attention: np.ndarray, static_mask: np.ndarray, dynamic_mask: np.ndarray) -> np.ndarray:
    """Entropy of each clip's rows of attention (B, heads, Ts, Td): 1 = looks everywhere alike, 0 = at one token.

    It is the mean over real face tokens per clip and head, (B, heads); NaN for clips with one motion token.
    """
    entropy = -(attention * np.log(np.maximum(attention, 1e-12))).sum(-1)  # (B, heads, Ts)
    uniform = np.log(dynamic_mask.sum(1))[:, None]
    mean = (entropy * static_mask[:, None]).sum(-1) / static_mask.sum(1)[:, None]
    return np.divide(mean, uniform, out=np.full_like(mean, np.nan), where=uniform > 0)


def attention_by_time(attention: np.ndarray, static_mask: np.ndarray) -> np.ndarray:
    """Share of each clip's attention (B, heads, Ts, Td) per motion token, (B, Td): rows sum to 1.

    It is the mean over heads and real face tokens, those of `static_mask`, bool (B, Ts).
    """
    weight = static_mask / static_mask.sum(1, keepdims=True)
    return np.einsum("bst,bs->bt", attention.mean(1), weight)


def attention_by_lag(attention: np.ndarray, inputs: Inputs, step_s: float) -> pd.DataFrame:
    """Mean attention (B, heads, Ts, Td) by how much later the motion token is than the face token: columns lag_s
    (increasing, the smallest and multiples of `step_s` from it) and attention.
    """
    lag_s = inputs["dynamic_t_s"][:, None, :] - inputs["static_t_s"][:, :, None]  # (B, Ts, Td)
    real = inputs["dynamic_mask"][:, None, :] & inputs["static_mask"][:, :, None]
    first = lag_s[real].min()
    rounded_s = np.rint((lag_s[real] - first) / step_s) * step_s + first
    table = pd.DataFrame({"lag_s": rounded_s, "attention": attention.mean(1)[real]})
    return table.groupby("lag_s", as_index=False).mean()


def mean_motion(aligned: Aligned) -> np.ndarray:
    """Mean motion token of some clips, float32 (D,): what stands for a motion token that is taken away."""
    return aligned.dynamic_features[aligned.dynamic_mask].mean(0)


def occlusion(
    model: keras.Model, inputs: Inputs, baseline: np.ndarray, parts: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """What each part of the motion contributes to every score: with it minus without it.

    Args:
        model, inputs: A trained model of k targets, and N clips.
        baseline: What stands for tokens that are taken away, usually `mean_motion` of the training clips, (D,).
        parts: Indices of the motion tokens of each part; default each token by itself.

    Returns:
        Score of the whole clip minus score without the part, float32 (N, parts, k): above 0, the part raised the score.
        0 for single tokens where the mask is False.
    """
    n, n_tokens, width = inputs["dynamic"].shape
    each = [[token] for token in range(n_tokens)] if parts is None else parts
    taken = np.zeros((1 + len(each), n_tokens, 1), bool)
    for row, part in enumerate(each, 1):  # in the first row none is
        taken[row, part] = True
    clip, row = (index.ravel() for index in np.indices((n, len(taken))))
    at_once = max(1, PASS_NUMBERS // (n_tokens * max(width, inputs["static"].shape[1])))
    scores = []
    for i in range(0, len(clip), at_once):
        some = slice(i, i + at_once)
        batch = {name: x[clip[some]] for name, x in inputs.items()}
        batch["dynamic"] = np.where(taken[row[some]], baseline, batch["dynamic"]).astype("float32")
        scores.append(ops.convert_to_numpy(model(batch, training=False)))
    scores = np.concatenate(scores).reshape(n, len(taken), -1)
    effects = scores[:, :1] - scores[:, 1:]
    return effects * inputs["dynamic_mask"][..., None] if parts is None else effects


def shares(per_token: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Share of each motion token in the sum of absolute values (N, Td) of its clip, NaN where the mask is False."""
    size = np.where(mask, np.abs(per_token), np.nan)
    total = np.nansum(size, 1, keepdims=True)
    return size / np.where(total > 0, total, np.nan)


MODELS = {"": TOKEN_MODEL, "_shuffled": SHUFFLED_MODEL}  # by the end of their keys in attention.json
MEASURES = ("attention", "occlusion")
POINTING = {  # key of attention.json: the model, the column of `examine`
    "occlusion_pointing": (TOKEN_MODEL, "points"),
    "occlusion_pointing_shuffled": (SHUFFLED_MODEL, "points"),
    "motion_pointing": (TOKEN_MODEL, "motion_points"),
}
SHOWN_CLIPS = 60  # enough for an interval of a few hundredths


def planted_windows(folder: str | Path, aligned: Aligned) -> np.ndarray | None:
    """Read from `truth.csv` (key, warm_s, cool_s, window_s in seconds) which motion tokens lie in planted light windows
    by half or more of their duration, bool (N, Td); None unless all clips are synthetic.
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


def examine(name: str, bank: Aligned, inside: np.ndarray, cfg: TrainingConfig, seed: int, column: int) -> pd.DataFrame:
    """Measure a trained model on its test clips; shuffled motion tokens are judged by the time that they came from.

    Args:
        inside: Which motion tokens come from a planted window, bool (N, Td).
        column: Of the target that is asked about.

    Returns:
        A row per clip: model, seed, source; `points` and `motion_points`, whether the largest effect on the target and
        the most unusual motion are inside, 1 or 0; and the share inside of the `uniform` weights, of the `attention`,
        and of the absolute effects on each target, by its name; NaN where there are none.
    """
    split = split_of(bank, cfg, seed)
    baseline, test = mean_motion(bank.take(split == "train")), split == "test"
    if name == SHUFFLED_MODEL:
        inside = np.take_along_axis(inside, shuffled_order(bank, seed), 1)
        bank = shuffle_motion(bank, seed)
    model, clips, inside = load_trained(cfg, name, seed), bank.take(test), inside[test]
    inputs, mask = clips.inputs(), clips.dynamic_mask
    effects = np.abs(occlusion(model, inputs, baseline))  # (n, Td, k)

    def points(weight: np.ndarray) -> np.ndarray:
        largest = np.where(mask, weight, -1).argmax(1)
        return inside[np.arange(len(largest)), largest].astype(float)

    unusual = np.linalg.norm(clips.dynamic_features - baseline, axis=-1)
    weights = {"uniform": np.ones(mask.shape)}
    weights["attention"] = attention_by_time(get_attention_weights(model, inputs), clips.static_mask)
    weights |= dict(zip(clips.targets.tolist(), np.moveaxis(effects, -1, 0), strict=True))
    parts = {what: pd.DataFrame(shares(weight, mask) * inside) for what, weight in weights.items()}
    columns = {"points": points(effects[..., column]), "motion_points": points(unusual)}
    columns |= {what: part.sum(axis=1, min_count=1) for what, part in parts.items()}
    return pd.DataFrame({"model": name, "seed": seed, "source": clips.sources} | columns)


def evaluate(data: TrainingData, cfg: TrainingConfig, column: int) -> dict[str, Any]:
    """Measure on each seed's test clips whether the model's answer rests on what was planted.

    Args:
        data: What the models were trained on; its folder holds `truth.csv` where the clips are synthetic.
        cfg: As the training; `cfg.out` holds the trained models.
        column: Of the target whose cue is an event in time.

    Returns:
        `trait`. And, empty without a planted truth: `occlusion_pointing`, share of clips whose largest effect is
        inside, the same of the control as `occlusion_pointing_shuffled`, and `motion_pointing`, that of the token
        farthest from mean motion, which needs no model, each with `_interval` [low, high] over sources;
        `occlusion_chance`, the share of tokens that are inside; `seeds`, the pointing of each; `relevance`, by target
        how much of the effects is inside (see `share_inside`); `attention`, the same of the one map.
    """
    bank = rated_clips(data)
    inside, trait = planted_windows(data.folder, bank), {"trait": str(bank.targets[column])}
    if inside is None:
        empty = [*POINTING, *(f"{name}_interval" for name in POINTING), "occlusion_chance", "relevance", "attention"]
        return trait | dict.fromkeys(empty) | {"seeds": []}
    tests = [examine(name, bank, inside, cfg, seed, column) for seed in cfg.seeds for name in MODELS.values()]
    rows = pd.concat(tests, ignore_index=True)
    means = rows.groupby(["seed", "model"])[["points", "uniform"]].mean()
    seeds = [
        {"seed": seed, "occlusion_chance": float(means.loc[(seed, TOKEN_MODEL), "uniform"])}
        | {f"occlusion_pointing{end}": float(means.loc[(seed, name), "points"]) for end, name in MODELS.items()}
        for seed in cfg.seeds
    ]
    found = {name: _over_seeds(rows[rows["model"] == model], what) for name, (model, what) in POINTING.items()}
    return (
        trait
        | {name: mean["value"] for name, mean in found.items()}
        | {f"{name}_interval": mean["interval"] for name, mean in found.items()}
        | {"occlusion_chance": float(np.mean([row["occlusion_chance"] for row in seeds])), "seeds": seeds}
        | {"attention": share_inside(rows, "attention")}
        | {"relevance": {target: share_inside(rows, target) for target in bank.targets.tolist()}}
    )


def _over_seeds(rows: pd.DataFrame, what: str) -> dict[str, Any]:
    """Mean over clips and seeds, `value`, and its `interval` over sources."""
    seeds = [of_seed for _, of_seed in rows.groupby("seed", sort=False)]
    return mean_interval([one[what].to_numpy() for one in seeds], [one["source"].to_numpy(str) for one in seeds])


def share_inside(rows: pd.DataFrame, what: str) -> dict[str, Any]:
    """How much of a measure, a column of `examine`, lies inside what was planted: `inside` and its `interval` [low,
    high]; `inside_shuffled`, `interval_shuffled` of the control; `uniform`, the share of tokens that are inside.
    """
    row: dict[str, Any] = {"uniform": _over_seeds(rows[rows["model"] == TOKEN_MODEL], "uniform")["value"]}
    for end, name in MODELS.items():
        mean = _over_seeds(rows[rows["model"] == name], what)
        row |= {f"inside{end}": mean["value"], f"interval{end}": mean["interval"]}
    return row


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of the rows of two arrays (N, values), (N,), without values that are NaN in either;
    NaN where less than three are left, or one side does not vary.
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
        By name of the other and measure of `MEASURES`: `value`, mean rank correlation over clips, and `interval` [low,
        high] over sources. Near 1: the measure does not show what was learned.
    """
    inputs = clips.inputs()
    real = clips.static_mask[:, :, None] & clips.dynamic_mask[:, None]

    def measures(one: keras.Model) -> dict[str, np.ndarray]:
        maps = np.where(real, get_attention_weights(one, inputs).mean(1), np.nan)
        effects = np.abs(occlusion(one, inputs, baseline)[..., column])
        return {"attention": maps.reshape(len(clips), -1), "occlusion": np.where(clips.dynamic_mask, effects, np.nan)}

    own, found = measures(model), {}
    for name, other in others.items():
        shown = measures(other)
        found[name] = {m: mean_interval([rank_correlation(own[m], shown[m])], [clips.sources]) for m in MEASURES}
    return found
