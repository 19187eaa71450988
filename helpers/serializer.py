"""Trained models on disk: loading what fits, versions with cards, export for inference, and Keras' old `.h5` weights.

Beside a model lies its card, a JSON of what is known about it: `card.json` in a folder with `model.keras`, as in the
`model/` of a run, or `<name>.card.json` beside a `<name>.keras`.
"""

import json
import math
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from helpers.files import code_version, needs, read_json, replacing, write_json
from helpers.model import CompletePersonalityModel

MODEL_FILE, CARD_FILE = "model.keras", "card.json"


def load_model(path: str | Path, **built: Any) -> keras.Model:
    """Load the network of a model folder, or of a `.keras` file.

    Args:
        built: What it must have been built with, such as `static_dim=512`: read before anything else is loaded.

    Raises:
        ValueError: No saved model, or one that was built otherwise.
    """
    file = needs(model_file(path), "06_training, or `python -m helpers train`")
    try:
        with zipfile.ZipFile(file) as archive:
            config = json.loads(archive.read("config.json"))["config"]
    except (zipfile.BadZipFile, KeyError, ValueError):
        raise ValueError(f"{file} is not a saved model, or a damaged one. Train again, or name another file.") from None
    is_ours = any(name.endswith("_dim") for name in config)  # networks of others do not say what they take
    for name, value in built.items():
        if is_ours and config.get(name) != value:
            raise ValueError(
                f"{file} must have {name} {value} to fit these features, it was trained with {config.get(name)}. "
                "Make features as in its training, or name another model."
            )
    return keras.saving.load_model(file, compile=False)


def model_file(path: str | Path) -> Path:
    """The file of a network that is named itself, by its suffix `.keras`, or by its folder."""
    path = Path(path)
    return path if path.suffix == ".keras" else path / MODEL_FILE


def card_file(path: str | Path) -> Path:
    """The card of a model that is named by its `.keras` file or by its folder."""
    path = Path(path)
    return path.with_suffix(".card.json") if path.suffix == ".keras" else path / CARD_FILE


def save_model(model: keras.Model, path: str | Path, card: dict[str, Any]) -> dict[str, Any]:
    """Write a network and then its card, which is returned, as a `.keras` file or into a folder.

    Args:
        card: What is to be known (data, split, seed, metrics, weights behind its features, licence); completed by what
            can be seen: `parameters`, `network`, `keras`, `backend`, `code_version`, `saved` (UTC).
    """
    card = {
        "parameters": model.count_params(),
        "network": type(model).__name__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "code_version": code_version(),
        "saved": datetime.now(UTC).isoformat(timespec="seconds"),
    } | card  # fmt: skip
    with replacing(model_file(path)) as part:
        model.save(part)
    write_json(card_file(path), card)
    return card


class ModelSerializer:
    """The versions of one model: `<folder>/v0001/model.keras` with `card.json`, and so on. None is changed later."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @property
    def versions(self) -> list[int]:
        """Numbers of the versions that are there, ascending."""
        return sorted(int(path.parent.name[1:]) for path in self.folder.glob(f"v[0-9]*/{CARD_FILE}"))

    def path(self, version: int | None = None) -> Path:
        """Folder of a version, by default the latest; ValueError where it is not there."""
        versions = self.versions
        version = versions[-1] if versions and version is None else version
        if version not in versions:
            raise ValueError(f"version must be one of {versions} in {self.folder}, got {version}. Save one first.")
        return self.folder / f"v{version:04d}"

    def save(self, model: keras.Model, card: dict[str, Any]) -> int:
        """Write a new version, see `save_model`, and return its number."""
        version = max(self.versions, default=0) + 1
        save_model(model, self.folder / f"v{version:04d}", card | {"version": version})
        return version

    def card(self, version: int | None = None) -> dict[str, Any]:
        """What is known about a version, by default the latest."""
        return read_json(card_file(self.path(version)))

    def load(self, version: int | None = None, **built: Any) -> keras.Model:
        """Load a version, by default the latest; `built`: see `load_model`."""
        return load_model(self.path(version), **built)

    def export(self, path: str | Path, version: int | None = None) -> Path:
        """Write a version for programs that know nothing of this package; see `export_model`."""
        return export_model(self.load(version), path)


def export_model(model: CompletePersonalityModel, path: str | Path) -> Path:
    """Write a cross-attention network as a SavedModel, in a folder, for inference elsewhere.

    Inputs, by name: `static` (B, Ts, static_dim), `dynamic` (B, Td, dynamic_dim), `static_t_s`, `dynamic_t_s` in
    seconds, float32, `static_mask`, `dynamic_mask` bool; output: scores (B, n_targets).
    """
    signature: dict[str, keras.InputSpec] = {}
    for name, width in (("static", model.static_dim), ("dynamic", model.dynamic_dim)):
        signature[name] = keras.InputSpec("float32", (None, None, width), name=name)
        signature[f"{name}_t_s"] = keras.InputSpec("float32", (None, None), name=f"{name}_t_s")
        signature[f"{name}_mask"] = keras.InputSpec("bool", (None, None), name=f"{name}_mask")
    model.export(str(path), format="tf_saved_model", input_signature=[signature], verbose=False)
    return Path(path)


def read_h5_weights(model: keras.Model, path: str | Path) -> keras.Model:
    """Fill a built network with the weights of an `.h5` file of Keras 2, or a `.weights.h5` of Keras 3, and return it.

    Arrays are taken in the order of the file, layer by layer; those of attention may be split by heads. ValueError,
    and nothing is changed, where a shape or their number does not fit.
    """
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)
            if "layer_names" not in root.attrs:
                model.load_weights(path)
                return model
            layers = [root[name] for name in root.attrs["layer_names"]]
            arrays = [layer[name][()] for layer in layers for name in layer.attrs["weight_names"]]
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as weights in HDF5 ({error}). Name another file.") from None
    weights = [w for layer in model.layers for w in (*layer.trainable_weights, *layer.non_trainable_weights)]
    if len(arrays) != len(weights) or not all(map(_fits, arrays, weights)):
        shapes, got = [tuple(w.shape) for w in weights], [array.shape for array in arrays]
        raise ValueError(f"{path} must hold arrays of the shapes {shapes} in this order, got {got}. Build it alike.")
    for weight, array in zip(weights, arrays, strict=True):
        weight.assign(array.reshape(weight.shape))
    return model


def _fits(array: np.ndarray, weight: keras.Variable) -> bool:
    heads = array.ndim > len(weight.shape) and array.size == math.prod(weight.shape)
    return array.shape == tuple(weight.shape) or heads
