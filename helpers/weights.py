"""Where network weights come from: the table of published ones, the folder they lie in, and a frozen random generator.

In: names of the table, paths, Keras models to fill. Out: paths of verified files, arrays by variable name, provenance
(`Weights`) that goes into every manifest. Nothing else in `helpers` touches the network.
"""

import hashlib
import logging
import os
import socket
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np

from helpers.files import weights_folder

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


@dataclass(frozen=True)
class Preprocessing:
    """What a network's input was when its weights were made: (clip(x, -clip, clip)[order] - mean) * scale.

    `order` names the channels (RGB or BGR of frames in [0, 255]; uv of flow in pixels per frame), `mean` and `scale`
    have one value per channel, `clip` is None where nothing is cut.
    """

    order: str
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    clip: float | None = None


@dataclass(frozen=True)
class PublishedFile:
    """One file: its name below the weights folder, its address, and its md5 or sha256 and bytes where published."""

    name: str
    url: str
    file_hash: str | None = None
    n_bytes: int | None = None


@dataclass(frozen=True)
class Published:
    """A row of `WEIGHTS`; below the weights folder, `path` is what a loader takes: a file, or a checkpoint's prefix."""

    path: str
    files: tuple[PublishedFile, ...]
    licence: str
    origin: str
    input_px: int
    preprocessing: Preprocessing
    feature_layer: str
    feature_dim: int
    paper: str


def _i3d(stream: str, preprocessing: Preprocessing) -> Published:
    folder = f"i3d_{stream}_kinetics"
    address = f"https://github.com/google-deepmind/kinetics-i3d/raw/master/data/checkpoints/{stream}_imagenet"
    parts = ("model.ckpt.index", "model.ckpt.data-00000-of-00001")  # the .meta beside them is a graph nobody needs
    return Published(
        path=f"{folder}/model.ckpt",
        files=tuple(PublishedFile(f"{folder}/{part}", f"{address}/{part}") for part in parts),  # no hash is published
        licence="Apache-2.0",
        origin="google-deepmind/kinetics-i3d, ImageNet inflated, trained on Kinetics-400",
        input_px=224,
        preprocessing=preprocessing,
        feature_layer="average pool after Mixed_5c",
        feature_dim=1024,
        paper="Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750",
    )


KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
CAFFE = Preprocessing("BGR", mean=(103.939, 116.779, 123.68), scale=(1.0,) * 3)  # of weights ported from Caffe
HALVED = Preprocessing("RGB", mean=(128.0,) * 3, scale=(1 / 128,) * 3)  # the Rescaling that Keras would put in front
MIT = "MIT (weights ported from the authors' Caffe release; ImageNet terms for the images)"
CC_BY = "CC BY 4.0" + MIT[3:]
APACHE = "Apache-2.0 (weights ported from google/automl; ImageNet terms for the images)"
RESNET = "He et al. 2016, https://arxiv.org/abs/1512.03385"
EFFICIENTNETV2 = "Tan and Le 2021, https://arxiv.org/abs/2104.00298"
VGG = "Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556"


def _imagenet(
    address: str, md5: str, licence: str, seen: Preprocessing, px: int, dim: int, paper: str, n_bytes: int | None = None
) -> Published:
    """A row of keras.applications without its classifier; md5, side and width as in that package's source."""
    file = address.rpartition("/")[2]
    files = (PublishedFile(file, f"{KERAS}/{address}", md5, n_bytes),)
    return Published(file, files, licence, "keras.applications", px, seen, "avg_pool", dim, paper)


WEIGHTS: dict[str, Published] = {
    "resnet50_imagenet": _imagenet(
        "resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "4d473c1dd8becc155b73f8504c6f6626",
        MIT, CAFFE, 224, 2048, RESNET, 94_765_736,
    ),
    "resnet101_imagenet": _imagenet(
        "resnet/resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5", "88cf7a10940856eca736dc7b7e228a21",
        MIT, CAFFE, 224, 2048, RESNET,
    ),
    "efficientnetv2_s_imagenet": _imagenet(
        "efficientnet_v2/efficientnetv2-s_notop.h5", "af0682fb74e8c54910f2d4393339c070",
        APACHE, HALVED, 384, 1280, EFFICIENTNETV2,
    ),
    "efficientnetv2_m_imagenet": _imagenet(
        "efficientnet_v2/efficientnetv2-m_notop.h5", "1b8dc055df72dde80d614482840fe342",
        APACHE, HALVED, 480, 1280, EFFICIENTNETV2,
    ),
    "vgg19_imagenet": _imagenet(
        "vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", "253f8cb515780f3b799900260a226db6",
        CC_BY, CAFFE, 224, 512, VGG,
    ),
    "i3d_flow_kinetics": _i3d("flow", Preprocessing("uv", mean=(0.0, 0.0), scale=(1 / 20, 1 / 20), clip=20.0)),
    "i3d_rgb_kinetics": _i3d("rgb", Preprocessing("RGB", mean=(127.5,) * 3, scale=(1 / 127.5,) * 3)),
}  # fmt: skip

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
        name -> path of the file, or of the checkpoint without `.index`.

    Raises:
        FileNotFoundError: One error for all files that are missing and cannot be fetched: file, address, folder.
    """
    unknown = sorted(set(names) - set(WEIGHTS))
    if unknown:
        raise ValueError(f"names must be of {', '.join(WEIGHTS)}, got {', '.join(unknown)}. Correct the name.")
    wanted = [file for name in names for file in WEIGHTS[name].files]
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
        os.replace(part, target)
    except Exception as error:  # get_file raises a bare Exception when an address does not answer
        return str(error).splitlines()[0]
    finally:
        socket.setdefaulttimeout(before)
    log.info("fetched %s from %s, sha256 %s", target, file.url, file_sha256(target))
    return ""


def file_sha256(path: str | Path) -> str:
    """Return the sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def published_weights(name: str) -> Weights:
    """Return the provenance of published weights that `require` has found; the sha256 is that of the largest file."""
    largest = max((weights_folder() / file.name for file in WEIGHTS[name].files), key=lambda path: path.stat().st_size)
    return Weights(name, WEIGHTS[name].files[0].url, file_sha256(largest), WEIGHTS[name].licence)


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
