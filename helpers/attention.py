"""What the model looks at, and what its answer rests on.

In: a trained CompletePersonalityModel and its inputs. Out: attention (B, heads, Ts, Td), which says where the model
reads, with its entropy and its share by time and by lag; and changes of the scores when motion is taken away, which is
what it rests on: the attention is one for all k targets, the effects are not.
"""

import warnings
from collections.abc import Sequence

import keras
import numpy as np
import pandas as pd
from keras import ops

from helpers.align import Aligned

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
