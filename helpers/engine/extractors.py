"""The two networks for use from a script: frames of a face, or clips of flow, to rows of features.

In: uint8 RGB frames (n, S, S, 3), or float32 flow (n, T, S, S, 2) in [-1, 1]. Out: float32 (n, D). Folders of clips are
for `helpers.extract`, which also decodes, resumes and keeps times.
"""

from pathlib import Path

import keras
import numpy as np
from keras import layers

from helpers.backbones import build_backbone, freeze, write_backbone
from helpers.engine.batches import run_batches
from helpers.forward import compile_forward
from helpers.i3d import build_motion_network


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
        """Arguments as for `build_backbone` and `compile_forward`; `batch_size` frames at once."""
        self.backbone = build_backbone(backbone, weights, frozen=frozen)
        self._forward = compile_forward(self.backbone.model, precision, self.backbone.prepare)
        self._batch_size = batch_size

    def extract_features(self, frames_rgb: np.ndarray) -> np.ndarray:
        """Rows float32 (n, feature_dim) of frames RGB uint8 (n, input_px, input_px, 3)."""
        rows = run_batches(self._forward, frames_rgb, self._batch_size)
        return np.stack(rows) if rows else np.zeros((0, self.backbone.feature_dim), np.float32)

    def save(self, path: str | Path) -> None:
        """Write the weights as npz, which `weights=path` reads."""
        write_backbone(path, self.backbone)


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
        rows = run_batches(self._forward, clips, self._batch_size, lambda y: y.reshape(-1, y.shape[-1]).mean(axis=0))
        return np.stack(rows) if rows else np.zeros((0, self.network.output_shape[-1]), np.float32)

    def with_head(
        self, n_outputs: int, *, dropout_rate: float = 0.5, dense_units: int = 1024, frozen: int | None = None
    ) -> keras.Model:
        """The network with dropout and dense layers behind its mean, to be trained end to end.

        Args:
            n_outputs: Of the last, linear layer.
            dropout_rate: Share of features that a training step leaves out, in [0, 1).
            dense_units: Of a ReLU layer before the last; 0 for none.
            frozen: How many convolutions training leaves alone; None: all of them (see `helpers.backbones.freeze`).

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
