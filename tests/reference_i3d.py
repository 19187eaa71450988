"""I3D once more, for tests: raw operations on variables by their published names, SAME padding worked out by hand.

Shares no code with `helpers`. In: variables by name, clips float32 (B, T, H, W, 2 or 3). Out: every stage's activation.
"""

import math

import numpy as np
import tensorflow as tf

ORDER = [
    "Conv3d_1a_7x7:2", "MaxPool3d_2a_3x3:1,3,3/1,2,2", "Conv3d_2b_1x1:1", "Conv3d_2c_3x3:1",
    "MaxPool3d_3a_3x3:1,3,3/1,2,2", "Mixed_3b", "Mixed_3c", "MaxPool3d_4a_3x3:3,3,3/2,2,2", "Mixed_4b", "Mixed_4c",
    "Mixed_4d", "Mixed_4e", "Mixed_4f", "MaxPool3d_5a_2x2:2,2,2/2,2,2", "Mixed_5b", "Mixed_5c",
]  # fmt: skip


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
    for entry in ORDER:
        name, _, setting = entry.partition(":")
        scope = f"{root}/{name}"
        if name.startswith("Conv3d"):
            x = unit(x, variables, scope, int(setting))
        elif name.startswith("MaxPool3d"):
            window, strides = (tuple(map(int, part.split(","))) for part in setting.split("/"))
            x = max_pool(x, window, strides)
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
