"""What the model looks at, and what its answer rests on.

In: a trained CompletePersonalityModel and its inputs. Out: attention (B, heads, Ts, Td), which says where the model
reads, with its entropy and its share by time and by lag; changes of a score when motion tokens are taken away, which is
the measure that the others are held against; and relevance (N, k, Ts, Td) in units of the score, by gradients through
the attention: the attention itself is one for all k targets, its relevance is not.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
import pandas as pd
from keras import ops

from helpers.align import Aligned
from helpers.gradients import gradient_of

BATCH = 256
PASS_NUMBERS = 2**22  # of tokens' channels, and of a head's attention, that go through the model at once: 16 MB each
ROWS = 512  # clips times targets whose gradient is taken at a time
STEPS = 8  # on the way from mean motion to the clip: 16 move no share by .01


def get_attention_weights(model: keras.Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the attention of a batch of clips, float32 (B, heads, Ts, Td); rows of real face tokens sum to 1.

    Warns (UserWarning) when no clip has more than one motion token: its attention is 1 whatever was learned.
    """
    parts = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="attention over a single motion token")
        for batch in _batches(inputs, BATCH):
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
    """Share of each clip's attention per motion token: mean over heads and real face tokens, (B, Td), rows sum to 1.

    Args:
        attention: (B, heads, Ts, Td).
        static_mask: bool (B, Ts).
    """
    weight = static_mask / static_mask.sum(1, keepdims=True)
    return np.einsum("bst,bs->bt", attention.mean(1), weight)


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
    rounded_s = np.rint((lag_s[real] - first) / step_s) * step_s + first
    table = pd.DataFrame({"lag_s": rounded_s, "attention": attention.mean(1)[real]})
    return table.groupby("lag_s", as_index=False).mean()


def mean_motion(aligned: Aligned) -> np.ndarray:
    """Mean motion token of some clips, float32 (D,): what stands for a motion token that is taken away."""
    return aligned.dynamic_features[aligned.dynamic_mask].mean(0)


def scores_without(
    model: keras.Model, inputs: dict[str, np.ndarray], replaced: np.ndarray, baseline: np.ndarray
) -> np.ndarray:
    """Score clips with some of their motion tokens replaced, several times each.

    Args:
        model: Trained model.
        inputs: As for the model, with `dynamic` (N, Td, D) and `static` (N, Ts, D).
        replaced: Tokens that are replaced each time, bool (N, times, Td), or (1, times, Td) for all clips alike.
        baseline: What they are replaced by, usually `mean_motion` of the training clips, (D,).

    Returns:
        float32 (N, times, k).
    """
    (n, td, width), times = inputs["dynamic"].shape, replaced.shape[1]
    replaced = np.broadcast_to(replaced, (n, times, td)).reshape(-1, td)
    at_once = max(1, PASS_NUMBERS // (td * max(width, inputs["static"].shape[1])))
    scores = []
    for i in range(0, len(replaced), at_once):
        chosen = replaced[i : i + at_once]
        batch = {name: x[np.arange(i, i + len(chosen)) // times] for name, x in inputs.items()}
        batch["dynamic"] = np.where(chosen[..., None], baseline, batch["dynamic"]).astype("float32")
        scores.append(ops.convert_to_numpy(model(batch, training=False)))
    return np.concatenate(scores).reshape(n, times, -1)


def occlusion(
    model: keras.Model, inputs: dict[str, np.ndarray], baseline: np.ndarray, parts: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """Replace the motion of one part at a time and see how far every score moves.

    Args:
        model, inputs, baseline: See `scores_without`.
        parts: Indices of the motion tokens of each part; default each token by itself.

    Returns:
        Score without the part minus score of the whole clip, float32 (N, parts, k); of single tokens 0 where the mask
        is False. Below 0, the part raised the score.
    """
    n_tokens = inputs["dynamic"].shape[1]
    each = [[token] for token in range(n_tokens)] if parts is None else parts
    replaced = np.zeros((1, 1 + len(each), n_tokens), bool)
    for row, part in enumerate(each, 1):  # in the first row none is replaced
        replaced[0, row, part] = True
    scores = scores_without(model, inputs, replaced, baseline)
    effects = scores[:, 1:] - scores[:, :1]
    return effects * inputs["dynamic_mask"][..., None] if parts is None else effects


def order_of(importance: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The tokens of each clip from the most important on, int (N, Td); those that the mask leaves out come last."""
    return np.where(mask, -importance, np.inf).argsort(1, kind="stable")


def random_orders(mask: np.ndarray, n: int) -> list[np.ndarray]:
    """Draw n orders of each clip's tokens, each int (N, Td)."""
    random = np.random.RandomState(0)
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
        model, inputs, baseline: See `scores_without`.
        target: Column of the prediction.
        order: Tokens of each clip in the order in which they go, or come, int (N, Td); see `order_of`.
        insert: Start from mean motion, and put the clip's tokens back.

    Returns:
        Predictions float32 (N, Td + 1). Clips of fewer tokens than others have the same number of steps, some empty.
    """
    rank = order.argsort(1)  # of each token
    replaced = rank[:, None] < replaced_per_step(inputs["dynamic_mask"])[..., None]  # (N, Td + 1, Td)
    return scores_without(model, inputs, ~replaced if insert else replaced, baseline)[..., target]


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
        model, inputs, baseline: See `scores_without`.
        target: Column of the prediction.
        orders: By name one order, or several random ones, over which the mean is taken; those are inserted backwards,
            which is as random and needs no further predictions.

    Returns:
        By name `deletion` and `insertion`, |change of the score| (N, Td + 1), and `effects` (N, Td), see
        `step_effects`, of the deletion.
    """
    found = {}
    for name, several in orders.items():
        away = [delete(model, inputs, order, target, baseline) for order in several]
        if len(several) > 1:
            back = [predictions[:, ::-1] for predictions in away]
        else:
            back = [delete(model, inputs, several[0], target, baseline, insert=True)]
        effects = [step_effects(p, order, inputs["dynamic_mask"]) for p, order in zip(away, several, strict=True)]
        found[name] = {
            "deletion": np.mean([np.abs(p - p[:, :1]) for p in away], 0),
            "insertion": np.mean([np.abs(p - p[:, -1:]) for p in back], 0),
            "effects": np.mean(effects, 0),
        }
    return found


def gradient_attention(model: keras.Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Gradient times attention, the positive part, mean over heads: E_h[max(A * dy/dA, 0)].

    Chefer, Gur and Wolf (2021), Transformer interpretability beyond attention visualization, eq. 13, of one layer.

    Args:
        model, inputs: As `relevance` takes them.

    Returns:
        float32 (N, k, Ts, Td), not negative; 0 where a mask is False.
    """
    products = (np.multiply(*_slopes(model, batch)) for batch in _batches(inputs, ROWS // model.head.n_targets))
    return np.concatenate([np.maximum(product, 0).mean(2) for product in products])


def relevance(model: keras.Model, inputs: dict[str, np.ndarray], baseline: np.ndarray) -> np.ndarray:
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

    Returns:
        float32 (N, k, Ts, Td), signed, in units of the score; 0 where a mask is False. Its sum over Ts is that of each
        motion token.
    """
    parts = []
    for batch in _batches(inputs, ROWS // model.head.n_targets):
        total = 0.0
        for a in (np.arange(STEPS) + 0.5) / STEPS:  # midpoints
            motion = baseline + a * (batch["dynamic"] - baseline)
            attention, slope = _slopes(model, _with_mean_token(batch | {"dynamic": motion}, baseline))
            beyond_mean = (slope[..., :-1] - slope[..., -1:]) / a  # (n, k, heads, Ts, Td)
            total = total + (attention[..., :-1] * beyond_mean).sum(2) / STEPS
        parts.append(total.astype("float32"))
    return np.concatenate(parts)


def shares(per_token: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Share of each motion token in the sum of absolute values of its clip, NaN where the mask is False.

    Args:
        per_token: Signed, (N, Td).
        mask: bool (N, Td).
    """
    size = np.where(mask, np.abs(per_token), np.nan)
    total = np.nansum(size, 1, keepdims=True)
    return size / np.where(total > 0, total, np.nan)


def _batches(inputs: dict[str, np.ndarray], size: int) -> Iterator[dict[str, np.ndarray]]:
    """Some clips at a time, at least one."""
    for i in range(0, len(inputs["static"]), max(1, size)):
        yield {name: x[i : i + max(1, size)] for name, x in inputs.items()}


def _with_mean_token(batch: dict[str, np.ndarray], baseline: np.ndarray) -> dict[str, np.ndarray]:
    """Append the mean motion token to each clip, masked: nobody looks at it, but a gradient knows what it would do."""
    dynamic = np.pad(batch["dynamic"].astype("float32"), ((0, 0), (0, 1), (0, 0)))
    dynamic[:, -1] = baseline
    longer = {name: np.pad(batch[name], ((0, 0), (0, 1))) for name in ("dynamic_t_s", "dynamic_mask")}
    return batch | {"dynamic": dynamic} | longer


def _slopes(model: keras.Model, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Attention (n, 1, heads, Ts, Td) and the slope of each score with it, (n, k, heads, Ts, Td)."""
    n, k = len(batch["static"]), model.head.n_targets
    repeated = {name: np.repeat(x, k, axis=0) for name, x in batch.items()}  # one copy of a clip per target
    chosen = ops.convert_to_tensor(np.tile(np.eye(k, dtype="float32"), (n, 1)))
    attention = ops.convert_to_numpy(model(batch, training=False, return_attention=True)[1])
    zero = np.zeros((n * k, *attention.shape[1:]), "float32")
    _, slope = gradient_of(lambda d: ops.sum(model(repeated, training=False, attention_delta=d) * chosen), zero)
    slope = slope.reshape(n, k, *attention.shape[1:])
    return attention[:, None], slope * batch["static_mask"][:, None, None, :, None]
