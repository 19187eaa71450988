"""The models by name: what each takes of a clip, and the network it is.

In: `Aligned` clips and the name of a model. Out: its inputs, arrays by name with N rows, and its Keras model.
"""

from dataclasses import replace

import keras
import numpy as np

from helpers.align import Aligned, nearest_motion
from helpers.config import TrainingConfig
from helpers.model import CompletePersonalityModel, aligned_mlp, concat_mlp

TOKEN_MODEL, SHUFFLED_MODEL = "token_cross_attention", "token_cross_attention_shuffled"
MODELS = (
    "constant",
    "ridge",
    "concat_mlp",
    "one_token_cross_attention",
    TOKEN_MODEL,
    SHUFFLED_MODEL,
    "aligned_mlp",
)


def shuffled_order(aligned: Aligned, seed: int) -> np.ndarray:
    """Draw where the motion token at each place comes from, int (N, Td): a permutation within each clip's tokens."""
    keys = np.random.RandomState(seed).random_sample(aligned.dynamic_mask.shape)
    return np.where(aligned.dynamic_mask, keys, np.inf).argsort(1, kind="stable")


def shuffle_motion(aligned: Aligned, seed: int) -> Aligned:
    """Move the motion tokens of each clip to other times: the control that has all of the clip but what was when."""
    order = shuffled_order(aligned, seed)
    return replace(aligned, dynamic_features=np.take_along_axis(aligned.dynamic_features, order[..., None], 1))


def model_inputs(name: str, aligned: Aligned, seed: int) -> dict[str, np.ndarray]:
    """What the model of this name takes: token sequences, pooled vectors, or pairs of tokens of the same time."""
    if name == SHUFFLED_MODEL:
        return shuffle_motion(aligned, seed).inputs()
    if name == TOKEN_MODEL:
        return aligned.inputs()
    if name == "aligned_mlp":
        motion = np.take_along_axis(aligned.dynamic_features, nearest_motion(aligned)[..., None], 1)
        return {"static": aligned.static_features, "dynamic": motion, "mask": aligned.static_mask}
    return aligned.pooled()


def build_model(name: str, aligned: Aligned, cfg: TrainingConfig) -> keras.Model:
    """Build the network of this name for the widths of these clips."""
    widths = aligned.static_features.shape[-1], aligned.dynamic_features.shape[-1]
    n_targets = len(aligned.targets)
    if name == "concat_mlp":
        return concat_mlp(*widths, cfg.dropout_rate, n_targets)
    if name == "aligned_mlp":
        return aligned_mlp(*widths, cfg.dropout_rate, n_targets)
    return CompletePersonalityModel(*widths, cfg.fusion_dim, cfg.num_heads, cfg.dropout_rate, n_targets)


def start_model(name: str, aligned: Aligned, cfg: TrainingConfig, seed: int) -> keras.Model:
    """The network as it is before its training with this seed: the same weights at every call."""
    keras.utils.set_random_seed(seed)
    return build_model(name, aligned, cfg)
