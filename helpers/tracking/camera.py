"""The camera's own motion between two frames, and flow without it: what moves in the scene, not with the picture.

In: two grey uint8 frames (H, W) at full size, the box of the face. Out: a `CameraMotion`, a similarity (shift, turn,
zoom) in pixels of the frame, estimated from what lies outside the person; flow (S, S, 2) of the face crop minus what
that similarity alone would move there.
"""

from dataclasses import dataclass

import cv2
import numpy as np

SEARCHED_PX = 360  # longest shorter side that points are followed in; larger frames are shrunk
MAX_POINTS = 200
MIN_INLIERS = 12  # a similarity has 4 unknowns: 2 points fix it, 6 times as many make chance agreement unlikely
MIN_ON_A_SIDE = 4  # inliers left and right of the face: its motion is interpolated, and one passer-by is no background
MIN_INLIER_SHARE = 0.4  # of the followed points; below, no motion is common to the picture
RETURN_PX = 0.5  # a point that is followed there and back must end this close to its start
AGREE_PX = 0.75  # points this close to the similarity's prediction count as inliers
FOLLOWED_PX = 0.02  # where following a point is exact: better agreement than this says nothing
TRUNK = 0.5  # the trunk below the box is taken to be this much of the box's width wider on either side
STILL = np.eye(2, 3)


@dataclass(frozen=True)
class CameraMotion:
    """Where the background goes: `matrix (2, 3) float64` takes a pixel (x, y, 1) of the first frame to the second.

    `n_inliers` of `n_points` followed points agree with it. `found` is False where too few do: the matrix is then the
    identity, and removing it changes nothing.
    """

    matrix: np.ndarray
    n_inliers: int
    n_points: int
    found: bool


@dataclass(frozen=True)
class View:
    """A whole frame and what was cut out of it: `gray (H, W) uint8`, `box_xyxy (4,)` and `angle_deg` as from
    `helpers.faces.crop_box`.
    """

    gray: np.ndarray
    box_xyxy: np.ndarray
    angle_deg: float = 0.0


def without_camera(flow: np.ndarray, view: View, next_view: View) -> tuple[np.ndarray, CameraMotion]:
    """Estimate the camera's motion from one view to the next and take it out of the flow between their crops.

    Args:
        flow: float32 (S, S, 2) from the crop of `view` to that of `next_view`, pixels of the crop per frame.
        view: What the flow starts from.
        next_view: What it ends in; its crop may lie elsewhere.

    Returns:
        The face's motion against the background, float32 (S, S, 2), pixels of the crop per frame; and the camera's
        motion, which counts as still where it says that it was not found.
    """
    camera = camera_motion(view.gray, next_view.gray, view.box_xyxy)
    crop, next_crop = (box_matrix(v.box_xyxy, flow.shape[1], v.angle_deg) for v in (view, next_view))
    return minus_camera(flow, camera.matrix, crop, next_crop), camera


def camera_motion(gray0: np.ndarray, gray1: np.ndarray, box_xyxy: np.ndarray) -> CameraMotion:
    """Estimate the motion of the background between two frames.

    Corners outside the person are followed by pyramidal Lucas-Kanade, there and back, and a similarity is fitted by
    RANSAC, so that other things that move do not count. OpenCV seeds RANSAC itself: the same frames give the same
    matrix.

    Args:
        gray0: Grey uint8 (H, W), the whole frame.
        gray1: The next one.
        box_xyxy: The face in pixels of the frame, (4,). It and the trunk below it are left out; may reach beyond.

    Returns:
        The motion in pixels of the frame. It cannot be told (`found` False) before a plain wall, where the person
        fills the picture, and where background is seen on one side of the face only.
    """
    if gray0.shape != gray1.shape or gray0.ndim != 2:
        raise ValueError(
            f"gray0 and gray1 must have one shape (H, W), got {gray0.shape} and {gray1.shape}. Pass whole grey frames."
        )
    scale = min(1.0, SEARCHED_PX / min(gray0.shape))
    small0, small1 = (_shrunk(gray, scale) for gray in (gray0, gray1))
    box = np.asarray(box_xyxy, np.float64) * scale
    start, end = _followed(small0, small1, box)
    if len(start) < MIN_INLIERS:
        return CameraMotion(STILL, 0, len(start), False)
    matrix, inliers = cv2.estimateAffinePartial2D(start, end, ransacReprojThreshold=AGREE_PX)
    agreeing = np.zeros(len(start), bool) if matrix is None else inliers.ravel().astype(bool)
    n_inliers = int(agreeing.sum())
    n_left = int((start[agreeing, 0] < (box[0] + box[2]) / 2).sum())
    one_sided = min(n_left, n_inliers - n_left) < MIN_ON_A_SIDE
    if one_sided or n_inliers < max(MIN_INLIERS, MIN_INLIER_SHARE * len(start)):
        return CameraMotion(STILL, n_inliers, len(start), False)
    matrix = _simplest(start[agreeing], end[agreeing], matrix)
    return CameraMotion(_rescaled(matrix, 1 / scale), n_inliers, len(start), True)


def _simplest(start: np.ndarray, end: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """The still camera, the shift or the similarity, by Schwarz's criterion: each unknown has to earn its place.

    A similarity that is fitted to the noise of corners around a face turns and zooms most inside it.
    """
    moved = (end - start).astype(np.float64)
    shift = np.column_stack([np.eye(2), moved.mean(axis=0)])
    n, costs = moved.size, []
    for matrix, n_unknowns in ((STILL, 0), (shift, 2), (similarity, 4)):
        rest = end - start @ matrix[:, :2].T - matrix[:, 2]
        costs.append((n * np.log(np.square(rest).mean() + FOLLOWED_PX**2) + n_unknowns * np.log(n), matrix))
    return min(costs, key=lambda cost: cost[0])[1]


def _shrunk(gray: np.ndarray, scale: float) -> np.ndarray:
    return gray if scale == 1 else cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _rescaled(matrix: np.ndarray, scale: float) -> np.ndarray:
    """The same motion in pixels that are `scale` times as many; pixel centres are whole numbers, as cv2 counts."""
    middle = (scale - 1) / 2  # pixel 0 of the small picture is the middle of the first pixels of the large one
    turn = matrix[:, :2]
    return np.column_stack([turn, scale * matrix[:, 2] + middle - turn @ [middle, middle]])


def _followed(gray0: np.ndarray, gray1: np.ndarray, box_xyxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners outside the person, and where they are in the next frame: float32 (n, 2) each, pixels."""
    corners = cv2.goodFeaturesToTrack(gray0, MAX_POINTS, 0.01, 6, mask=background_mask(gray0.shape, box_xyxy))
    if corners is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    there, seen, _ = cv2.calcOpticalFlowPyrLK(gray0, gray1, corners, None)
    back, again, _ = cv2.calcOpticalFlowPyrLK(gray1, gray0, there, None)
    returned = np.linalg.norm(back - corners, axis=-1) < RETURN_PX
    good = (seen.astype(bool) & again.astype(bool) & returned).ravel()
    return corners[good, 0], there[good, 0]


def background_mask(shape: tuple[int, int], box_xyxy: np.ndarray) -> np.ndarray:
    """255 where no person is expected: outside the box and the trunk below it; uint8 `shape` (H, W)."""
    height, width = shape
    x0, y0, x1, y1 = np.asarray(box_xyxy, np.float64)
    wider = TRUNK * (x1 - x0)
    mask = np.full(shape, 255, np.uint8)
    for left, right, top, bottom in ((x0, x1, y0, y1), (x0 - wider, x1 + wider, (y0 + y1) / 2, height)):
        columns, rows = np.clip([left, right], 0, width).astype(int), np.clip([top, bottom], 0, height).astype(int)
        mask[slice(*rows), slice(*columns)] = 0
    return mask


def box_matrix(box_xyxy: np.ndarray, size_px: int, angle_deg: float = 0.0) -> np.ndarray:
    """The matrix of `helpers.faces.crop_face`: pixels of the frame to pixels of the crop, float64 (2, 3)."""
    x0, y0, x1, _ = np.asarray(box_xyxy, np.float64)
    k = size_px / (x1 - x0)
    turn = cv2.getRotationMatrix2D((size_px / 2, size_px / 2), angle_deg, 1.0)
    return turn @ np.array([[k, 0, -x0 * k], [0, k, -y0 * k], [0, 0, 1]])


def minus_camera(
    flow: np.ndarray, camera: np.ndarray, crop: np.ndarray, next_crop: np.ndarray | None = None
) -> np.ndarray:
    """Take the camera's motion out of the flow of a crop.

    With p a pixel of the frame, C its place in the crop (C' in the next crop), M the camera's matrix, a point of the
    crop at q = Cp ends at C'^-1 (q + flow) in the next frame; had it only followed the camera, at MC^-1 q. Returned is
    the difference, seen through C: zero on the background, and on the face its own motion against the background. With
    one crop for both frames that is flow minus (CMC^-1 q - q).

    Args:
        flow: float32 (H, W, 2), pixels of the crop per frame.
        camera: `CameraMotion.matrix`, (2, 3), pixels of the frame.
        crop: Frame to crop in the first frame, (2, 3), see `box_matrix`; may turn and scale.
        next_crop: The same of the second frame, where the crop follows the face; default: `crop`.

    Returns:
        float32 (H, W, 2), pixels of the crop per frame.
    """
    if flow.ndim != 3 or flow.shape[-1] != 2:
        raise ValueError(f"flow must have shape (H, W, 2), got {flow.shape}. Pass one field at a time.")
    crop, next_crop = _square(crop), _square(crop if next_crop is None else next_crop)
    back = crop @ np.linalg.inv(next_crop)  # C C'^-1, the identity for one crop
    rest = (back - crop @ _square(camera) @ np.linalg.inv(crop)).astype(np.float32)
    x, y = np.arange(flow.shape[1], dtype=np.float32), np.arange(flow.shape[0], dtype=np.float32)[:, None]
    own = np.asarray(flow, np.float32) @ back[:2, :2].T.astype(np.float32)  # (H, W, 2)
    for axis in (0, 1):
        own[..., axis] += rest[axis, 0] * x + rest[axis, 1] * y + rest[axis, 2]
    return own


def _square(matrix: np.ndarray) -> np.ndarray:
    return np.vstack([np.asarray(matrix, np.float64), [0, 0, 1]])
