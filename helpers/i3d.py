"""Inflated 3-D Inception-v1 (Carreira and Zisserman 2017): clips of flow or RGB in, activations of any stage out.

In: float32 (B, T, H, W, channels), T >= 9, 224 px for pooled features and logits, any size for a stage before; flow of
2 channels (u, v) / 20 px in [-1, 1], RGB of 3 channels in [-1, 1]. Out: a stage's activation (B, T', H', W', C), the
feature map (B, ceil(T / 8) - 1, 1024), its mean over time, or the logits (B, 400). Layers are named after the variables
of the published checkpoints (google-deepmind/kinetics-i3d), which load into it.
"""

import json
import re
from contextlib import suppress
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers

from helpers.config import ENDPOINTS
from helpers.store import read_arrays, write_arrays
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
STAGES = ENDPOINTS
POOL = "AvgPool3d_6a_7x7"  # after the last stage


def build_i3d(channels: int = 2, *, endpoint: str = "") -> keras.Model:
    """Build the network for any number of time steps, for 2 (flow) or 3 (RGB) channels, with Keras' initial values.

    Returns a model from (B, T, H, W, channels) to the logits (B, 400), or, where `endpoint` names one of `STAGES`, up
    to that stage's (B, T', H', W', C).
    """
    if channels not in STREAMS:
        raise ValueError(f"channels must be 2 (flow) or 3 (RGB), got {channels!r}. Choose the stream.")
    if endpoint and endpoint not in STAGES:
        raise ValueError(f"endpoint must be one of {', '.join(STAGES)}, got {endpoint!r}. Choose a stage.")
    name, inputs = f"i3d_{STREAMS[channels].lower()}", keras.Input((None, None, None, channels), name="clip")
    x = inputs
    for stage in STAGES:
        x = _stage(x, stage)
        if stage == endpoint:
            return keras.Model(inputs, x, name=f"{name}_{endpoint}")
    x = layers.AveragePooling3D((2, 7, 7), 1, name=POOL)(x)  # (B, ceil(T / 8) - 1, 1, 1, C)
    x = layers.Conv3D(N_CLASSES, 1, name="Logits_Conv3d_0c_1x1_conv_3d")(x)
    x = layers.GlobalAveragePooling3D(name="Logits")(x)  # the mean over time: height and width are 1
    return keras.Model(inputs, x, name=name)


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
    """Build what extraction runs, up to `endpoint` and no further, and fill it; returns it and its provenance.

    `weights`: "pretrained" (ImageNet, then Kinetics-400), a name of `WEIGHTS` for other published ones, or "random".
    `endpoint`: see `tap`.
    """
    model = build_i3d(channels, endpoint=endpoint)
    if weights == "random":
        provenance = random_weights(model, model.name, law="he")
    else:
        name = f"i3d_{STREAMS[channels].lower()}_kinetics" if weights == "pretrained" else weights
        names = [name for name, row in WEIGHTS.items() if row.kind.startswith("i3d") and row.channels == channels]
        if name not in names:
            raise ValueError(f"weights must be random, pretrained or of {', '.join(names)}, got {weights!r}.")
        found, provenance = read_published(name)
        load_variables(model, found, name)
    return (model if endpoint else tap(model)), provenance


def tap(model: keras.Model, endpoint: str = "") -> keras.Model:
    """Return the part of a network up to a stage; it shares the weights and computes nothing after it.

    `endpoint` is a name of `STAGES`, for (B, T', H', W', C), or empty for the pooled (B, ceil(T / 8) - 1, 1024).
    """
    name = endpoint or POOL
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
    if not endpoint:
        _check_clips(x)
    return keras.ops.convert_to_numpy(tap(model, endpoint)(x, training=False))


def _check_clips(x: np.ndarray) -> None:
    if x.shape[1] < 9 or x.shape[2:4] != (224, 224):
        raise ValueError(f"x must have 9 time steps or more of 224 px, got {x.shape}. Pass such clips, or an endpoint.")


def features(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Return the mean over time of `feature_map`, float32 (B, 1024); arguments as there."""
    return feature_map(model, x).mean(axis=1)


def logits(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Return the Kinetics-400 logits of a whole network, mean over time, float32 (B, 400); `x` as for `feature_map`."""
    if model.output_shape != (None, N_CLASSES):
        raise ValueError(f"model must be a whole network, got {model.name}. Build it without endpoint=.")
    _check_clips(x)
    return keras.ops.convert_to_numpy(model(x, training=False))


def published_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the model's variables by their names in the published checkpoints, 230 for a whole network.

    `<Flow|RGB>/inception_i3d/<stage>[/Branch_k]/<unit>/{conv_3d/w, batch_norm/{beta, moving_mean, moving_variance}}`,
    and `.../Logits/Conv3d_0c_1x1/conv_3d/{w, b}`. Kernels are (t, h, w, in, out) on both sides.
    """
    stream = STREAMS[model.input_shape[-1]]
    slashes = re.compile("_(Branch_|Conv3d_0|conv_3d|batch_norm)")  # Keras allows none in a layer's name
    return {
        _published_name(stream, slashes.sub(r"/\1", layer.name), variable.name): variable
        for layer in model.layers
        for variable in layer.weights
    }


def _published_name(stream: str, scope: str, variable: str) -> str:
    return f"{stream}/inception_i3d/{scope}/{SPELLED.get(variable, variable)}"


def load_tf_checkpoint(model: keras.Model, path: str | Path) -> None:
    """Load a published checkpoint into a network from `build_i3d`; one that ends at a stage takes its part of it.

    `path` is as TensorFlow names it, without `.index`. FileNotFoundError where there is none; ValueError where it is of
    the other stream, or variables are missing, unknown or of another shape: the network is left as it was.
    """
    load_variables(model, read_tf_checkpoint(path), path)


def load_variables(model: keras.Model, found: dict[str, np.ndarray], path: str | Path) -> None:
    """Assign the variables of a network by their published names, all or none; as for `load_tf_checkpoint`."""
    variables = published_variables(model)
    wanted = {name: (tuple(variable.shape), "float32") for name, variable in variables.items()}
    there = {name: (value.shape, value.dtype.name) for name, value in found.items()}
    others = [f"{k} must be {want}, got {there.get(k)}" for k, want in wanted.items() if there.get(k) != want]
    is_whole = model.layers[-1].name == "Logits"
    others += [f"{name} is unknown" for name in sorted(there.keys() - wanted.keys()) if is_whole]
    others += [f"{name} must be finite" for name in wanted if not others and not np.isfinite(found[name]).all()]
    if others:
        stream = STREAMS[model.input_shape[-1]]
        raise ValueError(
            f"{path} must hold the variables of I3D's {stream} stream, {len(others)} are otherwise: "
            f"{'; '.join(others[:3])}. Fetch the published file again, or build the network for the other stream."
        )
    for name, variable in variables.items():
        variable.assign(found[name])


SOURCE = "__source__"  # in a converted file: the sha256 of what it was made from; no variable is called so


def read_published(name: str) -> tuple[dict[str, np.ndarray], Weights]:
    """Read the variables of a row of `WEIGHTS`, fetched if need be, by their published names, and their provenance.

    The first time they are verified and kept as `<name>.npz`, which needs no TensorFlow and is enough later, unless the
    original is there and has changed. FileNotFoundError as of `require`, ValueError where a file is damaged.
    """
    path, row, found, source = converted_path(name), WEIGHTS[name], {}, {}
    try:
        found = read_arrays(path)
        source = json.loads(str(found.pop(SOURCE, "{}")))
    except FileNotFoundError:
        pass
    except ValueError:
        if not row.is_here:
            raise ValueError(f"{path} is damaged. Delete it: the published file is then read again.") from None
    if source.get("name") == name and not row.is_here:
        return found, Weights(name, row.files[0].url, source["sha256"], row.licence)
    require([name])
    provenance = published_weights(name)
    if (source.get("name"), source.get("sha256")) != (name, provenance.sha256):
        is_h5 = row.kind == "i3d_h5"
        found = read_keras_h5(row.path, STREAMS[row.channels]) if is_h5 else read_tf_checkpoint(row.path)
        source = json.dumps({"name": name, "sha256": provenance.sha256, "url": provenance.source})
        with suppress(OSError):  # a folder that others share may be read-only
            write_arrays(path, compressed=False, **found, **{SOURCE: source})
    return found, provenance


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


def read_keras_h5(path: str | Path, stream: str) -> dict[str, np.ndarray]:
    """Read the weights file of the Keras port (dlpbc/keras-kinetics-i3d), in Keras 2's legacy HDF5 layout.

    It has one group per layer, `<unit>_conv` or `<unit>_bn`; kernels are (t, h, w, in, out). It does not say its
    `stream`, "Flow" or "RGB". A layer that the port does not have keeps its own name.
    """
    found = {}
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)
            for layer in np.asarray(root.attrs["layer_names"]).astype(str):
                for weight in np.asarray(root[layer].attrs["weight_names"]).astype(str):
                    variable = weight.rpartition("/")[2].partition(":")[0]
                    found[_published_name(stream, _scope(layer), variable)] = root[layer][weight][()]
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} must be a whole weights file of Keras 2, got: {error}. Fetch it again.") from None
    return found


def _scope(layer: str) -> str:
    """Conv3d_3b_1a_1x1_conv -> Mixed_3b/Branch_1/Conv3d_0a_1x1/conv_3d, and so on; others as they are."""
    layer = re.sub("_conv$", "/conv_3d", re.sub("_bn$", "/batch_norm", layer))
    layer = layer.replace("Conv3d_6a_1x1", "Logits/Conv3d_0c_1x1")
    layer = layer.replace("Conv3d_5b_2b_3x3", "Mixed_5b/Branch_2/Conv3d_0a_3x3")  # 0a in the checkpoints, 0b elsewhere
    return re.sub(r"^Conv3d_(\d[b-f])_(\d)([ab])_(\dx\d)", r"Mixed_\1/Branch_\2/Conv3d_0\3_\4", layer)
