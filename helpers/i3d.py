"""Inflated 3-D Inception-v1 (Carreira and Zisserman 2017): clips of flow or RGB in, activations of any stage out.

In: float32 (B, T, H, W, channels), T >= 9, 224 px for pooled features and logits, any size for a stage before; flow of
2 channels (u, v) / 20 px in [-1, 1], RGB of 3 channels in [-1, 1]. Out: a stage's activation (B, T', H', W', C), the
feature map (B, ceil(T / 8) - 1, 1024), its mean over time, or the logits (B, 400). Layers are named after the variables
of the published checkpoints (google-deepmind/kinetics-i3d), which load into it.
"""

import json
import re
from functools import cache
from pathlib import Path

import keras
import numpy as np
from keras import layers

from helpers.files import weights_folder
from helpers.store import read_arrays
from helpers.weights import WEIGHTS, Weights, converted_path, published_weights, random_weights, require

STREAMS = {2: "Flow", 3: "RGB"}
N_CLASSES = 400  # Kinetics-400
SPELLED = {"kernel": "w", "bias": "b"}  # Keras' names of variables in the published checkpoints

# Conv3d: (filters, kernel, stride). MaxPool3d: (window, stride). Mixed: filters of Branch_0, of the 1x1 and the 3x3 of
# Branch_1 and of Branch_2, and of Branch_3 (the table of GoogLeNet, Szegedy et al. 2015).
LAYERS = {
    "Conv3d_1a_7x7": (64, 7, 2),
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": (64, 1, 1),
    "Conv3d_2c_3x3": (192, 3, 1),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
STAGES = tuple(LAYERS)


@keras.saving.register_keras_serializable("ocean_workbook")
class SegmentPool(layers.AveragePooling3D):
    """Average over 2x7x7, stride 1, without padding: (B, ceil(T / 8), 7, 7, C) to (B, ceil(T / 8) - 1, 1, 1, C)."""

    def __init__(self, **kwargs):
        super().__init__(**{"pool_size": (2, 7, 7), "strides": 1, "padding": "valid", **kwargs})

    def call(self, inputs):
        n_steps, *size = inputs.shape[1:4]
        if (n_steps or 2) < 2 or (None not in size and size != [7, 7]):
            got = "x".join(map(str, (n_steps, *size)))
            raise ValueError(
                "x must have at least 9 time steps and be 224 px wide and high for pooled features, which makes 2x7x7 "
                f"or more here, got {got}. Pass such a clip, or tap a stage before the pool with endpoint=."
            )
        return super().call(inputs)


def build_i3d(channels: int = 2, *, endpoint: str = "", n_classes: int = N_CLASSES) -> keras.Model:
    """Build the network for any number of time steps; its variables hold Keras' initial values.

    Args:
        channels: 2 for the flow stream, 3 for the RGB stream.
        endpoint: A name of `STAGES`: the network ends there, and nothing after it is built. Empty: all of it.
        n_classes: Size of the logits: 400, or 600 for the weights of Kinetics-600.

    Returns:
        A model from (B, T, H, W, channels) to the logits (B, n_classes), or to the stage's (B, T', H', W', C).
    """
    name = f"i3d_{_stream(channels)}"
    if endpoint and endpoint not in STAGES:
        raise ValueError(f"endpoint must be one of {', '.join(STAGES)}, got {endpoint!r}. Choose a stage.")
    inputs = keras.Input((None, None, None, channels), name="clip")
    x = inputs
    for stage in STAGES:
        x = _stage(x, stage)
        if stage == endpoint:
            return keras.Model(inputs, x, name=f"{name}_{endpoint}")
    x = SegmentPool(name="AvgPool3d_6a_7x7")(x)
    x = layers.Conv3D(n_classes, 1, name="Logits_Conv3d_0c_1x1_conv_3d")(x)
    x = layers.GlobalAveragePooling3D(name="Logits")(x)  # the mean over time: height and width are 1
    return keras.Model(inputs, x, name=name)


def _stream(channels: int) -> str:
    if channels not in STREAMS:
        raise ValueError(f"channels must be 2 (flow) or 3 (RGB), got {channels!r}. Choose the stream.")
    return STREAMS[channels].lower()


def _stage(x: keras.KerasTensor, stage: str) -> keras.KerasTensor:
    row = LAYERS[stage]
    if stage.startswith("MaxPool3d"):
        return layers.MaxPooling3D(*row, padding="same", name=stage)(x)
    if stage.startswith("Conv3d"):
        return _unit(x, stage, *row, output=stage)
    b0, b1a, b1b, b2a, b2b, b3 = row
    third = "Conv3d_0a_3x3" if stage == "Mixed_5b" else "Conv3d_0b_3x3"  # so in the published checkpoints
    pooled = layers.MaxPooling3D(3, 1, padding="same", name=f"{stage}_Branch_3_MaxPool3d_0a_3x3")(x)
    scope = f"{stage}_Branch"
    branches = [
        _unit(x, f"{scope}_0_Conv3d_0a_1x1", b0, 1),
        _unit(_unit(x, f"{scope}_1_Conv3d_0a_1x1", b1a, 1), f"{scope}_1_Conv3d_0b_3x3", b1b, 3),
        _unit(_unit(x, f"{scope}_2_Conv3d_0a_1x1", b2a, 1), f"{scope}_2_{third}", b2b, 3),
        _unit(pooled, f"{scope}_3_Conv3d_0b_1x1", b3, 1),
    ]
    return layers.Concatenate(name=stage)(branches)


def _unit(
    x: keras.KerasTensor, scope: str, filters: int, kernel: int, stride: int = 1, output: str = ""
) -> keras.KerasTensor:
    """Convolution without bias, batch norm without gamma, ReLU; SAME padding is the framework's, right at odd sizes."""
    x = layers.Conv3D(filters, kernel, stride, padding="same", use_bias=False, name=f"{scope}_conv_3d")(x)
    x = layers.BatchNormalization(epsilon=1e-3, scale=False, name=f"{scope}_batch_norm")(x)
    return layers.ReLU(name=output or f"{scope}_relu")(x)


def build_motion_network(weights: str, endpoint: str = "", channels: int = 2) -> tuple[keras.Model, Weights]:
    """Build what extraction runs, up to `endpoint` and no further, and fill it.

    Args:
        weights: "pretrained" (published weights: ImageNet, then Kinetics-400), a name of `WEIGHTS` for other published
            ones, or "random" (the frozen generator, he, seed 0).
        endpoint: A name of `STAGES`, or empty for the 1024 pooled features of every 8 time steps.
        channels: 2 for the flow stream, 3 for the RGB stream.

    Returns:
        The model, to (B, T', H', W', C) of the stage or to (B, ceil(T / 8) - 1, 1024), and its provenance.
    """
    if weights == "random":
        model = build_i3d(channels, endpoint=endpoint)
        provenance = random_weights(model, model.name, seed=0, law="he")
    else:
        name = f"i3d_{_stream(channels)}_kinetics" if weights == "pretrained" else weights
        names = [name for name, row in WEIGHTS.items() if row.kind.startswith("i3d") and row.channels == channels]
        if name not in names:
            raise ValueError(
                f"weights must be random, pretrained or of {', '.join(names)}, got {weights!r}. Choose one."
            )
        found, provenance = read_published(name)
        model = fill_published(name, found, endpoint)
    return (model if endpoint else tap(model)), provenance


def fill_published(name: str, found: dict[str, np.ndarray], endpoint: str = "") -> keras.Model:
    """Build the network of a row of `WEIGHTS` and fill it with its variables, `found`; see `read_published`.

    It ends at `endpoint`, or at the feature map where the weights were published without a classifier.
    """
    row = WEIGHTS[name]
    model = build_i3d(row.channels, endpoint=endpoint, n_classes=row.n_classes or N_CLASSES)
    model = model if endpoint or row.n_classes else tap(model)
    load_variables(model, found, name)
    return model


def tap(model: keras.Model, endpoint: str = "") -> keras.Model:
    """Return the part of a network up to a stage; it shares the weights and computes nothing after it.

    Args:
        model: From `build_i3d`.
        endpoint: A name of `STAGES`, or empty for the pooled feature map.

    Returns:
        A model to the stage's (B, T', H', W', C), or to (B, ceil(T / 8) - 1, 1024).
    """
    name = endpoint or "AvgPool3d_6a_7x7"
    if name not in {layer.name for layer in model.layers}:
        raise ValueError(f"endpoint must be a part of {model.name}, got {name}. Build the network without endpoint=.")
    output = model.get_layer(name).output
    if not endpoint:
        output = layers.Reshape((-1, output.shape[-1]), name="feature_map")(output)  # (B, T', 1, 1, C) -> (B, T', C)
    return keras.Model(model.input, output, name=f"{model.name}_{name}")


def feature_map(model: keras.Model, x: np.ndarray, *, endpoint: str = "") -> np.ndarray:
    """Return pooled features along time, float32 (B, ceil(T / 8) - 1, 1024), or a stage's activation; see `tap`.

    `x` holds clips, float32 (B, T, H, W, channels) in [-1, 1]; T >= 9 and 224 px without `endpoint`.
    """
    return keras.ops.convert_to_numpy(tap(model, endpoint)(x, training=False))


def features(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Return the mean over time of `feature_map`, float32 (B, 1024); arguments as there."""
    return feature_map(model, x).mean(axis=1)


def logits(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Return the Kinetics-400 logits, mean over time, float32 (B, 400); arguments as for `feature_map`."""
    if model.layers[-1].name != "Logits":
        raise ValueError(f"model must be a whole network, got {model.name}. Build it without endpoint=.")
    return keras.ops.convert_to_numpy(model(x, training=False))


def published_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the model's variables by their names in the published checkpoints, 230 for a whole network.

    `<Flow|RGB>/inception_i3d/<stage>[/Branch_k]/<unit>/{conv_3d/w, batch_norm/{beta, moving_mean, moving_variance}}`,
    and `.../Logits/Conv3d_0c_1x1/conv_3d/{w, b}`. Kernels are (t, h, w, in, out) on both sides.
    """
    stream = STREAMS[model.input_shape[-1]]
    slashes = re.compile("_(Branch_|Conv3d_0|conv_3d|batch_norm)")  # Keras allows none in a layer's name
    return {
        published_name(stream, slashes.sub(r"/\1", layer.name), variable.name): variable
        for layer in model.layers
        for variable in layer.weights
    }


def published_name(stream: str, scope: str, variable: str) -> str:
    return f"{stream}/inception_i3d/{scope}/{SPELLED.get(variable, variable)}"


def load_tf_checkpoint(model: keras.Model, path: str | Path) -> None:
    """Load a published checkpoint into a network; a network that ends at a stage takes its part of it.

    Args:
        model: From `build_i3d`.
        path: As TensorFlow names it, without `.index`.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It belongs to the other stream, or variables are missing, unknown or of another shape; the network
            is left as it was.
    """
    load_variables(model, read_tf_checkpoint(path), path)


def load_variables(model: keras.Model, found: dict[str, np.ndarray], path: str | Path) -> None:
    """Assign the variables of a whole network by their published names, all or none; as for `load_tf_checkpoint`."""
    channels, variables = model.input_shape[-1], published_variables(model)
    streams = {name.split("/")[0] for name in found} & set(STREAMS.values())
    if streams != {STREAMS[channels]}:
        raise ValueError(
            f"path must be a checkpoint of the {STREAMS[channels]} stream, for {channels} channels, got one of "
            f"{' and '.join(sorted(streams)) or 'neither Flow nor RGB'}: {path}. Build the network for the other one."
        )
    wanted = {name: ("float32", tuple(variable.shape)) for name, variable in variables.items()}
    there = {name: (value.dtype.name, value.shape) for name, value in found.items()}
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - there.keys())]
    problems += [f"{name} is unknown" for name in sorted(there.keys() - _names(channels))]
    problems += [
        f"{name} is {there[name]}, not {wanted[name]}"
        for name in sorted(there.keys() & wanted.keys())
        if there[name] != wanted[name]
    ]
    if problems:
        raise ValueError(
            f"{path} must hold the {len(_names(channels))} variables of I3D, {len(problems)} are otherwise: "
            f"{'; '.join(problems[:5])}. Fetch the published checkpoint again."
        )
    for name, variable in variables.items():
        variable.assign(found[name])


@cache
def _names(channels: int) -> frozenset[str]:
    return frozenset(published_variables(build_i3d(channels)))


SOURCE = "__source__"  # in a converted file: which bytes it was made from; no variable is called so


def read_published(name: str) -> tuple[dict[str, np.ndarray], Weights]:
    """Read the variables of a row of `WEIGHTS`, fetched if need be, and their provenance.

    The converted file is read where there is one, also without the original; its sha256 is that of the original.

    Returns:
        Published variable name (as in the checkpoints of 400 classes) -> array; provenance.

    Raises:
        FileNotFoundError: As for `require`.
        ValueError: What is there is damaged, was converted from another original than is there, or is not a checkpoint
            of 400 classes and is not converted yet.
    """
    require([name])
    path, row, how = converted_path(name), WEIGHTS[name], f"`python -m helpers weights convert {name}`"
    if not path.is_file():
        if (row.kind, row.n_classes) != ("i3d_checkpoint", N_CLASSES):
            raise ValueError(f"{name} must be converted before it is used. Run {how}.")
        return read_tf_checkpoint(weights_folder() / row.path), published_weights(name)
    try:
        found = read_arrays(path)
        source = json.loads(str(found.pop(SOURCE)))
        made_from = source["name"], source["sha256"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} must be whole converted weights, got others. Delete it, and run {how}.") from None
    original = name, published_weights(name).sha256 if row.is_here else made_from[1]
    if made_from != original:
        of, got = (" with sha256 ".join(pair) for pair in (original, made_from))
        raise ValueError(f"{path} must be converted from {of}, got it from {got}. Delete it, or run {how}.")
    return found, Weights(name, row.files[0].url, made_from[1], row.licence)


def read_tf_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Read all variables of a TensorFlow checkpoint by name; path and errors as for `load_tf_checkpoint`."""
    import tensorflow as tf

    path = Path(path)
    if not (Path(f"{path}.index").is_file() and list(path.parent.glob(f"{path.name}.data-*"))):
        raise FileNotFoundError(f"{path}.index and {path}.data-* are not both there. Put both into {path.parent}.")
    try:
        reader = tf.train.load_checkpoint(str(path))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, RuntimeError, IndexError, ValueError) as error:
        raise ValueError(f"{path} must be a whole TensorFlow checkpoint, got: {error}. Fetch it again.") from error
