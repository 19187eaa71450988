"""What the model looks at: attention maps and their summaries.

In: a trained CompletePersonalityModel and its inputs. Out: attention (B, heads, Ts, Td), its entropy, its share by time
and by lag. A map says where a model reads; what its answer rests on is said by `helpers.attention` and
`helpers.attention`.

What the answer rests on: motion tokens are taken away, one at a time or one after the other.

In: a trained CompletePersonalityModel, its inputs, the mean motion token that stands for "nothing special". Out:
changes of a score. No gradient and no attention is needed: this is the measure that the others are held against.

What each look is worth to each trait: gradients of the scores through the attention.

In: a trained CompletePersonalityModel, its inputs, the mean motion token. Out: relevance (N, k, Ts, Td) in units of the
score. The attention itself is one for all k targets; its relevance is not.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence

import keras
import numpy as np
import pandas as pd
from keras import ops

from helpers.align import Aligned
from helpers.forward import gradient_of

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


PREDICTED = 1024  # clips at a time
PASS_NUMBERS = 2**22  # of tokens' channels, and of a head's attention, that go through the model at once: 16 MB each


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
        return model.predict(inputs | {"dynamic": dynamic}, batch_size=PREDICTED, verbose=0)[:, target]

    before = predict(inputs["dynamic"])
    effects = np.zeros(inputs["dynamic"].shape[:2], "float32")
    for j in range(effects.shape[1]):
        changed = inputs["dynamic"].copy()
        changed[:, j] = baseline
        effects[:, j] = predict(changed) - before
    return effects * inputs["dynamic_mask"]


def effects_of_motion(
    model: keras.Model, inputs: dict[str, np.ndarray], parts: Sequence[np.ndarray], usual: np.ndarray
) -> np.ndarray:
    """How far every score moves when the motion of one part is replaced by the usual motion: occlusion.

    Args:
        model: Trained model.
        inputs: Of one clip, each (1, T, ...) or (1, T).
        parts: Indices of the motion tokens of each part.
        usual: What they are replaced by: the mean motion token of the training clips, (D,).

    Returns:
        Score of the whole clip minus score without the part, float32 (n, k): above 0, the part raised the score.
    """
    n_pairs = inputs["static"].shape[1] * inputs["dynamic"].shape[1]
    at_once = max(1, PASS_NUMBERS // max(inputs["dynamic"].size, n_pairs))
    without = []
    for i in range(0, len(parts), at_once):
        chosen = parts[i : i + at_once]
        batch = {name: np.repeat(x, len(chosen), axis=0) for name, x in inputs.items()}
        for row, part in enumerate(chosen):
            batch["dynamic"][row, part] = usual
        without.append(keras.ops.convert_to_numpy(model(batch, training=False)))
    whole = keras.ops.convert_to_numpy(model(inputs, training=False))
    return whole - np.concatenate(without)


def mean_motion(aligned: Aligned) -> np.ndarray:
    """Mean motion token of some clips, float32 (D,): the baseline of `occlusion`."""
    return aligned.dynamic_features[aligned.dynamic_mask].mean(0)


def column_of(bank: Aligned, trait: str) -> int:
    """The column of `labels` that a target stands in; ValueError lists the targets."""
    targets = bank.targets.tolist()
    if trait not in targets:
        raise ValueError(f"trait must be one of {', '.join(targets)}, got {trait!r}. Set it for 07.")
    return targets.index(trait)


def order_of(importance: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The tokens of each clip from the most important on, int (N, Td); those that the mask leaves out come last."""
    return np.where(mask, -importance, np.inf).argsort(1, kind="stable")


def random_orders(mask: np.ndarray, n: int, seed: int = 0) -> list[np.ndarray]:
    """Draw n orders of each clip's tokens, each int (N, Td)."""
    random = np.random.RandomState(seed)
    return [order_of(random.random_sample(mask.shape), mask) for _ in range(n)]


def replaced_per_step(mask: np.ndarray) -> np.ndarray:
    """How many tokens are replaced at each step, int (N, Td + 1): none at the first, all at the last."""
    steps = mask.shape[1]
    return np.rint(mask.sum(1)[:, None] * np.arange(steps + 1) / steps).astype(int)


def delete(
    model: keras.Model,
    inputs: dict[str, np.ndarray],
    order: np.ndarray,
    target: int,
    baseline: np.ndarray,
    *,
    insert: bool = False,
) -> np.ndarray:
    """Replace motion tokens one after the other, or with `insert` all but those, and predict at each step.

    Deletion and insertion of Petsiuk, Das and Saenko (2018), RISE, with the mean motion token for a blurred picture.

    Args:
        model, inputs, target, baseline: See `occlusion`.
        order: Tokens of each clip in the order in which they go, or come, int (N, Td); see `order_of`.
        insert: Start from mean motion, and put the clip's tokens back.

    Returns:
        Predictions float32 (N, Td + 1). Clips of fewer tokens than others have the same number of steps, some empty.
    """
    n, td = order.shape
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(td)[None], 1)
    changed = rank[:, None] < replaced_per_step(inputs["dynamic_mask"])[..., None]  # (N, Td + 1, Td)
    if insert:
        changed = ~changed
    motion = np.where(changed[..., None], baseline, inputs["dynamic"][:, None]).astype("float32")
    repeated = {name: np.repeat(x, td + 1, axis=0) for name, x in inputs.items() if name != "dynamic"}
    repeated["dynamic"] = motion.reshape(-1, *inputs["dynamic"].shape[1:])
    return model.predict(repeated, batch_size=PREDICTED, verbose=0)[:, target].reshape(n, td + 1)


def step_effects(predictions: np.ndarray, order: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Change of the prediction as each token went, by token, (N, Td); 0 where the mask is False.

    Averaged over random orders it is the token's Shapley value, sampled (Castro, Gomez and Tejada 2009): unlike
    occlusion it sees tokens that can stand in for each other.
    """
    count = replaced_per_step(mask)
    effects = np.zeros(order.shape)
    clip, step = np.nonzero(np.diff(count, axis=1))
    effects[clip, order[clip, count[clip, step]]] = np.diff(predictions, axis=1)[clip, step]
    return effects


def curves(
    model: keras.Model,
    inputs: dict[str, np.ndarray],
    orders: Mapping[str, list[np.ndarray]],
    target: int,
    baseline: np.ndarray,
) -> dict[str, dict[str, np.ndarray]]:
    """How far the prediction is from that of the clip as it is, while tokens go (deletion) and come (insertion).

    Args:
        model, inputs, target, baseline: See `occlusion`.
        orders: By name one order, or several random ones, over which the mean is taken; those are inserted backwards,
            which is as random and needs no further predictions.

    Returns:
        By name `deletion` and `insertion`, |change of the score| (N, Td + 1), and `effects` (N, Td), see
        `step_effects`, of the deletion.
    """
    found = {}
    for name, drawn in orders.items():
        away = [delete(model, inputs, order, target, baseline) for order in drawn]
        if len(drawn) > 1:
            back = [predictions[:, ::-1] for predictions in away]
        else:
            back = [delete(model, inputs, drawn[0], target, baseline, insert=True)]
        effects = [step_effects(p, order, inputs["dynamic_mask"]) for p, order in zip(away, drawn, strict=True)]
        found[name] = {
            "deletion": np.mean([np.abs(p - p[:, :1]) for p in away], 0),
            "insertion": np.mean([np.abs(p - p[:, -1:]) for p in back], 0),
            "effects": np.mean(effects, 0),
        }
    return found


ROWS = 512  # clips times targets at a time
STEPS = 8  # on the way from mean motion to the clip: 16 move no share by .01


def gradient_attention(model: keras.Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Gradient times attention, the positive part, mean over heads: E_h[max(A * dy/dA, 0)].

    Chefer, Gur and Wolf (2021), Transformer interpretability beyond attention visualization, eq. 13, of one layer.

    Args:
        model: Trained model.
        inputs: As `relevance` takes them.

    Returns:
        float32 (N, k, Ts, Td), not negative; 0 where a mask is False.
    """
    parts = []
    for batch, k in _batches(model, inputs):
        attention, slope = _slopes(model, batch, k)
        parts.append(np.maximum(attention * slope, 0).mean(2))
    return np.concatenate(parts)


def relevance(
    model: keras.Model, inputs: dict[str, np.ndarray], baseline: np.ndarray, *, steps: int = STEPS
) -> np.ndarray:
    """Say how much of each score came along each look: gradient times attention, integrated from mean motion on.

    R_ij = sum_h int_0^1 A_hij <dy/dr_hi, V_h (m_j - m0)> da, all at motion m0 + a (m - m0), r what a face token reads.
    A_hij dy/dA_hij alone is A_hij <dy/dr_hi, V_h m_j>, most of which is what every token has in common; so the mean
    token's share is taken off, and what is left is summed on the way from a clip of mean tokens to this one, as
    Sundararajan, Taly and Yan (2017), Axiomatic attribution for deep networks, do for inputs. Where the attention does
    not change on the way, R sums to the score minus that of the clip with mean motion.

    Args:
        model: Trained model.
        inputs: `static` (N, Ts, D), `dynamic` (N, Td, D), their `_t_s` in seconds and `_mask`, bool.
        baseline: Mean motion token of the training clips, (D,).
        steps: Points on the way, midpoint rule.

    Returns:
        float32 (N, k, Ts, Td), signed, in units of the score; 0 where a mask is False.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}. 8 are enough.")
    parts = []
    for batch, k in _batches(model, inputs):
        total = 0.0
        for a in (np.arange(steps) + 0.5) / steps:
            motion = baseline + a * (batch["dynamic"] - baseline)
            attention, slope = _slopes(model, _with_mean_token(batch | {"dynamic": motion}, baseline), k)
            beyond_mean = (slope[..., :-1] - slope[..., -1:]) / a  # (n, k, heads, Ts, Td)
            total = total + (attention[..., :-1] * beyond_mean).sum(2) / steps
        parts.append(total.astype("float32"))
    return np.concatenate(parts)


def per_motion_token(relevance: np.ndarray) -> np.ndarray:
    """Sum relevance over the face tokens that looked: (N, k, Ts, Td) to (N, k, Td)."""
    return relevance.sum(2)


def shares(per_token: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Share of each motion token in the sum of absolute values of its clip, NaN where the mask is False.

    Args:
        per_token: Signed, (N, Td).
        mask: bool (N, Td).
    """
    size = np.abs(per_token) * mask
    total = size.sum(1, keepdims=True)
    found = np.divide(size, total, out=np.full(size.shape, np.nan), where=total > 0)
    return np.where(mask, found, np.nan)


def _batches(model: keras.Model, inputs: dict[str, np.ndarray]) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Some clips at a time, and the number of targets."""
    k = model.head.n_targets
    size = max(1, ROWS // k)
    for i in range(0, len(inputs["static"]), size):
        yield {name: x[i : i + size] for name, x in inputs.items()}, k


def _with_mean_token(batch: dict[str, np.ndarray], baseline: np.ndarray) -> dict[str, np.ndarray]:
    """Append the mean motion token to each clip, masked: nobody looks at it, but a gradient knows what it would do."""
    n = len(batch["dynamic"])
    mean = np.broadcast_to(baseline, (n, 1, len(baseline))).astype("float32")
    out = {"dynamic": np.concatenate([batch["dynamic"].astype("float32"), mean], 1)}
    for name, value in (("dynamic_t_s", 0.0), ("dynamic_mask", False)):
        out[name] = np.concatenate([batch[name], np.full((n, 1), value, batch[name].dtype)], 1)
    return batch | out


def _slopes(model: keras.Model, batch: dict[str, np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Attention (n, 1, heads, Ts, Td) and the slope of each score with it, (n, k, heads, Ts, Td)."""
    n = len(batch["static"])
    repeated = {name: np.repeat(x, k, axis=0) for name, x in batch.items()}  # one copy of a clip per target
    chosen = ops.convert_to_tensor(np.tile(np.eye(k, dtype="float32"), (n, 1)))
    attention = ops.convert_to_numpy(model(batch, training=False, return_attention=True)[1])
    zero = np.zeros((n * k, *attention.shape[1:]), "float32")
    _, slope = gradient_of(lambda d: ops.sum(model(repeated, training=False, attention_delta=d) * chosen), zero)
    slope = slope.reshape(n, k, *attention.shape[1:])
    return attention[:, None], slope * batch["static_mask"][:, None, None, :, None]
