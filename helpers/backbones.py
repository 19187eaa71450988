"""The table of 2-D backbones: RGB uint8 frames (n, H, W, 3) in, one float32 feature row (n, feature_dim) per frame out.

A row of `BACKBONES` names the Keras builder, the published weights, whose record in `WEIGHTS` gives preprocessing,
input size, feature size and licence, and how random kernels are drawn. A further backbone is a further row. All of a
network is frozen; `helpers.extractors` thaws it, and keeps weights in files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np

from helpers.weights import WEIGHTS, Weights, published_weights, random_weights, require


class BackboneRow(NamedTuple):
    """`build(weights=, include_top=, input_shape=, pooling=)` makes the network, without any preprocessing inside.

    `published` is the row of `WEIGHTS` that belongs to it; `law` draws random kernels (see `fill_random`).
    """

    build: Callable[..., keras.Model]
    published: str
    law: str


def _efficientnet(name: str) -> Callable[..., keras.Model]:
    return partial(getattr(keras.applications, name), include_preprocessing=False)


BACKBONES: dict[str, BackboneRow] = {
    "resnet50": BackboneRow(keras.applications.ResNet50, "resnet50_imagenet", "glorot"),
    "resnet101": BackboneRow(keras.applications.ResNet101, "resnet101_imagenet", "glorot"),
    "efficientnetv2_s": BackboneRow(_efficientnet("EfficientNetV2S"), "efficientnetv2_s_imagenet", "swish"),
    "efficientnetv2_m": BackboneRow(_efficientnet("EfficientNetV2M"), "efficientnetv2_m_imagenet", "swish"),
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
        """Return frames as the network's weights saw them, float32, of RGB uint8 (n, input_px, input_px, 3)."""
        self.check(frames_rgb)
        return keras.ops.convert_to_numpy(self.prepare(frames_rgb))

    def check(self, frames_rgb: np.ndarray) -> None:
        """Raise ValueError where these are not RGB uint8 (n, input_px, input_px, 3)."""
        px = self.input_px
        if frames_rgb.dtype != np.uint8 or frames_rgb.shape[1:] != (px, px, 3):
            raise ValueError(
                f"frames_rgb must be uint8 (n, {px}, {px}, 3), got {frames_rgb.dtype} {frames_rgb.shape}. "
                "Pass whole RGB frames in [0, 255], resized to the network's input."
            )

    def prepare(self, frames_rgb: Any) -> Any:
        """`preprocess` for `compile_forward`: on a tensor, unchecked."""
        record = WEIGHTS[BACKBONES[self.name].published].preprocessing
        seen = keras.ops.cast(frames_rgb, "float32")
        seen = keras.ops.flip(seen, -1) if record.order == "BGR" else seen
        return (seen - np.float32(record.mean)) * np.float32(record.scale)


def build_backbone(name: str, weights: str, *, input_px: int = 0) -> Backbone:
    """Build a backbone of `BACKBONES` with average pooling and fill it.

    `weights`: "pretrained" (published weights; FileNotFoundError where they cannot be had), or "random" (the frozen
    generator). `input_px`: side of the input, 32 or more, as these networks are convolutions up to an average; 0: that
    which the published weights were trained with.
    """
    if name not in BACKBONES:
        raise ValueError(f"name must be one of {', '.join(BACKBONES)}, got {name!r}. Correct the backbone's name.")
    if weights not in ("random", "pretrained"):
        raise ValueError(f"weights must be random or pretrained, got {weights!r}. Choose one.")
    if 0 < input_px < 32:
        raise ValueError(f"input_px must be 0 or at least 32, got {input_px}. Five halvings leave one position of 32.")
    row = BACKBONES[name]
    record = WEIGHTS[row.published]
    px = input_px or record.input_px
    pretrained = weights == "pretrained"
    if pretrained:
        require([row.published])
    file = str(record.path) if pretrained else None
    model = row.build(weights=file, include_top=False, input_shape=(px, px, 3), pooling="avg")
    provenance = published_weights(row.published) if pretrained else random_weights(model, name, row.law)
    model.trainable = False
    return Backbone(name, model, px, record.feature_dim, provenance)
