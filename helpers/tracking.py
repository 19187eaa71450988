"""The faces of a clip: cuts, detections linked from look to look, and the face that the clip is about.

There is no face recognition here: a face is the same from one look to the next if it is at the same place and what is
about it looks alike; so a person comes back after a cut where the camera does.

Two pictures are alike if one, moved along its optical flow to the other (DIS, Kroeger et al. 2016,
https://arxiv.org/abs/1603.03590), correlates with it. That leaves out all that a head, a hand or a camera does between
neighbours, and brightness; a cut stays: on pictures of 45 px, neighbours of 52 clips differed by .02 at most, two
people in the same place by .26. A plain picture (black, white, the peak of a flash) is passed over: what comes after it
is compared with what was before it.

Detectors: OpenCV's Haar cascade, which needs no download, and YuNet, a small network with landmarks; "auto" is YuNet
where its file can be had. Landmarks are x, y of right eye, left eye, nose, right and left mouth corner (the person's
right, which lies left in the picture).
"""

import logging
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

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
    """Rows of `detect_faces` from YuNet's table, None or float32 (n, 15), score last, of a picture of size `scale`.

    Its tall boxes become squares of the same centre, like Haar's, so that one `crop_scale` serves both.
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


@cache
def chosen_detector(detector: str) -> str:
    """The detector that a name stands for, ready to be used: "auto" is "yunet" where its file can be had, else "haar".

    FileNotFoundError where YuNet is asked for by name and cannot be had; ValueError where its file is another one.
    """
    if detector != "haar":
        try:
            require(["yunet"], PATIENCE_S if detector == "auto" else 30)
            _yunet()
            return "yunet"
        except FileNotFoundError as error:
            if detector == "yunet":
                raise
            log.info("detector: auto is haar. YuNet would find turned and small faces better, but %s", error)
    _cascade()
    return "haar"


def detector_file(detector: str) -> str:
    """What decides a detector's boxes besides OpenCV, as manifests record it."""
    (yunet,) = WEIGHTS["yunet"].files
    return HAAR if detector == "haar" else f"{yunet.name} sha256:{yunet.file_hash}"


COMPARED_PX = 45  # shorter side of the compared pictures
PLAIN = 1.5  # deviation in grey levels; below it a picture shows nothing
CONTRAST = 40.0  # deviation in grey levels that pictures are brought to
NEAR = 8  # grey levels on average
SUSPECT = 0.08  # unlikeness of neighbours from which on something has happened
ALIKE = 0.1  # of the same face at other times: .06 at most in 52 clips; of two people: 99 % are beyond .12
ALONE = 3.0  # a cut stands out so many times from three neighbours on each side; a gesture, a hand, a flash does not

PICTURE_PX = 180  # longest shorter side of the grey pictures that faces are cut out of
SAME_FACE_IOU = 0.3
SAME_SHOT = 0.25  # unlikeness of what is about a face that was not found in between; two people: .35 in the middle
AROUND = 2.4  # widths of a face that are compared to know it again: with hair, collar and wall
MAX_FACES = 4  # of a look that are known again, the largest
RETIRED, PER_LOOK = 100, 10  # looks after which a face is gone for good, and so many more for each that it was seen at
NEARLY = 1.5  # times the area of the next face; below it there is a remark
# How unlike a face is to what it was at the last look, one aligned to the other, as 1 - correlation. A still picture,
# be it noisy, compressed, filmed by hand or zoomed into: .0013 in the middle and .002 at most; a quiet man .003, a
# blink .013 and more.
STILL_MEDIAN, STILL_MOST = 0.0015, 0.005
STILL = "the face does not move: a still picture?"
LOST = 0.4  # unlikeness; beyond it the face is no longer there
STILL_S = 1.5  # that a face must be seen for: for a second a man may keep as quiet as a picture
EVERY = 2  # which sample is compared, where not each is a look: a blink lasts for as many at 15 a second
ALIGNED_PX, PATCH_PX = 72, 24  # sides of faces while they are aligned, and when they are compared
Place = tuple[int, int]  # of a detection: look, and row among the faces found there


def small(gray: np.ndarray) -> np.ndarray | None:
    """A grey picture uint8 (h, w) as it is compared: 45 px, of one contrast; None where it is plain."""
    scale = COMPARED_PX / min(gray.shape)
    size = [max(16, round(side * scale)) for side in gray.shape[::-1]]
    picture = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    (mean,), (deviation,) = (found.ravel().tolist() for found in cv2.meanStdDev(picture))
    if deviation < PLAIN:
        return None
    return cv2.convertScaleAbs(picture, alpha=CONTRAST / deviation, beta=128 - mean * CONTRAST / deviation)


def unlikeness(before: np.ndarray | None, after: np.ndarray | None) -> float:
    """How unlike two pictures of `small` are, from 0 to 2; 2 where only one of them is plain."""
    if before is None or after is None:
        return 0.0 if before is after else 2.0
    if before.shape != after.shape:
        after = cv2.resize(after, before.shape[::-1], interpolation=cv2.INTER_AREA)
    if cv2.norm(before, after, cv2.NORM_L1) < NEAR * after.size:
        return 0.0  # .03 at most, without any motion
    flow = _flow().calc(after, before, None)
    x, y = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in after.shape[::-1]))
    moved = cv2.remap(before, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return 1.0 - _correlation(moved, after)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two pictures of one shape; 0 when one of them is plain."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


@cache
def _flow() -> cv2.DISOpticalFlow:
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)


class Shots:
    """Takes the grey pictures of a clip one by one, and knows then where the clip is cut."""

    def __init__(self) -> None:
        self._changes: list[float] = []
        self._last: np.ndarray | None = None

    def step(self, gray: np.ndarray) -> bool:
        """Take the next picture; whether it differs from the last one as no face makes it."""
        picture = small(gray)
        comparable = self._last is not None and picture is not None
        self._changes.append(unlikeness(self._last, picture) if comparable else 0.0)
        self._last = self._last if picture is None else picture
        return self._changes[-1] > SUSPECT

    def cuts(self) -> np.ndarray:
        """The samples that begin a shot, but for the first shot: int64, increasing."""
        changes = np.array(self._changes)
        padded = np.pad(changes, 3)
        around = np.max([padded[k : k + len(changes)] for k in (0, 1, 2, 4, 5, 6)], axis=0, initial=0)
        return np.flatnonzero((changes > SUSPECT) & (changes >= ALONE * around)).astype(np.int64)


class Follower:
    """Takes the samples of a clip one by one.

    Of every look, `looked` has the sample's number and `found` the detector's rows. Of its largest detections: `about`,
    what is about each, as `small` makes it; `changes`, how unlike the face became until the next look or cut.
    """

    def __init__(self, every: int = EVERY) -> None:
        self.every = every  # which sample a face is compared at
        self.looked: list[int] = []
        self.found: list[np.ndarray] = []
        self.about: dict[Place, np.ndarray | None] = {}
        self.changes: dict[Place, list[float]] = {}
        self.shots = Shots()
        self._at_look = np.zeros((0, 0), np.uint8)  # the grey picture of the last look
        self._boxes: dict[Place, np.ndarray] = {}  # in it, of faces that are still there

    def step(self, sample: int, frame: np.ndarray, faces: np.ndarray | None) -> None:
        """Take the next sample: number, RGB uint8 (H, W, 3), and the rows of `detect_faces` at a look, else None."""
        gray, scale = shrunk(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), PICTURE_PX)
        if self.shots.step(gray):
            self._boxes = {}
        if self._boxes and (sample - self.looked[-1]) % self.every == 0:
            changes = {place: _change(self._at_look, gray, box) for place, box in self._boxes.items()}
            self._boxes = {place: box for place, box in self._boxes.items() if changes[place] <= LOST}
            for place in self._boxes:
                self.changes[place].append(changes[place])
        if faces is not None:
            self._look(sample, gray, scale, faces)

    def _look(self, sample: int, gray: np.ndarray, scale: float, faces: np.ndarray) -> None:
        boxes, look = corners(faces), len(self.looked)
        largest = np.argsort(-faces[:, 2] * faces[:, 3], kind="stable")[:MAX_FACES]
        self._boxes, self._at_look = {(look, row): boxes[row] * scale for row in largest.tolist()}, gray
        for place, box in self._boxes.items():
            self.about[place], self.changes[place] = small(_cut_out(gray, box, AROUND)), []
        self.looked.append(sample)
        self.found.append(faces)


def _change(before: np.ndarray, after: np.ndarray, box_xyxy: np.ndarray) -> float:
    """How unlike what a box shows in a later picture is, aligned (Evangelidis and Psarakis 2008): 1 - correlation."""
    margin, whole = ALIGNED_PX // 4, ALIGNED_PX + ALIGNED_PX // 2
    before, after = (_resized(_cut_out(picture, box_xyxy, 1.5), whole) for picture in (before, after))
    face = before[margin:-margin, margin:-margin]
    moved = np.float32([[1, 0, margin], [0, 1, margin]])
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-4)
    try:
        _, moved = cv2.findTransformECC(face, after, moved, cv2.MOTION_AFFINE, criteria, None, 3)
    except cv2.error:  # nothing in common
        return 1.0
    aligned = cv2.warpAffine(after, moved, face.shape, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return 1.0 - _correlation(*(_resized(picture, PATCH_PX).astype(np.float32) for picture in (face, aligned)))


def _resized(gray: np.ndarray, side_px: int) -> np.ndarray:
    return cv2.resize(gray, (side_px, side_px), interpolation=cv2.INTER_AREA)


def _cut_out(gray: np.ndarray, box_xyxy: np.ndarray, widths: float = 1.0) -> np.ndarray:
    size = np.maximum(np.round(widths * (box_xyxy[2:] - box_xyxy[:2])), 2).astype(int)
    centre = (box_xyxy[:2] + box_xyxy[2:] - 1) / 2
    return cv2.getRectSubPix(gray, tuple(size.tolist()), tuple(centre.tolist()))


def corners(faces: np.ndarray) -> np.ndarray:
    """The boxes of a detector's rows (n, >= 4) of x, y, width, height as x0, y0, x1, y1, float64 (n, 4)."""
    return np.column_stack([faces[:, :2], faces[:, :2] + faces[:, 2:4]]).astype(np.float64)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes x0, y0, x1, y1: (..., 4) twice, which broadcast, to (...)."""
    shared = np.prod((np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0), axis=-1)
    areas = (np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (a, b))
    return shared / (sum(areas) - shared)


class MainFace(NamedTuple):
    """The face that a clip is about.

    `looks` at which it was found, ascending, and its `rows` (k, >= 5) there; `coverage`, their share of all looks;
    `cuts`, samples that begin a shot, but for the first one; whether it moves; why it was chosen; remarks.
    """

    looks: list[int]
    rows: np.ndarray
    coverage: float
    cuts: np.ndarray
    moves: bool
    reason: str
    remarks: list[str]


def main_face(follower: Follower, fps: float) -> MainFace | None:
    """Choose the face that a clip of `fps` samples a second is about, once all are taken; None where there is none.

    Faces that do not move are passed over where another one does. In a clip that is cut it is then the face of most
    looks, else the one with the largest summed area.
    """
    found, faces, cuts = follower.found, link(follower), follower.shots.cuts()
    if not faces:
        return None
    moving = [face for face in faces if not is_still(face, follower, fps)]
    still_px = [found[look][row][2] for face in faces if face not in moving for look, row in face]
    face, reason, remarks = _chosen(moving or faces, found, len(cuts) > 0)
    if not moving:
        remarks = [STILL, *remarks]
    elif still_px:
        remarks = [f"a still face of {max(still_px):.0f} px is passed over", *remarks]
    looks, rows = [look for look, _ in face], np.stack([found[look][row] for look, row in face])
    reason = "the only face" if len(faces) == 1 else reason
    return MainFace(looks, rows, len(face) / len(found), cuts, bool(moving), reason, remarks)


def _chosen(faces: list[list[Place]], found: list[np.ndarray], is_cut: bool) -> tuple[list[Place], str, list[str]]:
    """One of several faces, why, and remarks."""
    areas = [sum(found[look][row][2] * found[look][row][3] for look, row in face) for face in faces]
    largest, *others = np.argsort(-np.array(areas), kind="stable").tolist()
    if not others:
        return faces[largest], "the only face that moves", []
    if is_cut:
        face = faces[max(range(len(faces)), key=lambda k: (len(faces[k]), areas[k]))]
        return face, f"most time on screen: {len(face)} of {len(found)} looks, of {len(faces)} faces", []
    times = areas[largest] / areas[others[0]]
    remarks = [f"another face is nearly as large ({times:.1f} times)"] if times < NEARLY else []
    return faces[largest], f"largest summed area: {times:.1f} times the next of {len(faces)} faces", remarks


def link(follower: Follower) -> list[list[Place]]:
    """The detections of each face, which overlap and look alike; one not seen for long is gone: time stays linear."""
    faces, known = [], []
    boxes, cuts = [corners(rows) for rows in follower.found], follower.shots.cuts()
    for look, here in enumerate(boxes):
        known = [face for face in known if look - face[-1][0] <= RETIRED + PER_LOOK * len(face)]
        last = np.array([boxes[i][j] for i, j in (face[-1] for face in known)]).reshape(-1, 1, 4)
        overlaps = iou(last, here[None])
        free = dict.fromkeys(range(len(here)))
        pairs = ((overlaps[pair], *pair) for pair in zip(*np.nonzero(overlaps >= SAME_FACE_IOU), strict=True))
        for _, i, j in sorted(pairs, reverse=True):
            before, place = known[i][-1], (look, int(j))
            if j in free and before[0] < look and _is_same(follower, before, place, cuts):
                known[i].append(place)
                del free[j]
        new = [[(look, j)] for j in free]
        faces += new
        known += new
    return faces


def _is_same(follower: Follower, before: Place, place: Place, cuts: np.ndarray) -> bool:
    """Whether two detections that overlap are of one face."""
    is_cut = ((cuts > follower.looked[before[0]]) & (cuts <= follower.looked[place[0]])).any()
    limit = ALIKE if is_cut else SAME_SHOT
    return unlikeness(follower.about.get(before), follower.about.get(place)) <= limit


def is_still(face: list[Place], follower: Follower, fps: float) -> bool:
    """Whether a face hardly changes between looks, blinks and breathing included: a picture of one."""
    changes = [change for place in face for change in follower.changes.get(place, [])]
    seconds = follower.every * len(changes) / fps
    return seconds >= STILL_S and np.median(changes) < STILL_MEDIAN and max(changes) < STILL_MOST


def roll_deg(rows: np.ndarray) -> np.ndarray:
    """Roll of the eye line in degrees, (n,), from rows with landmarks: positive when the picture's right is lower."""
    right, left = rows[:, 5:7], rows[:, 7:9]  # the person's right eye lies left in the picture
    return np.degrees(np.arctan2(left[:, 1] - right[:, 1], left[:, 0] - right[:, 0]))
