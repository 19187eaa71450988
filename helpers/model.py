"""The cross-attention model of trait scores.

In: face tokens (B, Ts, static_dim) and motion tokens (B, Td, dynamic_dim) with times in seconds and masks, or one
vector per stream. Out: scores (B, n_targets), and attention (B, heads, Ts, Td).

On disk a model has its card beside it, a JSON of what is known about it: `card.json` in a folder with `model.keras`, as
in the `model/` of a run, or `<name>.card.json` beside a `<name>.keras`.
"""

import json
import math
import random
import warnings
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import layers, ops
from keras.initializers import Constant, RandomUniform

from helpers.files import code_version, needs, read_json, replacing, write_json

PACKAGE = "ocean_workbook"
INPUT_NAMES = ("static", "dynamic", "static_t_s", "dynamic_t_s", "static_mask", "dynamic_mask")
SHORTEST_S, LONGEST_S = 0.35, 8.0  # periods of the time code
TIME_GAIN = 3.0  # of the time code beside projected tokens of about unit size
QUERY_SCALE, KEY_GAIN = 1.5, 2.0  # start of the query kernel; of the key kernel over it
PASS_NUMBERS = 2**24  # of one stream, or of one head's attention, that go through at once: 64 MB each
MIDDLE = 0.5  # of the rating range [0, 1]: where output biases start


def time_code(t_s, dim: int):
    """Code times in seconds, (B, T), as sines and cosines of fixed periods, float32 (B, T, dim); nothing is learned.

    code = TIME_GAIN [sin(2 pi t / P_i), cos(2 pi t / P_i)], i = 1 ... dim / 2, with periods P_i in geometric steps from
    LONGEST_S to SHORTEST_S, so that the inner product of two codes depends on the difference of their times only.
    """
    n = dim // 2
    periods = LONGEST_S * (SHORTEST_S / LONGEST_S) ** (np.arange(n) / max(n - 1, 1))
    angle = ops.expand_dims(t_s, -1) * ops.convert_to_tensor((2 * math.pi / periods).astype("float32"))  # (B, T, n)
    return TIME_GAIN * ops.concatenate([ops.sin(angle), ops.cos(angle)], axis=-1)


@keras.saving.register_keras_serializable(package=PACKAGE)
class CrossAttention(layers.Layer):
    """Let every face token read the motion tokens.

    q = Ws s + bs, m = Wd d + bd (both of width F = fusion_dim, even), c = time code;
    A_h = softmax(Q_h (q + c) . K_h (m + c) / sqrt(F)), out = LayerNorm(q + O concat_h(A_h V_h m)), heads of width F.

    Time enters through the attention only: over a single key A = 1 and no time can matter, which is the model for one
    vector per stream. K starts as twice Q, so that training starts from attention to the same time.
    """

    def __init__(self, fusion_dim: int = 128, num_heads: int = 4, **kwargs):
        if fusion_dim < 2 or fusion_dim % 2:
            raise ValueError(f"fusion_dim must be a positive even number, got {fusion_dim}. Choose 64, 128 or 256.")
        super().__init__(autocast=False, **kwargs)  # times keep float32 under a mixed policy
        self.fusion_dim, self.num_heads = fusion_dim, num_heads
        self.static_projection = layers.Dense(fusion_dim, name="static_projection")
        self.dynamic_projection = layers.Dense(fusion_dim, name="dynamic_projection")
        inner, seed = num_heads * fusion_dim, random.randrange(2**31)  # keras.utils.set_random_seed governs `random`
        limit = QUERY_SCALE * math.sqrt(6 / (inner + fusion_dim**2))
        query, key = (RandomUniform(-gain * limit, gain * limit, seed=seed) for gain in (1, KEY_GAIN))
        self.query = layers.Dense(inner, kernel_initializer=query, name="query")
        self.key = layers.Dense(inner, kernel_initializer=key, name="key")
        self.value = layers.Dense(inner, name="value")
        self.output_projection = layers.Dense(fusion_dim, name="output_projection")
        self.norm = layers.LayerNormalization(epsilon=1e-6, name="norm")

    def build(self, static_shape, dynamic_shape):
        self.static_projection.build((None, None, static_shape[-1]))
        self.dynamic_projection.build((None, None, dynamic_shape[-1]))
        for layer in (self.query, self.key, self.value, self.norm):
            layer.build((None, None, self.fusion_dim))
        self.output_projection.build((None, None, self.num_heads * self.fusion_dim))
        self.built = True

    def call(self, static, dynamic, static_t_s, dynamic_t_s, static_mask, dynamic_mask):
        """Return fused tokens (B, Ts, F) and attention (B, heads, Ts, Td), 0 in the rows of masked tokens."""
        q, m = self.static_projection(static), self.dynamic_projection(dynamic)
        query = self._heads(self.query(q + ops.cast(time_code(static_t_s, self.fusion_dim), q.dtype)))
        key = self._heads(self.key(m + ops.cast(time_code(dynamic_t_s, self.fusion_dim), m.dtype)))
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / math.sqrt(self.fusion_dim)  # (B, heads, Ts, Td)
        logits = ops.where(dynamic_mask[:, None, None, :], ops.cast(logits, "float32"), -1e9)
        attention = ops.exp(logits - ops.logsumexp(logits, axis=-1, keepdims=True))
        attention = attention * ops.cast(static_mask, "float32")[:, None, :, None]
        values = self._heads(self.value(m))
        read = ops.matmul(ops.cast(attention, values.dtype), values)  # (B, heads, Ts, F)
        read = ops.reshape(ops.transpose(read, (0, 2, 1, 3)), (-1, ops.shape(q)[1], self.num_heads * self.fusion_dim))
        return self.norm(q + self.output_projection(read)), attention

    def _heads(self, x):
        x = ops.reshape(x, (-1, ops.shape(x)[1], self.num_heads, self.fusion_dim))  # (B, T, heads, F)
        return ops.transpose(x, (0, 2, 1, 3))

    def get_config(self) -> dict:
        return super().get_config() | {"fusion_dim": self.fusion_dim, "num_heads": self.num_heads}


@keras.saving.register_keras_serializable(package=PACKAGE)
class FeatureFusionModule(layers.Layer):
    """Normalise fused tokens over the batch, masked ones not counted, and drop some of their channels."""

    def __init__(self, dropout_rate: float = 0.3, **kwargs):
        super().__init__(**kwargs)
        self.dropout_rate = dropout_rate
        self.norm = layers.BatchNormalization(momentum=0.9, name="norm")
        self.dropout = layers.Dropout(dropout_rate, name="dropout")

    def build(self, shape):
        self.norm.build(shape)
        self.built = True

    def call(self, x, mask, training=None):
        return self.dropout(self.norm(x, mask=mask, training=training), training=training)

    def get_config(self) -> dict:
        return super().get_config() | {"dropout_rate": self.dropout_rate}


@keras.saving.register_keras_serializable(package=PACKAGE)
class PersonalityPredictionHead(layers.Layer):
    """Dense 64 ReLU per token, mean over the tokens of a clip, linear Dense: scores, not bounded to [0, 1].

    The nonlinearity comes before the mean: averaging fused tokens first would lose what happened together in time.
    """

    def __init__(self, n_targets: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.n_targets = n_targets
        self.hidden = layers.Dense(64, activation="relu", name="hidden")
        self.scores = layers.Dense(n_targets, bias_initializer=Constant(MIDDLE), dtype="float32", name="scores")

    def build(self, shape):
        self.hidden.build(shape)
        self.scores.build((None, 64))
        self.built = True

    def call(self, x, mask):
        x = self.hidden(x)
        weight = ops.expand_dims(ops.cast(mask, x.dtype), -1)  # (B, T, 1)
        return self.scores(ops.sum(x * weight, axis=1) / ops.maximum(ops.sum(weight, axis=1), 1.0))

    def compute_mask(self, x, previous_mask=None):
        return None  # the mean over time ends the mask

    def get_config(self) -> dict:
        return super().get_config() | {"n_targets": self.n_targets}


@keras.saving.register_keras_serializable(package=PACKAGE)
class CompletePersonalityModel(keras.Model):
    """Predict trait scores from face tokens and motion tokens by cross-attention.

    `model((static, dynamic))`, or `model({"static": ..., "dynamic": ..., ...})` with any of `static_t_s`, `dynamic_t_s`
    (seconds, (B, T), default 0, 1, 2, ...) and `static_mask`, `dynamic_mask` (bool (B, T), True = token, default all).
    A stream is (B, D) or (B, T, D); both kinds use the same weights. Each clip needs a token in both streams.
    371,717 parameters at the defaults, 371,461 of them trainable. `fusion_dim`: width of fused tokens and of each
    attention head, even. `dropout_rate`: share of fused channels that are dropped in training, in [0, 1).
    """

    def __init__(
        self,
        static_dim: int = 512,
        dynamic_dim: int = 256,
        fusion_dim: int = 128,
        num_heads: int = 4,
        dropout_rate: float = 0.3,
        n_targets: int = 5,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.static_dim, self.dynamic_dim = static_dim, dynamic_dim
        self.cross_attention = CrossAttention(fusion_dim, num_heads, name="cross_attention")
        self.fusion = FeatureFusionModule(dropout_rate, name="fusion")
        self.head = PersonalityPredictionHead(n_targets, name="head")
        self.cross_attention.build((None, None, static_dim), (None, None, dynamic_dim))
        self.fusion.build((None, None, fusion_dim))
        self.head.build((None, None, fusion_dim))
        self.built = True

    def call(self, inputs, training=None, return_attention=False):
        """Return scores (B, n_targets); with `return_attention` also attention (B, heads, Ts, Td)."""
        streams = self.streams(inputs)
        if return_attention and streams["dynamic"].shape[1] == 1:
            warnings.warn(
                "attention over a single motion token is constant: every weight is 1 whatever the model has learned. "
                "Pass sequences of motion tokens to see what it attends to.",
                UserWarning,
                stacklevel=2,
            )
        fused, attention = self.cross_attention(**streams)
        mask = streams["static_mask"]
        scores = self.head(self.fusion(fused, mask, training=training), mask)
        return (scores, attention) if return_attention else scores

    def streams(self, inputs) -> dict:
        """Complete the inputs: both streams (B, T, D) with times float32 (B, T) and masks bool (B, T)."""
        given = dict(inputs) if isinstance(inputs, dict) else dict(zip(INPUT_NAMES[:2], inputs, strict=True))
        if not {"static", "dynamic"} <= set(given) <= set(INPUT_NAMES):
            raise ValueError(
                "inputs must be a pair (static, dynamic) or a dict with both and none but the keys "
                f"{', '.join(INPUT_NAMES)}, got {', '.join(sorted(given))}."
            )
        if ("static_t_s" in given) != ("dynamic_t_s" in given):
            raise ValueError("static_t_s and dynamic_t_s must be given together, got one of them. Pass both, or none.")
        return self._stream("static", self.static_dim, given) | self._stream("dynamic", self.dynamic_dim, given)

    def _stream(self, name: str, width: int, given: dict) -> dict:
        x = ops.cast(ops.convert_to_tensor(given[name]), self.compute_dtype)
        if len(x.shape) not in (2, 3) or x.shape[-1] != width:
            raise ValueError(
                f"{name} must have shape (batch, {width}) or (batch, tokens, {width}), got {tuple(x.shape)}. "
                f"Build the model with {name}_dim={x.shape[-1]}, or pass features of {width} columns."
            )
        x = ops.expand_dims(x, 1) if len(x.shape) == 2 else x
        times = ops.zeros_like(x[..., 0], dtype="float32") + ops.cast(ops.arange(ops.shape(x)[1]), "float32")
        mask = ops.cast(given.get(f"{name}_mask", ops.ones_like(times, dtype="bool")), "bool")
        return {name: x, f"{name}_t_s": ops.cast(given.get(f"{name}_t_s", times), "float32"), f"{name}_mask": mask}

    def get_config(self) -> dict:
        attention = self.cross_attention
        return super().get_config() | {
            "static_dim": self.static_dim,
            "dynamic_dim": self.dynamic_dim,
            "fusion_dim": attention.fusion_dim,
            "num_heads": attention.num_heads,
            "dropout_rate": self.fusion.dropout_rate,
            "n_targets": self.head.n_targets,
        }


def clips_at_once(inputs: Mapping[str, np.ndarray]) -> int:
    """How many clips of a model's inputs, (N, T, D) or (N, D), may go through it at once: fewer of long ones, as each
    head's attention has Ts × Td numbers; at most 1024.
    """
    streams = [inputs[name].shape[1:] for name in INPUT_NAMES[:2]]
    tokens = [shape[0] for shape in streams if len(shape) == 2]
    return max(1, min(1024, PASS_NUMBERS // max(*map(math.prod, streams), math.prod(tokens))))


def load_model(path: str | Path, **built: Any) -> keras.Model:
    """Load the network of a model folder, or of a `.keras` file.

    `built`: what it must have been built with, such as `static_dim=512`: read before anything else is loaded.
    ValueError where it is no saved model, or was built otherwise.
    """
    file = needs(_files_of(path)[0], "06_training, or `python -m helpers train`")
    try:
        with zipfile.ZipFile(file) as archive:
            config = json.loads(archive.read("config.json"))["config"]
    except (zipfile.BadZipFile, KeyError, ValueError):
        raise ValueError(f"{file} is not a saved model, or a damaged one. Train again, or name another file.") from None
    for name, value in built.items():
        if config.get(name) != value:
            raise ValueError(
                f"{file} must have {name} {value} to fit these features, it was trained with {config.get(name)}. "
                "Make features as in its training, or name another model."
            )
    return keras.saving.load_model(file, compile=False)


def _files_of(path: str | Path) -> tuple[Path, Path]:
    """The network and the card of a model that is named by its `.keras` file or by its folder."""
    path = Path(path)
    if path.suffix == ".keras":
        return path, path.with_suffix(".card.json")
    return path / "model.keras", path / "card.json"


def save_model(model: keras.Model, path: str | Path, card: dict[str, Any]) -> dict[str, Any]:
    """Write a network and then its card, which is returned, as a `.keras` file or into a folder.

    `card`: what is to be known (data, split, seed, metrics, weights behind its features, licence); completed by
    `parameters`, `network`, `keras`, `backend`, `code_version` and `saved` (UTC).
    """
    card = {
        "parameters": model.count_params(),
        "network": type(model).__name__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "code_version": code_version(),
        "saved": datetime.now(UTC).isoformat(timespec="seconds"),
    } | card  # fmt: skip
    model_path, card_path = _files_of(path)
    with replacing(model_path) as part:
        model.save(part)
    write_json(card_path, card)
    return card


class ModelSerializer:
    """The versions of one model: `<folder>/v0001/model.keras` with `card.json`, and so on. None is changed later."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @property
    def versions(self) -> list[int]:
        """Numbers of the versions that are there, ascending."""
        return sorted(int(path.parent.name[1:]) for path in self.folder.glob("v[0-9]*/card.json"))

    def path(self, version: int | None = None) -> Path:
        """Folder of a version, by default the latest; ValueError where it is not there."""
        versions = self.versions
        version = versions[-1] if versions and version is None else version
        if version not in versions:
            raise ValueError(f"version must be one of {versions} in {self.folder}, got {version}. Save one first.")
        return self.folder / f"v{version:04d}"

    def save(self, model: keras.Model, card: dict[str, Any]) -> int:
        """Write a new version, see `save_model`, and return its number."""
        version = max(self.versions, default=0) + 1
        save_model(model, self.folder / f"v{version:04d}", card | {"version": version})
        return version

    def card(self, version: int | None = None) -> dict[str, Any]:
        """What is known about a version, by default the latest."""
        return read_json(self.path(version) / "card.json")

    def load(self, version: int | None = None, **built: Any) -> keras.Model:
        """Load a version, by default the latest; `built`: see `load_model`."""
        return load_model(self.path(version), **built)

    def export(self, path: str | Path, version: int | None = None) -> Path:
        """Write a version for inference elsewhere, see `export_model`."""
        return export_model(self.load(version), path)


def export_model(model: CompletePersonalityModel, path: str | Path) -> Path:
    """Write a cross-attention network as a SavedModel, in a folder, for inference elsewhere: it takes all of
    `INPUT_NAMES` by name, features and times float32, masks bool, and gives scores (B, n_targets).
    """
    signature: dict[str, keras.InputSpec] = {}
    for name, width in (("static", model.static_dim), ("dynamic", model.dynamic_dim)):
        signature[name] = keras.InputSpec("float32", (None, None, width), name=name)
        signature[f"{name}_t_s"] = keras.InputSpec("float32", (None, None), name=f"{name}_t_s")
        signature[f"{name}_mask"] = keras.InputSpec("bool", (None, None), name=f"{name}_mask")
    model.export(str(path), format="tf_saved_model", input_signature=[signature], verbose=False)
    return Path(path)


def read_h5_weights(model: keras.Model, path: str | Path) -> keras.Model:
    """Fill a built network with the weights of an `.h5` file of Keras 2, or a `.weights.h5` of Keras 3, and return it.

    Arrays are taken in the order of the file, layer by layer; those of attention may be split by heads. ValueError,
    and nothing is changed, where a shape or their number does not fit.
    """
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)
            if "layer_names" not in root.attrs:
                model.load_weights(path)
                return model
            layers = [root[name] for name in root.attrs["layer_names"]]
            arrays = [layer[name][()] for layer in layers for name in layer.attrs["weight_names"]]
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as weights in HDF5 ({error}). Name another file.") from None
    weights = [w for layer in model.layers for w in (*layer.trainable_weights, *layer.non_trainable_weights)]
    if len(arrays) != len(weights) or not all(map(_fits, arrays, weights)):
        shapes, got = [tuple(w.shape) for w in weights], [array.shape for array in arrays]
        raise ValueError(f"{path} must hold arrays of the shapes {shapes} in this order, got {got}. Build it alike.")
    for weight, array in zip(weights, arrays, strict=True):
        weight.assign(array.reshape(weight.shape))
    return model


def _fits(array: np.ndarray, weight: keras.Variable) -> bool:
    heads = array.ndim > len(weight.shape) and array.size == math.prod(weight.shape)
    return array.shape == tuple(weight.shape) or heads
