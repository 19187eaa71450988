"""What the model looks at, and what its answer rests on.

In: a trained CompletePersonalityModel and its inputs. Out: attention (B, heads, Ts, Td), which says where the model
reads, with its entropy and its share by time and by lag; changes of the scores when motion tokens are taken away, which
is the measure that the others are held against; and relevance (N, k, Ts, Td) in units of the score, by gradients
through the attention: the attention itself is one for all k targets, its relevance is not.
"""

import warnings
from collections.abc import Iterator, Sequence

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

Inputs = dict[
    str, np.ndarray
]  # of the model: `static`, `dynamic`, (N, T, D), their `_t_s` in seconds and `_mask`, bool


def get_attention_weights(model: keras.Model, inputs: Inputs) -> np.ndarray:
    """Return the attention of a batch of clips, float32 (B, heads, Ts, Td); rows of real face tokens sum to 1.

    Warns (UserWarning) when no clip has more than one motion token: its attention is 1 whatever was learned.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="attention over a single motion token")
        batches = [model(batch, training=False, return_attention=True)[1] for batch in _batches(inputs, BATCH)]
    attention = np.concatenate([ops.convert_to_numpy(batch) for batch in batches])
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
    """Share of each clip's attention (B, heads, Ts, Td) per motion token, (B, Td): rows sum to 1.

    It is the mean over heads and real face tokens, those of `static_mask`, bool (B, Ts).
    """
    weight = static_mask / static_mask.sum(1, keepdims=True)
    return np.einsum("bst,bs->bt", attention.mean(1), weight)


def attention_by_lag(attention: np.ndarray, inputs: Inputs, step_s: float) -> pd.DataFrame:
    """Mean attention (B, heads, Ts, Td) by how much later the motion token is than the face token.

    Returns:
        Columns lag_s (increasing, the smallest and multiples of `step_s` from it) and attention.
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
    """Replace the motion of one part at a time and see how far every score moves.

    Args:
        model: Trained model.
        inputs: Of N clips.
        baseline: What tokens are replaced by, usually `mean_motion` of the training clips, (D,).
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
    scores = _scores_without(model, inputs, replaced, baseline)
    effects = scores[:, 1:] - scores[:, :1]
    return effects * inputs["dynamic_mask"][..., None] if parts is None else effects


def deletion_area(
    model: keras.Model, inputs: Inputs, importance: np.ndarray, baseline: np.ndarray, column: int
) -> np.ndarray:
    """Replace motion tokens one after the other, from the most important (N, Td) on, and see how soon a score moves.

    Returns:
        Mean |change of the score| over the steps: the area under the deletion curve of Petsiuk, Das and Saenko (2018),
        RISE, (N,). Clips of fewer tokens than others have the same number of steps, some empty.
    """
    mask = inputs["dynamic_mask"]
    steps = np.arange(mask.shape[1] + 1) / mask.shape[1]
    count = np.rint(mask.sum(1)[:, None] * steps)  # (N, Td + 1), of replaced tokens
    rank = np.where(mask, -importance, np.inf).argsort(1, kind="stable").argsort(1)
    scores = _scores_without(model, inputs, rank[:, None] < count[..., None], baseline)[..., column]
    return np.abs(scores - scores[:, :1]).mean(1)


def _scores_without(model: keras.Model, inputs: Inputs, replaced: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Scores (N, times, k) of clips with tokens `replaced`: bool (N, times, Td), or (1, times, Td) for all alike."""
    (n, n_tokens, width), times = inputs["dynamic"].shape, replaced.shape[1]
    replaced = np.broadcast_to(replaced, (n, times, n_tokens)).reshape(-1, n_tokens)
    at_once = max(1, PASS_NUMBERS // (n_tokens * max(width, inputs["static"].shape[1])))
    scores = []
    for i in range(0, len(replaced), at_once):
        chosen = replaced[i : i + at_once]
        batch = {name: x[np.arange(i, i + len(chosen)) // times] for name, x in inputs.items()}
        batch["dynamic"] = np.where(chosen[..., None], baseline, batch["dynamic"]).astype("float32")
        scores.append(ops.convert_to_numpy(model(batch, training=False)))
    return np.concatenate(scores).reshape(n, times, -1)


def relevance(model: keras.Model, inputs: Inputs, baseline: np.ndarray) -> np.ndarray:
    """Say how much of each score came along each look: gradient times attention, integrated from mean motion on.

    R_ij = sum_h int_0^1 A_hij <dy/dr_hi, V_h (m_j - m0)> da, all at motion m0 + a (m - m0), r what a face token reads.
    A_hij dy/dA_hij alone (Chefer, Gur and Wolf 2021) is A_hij <dy/dr_hi, V_h m_j>, most of which is what every token
    has in common; so the mean token's share is taken off, and what is left is summed on the way from a clip of mean
    tokens to this one, as Sundararajan, Taly and Yan (2017), Axiomatic attribution for deep networks, do for inputs.
    Where the attention does not change on the way, R sums to the score minus that of the clip with mean motion.

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
    """Share of each motion token in the sum of absolute values (N, Td) of its clip, NaN where the mask is False."""
    size = np.where(mask, np.abs(per_token), np.nan)
    total = np.nansum(size, 1, keepdims=True)
    return size / np.where(total > 0, total, np.nan)


def _batches(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """Some clips at a time, at least one."""
    for i in range(0, len(inputs["static"]), max(1, size)):
        yield {name: x[i : i + max(1, size)] for name, x in inputs.items()}


def _with_mean_token(batch: Inputs, baseline: np.ndarray) -> Inputs:
    """Append the mean motion token to each clip, masked: nobody looks at it, but a gradient knows what it would do."""
    dynamic = np.pad(batch["dynamic"].astype("float32"), ((0, 0), (0, 1), (0, 0)))
    dynamic[:, -1] = baseline
    longer = {name: np.pad(batch[name], ((0, 0), (0, 1))) for name in ("dynamic_t_s", "dynamic_mask")}
    return batch | {"dynamic": dynamic} | longer


def _slopes(model: keras.Model, batch: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Attention (n, 1, heads, Ts, Td) and the slope of each score with it, (n, k, heads, Ts, Td)."""
    n, k = len(batch["static"]), model.head.n_targets
    streams = model.streams(batch)
    *tokens, attention = model.cross_attention.attend(**streams)
    # one copy of a clip per target, of what comes after the attention only
    q, values, weights, mask = (ops.repeat(x, k, axis=0) for x in (*tokens, attention, streams["static_mask"]))
    chosen = ops.convert_to_tensor(np.tile(np.eye(k, dtype="float32"), (n, 1)))

    def scores(delta: keras.KerasTensor) -> keras.KerasTensor:
        fused = model.cross_attention.read(q, values, weights + delta)
        return ops.sum(model.head(model.fusion(fused, mask, training=False), mask) * chosen)

    _, slope = gradient_of(scores, np.zeros(weights.shape, "float32"))
    slope = slope.reshape(n, k, *attention.shape[1:])
    return ops.convert_to_numpy(attention)[:, None], slope * batch["static_mask"][:, None, None, :, None]
