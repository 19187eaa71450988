"""Where network weights come from: published files fetched into the weights folder, and a frozen random generator.

In: names of the table (`helpers.checkpoints.published`), paths, Keras models to fill. Out: paths of the files, arrays
by variable name, provenance (`Weights`) that goes into every manifest. Nothing else in `helpers` touches the network.
"""

import hashlib
import logging
import os
import re
import socket
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import keras
import numpy as np

from helpers.checkpoints.converted import converted_source, is_converted, read_converted
from helpers.checkpoints.published import WEIGHTS, PublishedFile
from helpers.checkpoints.records import git_blob_id, is_here, main_file, write_record
from helpers.files import file_sha256, replacing, weights_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """Provenance of a network's weights, as manifests store it.

    `name` is a name of `WEIGHTS` or "random"; `source` an address or the generator; `sha256` identifies the values.
    """

    name: str
    source: str
    sha256: str
    licence: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


# Numerators of the laws. 4.4 by trying: EfficientNetV2-M's features are 0 to 1e-1 at 4 and reach 2e8 at 6.
LAWS = {"glorot": 6, "he": 6, "swish": 4.4}

# What `fill_random` gave when it was written, by (network, law, seed): the same bytes on every machine, or an error.
RANDOM_SHA256 = {
    ("resnet50", "glorot", 0): "9d37f5944bb77df906718c2918e59502153b76f10afe2fa2376e174b4edcdb36",
    ("efficientnetv2_s", "swish", 0): "67fe90ae88570f3a1ec4a872e84d1241151321249bd1ea42d2045bd5fcda003f",
    ("efficientnetv2_m", "swish", 0): "42bcc4cd4715f5c040e59a6b67d02c954b075daea3d9a5d26e8e9f8fe99cda6a",
    ("resnet101", "glorot", 0): "7bb036174b8d4a2ac2d31abcf6f6573cd77b7b88b0c19b1b8671cd023133951c",
    ("vgg19", "he", 0): "89cc0db15e5f7c1949509e34d433176c1f5b63a8ffedb2182089ecf35e143daf",
    ("i3d_flow", "he", 0): "fd559489d8bece21bdc5b32b41789dbe2c59dd621b3bb7e9ba6247a9eab6b2e6",
    ("i3d_flow_Mixed_3c", "he", 0): "44992ec1f5b6620d4924a841e3f8c2736e02766c5acb78ef28543550b0981507",
    ("i3d_rgb", "he", 0): "daf39e7bfc3029791d7e164fd4bedd5cc3950b9694a971d90b92085a656d7b4f",
}


def require(names: list[str]) -> dict[str, Path]:
    """Return what loaders take for each name of `WEIGHTS`, fetching the files that are not there yet.

    Returns:
        name -> path of the file, or of the checkpoint without `.index`; there may be its converted file alone, which
        `read_variables` reads by name.

    Raises:
        FileNotFoundError: One error for all files that are missing and cannot be fetched: file, address, folder.
    """
    unknown = sorted(set(names) - set(WEIGHTS))
    if unknown:
        raise ValueError(f"names must be of {', '.join(WEIGHTS)}, got {', '.join(unknown)}. Correct the name.")
    absent = [name for name in names if not is_here(WEIGHTS[name]) and not is_converted(name, WEIGHTS[name])]
    wanted = [file for name in absent for file in WEIGHTS[name].files]
    missing, reason = [], ""
    for file in wanted:
        if (weights_folder() / file.name).is_file():
            continue
        if not reason:  # when one cannot be fetched the next would only wait for the same network
            reason = _fetch(file)
        if not (weights_folder() / file.name).is_file():
            missing.append(f"  {weights_folder() / file.name}\n    from {file.url}")
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} weight file(s) are missing and could not be fetched ({reason}). Put each where it is "
            "named, or name another folder in OCEAN_WEIGHTS, or choose weights=random to try things:\n"
            + "\n".join(missing)
        )
    for name in absent:
        write_record(name, WEIGHTS[name])
    return {name: weights_folder() / WEIGHTS[name].path for name in names}


def fetch(file: PublishedFile) -> str:
    """Fetch one file that is not there yet; return "" when it is there now, or the reason why not."""
    return "" if (weights_folder() / file.name).is_file() else _fetch(file)


def _fetch(file: PublishedFile) -> str:
    """Download one file to its place, whole or not at all; return "" or the reason why not."""
    target = weights_folder() / file.name
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds without an answer; urllib waits for ever otherwise
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = keras.utils.get_file(
            f"{target.name}.part",
            file.url,
            file_hash=file.file_hash,
            cache_dir=str(target.parent),
            cache_subdir=str(target.parent),
            force_download=True,
        )
        if file.git_blob not in (None, git_blob_id(part)):
            Path(part).unlink()
            return f"{file.url} is not the file that was published: its git blob id is not {file.git_blob}"
        with replacing(target) as whole:  # flushes it: after a power cut it must not be there without its bytes
            os.replace(part, whole)
    except Exception as error:  # get_file raises a bare Exception when an address does not answer
        return str(error).splitlines()[0]
    finally:
        socket.setdefaulttimeout(before)
    log.info("fetched %s from %s, sha256 %s", target, file.url, file_sha256(target))
    return ""


def published_weights(name: str) -> Weights:
    """Return the provenance of published weights that `require` has found.

    The sha256 is that of the largest published file, also where its converted form is what is read.
    """
    row = WEIGHTS[name]
    sha256 = file_sha256(main_file(row)) if is_here(row) else converted_source(name)["sha256"]
    return Weights(name, row.files[0].url, sha256, row.licence)


def fill_random(model: keras.Model, seed: int, law: str) -> str:
    """Fill every kernel (rank 2 and more) from a frozen generator; biases and batch norm stay as they were built.

    Each kernel has its own stream, `RandomState(crc32("seed/layer/variable"))`, so a part of a network holds the same
    values as the whole. Uniform in +-sqrt(LAWS[law] / n), n = fan_in + fan_out for "glorot" and fan_in otherwise, where
    a depthwise kernel counts one channel of input. RandomState is frozen by NumPy, and one multiplication of its 53-bit
    numbers rounds alike on every machine; normal deviates would not: they pass through the machine's logarithm.

    Args:
        model: A freshly built model; layer names must not depend on what was built before it.
        seed: Any int.
        law: "glorot" (Glorot and Bengio 2010), "he" (He et al. 2015), or "swish": He's with less variance.

    Returns:
        sha256 over names and float32 values of the kernels, in the order of their names.
    """
    if law not in LAWS:
        raise ValueError(f"law must be one of {', '.join(LAWS)}, got {law!r}. Choose one of them.")
    kernels = {
        f"{layer.name}/{variable.name}": (variable, isinstance(layer, keras.layers.DepthwiseConv2D))
        for layer in model.layers
        for variable in layer.weights
        if len(variable.shape) > 1
    }
    digest = hashlib.sha256()
    for name, (kernel, depthwise) in sorted(kernels.items()):
        shape = tuple(kernel.shape)
        field, fan_in = int(np.prod(shape[:-2])), 1 if depthwise else shape[-2]
        fan = field * (fan_in + shape[-1] if law == "glorot" else fan_in)
        uniform = np.random.RandomState(zlib.crc32(f"{seed}/{name}".encode())).random_sample(shape)
        values = ((2 * uniform - 1) * np.sqrt(LAWS[law] / fan)).astype("<f4")
        kernel.assign(values)
        digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()


def random_weights(model: keras.Model, network: str, *, seed: int, law: str) -> Weights:
    """Fill a model from the frozen generator and check it against the hash recorded for this network.

    Args:
        model: As for `fill_random`.
        network: Name of the network, with the endpoint where it is cut short; unchecked when not in `RANDOM_SHA256`.
        seed: Any int.
        law: As for `fill_random`.

    Raises:
        RuntimeError: The generator gave other values than when the hash was recorded.
    """
    sha256 = fill_random(model, seed, law)
    expected = RANDOM_SHA256.get((network, law, seed), sha256)
    if sha256 != expected:
        raise RuntimeError(
            f"random weights of {network} ({law}, seed {seed}) must have sha256 {expected}, got {sha256}. NumPy "
            f"{np.__version__} or Keras {keras.__version__} builds them otherwise: install requirements.lock."
        )
    return Weights("random", f"frozen generator, {law}, seed {seed}, {network}", sha256, "none")


def read_tf_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Read all variables of a TensorFlow checkpoint.

    Args:
        path: As TensorFlow names it, without `.index`.

    Returns:
        Variable name -> array.

    Raises:
        FileNotFoundError: There is no such checkpoint, or a part of it is missing.
        ValueError: The checkpoint is damaged.
    """
    import tensorflow as tf

    folder, name = Path(path).parent, Path(path).name
    if not (folder / f"{name}.index").is_file() or not list(folder.glob(f"{name}.data-*")):
        raise FileNotFoundError(f"{path}.index and {path}.data-* are not both there. Put both files into {folder}.")
    try:
        reader = tf.train.load_checkpoint(str(path))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, RuntimeError, IndexError, ValueError) as error:
        raise ValueError(f"{path} must be a whole TensorFlow checkpoint, got: {error}. Fetch it again.") from error


def read_variables(name: str) -> dict[str, np.ndarray]:
    """Read I3D's variables of a row of `WEIGHTS`, fetched if need be; its converted file is read if it is up to date.

    Returns:
        Published variable name (as in the checkpoints of 400 classes) -> array.

    Raises:
        FileNotFoundError: As for `require`.
        ValueError: What is there is damaged.
    """
    require([name])
    return read_converted(name) if is_converted(name, WEIGHTS[name]) else read_original(name)


def read_original(name: str) -> dict[str, np.ndarray]:
    """Read I3D's variables of a row of `WEIGHTS` from the published file, which is there; as for `read_variables`."""
    row = WEIGHTS[name]
    path = weights_folder() / row.path
    if row.kind == "i3d_h5":
        return read_keras_h5(path, "Flow" if row.preprocessing.order == "uv" else "RGB")
    found = read_tf_checkpoint(path)
    if row.n_classes != 600:
        return found
    # The checkpoint of 600 classes names its variables without the stream, and holds the optimizer's beside them.
    return {f"RGB/inception_i3d/{key}": value for key, value in found.items() if not key.endswith("/Momentum")}


def read_keras_h5(path: str | Path, stream: str) -> dict[str, np.ndarray]:
    """Read the weights file of the Keras port (dlpbc/keras-kinetics-i3d), in Keras 2's legacy HDF5 layout.

    Args:
        path: A file with one group per layer, named `<unit>_conv` or `<unit>_bn`; kernels are (t, h, w, in, out).
        stream: "Flow" or "RGB": the file does not say.

    Returns:
        Published variable name -> array; a layer that the port does not have keeps its own name.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing. Put it there, or run `python -m helpers weights fetch`.")
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)
            return {
                f"{stream}/inception_i3d/{_published_scope(layer)}/{_published_part(weight)}": root[layer][weight][()]
                for layer in map(_text, root.attrs["layer_names"])
                for weight in map(_text, root[layer].attrs["weight_names"])
            }
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} must be a whole weights file of Keras 2, got: {error}. Fetch it again.") from None


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _published_part(weight: str) -> str:
    part = weight.rsplit("/", 1)[-1].split(":")[0]
    return {"kernel": "w", "bias": "b"}.get(part, part)


def _published_scope(layer: str) -> str:
    """Conv3d_3b_1a_1x1_conv -> Mixed_3b/Branch_1/Conv3d_0a_1x1/conv_3d, and so on; others as they are."""
    layer = re.sub("_conv$", "/conv_3d", re.sub("_bn$", "/batch_norm", layer))
    layer = layer.replace("Conv3d_6a_1x1", "Logits/Conv3d_0c_1x1")
    layer = layer.replace("Conv3d_5b_2b_3x3", "Mixed_5b/Branch_2/Conv3d_0a_3x3")  # 0a in the checkpoints, 0b elsewhere
    return re.sub(r"^Conv3d_(\d[b-f])_(\d)([ab])_(\dx\d)", r"Mixed_\1/Branch_\2/Conv3d_0\3_\4", layer)
