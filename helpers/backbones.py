"""The table of 2-D backbones: RGB uint8 frames (n, H, W, 3) in, one float32 feature row (n, feature_dim) per frame out.

A row of `BACKBONES` names the Keras builder, the published weights, the preprocessing that belongs to them, the input
size and the feature size. A further backbone is a further row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from helpers.weights import WEIGHTS, Weights, published_weights, random_weights, require


@dataclass(frozen=True)
class BackboneRow:
    """`build(weights=, include_top=, input_shape=, pooling=)` makes the network, `preprocess` its float32 input.

    `published` is the row of `WEIGHTS` that gives input and feature size; `law` draws random kernels (see fill_random).
    """

    build: Callable[..., keras.Model]
    preprocess: Callable[[np.ndarray], np.ndarray]
    published: str
    law: str


BACKBONES: dict[str, BackboneRow] = {
    "resnet50": BackboneRow(
        build=keras.applications.ResNet50,
        preprocess=keras.applications.resnet.preprocess_input,
        published="resnet50_imagenet",
        law="glorot",
    ),
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
        """Return frames as the network's weights saw them.

        Args:
            frames_rgb: RGB uint8 in [0, 255], (n, input_px, input_px, 3); left as it is.

        Returns:
            float32 of the same shape, in the units of the weights' record.
        """
        expected = (self.input_px, self.input_px, 3)
        if frames_rgb.dtype != np.uint8 or frames_rgb.shape[1:] != expected:
            raise ValueError(
                f"frames_rgb must be uint8 (n, {', '.join(map(str, expected))}), got {frames_rgb.dtype} "
                f"{frames_rgb.shape}. Pass whole RGB frames in [0, 255], resized to the network's input."
            )
        return BACKBONES[self.name].preprocess(frames_rgb.astype(np.float32))


def build_backbone(name: str, weights: str) -> Backbone:
    """Build a backbone with average pooling and fill it.

    Args:
        name: A name of `BACKBONES`.
        weights: "pretrained" (published weights), or "random" (the frozen generator, seed 0).

    Raises:
        FileNotFoundError: Published weights are asked for and cannot be had; says where to put them.
    """
    if name not in BACKBONES:
        raise ValueError(f"name must be one of {', '.join(BACKBONES)}, got {name!r}. Correct the backbone's name.")
    if weights not in ("random", "pretrained"):
        raise ValueError(f"weights must be random or pretrained, got {weights!r}. Choose one of them.")
    row = BACKBONES[name]
    record = WEIGHTS[row.published]
    file = str(require([row.published])[row.published]) if weights == "pretrained" else None
    model = row.build(weights=file, include_top=False, input_shape=(record.input_px, record.input_px, 3), pooling="avg")
    provenance = published_weights(row.published) if file else random_weights(model, name, seed=0, law=row.law)
    return Backbone(name, model, record.input_px, record.feature_dim, provenance)
