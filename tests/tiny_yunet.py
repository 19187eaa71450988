"""A network with YuNet's inputs and outputs that sees a face in every red square, so that OpenCV's reader is tested.

The published file cannot be part of the tests. This one is encoded by hand (ONNX is protocol buffers: each field is a
tag, number << 3 | kind, then a varint or a length and bytes).
"""

import math
from collections.abc import Iterable

import numpy as np

CHANNELS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
KPS = (-0.5, -0.25, 0.5, 0.25, 0.0, 0.5, -0.5, 1.0, 0.5, 1.0)  # right eye, left eye, nose, mouth, in cells


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _all(number: int, values: Iterable[int | str | bytes]) -> bytes:
    return b"".join(_field(number, value) for value in values)


def _ints(name: str, *values: int) -> bytes:
    return _field(5, _field(1, name) + _all(8, values) + _field(20, 7))


def _node(kind: str, inputs: list[str], output: str, *attributes: bytes) -> bytes:
    return _field(1, _all(1, inputs) + _field(2, output) + _field(3, output) + _field(4, kind) + b"".join(attributes))


def _constant(name: str, array: np.ndarray) -> bytes:
    kind = {"float32": 1, "int64": 7}[array.dtype.name]
    return _field(5, _all(1, array.shape) + _field(2, kind) + _field(8, name) + _field(9, array.tobytes()))


def _value(number: int, name: str, shape: tuple[int, ...]) -> bytes:
    dims = _all(1, (_field(1, size) for size in shape))
    return _field(number, _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dims))))


def _head(name: str, stride: int, n: int) -> bytes:
    """A 1x1 convolution of the pooled picture: the redness for `cls`, constants for everything else."""
    weight, bias = np.zeros((n, 3, 1, 1), np.float32), np.zeros(n, np.float32)
    if name == "cls" and stride == 32:
        weight[0, :, 0, 0] = np.float32([-0.5, -0.5, 1]) / 255  # of blue, green, red
    elif name == "obj":
        bias[:] = 1
    elif name == "bbox":
        bias[:] = [0.5, 0.5, math.log(1.5), math.log(2)]  # centre of the cell, 48 px wide and 64 px tall
    elif name == "kps":
        bias[:] = np.add(KPS, 0.5)
    key = f"{name}_{stride}"
    return (
        _constant(f"{key}_w", weight)
        + _constant(f"{key}_b", bias)
        + _constant(f"{key}_shape", np.int64([1, -1, n]))
        + _node("Conv", [f"pool_{stride}", f"{key}_w", f"{key}_b"], f"{key}_conv", _ints("kernel_shape", 1, 1))
        + _node("Transpose", [f"{key}_conv"], f"{key}_last", _ints("perm", 0, 2, 3, 1))
        + _node("Reshape", [f"{key}_last", f"{key}_shape"], key)
        + _value(12, key, (1, (320 // stride) ** 2, n))
    )


def tiny_yunet() -> bytes:
    """The file."""
    graph = _field(2, "tiny") + _value(11, "input", (1, 3, 320, 320))
    for stride in (8, 16, 32):
        size = (_ints("kernel_shape", stride, stride), _ints("strides", stride, stride))
        graph += _node("AveragePool", ["input"], f"pool_{stride}", *size)
        graph += b"".join(_head(name, stride, n) for name, n in CHANNELS.items())
    return _field(1, 7) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 11))
