"""What `python -m helpers weights` does: list, fetch, verify and convert published weights.

In: names of `helpers.weights.WEIGHTS`. Out: lines for the terminal, files of the weights folder. Nothing else in
`helpers` needs it: extraction reads published checkpoints, and what `convert` has written.
"""

import sys
from collections.abc import Callable

import numpy as np

from helpers.files import weights_folder
from helpers.weights import WEIGHTS, check_bytes, converted_path, require


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
    """Compare a row's files with what is published of them, as `check_bytes`; say the sha256 of each."""
    return ", ".join(f"{file} sha256 {sha256}" for file, sha256 in check_bytes(name).items())


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
        model = i3d.fill(name, i3d.read_original(name))
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
    clip = np.load(WEIGHTS[sample].path, allow_pickle=False).astype(np.float32)
    y = np.asarray(model(clip, training=False)[0], np.float64)
    got = np.array([np.linalg.norm(y), y.argmax(), y.max(), 1 / np.exp(y - y.max()).sum()])
    text = f"; norm, class, logit, probability of the sample: {got.round(6).tolist()}, published {list(row.reference)}"
    if not np.allclose(got, row.reference, rtol=1e-3, atol=0):  # a port that pads otherwise is off by 6 % and more
        raise ValueError(f"{text[2:]}. These are other weights, or this installation computes otherwise.")
    return text


def convert(name: str) -> str:
    """Write a row's variables as `<name>.npz`, which every Keras backend loads; say where. Raises as `verify`."""
    from helpers import i3d

    if not WEIGHTS[name].kind.startswith("i3d"):
        raise ValueError(f"NAME must be of I3D's weights, got {name}. Keras and OpenCV read it as it is: use it so.")
    _verify_published(name)
    path = i3d.convert(name)
    return f"converted to {path}, {path.stat().st_size / 1e6:.1f} MB"


DONE = {"fetch": fetched, "verify": verify, "convert": convert}
