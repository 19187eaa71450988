"""I3D once more, for tests: raw operations on variables by their published names, SAME padding worked out by hand; and
random variables in the published formats, a TensorFlow checkpoint and HDF5 as Keras 2 wrote it for dlpbc's port.

Shares no code with `helpers`. In: variables by name, clips float32 (B, T, H, W, 2 or 3). Out: every stage's activation.
"""

import json
import math
import re
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

ORDER = {  # stage -> stride, or window and strides
    "Conv3d_1a_7x7": 2, "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)), "Conv3d_2b_1x1": 1, "Conv3d_2c_3x3": 1,
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)), "Mixed_3b": 0, "Mixed_3c": 0,
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)), "Mixed_4b": 0, "Mixed_4c": 0, "Mixed_4d": 0, "Mixed_4e": 0,
    "Mixed_4f": 0, "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)), "Mixed_5b": 0, "Mixed_5c": 0,
}  # fmt: skip


def pad_same(x, window, strides, value):
    """Pad so that a VALID operation gives ceil(n / stride) steps; the odd one goes to the end."""
    paddings = [(0, 0)]
    for n, k, s in zip(x.shape[1:4], window, strides, strict=True):
        total = max((math.ceil(n / s) - 1) * s + k - n, 0)
        paddings.append((total // 2, total - total // 2))
    return tf.pad(x, [*paddings, (0, 0)], constant_values=value)


def unit(x, variables, scope, stride=1):
    """Convolution, batch norm without gamma at epsilon 1e-3, ReLU."""
    kernel = variables[f"{scope}/conv_3d/w"]
    strides = (stride,) * 3
    x = tf.nn.conv3d(pad_same(x, kernel.shape[:3], strides, 0.0), kernel, (1, *strides, 1), "VALID")
    mean, variance, beta = (
        variables[f"{scope}/batch_norm/{name}"] for name in ("moving_mean", "moving_variance", "beta")
    )
    return tf.nn.relu((x - mean) / np.sqrt(variance + np.float32(1e-3)) + beta)


def max_pool(x, window, strides):
    return tf.nn.max_pool3d(pad_same(x, window, strides, -np.inf), (1, *window, 1), (1, *strides, 1), "VALID")


def stages(variables, x):
    """Return stage -> activation (B, T', H', W', C) of all sixteen stages."""
    root = next(iter(variables)).split("/")[0] + "/inception_i3d"
    found = {}
    for name, setting in ORDER.items():
        scope = f"{root}/{name}"
        if name.startswith("Conv3d"):
            x = unit(x, variables, scope, setting)
        elif name.startswith("MaxPool3d"):
            x = max_pool(x, *setting)
        else:
            last = "Conv3d_0a_3x3" if name == "Mixed_5b" else "Conv3d_0b_3x3"
            chains = (["Conv3d_0a_1x1"], ["Conv3d_0a_1x1", "Conv3d_0b_3x3"], ["Conv3d_0a_1x1", last], ["Conv3d_0b_1x1"])
            branches = []
            for k, chain in enumerate(chains):
                y = max_pool(x, (3, 3, 3), (1, 1, 1)) if k == 3 else x
                for part in chain:
                    y = unit(y, variables, f"{scope}/Branch_{k}/{part}")
                branches.append(y)
            x = tf.concat(branches, -1)
        found[name] = x
    return found


def pooled_and_logits(variables, x):
    """Return the feature map (B, ceil(T / 8) - 1, 1024) and the logits (B, 400) of 224 px clips."""
    last = stages(variables, x)["Mixed_5c"].numpy()
    means = last.mean(axis=(2, 3))  # of all 7 x 7
    feature_map = (means[:, :-1] + means[:, 1:]) / 2
    root = next(iter(variables)).split("/")[0] + "/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d"
    logits = feature_map @ variables[f"{root}/w"][0, 0, 0] + variables[f"{root}/b"]
    return feature_map, logits.mean(axis=1)


def random_variables(stream):
    """Published names and shapes with values that tell wrong wiring, padding and epsilon apart."""
    rng = np.random.default_rng(5)
    variables = {}
    for row in json.loads((Path(__file__).parent / "data" / f"i3d_{stream}_variables.json").read_text())["variables"]:
        name, shape = row["name"], row["shape"]
        if name.endswith("/w"):
            value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        elif name.endswith("moving_variance"):
            value = rng.uniform(0.05, 1.5, shape)
        else:
            value = rng.normal(0, 0.1, shape)
        variables[name] = value.astype(np.float32)
    return variables


def save_checkpoint(variables, path):
    names = list(variables)
    tf.raw_ops.SaveV2(
        prefix=str(path), tensor_names=names, shape_and_slices=[""] * len(names), tensors=list(variables.values())
    )


def save_keras_port(variables, path):
    """Write variables of one stream as the port's file: Mixed_3b/Branch_1/Conv3d_0a_1x1 is Conv3d_3b_1a_1x1 there."""
    odd = {"Mixed_5b/Branch_2/Conv3d_0a_3x3": "Conv3d_5b_2b_3x3", "Logits/Conv3d_0c_1x1": "Conv3d_6a_1x1"}
    layers = {"input_1": {}}
    for name, value in variables.items():
        scope, kind, variable = name.partition("inception_i3d/")[2].rsplit("/", 2)
        unit = odd.get(scope) or re.sub(r"Mixed_(..)/Branch_(\d)/Conv3d_0", r"Conv3d_\1_\2", scope)
        layer = f"{unit}_{'conv' if kind == 'conv_3d' else 'bn'}"
        weight = {"w": "kernel", "b": "bias"}.get(variable, variable)
        layers.setdefault(layer, {})[f"{layer}/{weight}:0"] = value
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([layer.encode() for layer in layers])
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name in weights], "S")
            for name, value in weights.items():
                group[name] = value
