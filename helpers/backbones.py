"""2-D backbones: RGB uint8 frames (n, H, W, 3) in, one float32 feature row (n, feature_dim) per frame out.

A further backbone is a further row of `helpers.weights.WEIGHTS`, which has its Keras builder, preprocessing, sizes and
licence. All of a network is frozen; `helpers.extractors` thaws it, and keeps weights in files.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from helpers.weights import PUBLISHED, WEIGHTS, Weights, published_weights, random_weights, require

BACKBONES = {name.removesuffix(PUBLISHED): row for name, row in WEIGHTS.items() if row.kind == "keras"}


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
        record = BACKBONES[self.name].preprocessing
        seen = keras.ops.cast(frames_rgb, "float32")
        seen = keras.ops.flip(seen, -1) if record.order == "BGR" else seen
        return (seen - np.float32(record.mean)) * np.float32(record.scale)


def build_backbone(name: str, weights: str, *, input_px: int = 0) -> Backbone:
    """Build a backbone of `BACKBONES` with average pooling and fill it.

    `weights`: "pretrained" (published weights; FileNotFoundError where they cannot be had), or "random" (the frozen
    generator). `input_px`: side of the input, 32 or more, as these networks are convolutions up to an average; 0: that
    which the published weights were trained with.
    """
    if name not in BACKBONES or weights not in ("random", "pretrained") or 0 < input_px < 32:
        raise ValueError(
            f"a backbone must be one of {', '.join(BACKBONES)}, with random or pretrained weights, for 32 px or more, "
            f"got {name!r}, {weights!r} and {input_px}."
        )
    row, published, is_random = BACKBONES[name], f"{name}{PUBLISHED}", weights == "random"
    if not is_random:
        require([published])
        provenance = published_weights(published)
    px = input_px or row.input_px
    options = {"include_preprocessing": False} if row.build.startswith("EfficientNetV2") else {}
    options |= {"include_top": False, "input_shape": (px, px, 3), "pooling": "avg"}
    model = getattr(keras.applications, row.build)(weights=None if is_random else str(row.path), **options)
    if is_random:
        provenance = random_weights(model, name, row.law)
    model.trainable = False
    return Backbone(name, model, px, row.feature_dim, provenance)
