"""The table of published weights: what each is, its files with address and checksum, its licence, its preprocessing.

Data only: nothing here reads a file or the network, or imports Keras. In: a name. Out: a row of `WEIGHTS` (networks) or
`SAMPLES` (the clips whose logits are published). Sizes and git blob ids of google-deepmind/kinetics-i3d are those of
its commit 0667e88; a blob id is the sha1 that git gives a file's bytes, so it checks them.
"""

from dataclasses import dataclass

DEEPMIND = "https://github.com/google-deepmind/kinetics-i3d/raw/master/data"
KERAS_PORT = "https://github.com/dlpbc/keras-kinetics-i3d/releases/download/v0.2"
KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
MIT = "MIT (weights ported from the authors' Caffe release; ImageNet terms for the images)"
CC_BY = "CC BY 4.0" + MIT[3:]
APACHE = "Apache-2.0 (weights ported from google/automl; ImageNet terms for the images)"
RESNET = "He et al. 2016, https://arxiv.org/abs/1512.03385"
EFFICIENTNETV2 = "Tan and Le 2021, https://arxiv.org/abs/2104.00298"
VGG = "Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556"

DEFAULT = ": what weights=pretrained takes"


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


CAFFE = Preprocessing("BGR", mean=(103.939, 116.779, 123.68), scale=(1.0,) * 3)  # of weights ported from Caffe
HALVED = Preprocessing("RGB", mean=(128.0,) * 3, scale=(1 / 128,) * 3)  # the Rescaling that Keras would put in front
FLOW_INPUT = Preprocessing("uv", mean=(0.0, 0.0), scale=(1 / 20, 1 / 20), clip=20.0)
RGB_INPUT = Preprocessing("RGB", mean=(127.5,) * 3, scale=(1 / 127.5,) * 3)


@dataclass(frozen=True)
class PublishedFile:
    """One file: its name below the weights folder, its address, and what is published of its bytes.

    `file_hash` is its md5 or sha256, `git_blob` the id of its blob in the publishing repository.
    """

    name: str
    url: str
    file_hash: str | None = None
    n_bytes: int | None = None
    git_blob: str | None = None


@dataclass(frozen=True)
class Published:
    """A row of the table; below the weights folder, `path` is what a loader takes: a file, or a checkpoint's prefix.

    `kind` says who reads it: "keras" (Keras on any backend), "i3d_checkpoint" (TensorFlow's reader), "i3d_h5" (h5py),
    "onnx" (OpenCV), "sample" (NumPy). `n_classes` is 0 where the file holds no classifier.
    """

    path: str
    files: tuple[PublishedFile, ...]
    licence: str
    origin: str
    paper: str
    purpose: str
    kind: str
    input_px: int | None = None
    preprocessing: Preprocessing | None = None
    feature_layer: str = ""
    feature_dim: int = 0
    n_classes: int = 0

    @property
    def channels(self) -> int:
        """Channels of a network's input: 2 for flow, 3 for RGB."""
        return len(self.preprocessing.order)


def _i3d(stream: str, path: str, files: tuple[PublishedFile, ...], origin: str, **more) -> Published:
    return Published(
        path=path,
        files=files,
        licence="Apache-2.0",
        origin=origin,
        paper="Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750",
        input_px=224,
        preprocessing=FLOW_INPUT if stream == "flow" else RGB_INPUT,
        feature_layer="average pool after Mixed_5c",
        feature_dim=1024,
        **more,
    )


# Name here: (stream, folder there, what it was trained on, classes, bytes and blob of the index, and of the data).
CHECKPOINTS = {
    "i3d_flow_kinetics": (
        "flow", "flow_imagenet", "ImageNet inflated, trained on Kinetics-400", 400,
        (10_968, "8217f9450d851d24782aaf1af01c5c3b35b81a35"), (50_730_368, "bf56831f663abc3de0d35f193030b73a3df7fb61"),
    ),
    "i3d_rgb_kinetics": (
        "rgb", "rgb_imagenet", "ImageNet inflated, trained on Kinetics-400", 400,
        (10_953, "5ab1058b8f4f89a896c01f67c0a4c96a31548af7"), (50_818_176, "2958652e0c9c48a65010c0ebda5c9cfd4edc7c18"),
    ),
    "i3d_flow_kinetics_scratch": (
        "flow", "flow_scratch", "trained on Kinetics-400 alone", 400,
        (10_968, "193bc425100f3978c793da66bd9eb54baea8dc6a"), (50_730_368, "1d6a0b68f32544af11111342857e47e30d13afa9"),
    ),
    "i3d_rgb_kinetics_scratch": (
        "rgb", "rgb_scratch", "trained on Kinetics-400 alone", 400,
        (10_953, "84dd4518e982d9ca6ce1ff02e95fca2e8cbb1f73"), (50_818_176, "fa7df95674dbf3579e7fccd954e51e706b4734c1"),
    ),
    "i3d_rgb_kinetics600_scratch": (
        "rgb", "rgb_scratch_kin600", "trained on Kinetics-600 alone", 600,
        (19_632, "d378d8f01215fe92a29cd170f040c284070e9cd5"), (103_218_112, "6392a74c3180e706cabada39d8f40a50a48642e5"),
    ),
}  # fmt: skip


def _checkpoint(name: str) -> Published:
    stream, there, trained, n_classes, index, data = CHECKPOINTS[name]
    parts = {"model.ckpt.index": index, "model.ckpt.data-00000-of-00001": data}  # nobody needs the .meta, a graph
    return _i3d(
        stream,
        f"{name}/model.ckpt",
        tuple(
            PublishedFile(f"{name}/{part}", f"{DEEPMIND}/checkpoints/{there}/{part}", n_bytes=n_bytes, git_blob=blob)
            for part, (n_bytes, blob) in parts.items()
        ),
        f"google-deepmind/kinetics-i3d, {trained}",
        purpose=f"I3D {stream} stream, {trained}{DEFAULT if name == 'i3d_flow_kinetics' else ''}",
        kind="i3d_checkpoint",
        n_classes=n_classes,
    )


def _keras_port(stream: str, scratch: bool, top: bool) -> Published:
    trained = "kinetics_only" if scratch else "imagenet_and_kinetics"
    file = f"{stream}_inception_i3d_{trained}_tf_dim_ordering_tf_kernels{'' if top else '_no_top'}.h5"
    what = "with classifier" if top else "features only"
    return _i3d(
        stream,
        file,
        (PublishedFile(file, f"{KERAS_PORT}/{file}"),),  # no hash is published
        f"dlpbc/keras-kinetics-i3d v0.2, {trained}, ported from google-deepmind/kinetics-i3d",
        purpose=f"I3D {stream} stream, {trained.replace('_', ' ')}, Keras port, {what}",
        kind="i3d_h5",
        n_classes=400 if top else 0,
    )


def _imagenet(
    address: str,
    md5: str,
    licence: str,
    seen: Preprocessing,
    px: int,
    dim: int,
    paper: str,
    n_bytes: int | None = None,
    remark: str = "",
) -> Published:
    """A row of keras.applications without its classifier; md5, side and width as in that package's source."""
    file = address.rpartition("/")[2]
    return Published(
        path=file,
        files=(PublishedFile(file, f"{KERAS}/{address}", md5, n_bytes),),
        licence=licence,
        origin="keras.applications",
        paper=paper,
        purpose=f"static features of 03{remark}",
        kind="keras",
        input_px=px,
        preprocessing=seen,
        feature_layer="avg_pool",
        feature_dim=dim,
    )


WEIGHTS: dict[str, Published] = {
    "resnet50_imagenet": _imagenet(
        "resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "4d473c1dd8becc155b73f8504c6f6626",
        MIT, CAFFE, 224, 2048, RESNET, 94_765_736, DEFAULT,
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
    **{name: _checkpoint(name) for name in CHECKPOINTS},
    **{
        f"i3d_{stream}_kinetics{'_scratch' * scratch}_h5{'' if top else '_no_top'}": _keras_port(stream, scratch, top)
        for stream in ("flow", "rgb")
        for scratch in (False, True)
        for top in (True, False)
    },
}  # fmt: skip


def _sample(stream: str, blob: str) -> Published:
    file = f"v_CricketShot_g04_c01_{stream}.npy"
    return Published(
        path=file,
        files=(PublishedFile(file, f"{DEEPMIND}/{file}", git_blob=blob),),
        licence="Apache-2.0 (the video is of UCF101)",
        origin="google-deepmind/kinetics-i3d",
        paper="Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750",
        purpose=f"gold check: the {stream} clip whose logits are published",
        kind="sample",
    )


SAMPLES: dict[str, Published] = {
    "i3d_flow_sample": _sample("flow", "ee00e78e6f380caa5463de878d7c85ad7a01e668"),
    "i3d_rgb_sample": _sample("rgb", "d756c5020a6e0fb56a99b210e32f5865da712bba"),
}
