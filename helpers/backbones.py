"""The table of 2-D backbones: RGB uint8 frames (n, H, W, 3) in, one float32 feature row (n, feature_dim) per frame out.

A row of `BACKBONES` names the Keras builder, the published weights, whose record in `WEIGHTS` gives preprocessing,
input size, feature size and licence, and how random kernels are drawn. A further backbone is a further row. Networks
are frozen, wholly or in part, and their weights can be written to a file and taken from there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from helpers.files import file_sha256
from helpers.store import read_arrays, write_arrays
from helpers.weights import WEIGHTS, Weights, published_weights, random_weights, require


@dataclass(frozen=True)
class BackboneRow:
    """`build(weights=, include_top=, input_shape=, pooling=)` makes the network, without any preprocessing inside.

    `published` is the row of `WEIGHTS` that belongs to it; `law` draws random kernels (see `fill_random`).
    """

    build: Callable[..., keras.Model]
    published: str
    law: str


BACKBONES: dict[str, BackboneRow] = {
    "resnet50": BackboneRow(keras.applications.ResNet50, "resnet50_imagenet", "glorot"),
    "resnet101": BackboneRow(keras.applications.ResNet101, "resnet101_imagenet", "glorot"),
    "efficientnetv2_s": BackboneRow(
        partial(keras.applications.EfficientNetV2S, include_preprocessing=False), "efficientnetv2_s_imagenet", "swish"
    ),
    "efficientnetv2_m": BackboneRow(
        partial(keras.applications.EfficientNetV2M, include_preprocessing=False), "efficientnetv2_m_imagenet", "swish"
    ),
    "vgg19": BackboneRow(keras.applications.VGG19, "vgg19_imagenet", "he"),
}


@dataclass(frozen=True)
class Backbone:
    """A network that is ready to extract: `model(preprocess(frames))` is float32 (n, feature_dim).

    `input_px` is the side of its square input in pixels, `weights` the provenance for manifests.
    """

    name: str
    model: keras.Model
    input_px: int
    feature_dim: int
    weights: Weights

    def preprocess(self, frames_rgb: np.ndarray) -> np.ndarray:
        """Return frames as the network's weights saw them: what the weights' record says, nothing else.

        Args:
            frames_rgb: RGB uint8 in [0, 255], (n, input_px, input_px, 3); left as it is.

        Returns:
            float32 of the same shape, in the units of the weights' record.
        """
        px = self.input_px
        if frames_rgb.dtype != np.uint8 or frames_rgb.shape[1:] != (px, px, 3):
            raise ValueError(
                f"frames_rgb must be uint8 (n, {px}, {px}, 3), got {frames_rgb.dtype} {frames_rgb.shape}. "
                "Pass whole RGB frames in [0, 255], resized to the network's input."
            )
        return keras.ops.convert_to_numpy(self.prepare(frames_rgb))

    def prepare(self, frames_rgb: Any) -> Any:
        """`preprocess` for `compile_forward`: on a tensor, unchecked."""
        record = WEIGHTS[BACKBONES[self.name].published].preprocessing
        seen = keras.ops.cast(frames_rgb, "float32")
        seen = keras.ops.flip(seen, -1) if record.order == "BGR" else seen
        return (seen - np.float32(record.mean)) * np.float32(record.scale)


def build_backbone(name: str, weights: str, *, frozen: int | None = None, input_px: int = 0) -> Backbone:
    """Build a backbone with average pooling and fill it.

    Args:
        name: A name of `BACKBONES`.
        weights: "pretrained" (published weights), "random" (the frozen generator, seed 0), or the path of an npz file
            that `write_backbone` made.
        frozen: As for `freeze`; extraction runs with all of it frozen.
        input_px: Side of the input, 32 or more: these networks are convolutions up to an average. 0: that which the
            published weights were trained with.

    Raises:
        FileNotFoundError: Weights are asked for and cannot be had; says where to put published ones.
        ValueError: The file holds the weights of another network.
    """
    if name not in BACKBONES:
        raise ValueError(f"name must be one of {', '.join(BACKBONES)}, got {name!r}. Correct the backbone's name.")
    if weights not in ("random", "pretrained") and Path(weights).suffix != ".npz":
        raise ValueError(
            f"weights must be random, pretrained or a file of write_backbone, got {weights!r}. Choose one."
        )
    if 0 < input_px < 32:
        raise ValueError(f"input_px must be 0 or at least 32, got {input_px}. Five halvings leave one position of 32.")
    row = BACKBONES[name]
    record = WEIGHTS[row.published]
    px = input_px or record.input_px
    file = str(require([row.published])[row.published]) if weights == "pretrained" else None
    model = row.build(weights=file, include_top=False, input_shape=(px, px, 3), pooling="avg")
    if file:
        provenance = published_weights(row.published)
    elif weights == "random":
        provenance = random_weights(model, name, seed=0, law=row.law)
    else:
        provenance = _read_weights(model, name, weights)
    freeze(model, frozen)
    return Backbone(name, model, px, record.feature_dim, provenance)


def freeze(model: keras.Model, n_convolutions: int | None = None) -> None:
    """Decide what training may change: nothing, or all that follows the first convolutions.

    It matters only where a network is trained end to end; rows of features are the same either way.

    Args:
        model: Any Keras model.
        n_convolutions: The first so many convolutions are frozen, with every layer that stands before the next one in
            `model.layers`: the source project's default is 4. None freezes the whole model, 0 nothing.
    """
    kinds = keras.layers.Conv2D | keras.layers.Conv3D | keras.layers.DepthwiseConv2D
    convolutions = [i for i, layer in enumerate(model.layers) if isinstance(layer, kinds)]
    if n_convolutions is not None and not 0 <= n_convolutions <= len(convolutions):
        raise ValueError(
            f"n_convolutions must be 0 to {len(convolutions)}, the convolutions of {model.name}, or None, "
            f"got {n_convolutions}. None freezes everything."
        )
    n_layers = len(model.layers)
    first_trained = n_layers if n_convolutions is None else [0, *convolutions[1:], n_layers][n_convolutions]
    model.trainable = first_trained < n_layers  # before the layers, which it sets as well
    for i, layer in enumerate(model.layers):
        layer.trainable = i >= first_trained


def write_backbone(path: str | Path, backbone: Backbone) -> None:
    """Write a backbone's weights as npz, atomically: `layer/variable` -> array, which NumPy alone reads."""
    write_arrays(path, **{name: np.asarray(variable) for name, variable in _variables(backbone.model).items()})


def _read_weights(model: keras.Model, name: str, path: str) -> Weights:
    """Fill a model from a file of `write_backbone`; ValueError when names or shapes are not the model's."""
    found, wanted = read_arrays(path), _variables(model)
    shapes = [{(key, tuple(value.shape)) for key, value in part.items()} for part in (found, wanted)]
    if other := {key for key, _ in shapes[0] ^ shapes[1]}:
        raise ValueError(
            f"{path} must hold the weights of {name}, got others: {len(other)} of {len(wanted)} arrays do not fit, "
            f"such as {min(other)}. Name the backbone that the file was written from."
        )
    for key, variable in wanted.items():
        variable.assign(found[key])
    return Weights("file", Path(path).name, file_sha256(path), "that of the weights it was trained from")


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    return {f"{layer.name}/{variable.name}": variable for layer in model.layers for variable in layer.weights}
