"""Optical flow against known motion; its size, its range, its colours, and its files."""

import cv2
import numpy as np
import pytest
from trees import some_flow

from helpers.flow import METHODS, OpticalFlowComputer, normalise_flow, read_flow, resize_flow, write_flow
from helpers.plots.preparation import flow_to_rgb
from helpers.store import write_arrays

SIDE = 97


def texture() -> np.ndarray:
    noise = np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)


def moved(image: np.ndarray, dx: int, dy: int) -> np.ndarray:
    return np.roll(image, (dy, dx), axis=(0, 1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, 2)])
def test_a_picture_moved_right_or_down_gives_its_motion_in_pixels(method, dx, dy):
    image = texture()
    frames = np.stack([image, moved(image, dx, dy), moved(image, 2 * dx, 2 * dy)])
    flow = OpticalFlowComputer(method).compute(frames)
    assert flow.shape == (2, SIDE, SIDE, 2)
    assert flow.dtype == np.float32
    inside = flow[:, 20:-20, 20:-20].reshape(-1, 2)
    np.testing.assert_allclose(np.median(inside, axis=0), (dx, dy), atol=0.3)


def test_only_the_square_that_moves_has_flow():
    ground, square = texture(), moved(texture(), 41, 43)
    frames = np.stack([ground, ground])
    frames[0, 30:62, 20:52] = square[:32, :32]
    frames[1, 30:62, 23:55] = square[:32, :32]
    flow = OpticalFlowComputer("dis_medium").compute(frames)[0]
    np.testing.assert_allclose(np.median(flow[38:54, 30:44].reshape(-1, 2), axis=0), (3, 0), atol=0.3)
    assert np.abs(flow[:, 75:]).max() < 0.1


@pytest.mark.parametrize(
    "call",
    [
        lambda: OpticalFlowComputer().compute(texture()[None]),
        lambda: OpticalFlowComputer("raft"),
        lambda: resize_flow(np.zeros((5, 7, 11, 2), np.float32), 7),
        lambda: normalise_flow(np.zeros((3, 3, 2)), 0),
    ],
)
def test_what_gives_no_flow_is_refused(call):
    with pytest.raises(ValueError, match="must be|must have"):
        call()


def test_resizing_scales_the_vectors():
    flow = np.zeros((5, 22, 22, 2), np.float32)
    flow[..., 0], flow[..., 1] = 6, -4
    half = resize_flow(flow, 11)
    assert half.shape == (5, 11, 11, 2)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half[..., 0], 3)
    np.testing.assert_allclose(half[..., 1], -2)
    rough = np.random.default_rng(3).normal(size=(14, 14, 2)).astype(np.float32)
    np.testing.assert_allclose(resize_flow(rough, 7), rough.reshape(7, 2, 7, 2, 2).mean((1, 3)) / 2, atol=1e-6)
    np.testing.assert_allclose(resize_flow(flow[0], 44), np.broadcast_to(np.float32([12, -8]), (44, 44, 2)))


def test_normalising_truncates_and_divides():
    flow = np.float32([[-25, -20, -5, 0, 10, 21]])
    assert normalise_flow(flow, 20).tolist() == [[-1, -1, -0.25, 0, 0.5, 1]]
    assert normalise_flow(flow.astype(np.float64)).dtype == np.float32


def test_colours_show_direction_and_length():
    flow = np.float32([[[0, 0], [4, 0], [2, 0], [-4, 0], [0, 4], [0, -4], [9, 0]]])
    still, right, slow, left, down, up, beyond = flow_to_rgb(flow, max_px=4)[0].tolist()
    assert still == [255, 255, 255]
    assert right == beyond == [255, 0, 0]
    assert slow[0] == 255
    assert slow[1] == slow[2] == pytest.approx(128, abs=1)
    assert left == [0, 255, 255]
    assert down == pytest.approx([128, 255, 0], abs=1)
    assert up == pytest.approx([128, 0, 255], abs=1)


@pytest.mark.parametrize("clip_px", [20.0, 7.0])
def test_no_stored_value_in_range_is_wrong_by_more_than_half_a_step(tmp_path, clip_px):
    flow = some_flow()
    write_flow(tmp_path / "a.npz", flow, np.arange(3) / 15, 15, "dis_fast", clip_px)
    got = read_flow(tmp_path / "a.npz")
    assert got.flow.dtype == np.float32
    assert got.flow.shape == flow.shape
    error = np.abs(got.flow - np.clip(flow, -clip_px, clip_px)).max()
    assert 1 / 64 / 5 <= error <= 1 / 64 / 2 + 1e-6
    np.testing.assert_array_equal(got.fields(slice(2, 3))[0], got.flow[2])


def test_what_a_flow_file_says_about_itself_is_read_back(tmp_path):
    flow = np.zeros((2, 5, 7, 2), np.float32)
    flow[0, :, 0, 1] = -31
    write_flow(tmp_path / "deep" / "id.003.npz", flow, [0.2, 0.4], 5, "farneback", 30)
    got = read_flow(tmp_path / "deep" / "id.003.npz")
    assert (got.fps, got.method, got.clip_px, got.quantum_px) == (5, "farneback", 30, 1 / 64)
    assert got.clamped_share == pytest.approx(5 / 140)
    assert got.t_s.tolist() == [0.2, 0.4]
    assert got.flow.min() == -30
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["id.003.npz"]


@pytest.mark.parametrize(
    "change",
    [
        {"flow": np.zeros((2, 5, 7), np.float32)},
        {"flow": np.zeros((2, 5, 7, 2), np.uint8)},
        {"flow": np.full((2, 5, 7, 2), np.nan)},
        {"t_s": [0.0]},
        {"t_s": [0.2, 0.1]},
        {"fps": 0},
        {"clip_px": 0},
        {"clip_px": 512},
    ],
)
def test_what_cannot_be_stored_is_refused_before_writing(tmp_path, change):
    right = {"flow": np.zeros((2, 5, 7, 2), np.float32), "t_s": [0.0, 0.1], "fps": 10, "method": "tvl1"}
    with pytest.raises(ValueError, match=next(iter(change))):
        write_flow(tmp_path / "a.npz", **(right | change))
    assert not list(tmp_path.iterdir())


def test_other_and_damaged_flow_files_are_named(tmp_path):
    write_arrays(tmp_path / "rows.npz", features=np.zeros((2, 3)))
    write_flow(tmp_path / "a.npz", some_flow(), np.arange(3) / 15, 15, "dis_fast")
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    for name, error in (("rows", ValueError), ("a", ValueError), ("none", FileNotFoundError)):
        with pytest.raises(error, match=f"{name}.npz"):
            read_flow(tmp_path / f"{name}.npz")
