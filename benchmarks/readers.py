"""The ways to read the same frames that the video benchmarks time and judge: ours, OpenCV's, and other libraries'.

In: a clip and which frames. Out: RGB uint8 (n, px, px, 3) in order. Worker processes import this file, so it imports
no TensorFlow. A peer that is not installed, or cannot be loaded, is left out with its reason.
"""

import logging
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from helpers.container import VideoError
from helpers.files import stderr_into
from helpers.video import iter_frames, probe, read_frames

PX = 256
SIZE = (PX, PX)
JOBS: dict[str, dict[str, Any]] = {"64 uniform": {"n_frames": 64}, "every frame": {}, "5 fps": {"fps": 5.0}}
OPENCV = "OpenCV grab/retrieve"


@dataclass(frozen=True)
class Job:
    """What `read_frames` is asked for, and the `numbers` of the clip's `n_frames` that this means, each once."""

    path: Path
    asked: dict[str, Any]
    numbers: np.ndarray
    n_frames: int


@dataclass(frozen=True)
class Way:
    """How a job is done: `whole` gives all its frames in one array, `first` only the first of them."""

    whole: Callable[[Job], np.ndarray]
    first: Callable[[Job], Any]
    decoder: str


def ours(backend: str, decoder: str) -> Way:
    """This project's own way."""

    def whole(job: Job) -> np.ndarray:
        read = read_frames(job.path, **job.asked, size=SIZE, backend=backend)
        if len(read.index) == len(job.numbers):
            return read.frames
        return read.frames[np.unique(read.index, return_index=True)[1]]  # a clip shorter than what is asked of it

    def first(job: Job) -> Any:
        return next(iter_frames(job.path, **job.asked, size=SIZE, backend=backend))

    return Way(whole, first, decoder)


def grab_and_retrieve(job: Job, frames: np.ndarray) -> Iterator[np.ndarray]:
    """OpenCV as one writes it by hand, at its fastest: what is not wanted is not converted, and scaled before coloured.

    Args:
        job: What to read.
        frames: Filled as they come.
    """
    capture = cv2.VideoCapture(str(job.path))
    position = 0
    for number in range(int(job.numbers[-1]) + 1):
        if not capture.grab():
            break
        if number == job.numbers[position]:
            _, bgr = capture.retrieve()
            small = cv2.resize(bgr, SIZE, interpolation=cv2.INTER_LINEAR)
            yield cv2.cvtColor(small, cv2.COLOR_BGR2RGB, dst=frames[position])
            position += 1
    capture.release()


def opencv_way() -> Way:
    """OpenCV, by hand."""

    def whole(job: Job) -> np.ndarray:
        frames = np.zeros((len(job.numbers), PX, PX, 3), np.uint8)
        deque(grab_and_retrieve(job, frames), maxlen=0)
        return frames

    def first(job: Job) -> np.ndarray:
        return next(grab_and_retrieve(job, np.empty((1, PX, PX, 3), np.uint8)))

    return Way(whole, first, f"opencv {cv2.__version__} (ffmpeg)")


def decord_way() -> Way:
    """decord: one batch."""
    decord = import_module("decord")

    def whole(job: Job) -> np.ndarray:
        return decord.VideoReader(str(job.path), width=PX, height=PX).get_batch(job.numbers).asnumpy()

    def first(job: Job) -> np.ndarray:
        return decord.VideoReader(str(job.path), width=PX, height=PX)[int(job.numbers[0])].asnumpy()

    return Way(whole, first, f"decord {decord.__version__}")


def torchcodec_way() -> Way:
    """torchcodec: one batch, scaled by itself, as many threads as it likes."""
    version = f"torchcodec {import_module('torchcodec').__version__}"
    decoders, transforms = import_module("torchcodec.decoders"), import_module("torchcodec.transforms")

    def frames_at(job: Job, numbers: np.ndarray) -> np.ndarray:
        decoder = decoders.VideoDecoder(
            str(job.path), dimension_order="NHWC", num_ffmpeg_threads=0, transforms=[transforms.Resize(SIZE)]
        )
        return decoder.get_frames_at(numbers.tolist()).data.numpy()

    return Way(lambda job: frames_at(job, job.numbers), lambda job: frames_at(job, job.numbers[:1]), version)


def imageio_way() -> Way:
    """imageio: the frames of an ffmpeg process in turn, scaled there."""
    imageio, ffmpeg = import_module("imageio.v3"), import_module("imageio_ffmpeg")
    ffmpeg.get_ffmpeg_exe()  # an error if there is none
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns of the size that it is asked for

    def frames(job: Job) -> Iterator[np.ndarray]:
        every = imageio.imiter(job.path, plugin="FFMPEG", size=SIZE)
        wanted = set(job.numbers.tolist())
        for number, frame in enumerate(islice(every, int(job.numbers[-1]) + 1)):
            if number in wanted:
                yield frame
        every.close()

    version = f"imageio {import_module('imageio').__version__}, ffmpeg {ffmpeg.get_ffmpeg_version()}"
    return Way(lambda job: np.stack(list(frames(job))), lambda job: next(frames(job)), version)


PEERS = {"decord": decord_way, "torchcodec": torchcodec_way, "imageio": imageio_way}


def load_peers() -> tuple[dict[str, Way], dict[str, str]]:
    """The peers that can be used here, OpenCV first, and why the others cannot."""
    ways = {OPENCV: opencv_way()}
    missing = {}
    for name, make in PEERS.items():
        try:
            ways[name] = make()
        except ModuleNotFoundError as error:
            missing[name] = f"not installed ({error.name})"
        except Exception as error:  # a library of its own that does not load: RuntimeError, OSError, and others
            missing[name] = f"cannot be loaded: {str(error).strip().splitlines()[0]}"
    return ways, missing


def read_64(path: Path) -> Iterator[np.ndarray]:
    """What a worker of the folder measurement does with a clip."""
    yield read_frames(path, **JOBS["64 uniform"], size=SIZE).frames


def judge(order: tuple[Path, str, int]) -> Iterator[dict[str, Any]]:
    """What a worker does with a file that may be damaged: (path, backend, threads) -> our verdict, then a player's.

    Yields:
        What `read_fully` found; then the same `pictures` as a player shows them.
    """
    path, backend, threads = order
    cv2.setNumThreads(threads)  # our decoders' threads, too
    with stderr_into(os.devnull):
        found = read_fully(path, backend)
    yield found
    with stderr_into(os.devnull):
        pictures = play(path)
    yield {"pictures": pictures}


def read_fully(path: Path, backend: str) -> dict[str, Any]:
    """Probe a file and read every frame.

    Returns:
        `verdict`: "silent", "named", or "untold" for an error that is not one line about this file; `reason`; and
        `pictures`: a checksum of each frame and its time.
    """
    pictures = []
    try:
        for frame, t_s, *_ in iter_frames(path, backend=backend):
            pictures.append(zlib.crc32(np.ascontiguousarray(frame), round(1000 * t_s)))
        probe(path)
    except VideoError as error:
        reason = str(error)
        told = path.name in reason and len(reason.splitlines()) == 1
        return {"verdict": "named" if told else "untold", "reason": reason, "pictures": pictures}
    except Exception as error:
        return {"verdict": "untold", "reason": f"{type(error).__name__}: {error}", "pictures": pictures}
    return {"verdict": "silent", "reason": "", "pictures": pictures}


def play(path: Path) -> list[int]:
    """Checksums of the pictures that a player shows, which hides whatever damage it can; none if it cannot open it."""
    checksums = []
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            if stream.codec_context is None:
                return checksums
            for packet in container.demux(stream):
                try:
                    pictures = stream.codec_context.decode(packet)
                except av.FFmpegError:
                    continue
                frames = [picture.to_ndarray(format="rgb24") for picture in pictures]
                checksums += [zlib.crc32(np.ascontiguousarray(frame)) for frame in frames]
    except (av.FFmpegError, IndexError):  # not opened, or no video in it
        pass
    return checksums
