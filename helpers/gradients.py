"""The gradient of a number with respect to its inputs on each backend, and whether it can be trusted.

In: a function of tensors, arrays of its input. Out: the number and float32 arrays of slopes. Only the backend that runs
is imported.
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
    gradient = {"tensorflow": _tensorflow_gradient, "jax": _jax_gradient, "torch": _torch_gradient}.get(
        keras.backend.backend()
    )
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


def _tensorflow_gradient(fn: Callable, x: Any) -> tuple[Any, Any]:
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


def _jax_gradient(fn: Callable, x: Any) -> tuple[Any, Any]:
    import jax

    return jax.value_and_grad(fn)(x)  # NumPy inside is an error of its own here


def _torch_gradient(fn: Callable, x: Any) -> tuple[Any, Any]:
    import torch

    with torch.enable_grad():
        x = keras.tree.map_structure(lambda values: values.detach().requires_grad_(), x)
        value = fn(x)
        if not (torch.is_tensor(value) and value.requires_grad):
            raise _unconnected()
        flat = torch.autograd.grad(value, keras.tree.flatten(x), allow_unused=True, materialize_grads=True)
    slopes = [slope.detach().cpu().numpy() for slope in flat]
    return value.detach().cpu(), keras.tree.pack_sequence_as(x, slopes)


def check_gradient() -> float:
    """Compare the backend's gradient through convolution, tanh and matrix product with central finite differences.

    Returns:
        Largest difference over 12 of the kernel's 135 values, in units of the largest finite difference; under 1e-3
        where training can be trusted.
    """
    step = 1e-2  # half the width of a difference: with float32 it balances rounding against curvature
    rng = np.random.default_rng(0)
    x, dense, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 7, 7, 3), (5, 2), (3, 3, 3, 5)))
    kernel *= np.float32(0.3)

    def loss(kernel: Any) -> Any:
        hidden = keras.ops.tanh(keras.ops.conv(x, kernel, padding="same"))
        return keras.ops.mean(keras.ops.square(keras.ops.matmul(hidden, dense)))

    places = [np.unravel_index(flat, kernel.shape) for flat in rng.choice(kernel.size, 12, replace=False)]
    _, gradient = gradient_of(loss, kernel)
    differences = []
    for place in places:
        nudge = np.zeros_like(kernel)
        nudge[place] = step
        upper, lower = (float(keras.ops.convert_to_numpy(loss(kernel + sign * nudge))) for sign in (1, -1))
        differences.append((upper - lower) / (2 * step))
    ours = np.array([gradient[place] for place in places])
    return float(np.abs(ours - differences).max() / np.abs(differences).max())
