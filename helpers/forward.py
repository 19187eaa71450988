"""The fastest compiled forward pass of a frozen Keras model on each backend: an array in, an array out.

TensorFlow runs a frozen graph (variables turned to constants, batch norm folded), JAX a jitted function, PyTorch an
eager inference-mode call. Only the backend that runs is imported, and no setting of the process is touched.
"""

import re
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any

import keras
import numpy as np
from keras import layers

PRECISIONS = ("float32", "bfloat16", "float16")

# What TensorFlow, PyTorch (GPU, processor), JAX, and NVIDIA's libraries below them say; two have a class for it, too.
OUT_OF_MEMORY = re.compile(
    "ResourceExhaustedError|OutOfMemoryError|OOM when|out of memory|can't allocate memory|RESOURCE_EXHAUSTED|"
    "STATUS_ALLOC_FAILED|Dst tensor is not initialized"
)

Forward = Callable[[np.ndarray], np.ndarray]
Prepare = Callable[[Any], Any]  # from a tensor of the backend to another
Compiled = tuple[Forward, tuple[type[Exception], ...]]  # and the errors of the backend that may come out of it


class NetworkError(RuntimeError):
    """The backend failed on one input; the message has the line that says why."""


def compile_forward(model: keras.Model, precision: str = "float32", prepare: Prepare | None = None) -> Forward:
    """Compile the inference pass of a built model with one input and one output; its later changes do not reach it.

    `precision`: "float32", on a GPU as well (`helpers/__init__.py` turns TF32 off); "bfloat16" for heavy operations,
    about twice as fast where the processor has units for it; or "float16", for GPUs, closer to float32, but what
    exceeds 65504 comes out infinite or NaN. `prepare`: what the input goes through before, in the same pass, by
    `keras.ops`, such as `Backbone.prepare`; without it the input is taken as float32.

    Returns a function from (B, ...) to float32 (B, ...), for any B and any length of clips (B, T, H, W, C), compiled
    once per shape otherwise (JAX: per length); several threads may call it. NetworkError where the backend fails on an
    input, MemoryError where memory does not suffice.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}. Choose one of them.")
    compiler = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()]
    run, failures = compiler(model, precision, prepare or (lambda x: x))
    compiled, compiling = set(), Lock()

    def forward(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, None if prepare else np.float32)
        try:
            if (x.shape, x.dtype) in compiled:
                return run(x)
            with compiling:  # whoever comes second waits for the first
                y = run(x)
            compiled.add((x.shape, x.dtype))
            return y
        except failures as error:
            raise failure_of(error, x.shape) from error

    return forward


def failure_of(error: Exception, shape: tuple[int, ...]) -> Exception:
    """MemoryError or NetworkError of a backend's error on an input, with the line of its message that says what."""
    message = str(error)
    if quoted := re.search(r"\x1b\[1m(.+?)\x1b\[0m", message, re.DOTALL):  # Keras prints what a layer raised in bold
        message = quoted[1]
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["no message"]
    reason = next(filter(OUT_OF_MEMORY.search, lines), lines[0]).rstrip(".")
    if OUT_OF_MEMORY.search(f"{type(error).__name__}: {reason}"):
        return MemoryError(f"the network ran out of memory on an input of {shape}: {reason}.")
    return NetworkError(f"the network failed on an input of {shape}: {reason}")


def _tensorflow(model: keras.Model, precision: str, prepare: Prepare) -> Compiled:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    device = _chosen_device(model)
    on_gpu = "GPU" in device if device else bool(tf.config.list_logical_devices("GPU"))
    if precision == "float16" or (precision == "bfloat16" and on_gpu):
        model = in_half(model, precision)  # the rewrite below is bfloat16's, and for processors only

    @cache  # per length of clips would be a graph and a session with all weights for each
    def compiled(sample_shape: tuple[int | None, ...], dtype: np.dtype) -> Forward:
        function = tf.function(lambda x: tf.cast(model(prepare(x), training=False), tf.float32), autograph=False)
        concrete = function.get_concrete_function(tf.TensorSpec((None, *sample_shape), dtype))
        frozen = convert_variables_to_constants_v2(concrete)
        session = _session(frozen.graph, device, rewrite=precision == "bfloat16" and not on_gpu)
        return session.make_callable(frozen.outputs[0].name, feed_list=[frozen.inputs[0].name])

    def forward(x: np.ndarray) -> np.ndarray:
        return compiled((None, *x.shape[2:]) if x.ndim == 5 else x.shape[1:], x.dtype)(x)

    return forward, (tf.errors.OpError,)


def _chosen_device(model: keras.Model) -> str | None:
    """Name of TensorFlow's device that holds the model's weights; None where it is the one a session takes anyway."""
    import tensorflow as tf

    if not model.weights:
        return None
    spec = tf.DeviceSpec.from_string(model.weights[0].value.device)
    name = f"/device:{spec.device_type}:{spec.device_index}"
    first = (tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))[0].name
    return None if name == first else name


def _session(graph: Any, device: str | None, *, rewrite: bool) -> Any:
    """A session on a plain copy of a function's graph, which writes into itself when run: two threads may run a copy.

    `rewrite`: to bfloat16, on a processor; `device`: where all is done, if named: a traced graph knows none.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

    config, definition = tf.compat.v1.ConfigProto(), graph.as_graph_def()
    if rewrite:
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = RewriterConfig.ON
    if device:
        config.allow_soft_placement = True  # for what that device cannot do, such as looking at a shape
        config.device_count["CPU"] = len(tf.config.list_logical_devices("CPU"))
        for node in definition.node:
            node.device = device
    with tf.Graph().as_default() as placed:
        tf.graph_util.import_graph_def(definition, name="")
    return tf.compat.v1.Session(graph=placed, config=config)


def _jax(model: keras.Model, precision: str, prepare: Prepare) -> Compiled:
    import jax

    model = model if precision == "float32" else in_half(model, precision)
    trainable = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]

    @jax.jit  # the weights are arguments: each shape's program would hold them otherwise
    def compiled(trainable: list[jax.Array], others: list[jax.Array], x: jax.Array) -> jax.Array:
        return model.stateless_call(trainable, others, prepare(x), training=False)[0].astype("float32")

    return lambda x: np.asarray(compiled(trainable, others, x)), (jax.errors.JaxRuntimeError,)


def _torch(model: keras.Model, precision: str, prepare: Prepare) -> Compiled:
    import torch

    model = in_half(model, precision)

    def forward(x: np.ndarray) -> np.ndarray:  # not torch.compile: it breaks off at every Keras layer, for minutes
        with torch.inference_mode():
            y = model(prepare(keras.ops.convert_to_tensor(x)), training=False)
            return keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))

    return forward, (RuntimeError,)


def in_half(model: keras.Model, precision: str) -> keras.Model:
    """Return a copy of a model that computes in bfloat16 or float16 on float32 weights, by Keras' own policy.

    Later changes of the model do not reach it, of "float32" neither.
    """

    def copied(layer: keras.Layer) -> keras.Layer:
        kept = precision == "float16" and isinstance(layer, layers.MaxPooling3D | layers.AveragePooling3D)
        dtype = "float32" if kept else f"mixed_{precision}"  # TensorFlow pools no float16 volumes on a processor
        return type(layer).from_config(layer.get_config() | ({} if precision == "float32" else {"dtype": dtype}))

    copy = keras.models.clone_model(model, clone_function=copied)
    copy.set_weights(model.get_weights())
    return copy
