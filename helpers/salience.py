"""Attention that starts flat and has to be paid for: the variant of CrossAttention whose map can be evidence.

In: face tokens (B, Ts, static_dim) and motion tokens (B, Td, dynamic_dim) with times in seconds and masks. Out: fused
tokens (B, Ts, fusion_dim) and attention (B, heads, Ts, Td), as CrossAttention gives them.
"""

import math

import keras
import numpy as np
from keras import layers, ops

from helpers.tokens import PACKAGE

KNOT_S, REACH_S = 0.5, 4.0  # spacing and reach of the learned bias over time differences
GAIN = 10.0  # of the bias over its table, so that it learns as fast as the kernels around it
PRICE = 2e-3  # of one nat of attention, beside a mean squared error of about 0.01
SAME_TIME_WEIGHT = 0.1  # of the auxiliary loss while it lasts


@keras.saving.register_keras_serializable(package=PACKAGE)
class SalienceAttention(layers.Layer):
    """Let every face token read the motion tokens at a learned distance in time, as sharply as it is salient.

    q = Ws s + bs, m = Wd d + bd; salience g_h = softplus(w_h . q + 1); A_h = softmax_j(GAIN g_h(t) b_h(t - t_j));
    out = LayerNorm(q + O concat_h(A_h V_h m)). The bias b, linear between knots KNOT_S apart, starts at 0: every row
    starts uniform. Each training step adds `price` times KL(A || uniform) in nats to the loss, so that a row stays
    uniform unless looking at a certain time pays: with motion shuffled in time nothing pays.

    A flat start alone does not find the way: for the first `warmup_steps` nothing is paid, and the output must also
    name (linearly) the motion token nearest to its own time.

    Args:
        fusion_dim: Width F of tokens and of each head.
        num_heads: Number of heads.
        price: Loss per nat of attention.
        warmup_steps: Training steps with the auxiliary loss.
    """

    def __init__(
        self, fusion_dim: int = 128, num_heads: int = 4, price: float = PRICE, warmup_steps: int = 0, **kwargs
    ):
        super().__init__(autocast=False, **kwargs)  # times keep float32 under a mixed policy
        self.fusion_dim, self.num_heads, self.price, self.warmup_steps = fusion_dim, num_heads, price, warmup_steps
        self.static_projection = layers.Dense(fusion_dim, name="static_projection")
        self.dynamic_projection = layers.Dense(fusion_dim, name="dynamic_projection")
        self.salience = layers.Dense(num_heads, activation="softplus", bias_initializer="ones", name="salience")
        self.value = layers.Dense(num_heads * fusion_dim, name="value")
        self.output_projection = layers.Dense(fusion_dim, name="output_projection")
        self.norm = layers.LayerNormalization(epsilon=1e-6, name="norm")

    def build(self, static_shape, dynamic_shape):
        self.static_projection.build((None, None, static_shape[-1]))
        self.dynamic_projection.build((None, None, dynamic_shape[-1]))
        for layer in (self.salience, self.value, self.norm):
            layer.build((None, None, self.fusion_dim))
        self.output_projection.build((None, None, self.num_heads * self.fusion_dim))
        self.same_time = layers.Dense(dynamic_shape[-1], name="same_time")
        self.same_time.build((None, None, self.fusion_dim))
        n_knots = 2 * round(REACH_S / KNOT_S) + 1
        self.bias = self.add_weight(shape=(n_knots, self.num_heads), initializer="zeros", name="bias")
        self.steps = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="steps")
        self.built = True

    def call(
        self,
        static,
        dynamic,
        static_t_s,
        dynamic_t_s,
        static_mask,
        dynamic_mask,
        training=None,
        attention_delta=None,
    ):
        """Return fused tokens (B, Ts, F) and attention (B, heads, Ts, Td), as CrossAttention does."""
        q, m = self.static_projection(static), self.dynamic_projection(dynamic)
        lag_s = static_t_s[:, :, None] - dynamic_t_s[:, None, :]  # (B, Ts, Td)
        logits = ops.cast(ops.transpose(self.salience(q), (0, 2, 1)), "float32")[..., None] * self._bias(lag_s)
        logits = ops.where(dynamic_mask[:, None, None, :], logits, -1e9)  # (B, heads, Ts, Td)
        attention = ops.exp(logits - ops.logsumexp(logits, axis=-1, keepdims=True))
        attention = attention * ops.cast(static_mask, "float32")[:, None, :, None]
        if attention_delta is not None:
            attention = attention + attention_delta
        value = ops.reshape(self.value(m), (-1, ops.shape(m)[1], self.num_heads, self.fusion_dim))
        read = ops.einsum("bhst,bthf->bshf", ops.cast(attention, q.dtype), value)
        read = self.output_projection(ops.reshape(read, (-1, ops.shape(q)[1], self.num_heads * self.fusion_dim)))
        if training:
            self._add_losses(attention, read, dynamic, lag_s, static_mask, dynamic_mask)
        return self.norm(q + read), attention

    def _bias(self, lag_s):
        """The learned bias at these time differences, (B, heads, Ts, Td); beyond REACH_S as at its end."""
        knots = ops.convert_to_tensor(np.arange(-REACH_S, REACH_S + KNOT_S / 2, KNOT_S, dtype="float32"))
        lag = ops.clip(lag_s, -REACH_S, REACH_S)[..., None]
        near = ops.maximum(0.0, 1.0 - ops.abs(lag - knots) / KNOT_S)  # (B, Ts, Td, knots), at most two are not 0
        return GAIN * ops.transpose(ops.matmul(near, ops.cast(self.bias, "float32")), (0, 3, 1, 2))

    def _add_losses(self, attention, read, dynamic, lag_s, static_mask, dynamic_mask):
        """Add the price of attention, or while warming up the error in naming the motion token of the same time."""
        warming = ops.cast(self.steps < self.warmup_steps, "float32")
        self.steps.assign(self.steps + 1)
        real = ops.cast(static_mask, "float32")  # (B, Ts)
        n_tokens = ops.sum(ops.cast(dynamic_mask, "float32"), axis=1)[:, None, None]
        nats = ops.sum(attention * ops.log(attention + 1e-9), axis=-1) + ops.log(n_tokens) * real[:, None]
        self.add_loss((1 - warming) * self.price * ops.sum(nats) / (ops.sum(real) * self.num_heads))
        distance = ops.where(dynamic_mask[:, None, :], ops.abs(lag_s), math.inf)
        nearest = ops.one_hot(ops.argmin(distance, axis=-1), ops.shape(dynamic)[1], dtype=dynamic.dtype)
        error = ops.mean((self.same_time(read) - ops.matmul(nearest, dynamic)) ** 2, axis=-1)  # (B, Ts)
        self.add_loss(warming * SAME_TIME_WEIGHT * ops.sum(ops.cast(error, "float32") * real) / ops.sum(real))

    def get_config(self) -> dict:
        own = ("fusion_dim", "num_heads", "price", "warmup_steps")
        return super().get_config() | {name: getattr(self, name) for name in own}
