"""The networks of 03 and 04 for scripts: rows of arrays, weights in a file of one's own, and a head to train.

In: frames RGB uint8 (n, S, S, 3), or clips of flow float32 (n, T, S, S, 2) in [-1, 1]. Out: float32 rows (n, D).
"""

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
from helpers.store import read_arrays, write_arrays
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
    """A backbone that turns frames of a face into rows.

    Attributes:
        backbone: Network, preprocessing, sizes and provenance.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        weights: str = "pretrained",
        *,
        precision: str = "float32",
        batch_size: int = 32,
        frozen: int | None = None,
    ):
        """Arguments as for `build_backbone`, `compile_forward` and `freeze`; `batch_size` frames at once.

        `weights` may also be the path of a file of `save`.
        """
        is_file = Path(weights).suffix == ".npz"
        self.backbone = read_backbone(backbone, weights) if is_file else build_backbone(backbone, weights)
        freeze(self.backbone.model, frozen)
        self._forward = compile_forward(self.backbone.model, precision, self.backbone.prepare)
        self._batch_size = batch_size

    def extract_features(self, frames_rgb: np.ndarray) -> np.ndarray:
        """Rows float32 (n, feature_dim) of frames RGB uint8 (n, input_px, input_px, 3)."""
        return _mean_rows(self._forward, frames_rgb, self._batch_size, self.backbone.feature_dim)

    def save(self, path: str | Path) -> None:
        """Write the weights as npz, atomically: `layer/variable` -> array, which NumPy alone reads."""
        write_arrays(path, **{name: np.asarray(variable) for name, variable in _variables(self.backbone.model).items()})


class DynamicFeatureExtractor:
    """I3D on flow.

    Attributes:
        network: To the pooled features (B, T', C) along time, or to the activation of a stage (B, T', H', W', C).
        weights: Its provenance.
    """

    def __init__(
        self,
        weights: str = "pretrained",
        endpoint: str = "",
        *,
        channels: int = 2,
        precision: str = "float32",
        batch_size: int = 4,
    ):
        """Arguments as for `build_motion_network` and `compile_forward`; `batch_size` clips at once."""
        self.network, self.weights = build_motion_network(weights, endpoint, channels)
        self._forward, self._batch_size = compile_forward(self.network, precision), batch_size

    def extract_features(self, clips: np.ndarray) -> np.ndarray:
        """Rows float32 (n, C) of clips float32 (n, T, S, S, channels) in [-1, 1]: means over time, height and width."""
        return _mean_rows(self._forward, clips, self._batch_size, self.network.output_shape[-1])

    def with_head(
        self, n_outputs: int, *, dropout_rate: float = 0.5, dense_units: int = 1024, frozen: int | None = None
    ) -> keras.Model:
        """The network with dropout and dense layers behind its mean, to be trained end to end.

        Args:
            n_outputs: Of the last, linear layer.
            dropout_rate: Share of features that a training step leaves out, in [0, 1).
            dense_units: Of a ReLU layer before the last; 0 for none.
            frozen: How many convolutions training leaves alone; None: all of them (see `freeze`).

        Returns:
            A model from (B, T, S, S, channels) to (B, n_outputs). It shares the network's weights; `extract_features`
            keeps those of before a training.
        """
        freeze(self.network, frozen)
        pool = layers.GlobalAveragePooling3D if len(self.network.output_shape) == 5 else layers.GlobalAveragePooling1D
        x = pool(name="mean")(self.network.output)
        x = layers.Dropout(dropout_rate, name="dropout")(x)
        if dense_units:
            x = layers.Dense(dense_units, "relu", name="dense")(x)
        return keras.Model(self.network.input, layers.Dense(n_outputs, name="outputs")(x), name="dynamic_with_head")


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


def read_backbone(name: str, path: str | Path) -> Backbone:
    """Build a backbone, and fill it from a file of `StaticFeatureExtractor.save`; ValueError where it does not fit."""
    backbone = build_backbone(name, "random")
    found, wanted = read_arrays(path), _variables(backbone.model)
    shapes = [{(key, tuple(value.shape)) for key, value in part.items()} for part in (found, wanted)]
    if other := {key for key, _ in shapes[0] ^ shapes[1]}:
        raise ValueError(
            f"{path} must hold the weights of {name}, got others: {len(other)} of {len(wanted)} arrays do not fit, "
            f"such as {min(other)}. Name the backbone that the file was written from."
        )
    for key, variable in wanted.items():
        variable.assign(found[key])
    licence = "that of the weights it was trained from"
    return replace(backbone, weights=Weights("file", Path(path).name, file_sha256(path), licence))


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    return {f"{layer.name}/{variable.name}": variable for layer in model.layers for variable in layer.weights}
