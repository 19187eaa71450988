"""The models by name: what each takes of a clip, the network or predictor it is, and how they differ as networks.

A name says the same thing everywhere: in `training.json`, in the table, as the file of a training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import pandas as pd
from keras import layers, ops
from keras.initializers import Constant
from sklearn.linear_model import Ridge

from helpers.align import Aligned, nearest_motion
from helpers.config import TrainingConfig
from helpers.model import MIDDLE, CompletePersonalityModel
from helpers.store import STREAMS
from helpers.train import computing_in

RIDGE_ALPHAS = 10.0 ** np.arange(0, 5.1, 0.5)
TOKEN_MODEL, SHUFFLED_MODEL = "token_cross_attention", "token_cross_attention_shuffled"
SHUFFLED_LABELS_MODEL = "token_cross_attention_shuffled_labels"

Predictor = Callable[[Sequence[Aligned], np.ndarray, np.ndarray], list[np.ndarray]]


def concat_mlp(static_dim: int, dynamic_dim: int, dropout_rate: float = 0.3, n_targets: int = 5) -> keras.Model:
    """Build the pooled baseline, from {"static": (B, static_dim), "dynamic": (B, dynamic_dim)} to (B, n_targets)."""
    static, dynamic = keras.Input((static_dim,), name="static"), keras.Input((dynamic_dim,), name="dynamic")
    x = layers.Dense(256, activation="relu")(layers.Concatenate()([static, dynamic]))
    x = layers.Dropout(dropout_rate)(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model({"static": static, "dynamic": dynamic}, _scores(x, n_targets), name="concat_mlp")


def aligned_mlp(static_dim: int, dynamic_dim: int, dropout_rate: float = 0.3, n_targets: int = 5) -> keras.Model:
    """Build the attention-free baseline: face and motion of the same time concatenated per token, then averaged.

    From {"static": (B, T, static_dim), "dynamic": (B, T, dynamic_dim), "mask": bool (B, T)}, where token i of both
    streams belongs to the same time, to scores (B, n_targets).
    """
    static, dynamic = keras.Input((None, static_dim), name="static"), keras.Input((None, dynamic_dim), name="dynamic")
    mask = keras.Input((None,), dtype="bool", name="mask")
    x = layers.Concatenate()([layers.Dense(128)(static), layers.Dense(128)(dynamic)])
    x = layers.Dropout(dropout_rate)(layers.LayerNormalization()(x))
    inputs = {"static": static, "dynamic": dynamic, "mask": mask}
    x = layers.GlobalAveragePooling1D()(layers.Dense(128, activation="relu")(x), mask=mask)
    return keras.Model(inputs, _scores(x, n_targets), name="aligned_mlp")


def _scores(x, n_targets: int):
    x = layers.Dense(64, activation="relu")(x)
    return layers.Dense(n_targets, bias_initializer=Constant(MIDDLE))(x)


def freeze_parts(model: keras.Model, parts: str) -> None:
    """Keep parts of a network as they start: names with commas, such as "query,key", each with all that is in it."""
    known = {part.name: part for part in model._flatten_layers(include_self=False)}
    for name in filter(None, (name.strip() for name in parts.split(","))):
        if name not in known:
            raise ValueError(f"frozen must be names among {', '.join(known)}, got {name!r}. Correct the name.")
        known[name].trainable = False


def constant(sets: Sequence[Aligned], train: np.ndarray, validation: np.ndarray) -> list[np.ndarray]:
    """Answer the mean training rating of each target for every clip: predictions (N, k) of each of the sets, of whose
    first one `train` and `validation`, bool (N,), are fitted to.
    """
    mean = np.nanmean(sets[0].labels[train], 0)
    return [np.tile(mean, (len(clips), 1)) for clips in sets]


def same_video(sets: Sequence[Aligned], train: np.ndarray, validation: np.ndarray) -> list[np.ndarray]:
    """Answer the mean rating of the training clips of the same source, shrunken to the mean of all: sees no pixel.

    Whatever it knows beyond the constant is what the split leaks. The weight of a source with n clips is
    n vb / (n vb + vw), the best linear predictor in a one-way random-effects model, with the variances between and
    within sources from the analysis of variance (Searle, Casella and McCulloch 1992, ch. 3).
    """
    labels, sources = sets[0].labels[train].astype(float), sets[0].sources[train]
    columns = [_shrunken_means(pd.Series(column, index=sources).dropna()) for column in labels.T]
    return [np.stack([means.reindex(s.sources).fillna(mean) for means, mean in columns], 1) for s in sets]


def _shrunken_means(ratings: pd.Series) -> tuple[pd.Series, float]:
    """Shrunken mean of each source (the index) and the mean of all ratings."""
    groups = ratings.groupby(level=0)
    size, mean, overall = groups.size(), groups.mean(), float(ratings.mean())
    n, n_groups = len(ratings), len(size)
    if not 1 < n_groups < n:
        return mean.iloc[:0], overall  # nothing tells the variance between sources from that within
    within = float(((ratings - groups.transform("mean")) ** 2).sum()) / (n - n_groups)
    typical_size = (n - float((size**2).sum()) / n) / (n_groups - 1)
    between = max(0.0, (float((size * (mean - overall) ** 2).sum()) / (n_groups - 1) - within) / typical_size)
    weight = size * between / (size * between + within)
    return overall + weight * (mean - overall), overall


def ridge(*streams: str) -> Predictor:
    """Make the ridge regression on the mean tokens of these streams; its penalty is chosen on the validation clips.

    Each target is fitted to the clips that have it.
    """

    def predict(sets: Sequence[Aligned], train: np.ndarray, validation: np.ndarray) -> list[np.ndarray]:
        pooled = [clips.pooled() for clips in sets]
        x = [np.concatenate([streams_of[name] for name in streams], 1) for streams_of in pooled]
        mean, sd = x[0][train].mean(0), x[0][train].std(0)
        x = [(part - mean) / np.where(sd > 0, sd, 1) for part in x]
        models = [_best_ridge(x[0], column, train, validation) for column in sets[0].labels.T]
        return [np.stack([m.predict(part) for m in models], 1) for part in x]

    return predict


def _best_ridge(x: np.ndarray, y: np.ndarray, train: np.ndarray, validation: np.ndarray) -> Ridge:
    fitted_on, chosen_on = (part & ~np.isnan(y) for part in (train, validation))
    tried = [Ridge(alpha).fit(x[fitted_on], y[fitted_on]) for alpha in RIDGE_ALPHAS]
    return min(tried, key=lambda m: np.mean((m.predict(x[chosen_on]) - y[chosen_on]) ** 2))


class Variant(NamedTuple):
    """One row of the table of models: in words, its network and what that takes of a clip, or a predictor without."""

    says: str
    build: Callable[..., keras.Model] | None = None
    inputs: Literal["pooled", "aligned", "tokens", "shuffled"] = "tokens"
    predict: Predictor | None = None


VARIANTS: dict[str, Variant] = {
    "constant": Variant("the mean training rating for everyone", predict=constant),
    "same_video": Variant(
        "the mean of the training clips of the same source, shrunken; sees no pixel", predict=same_video
    ),
    "ridge_face": Variant("ridge regression on the mean face token", predict=ridge("static")),
    "ridge_motion": Variant("ridge regression on the mean motion token", predict=ridge("dynamic")),
    "ridge": Variant("ridge regression on the mean tokens of both streams", predict=ridge("static", "dynamic")),
    "concat_mlp": Variant("mean tokens of both streams, concatenated", concat_mlp, "pooled"),
    "one_token_cross_attention": Variant(
        "cross-attention over one mean token per stream", CompletePersonalityModel, "pooled"
    ),
    TOKEN_MODEL: Variant("cross-attention over tokens in time", CompletePersonalityModel),
    SHUFFLED_MODEL: Variant(
        "the same, motion tokens moved to other times: the control", CompletePersonalityModel, "shuffled"
    ),
    SHUFFLED_LABELS_MODEL: Variant(
        "the same, trained on other clips' ratings: nothing can be learned", CompletePersonalityModel
    ),
    "aligned_mlp": Variant("face and motion of the same time concatenated, no attention", aligned_mlp, "aligned"),
}
MODELS = tuple(name for name in VARIANTS if name != SHUFFLED_LABELS_MODEL)  # the short list: the demo has minutes


def variant_of(name: str) -> Variant:
    """Look up a model; ValueError lists the names."""
    if name not in VARIANTS:
        raise ValueError(f"models must be names among {', '.join(VARIANTS)}, got {name!r}. Correct the name.")
    return VARIANTS[name]


def chosen_models(models: str) -> tuple[str, ...]:
    """The models that `models` of the training's parameters means, in the order of the table: names with commas,
    "short" is MODELS, "all" all; always the constant and the token model, which every comparison needs.
    """
    groups = {"all": tuple(VARIANTS), "short": MODELS}
    wanted = {each for name in models.split(",") for each in groups.get(name.strip(), (name.strip(),))}
    for name in wanted:
        variant_of(name)
    return tuple(name for name in VARIANTS if name in wanted | {"constant", TOKEN_MODEL})


def shuffled_order(aligned: Aligned, seed: int) -> np.ndarray:
    """Draw where the motion token at each place comes from, int (N, Td): a permutation within each clip's tokens."""
    keys = np.random.RandomState(seed).random_sample(aligned.dynamic_mask.shape)
    return np.where(aligned.dynamic_mask, keys, np.inf).argsort(1, kind="stable")


def shuffle_motion(aligned: Aligned, seed: int) -> Aligned:
    """Move the motion tokens of each clip to other times: the control that has all of the clip but what was when."""
    order = shuffled_order(aligned, seed)
    return replace(aligned, dynamic_features=np.take_along_axis(aligned.dynamic_features, order[..., None], 1))


def model_labels(name: str, labels: np.ndarray, fitted: np.ndarray, seed: int) -> np.ndarray:
    """The ratings (N, k) that the model of this name is fitted to; `fitted`, bool (N,), are the clips it may see."""
    if name != SHUFFLED_LABELS_MODEL:
        return labels
    out, rows = labels.copy(), np.flatnonzero(fitted)
    out[rows] = labels[np.random.RandomState(seed).permutation(rows)]
    return out


def model_inputs(name: str, aligned: Aligned, seed: int) -> dict[str, np.ndarray]:
    """What the model of this name takes: token sequences, pooled vectors, or pairs of tokens of the same time."""
    kind = variant_of(name).inputs
    if kind == "aligned":
        motion = np.take_along_axis(aligned.dynamic_features, nearest_motion(aligned)[..., None], 1)
        return {"static": aligned.static_features, "dynamic": motion, "mask": aligned.static_mask}
    if kind == "pooled":
        return aligned.pooled()
    return (shuffle_motion(aligned, seed) if kind == "shuffled" else aligned).inputs()


def start_model(name: str, aligned: Aligned, cfg: TrainingConfig, seed: int) -> keras.Model:
    """The network of a variant, for the widths of `aligned`, as it is before its training with this seed."""
    keras.utils.set_random_seed(seed)
    build, widths = variant_of(name).build, [getattr(aligned, f"{stream}_features").shape[-1] for stream in STREAMS]
    rest = cfg.dropout_rate, len(aligned.targets)
    with computing_in(cfg.precision):
        if build is not CompletePersonalityModel:
            return build(*widths, *rest)
        model = build(*widths, cfg.fusion_dim, cfg.num_heads, *rest)
    freeze_parts(model, cfg.frozen)
    return model


def own_architectures(clips: Aligned, cfg: TrainingConfig, names: Sequence[str]) -> dict[str, tuple[keras.Model, Any]]:
    """The networks among these models, for the widths and tokens of these clips: what `compare_architectures` takes."""
    one, names = clips.take(np.arange(1)), [name for name in names if variant_of(name).build]
    return {name: (start_model(name, one, cfg, 0), model_inputs(name, one, 0)) for name in names}


def compare_architectures(models: Mapping[str, tuple[keras.Model, Any]]) -> pd.DataFrame:
    """Compare networks, given by name with inputs that they take (arrays of one or more clips, in any structure).

    Returns index model; `parameters`, `trainable`, `layers` (those with weights of their own), `flops` of one clip's
    forward pass, a multiplication and an addition counting as two; NaN but for the backend TensorFlow.
    """
    rows = {}
    for name, (model, inputs) in models.items():
        parts = [part for part in model._flatten_layers(include_self=False) if part.weights]
        rows[name] = {
            "parameters": model.count_params(),
            "trainable": sum(int(np.prod(weight.shape)) for weight in model.trainable_variables),
            "layers": sum(not list(part._flatten_layers(include_self=False)) for part in parts),
            "flops": count_flops(model, inputs) if keras.backend.backend() == "tensorflow" else np.nan,
        }
    return pd.DataFrame.from_dict(rows, "index").rename_axis("model")


def count_flops(model: keras.Model, inputs: Any) -> int:
    """Count the floating-point operations of the first clip's forward pass by TensorFlow's profiler."""
    import tensorflow as tf

    one = keras.tree.map_structure(lambda x: ops.convert_to_tensor(np.asarray(x)[:1]), inputs)
    profiler = tf.compat.v1.profiler
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(one).graph
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation()).with_empty_output().build()
    level = tf.get_logger().level
    tf.get_logger().setLevel("ERROR")  # the profiler calls functions of TensorFlow's own that are deprecated
    try:
        return int(profiler.profile(graph, options=options).total_float_ops)
    finally:
        tf.get_logger().setLevel(level)
