"""Inputs that a channel of a network answers to most: feature maximisation by gradient ascent.

In: a functional Keras model, a layer and some of its channels, and where the search starts (seeded noise). Out: one
input per channel, and how far its activation rose. The picture is of the network, not of any clip; where the weights
are random it shows the scale and the colours that a layer can see, and nothing that was learned.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import keras
import numpy as np
from keras import ops

from helpers.backbones import BACKBONES, Backbone
from helpers.gradients import gradient_of
from helpers.seen.activations import layer_of
from helpers.weights import WEIGHTS

Tensors = Callable[[keras.KerasTensor], keras.KerasTensor]


@dataclass(frozen=True)
class Maximised:
    """What was found.

    Attributes:
        inputs: float32 (n, [T,] H, W, C), one per channel, within the bounds of the search.
        before, after: Mean activation of each input's own channel at the start and at the end, float32 (n,).
    """

    inputs: np.ndarray
    before: np.ndarray
    after: np.ndarray


def noise(shape: Sequence[int], low: float, high: float, *, seed: int = 0) -> np.ndarray:
    """Faint noise around the middle of a range, where a search starts: float32 of that shape."""
    rng = np.random.default_rng(seed)
    middle, spread = (low + high) / 2, (high - low) / 20
    return np.clip(rng.normal(middle, spread, shape), low, high).astype(np.float32)


def from_pixels(backbone: Backbone) -> Tensors:
    """The preprocessing of a backbone for tensors: RGB in [0, 255] to what the network takes, with a gradient."""
    record = WEIGHTS[BACKBONES[backbone.name].published].preprocessing
    mean, scale = np.float32(record.mean), np.float32(record.scale)
    return lambda x: ops.multiply(ops.subtract(ops.flip(x, -1) if record.order == "BGR" else x, mean), scale)


def maximise(
    model: keras.Model,
    layer: str,
    channels: Sequence[int],
    start: np.ndarray,
    *,
    low: float,
    high: float,
    prepare: Tensors | None = None,
    steps: int = 24,
    step: float = 0.03,
    jitter_px: int = 4,
    blur_px: float = 1.0,
    seed: int = 0,
) -> Maximised:
    """Climb the mean activation of channels (Erhan et al. 2009), all of them side by side.

    Two of the means of Olah et al. (2017, https://distill.pub/2017/feature-visualization) keep the inputs from ending
    as noise that only this network can see: the input is shifted by chance at every step, and the slope is blurred.

    Args:
        model: A functional model with one input.
        layer: Name of the layer.
        channels: Numbers of its channels, (n,).
        start: float32 (n, [T,] H, W, C), such as `noise` makes it.
        low, high: Bounds of the values.
        prepare: From values within the bounds to what the network takes; default: as they are.
        steps: How often the slope is followed.
        step: Length of a step as a share of high - low, root mean square over an input.
        jitter_px: Largest shift in height and width.
        blur_px: Standard deviation of the blur in height and width, 0 for none.
        seed: Of the shifts.
    """
    if len(channels) != len(start):
        raise ValueError(f"start must have one input per channel, {len(channels)}, got {len(start)}. Repeat it.")
    tapped = keras.Model(model.input, layer_of(model, layer).output)
    n_channels = tapped.output.shape[-1]
    if min(channels) < 0 or max(channels) >= n_channels:
        raise ValueError(f"channels must be 0 to {n_channels - 1}, those of {layer}, got {list(channels)}.")
    chosen = np.eye(n_channels, dtype=np.float32)[list(channels)]  # (n, channels of the layer)

    def each(x: keras.KerasTensor) -> keras.KerasTensor:
        y = tapped(x if prepare is None else prepare(x), training=False)
        mean = ops.mean(y, axis=tuple(range(1, len(y.shape) - 1)))
        return ops.sum(ops.multiply(mean, chosen), axis=-1)  # (n,)

    rng, x = np.random.default_rng(seed), start.astype(np.float32)
    before = ops.convert_to_numpy(each(x))
    for _ in range(steps):
        shift = tuple(rng.integers(-jitter_px, jitter_px + 1, 2))
        _, slope = gradient_of(lambda tensor: ops.sum(each(tensor)), _shifted(x, shift))
        slope = _blurred(_shifted(slope, (-shift[0], -shift[1])), blur_px)
        x = np.clip(x + step * (high - low) * _unit(slope), low, high)
    return Maximised(x, before, ops.convert_to_numpy(each(x)))


def _shifted(x: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    return np.roll(x, shift, axis=(-3, -2))  # what leaves the picture comes in on the other side


def _blurred(x: np.ndarray, sigma_px: float) -> np.ndarray:
    if not sigma_px:
        return x
    flat = x.reshape(-1, *x.shape[-3:])
    return np.stack([cv2.GaussianBlur(one, (0, 0), sigma_px) for one in flat]).reshape(x.shape)


def _unit(slope: np.ndarray) -> np.ndarray:
    """Slopes with a root mean square of 1 per input; 0 where there is no slope at all."""
    size = np.sqrt(np.square(slope).mean(axis=tuple(range(1, slope.ndim)), keepdims=True))
    return slope / np.maximum(size, 1e-12)
