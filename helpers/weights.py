"""Published weights: what each is, where it comes from, how it is fetched and verified; and a frozen generator.

Files lie in the weights folder (`helpers.files.weights_folder`); provenance (`Weights`) goes into every manifest.
Nothing else in `helpers` touches the network, and Keras is not imported: processes that detect faces read the table.
"""

import hashlib
import logging
import shutil
import zlib
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.request import urlopen

import numpy as np

from helpers.files import file_sha256, replacing, weights_folder

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

DEEPMIND = "https://github.com/google-deepmind/kinetics-i3d/raw/master/data"
KERAS_PORT = "https://github.com/dlpbc/keras-kinetics-i3d/releases/download/v0.2"
KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
NO_TOP, V2 = "weights_tf_dim_ordering_tf_kernels_notop.h5", "efficientnet_v2/efficientnetv2"
OPENCV_ZOO = "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet"
MIT = "MIT (weights ported from the authors' Caffe release; ImageNet terms for the images)"
CC_BY = "CC BY 4.0" + MIT[3:]
APACHE = "Apache-2.0 (weights ported from google/automl; ImageNet terms for the images)"


class Preprocessing(NamedTuple):
    """What a network's input was when its weights were made: (x[order] - mean) * scale of frames in [0, 255].

    `order` names the channels, RGB or BGR; `mean` and `scale` have one value per channel.
    """

    order: str
    mean: tuple[float, ...]
    scale: tuple[float, ...]


CAFFE = Preprocessing("BGR", mean=(103.939, 116.779, 123.68), scale=(1.0,) * 3)  # of weights ported from Caffe
HALVED = Preprocessing("RGB", mean=(128.0,) * 3, scale=(1 / 128,) * 3)  # the Rescaling that Keras would put in front


@dataclass(frozen=True)
class PublishedFile:
    """One file: its name below the weights folder, its address, and what is published of its bytes.

    `file_hash` is, by its length, an md5, a sha256, or the id of its blob in a git repository (sha1); "" where nothing
    is published.
    """

    name: str
    url: str
    file_hash: str = ""

    @property
    def place(self) -> Path:
        return weights_folder() / self.name

    def fits(self, path: Path) -> bool:
        """Whether the bytes at `path` have the published hash; True where none is published."""
        if not self.file_hash:
            return True
        digest = hashlib.new({32: "md5", 40: "sha1", 64: "sha256"}[len(self.file_hash)])
        if digest.name == "sha1":
            digest.update(f"blob {path.stat().st_size}\0".encode())
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, lambda: digest).hexdigest() == self.file_hash


@dataclass(frozen=True)
class Published:
    """A row of the table.

    `kind` says who reads it: "keras" (Keras on any backend), "i3d_checkpoint" (TensorFlow's reader), "i3d_h5" (h5py),
    "onnx" (OpenCV). Of "keras", `build` is the network's name in `keras.applications`, and `law` draws its random
    kernels (see `fill_random`).
    """

    files: tuple[PublishedFile, ...]
    licence: str
    purpose: str
    kind: str
    channels: int = 3  # 2 for flow
    build: str = ""
    law: str = "he"
    input_px: int = 224
    preprocessing: Preprocessing | None = None
    feature_dim: int = 1024

    @property
    def path(self) -> Path:
        """What a loader takes: a file, or a checkpoint without `.index`."""
        place = self.files[0].place
        return place.with_suffix("") if place.suffix == ".index" else place

    @property
    def is_here(self) -> bool:
        return all(file.place.is_file() for file in self.files)


def _i3d(stream: str, channels: int, index: str, data: str) -> dict[str, Published]:
    """DeepMind's checkpoint with the blobs of its two files at commit 0667e88, and the file of the Keras port, of which
    no hash is published (Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750).
    """
    name, port = f"i3d_{stream}_kinetics", f"{stream}_inception_i3d_imagenet_and_kinetics_tf_dim_ordering_tf_kernels.h5"
    parts = {"model.ckpt.index": index, "model.ckpt.data-00000-of-00001": data}
    address = f"{DEEPMIND}/checkpoints/{stream}_imagenet"
    checkpoint = tuple(PublishedFile(f"{name}/{part}", f"{address}/{part}", blob) for part, blob in parts.items())
    about = "Apache-2.0", f"I3D {stream} stream, ImageNet inflated, then Kinetics-400"
    of_port = (PublishedFile(port, f"{KERAS_PORT}/{port}"),)
    return {
        name: Published(checkpoint, *about, "i3d_checkpoint", channels),
        f"{name}_h5": Published(of_port, *about, "i3d_h5", channels),
    }


def _of_keras(build: str, law: str, address: str, md5: str, licence: str, *record: Any) -> Published:
    files = (PublishedFile(address.rpartition("/")[2], f"{KERAS}/{address}", md5),)
    return Published(files, licence, "static features of 03", "keras", 3, build.replace("_", ""), law, *record)


YUNET = PublishedFile(  # Wu, Peng and Yu 2023, https://doi.org/10.1007/s11633-023-1423-y
    "face_detection_yunet_2023mar.onnx", f"{OPENCV_ZOO}/face_detection_yunet_2023mar.onnx",
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",  # of the pointer file in opencv_zoo
)  # fmt: skip
# Name in keras.applications, law of random kernels; file and md5 as in that package's source; licence; what it takes
# and gives. He et al. 2016 (arXiv 1512.03385), Tan and Le 2021 (2104.00298), Simonyan and Zisserman 2015 (1409.1556).
OF_KERAS = (
    ("ResNet50", "glorot", f"resnet/resnet50_{NO_TOP}", "4d473c1dd8becc155b73f8504c6f6626", MIT, 224, CAFFE, 2048),
    ("ResNet101", "glorot", f"resnet/resnet101_{NO_TOP}", "88cf7a10940856eca736dc7b7e228a21", MIT, 224, CAFFE, 2048),
    ("EfficientNetV2_S", "swish", f"{V2}-s_notop.h5", "af0682fb74e8c54910f2d4393339c070", APACHE, 384, HALVED, 1280),
    ("EfficientNetV2_M", "swish", f"{V2}-m_notop.h5", "1b8dc055df72dde80d614482840fe342", APACHE, 480, HALVED, 1280),
    ("VGG19", "he", f"vgg19/vgg19_{NO_TOP}", "253f8cb515780f3b799900260a226db6", CC_BY, 224, CAFFE, 512),
)
PUBLISHED = "_imagenet"  # behind a backbone's name: the row of its weights
WEIGHTS: dict[str, Published] = {
    **{f"{row[0].lower()}{PUBLISHED}": _of_keras(*row) for row in OF_KERAS},
    **_i3d("flow", 2, "8217f9450d851d24782aaf1af01c5c3b35b81a35", "bf56831f663abc3de0d35f193030b73a3df7fb61"),
    **_i3d("rgb", 3, "5ab1058b8f4f89a896c01f67c0a4c96a31548af7", "2958652e0c9c48a65010c0ebda5c9cfd4edc7c18"),
    "yunet": Published((YUNET,), "MIT", "face detector of 02, detector: yunet", "onnx"),
}


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


def published_weights(name: str) -> Weights:
    """Check that published weights are here with the published bytes; return their provenance, sha256 of the largest.

    FileNotFoundError where a file is missing, ValueError where it is another one.
    """
    row = WEIGHTS[name]
    for file in row.files:
        how = f"Run `python -m helpers weights fetch {name}`, or put it there from {file.url}"
        if not file.place.is_file():
            raise FileNotFoundError(f"{file.place} is not there. {how}")
        if not file.fits(file.place):
            raise ValueError(f"{file.place} must have the published hash {file.file_hash}. Delete it, then: {how}")
    largest = max((file.place for file in row.files), key=lambda path: path.stat().st_size)
    return Weights(name, row.files[0].url, file_sha256(largest), row.licence)


def converted_path(name: str) -> Path:
    """Where the variables of a row of I3D's lie once they are read, for NumPy alone (`helpers.i3d.read_published`)."""
    return weights_folder() / f"{name}.npz"


def require(names: list[str], patience_s: float = 30) -> None:
    """Fetch the published weights that are not there yet; of I3D's rows the converted file alone may be there.

    One FileNotFoundError names all that cannot be fetched, as after `patience_s` seconds without an answer.
    """
    absent = [WEIGHTS[name] for name in names if not converted_path(name).is_file()]
    missing, reason = [], ""
    for file in (file for row in absent for file in row.files if not file.place.is_file()):
        reason = reason or _fetch(file, patience_s)  # when one cannot be fetched the next would only wait as long
        if not file.place.is_file():
            missing.append(f"  {file.place} from {file.url}")
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} weight file(s) are missing and could not be fetched ({reason}). Put each where it is "
            "named, or name another folder in OCEAN_WEIGHTS, or choose what needs no file (weights=random, "
            "detector=haar):\n" + "\n".join(missing)
        )


def _fetch(file: PublishedFile, patience_s: float) -> str:
    """Download one file to its place, whole or not at all; return "" or the reason why not."""
    try:
        with replacing(file.place) as part:  # flushes it: after a power cut it must not be there without its bytes
            with urlopen(file.url, timeout=patience_s) as answer, open(part, "wb") as stream:
                shutil.copyfileobj(answer, stream)
            if not file.fits(part):
                raise ValueError(f"{file.url} is not the file that was published")
    except (OSError, ValueError, HTTPException) as error:
        return (str(error) or type(error).__name__).splitlines()[0]
    log.info("fetched %s from %s", file.place, file.url)
    return ""


# Numerators of the laws. 4.4 by trying: EfficientNetV2-M's features are 0 to 1e-1 at 4 and reach 2e8 at 6.
LAWS = {"glorot": 6, "he": 6, "swish": 4.4}

# What `fill_random` gave when it was written, with seed 0: the same bytes on every machine, or an error.
RANDOM_SHA256 = {
    "resnet50": "9d37f5944bb77df906718c2918e59502153b76f10afe2fa2376e174b4edcdb36",
    "efficientnetv2_s": "67fe90ae88570f3a1ec4a872e84d1241151321249bd1ea42d2045bd5fcda003f",
    "efficientnetv2_m": "42bcc4cd4715f5c040e59a6b67d02c954b075daea3d9a5d26e8e9f8fe99cda6a",
    "resnet101": "7bb036174b8d4a2ac2d31abcf6f6573cd77b7b88b0c19b1b8671cd023133951c",
    "vgg19": "89cc0db15e5f7c1949509e34d433176c1f5b63a8ffedb2182089ecf35e143daf",
    "i3d_flow": "fd559489d8bece21bdc5b32b41789dbe2c59dd621b3bb7e9ba6247a9eab6b2e6",
    "i3d_flow_Mixed_3c": "44992ec1f5b6620d4924a841e3f8c2736e02766c5acb78ef28543550b0981507",
    "i3d_rgb": "daf39e7bfc3029791d7e164fd4bedd5cc3950b9694a971d90b92085a656d7b4f",
}


def fill_random(model: "keras.Model", seed: int, law: str) -> str:
    """Fill every kernel (rank 2 and more) from a frozen generator; biases and batch norm stay as they were built.

    Each kernel has its own stream, `RandomState(crc32("seed/layer/variable"))`, so a part of a network holds the same
    values as the whole. Uniform in +-sqrt(LAWS[law] / n), n = fan_in + fan_out for "glorot" (Glorot and Bengio 2010)
    and fan_in for "he" (He et al. 2015) and "swish" (less variance), where a depthwise kernel counts one channel of
    input. RandomState is frozen by NumPy, and one multiplication rounds alike on every machine; a logarithm does not.

    Returns:
        sha256 over names and float32 values of the kernels, in the order of their names.
    """
    import keras

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


def random_weights(model: "keras.Model", network: str, law: str) -> Weights:
    """Fill a model as `fill_random` does with seed 0; RuntimeError where that gives other values than ever.

    `network` is its name, with the endpoint where it is cut short.
    """
    sha256 = fill_random(model, 0, law)
    if sha256 != (expected := RANDOM_SHA256.get(network, sha256)):
        raise RuntimeError(
            f"random weights of {network} must have sha256 {expected}, got {sha256}. NumPy {np.__version__} or this "
            "Keras builds them otherwise: install requirements.lock."
        )
    return Weights("random", f"frozen generator, {law}, seed 0, {network}", sha256, "none")
