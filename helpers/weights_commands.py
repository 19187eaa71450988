"""What `python -m helpers weights` does: list, fetch, verify and convert published weights.

In: names of `helpers.weights.WEIGHTS`. Out: lines for the terminal, files of the weights folder. Nothing else in
`helpers` needs it: extraction reads published checkpoints, and what `convert` has written.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from helpers.files import file_sha256, weights_folder
from helpers.store import write_arrays
from helpers.weights import WEIGHTS, converted_path, is_as_published, published_weights, require


def run(action: str, names: list[str]) -> int:
    """Do one of "list", "fetch", "verify" and "convert" to each name, and print what was done; the exit status.

    "all" are all names of the table, and those whose files are there where it verifies or converts.
    """
    if action == "list":
        print(as_text())
        return 0
    if action == "fetch":
        require(_named(names))
    failed = 0
    for name in _named(names) if action == "fetch" else _there(names, action):
        try:
            print(f"{name}: {DONE[action](name)}", flush=True)
        except ValueError as error:
            print(f"error: {name}: {error}", file=sys.stderr, flush=True)
            failed = 1
    return failed


def _named(names: list[str]) -> list[str]:
    unknown = ", ".join(name for name in names if name not in WEIGHTS and names != ["all"])
    if unknown or not names:
        raise ValueError(f"NAME must be all or of {', '.join(WEIGHTS)}, got {unknown or 'nothing'}. Correct the name.")
    return list(WEIGHTS) if names == ["all"] else names


def _there(names: list[str], action: str) -> list[str]:
    """The names, or for all of them, and for none to verify, those whose files are there."""
    if names != ["all"] and (names or action != "verify"):
        return _named(names)
    here = [name for name, row in WEIGHTS.items() if row.is_here and (action == "verify" or row.kind[:3] == "i3d")]
    if not here:
        raise FileNotFoundError(f"{weights_folder()} holds no weights. Fetch some first.")
    return here


def as_text() -> str:
    """Return the table of weights: a block of lines per row."""
    lines = [f"weights folder: {weights_folder()}   (another: --folder DIR, or OCEAN_WEIGHTS)"]
    for name, row in WEIGHTS.items():
        sizes = [file.place.stat().st_size if row.is_here else file.n_bytes for file in row.files]
        size = "? MB" if None in sizes else f"{sum(sizes) / 1e6:.1f} MB"
        state = "here" if row.is_here else "not here"
        lines += ["", f"{name:32} {size:>9}  {state}", f"    {row.purpose}", f"    licence  {row.licence}"]
        lines += [f"    from     {file.url}\n    to       {file.place}" for file in row.files]
        if converted_path(name).is_file():
            lines.append(f"    converted to {converted_path(name)}")
    return "\n".join(lines)


def fetched(name: str) -> str:
    """What `fetch` says of a name that was fetched: the sha256 of its files, or where the converted file is."""
    return published_bytes(name) if WEIGHTS[name].is_here else f"converted to {converted_path(name)}"


def published_bytes(name: str) -> str:
    """Compare a row's files with what is published of them; say the sha256 of each.

    Raises:
        FileNotFoundError: They are not there; says where to get them.
        ValueError: They are others.
    """
    row = WEIGHTS[name]
    if missing := ", ".join(str(file.place) for file in row.files if not file.place.is_file()):
        how = f"Run `python -m helpers weights fetch {name}`, or put it there from {row.files[0].url}"
        raise FileNotFoundError(f"{name}: {missing} is not there. {how}")
    for file in row.files:
        if not is_as_published(file.place, file):
            raise ValueError(f"{file.place} must have the published hash {file.file_hash}. Fetch it again.")
    return ", ".join(f"{file.name} sha256 {file_sha256(file.place)}" for file in row.files)


def verify(name: str) -> str:
    """Check the bytes of a row, that its network takes its values, and the logits of the sample where they are known.

    Raises FileNotFoundError without its files; ValueError at the first thing, also of a converted file, that is wrong.
    """
    said = f"well: {_verify_published(name)}"
    if converted_path(name).is_file():
        from helpers.i3d import read_published

        read_published(name)
    return said


def _verify_published(name: str) -> str:
    said, row = published_bytes(name), WEIGHTS[name]
    if row.kind not in ("keras", "i3d_checkpoint", "i3d_h5"):
        return said
    from helpers import backbones, i3d

    if row.kind == "keras":
        backbone = next(backbone for backbone, known in backbones.BACKBONES.items() if known.published == name)
        try:
            model = backbones.build_backbone(backbone, "pretrained").model
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{name} must hold the layers of {backbone}, got: {error}. Fetch it again.") from None
    else:
        model = i3d.fill_published(name, read_original(name))
    if bad := [variable.path for variable in model.variables if not np.isfinite(np.asarray(variable)).all()]:
        raise ValueError(f"{bad[0]} must be finite. Fetch {name} again.")
    return f"{said}; names, shapes and finite values of {model.name}{_logits_compared(name, model)}"


def _logits_compared(name: str, model: Callable) -> str:
    """Compare the logits of the published sample with those that its authors published, if both are there."""
    row = WEIGHTS[name]
    sample = f"i3d_{'flow' if row.channels == 2 else 'rgb'}_sample"
    if row.reference is None or not WEIGHTS[sample].is_here:
        return "; logits not compared: there are none, or no sample" if row.kind != "keras" else ""
    published_bytes(sample)
    clip = np.load(WEIGHTS[sample].main_file, allow_pickle=False).astype(np.float32)
    y = np.asarray(model(clip, training=False)[0], np.float64)
    got = np.array([np.linalg.norm(y), y.argmax(), y.max(), 1 / np.exp(y - y.max()).sum()])
    text = f"; norm, class, logit, probability of the sample: {got.round(6).tolist()}, published {list(row.reference)}"
    if not np.allclose(got, row.reference, rtol=1e-3, atol=0):  # a port that pads otherwise is off by 6 % and more
        raise ValueError(f"{text[2:]}. These are other weights, or this installation computes otherwise.")
    return text


def convert(name: str) -> str:
    """Write a row's variables as `<name>.npz`, which every Keras backend loads; say where. Raises as `verify`."""
    from helpers.i3d import SOURCE

    row, path = WEIGHTS[name], converted_path(name)
    if not row.kind.startswith("i3d"):
        raise ValueError(f"NAME must be of I3D's weights, got {name}. Keras and OpenCV read it as it is: use it so.")
    _verify_published(name)
    source = json.dumps({"name": name, "sha256": published_weights(name).sha256, "url": row.files[0].url})
    write_arrays(path, compressed=False, **read_original(name), **{SOURCE: source})
    return f"converted to {path}, {path.stat().st_size / 1e6:.1f} MB"


DONE = {"fetch": fetched, "verify": verify, "convert": convert}


def read_original(name: str) -> dict[str, np.ndarray]:
    """Read the variables of a row of I3D's from the published file, which is there, by their published names."""
    from helpers.i3d import read_tf_checkpoint

    row, path = WEIGHTS[name], weights_folder() / WEIGHTS[name].path
    if row.kind == "i3d_h5":
        return read_keras_h5(path, "Flow" if row.channels == 2 else "RGB")
    found = read_tf_checkpoint(path)
    if row.n_classes != 600:
        return found
    # The checkpoint of 600 classes names its variables without the stream, and holds the optimizer's beside them.
    return {f"RGB/inception_i3d/{key}": value for key, value in found.items() if not key.endswith("/Momentum")}


def read_keras_h5(path: str | Path, stream: str) -> dict[str, np.ndarray]:
    """Read the weights file of the Keras port (dlpbc/keras-kinetics-i3d), in Keras 2's legacy HDF5 layout.

    It has one group per layer, named `<unit>_conv` or `<unit>_bn`; kernels are (t, h, w, in, out). It does not say its
    `stream`, "Flow" or "RGB". A layer that the port does not have keeps its own name.
    """
    from helpers.i3d import published_name

    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)
            return {
                published_name(stream, _scope(layer), weight.rpartition("/")[2].partition(":")[0]): root[layer][weight][
                    ()
                ]
                for layer in np.asarray(root.attrs["layer_names"]).astype(str)
                for weight in np.asarray(root[layer].attrs["weight_names"]).astype(str)
            }
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} must be a whole weights file of Keras 2, got: {error}. Fetch it again.") from None


def _scope(layer: str) -> str:
    """Conv3d_3b_1a_1x1_conv -> Mixed_3b/Branch_1/Conv3d_0a_1x1/conv_3d, and so on; others as they are."""
    layer = re.sub("_conv$", "/conv_3d", re.sub("_bn$", "/batch_norm", layer))
    layer = layer.replace("Conv3d_6a_1x1", "Logits/Conv3d_0c_1x1")
    layer = layer.replace("Conv3d_5b_2b_3x3", "Mixed_5b/Branch_2/Conv3d_0a_3x3")  # 0a in the checkpoints, 0b elsewhere
    return re.sub(r"^Conv3d_(\d[b-f])_(\d)([ab])_(\dx\d)", r"Mixed_\1/Branch_\2/Conv3d_0\3_\4", layer)
