"""What networks see: the activations of their layers, where a number comes from, and what a channel answers to most.

In: any functional Keras model, of still images (n, H, W, C) or of clips (n, T, H, W, C). Out: a table of its layers;
activations (n, [T',] H', W', C') by layer; Grad-CAM maps of a layer's positions; inputs found by gradient ascent;
moving pictures as GIF files. With random weights all of it shows where an input has what the network happens to weigh,
and nothing that was learned.
"""

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
from IPython.display import HTML
from keras import ops
from PIL import Image

from helpers.backbones import BACKBONES, Backbone
from helpers.crops import CROP_PX
from helpers.files import replacing
from helpers.gradients import gradient_of
from helpers.sources import StoredSource, VideoSource
from helpers.weights import WEIGHTS

NO_STAGES = ("InputLayer", "Normalization", "Rescaling", "ZeroPadding2D", "ZeroPadding3D")
BATCH = 8  # inputs at once; early layers of a clip are large

Tensors = Callable[[keras.KerasTensor], keras.KerasTensor]
Target = Tensors  # features (n, ..., D) to numbers (n,)


def inputs_at(
    source: VideoSource | StoredSource, path: Path, key: str, places: Iterable[int], size_px: int = CROP_PX
) -> np.ndarray:
    """What the network is shown of a clip, to be looked at.

    Args:
        source: Where it comes from.
        path, key: Of the clip.
        places: Which of its faces or flows, counted from 0.
        size_px: Side of the faces.

    Returns:
        Faces RGB uint8 (k, size_px, size_px, 3), or flow float32 (k, input_px, input_px, 2) in [-1, 1].
    """
    job, _ = source.job(path, key, source.stamp(path, key), size_px)
    places, seen, n_seen = list(places), {}, 0
    for chunk in source.work(job):
        seen |= {n_seen + i: chunk.values[i] for i in range(len(chunk.values)) if n_seen + i in places}
        n_seen += len(chunk.values)
    return np.stack([seen[place] for place in places])


def layer_table(model: keras.Model, sample_shape: Sequence[int]) -> pd.DataFrame:
    """List the layers whose output has positions, in their order.

    Args:
        model: A functional model with one input.
        sample_shape: Of one input without the batch, such as (224, 224, 3), or (64, 112, 112, 2) with time first.

    Returns:
        Index layer; columns kind, time (clips only), height, width, channels, parameters.
    """
    placed = [layer for layer in model.layers if len(layer.output.shape) == len(sample_shape) + 1]
    outputs = keras.Model(model.input, [layer.output for layer in placed])
    shapes = [tensor.shape[1:] for tensor in outputs.compute_output_spec(keras.KerasTensor((1, *sample_shape)))]
    table = pd.DataFrame(
        shapes,
        index=pd.Index([layer.name for layer in placed], name="layer"),
        columns=("time", "height", "width", "channels")[-len(sample_shape) :],
    )
    table.insert(0, "kind", [type(layer).__name__ for layer in placed])
    return table.assign(parameters=[layer.count_params() for layer in placed])


def stages_of(model: keras.Model, table: pd.DataFrame) -> list[str]:
    """The end of every stage: of each size in `layer_table` the last layer that all paths go through.

    Layers that only pad or rescale the input are no stage, and neither is a single position.
    """
    table = table[~table["kind"].isin(NO_STAGES) & (table["height"] > 1)]
    size = [name for name in ("time", "height", "width") if name in table]
    of_each = [group.index[::-1] for _, group in table.groupby(size, sort=False)]
    found = [next((name for name in names if _is_waist(model, name)), None) for names in of_each]
    return [name for name in table.index if name in found]


def _is_waist(model: keras.Model, layer: str) -> bool:
    try:
        behind(model, layer)
    except ValueError:
        return False
    return True


def behind(model: keras.Model, layer: str) -> keras.Model:
    """What follows a layer, as a model with the same weights; ValueError when paths of the network lead around it."""
    start = layer_of(model, layer).output
    end = keras.layers.Identity()(start) if start is model.output else model.output
    try:
        return keras.Model(start, end)
    except ValueError:
        raise ValueError(
            f"layer must be one that all paths of {model.name} go through, got {layer}. Take the end of a stage."
        ) from None


def layer_of(model: keras.Model, name: str) -> keras.Layer:
    """A layer by its name; ValueError lists some of those that are there."""
    names = [layer.name for layer in model.layers]
    if name not in names:
        some = ", ".join(names[:: max(1, len(names) // 8)])
        raise ValueError(f"layer must be a layer of {model.name}, such as {some}, got {name!r}. See layer_table.")
    return model.get_layer(name)


def activations(model: keras.Model, x: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Run a network and keep the activations of some of its layers.

    Args:
        model: A functional model with one input.
        x: As the network takes it, preprocessing done, float32 (n, ...).
        layers: Names of its layers.

    Returns:
        Layer to float32 (n, [T',] H', W', C'), in the given order.
    """
    tapped = keras.Model(model.input, {name: layer_of(model, name).output for name in layers})
    parts = [tapped(x[i : i + BATCH], training=False) for i in range(0, len(x), BATCH)]
    return {name: np.concatenate([ops.convert_to_numpy(part[name]) for part in parts]) for name in layers}


def strongest_channels(activation: np.ndarray, n: int) -> np.ndarray:
    """Numbers of the n channels of (..., C) with the largest mean, strongest first; of equal ones the lower first."""
    mean = activation.reshape(-1, activation.shape[-1]).mean(axis=0, dtype="float64")
    return np.argsort(-mean, kind="stable")[:n]


def centres(n: int, length: float) -> np.ndarray:
    """Centres of n equal parts of a length: of a layer's positions in pixels, or of its steps in seconds, (n,).

    A layer of SAME convolutions sees its n positions at these places; what each of them has seen reaches further.
    """
    return (np.arange(n) + 0.5) * length / n


def energy(activation: np.ndarray) -> np.ndarray:
    """Root mean square over the channels, (..., C) to (...): how much is going on at each position."""
    return np.sqrt(np.square(activation, dtype="float32").mean(axis=-1))


@dataclass(frozen=True)
class Saliency:
    """Where a target comes from.

    Attributes:
        signed: float32 (n, [T',] H', W'): what raises the target, and below 0 what lowers it.
        value: The target for each input, float32 (n,).
        layer: The layer that the positions are of.
    """

    signed: np.ndarray
    value: np.ndarray
    layer: str


def direction_target(direction: np.ndarray) -> Target:
    """The projection of the features on a direction (D,), or of each input's features on its own (n, D)."""

    def project(features: keras.KerasTensor) -> keras.KerasTensor:
        pooled = ops.mean(features, axis=tuple(range(1, len(features.shape) - 1)))  # (n, D)
        if direction.shape[-1] != pooled.shape[-1]:
            raise ValueError(
                f"direction must have the {pooled.shape[-1]} channels of the features, got {direction.shape[-1]}. "
                "Take a direction in the space of this network's features."
            )
        return ops.sum(pooled * ops.cast(direction, pooled.dtype), axis=-1)

    return project


def grad_cam(model: keras.Model, x: np.ndarray, layer: str, target: Target) -> Saliency:
    """Compute Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).

    The channels of the layer are summed, each weighted by the mean slope of the target over its positions. The paper
    cuts off what lowers a class; a direction has two ends, so here that is kept beside it. The networks here have no
    classes: a target is a direction in feature space.

    Args:
        model: A functional model with one input and features (n, D), or (n, ..., D), as output.
        x: Inputs, preprocessing done, float32 (n, ...).
        layer: A layer that all paths of the network go through, such as the end of a stage.
        target: See `direction_target`.

    Raises:
        ValueError: There is no such layer, or paths lead around it.
    """
    activation = activations(model, x, [layer])[layer]
    rest = behind(model, layer)

    _, slope = gradient_of(lambda tensor: ops.sum(target(rest(tensor, training=False))), activation)
    weight = slope.mean(axis=tuple(range(1, activation.ndim - 1)), keepdims=True)
    signed = (activation * weight).sum(axis=-1)
    value = ops.convert_to_numpy(target(rest(activation, training=False)))
    return Saliency(signed.astype(np.float32), value.astype(np.float32), layer)


@dataclass(frozen=True)
class Maximised:
    """Inputs that channels answer to most.

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
    return np.clip(rng.normal((low + high) / 2, (high - low) / 20, shape), low, high).astype(np.float32)


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
    prepare: Tensors = lambda x: x,
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
        prepare: From values within the bounds to what the network takes.
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
        y = tapped(prepare(x), training=False)
        return ops.sum(ops.mean(y, axis=tuple(range(1, len(y.shape) - 1))) * chosen, axis=-1)  # (n,)

    rng, x = np.random.default_rng(seed), start.astype(np.float32)
    before = ops.convert_to_numpy(each(x))
    for _ in range(steps):
        shift = rng.integers(-jitter_px, jitter_px + 1, 2)  # what leaves the picture comes in on the other side
        _, slope = gradient_of(lambda tensor: ops.sum(each(tensor)), np.roll(x, shift, axis=(-3, -2)))
        slope = _blurred(np.roll(slope, -shift, axis=(-3, -2)), blur_px)
        size = np.sqrt(np.square(slope).mean(axis=tuple(range(1, slope.ndim)), keepdims=True))
        x = np.clip(x + step * (high - low) * (slope / np.maximum(size, 1e-12)), low, high)
    return Maximised(x, before, ops.convert_to_numpy(each(x)))


def _blurred(x: np.ndarray, sigma_px: float) -> np.ndarray:
    if not sigma_px:
        return x
    flat = x.reshape(-1, *x.shape[-3:])
    return np.stack([cv2.GaussianBlur(one, (0, 0), sigma_px) for one in flat]).reshape(x.shape)


def write_gif(path: str | Path, frames: np.ndarray, frame_s: float, *, colors: int = 128) -> Path:
    """Write frames as a GIF that begins again at its end, atomically, with one palette, so that nothing flickers.

    Args:
        path: The file, `.gif`.
        frames: RGB uint8 (n, H, W, 3).
        frame_s: How long each is shown, in seconds; GIF counts in hundredths.
        colors: Size of the palette, 2 to 256. Frames of no more colours are kept exactly.

    Returns:
        The path.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"frames must be uint8 (n, H, W, 3) with n > 0, got {frames.dtype} {frames.shape}.")
    strip = Image.fromarray(frames.reshape(-1, *frames.shape[2:]))  # all frames below each other
    indexed = strip.quantize(colors, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)  # rare ones stay
    height, width = frames.shape[1:3]
    first, *rest = (indexed.crop((0, k * height, width, (k + 1) * height)) for k in range(len(frames)))
    with replacing(Path(path)) as part:
        first.save(part, "GIF", save_all=True, append_images=rest, duration=round(100 * frame_s) * 10, loop=0)
    return Path(path)


def shown(path: str | Path) -> HTML:
    """The GIF as part of a notebook, which shows it wherever the notebook is opened."""
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return HTML(f'<img src="data:image/gif;base64,{data}" alt="{Path(path).stem}">')
