"""Face detectors: OpenCV's Haar cascade, which needs no download, and YuNet, a small network with landmarks.

"auto" is YuNet where its file can be had, else Haar. Landmarks are x, y of right eye, left eye, nose, right and left
mouth corner (the person's right, which lies left in the picture). No deep-learning library is imported here, so that
decoding processes stay small.
"""

import logging
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from helpers.files import read_json
from helpers.weights import WEIGHTS, published_weights, require

log = logging.getLogger(__name__)

DETECTION_PX = 360  # longest shorter side that is searched
MIN_FACE, SMALLER = 0.2, 0.05  # of the shorter side, Haar only: 02's default, and what is too small for it
N_NEIGHBOURS = 5  # overlapping hits that make a face
MIN_SCORE, MAX_OVERLAP = 0.6, 0.3  # of YuNet, as in opencv_zoo's models/face_detection_yunet/yunet.py
HAAR = "haarcascade_frontalface_alt2"
PATIENCE_S = 5  # without an answer when YuNet is not asked for by name


def detect_faces(frame: np.ndarray, detector: str = "haar", min_face: float = MIN_FACE) -> np.ndarray:
    """Find the faces of one frame, RGB uint8 (H, W, 3), by "haar" (frontal faces) or "yunet" (any pose).

    `min_face`, of "haar": least width of a face as a share of the picture's shorter side.

    Returns:
        float32, (n, 5) of "haar" and (n, 15) of "yunet": x, y, width, height in pixels of `frame`, confidence,
        landmarks. The confidence is the number of overlapping hits of "haar" (at least 5), the score of "yunet"
        (0.6 to 1); the two cannot be compared.
    """
    color = cv2.COLOR_RGB2GRAY if detector == "haar" else cv2.COLOR_RGB2BGR
    picture, scale = shrunk(cv2.cvtColor(frame, color), DETECTION_PX)
    height, width = picture.shape[:2]
    if detector == "yunet":
        _yunet().setInputSize((width, height))
        return _rows_of_yunet(_yunet().detect(picture)[1], scale)
    least = round(min_face * min(height, width))
    boxes, hits = _cascade().detectMultiScale2(picture, 1.1, N_NEIGHBOURS, minSize=(least, least))
    return np.column_stack([boxes / scale, hits]).astype(np.float32) if len(boxes) else np.zeros((0, 5), np.float32)


def shrunk(picture: np.ndarray, shorter_px: int) -> tuple[np.ndarray, float]:
    """A picture with at most `shorter_px` pixels on its shorter side, and its size in that of the given one."""
    scale = min(1.0, shorter_px / min(picture.shape[:2]))
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return picture, scale


def _rows_of_yunet(found: np.ndarray | None, scale: float) -> np.ndarray:
    """Bring YuNet's table, None or float32 (n, 15) with the score last, into the order of `detect_faces`.

    Its boxes are taller than wide; here they become squares of the same centre with the longer side, like Haar's, so
    that one `crop_scale` serves both. `scale` is the searched picture's size in that of the frame.
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
    published_weights("yunet")
    return cv2.FaceDetectorYN.create(str(WEIGHTS["yunet"].path), "", (320, 320), MIN_SCORE, MAX_OVERLAP)


def chosen_detector(detector: str) -> str:
    """The detector that a name stands for, ready to be used: "auto" is "yunet" where its file can be had, else "haar".

    FileNotFoundError where YuNet is asked for by name and cannot be had; ValueError where its file is another one.
    """
    if detector == "haar":
        _cascade()
    elif detector == "yunet":
        require(["yunet"])
        _yunet()
    return _auto() if detector == "auto" else detector


def found_with(faces: Path) -> str | None:
    """The detector that 02's folder of a run was made with; None where there is no such folder."""
    path = faces / "manifest.json"
    return read_json(path)["identity"]["parameters"].get("detector", "haar") if path.exists() else None


@cache
def _auto() -> str:
    try:
        require(["yunet"], PATIENCE_S)
    except FileNotFoundError as error:
        log.info("detector: auto is haar. YuNet would find turned and small faces better, but %s", error)
        return chosen_detector("haar")
    log.info("detector: auto is yunet")
    return chosen_detector("yunet")


def detector_file(detector: str) -> str:
    """What decides a detector's boxes besides OpenCV, as manifests record it."""
    (yunet,) = WEIGHTS["yunet"].files
    return HAAR if detector == "haar" else f"{yunet.name} sha256:{yunet.file_hash}"


def detector_version(detector: str) -> str:
    """The detector with its library's version, as tracks record it: "haarcascade_frontalface_alt2, OpenCV 4.14.0"."""
    return f"{Path(detector_file(detector).split()[0]).stem}, OpenCV {cv2.__version__}"
