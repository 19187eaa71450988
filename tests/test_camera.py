"""Motion of a drawn camera: found outside the face, and taken out of the flow inside it."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from helpers.faces import crop_face
from helpers.flow import OpticalFlowComputer
from helpers.tracking.camera import View, background_mask, box_matrix, camera_motion, minus_camera, without_camera

SIZE = (320, 240)  # width, height
BOX = np.float32([101, 43, 213, 155])  # side 112: the crop of 224 px doubles the frame's pixels
FACE = (157, 99, 34, 44)  # centre and half axes of the patch that moves by itself


def clouds(seed: int, size: tuple[int, int] = SIZE, sigma: float = 2.0) -> np.ndarray:
    """Smooth noise over the whole range of greys, float32 (H, W), a margin of 40 px included."""
    noise = np.random.default_rng(seed).normal(size=(size[1] + 80, size[0] + 80)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), sigma), None, 20, 235, cv2.NORM_MINMAX)


def shot(camera: np.ndarray, own_px: tuple[float, float] = (0, 0), scale: int = 1) -> np.ndarray:
    """A frame, grey uint8: the background as `camera` moved it, and the face moved by `camera` and `own_px`."""
    matrix = np.vstack([camera, [0, 0, 1]])
    size = (SIZE[0] * scale, SIZE[1] * scale)
    up = np.float64([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1]])
    to_texture = np.float64([[1, 0, 40], [0, 1, 40], [0, 0, 1]])
    rows, columns = np.indices((size[1], size[0]), np.float64)
    place = np.stack([columns, rows, np.ones_like(rows)], axis=-1)

    def seen(texture: np.ndarray, moved: np.ndarray) -> np.ndarray:
        at = (place @ (to_texture @ np.linalg.inv(moved) @ np.linalg.inv(up)).T).astype(np.float32)
        return cv2.remap(texture, at[..., 0], at[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)

    own = np.float64([[1, 0, own_px[0]], [0, 1, own_px[1]], [0, 0, 1]])
    patch = np.zeros_like(clouds(7))
    cv2.ellipse(patch, (FACE[0] + 40, FACE[1] + 40), FACE[2:], 0, 0, 360, 1.0, -1)
    alpha = seen(cv2.GaussianBlur(patch, (0, 0), 1), matrix @ own)
    return (seen(clouds(5), matrix) * (1 - alpha) + seen(clouds(7), matrix @ own) * alpha).round().astype(np.uint8)


def similarity(dx: float, dy: float, turn_deg: float = 0.0, zoom: float = 1.0) -> np.ndarray:
    """A turn and zoom about the middle of the frame, then a shift in pixels."""
    matrix = cv2.getRotationMatrix2D((SIZE[0] / 2, SIZE[1] / 2), turn_deg, zoom)
    matrix[:, 2] += (dx, dy)
    return matrix


CAMERAS = {
    "shift": similarity(4.3, -2.6),
    "turn": similarity(0.0, 0.0, 1.5),
    "zoom": similarity(0.0, 0.0, 0.0, 1.02),
    "all": similarity(-3.1, 1.7, -1.0, 0.985),
    "still": similarity(0.0, 0.0),
}


def displacement(matrix: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """What the matrix moves at a grid over the frame, (n, 2) pixels."""
    x, y = np.meshgrid(np.linspace(0, size[0], 5), np.linspace(0, size[1], 5))
    at = np.stack([x.ravel(), y.ravel(), np.ones(25)])
    return (matrix @ at - at[:2]).T


@pytest.mark.parametrize("name", CAMERAS)
def test_the_camera_is_found_however_the_face_moves(name):
    got = camera_motion(shot(np.eye(2, 3)), shot(CAMERAS[name], (5, 3)), BOX)
    assert got.found
    assert got.n_inliers > 40
    np.testing.assert_allclose(displacement(got.matrix), displacement(CAMERAS[name]), atol=0.1)


def test_a_large_frame_gives_the_motion_in_its_own_pixels():
    got = camera_motion(shot(np.eye(2, 3), scale=3), shot(CAMERAS["all"], (5, 3), scale=3), BOX * 3)
    large = (SIZE[0] * 3, SIZE[1] * 3)
    up = np.float64([[3, 0, 1], [0, 3, 1], [0, 0, 1]])
    truth = (up @ np.vstack([CAMERAS["all"], [0, 0, 1]]) @ np.linalg.inv(up))[:2]
    np.testing.assert_allclose(displacement(got.matrix, large), displacement(truth, large), atol=0.3)


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("own_px", [(0.0, 0.0), (1.5, -1.0)])
def test_without_the_camera_only_the_own_motion_of_the_face_remains(name, own_px):
    gray0, gray1 = shot(np.eye(2, 3)), shot(CAMERAS[name], own_px)
    crops = [crop_face(gray, BOX, 224) for gray in (gray0, gray1)]
    flow = OpticalFlowComputer("dis_medium").pair(*crops)
    own = minus_camera(flow, camera_motion(gray0, gray1, BOX).matrix, box_matrix(BOX, 224))
    x, y = int((FACE[0] - BOX[0]) * 2), int((FACE[1] - BOX[1]) * 2)
    face = own[y - 40 : y + 40, x - 30 : x + 30].reshape(-1, 2)
    turned = CAMERAS[name][:, :2] @ own_px  # the face moves in the axes of the scene, which the camera turns
    np.testing.assert_allclose(np.median(face, axis=0), 2 * turned, atol=0.2)
    corner = own[16:40, 16:40].reshape(-1, 2)
    np.testing.assert_allclose(np.median(corner, axis=0), 0, atol=0.2)


def test_a_crop_that_follows_the_face_gives_the_same_own_motion():
    camera, own_px = CAMERAS["all"], np.array([1.5, -1.0])
    middle = np.array([FACE[0], FACE[1], 1.0])
    moves = camera @ (middle + [*own_px, 0])  # where the middle of the face is in the second frame
    shift = moves - middle[:2]
    first, second = box_matrix(BOX, 224), box_matrix(BOX + np.tile(shift, 2), 224)
    flow = np.zeros((224, 224, 2), np.float32)  # the middle of the face stays where it is in the crop
    own = minus_camera(flow, camera, first, second)
    x, y = (first @ middle).astype(int)
    np.testing.assert_allclose(own[y, x], 2 * (camera[:, :2] @ own_px), atol=0.05)


@pytest.mark.parametrize(("move", "angle_deg", "next_angle_deg"), [((3, -2), 0, 0), ((0, 0), 11, 11), ((-2, 4), 7, 5)])
def test_crops_that_move_and_turn_tell_the_same_own_motion_in_the_axes_of_the_first(move, angle_deg, next_angle_deg):
    camera, own_px = CAMERAS["all"], (1.5, -1.0)
    first = View(shot(np.eye(2, 3)), BOX, angle_deg)
    second = View(shot(camera, own_px), BOX + np.tile(np.float32(move), 2), next_angle_deg)
    crops = [crop_face(view.gray, view.box_xyxy, 224, view.angle_deg) for view in (first, second)]
    own, motion = without_camera(OpticalFlowComputer("dis_medium").pair(*crops), first, second)
    assert motion.found
    matrix = box_matrix(BOX, 224, angle_deg)
    x, y = (matrix @ [FACE[0], FACE[1], 1]).astype(int)
    expected = matrix[:, :2] @ camera[:, :2] @ own_px
    np.testing.assert_allclose(
        np.median(own[y - 30 : y + 30, x - 20 : x + 20].reshape(-1, 2), axis=0), expected, atol=0.2
    )
    np.testing.assert_allclose(np.median(own[20:44, 20:44].reshape(-1, 2), axis=0), 0, atol=0.25)


def test_the_identity_leaves_flow_as_it_is():
    flow = np.random.default_rng(1).normal(size=(13, 17, 2)).astype(np.float32)
    np.testing.assert_allclose(minus_camera(flow, np.eye(2, 3), box_matrix([3, 5, 45, 47], 13)), flow, atol=1e-6)


def test_the_matrix_of_a_box_is_that_of_the_crop():
    frame = clouds(3).astype(np.uint8)
    matrix = box_matrix(BOX, 224)
    expected = cv2.warpAffine(frame, matrix, (224, 224), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert np.array_equal(crop_face(frame, BOX, 224), expected)
    turned = cv2.warpAffine(frame, box_matrix(BOX, 224, 9), (224, 224), borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(turned.astype(int) - crop_face(frame, BOX, 224, 9)).max() <= 1


def test_a_plain_wall_tells_nothing_and_says_so():
    wall = np.full((240, 320), 128, np.uint8)
    got = camera_motion(wall, wall, BOX)
    assert (got.found, got.n_points, got.n_inliers) == (False, 0, 0)
    assert np.array_equal(got.matrix, np.eye(2, 3))


def test_two_unrelated_pictures_have_no_common_motion():
    got = camera_motion(clouds(1).astype(np.uint8), clouds(2).astype(np.uint8), BOX)
    assert not got.found
    assert np.array_equal(got.matrix, np.eye(2, 3))


def test_a_face_that_fills_the_picture_leaves_nothing_to_judge_by():
    got = camera_motion(shot(np.eye(2, 3)), shot(CAMERAS["shift"]), np.float32([-20, -20, 400, 400]))
    assert not got.found


def test_what_moves_on_one_side_of_the_face_only_is_not_the_camera():
    gray0, gray1 = np.full((2, 240, 320), 128, np.uint8)
    gray0[20:120, 240:300] = shot(np.eye(2, 3))[20:120, 240:300]
    gray1[20:120, 245:305] = gray0[20:120, 240:300]  # somebody walks by, before a plain wall
    got = camera_motion(gray0, gray1, BOX)
    assert got.n_inliers > 20
    assert not got.found
    assert np.array_equal(got.matrix, np.eye(2, 3))


def test_a_still_camera_with_sensor_noise_is_still():
    r = np.random.default_rng(3)
    still = [np.clip(shot(np.eye(2, 3)) + r.normal(0, 3, SIZE[::-1]), 0, 255).astype(np.uint8) for _ in range(9)]
    got = [camera_motion(a, b, BOX) for a, b in pairwise(still)]
    assert all(motion.found for motion in got)
    assert sum(np.array_equal(motion.matrix, np.eye(2, 3)) for motion in got) >= 6
    assert max(np.abs(displacement(motion.matrix)).max() for motion in got) < 0.15


def test_face_and_trunk_are_left_out():
    mask = background_mask((20, 40), np.float32([16, 4, 24, 12]))
    assert set(np.unique(mask)) == {0, 255}
    assert not mask[4:12, 16:24].any()
    assert not mask[8:20, 12:28].any()
    assert mask[:4].all()
    assert mask[:, :12].all()
    assert mask[:8, 24:].all()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"gray0 and gray1 must have one shape \(H, W\), got \(5, 7\) and \(5, 11\)"):
        camera_motion(np.zeros((5, 7), np.uint8), np.zeros((5, 11), np.uint8), BOX)
    with pytest.raises(ValueError, match=r"flow must have shape \(H, W, 2\), got \(3, 5, 7, 2\)"):
        minus_camera(np.zeros((3, 5, 7, 2)), np.eye(2, 3), box_matrix(BOX, 7))
