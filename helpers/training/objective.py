"""What a training minimises, and by which rule: the squared error of what is rated, and AdamW.

In: predictions and labels (n, k), NaN where a rating is missing; the steps of a whole training. Out: a loss, and an
optimizer with its learning rate over time. Most of a step of a small network is its optimizer, dozens of short passes
over every weight; on TensorFlow `FusedAdamW` does the same arithmetic in three.
"""

from typing import Any

import keras
from keras import ops

from helpers.config import TrainingConfig

FINAL_RATE = 0.02  # share of the learning rate left at the end of the cosine
MAX_NORM = 1.0  # gradients are clipped to it, each weight's by itself


class RatedError(keras.losses.Loss):
    """Mean of squared errors over the ratings that are there: labels that are NaN count for nothing.

    Where no rating is missing it is the mean squared error; where a batch has none at all it is 0. Over an epoch Keras
    averages it by the rows of the batches, whatever share of them is rated.
    """

    def call(self, y_true, y_pred):
        y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        rated = ops.logical_not(ops.isnan(y_true))
        error = ops.where(rated, ops.where(rated, y_true, 0.0) - y_pred, 0.0)  # inside, too: NaN has a NaN gradient
        return ops.sum(ops.square(error)) / ops.maximum(ops.sum(ops.cast(rated, "float32")), 1.0)


class FusedAdamW(keras.optimizers.Adam):
    """AdamW with clipped gradients on TensorFlow: per weight one pass each for norm, decay and Adam.

    Equal to `keras.optimizers.AdamW(rate, weight_decay=decay, clipnorm=max_norm)` but for rounding.

    Args:
        learning_rate: Number or schedule.
        decay: Share of a weight that a step takes off, times the learning rate.
        max_norm: Longest gradient of one weight.
    """

    def __init__(self, learning_rate: Any, decay: float, max_norm: float, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.decay, self.max_norm = decay, max_norm

    def update_step(self, gradient, variable, learning_rate):
        import tensorflow as tf  # the other backends have an optimizer without it

        rate, one = tf.cast(learning_rate, variable.dtype), tf.constant(1.0, variable.dtype)
        step = tf.cast(self.iterations.value, variable.dtype) + one
        beta_1, beta_2 = one * self.beta_1, one * self.beta_2
        norm, longest = tf.sqrt(2 * tf.nn.l2_loss(gradient)), one * self.max_norm
        clipped = tf.cond(norm > longest, lambda: gradient * (longest / norm), lambda: gradient)
        variable.assign(variable * (one - rate * self.decay))
        k = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[k].value.handle,
            v=self._velocities[k].value.handle,
            beta1_power=beta_1**step,
            beta2_power=beta_2**step,
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=one * self.epsilon,
            grad=clipped,
        )

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"decay": self.decay, "max_norm": self.max_norm}


def build_optimizer(cfg: TrainingConfig, steps: int) -> keras.optimizers.Optimizer:
    """Build AdamW as `cfg` says, in its fastest form for this backend.

    Args:
        cfg: Learning rate and schedule ("cosine": to 2 % of its start over the training), weight decay.
        steps: Steps of the whole training.
    """
    if cfg.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(cfg.learning_rate, steps, FINAL_RATE)
    else:
        rate = cfg.learning_rate
    if keras.backend.backend() == "tensorflow":
        return FusedAdamW(rate, cfg.weight_decay, MAX_NORM)
    return keras.optimizers.AdamW(rate, weight_decay=cfg.weight_decay, clipnorm=MAX_NORM)
