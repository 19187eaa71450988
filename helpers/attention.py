"""What the model looks at, and what its answer rests on.

Attention (B, heads, Ts, Td) says where the model reads; the changes of the scores when motion is taken away say what
they rest on: the attention is one for all k targets, the effects are not. Whether that is real is judged against a
control that was trained on shuffled motion and, on synthetic clips, the planted truth.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
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
from helpers.model import clips_at_once
from helpers.statistics import mean_interval
from helpers.variants import SHUFFLED_MODEL, TOKEN_MODEL, shuffle_motion, shuffled_order

# of the model: `static`, `dynamic`, (N, T, D), their `_t_s` in seconds and `_mask`, bool
Inputs = dict[str, np.ndarray]


def attention_batches(model: keras.Model, inputs: Inputs) -> Iterator[tuple[np.ndarray, Inputs]]:
    """The attention of clips, float32 (n, heads, Ts, Td), and their inputs, as many clips at a time as memory allows;
    rows of real face tokens sum to 1. Of a single motion token it is 1 whatever was learned.
    """
    n = clips_at_once(inputs)
    for i in range(0, len(inputs["static"]), n):
        batch = {name: x[i : i + n] for name, x in inputs.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="attention over a single motion token")
            attention = model(batch, training=False, return_attention=True)[1]
        yield ops.convert_to_numpy(attention), batch


def get_attention_weights(model: keras.Model, inputs: Inputs) -> np.ndarray:
    """The attention of all clips at once, float32 (N, heads, Ts, Td): see `attention_batches`."""
    return np.concatenate([attention for attention, _ in attention_batches(model, inputs)])


def attention_entropy(attention: np.ndarray, static_mask: np.ndarray, dynamic_mask: np.ndarray) -> np.ndarray:
    """Entropy of attention (B, heads, Ts, Td), mean over real face tokens, (B, heads): 1 = looks everywhere alike, 0 =
    at one token; NaN for clips with one motion token.
    """
    entropy = -(attention * np.log(np.maximum(attention, 1e-12))).sum(-1)  # (B, heads, Ts)
    uniform = np.log(dynamic_mask.sum(1))[:, None]
    mean = (entropy * static_mask[:, None]).sum(-1) / static_mask.sum(1)[:, None]
    return np.divide(mean, uniform, out=np.full_like(mean, np.nan), where=uniform > 0)


def attention_by_time(model: keras.Model, inputs: Inputs) -> np.ndarray:
    """Share of each clip's attention per motion token, (N, Td), rows sum to 1: mean over heads and real face tokens."""
    batches = ((attention.mean(1), batch["static_mask"]) for attention, batch in attention_batches(model, inputs))
    return np.concatenate([np.einsum("bst,bs->bt", one, mask / mask.sum(1, keepdims=True)) for one, mask in batches])


def attention_by_lag(model: keras.Model, inputs: Inputs, step_s: float) -> pd.DataFrame:
    """Mean attention of a model by how much later the motion token is than the face token: columns lag_s (increasing,
    in steps of `step_s`) and attention.
    """
    sums, first = [], None
    for attention, batch in attention_batches(model, inputs):
        lag_s = batch["dynamic_t_s"][:, None, :] - batch["static_t_s"][:, :, None]  # (n, Ts, Td)
        real = batch["dynamic_mask"][:, None, :] & batch["static_mask"][:, :, None]
        first = lag_s[real].min() if first is None else first
        step = np.rint((lag_s[real] - first) / step_s).astype(int)
        sums.append(pd.Series(attention.mean(1)[real]).groupby(step).agg(["sum", "size"]))
    total = pd.concat(sums).groupby(level=0).sum()
    return pd.DataFrame({"lag_s": total.index * step_s + first, "attention": total["sum"] / total["size"]})


def mean_motion(aligned: Aligned) -> np.ndarray:
    """Mean motion token of some clips, float32 (D,): what stands for a motion token that is taken away."""
    return aligned.dynamic_features[aligned.dynamic_mask].mean(0)


def occlusion(
    model: keras.Model, inputs: Inputs, baseline: np.ndarray, parts: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """What each part of the motion contributes to every score, float32 (N, parts, k): with it minus without it.

    `baseline`, (D,), stands for tokens that are taken away, usually `mean_motion` of the training clips; `parts`:
    indices of the motion tokens of each, default each token by itself; then where the mask is False it is 0.
    """
    n, n_tokens = inputs["dynamic"].shape[:2]
    each = [[token] for token in range(n_tokens)] if parts is None else parts
    taken = np.zeros((1 + len(each), n_tokens, 1), bool)
    for row, part in enumerate(each, 1):  # in the first row none is
        taken[row, part] = True
    clip, row = (index.ravel() for index in np.indices((n, len(taken))))
    scores, at_once = [], clips_at_once(inputs)
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


POINTING = ("occlusion_pointing", "occlusion_pointing_shuffled", "motion_pointing")  # keys of attention.json


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


def examine(name: str, bank: Aligned, inside: np.ndarray, cfg: TrainingConfig, seed: int) -> pd.DataFrame:
    """Measure a trained model on its test clips; shuffled motion tokens are judged by the time that they came from.

    `inside`: which motion tokens come from a planted window, bool (N, Td). A row per clip: seed, source; for each
    target, by its name, whether the token with the largest effect on it is inside, 1 or 0; the same of the most unusual
    `motion`; `chance`, the share of the tokens that are inside.
    """
    split = split_of(bank, cfg, seed)
    baseline, test = mean_motion(bank.take(split == "train")), split == "test"
    if name == SHUFFLED_MODEL:
        inside = np.take_along_axis(inside, shuffled_order(bank, seed), 1)
        bank = shuffle_motion(bank, seed)
    clips, inside = bank.take(test), inside[test]
    effects = np.abs(occlusion(load_trained(cfg, name, seed), clips.inputs(), baseline))
    unusual = np.linalg.norm(clips.dynamic_features - baseline, axis=-1)
    measures, mask = np.dstack([effects, unusual]), clips.dynamic_mask  # (n, Td, k + 1), (n, Td)
    largest = np.where(mask[..., None], measures, -1).argmax(1)
    points = pd.DataFrame(np.take_along_axis(inside, largest, 1).astype(float), columns=[*clips.targets, "motion"])
    return points.assign(seed=seed, source=clips.sources, chance=(inside & mask).sum(1) / mask.sum(1))


def evaluate(data: TrainingData, cfg: TrainingConfig, trait: str) -> dict[str, Any]:
    """Measure on each seed's test clips whether the answer of the models in `cfg.out` rests on what was planted.

    `data`'s folder holds `truth.csv` where clips are synthetic; `trait`: the target whose cue is an event in time.

    Returns:
        `trait`. And, None without a planted truth: `occlusion_pointing`, share of clips whose largest effect is inside,
        the same of the control as `occlusion_pointing_shuffled`, and `motion_pointing`, that of the token farthest from
        mean motion, which needs no model, each with `_interval` [low, high] over sources; `occlusion_chance`, the share
        of tokens that are inside; `pointing`, by target `value` and `interval` of the "true model" and the control.
    """
    bank = rated_clips(data)
    inside = planted_windows(data.folder, bank)
    if inside is None:
        names = [f"{name}{end}" for name in POINTING for end in ("", "_interval")]
        return {"trait": trait} | dict.fromkeys([*names, "occlusion_chance", "pointing"])
    true, control = (
        pd.concat([examine(name, bank, inside, cfg, seed) for seed in cfg.seeds])
        for name in (TOKEN_MODEL, SHUFFLED_MODEL)
    )
    by_target = {
        name: {"true model": _over_seeds(true, name), "trained on shuffled motion": _over_seeds(control, name)}
        for name in bank.targets.tolist()
    }
    found = {"trait": trait, "occlusion_chance": _over_seeds(true, "chance")["value"], "pointing": by_target}
    for name, mean in zip(POINTING, [*by_target[trait].values(), _over_seeds(true, "motion")], strict=True):
        found |= {name: mean["value"], f"{name}_interval": mean["interval"]}
    return found


def _over_seeds(rows: pd.DataFrame, what: str) -> dict[str, Any]:
    """Mean over clips and seeds, `value`, and its `interval` over sources."""
    seeds = [of_seed for _, of_seed in rows.groupby("seed", sort=False)]
    return mean_interval([one[what].to_numpy() for one in seeds], [one["source"].to_numpy(str) for one in seeds])


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
    nothing. By name of the other, of "attention" and "occlusion": `value`, mean rank correlation over clips, and
    `interval` [low, high] over sources. Near 1: the measure does not show what was learned.
    """
    inputs = clips.inputs()

    def maps(one: keras.Model) -> Iterator[np.ndarray]:
        for attention, batch in attention_batches(one, inputs):
            real = batch["static_mask"][:, :, None] & batch["dynamic_mask"][:, None]
            yield np.where(real, attention.mean(1), np.nan).reshape(len(real), -1)

    def effects(one: keras.Model) -> np.ndarray:
        return np.where(clips.dynamic_mask, np.abs(occlusion(one, inputs, baseline)[..., column]), np.nan)

    own, found = effects(model), {}
    for name, other in others.items():
        of_maps = [rank_correlation(*pair) for pair in zip(maps(model), maps(other), strict=True)]
        alike = {"attention": np.concatenate(of_maps), "occlusion": rank_correlation(own, effects(other))}
        found[name] = {measure: mean_interval([of], [clips.sources]) for measure, of in alike.items()}
    return found
