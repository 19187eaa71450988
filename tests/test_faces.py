"""Face tracks of drawn clips: the main face, one stable box, and a reason where there is none."""

from dataclasses import fields

import cv2
import numpy as np
import pytest

from helpers import faces
from helpers.faces import (
    FaceTrack,
    NoFaceError,
    crop_face,
    crop_faces,
    detect_faces,
    iou,
    main_face,
    read_track,
    stable_box,
    track_face,
    write_track,
)
from helpers.files import ROOT
from helpers.store import write_arrays
from helpers.video import read_frames

SAMPLE = ROOT / "data_sample"
SHIPPED = sorted((SAMPLE / "training80_01").glob("*.mp4"))
LAW = {"fps": 15.0, "every": 8, "scale": 1.7, "min_coverage": 0.3}


def track(name: str, **changes) -> FaceTrack:
    return track_face(SAMPLE / "awkward" / f"{name}.mp4", **{**LAW, **changes})


def test_a_face_is_found_where_it_is_at_any_size():
    frame = read_frames(SHIPPED[0], indices=[0]).frames[0]
    found = detect_faces(frame)
    assert found.shape == (1, 5)
    assert found.dtype == np.float32
    assert found[0, 4] >= faces.N_NEIGHBOURS
    x, y, w, h = found[0, :4]
    assert 80 < x + w / 2 < 240
    assert 60 < y + h / 2 < 180
    larger = detect_faces(cv2.resize(frame, None, fx=3, fy=3))
    np.testing.assert_allclose(larger[0, :4] / 3, found[0, :4], atol=0.08 * w)


def test_no_face_is_an_empty_table():
    noise = np.random.default_rng(0).integers(0, 256, (120, 161, 3)).astype(np.uint8)
    assert detect_faces(noise).shape == (0, 5)


def test_every_clip_of_a_person_gives_a_track_with_times():
    got = track_face(SHIPPED[1], **LAW)
    assert got.n_frames == 73
    assert got.coverage == 1
    assert got.frame.tolist() == list(range(0, 73, 8))
    np.testing.assert_allclose(got.t_s, np.arange(0, 73, 8) / 15)
    x0, y0, x1, y1 = got.box_xyxy
    assert x1 - x0 == pytest.approx(y1 - y0, abs=1e-3)
    widths = got.boxes_xyxy[:, 2] - got.boxes_xyxy[:, 0]
    assert x1 - x0 == pytest.approx(1.7 * np.median(widths), rel=1e-5)


def test_the_larger_of_two_faces_is_the_main_one():
    got = track("two_faces")
    assert got.n_faces_max == 2
    assert got.box_xyxy[[0, 2]].mean() < 160
    assert (got.boxes_xyxy[:, 2] < 192).all()


def test_a_turned_clip_has_its_face_in_the_displayed_frame():
    got = track("portrait_rotated")
    assert got.coverage == 1
    assert 60 < got.box_xyxy[[0, 2]].mean() < 180
    assert 80 < got.box_xyxy[[1, 3]].mean() < 240


def test_a_clip_without_a_face_says_so():
    with pytest.raises(NoFaceError, match="^no face found in 6 looked-at frames$"):
        track("no_face")


def test_a_face_that_leaves_is_lost_two_looks_later():
    got = track("face_leaving")
    assert got.coverage == pytest.approx(0.4)
    last_s = got.t_s[-1]
    assert got.has_face(np.array([0, last_s, last_s + 16 / 15, last_s + 17 / 15])).tolist() == [True, True, True, False]
    message = "^face in only 40 % of the looked-at frames, at least 50 % needed$"
    with pytest.raises(NoFaceError, match=message):
        track("face_leaving", min_coverage=0.5)


def test_overlap_of_boxes():
    assert iou(np.array([0, 0, 4, 4]), np.array([2, 0, 4, 4])) == pytest.approx(8 / 24)
    assert iou(np.array([0, 0, 4, 4]), np.array([4, 0, 4, 4])) == 0
    assert iou(np.array([1, 2, 3, 5]), np.array([1, 2, 3, 5])) == 1


def test_the_main_face_is_followed_by_overlap_not_by_order_or_size_alone():
    small = [np.float32([[10 + 2 * k, 10, 20, 20, 7]]) for k in range(5)]
    large = np.float32([[100, 10, 40, 40, 9]])
    found = [np.concatenate([large, small[0]]), small[1], small[2], np.concatenate([small[3], large]), small[4]]
    looks, rows = main_face(found)
    assert looks == [0, 3]
    assert (rows == large).all()
    looks, rows = main_face([small[0], large / 2, *small[1:]])
    assert looks == [0, 2, 3, 4, 5]
    assert rows[:, 0].tolist() == [10, 12, 14, 16, 18]
    assert main_face([np.zeros((0, 5), np.float32)])[0] == []


def test_the_stable_box_is_the_median_enlarged_and_raised():
    rows = np.float32([[10, 20, 30, 30, 9], [12, 22, 30, 30, 9], [100, 90, 50, 50, 9]])
    cx, cy, side = 27, 37 - 0.08 * 30, 1.7 * 30
    expected = [cx - side / 2, cy - side / 2, cx + side / 2, cy + side / 2]
    np.testing.assert_allclose(stable_box(rows, 1.7), expected, rtol=1e-6)


def test_a_crop_shows_the_box_and_repeats_the_edge_beyond_the_frame():
    frame = np.random.default_rng(1).integers(0, 256, (31, 47, 3)).astype(np.uint8)
    np.testing.assert_array_equal(crop_face(frame, np.float32([5, 7, 18, 20]), 13), frame[7:20, 5:18])
    outside = crop_face(frame, np.float32([-4, 3, 7, 14]), 11)
    np.testing.assert_array_equal(outside[:, 4:], frame[3:14, :7])
    np.testing.assert_array_equal(outside[:, :4], np.repeat(frame[3:14, :1], 4, axis=1))
    assert crop_faces([frame, frame, frame], np.float32([5, 7, 18, 20]), 26).shape == (3, 26, 26, 3)


def test_a_track_is_the_same_after_writing_and_reading(tmp_path):
    written = track("very_short")
    write_track(tmp_path / "a" / "b.npz", written, "stamp")
    got = read_track(tmp_path / "a" / "b.npz")
    for f in fields(FaceTrack):
        np.testing.assert_array_equal(getattr(got, f.name), getattr(written, f.name))
        assert type(getattr(got, f.name)) is type(getattr(written, f.name))


def test_a_damaged_track_names_the_file(tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"cut\.npz is damaged"):
        read_track(tmp_path / "cut.npz")
    write_arrays(tmp_path / "other.npz", features=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz is not a face track: it holds features"):
        read_track(tmp_path / "other.npz")


def test_an_opencv_without_haar_data_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(cv2, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(RuntimeError, match=r"ships no Haar data. Install 'opencv-contrib-python-headless>=4\.10,<5'"):
        faces._cascade.__wrapped__()
