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


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_moved_right_or_down_gives_its_motion_in_pixels(method):
    frames = [np.roll(texture(), (dy, dx), axis=(0, 1)) for dx, dy in ((0, 0), (3, 0), (3, 2))]
    flow = OpticalFlowComputer(method).compute(np.stack(frames))
    assert (flow.shape, flow.dtype) == ((2, SIDE, SIDE, 2), np.float32)
    for field, motion in zip(flow, ((3, 0), (0, 2)), strict=True):
        np.testing.assert_allclose(np.median(field[20:-20, 20:-20].reshape(-1, 2), axis=0), motion, atol=0.3)


def test_resizing_scales_the_vectors():
    flow = np.zeros((5, 22, 22, 2), np.float32)
    flow[..., 0], flow[..., 1] = 6, -4
    np.testing.assert_allclose(resize_flow(flow, 11), np.broadcast_to(np.float32([3, -2]), (5, 11, 11, 2)))
    np.testing.assert_allclose(resize_flow(flow[0], 44), np.broadcast_to(np.float32([12, -8]), (44, 44, 2)))
    rough = np.random.default_rng(3).normal(size=(14, 14, 2)).astype(np.float32)
    np.testing.assert_allclose(resize_flow(rough, 7), rough.reshape(7, 2, 7, 2, 2).mean((1, 3)) / 2, atol=1e-6)


def test_normalising_truncates_and_divides():
    flow = np.float64([[-25, -20, -5, 0, 10, 21]])
    assert normalise_flow(flow, 20).tolist() == [[-1, -1, -0.25, 0, 0.5, 1]]
    assert normalise_flow(flow).dtype == np.float32


def test_colours_show_direction_and_length():
    flow = np.float32([[[0, 0], [4, 0], [2, 0], [-4, 0], [0, 4], [0, -4], [9, 0]]])
    still, right, slow, left, down, up, beyond = flow_to_rgb(flow, max_px=4)[0].tolist()
    assert still == [255, 255, 255]
    assert right == beyond == [255, 0, 0]
    assert slow == pytest.approx([255, 128, 128], abs=1)
    assert left == [0, 255, 255]
    assert down == pytest.approx([128, 255, 0], abs=1)
    assert up == pytest.approx([128, 0, 255], abs=1)


@pytest.mark.parametrize("clip_px", [20.0, 7.0])
def test_a_flow_file_holds_values_to_half_a_step_and_what_is_said_about_them(tmp_path, clip_px):
    flow = some_flow()
    write_flow(tmp_path / "deep" / "id.003.npz", flow, [0.2, 0.4, 0.6], 5, "farneback", clip_px)
    got = read_flow(tmp_path / "deep" / "id.003.npz")
    assert (got.flow.dtype, got.flow.shape) == (np.float32, flow.shape)
    error = np.abs(got.flow - np.clip(flow, -clip_px, clip_px)).max()
    assert 1 / 64 / 5 <= error <= 1 / 64 / 2 + 1e-6
    np.testing.assert_array_equal(got.fields(2), got.flow[2])
    assert (got.fps, got.method, got.clip_px, got.quantum_px) == (5, "farneback", clip_px, 1 / 64)
    assert got.clamped_share == pytest.approx((np.abs(flow) > clip_px).mean())
    assert got.t_s.tolist() == [0.2, 0.4, 0.6]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["id.003.npz"]


RIGHT = {"flow": np.zeros((2, 5, 7, 2), np.float32), "t_s": [0.0, 0.1], "fps": 10, "method": "tvl1"}


@pytest.mark.parametrize(
    "call",
    [
        lambda _: OpticalFlowComputer().compute(texture()[None]),
        lambda _: OpticalFlowComputer("raft"),
        lambda _: resize_flow(np.zeros((5, 7, 11, 2), np.float32), 7),
        lambda _: normalise_flow(np.zeros((3, 3, 2)), 0),
        lambda path: write_flow(path, **RIGHT | {"flow": np.zeros((2, 5, 7), np.float32)}),
        lambda path: write_flow(path, **RIGHT | {"flow": np.zeros((2, 5, 7, 2), np.uint8)}),
        lambda path: write_flow(path, **RIGHT | {"flow": np.full((2, 5, 7, 2), np.nan)}),
        lambda path: write_flow(path, **RIGHT | {"t_s": [0.0]}),
        lambda path: write_flow(path, **RIGHT | {"t_s": [0.2, 0.1]}),
        lambda path: write_flow(path, **RIGHT | {"fps": 0}),
        lambda path: write_flow(path, **RIGHT | {"clip_px": 512}),
    ],
)
def test_what_gives_no_flow_is_refused_before_anything_is_written(tmp_path, call):
    with pytest.raises(ValueError, match="must"):
        call(tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_other_and_damaged_flow_files_are_named(tmp_path):
    write_arrays(tmp_path / "rows.npz", features=np.zeros((2, 3)))
    write_flow(tmp_path / "a.npz", some_flow(), np.arange(3) / 15, 15, "dis_fast")
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    for name, error in (("rows", ValueError), ("a", ValueError), ("none", FileNotFoundError)):
        with pytest.raises(error, match=f"{name}.npz"):
            read_flow(tmp_path / f"{name}.npz")
