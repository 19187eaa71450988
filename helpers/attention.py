"""What the model looks at, and whether that is so: attention maps, and the effect of taking a motion token away.

In: a trained CompletePersonalityModel and its inputs, the planted light windows of drawn clips. Out: attention
(B, heads, Ts, Td), effects (N, Td), shares of clips whose largest effect lies where something was planted. A map says
where a model reads; only taking tokens away says what its answer rests on.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops

from helpers.align import Aligned
from helpers.config import TrainingConfig
from helpers.train import TrainingData, load_trained, rated_clips, split_of
from helpers.variants import SHUFFLED_MODEL, TOKEN_MODEL, shuffle_motion, shuffled_order, variant_of

BATCH = 256


def get_attention_weights(model: keras.Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the attention of a batch of clips, float32 (B, heads, Ts, Td); rows of real face tokens sum to 1.

    Warns (UserWarning) when no clip has more than one motion token: its attention is 1 whatever was learned.
    """
    parts = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="attention over a single motion token")
        for i in range(0, len(inputs["static"]), BATCH):
            batch = {name: x[i : i + BATCH] for name, x in inputs.items()}
            parts.append(ops.convert_to_numpy(model(batch, training=False, return_attention=True)[1]))
    attention = np.concatenate(parts)
    if (np.count_nonzero(attention, axis=-1) <= 1).all():
        warnings.warn(
            "no clip has more than one motion token, so every attention weight is 1 and says nothing. "
            "Pass sequences of motion tokens.",
            UserWarning,
            stacklevel=2,
        )
    return attention


def attention_entropy(attention: np.ndarray, static_mask: np.ndarray, dynamic_mask: np.ndarray) -> np.ndarray:
    """Entropy of each clip's rows against the uniform row: 1 = looks everywhere alike, 0 = at one token.

    Args:
        attention: (B, heads, Ts, Td).
        static_mask, dynamic_mask: bool (B, Ts), (B, Td).

    Returns:
        Mean over real face tokens per clip and head, (B, heads); NaN for clips with one motion token.
    """
    entropy = -(attention * np.log(np.maximum(attention, 1e-12))).sum(-1)  # (B, heads, Ts)
    uniform = np.log(dynamic_mask.sum(1))[:, None]
    mean = (entropy * static_mask[:, None]).sum(-1) / static_mask.sum(1)[:, None]
    return np.divide(mean, uniform, out=np.full_like(mean, np.nan), where=uniform > 0)


def attention_by_time(attention: np.ndarray, static_mask: np.ndarray) -> np.ndarray:
    """Share of a clip's attention per motion token.

    Args:
        attention: Of one clip, (heads, Ts, Td).
        static_mask: bool (Ts,).

    Returns:
        Mean over heads and real face tokens, (Td,), sums to 1.
    """
    if attention.ndim != 3 or static_mask.shape != attention.shape[1:2]:
        raise ValueError(
            f"attention must be (heads, Ts, Td) of one clip with a mask (Ts,), got {attention.shape} and "
            f"{static_mask.shape}. Take one clip of the batch."
        )
    return attention[:, static_mask].mean(axis=(0, 1))


def attention_by_lag(attention: np.ndarray, inputs: dict[str, np.ndarray], step_s: float) -> pd.DataFrame:
    """Mean attention by how much later the motion token is than the face token.

    Args:
        attention: (B, heads, Ts, Td).
        inputs: Of the model: `static_t_s`, `dynamic_t_s`, `static_mask`, `dynamic_mask`.
        step_s: Lags are rounded to multiples of it from the smallest.

    Returns:
        Columns lag_s (increasing) and attention.
    """
    lag_s = inputs["dynamic_t_s"][:, None, :] - inputs["static_t_s"][:, :, None]  # (B, Ts, Td)
    real = inputs["dynamic_mask"][:, None, :] & inputs["static_mask"][:, :, None]
    first = lag_s[real].min()
    table = pd.DataFrame({"step": np.rint((lag_s[real] - first) / step_s), "attention": attention.mean(1)[real]})
    profile = table.groupby("step")["attention"].mean()
    return pd.DataFrame({"lag_s": profile.index.to_numpy() * step_s + first, "attention": profile.to_numpy()})


def occlusion(model: keras.Model, inputs: dict[str, np.ndarray], target: int, baseline: np.ndarray) -> np.ndarray:
    """Replace one motion token at a time and see how far the prediction moves.

    Args:
        model: Trained model.
        inputs: As for the model, with `dynamic` (N, Td, D) and `dynamic_mask` (N, Td).
        target: Column of the prediction.
        baseline: What the token is replaced by, usually the mean motion token of the training clips, (D,).

    Returns:
        Change of the prediction by each token, float32 (N, Td); 0 where the mask is False.
    """

    def predict(dynamic: np.ndarray) -> np.ndarray:
        return model.predict(inputs | {"dynamic": dynamic}, batch_size=BATCH, verbose=0)[:, target]

    before = predict(inputs["dynamic"])
    effects = np.zeros(inputs["dynamic"].shape[:2], "float32")
    for j in range(effects.shape[1]):
        changed = inputs["dynamic"].copy()
        changed[:, j] = baseline
        effects[:, j] = predict(changed) - before
    return effects * inputs["dynamic_mask"]


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


def pointing(effects: np.ndarray, inside: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Share of clips whose largest effect lies inside, and what chance would give.

    Args:
        effects: Change of the prediction by each token, (N, Td).
        inside: bool (N, Td).
        mask: bool (N, Td), real tokens.

    Returns:
        Pointing in [0, 1], and the mean share of tokens that are inside.
    """
    largest = np.where(mask, np.abs(effects), -1).argmax(1)
    chance = (inside & mask).sum(1) / mask.sum(1)
    return float(inside[np.arange(len(inside)), largest].mean()), float(chance.mean())


def token_duration(aligned: Aligned) -> float:
    """Duration of a motion token in seconds: the step from one to the next, for tokens that do not overlap."""
    steps = np.diff(aligned.dynamic_t_s, axis=1)[aligned.dynamic_mask[:, 1:]]
    return float(np.median(steps))


def planted_windows(folder: str | Path, aligned: Aligned) -> np.ndarray | None:
    """Read which motion tokens lie in a planted light window, bool (N, Td); None when the clips were not drawn.

    Args:
        folder: Holds `truth.csv`: key, warm_s, cool_s, window_s in seconds.
        aligned: Clips of that table.
    """
    found = window_starts(folder, aligned)
    return None if found is None else inside_windows(aligned.dynamic_t_s, token_duration(aligned), *found)


def window_starts(folder: str | Path, aligned: Aligned) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the planted light windows' starts (N, 2) and length (N,) in seconds; None when the clips were not drawn."""
    path = Path(folder) / "truth.csv"
    if not path.exists():
        return None
    truth = pd.read_csv(path, index_col="key").loc[aligned.clips]
    return truth[["warm_s", "cool_s"]].to_numpy(), truth["window_s"].to_numpy()


def speed_per_token(flows: Iterable[np.ndarray], t_start_s: np.ndarray, t_end_s: np.ndarray, fps: float) -> np.ndarray:
    """Mean speed within each motion token, to be shown.

    Args:
        flows: Flow from sample to sample, (S, S, 2) each, in any unit.
        t_start_s, t_end_s: Start and end of each token in seconds, (n,).
        fps: Samples per second.

    Returns:
        (n, S, S), in the unit of the flow.
    """
    speed = np.stack([np.linalg.norm(flow, axis=-1) for flow in flows])  # (T, S, S)
    first, last = np.rint(t_start_s * fps).astype(int), np.rint(t_end_s * fps).astype(int)
    return np.stack([speed[a : max(b, a + 1)].mean(0) for a, b in zip(first, last, strict=True)])


def window_spans(folder: str | Path, clip: str) -> dict[str, tuple[float, float]]:
    """Start and stop in seconds of what was planted in one clip, by name; empty when it was not drawn."""
    path = Path(folder) / "truth.csv"
    truth = pd.read_csv(path, index_col="key") if path.exists() else pd.DataFrame()
    if clip not in truth.index:
        return {}
    row = truth.loc[clip]
    return {f"{name} light": (row[f"{name}_s"], row[f"{name}_s"] + row["window_s"]) for name in ("warm", "cool")}


def evaluate(data: TrainingData, cfg: TrainingConfig, trait: str) -> dict[str, Any]:
    """Measure on each seed's test clips whether the model's answer rests on what was planted.

    Args:
        data: What the models were trained on; its folder holds `truth.csv` when the clips were drawn.
        cfg: As the training; `cfg.out` holds the trained models.
        trait: The target whose cue is an event in time.

    Returns:
        `occlusion_pointing`, `occlusion_pointing_shuffled` (the control, judged by the time that each motion token came
        from) and `occlusion_chance`, means over seeds; `seeds`, the same of each. None without a planted truth.
    """
    bank = rated_clips(data)
    inside = planted_windows(data.folder, bank)
    names = ("occlusion_pointing", "occlusion_pointing_shuffled", "occlusion_chance")
    if inside is None:
        return dict.fromkeys(names) | {"trait": trait, "seeds": []}
    per_seed = []
    for seed in cfg.seeds:
        true, chance = occlusion_pointing(TOKEN_MODEL, bank, inside, cfg, seed, trait)
        shuffled, _ = occlusion_pointing(SHUFFLED_MODEL, bank, inside, cfg, seed, trait)
        per_seed.append(dict(zip(names, (true, shuffled, chance), strict=True)) | {"seed": seed})
    means = {name: float(np.mean([s[name] for s in per_seed])) for name in names}
    return means | {"trait": trait, "seeds": per_seed}


def column_of(bank: Aligned, trait: str) -> int:
    """The column of `labels` that a target stands in; ValueError lists the targets."""
    targets = bank.targets.tolist()
    if trait not in targets:
        raise ValueError(f"trait must be one of {', '.join(targets)}, got {trait!r}. Set it for 07.")
    return targets.index(trait)


def mean_motion(aligned: Aligned) -> np.ndarray:
    """Mean motion token of some clips, float32 (D,): the baseline of `occlusion`."""
    return aligned.dynamic_features[aligned.dynamic_mask].mean(0)


def occlusion_pointing(
    name: str, bank: Aligned, inside: np.ndarray, cfg: TrainingConfig, seed: int, trait: str
) -> tuple[float, float]:
    """Pointing of one trained model's occlusion effects on its test clips, and what chance would give.

    Motion tokens of a model trained on shuffled motion are judged by the time they came from.
    """
    split = split_of(bank, cfg, seed)
    baseline = mean_motion(bank.take(split == "train"))
    if variant_of(name).inputs == "shuffled":
        inside = np.take_along_axis(inside, shuffled_order(bank, seed), 1)
        bank = shuffle_motion(bank, seed)
    test = bank.take(split == "test")
    target = column_of(bank, trait)
    effects = occlusion(load_trained(cfg, name, seed), test.inputs(), target, baseline)
    return pointing(effects, inside[split == "test"], test.dynamic_mask)
