"""Fetch, verify and convert what lies in the weights folder: the work of `python -m helpers weights`.

In: names of `helpers.catalogue.assets`. Out: lines of text for the user, files and records in the weights folder.
Nothing is fetched but by `fetch`.
"""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import h5py
import keras
import numpy as np

from helpers import gold, i3d
from helpers.catalogue import assets, choose
from helpers.checkpoints.converted import CONVERTIBLE, converted_path, is_converted, read_converted, write_converted
from helpers.checkpoints.published import Published, PublishedFile
from helpers.checkpoints.records import doubt, git_blob_id, has_hash, is_here, main_file, read_record, write_record
from helpers.files import file_sha256, weights_folder
from helpers.weights import fetch, read_original


def fetch_named(names: list[str]) -> Iterator[tuple[str, bool]]:
    """Fetch files that are not there yet and record their sha256; yield (line, True) for each row.

    Raises:
        FileNotFoundError: At the first that cannot be had: the next would only wait for the same network.
    """
    for name, row in choose(names).items():
        if is_here(row):
            yield f"{name}: is there, {main_file(row)}", True
            continue
        for file in row.files:
            reason = fetch(file)
            if reason:
                missing = [f"{_path(f)} (from {f.url})" for f in row.files if not _path(f).is_file()]
                raise FileNotFoundError(
                    f"{name}: {file.name} could not be fetched ({reason.rstrip('.')}). Put there "
                    f"{' and '.join(missing)}, "
                    "or name a folder that holds as much with --folder or OCEAN_WEIGHTS."
                )
        record = write_record(name, row)
        seen = ", ".join(f"{file} sha256 {file_seen['sha256']}" for file, file_seen in record["files"].items())
        yield f"{name}: fetched, {seen}", True


def verify_named(names: list[str]) -> Iterator[tuple[str, bool]]:
    """Verify rows and record the verdict; no name means every row that is there. Yield (line, whether it is well).

    Raises:
        FileNotFoundError: A named row, or any where none is named, is not there.
    """
    rows = choose(names) if names else {name: row for name, row in assets().items() if is_here(row)}
    if not rows:
        raise FileNotFoundError(f"{weights_folder()} holds no weights. Run `python -m helpers weights fetch NAME`.")
    for name, row in _here(rows, names):
        try:
            facts = verify(name, row)
        except ValueError as error:
            doubt(row)
            yield f"{name}: {error}", False
            continue
        write_record(name, row, {"on": date.today().isoformat(), "facts": facts})
        yield f"{name}: well: {'; '.join(facts)}", True


def _here(rows: dict[str, Published], names: list[str]) -> Iterator[tuple[str, Published]]:
    """Yield the rows whose files are here; "all" leaves the others out, a name of one is a FileNotFoundError."""
    for name, row in rows.items():
        missing = [str(_path(file)) for file in row.files if not _path(file).is_file()]
        if not missing:
            yield name, row
        elif names != ["all"]:
            raise FileNotFoundError(
                f"{name}: {', '.join(missing)} is not there. Run `python -m helpers weights fetch {name}`, or put it "
                f"there from {row.files[0].url}"
            )


def verify(name: str, row: Published) -> list[str]:
    """Check bytes, variables and, where the published sample is there, logits.

    Returns:
        What was found, one sentence each.

    Raises:
        ValueError: At the first thing that is not as it should be.
    """
    facts = [_check_bytes(row)]
    if row.kind in CONVERTIBLE:
        found = read_original(name)
        facts.append(_check_values(found))
        model = i3d.fill_published(name, found)  # names, shapes and dtypes are checked here
        facts += ["names and shapes of I3D", *_check_gold(name, model)]
        if is_converted(name, row):
            facts.append(_check_converted(name, found))
    elif row.kind == "keras":
        facts.append(_check_keras(row))
    elif row.kind == "sample":
        clip = np.load(weights_folder() / row.path, allow_pickle=False)
        facts.append(f"{clip.dtype} {clip.shape}, {_check_values({row.path: clip})}")
    return facts


def _path(file: PublishedFile) -> Path:
    return weights_folder() / file.name


def _check_bytes(row: Published) -> str:
    """Compare each file with what is published of it and with its record."""
    said, known = [], read_record(row).get("files", {})
    for file in row.files:
        sha256 = file_sha256(_path(file))
        if file.name in known and known[file.name]["sha256"] != sha256:
            raise ValueError(
                f"{_path(file)} must have the sha256 it was recorded with, {known[file.name]['sha256']}, got {sha256}. "
                f"Fetch it again; or, if you replaced it on purpose, delete the record {row.path}.json."
            )
        if file.git_blob is not None and git_blob_id(_path(file)) != file.git_blob:
            raise ValueError(
                f"{_path(file)} must be the published git blob {file.git_blob}, and is not. Fetch it again"
            )
        if file.file_hash is not None and not has_hash(_path(file), file.file_hash):
            raise ValueError(
                f"{_path(file)} must have the published hash {file.file_hash}, and has not. Fetch it again"
            )
        against = ["as published"] if file.git_blob or file.file_hash else []
        against += ["as recorded"] if file.name in known else ["recorded now"]
        said.append(f"sha256 {sha256[:16]}… {' and '.join(against)}")
    return ", ".join(said)


def _check_values(found: dict[str, np.ndarray]) -> str:
    """Every value must be finite, and no variance below zero."""
    bad = [name for name, value in found.items() if not np.isfinite(value).all()]
    if bad:
        raise ValueError(f"all values must be finite, got others in {len(bad)}, first in {bad[0]}. Fetch it again.")
    bad = [name for name, value in found.items() if name.endswith("moving_variance") and value.min() < 0]
    if bad:
        raise ValueError(f"variances must be 0 or more, got less in {len(bad)}, first in {bad[0]}. Fetch it again.")
    return f"{len(found)} arrays, {sum(value.size for value in found.values()):,} values, all finite"


def _check_gold(name: str, model: keras.Model) -> list[str]:
    published, sample = gold.published_gold(name), gold.sample_path(name)
    if published is None:
        return ["no gold value is published for it"]
    if not sample.is_file():
        return [f"no gold check, since {sample} is not there"]
    found = gold.measure(model, gold.read_sample(name))
    text = f"logits of the sample: {found} (published: {published}; tolerance {gold.TOLERANCE:.1%})"
    if not gold.agrees(found, published):
        raise ValueError(f"{text}. These are other weights, or this installation computes otherwise.")
    return [text]


def _check_converted(name: str, found: dict[str, np.ndarray]) -> str:
    converted = read_converted(name)
    if converted.keys() != found.keys() or any(not np.array_equal(converted[key], found[key]) for key in found):
        raise ValueError(
            f"{converted_path(name)} must hold the same values, and does not. Delete it, and convert again"
        )
    return f"{converted_path(name).name} holds the same values"


def _check_keras(row: Published) -> str:
    """Compare layers, shapes and dtypes of a legacy HDF5 file with the network that Keras builds."""
    model = keras.applications.ResNet50(weights=None, include_top=False, pooling="avg")
    expected = {layer.name: sorted(tuple(w.shape) for w in layer.weights) for layer in model.layers if layer.weights}
    arrays: dict[str, np.ndarray] = {}
    try:
        with h5py.File(weights_folder() / row.path) as file:
            root = file.get("model_weights", file)
            root.visititems(
                lambda key, item: arrays.update({key: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{row.path} must be a whole HDF5 file, got: {error}. Fetch it again.") from None
    found = {layer: sorted(a.shape for k, a in arrays.items() if k.split("/")[0] == layer) for layer in expected}
    wrong = [
        f"{layer} has {found[layer]}, not {shapes}" for layer, shapes in expected.items() if found[layer] != shapes
    ]
    wrong += [f"{key} is {array.dtype}, not float32" for key, array in arrays.items() if array.dtype != np.float32]
    if wrong:
        raise ValueError(
            f"{row.path} must hold the layers of the network, got: {'; '.join(wrong[:5])}. Fetch it again."
        )
    return f"{len(expected)} layers, {_check_values(arrays)}"


def convert_named(names: list[str]) -> Iterator[tuple[str, bool]]:
    """Write `<name>.npz`, which every Keras backend loads, once; yield (line, True) for each row.

    Raises:
        ValueError: A row needs no conversion, or its file is damaged.
        FileNotFoundError: A row's files are not there.
    """
    rows = {name: row for name, row in choose(names).items() if row.kind in CONVERTIBLE}
    if names != ["all"] and len(rows) < len(names):
        others = ", ".join(name for name in names if name not in rows)
        raise ValueError(f"NAME must be of I3D's weights, got {others}. Keras and OpenCV read it as it is: use it so.")
    for name, row in _here(rows, names):
        if is_converted(name, row):
            yield f"{name}: is converted, {converted_path(name)}", True
            continue
        found = read_original(name)
        _check_values(found)
        i3d.fill_published(name, found)  # what is not I3D is refused
        path = write_converted(name, row, found)
        yield f"{name}: converted to {path}, {path.stat().st_size / 1e6:.1f} MB", True
