"""What the model looks at: attention maps and their summaries.

In: a trained CompletePersonalityModel and its inputs. Out: attention (B, heads, Ts, Td), its entropy, its share by time
and by lag. A map says where a model reads; what its answer rests on is said by `helpers.evidence.occlusion` and
`helpers.evidence.relevance`.
"""

import warnings
from collections.abc import Iterable

import keras
import numpy as np
import pandas as pd
from keras import ops

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
