"""Face detectors: OpenCV's Haar cascade, which needs no download, and YuNet, a small network with landmarks.

In: one RGB uint8 frame (H, W, 3). Out: a row per face, float32 (n, 5) or (n, 15): x, y, width, height in pixels of the
frame, a confidence, and with landmarks x, y of right eye, left eye, nose, right and left mouth corner (the person's
right, which lies left in the picture). No deep-learning library is imported here, so that decoding processes stay
small.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from helpers.files import weights_folder

DETECTORS = ("haar", "yunet")
LANDMARKS = ("yunet",)  # detectors that find the eyes
DETECTION_PX = 360  # longest shorter side that is searched; larger frames are shrunk
MIN_FACE = 0.2  # of the shorter side, Haar only
N_NEIGHBOURS = 5  # overlapping hits that make a face
MIN_SCORE, MAX_OVERLAP = 0.6, 0.3  # of YuNet, as in opencv_zoo's models/face_detection_yunet/yunet.py
HAAR = "haarcascade_frontalface_alt2"


@dataclass(frozen=True)
class DetectorFile:
    """A detector's model file: its name in the weights folder, address, sha256, size, and what may be done with it."""

    name: str
    url: str
    sha256: str
    n_bytes: int
    licence: str
    paper: str


YUNET = DetectorFile(
    name="face_detection_yunet_2023mar.onnx",
    url="https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/face_detection_yunet_2023mar.onnx",
    sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",  # of the pointer file in opencv_zoo
    n_bytes=232_589,
    licence="MIT",
    paper="Wu, Peng and Yu 2023, https://doi.org/10.1007/s11633-023-1423-y",
)


def detect_faces(frame: np.ndarray, detector: str = "haar") -> np.ndarray:
    """Find the faces of one frame.

    Args:
        frame: RGB uint8 (H, W, 3).
        detector: "haar" (frontal faces) or "yunet" (any pose; its file must be there: `require_detector`).

    Returns:
        float32, (n, 5) of "haar" and (n, 15) of "yunet": x, y, width, height in pixels of `frame`, confidence,
        landmarks. The confidence is the number of overlapping hits of "haar" (at least 5), the score of "yunet"
        (0.6 to 1); the two cannot be compared.
    """
    height, width = frame.shape[:2]
    scale = min(1.0, DETECTION_PX / min(height, width))
    if detector == "haar":
        return _detect_haar(frame, scale)
    if detector == "yunet":
        return _detect_yunet(frame, scale, _yunet())
    raise ValueError(f"detector must be one of {', '.join(map(repr, DETECTORS))}, got {detector!r}.")


def _detect_haar(frame: np.ndarray, scale: float) -> np.ndarray:
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if scale < 1:
        gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    least = round(MIN_FACE * min(gray.shape))
    boxes, hits = _cascade().detectMultiScale2(gray, 1.1, N_NEIGHBOURS, minSize=(least, least))
    if not len(boxes):
        return np.zeros((0, 5), np.float32)
    return np.column_stack([boxes / scale, hits]).astype(np.float32)


def _detect_yunet(frame: np.ndarray, scale: float, network: "cv2.FaceDetectorYN") -> np.ndarray:
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    if scale < 1:
        bgr = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    network.setInputSize((bgr.shape[1], bgr.shape[0]))
    return rows_of_yunet(network.detect(bgr)[1], scale)


def rows_of_yunet(found: np.ndarray | None, scale: float) -> np.ndarray:
    """Bring YuNet's table into this module's order.

    YuNet's boxes are taller than wide; here they become squares of the same centre with the longer side, like Haar's,
    so that one `crop_scale` serves both.

    Args:
        found: What `cv2.FaceDetectorYN.detect` gives: None, or float32 (n, 15) of x, y, width, height, ten landmark
            coordinates, score.
        scale: The searched picture's size in that of the frame.

    Returns:
        float32 (n, 15), see `detect_faces`.
    """
    if found is None:
        return np.zeros((0, 15), np.float32)
    boxes, landmarks, score = found[:, :4] / scale, found[:, 4:14] / scale, found[:, 14:]
    side = boxes[:, 2:].max(axis=1, keepdims=True)
    corner = boxes[:, :2] + (boxes[:, 2:] - side) / 2
    return np.concatenate([corner, side, side, score, landmarks], axis=1).astype(np.float32)


@cache
def _cascade() -> cv2.CascadeClassifier:
    path = Path(cv2.__file__).parent / "data" / f"{HAAR}.xml"
    if not hasattr(cv2, "CascadeClassifier") or not path.exists():
        raise RuntimeError(
            f"OpenCV {cv2.__version__} ships no Haar data. Install 'opencv-contrib-python-headless>=4.10,<5'."
        )
    return cv2.CascadeClassifier(str(path))


@cache
def _yunet() -> "cv2.FaceDetectorYN":
    path = _checked_file()
    return cv2.FaceDetectorYN.create(str(path), "", (320, 320), MIN_SCORE, MAX_OVERLAP)


def _checked_file() -> Path:
    """YuNet's file, or an error that says where to put it."""
    path = weights_folder() / YUNET.name
    if not path.is_file():
        raise FileNotFoundError(_how_to_get(path, "is missing"))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != YUNET.sha256:
        raise ValueError(_how_to_get(path, f"must have sha256 {YUNET.sha256}, got {found}"))
    return path


def _how_to_get(path: Path, what: str) -> str:
    file = f"{YUNET.name} ({YUNET.n_bytes:,} bytes, {YUNET.licence} licence)"
    return (
        f"{path} {what}. Put {file} there, from\n  {YUNET.url}\n"
        "or name another folder in OCEAN_WEIGHTS, or choose detector=haar, which needs no file."
    )


def require_detector(detector: str) -> None:
    """Make sure that a detector can be used, fetching YuNet's file if it is not there yet; call it before any work.

    Raises:
        FileNotFoundError: The file cannot be had; the message has its address and place.
        ValueError: The file that is there is another one.
    """
    if detector == "haar":
        _cascade()
    elif detector == "yunet":
        if not (weights_folder() / YUNET.name).is_file():
            _fetch_yunet()
        _checked_file()
    else:
        raise ValueError(f"detector must be one of {', '.join(map(repr, DETECTORS))}, got {detector!r}.")


def _fetch_yunet() -> None:
    from helpers.weights import PublishedFile, fetch  # imports Keras, which processes that only detect do without

    reason = fetch(PublishedFile(YUNET.name, YUNET.url, YUNET.sha256, YUNET.n_bytes))
    if reason:
        path = weights_folder() / YUNET.name
        raise FileNotFoundError(_how_to_get(path, f"is missing and could not be fetched ({reason})"))


def detector_file(detector: str) -> str:
    """What decides a detector's boxes besides OpenCV, as manifests record it."""
    return {"haar": HAAR, "yunet": f"{YUNET.name} sha256:{YUNET.sha256}"}[detector]


def detector_version(detector: str) -> str:
    """The detector with its library's version, as tracks record it: "haarcascade_frontalface_alt2, OpenCV 4.14.0"."""
    return f"{ {'haar': HAAR, 'yunet': Path(YUNET.name).stem}[detector] }, OpenCV {cv2.__version__}"
