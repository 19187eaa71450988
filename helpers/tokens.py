"""Token sequences as the layers of this project take them: their times, their masks, their completion.

In: one stream of a batch of clips, (B, D) or (B, T, D), with times in seconds and masks (B, T). Out: codes of times,
means over time, and streams that lack nothing.
"""

import math

import keras
import numpy as np
from keras import ops

PACKAGE = "ocean_workbook"
INPUT_NAMES = ("static", "dynamic", "static_t_s", "dynamic_t_s", "static_mask", "dynamic_mask")
SHORTEST_S, LONGEST_S = 0.35, 8.0  # periods of the time code
TIME_GAIN = 3.0  # of the time code beside projected tokens of about unit size


def time_code(t_s, dim: int):
    """Code times as sines and cosines of fixed periods; there is nothing to learn.

    code = TIME_GAIN [sin(2 pi t / P_i), cos(2 pi t / P_i)], i = 1 ... dim / 2, with periods P_i in geometric steps from
    LONGEST_S to SHORTEST_S, so that the inner product of two codes depends on the difference of their times only.

    Args:
        t_s: Times in seconds, float32 (B, T).
        dim: Length of the code, even.

    Returns:
        float32 (B, T, dim).
    """
    n = dim // 2
    periods = LONGEST_S * (SHORTEST_S / LONGEST_S) ** (np.arange(n) / max(n - 1, 1))
    angle = ops.expand_dims(t_s, -1) * ops.convert_to_tensor((2 * math.pi / periods).astype("float32"))  # (B, T, n)
    return TIME_GAIN * ops.concatenate([ops.sin(angle), ops.cos(angle)], axis=-1)


def masked_mean(x, mask):
    """Return the mean over time of the tokens (B, T, D) that the mask (B, T) keeps, (B, D); 0 where it keeps none."""
    weight = ops.expand_dims(ops.cast(mask, x.dtype), -1)  # (B, T, 1)
    return ops.sum(x * weight, axis=1) / ops.maximum(ops.sum(weight, axis=1), 1.0)


def as_tokens(name: str, x, width: int, dtype: str):
    """Return a stream as (B, T, width) with default times 0, 1, 2, ... and an all-true mask, both (B, T)."""
    x = ops.cast(ops.convert_to_tensor(x), dtype)
    if len(x.shape) not in (2, 3) or x.shape[-1] != width:
        raise ValueError(
            f"{name} must have shape (batch, {width}) or (batch, tokens, {width}), got {tuple(x.shape)}. "
            f"Build the model with {name}_dim={x.shape[-1]}, or pass features of {width} columns."
        )
    if len(x.shape) == 2:
        x = ops.expand_dims(x, 1)
    row = ops.cast(ops.arange(ops.shape(x)[1]), "float32")
    times = ops.zeros_like(x[..., 0], dtype="float32") + row  # (B, T)
    return x, times, ops.ones_like(times, dtype="bool")


def middle() -> keras.initializers.Initializer:
    """Start of an output bias: the middle of the rating range [0, 1]."""
    return keras.initializers.Constant(0.5)
