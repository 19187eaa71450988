"""Weights of the cross-attention network from Keras' old `.h5` files, of this project or of those before it.

In: a file of named arrays in whatever groups. Out: a model with its weights. Each weight finds its array by size, by
what it is (kernel, bias, ...) and by the parts of its name; one that finds none, or two alike, is an error.
"""

import re
from pathlib import Path

import h5py
import keras
import numpy as np

ALIASES = {  # of parts of names, as other layers of the same kind were called
    "attention_output": "output_projection",
    "output": "output_projection",
    "feature_fusion_module": "fusion",
    "feature_fusion": "fusion",
    "personality_prediction_head": "head",
    "prediction_head": "head",
    "layer_norm": "norm",
    "layer_normalization": "norm",
    "batch_norm": "norm",
    "batch_normalization": "norm",
}


def read_h5_weights(model: keras.Model, path: str | Path) -> keras.Model:
    """Fill a built network with the arrays of an `.h5` file; nothing is changed unless all of them are found.

    Args:
        model: Its weights exist already.
        path: Weights, or a whole model whose weights are looked for; attention kernels may be split by heads.

    Returns:
        The same model.

    Raises:
        ValueError: Not an HDF5 file; a weight without its array, or with several; the message names both sizes.
    """
    arrays, file = _arrays(Path(path)), Path(path).name
    if any("/vars/" in name for name in arrays):  # the form of Keras 3, numbers for names
        model.load_weights(path)
        return model
    weights = named_weights(model)
    found = {name: _matching(name, weight.shape, arrays, file) for name, weight in weights.items()}
    if len(set(found.values())) < len(found):
        raise ValueError(f"{file} must hold an array for each weight, got one for two. Is it another model?")
    for name, weight in weights.items():
        weight.assign(arrays[found[name]].reshape(weight.shape))
    return model


def named_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """The weights by where they are, `cross_attention/query/kernel`: their own paths leave the outer layer out."""
    named = {}
    for layer in model.layers:
        inner = [part for part in vars(layer).values() if isinstance(part, keras.layers.Layer)]
        for owner in inner or [layer]:
            prefix = f"{layer.name}/{owner.name}" if inner else layer.name
            named |= {f"{prefix}/{weight.name}": weight for weight in owner.weights}
    return named


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays by name, those of an optimizer left out."""
    arrays = {}

    def keep(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and "optimizer" not in name:
            arrays[name] = item[()]

    try:
        with h5py.File(path) as file:
            file.visititems(keep)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as HDF5 ({error}). Name a file of weights.") from None
    return arrays


def _parts(name: str) -> list[str]:
    """Parts of a name, without numbers behind them: `dense_2/kernel:0` is dense, kernel."""
    parts = [re.sub(r"(:0|_\d+)$", "", part) for part in name.split("/")]
    return [ALIASES.get(part, part) for part in parts]


def _matching(name: str, shape: tuple[int, ...], arrays: dict[str, np.ndarray], file: str) -> str:
    """Name of the one array that is of the size and kind of a weight and shares most of its name."""
    wanted = _parts(name)
    alike = {other: len(set(wanted) & set(_parts(other))) for other in arrays if _parts(other)[-1] == wanted[-1]}
    fitting = {other: shared for other, shared in alike.items() if arrays[other].size == np.prod(shape)}
    best = [other for other, shared in fitting.items() if shared == max(fitting.values())]
    if len(best) == 1 and fitting[best[0]] > 1:  # the kind alone says too little
        return best[0]
    near = max(alike, key=alike.get, default=None)
    got = f"{len(best)} alike" if len(best) > 1 else f"{near} {arrays[near].shape}" if near else "none"
    raise ValueError(
        f"{file} must hold one array for {name} of shape {tuple(shape)}, got {got}. "
        "Build the model with the sizes that the weights were trained with."
    )
