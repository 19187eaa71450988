"""Where a network looks for a number that is made of its features: Grad-CAM for still images and for clips.

In: a functional Keras model, its input, one of its layers, and a target, a function from features to one number each.
Out: maps of the layer's positions. The networks here have no classes, so a target is named by who asks: one channel, a
direction in feature space, or the direction in which a trained model's score of a trait rises. A map of a network with
random weights shows where its input has what the target weighs, and nothing that was learned.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from helpers.gradients import gradient_of
from helpers.seen.activations import activations, behind

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
