"""The gradient of a number with respect to arrays, on the backend that runs.

In: a function written with Keras and `keras.ops`, from tensors to one number, and float32 arrays. Out: the number, and
arrays of the same shapes that say how it changes with each value. Weights are constants, and nothing is trained.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

Arrays = Any  # an array, or a list, tuple or dict of arrays


def gradient_of(fn: Callable[[Any], Any], x: Arrays) -> tuple[float, Arrays]:
    """Compute a number and its gradient, once, without compiling anything.

    Args:
        fn: Takes tensors in the structure of `x` and returns a tensor of one value. Models in it are to be called with
            `training=False`; conversions to NumPy in it cut the gradient off.
        x: float32 array, or a list, tuple or dict of arrays; copied to the device.

    Returns:
        The number; its gradient, float32 in the structure of `x`, 0 where the number does not depend on a value.

    Raises:
        ValueError: `fn` gives more than one value, or what it gives has no connection with `x`.
    """
    gradient = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}.get(keras.backend.backend())
    if gradient is None:
        raise ValueError(f"KERAS_BACKEND must be tensorflow, jax or torch, got {keras.backend.backend()}. Set it.")
    x = keras.tree.map_structure(lambda values: keras.ops.convert_to_tensor(np.asarray(values, np.float32)), x)
    value, slopes = gradient(lambda tensors: _one_number(fn(tensors)), x)
    return float(value), keras.tree.map_structure(lambda slope: np.array(slope, np.float32), slopes)


def _one_number(value: Any) -> Any:
    shape = tuple(keras.ops.shape(value))
    if int(np.prod(shape)) != 1:
        raise ValueError(f"fn must return one value, got shape {shape}. Sum it, or choose one of its values.")
    return keras.ops.reshape(value, ())


def _unconnected() -> ValueError:
    return ValueError(
        "fn must depend on x, got a value without any connection. Compute with keras.ops inside, not with NumPy."
    )


def _tensorflow(fn: Callable, x: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = tf.convert_to_tensor(fn(x))
    flat = tape.gradient(value, keras.tree.flatten(x))
    if all(slope is None for slope in flat):
        raise _unconnected()
    flat = [
        np.zeros(one.shape) if slope is None else slope for slope, one in zip(flat, keras.tree.flatten(x), strict=True)
    ]
    return value, keras.tree.pack_sequence_as(x, flat)


def _jax(fn: Callable, x: Any) -> tuple[Any, Any]:
    import jax

    return jax.value_and_grad(fn)(x)  # NumPy inside is an error of its own here


def _torch(fn: Callable, x: Any) -> tuple[Any, Any]:
    import torch

    with torch.enable_grad():
        x = keras.tree.map_structure(lambda values: values.detach().requires_grad_(), x)
        value = fn(x)
        if not (torch.is_tensor(value) and value.requires_grad):
            raise _unconnected()
        flat = torch.autograd.grad(value, keras.tree.flatten(x), allow_unused=True, materialize_grads=True)
    slopes = [slope.detach().cpu().numpy() for slope in flat]
    return value.detach().cpu(), keras.tree.pack_sequence_as(x, slopes)
