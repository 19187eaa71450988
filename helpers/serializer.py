"""Trained models on disk: versions with cards, export for inference, what fits what, and Keras' old `.h5` weights.

In: a network and what is to be known about it. Out: `<folder>/v0001/model.keras` with `card.json`, the same two
files as in the `model/` folder of a run, so that either can be read here. A version is never changed once it is there.
"""

import json
import os
import re
import shutil
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from helpers.files import PART, code_version, needs, read_json, replacing, write_json
from helpers.model import CompletePersonalityModel

MODEL_FILE, CARD_FILE = "model.keras", "card.json"
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


def model_card(model: keras.Model, known: dict[str, Any]) -> dict[str, Any]:
    """Complete what is to be known about a model (data, split, seed, metrics, weights behind its features, licence) by
    what can be seen: `parameters`, `network`, `keras`, `backend`, `code_version`, `saved` (UTC).
    """
    return {
        "parameters": model.count_params(),
        "network": type(model).__name__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "code_version": code_version(),
        "saved": datetime.now(UTC).isoformat(timespec="seconds"),
    } | known  # fmt: skip


class ModelSerializer:
    """The versions of one model in one folder, which is made with the first."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @property
    def versions(self) -> list[int]:
        """Numbers of the versions that are there, ascending."""
        return sorted(int(path.name[1:]) for path in self.folder.glob("v[0-9]*") if path.name[1:].isdigit())

    def path(self, version: int | None = None) -> Path:
        """Folder of a version, by default the latest; ValueError where it is not there."""
        versions = self.versions
        version = versions[-1] if versions and version is None else version
        if version not in versions:
            raise ValueError(f"version must be one of {versions} in {self.folder}, got {version}. Save one first.")
        return self.folder / f"v{version:04d}"

    def save(self, model: keras.Model, card: dict[str, Any], *, beside: tuple[Path, ...] = ()) -> int:
        """Write a new version, which is there as a whole or not at all, and return its number.

        Args:
            card: See `model_card`.
            beside: Further files to copy into the version, such as the reduction of its features.
        """
        version = self.versions[-1] + 1 if self.versions else 1
        part = self.folder / f"{PART}v{version:04d}-{os.getpid()}"
        part.mkdir(parents=True)
        try:
            with replacing(part / MODEL_FILE) as file:
                model.save(file)
            for path in beside:
                shutil.copyfile(path, part / path.name)
            write_json(part / CARD_FILE, card | {"version": version})
            os.rename(part, self.folder / f"v{version:04d}")
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return version

    def card(self, version: int | None = None) -> dict[str, Any]:
        """What is known about a version, by default the latest."""
        return read_json(self.path(version) / CARD_FILE)

    def load(self, version: int | None = None, *, widths: tuple[int, int] | None = None) -> keras.Model:
        """Load a version, by default the latest; `widths`: see `load_model`."""
        return load_model(self.path(version), widths=widths)

    def export(self, path: str | Path, version: int | None = None) -> Path:
        """Write a version for programs that know nothing of this package; see `export_model`."""
        return export_model(self.load(version), path)


def load_model(path: str | Path, *, widths: tuple[int, int] | None = None) -> keras.Model:
    """Load the network of a model folder, or of a `.keras` file.

    Args:
        widths: Columns of the static and dynamic features that it is to take; ValueError for a network of others.
    """
    path = needs(model_file(path), "06_training or `python -m helpers train`")
    if widths is not None:
        config = saved_config(path)
        trained = config.get("static_dim"), config.get("dynamic_dim")
        if None not in trained and trained != tuple(widths):
            raise ValueError(
                f"features must have {trained[0]} static and {trained[1]} dynamic columns, as {path.name} was trained "
                f"on, got {widths[0]} and {widths[1]}. Reduce them as in its training, or take another model."
            )
    return keras.saving.load_model(path)


def model_file(path: str | Path) -> Path:
    """The `.keras` file that is named itself or by its folder; ValueError for another file."""
    path = Path(path)
    if path.suffix != ".keras" and path.is_file():
        raise ValueError(f"model must be a .keras file, or a model folder such as results/<run>/model, got {path}.")
    return path if path.suffix == ".keras" else path / MODEL_FILE


def card_beside(path: str | Path) -> dict[str, Any]:
    """The card of a model folder, or of a `.keras` file that `train` wrote; {} where there is none."""
    file = model_file(path)
    cards = file.with_suffix(".card.json"), file.with_name(CARD_FILE)
    return next((read_json(card) for card in cards if card.exists()), {})


def saved_config(path: str | Path) -> dict[str, Any]:
    """What a saved network was built with, read without loading it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))["config"]
    except (zipfile.BadZipFile, KeyError, ValueError):
        raise ValueError(f"{path} is not a saved model, or a damaged one. Train again, or name another file.") from None


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
    """Fill a built network with the arrays of an `.h5` file; nothing is changed unless all of them are found.

    Args:
        path: Weights, or a whole model whose weights are looked for; attention kernels may be split by heads.

    Raises:
        ValueError: Not an HDF5 file; a weight without its array, or with several.
    """
    arrays: dict[str, np.ndarray] = {}

    def keep(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and "optimizer" not in name:
            arrays[name] = item[()]

    try:
        with h5py.File(path) as file:
            file.visititems(keep)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as HDF5 ({error}). Name a file of weights.") from None
    if any("/vars/" in name for name in arrays):  # the form of Keras 3, numbers for names
        model.load_weights(path)
        return model
    weights, found = named_weights(model), {}
    for name, weight in weights.items():
        kind, *parts = _parts(name)
        shared = {other: len({*parts} & {*_parts(other)}) for other in arrays if _parts(other)[0] == kind}
        fitting = {other: n for other, n in shared.items() if n and arrays[other].size == np.prod(weight.shape)}
        best = [other for other, n in fitting.items() if n == max(fitting.values()) and other not in found.values()]
        if len(best) != 1:
            near = [f"{other} {arrays[other].shape}" for other, n in shared.items() if n == max(shared.values())]
            raise ValueError(
                f"{path} must hold one array for {name} of shape {tuple(weight.shape)}, got {', '.join(near)}. "
                "Build the model with the sizes that the weights were trained with."
            )
        found[name] = best[0]
    for name, weight in weights.items():
        weight.assign(arrays[found[name]].reshape(weight.shape))
    return model


def _parts(name: str) -> list[str]:
    """Parts of a name, the last first, without numbers behind them: `dense_2/kernel:0` is kernel, dense."""
    parts = [re.sub(r"(:0|_\d+)$", "", part) for part in reversed(name.split("/"))]
    return [ALIASES.get(part, part) for part in parts]


def named_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """The weights by where they are, `cross_attention/query/kernel`: their own paths leave the outer layer out."""
    named = {}
    for layer in model.layers:
        inner = [part for part in vars(layer).values() if isinstance(part, keras.layers.Layer)]
        for owner in inner or [layer]:
            prefix = f"{layer.name}/{owner.name}" if inner else layer.name
            named |= {f"{prefix}/{weight.name}": weight for weight in owner.weights}
    return named
