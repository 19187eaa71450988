"""The networks without cross-attention that the model is compared with, and which parts of a network train.

In: widths of the two streams. Out: Keras models from arrays of N clips to scores (N, n_targets).
"""

import keras
from keras import layers

from helpers.tokens import middle


def concat_mlp(static_dim: int, dynamic_dim: int, dropout_rate: float = 0.3, n_targets: int = 5) -> keras.Model:
    """Build the pooled baseline: one vector per stream, concatenated, two hidden layers.

    Returns:
        Model from {"static": (B, static_dim), "dynamic": (B, dynamic_dim)} to scores (B, n_targets).
    """
    static, dynamic = keras.Input((static_dim,), name="static"), keras.Input((dynamic_dim,), name="dynamic")
    x = layers.Dense(256, activation="relu")(layers.Concatenate()([static, dynamic]))
    x = layers.Dropout(dropout_rate)(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dense(64, activation="relu")(x)
    scores = layers.Dense(n_targets, bias_initializer=middle())(x)
    return keras.Model({"static": static, "dynamic": dynamic}, scores, name="concat_mlp")


def aligned_mlp(static_dim: int, dynamic_dim: int, dropout_rate: float = 0.3, n_targets: int = 5) -> keras.Model:
    """Build the attention-free baseline: face and motion of the same time concatenated per token, then averaged.

    Returns:
        Model from {"static": (B, T, static_dim), "dynamic": (B, T, dynamic_dim), "mask": bool (B, T)}, where token i
        of both streams belongs to the same time, to scores (B, n_targets).
    """
    static, dynamic = keras.Input((None, static_dim), name="static"), keras.Input((None, dynamic_dim), name="dynamic")
    mask = keras.Input((None,), dtype="bool", name="mask")
    x = layers.Concatenate()([layers.Dense(128)(static), layers.Dense(128)(dynamic)])
    x = layers.Dropout(dropout_rate)(layers.LayerNormalization()(x))
    x = layers.GlobalAveragePooling1D()(layers.Dense(128, activation="relu")(x), mask=mask)
    x = layers.Dense(64, activation="relu")(x)
    scores = layers.Dense(n_targets, bias_initializer=middle())(x)
    return keras.Model({"static": static, "dynamic": dynamic, "mask": mask}, scores, name="aligned_mlp")


def stream_mlp(width: int, dropout_rate: float = 0.3, n_targets: int = 5) -> keras.Model:
    """Build what one stream alone can do: `aligned_mlp` over the tokens of a single stream.

    Returns:
        Model from {"tokens": (B, T, width), "mask": bool (B, T)} to scores (B, n_targets).
    """
    tokens, mask = keras.Input((None, width), name="tokens"), keras.Input((None,), dtype="bool", name="mask")
    x = layers.Dropout(dropout_rate)(layers.LayerNormalization()(layers.Dense(128)(tokens)))
    x = layers.GlobalAveragePooling1D()(layers.Dense(128, activation="relu")(x), mask=mask)
    x = layers.Dense(64, activation="relu")(x)
    scores = layers.Dense(n_targets, bias_initializer=middle())(x)
    return keras.Model({"tokens": tokens, "mask": mask}, scores, name="stream_mlp")


def freeze_parts(model: keras.Model, parts: str) -> None:
    """Keep parts of a network as they start.

    Args:
        model: Any with parts of its own, as `architecture.as_tree` names them.
        parts: Names with commas between them, such as "query,key"; a part is frozen with all in it. "" freezes none.

    Raises:
        ValueError: The network has no part of such a name.
    """
    known = {part.name: part for part in model._flatten_layers(include_self=False)}
    for name in filter(None, (name.strip() for name in parts.split(","))):
        if name not in known:
            raise ValueError(f"frozen must be names among {', '.join(known)}, got {name!r}. Correct the name.")
        known[name].trainable = False
