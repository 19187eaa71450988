"""What networks see: the activations of their layers, where a number comes from, and what a channel answers to most.

In: any functional Keras model with one input, of still images (n, H, W, C) or of clips (n, T, H, W, C). With random
weights all of it shows where an input has what the network happens to weigh, and nothing that was learned.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pandas as pd
from keras import ops

from helpers.pipeline import Source

STAGE_ENDS = {  # by the network's name: of each size of its maps the last layer that all paths go through
    "resnet50": ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out"),
    "resnet101": ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block23_out"),
    "efficientnetv2-s": ("block1b_add", "block2d_add", "block4a_expand_activation", "block6a_expand_activation"),
    "efficientnetv2-m": ("block1c_add", "block2e_add", "block4a_expand_activation", "block6a_expand_activation"),
    "vgg19": ("block1_conv2", "block2_conv2", "block3_conv4", "block4_conv4", "block5_conv4"),
    "i3d": ("Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3c", "Mixed_4f", "Mixed_5c"),
}
BATCH = 8  # inputs at once; early layers of a clip are large
STEP, JITTER_PX = 0.03, 4  # of gradient ascent: length over the range of values, largest shift


def inputs_at(source: Source, path: Path, key: str, places: Sequence[int]) -> np.ndarray:
    """What the network is shown of a clip at some places, counted from 0: faces RGB uint8 (k, size_px, size_px, 3), or
    flow float32 (k, input_px, input_px, 2) in [-1, 1]; `source`: see `helpers.extract.open_source`.
    """
    job = source.job(path, key, source.fingerprint(path, key))
    values = (value for chunk in source.work(job) for value in chunk.values)
    found = {n: value for n, value in enumerate(values) if n in places}
    return np.stack([found[place] for place in places])


def layer_table(model: keras.Model, sample_shape: Sequence[int]) -> pd.DataFrame:
    """List the layers whose output has positions, in their order: index layer; columns kind, time (clips only), height,
    width, channels, parameters. `sample_shape`: of one input, such as (224, 224, 3), or (64, 112, 112, 2): time first.
    """
    placed = [layer for layer in model.layers if len(layer.output.shape) == len(sample_shape) + 1]
    outputs = keras.Model(model.input, [layer.output for layer in placed])
    shapes = [tensor.shape[1:] for tensor in outputs.compute_output_spec(keras.KerasTensor((1, *sample_shape)))]
    names = pd.Index([layer.name for layer in placed], name="layer")
    table = pd.DataFrame(shapes, names, ("time", "height", "width", "channels")[-len(sample_shape) :])
    table.insert(0, "kind", [type(layer).__name__ for layer in placed])
    return table.assign(parameters=[layer.count_params() for layer in placed])


def stages_of(model: keras.Model, table: pd.DataFrame) -> list[str]:
    """The end of every stage of a network in `STAGE_ENDS`, and the last layer of `layer_table` with many positions."""
    layers = table.index[table["height"] > 1]
    return [name for name in layers if name in STAGE_ENDS.get(model.name.split("_")[0], ()) or name == layers[-1]]


def activations(model: keras.Model, x: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Run a network on inputs (n, ...), preprocessing done, and keep the activations of some of its layers: by name
    float32 (n, [T',] H', W', C'), in the given order.
    """
    tapped = keras.Model(model.input, {name: model.get_layer(name).output for name in layers})
    parts = [tapped(x[i : i + BATCH], training=False) for i in range(0, len(x), BATCH)]
    return {name: np.concatenate([ops.convert_to_numpy(part[name]) for part in parts]) for name in layers}


def strongest_channels(activation: np.ndarray, n: int) -> np.ndarray:
    """Numbers of the n channels of (..., C) with the largest mean, strongest first; of equal ones the lower first."""
    mean = activation.reshape(-1, activation.shape[-1]).mean(axis=0, dtype="float64")
    return np.argsort(-mean, kind="stable")[:n]


def centres(n: int, length: float) -> np.ndarray:
    """Centres of n equal parts of a length, (n,): where a layer of SAME convolutions sees its positions, in pixels, or
    its steps, in seconds; what each of them has seen reaches further.
    """
    return (np.arange(n) + 0.5) * length / n


def energy(activation: np.ndarray) -> np.ndarray:
    """Root mean square over the channels, (..., C) to (...): how much is going on at each position."""
    return np.sqrt(np.square(activation, dtype="float32").mean(axis=-1))


def gradient_of(fn: Callable[[Any], Any], x: np.ndarray) -> tuple[float, np.ndarray]:
    """Compute a number and its gradient, float32 in the shape of `x`, once, without compiling anything.

    `fn`: from a tensor to a tensor without axes. Models in it are to be called with `training=False`; conversions to
    NumPy in it cut the gradient off. An error where the number has no connection with `x`.
    """
    by = {"jax": _by_jax, "torch": _by_torch, "tensorflow": _by_tensorflow}[keras.backend.backend()]
    value, slope = by(fn, ops.convert_to_tensor(np.asarray(x, np.float32)))
    return float(value), np.array(slope, np.float32)


def _by_jax(fn: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    import jax

    return jax.value_and_grad(fn)(x)


def _by_torch(fn: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    import torch

    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = fn(x)
        (slope,) = torch.autograd.grad(value, x)
    return value, slope.cpu()


def _by_tensorflow(fn: Callable[[Any], Any], x: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = fn(x)
    slope = tape.gradient(value, x)
    if slope is None:
        raise ValueError("fn must depend on x, got a value without any connection. Compute with keras.ops inside.")
    return value, slope


def grad_cam(model: keras.Model, x: np.ndarray, layer: str, direction: np.ndarray) -> np.ndarray:
    """Compute Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) of a direction in feature space.

    The networks here have no classes, hence the direction, (D,), or of each input its own, (n, D); as it has two ends,
    what lowers the projection is kept. The output of `model` are features (n, D), or (n, ..., D); `x`: inputs,
    preprocessing done, float32 (n, ...); `layer`: one that all paths of the network go through, such as the end of a
    stage; ValueError for others. Returns where the projection comes from, float32 (n, [T',] H', W'): what raises it,
    and below 0 what lowers it.
    """
    start = model.get_layer(layer).output
    rest = keras.Model(start, keras.layers.Identity()(start) if start is model.output else model.output)
    activation = activations(model, x, [layer])[layer]

    def projection(tensor: keras.KerasTensor) -> keras.KerasTensor:
        features = rest(tensor, training=False)
        pooled = ops.mean(features, axis=tuple(range(1, len(features.shape) - 1)))  # (n, D)
        return ops.sum(pooled * ops.cast(direction, pooled.dtype))

    _, slope = gradient_of(projection, activation)
    weight = slope.mean(axis=tuple(range(1, activation.ndim - 1)), keepdims=True)
    return (activation * weight).sum(axis=-1).astype(np.float32)


def maximise(
    model: keras.Model,
    layer: str,
    channels: Sequence[int],
    shape: Sequence[int],
    *,
    low: float,
    high: float,
    prepare: Callable[[Any], Any] = lambda x: x,
    steps: int = 24,
    blur_px: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Climb the mean activation of channels from faint noise on (Erhan et al. 2009), all of them side by side.

    Two of the means of Olah et al. (2017, https://distill.pub/2017/feature-visualization) keep the inputs from ending
    as noise that only this network can see: the input is shifted by chance at every step, and the slope is blurred.

    `channels`: numbers of n of the layer's; `shape`: of an input, ([T,] H, W, C), whose values lie from `low` to
    `high`; `prepare` makes of such values what the network takes; the slope is followed `steps` times; `blur_px`:
    standard deviation of the blur in height and width. Returns the inputs, float32 (n, [T,] H, W, C), and the mean
    activation of each input's own channel at the start and at the end, float32 (n,) each.
    """
    tapped = keras.Model(model.input, model.get_layer(layer).output)
    chosen = np.eye(tapped.output.shape[-1], dtype=np.float32)[list(channels)]  # (n, channels of the layer)

    def each(x: keras.KerasTensor) -> keras.KerasTensor:
        y = tapped(prepare(x), training=False)
        return ops.sum(ops.mean(y, axis=tuple(range(1, len(y.shape) - 1))) * chosen, axis=-1)  # (n,)

    size, shifts = (len(channels), *shape), np.random.default_rng(0)
    noise = np.random.default_rng(0).normal((low + high) / 2, (high - low) / 20, size)
    x = np.clip(noise, low, high).astype(np.float32)
    before = ops.convert_to_numpy(each(x))
    for _ in range(steps):
        shift = shifts.integers(-JITTER_PX, JITTER_PX + 1, 2)  # what leaves the picture comes in on the other side
        _, slope = gradient_of(lambda tensor: ops.sum(each(tensor)), np.roll(x, shift, axis=(-3, -2)))
        flat = np.roll(slope, -shift, axis=(-3, -2)).reshape(-1, *size[-3:])
        slope = np.stack([cv2.GaussianBlur(one, (0, 0), blur_px) for one in flat]).reshape(size)
        length = np.sqrt(np.square(slope).mean(axis=tuple(range(1, slope.ndim)), keepdims=True))
        x = np.clip(x + STEP * (high - low) * (slope / np.maximum(length, 1e-12)), low, high)
    return x, before, ops.convert_to_numpy(each(x))


def check_gradient() -> float:
    """Compare the backend's gradient through convolution, tanh and matrix product with central finite differences: the
    largest difference over 12 of the kernel's 135 values, in units of the largest finite difference; under 1e-3 where
    training can be trusted.
    """
    step = 1e-2  # half the width of a difference: with float32 it balances rounding against curvature
    rng = np.random.default_rng(0)
    x, dense, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 7, 7, 3), (5, 2), (3, 3, 3, 5)))
    kernel *= np.float32(0.3)

    def loss(kernel: Any) -> Any:
        hidden = ops.tanh(ops.conv(x, kernel, padding="same"))
        return ops.mean(ops.square(ops.matmul(hidden, dense)))

    places = rng.choice(kernel.size, 12, replace=False)
    nudges = step * np.eye(kernel.size, dtype=np.float32)[places].reshape(-1, *kernel.shape)
    ends = [[float(ops.convert_to_numpy(loss(kernel + sign * nudge))) for nudge in nudges] for sign in (1, -1)]
    differences = np.subtract(*ends) / (2 * step)
    ours = gradient_of(loss, kernel)[1].ravel()[places]
    return float(np.abs(ours - differences).max() / np.abs(differences).max())
