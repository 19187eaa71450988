"""What the layers of a network say about an input: which layers there are, their activations, and where these lie.

In: any functional Keras model, of still images (n, H, W, C) or of clips (n, T, H, W, C). Out: activations
(n, [T',] H', W', C') by layer, a table of layers, and the centres of their positions in pixels and seconds.

Where a network looks for a number that is made of its features: Grad-CAM for still images and for clips.

In: a functional Keras model, its input, one of its layers, and a target, a function from features to one number each.
Out: maps of the layer's positions. The networks here have no classes, so a target is named by who asks: one channel, a
direction in feature space, or the direction in which a trained model's score of a trait rises. A map of a network with
random weights shows where its input has what the target weighs, and nothing that was learned.

Where in the face a trained model's score comes from: the whole chain from the picture to the score of a trait.

In: a `Scorer`, which holds the model, its reduction and the backbone, and a video. Out: Grad-CAM maps of the faces that
the model was shown, for its score of one trait. A map says what this score follows, in this model, for this video; it
says nothing about a person. It is a hint, not evidence: behind a random backbone the strongest place of a face's map
lay on the planted cue in 19 % of faces for openness (chance 4 %) and in 7 % for conscientiousness (chance 6 %;
`benchmarks.pointing`).

Inputs that a channel of a network answers to most: feature maximisation by gradient ascent.

In: a functional Keras model, a layer and some of its channels, and where the search starts (seeded noise). Out: one
input per channel, and how far its activation rose. The picture is of the network, not of any clip; where the weights
are random it shows the scale and the colours that a layer can see, and nothing that was learned.

Moving pictures as GIF files. In: RGB frames uint8 (n, H, W, 3). Out: a file that loops.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
from IPython.display import HTML
from keras import ops
from PIL import Image

from helpers.align import ChannelGroups, Pca
from helpers.backbones import BACKBONES, Backbone
from helpers.crops import Job, face_crops
from helpers.files import replacing
from helpers.forward import gradient_of
from helpers.score import Scorer, tokens_of_video
from helpers.weights import WEIGHTS

NO_STAGES = ("InputLayer", "Normalization", "Rescaling", "ZeroPadding2D", "ZeroPadding3D")
BATCH = 8  # inputs at once; early layers of a clip are large


def layer_table(model: keras.Model, sample_shape: Sequence[int]) -> pd.DataFrame:
    """List the layers whose output has positions, in their order.

    Args:
        model: A functional model with one input.
        sample_shape: Of one input without the batch, such as (224, 224, 3), or (64, 112, 112, 2) with time first.

    Returns:
        Index layer; columns kind, time (clips only), height, width, channels, parameters.
    """
    placed = [layer for layer in model.layers if len(layer.output.shape) == len(sample_shape) + 1]
    spec = keras.Model(model.input, [layer.output for layer in placed]).compute_output_spec(
        keras.KerasTensor((1, *sample_shape))
    )
    axes = ("time", "height", "width", "channels")[-len(sample_shape) :]
    rows = [
        {"kind": type(layer).__name__, **dict(zip(axes, tensor.shape[1:], strict=True)), "parameters": count}
        for layer, tensor, count in zip(placed, spec, [layer.count_params() for layer in placed], strict=True)
    ]
    return pd.DataFrame(rows, index=pd.Index([layer.name for layer in placed], name="layer"))


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


def activations(model: keras.Model, x: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Run a network and keep what some of its layers say.

    Args:
        model: A functional model with one input.
        x: As the network takes it, preprocessing done, float32 (n, ...).
        layers: Names of its layers.

    Returns:
        Layer to float32 (n, [T',] H', W', C'), in the order asked for.
    """
    tapped = keras.Model(model.input, {name: layer_of(model, name).output for name in layers})
    parts = [tapped(x[i : i + BATCH], training=False) for i in range(0, len(x), BATCH)]
    return {name: np.concatenate([keras.ops.convert_to_numpy(part[name]) for part in parts]) for name in layers}


def layer_of(model: keras.Model, name: str) -> keras.Layer:
    """A layer by its name; ValueError lists some of those that are there."""
    names = [layer.name for layer in model.layers]
    if name not in names:
        some = ", ".join(names[:: max(1, len(names) // 8)])
        raise ValueError(f"layer must be a layer of {model.name}, such as {some}, got {name!r}. See layer_table.")
    return model.get_layer(name)


def strongest_channels(activation: np.ndarray, n: int) -> np.ndarray:
    """The channels with the largest mean activation, strongest first; of equal ones the lower number comes first.

    Args:
        activation: (..., C).
        n: How many; all where there are fewer.

    Returns:
        Numbers of channels, int (min(n, C),).
    """
    mean = activation.reshape(-1, activation.shape[-1]).mean(axis=0, dtype="float64")
    return np.argsort(-mean, kind="stable")[:n]


def centres(n: int, length: float, start: float = 0.0) -> np.ndarray:
    """Centres of n equal parts of a length: of a layer's positions in pixels, or of its steps in seconds, (n,).

    A layer of SAME convolutions sees its n positions at these places; what each of them has seen reaches further.
    """
    return start + (np.arange(n) + 0.5) * length / n


def energy(activation: np.ndarray) -> np.ndarray:
    """Root mean square over the channels, (..., C) to (...): how much is going on at each position."""
    return np.sqrt(np.square(activation, dtype="float32").mean(axis=-1))


Target = Callable[[keras.KerasTensor], keras.KerasTensor]  # features (n, ..., D) to numbers (n,)


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

    @property
    def heat(self) -> np.ndarray:
        """The map of the paper, at least 0: only what raises the target."""
        return np.maximum(self.signed, 0)


def channel_target(channel: int) -> Target:
    """One channel of the features, averaged over time and space where they have these."""
    return lambda features: ops.mean(features[..., channel], axis=tuple(range(1, len(features.shape) - 1)))


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
    cuts off what lowers a class; a direction has two ends, so here that is kept beside it.

    Args:
        model: A functional model with one input and features (n, D), or (n, ..., D), as output.
        x: Inputs, preprocessing done, float32 (n, ...).
        layer: A layer that all paths of the network go through, such as the end of a stage.
        target: See `channel_target` and `direction_target`.

    Raises:
        ValueError: There is no such layer, or paths lead around it.
    """
    activation = activations(model, x, [layer])[layer]
    rest = behind(model, layer)

    _, slope = gradient_of(lambda tensor: ops.sum(target(rest(tensor, training=False))), activation)
    places = tuple(range(1, activation.ndim - 1))
    weight = slope.mean(axis=places, keepdims=True)
    signed = (activation * weight).sum(axis=-1).astype(np.float32)
    value = ops.convert_to_numpy(target(rest(activation, training=False)))
    return Saliency(signed, value.astype(np.float32), layer)


@dataclass(frozen=True)
class FaceSaliency:
    """What the score of one video follows in its faces.

    Attributes:
        faces: What the backbone was shown, RGB uint8 (n, S, S, 3).
        t_s: Centre of each face token in seconds, (n,).
        saliency: A map per face; `value` is each face's part of the score up to a constant.
        score: The model's own, linear output.
    """

    faces: np.ndarray
    t_s: np.ndarray
    saliency: Saliency
    score: float


def score_slopes(
    model: keras.Model, inputs: Mapping[str, np.ndarray], column: int, reduction: ChannelGroups | Pca, stream: str
) -> tuple[float, np.ndarray]:
    """How a clip's score changes with every feature of every row of one stream, before the reduction.

    Args:
        model: Trained model.
        inputs: Of one clip, as for the model: tokens (1, T, D) of both streams, with times and masks.
        column: Of the prediction.
        reduction: That which made the stream's tokens of rows (n, n_in).
        stream: "static" or "dynamic".

    Returns:
        The score, and its slopes float32 (T, n_in); all other tokens are held as they are.
    """

    def score(tokens: keras.KerasTensor) -> keras.KerasTensor:
        return model({**inputs, stream: tokens}, training=False)[0, column]

    value, slopes = gradient_of(score, inputs[stream])
    origin = np.zeros((1, reduction.n_in), np.float32)
    linear = reduction.transform(np.eye(reduction.n_in, dtype=np.float32)) - reduction.transform(origin)
    return value, slopes[0] @ linear.T  # (T, n_out) @ (n_out, n_in)


def face_saliency(video: str | Path, scorer: Scorer, trait: str, *, layer: str = "") -> FaceSaliency:
    """Explain the score of one video by places in its faces.

    Args:
        video: A file.
        scorer: From `load_scorer`.
        trait: A target of the model.
        layer: Of the backbone; empty: the end of the last stage but one, which is less coarse than the last.

    Raises:
        ValueError: The model has no such target.
        VideoError, NoFaceError, TooShortError: The video cannot be used; the message says why.
    """
    targets = scorer.card["targets"]
    if trait not in targets:
        raise ValueError(f"trait must be one of {', '.join(targets)}, got {trait!r}. Choose a target of the model.")
    track, tokens = tokens_of_video(video, scorer)
    inputs = {name: rows.features[None] for name, rows in tokens.items()}
    inputs |= {f"{name}_t_s": rows.t_s[None].astype("float32") for name, rows in tokens.items()}
    score, slopes = score_slopes(scorer.model, inputs, targets.index(trait), scorer.reduction.static, "static")
    side = scorer.backbone.input_px
    pieces = list(face_crops(Job(Path(video), track, scorer.static, scorer.preparation.backend, side)))
    faces, frame = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("values", "frame"))
    faces = faces[np.isin(frame, tokens["static"].frame)]
    network = scorer.backbone.model
    layer = layer or stages_of(network, layer_table(network, faces.shape[1:]))[-2]
    seen = grad_cam(network, scorer.backbone.preprocess(faces), layer, direction_target(slopes))
    return FaceSaliency(faces, tokens["static"].t_s, seen, score)


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


def write_gif(path: str | Path, frames: np.ndarray, frame_s: float, *, colors: int = 128) -> Path:
    """Write frames as a GIF that begins again at its end, atomically.

    All frames share one palette, so that nothing flickers.

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
    path = Path(path)
    strip = Image.fromarray(frames.reshape(-1, *frames.shape[2:]))  # all frames below each other
    indexed = strip.quantize(colors, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)  # rare ones stay
    height = frames.shape[1]
    pictures = [indexed.crop((0, k * height, frames.shape[2], (k + 1) * height)) for k in range(len(frames))]
    with replacing(path) as part:
        pictures[0].save(
            part, "GIF", save_all=True, append_images=pictures[1:], duration=round(100 * frame_s) * 10, loop=0
        )
    return path


def shown(path: str | Path) -> HTML:
    """The file as part of a notebook, which shows it wherever the notebook is opened."""
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return HTML(f'<img src="data:image/gif;base64,{data}" alt="{Path(path).stem}">')
