"""The gradient of a number with respect to its input on each backend, and whether it can be trusted."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np


def gradient_of(fn: Callable[[Any], Any], x: np.ndarray) -> tuple[float, np.ndarray]:
    """Compute a number and its gradient, once, without compiling anything; only the backend that runs is imported.

    Args:
        fn: From a tensor to a tensor without axes. Models in it are to be called with `training=False`; conversions to
            NumPy in it cut the gradient off.
        x: Input, copied to the device as float32.

    Returns:
        The number; its gradient, float32 in the shape of `x`. An error where the number has no connection with `x`.
    """
    x = keras.ops.convert_to_tensor(np.asarray(x, np.float32))
    if keras.backend.backend() == "jax":
        import jax

        value, slope = jax.value_and_grad(fn)(x)
    elif keras.backend.backend() == "torch":
        import torch

        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = fn(x)
            (slope,) = torch.autograd.grad(value, x)
        slope = slope.cpu()
    else:
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = fn(x)
        slope = tape.gradient(value, x)
        if slope is None:
            raise ValueError("fn must depend on x, got a value without any connection. Compute with keras.ops inside.")
    return float(value), np.array(slope, np.float32)


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
