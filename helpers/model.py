"""The cross-attention model of trait scores.

Owns the Keras layers CrossAttention, SalienceAttention (its variant that pays for attention), FeatureFusionModule and
PersonalityPredictionHead, and the model made of them.
In: face tokens (B, Ts, static_dim) and motion tokens (B, Td, dynamic_dim) with times in seconds and masks, or one
vector per stream. Out: scores (B, n_targets), and attention (B, heads, Ts, Td).
"""

import math
import random
import warnings

import keras
import numpy as np
from keras import layers, ops

PACKAGE = "ocean_workbook"
INPUT_NAMES = ("static", "dynamic", "static_t_s", "dynamic_t_s", "static_mask", "dynamic_mask")
SHORTEST_S, LONGEST_S = 0.35, 8.0  # periods of the time code
TIME_GAIN = 3.0  # of the time code beside projected tokens of about unit size
QUERY_SCALE, KEY_GAIN = 1.5, 2.0  # start of the query kernel; of the key kernel over it at a tied start
KNOT_S, REACH_S = 0.5, 4.0  # of SalienceAttention: spacing and reach of the learned bias over time differences
GAIN = 10.0  # of the bias over its table, so that it learns as fast as the kernels around it
PRICE = 2e-3  # of one nat of attention, beside a mean squared error of about 0.01
SAME_TIME_WEIGHT = 0.1  # of the auxiliary loss while it lasts


def time_code(t_s, dim: int):
    """Code times as sines and cosines of fixed periods; there is nothing to learn.

    code = TIME_GAIN [sin(2 pi t / P_i), cos(2 pi t / P_i)], i = 1 ... dim / 2, with periods P_i in geometric steps from
    LONGEST_S to SHORTEST_S, so that the inner product of two codes depends on the difference of their times only.

    Args:
        t_s: Times in seconds, float32 (B, T).
        dim: Length of the code, even.

    Returns:
        float32 (B, T, dim).
    """
    n = dim // 2
    periods = LONGEST_S * (SHORTEST_S / LONGEST_S) ** (np.arange(n) / max(n - 1, 1))
    angle = ops.expand_dims(t_s, -1) * ops.convert_to_tensor((2 * math.pi / periods).astype("float32"))  # (B, T, n)
    return TIME_GAIN * ops.concatenate([ops.sin(angle), ops.cos(angle)], axis=-1)


def masked_mean(x, mask):
    """Return the mean over time of the tokens (B, T, D) that the mask (B, T) keeps, (B, D); 0 where it keeps none."""
    weight = ops.expand_dims(ops.cast(mask, x.dtype), -1)  # (B, T, 1)
    return ops.sum(x * weight, axis=1) / ops.maximum(ops.sum(weight, axis=1), 1.0)


def as_tokens(name: str, x, width: int, dtype: str):
    """Return a stream as (B, T, width) with default times 0, 1, 2, ... and an all-true mask, both (B, T)."""
    x = ops.cast(ops.convert_to_tensor(x), dtype)
    if len(x.shape) not in (2, 3) or x.shape[-1] != width:
        raise ValueError(
            f"{name} must have shape (batch, {width}) or (batch, tokens, {width}), got {tuple(x.shape)}. "
            f"Build the model with {name}_dim={x.shape[-1]}, or pass features of {width} columns."
        )
    if len(x.shape) == 2:
        x = ops.expand_dims(x, 1)
    row = ops.cast(ops.arange(ops.shape(x)[1]), "float32")
    times = ops.zeros_like(x[..., 0], dtype="float32") + row  # (B, T)
    return x, times, ops.ones_like(times, dtype="bool")


def middle() -> keras.initializers.Initializer:
    """Start of an output bias: the middle of the rating range [0, 1]."""
    return keras.initializers.Constant(0.5)


class _Attention(layers.Layer):
    """What both kinds of attention share: projections to the width F, masks, the reading of values by heads."""

    def __init__(self, fusion_dim: int, num_heads: int, **kwargs):
        super().__init__(autocast=False, **kwargs)  # times keep float32 under a mixed policy
        self.fusion_dim, self.num_heads = fusion_dim, num_heads
        self.static_projection = layers.Dense(fusion_dim, name="static_projection")
        self.dynamic_projection = layers.Dense(fusion_dim, name="dynamic_projection")

    def _add_reading(self) -> None:
        self.value = layers.Dense(self.num_heads * self.fusion_dim, name="value")
        self.output_projection = layers.Dense(self.fusion_dim, name="output_projection")
        self.norm = layers.LayerNormalization(epsilon=1e-6, name="norm")

    def _build(self, static_shape, dynamic_shape, *own: layers.Layer) -> None:
        self.static_projection.build((None, None, static_shape[-1]))
        self.dynamic_projection.build((None, None, dynamic_shape[-1]))
        for layer in (*own, self.value, self.norm):
            layer.build((None, None, self.fusion_dim))
        self.output_projection.build((None, None, self.num_heads * self.fusion_dim))
        self.built = True

    def _read(self, logits, m, static_mask, dynamic_mask, attention_delta):
        """Return what logits (B, heads, Ts, Td) read of m, (B, Ts, F), and attention, 0 in rows of masked tokens."""
        logits = ops.where(dynamic_mask[:, None, None, :], ops.cast(logits, "float32"), -1e9)
        attention = ops.exp(logits - ops.logsumexp(logits, axis=-1, keepdims=True))
        attention = attention * ops.cast(static_mask, "float32")[:, None, :, None]
        if attention_delta is not None:
            attention = attention + attention_delta
        read = ops.matmul(ops.cast(attention, m.dtype), self._heads(self.value(m)))  # (B, heads, Ts, F)
        width = self.num_heads * self.fusion_dim
        read = ops.reshape(ops.transpose(read, (0, 2, 1, 3)), (-1, ops.shape(static_mask)[1], width))
        return self.output_projection(read), attention

    def _heads(self, x):
        x = ops.reshape(x, (-1, ops.shape(x)[1], self.num_heads, self.fusion_dim))  # (B, T, heads, F)
        return ops.transpose(x, (0, 2, 1, 3))


@keras.saving.register_keras_serializable(package=PACKAGE)
class CrossAttention(_Attention):
    """Let every face token read the motion tokens.

    q = Ws s + bs, m = Wd d + bd (both of width F = fusion_dim), c = time code;
    A_h = softmax(Q_h (q + c) . K_h (m + c) / sqrt(F)), out = LayerNorm(q + O concat_h(A_h V_h m)), heads of width F.

    Time enters through the attention only: over a single key A = 1 and no time can matter, which is the model for one
    vector per stream. `tied_start` draws K as twice Q, so that training starts from attention to the same time.

    Args:
        fusion_dim: Width F of tokens and of each head, even.
        num_heads: Number of heads.
        tied_start: Whether the key kernel starts as twice the query kernel instead of independently.
    """

    def __init__(self, fusion_dim: int = 128, num_heads: int = 4, tied_start: bool = True, **kwargs):
        if fusion_dim < 2 or fusion_dim % 2:
            raise ValueError(f"fusion_dim must be a positive even number, got {fusion_dim}. Choose 64, 128 or 256.")
        super().__init__(fusion_dim, num_heads, **kwargs)
        self.tied_start = tied_start
        inner, seed = num_heads * fusion_dim, random.randrange(2**31)  # keras.utils.set_random_seed governs `random`
        limit = QUERY_SCALE * math.sqrt(6 / (inner + fusion_dim**2))
        key_limit, key_seed = (KEY_GAIN * limit, seed) if tied_start else (limit, seed + 1)
        self.query = layers.Dense(inner, kernel_initializer=_uniform(limit, seed), name="query")
        self.key = layers.Dense(inner, kernel_initializer=_uniform(key_limit, key_seed), name="key")
        self._add_reading()

    def build(self, static_shape, dynamic_shape):
        self._build(static_shape, dynamic_shape, self.query, self.key)

    def call(self, static, dynamic, static_t_s, dynamic_t_s, static_mask, dynamic_mask, attention_delta=None):
        """Return fused tokens (B, Ts, F) and attention (B, heads, Ts, Td), 0 in the rows of masked tokens.

        `attention_delta`, of the shape of the attention, is added to it: what scores change by is its gradient at 0.
        """
        q, m = self.static_projection(static), self.dynamic_projection(dynamic)
        query = self._heads(self.query(q + ops.cast(time_code(static_t_s, self.fusion_dim), q.dtype)))
        key = self._heads(self.key(m + ops.cast(time_code(dynamic_t_s, self.fusion_dim), m.dtype)))
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / math.sqrt(self.fusion_dim)  # (B, heads, Ts, Td)
        read, attention = self._read(logits, m, static_mask, dynamic_mask, attention_delta)
        return self.norm(q + read), attention

    def get_config(self) -> dict:
        own = {"fusion_dim": self.fusion_dim, "num_heads": self.num_heads, "tied_start": self.tied_start}
        return super().get_config() | own


@keras.saving.register_keras_serializable(package=PACKAGE)
class SalienceAttention(_Attention):
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
        super().__init__(fusion_dim, num_heads, **kwargs)
        self.price, self.warmup_steps = price, warmup_steps
        self.salience = layers.Dense(num_heads, activation="softplus", bias_initializer="ones", name="salience")
        self._add_reading()

    def build(self, static_shape, dynamic_shape):
        self._build(static_shape, dynamic_shape, self.salience)
        self.same_time = layers.Dense(dynamic_shape[-1], name="same_time")
        self.same_time.build((None, None, self.fusion_dim))
        n_knots = 2 * round(REACH_S / KNOT_S) + 1
        self.bias = self.add_weight(shape=(n_knots, self.num_heads), initializer="zeros", name="bias")
        self.steps = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="steps")

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
        read, attention = self._read(logits, m, static_mask, dynamic_mask, attention_delta)
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


@keras.saving.register_keras_serializable(package=PACKAGE)
class FeatureFusionModule(layers.Layer):
    """Normalise fused tokens over the batch, masked ones not counted, and drop some of their channels."""

    def __init__(self, dropout_rate: float = 0.3, **kwargs):
        super().__init__(**kwargs)
        self.dropout_rate = dropout_rate
        self.norm = layers.BatchNormalization(momentum=0.9, name="norm")
        self.dropout = layers.Dropout(dropout_rate, name="dropout")

    def build(self, shape):
        self.norm.build(shape)
        self.built = True

    def call(self, x, mask, training=None):
        return self.dropout(self.norm(x, mask=mask, training=training), training=training)

    def get_config(self) -> dict:
        return super().get_config() | {"dropout_rate": self.dropout_rate}


@keras.saving.register_keras_serializable(package=PACKAGE)
class PersonalityPredictionHead(layers.Layer):
    """Dense 64 ReLU per token, mean over the tokens of a clip, linear Dense: scores, not bounded to [0, 1].

    The nonlinearity comes before the mean: averaging fused tokens first would lose what happened together in time.
    """

    def __init__(self, n_targets: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.n_targets, self.supports_masking = n_targets, True
        self.hidden = layers.Dense(64, activation="relu", name="hidden")
        self.scores = layers.Dense(n_targets, bias_initializer=middle(), dtype="float32", name="scores")

    def build(self, shape):
        self.hidden.build(shape)
        self.scores.build((None, 64))
        self.built = True

    def call(self, x, mask):
        return self.scores(masked_mean(self.hidden(x), mask))

    def compute_mask(self, x, previous_mask=None):
        return None  # the mean over time ends the mask

    def get_config(self) -> dict:
        return super().get_config() | {"n_targets": self.n_targets}


def _uniform(limit: float, seed: int):
    return keras.initializers.RandomUniform(-limit, limit, seed=seed)


@keras.saving.register_keras_serializable(package=PACKAGE)
class CompletePersonalityModel(keras.Model):
    """Predict trait scores from face tokens and motion tokens by cross-attention.

    `model((static, dynamic))`, or `model({"static": ..., "dynamic": ..., ...})` with any of `static_t_s`, `dynamic_t_s`
    (seconds, (B, T), default 0, 1, 2, ...) and `static_mask`, `dynamic_mask` (bool (B, T), True = token, default all).
    A stream is (B, D) or (B, T, D); both kinds use the same weights. Each clip needs a token in both streams.
    The parameters exist as soon as the model is constructed: 371,717 at the defaults, 371,461 of them trainable.

    Args:
        static_dim: Features per face token.
        dynamic_dim: Features per motion token.
        fusion_dim: Width of fused tokens and of each attention head, even.
        num_heads: Attention heads.
        dropout_rate: Share of fused channels dropped in training, in [0, 1).
        n_targets: Scores per clip.
        tied_start: See CrossAttention.
        attention: "content" (CrossAttention) or "salience" (SalienceAttention, which has no tied start).
        pool: "after" (mean over the tokens behind the head's nonlinearity) or "before" (mean of the fused tokens, which
            loses what happened together in time: a control).
        price, warmup_steps: Of SalienceAttention.
    """

    def __init__(
        self,
        static_dim: int = 512,
        dynamic_dim: int = 256,
        fusion_dim: int = 128,
        num_heads: int = 4,
        dropout_rate: float = 0.3,
        n_targets: int = 5,
        tied_start: bool = True,
        attention: str = "content",
        pool: str = "after",
        price: float = PRICE,
        warmup_steps: int = 0,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        if attention not in ("content", "salience") or pool not in ("after", "before"):
            raise ValueError(
                f"attention must be content or salience and pool after or before, got {attention!r} and {pool!r}."
            )
        self.static_dim, self.dynamic_dim, self.attention, self.pool = static_dim, dynamic_dim, attention, pool
        self.tied_start, self.price, self.warmup_steps = tied_start, price, warmup_steps
        if attention == "content":
            self.cross_attention = CrossAttention(fusion_dim, num_heads, tied_start, name="cross_attention")
        else:
            self.cross_attention = SalienceAttention(fusion_dim, num_heads, price, warmup_steps, name="cross_attention")
        self.fusion = FeatureFusionModule(dropout_rate, name="fusion")
        self.head = PersonalityPredictionHead(n_targets, name="head")
        self.cross_attention.build((None, None, static_dim), (None, None, dynamic_dim))
        self.fusion.build((None, None, fusion_dim))
        self.head.build((None, None, fusion_dim))
        self.built = True

    def call(self, inputs, training=None, return_attention=False, attention_delta=None):
        """Return scores (B, n_targets); with `return_attention` also attention (B, heads, Ts, Td).

        `attention_delta`, of the attention's shape, is added to it before anything is read; see
        `helpers.attention`.
        """
        streams = self._streams(inputs)
        if return_attention and streams["dynamic"].shape[1] == 1:
            warnings.warn(
                "attention over a single motion token is constant: every weight is 1 whatever the model has learned. "
                "Pass sequences of motion tokens to see what it attends to.",
                UserWarning,
                stacklevel=2,
            )
        fused, attention = self._attend(streams, training, attention_delta)
        mask = streams["static_mask"]
        if self.pool == "before":
            fused, mask = masked_mean(fused, mask)[:, None], ops.any(mask, axis=1, keepdims=True)  # (B, 1, F), (B, 1)
        scores = self.head(self.fusion(fused, mask, training=training), mask)
        return (scores, attention) if return_attention else scores

    def _attend(self, streams: dict, training, attention_delta):
        if self.attention == "salience":
            return self.cross_attention(**streams, training=training, attention_delta=attention_delta)
        return self.cross_attention(**streams, attention_delta=attention_delta)

    def _streams(self, inputs) -> dict:
        """Complete the inputs: both streams (B, T, D) with times float32 (B, T) and masks bool (B, T)."""
        given = dict(inputs) if isinstance(inputs, dict) else dict(zip(INPUT_NAMES[:2], inputs, strict=True))
        if not {"static", "dynamic"} <= set(given) <= set(INPUT_NAMES):
            raise ValueError(
                "inputs must be a pair (static, dynamic) or a dict with both and none but the keys "
                f"{', '.join(INPUT_NAMES)}, got {', '.join(sorted(given))}."
            )
        if ("static_t_s" in given) != ("dynamic_t_s" in given):
            raise ValueError("static_t_s and dynamic_t_s must be given together, got one of them. Pass both, or none.")
        out = {}
        for name, width in (("static", self.static_dim), ("dynamic", self.dynamic_dim)):
            out[name], times, mask = as_tokens(name, given[name], width, self.compute_dtype)
            out[f"{name}_t_s"] = ops.cast(given.get(f"{name}_t_s", times), "float32")
            out[f"{name}_mask"] = ops.cast(given.get(f"{name}_mask", mask), "bool")
        return out

    def get_config(self) -> dict:
        attention = self.cross_attention
        return super().get_config() | {
            "static_dim": self.static_dim,
            "dynamic_dim": self.dynamic_dim,
            "fusion_dim": attention.fusion_dim,
            "num_heads": attention.num_heads,
            "dropout_rate": self.fusion.dropout_rate,
            "n_targets": self.head.n_targets,
            "tied_start": self.tied_start,
            "attention": self.attention,
            "pool": self.pool,
            "price": self.price,
            "warmup_steps": self.warmup_steps,
        }
