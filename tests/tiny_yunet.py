"""A network with YuNet's inputs and outputs that sees a face in every red square, so that OpenCV's reader is tested.

The published file cannot be part of the tests. This one is encoded by hand (ONNX is protocol buffers: each field is a
tag, number << 3 | kind, then a varint or a length and bytes).
"""

import math

import numpy as np

SIDE_PX = 320
HEADS = {  # what each of the outputs says everywhere
    "cls": [0],
    "obj": [1],
    "bbox": [0.5, 0.5, math.log(1.5), math.log(2)],  # centre of the cell, 48 px wide and 64 px tall
    "kps": [0, 0.25, 1, 0.75, 0.5, 1, 0, 1.5, 1, 1.5],  # right eye, left eye, nose, mouth, in cells
}


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def _field(number: int, *values: int | str | bytes) -> bytes:
    out = b""
    for value in values:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def _node(kind: str, inputs: list[str], output: str, **attributes: list[int]) -> bytes:
    of_node = [_field(1, name) + _field(8, *values) + _field(20, 7) for name, values in attributes.items()]
    return _field(1, _field(1, *inputs) + _field(2, output) + _field(4, kind) + _field(5, *of_node))


def _floats(name: str, array: np.ndarray) -> bytes:
    return _field(5, _field(1, *array.shape) + _field(2, 1) + _field(8, name) + _field(9, np.float32(array).tobytes()))


def _value(number: int, name: str, *shape: int) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(number, _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dims))))


def tiny_yunet() -> bytes:
    """The file: a convolution per output, whose cells of 32 px tell the mean redness as `cls`."""
    graph = _field(2, "tiny") + _value(11, "input", 1, 3, SIDE_PX, SIDE_PX)
    for stride in (8, 16, 32):
        for name, said in HEADS.items():
            weight, n, key = np.zeros((len(said), 3, stride, stride)), SIDE_PX // stride, f"{name}_{stride}"
            if key == "cls_32":
                weight[0] = np.reshape([-0.5, -0.5, 1], (3, 1, 1)) / 255 / stride**2  # of blue, green, red
            graph += _floats(f"{key}_w", weight) + _floats(f"{key}_b", np.array(said))
            graph += _node("Conv", ["input", f"{key}_w", f"{key}_b"], f"{key}_conv", strides=[stride, stride])
            graph += _node("Transpose", [f"{key}_conv"], key, perm=[0, 2, 3, 1]) + _value(12, key, 1, n, n, len(said))
    return _field(1, 7) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 11))
