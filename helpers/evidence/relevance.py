"""What each look is worth to each trait: gradients of the scores through the attention.

In: a trained CompletePersonalityModel, its inputs, the mean motion token. Out: relevance (N, k, Ts, Td) in units of the
score. The attention itself is one for all k targets; its relevance is not.
"""

from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from helpers.gradients import gradient_of

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
