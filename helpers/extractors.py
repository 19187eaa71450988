"""The networks of 03 and 04 for scripts: rows of arrays, weights in a file of one's own, and a head to train.

In: frames RGB uint8 (n, S, S, 3), or clips of flow float32 (n, T, S, S, 2) in [-1, 1]. Out: float32 rows (n, D).
"""

import warnings
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from keras import layers

from helpers.backbones import Backbone, build_backbone
from helpers.files import file_sha256
from helpers.forward import Forward, compile_forward
from helpers.i3d import build_motion_network
from helpers.pipeline import Network
from helpers.weights import Weights


def _mean_rows(forward: Forward, samples: np.ndarray, batch_size: int, width: int) -> np.ndarray:
    """The network's output for every sample, averaged over all its axes but the last: float32 (n, width)."""
    rows = np.zeros((len(samples), width), np.float32)
    for place, output in Network(forward, batch_size).run((k, sample, 1) for k, sample in enumerate(samples)):
        if isinstance(output, Exception):
            raise output
        rows[place] = output.reshape(-1, width).mean(axis=0)
    return rows


class StaticFeatureExtractor:
    """A backbone (`backbone`: network, preprocessing, sizes, provenance) that turns frames of a face into rows."""

    def __init__(
        self,
        backbone: str = "resnet50",
        weights: str = "pretrained",
        *,
        precision: str = "float32",
        batch_size: int = 32,
        frozen: int | None = None,
    ):
        """As `build_backbone`, `compile_forward` and `freeze`; `weights` may also be the path of a file of `save`."""
        own = str(weights).endswith(".weights.h5")  # as Keras wants its files of weights to end
        self.backbone = _read_backbone(backbone, weights) if own else build_backbone(backbone, weights)
        freeze(self.backbone.model, frozen)
        self._forward = compile_forward(self.backbone.model, precision, self.backbone.prepare)
        self._batch_size = batch_size

    def extract_features(self, frames_rgb: np.ndarray) -> np.ndarray:
        """Rows float32 (n, feature_dim) of frames RGB uint8 (n, input_px, input_px, 3)."""
        self.backbone.check(frames_rgb)
        return _mean_rows(self._forward, frames_rgb, self._batch_size, self.backbone.feature_dim)

    def save(self, path: str | Path) -> None:
        """Write the weights as Keras does; the file's name ends in .weights.h5."""
        self.backbone.model.save_weights(path)


class DynamicFeatureExtractor:
    """I3D on flow: `network` gives features (B, T', C) along time, or a stage (B, T', H', W', C); `weights` whence."""

    def __init__(
        self,
        weights: str = "pretrained",
        endpoint: str = "",
        *,
        channels: int = 2,
        precision: str = "float32",
        batch_size: int = 4,
    ):
        """As `build_motion_network` and `compile_forward`; `batch_size` clips at once."""
        self.network, self.weights = build_motion_network(weights, endpoint, channels)
        self._forward, self._batch_size = compile_forward(self.network, precision), batch_size

    def extract_features(self, clips: np.ndarray) -> np.ndarray:
        """Rows float32 (n, C) of clips float32 (n, T, S, S, channels) in [-1, 1]: means over time, height and width."""
        return _mean_rows(self._forward, clips, self._batch_size, self.network.output_shape[-1])

    def with_head(
        self, n_outputs: int, *, dropout_rate: float = 0.5, dense_units: int = 1024, frozen: int | None = None
    ) -> keras.Model:
        """The network with dropout, a ReLU layer of `dense_units` (0: none) and a linear one, to be trained.

        `frozen`: see `freeze`. A model from (B, T, S, S, channels) to (B, n_outputs), which shares the network's
        weights; `extract_features` keeps those of before a training.
        """
        freeze(self.network, frozen)
        pool = layers.GlobalAveragePooling3D if len(self.network.output_shape) == 5 else layers.GlobalAveragePooling1D
        x = pool(name="mean")(self.network.output)
        x = layers.Dropout(dropout_rate, name="dropout")(x)
        if dense_units:
            x = layers.Dense(dense_units, "relu", name="dense")(x)
        return keras.Model(self.network.input, layers.Dense(n_outputs, name="outputs")(x), name="dynamic_with_head")


def freeze(model: keras.Model, n_convolutions: int | None = None) -> None:
    """Have training leave the first convolutions alone, with every layer before the next one; rows are the same.

    None freezes the whole model, 0 nothing; the source project's default is 4.
    """
    kinds = layers.Conv2D | layers.Conv3D | layers.DepthwiseConv2D
    convolutions = [i for i, layer in enumerate(model.layers) if isinstance(layer, kinds)]
    n = len(convolutions) if n_convolutions is None else n_convolutions
    if not 0 <= n <= len(convolutions):
        raise ValueError(
            f"frozen must be 0 to {len(convolutions)}, the convolutions of {model.name}, or None, got {n}."
        )
    first_trained = [0, *convolutions[1:], len(model.layers)][n]
    model.trainable = True  # before the layers, of which it sets some
    for i, layer in enumerate(model.layers):
        layer.trainable = i >= first_trained


def _read_backbone(name: str, path: str | Path) -> Backbone:
    backbone = build_backbone(name, "random")
    try:
        with warnings.catch_warnings(action="error"):  # Keras only warns of layers that are not in the file
            backbone.model.load_weights(path)
    except (OSError, ValueError, KeyError, UserWarning) as error:
        raise ValueError(f"{path} must hold the weights of {name}, got others: {error}") from error
    licence = "that of the weights it was trained from"
    return replace(backbone, weights=Weights("file", Path(path).name, file_sha256(path), licence))
