"""Detectors: what they find, how their rows are laid out, and where YuNet's file must lie."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from numbered import FrameList
from tiny_yunet import tiny_yunet

from helpers import detectors, faces, weights
from helpers.config import PreparationConfig
from helpers.detectors import chosen_detector, detect_faces
from helpers.files import ROOT
from helpers.video import read_frames

SHIPPED = sorted((ROOT / "data_sample" / "training80_01").glob("*.mp4"))


@pytest.fixture
def yunet(tmp_path, monkeypatch):
    """The row of YuNet as a network that sees a face in every red square of 32 px, to be fetched from a file."""
    source = tmp_path / "source.onnx"
    source.write_bytes(tiny_yunet())
    digest = hashlib.sha256(tiny_yunet()).hexdigest()
    file = replace(weights.YUNET, url=source.as_uri(), file_hash=digest)
    row = replace(weights.WEIGHTS["yunet"], files=(file,))
    monkeypatch.setitem(weights.WEIGHTS, "yunet", row)
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path / "mine"))
    for cached in (detectors._yunet, detectors._auto):
        cached.cache_clear()
    yield source
    for cached in (detectors._yunet, detectors._auto):
        cached.cache_clear()


def test_a_face_is_found_where_it_is_at_any_size():
    frame = read_frames(SHIPPED[0], indices=[0]).frames[0]
    found = detect_faces(frame)
    assert (found.shape, found.dtype) == ((1, 5), np.float32)
    assert found[0, 4] >= detectors.N_NEIGHBOURS
    x, y, w, h = found[0, :4]
    assert 80 < x + w / 2 < 240
    assert 60 < y + h / 2 < 180
    assert detect_faces(frame * 0).shape == (0, 5)
    larger = detect_faces(cv2.resize(frame, None, fx=3, fy=3))
    np.testing.assert_allclose(larger[0, :4] / 3, found[0, :4], atol=0.08 * w)


def red_square(x: int, y: int, side: int, height: int, width: int) -> np.ndarray:
    frame = np.full((height, width, 3), 20, np.uint8)
    frame[y : y + side, x : x + side] = [240, 20, 20]
    return frame


def test_opencv_runs_a_network_of_yunets_shape_on_frames_of_any_size(yunet):
    chosen_detector("yunet")
    assert detect_faces(np.full((100, 100, 3), 128, np.uint8), "yunet").shape == (0, 15)
    (row,) = detect_faces(red_square(128, 64, 32, 180, 320), "yunet")
    np.testing.assert_allclose(row[:4], [112, 48, 64, 64], atol=1e-3)  # 48 px wide, 64 px tall, made square
    assert 0.6 < row[4] < 1
    np.testing.assert_allclose(row[5:], [128, 72, 160, 88, 144, 96, 128, 112, 160, 112], atol=1e-3)
    (large,) = detect_faces(red_square(512, 256, 128, 1440, 2560), "yunet")
    np.testing.assert_allclose(large[:4], [448, 192, 256, 256], atol=1e-2)


def test_a_clip_is_tracked_with_yunet_and_its_eyes_turned_level(yunet, monkeypatch):
    chosen_detector("yunet")
    frames = [red_square(64 + 32 * (k // 4), 64, 32, 180, 320) for k in range(9)]
    stream = FrameList([(frame, k / 4, k) for k, frame in enumerate(frames)])
    monkeypatch.setattr(faces, "iter_frames", lambda path, fps, backend: stream)
    cfg = PreparationConfig(fps=4.0, detect_every=4, detector="yunet", align_eyes=True)
    track = faces.track_clip("clip.mp4", cfg)
    assert track.coverage == 1
    np.testing.assert_allclose(track.angle_deg, np.degrees(np.arctan2(16, 32)), rtol=1e-4)
    np.testing.assert_allclose(track.box_xyxy[[0, 2]].mean(), 64 + 32 + 16, atol=1e-3)
    assert track.detector == f"face_detection_yunet_2023mar, OpenCV {cv2.__version__}"


def test_a_detector_that_cannot_be_had_is_refused(yunet):
    with pytest.raises(FileNotFoundError):
        detect_faces(np.zeros((40, 40, 3), np.uint8), "yunet")
    yunet.unlink()
    with pytest.raises(FileNotFoundError, match="OCEAN_WEIGHTS") as error:
        chosen_detector("yunet")
    place = weights.WEIGHTS["yunet"].path
    assert f"{place} from {yunet.as_uri()}" in str(error.value)
    place.write_bytes(b"another network")
    with pytest.raises(ValueError, match="published hash"):
        chosen_detector("yunet")


def test_auto_is_yunet_where_it_can_be_had_else_haar_and_a_run_is_not_gone_on_with_by_the_other(
    yunet, tmp_path, caplog
):
    caplog.set_level("INFO", "helpers.detectors")
    clips = pd.DataFrame({"path": []}, index=pd.Index([], name="key"))
    cfg = PreparationConfig(out_dir=str(tmp_path / "run"), detector="auto")
    identity = faces.prepare_clips(clips, cfg)["identity"]
    assert identity["parameters"]["detector"] == "yunet"
    assert weights.WEIGHTS["yunet"].files[0].file_hash in identity["detector"]
    weights.WEIGHTS["yunet"].path.unlink()
    yunet.unlink()
    detectors._auto.cache_clear()
    assert chosen_detector("auto") == "haar"
    assert yunet.as_uri() in caplog.text
    with pytest.raises(ValueError, match="yunet"):
        faces.prepare_clips(clips, cfg)
    other = replace(cfg, out_dir=str(tmp_path / "other"))
    identity = faces.prepare_clips(clips, other)["identity"]
    assert identity == faces.prepare_clips(clips, replace(other, detector="haar"))["identity"]  # as before, silent


@pytest.mark.weights
def test_yunet_finds_the_faces_that_haar_finds_and_their_eyes():
    if not weights.YUNET.place.is_file():
        pytest.skip(f"{weights.YUNET.place} is not there")
    frame = read_frames(SHIPPED[0], indices=[0]).frames[0]
    (haar,), (yunet,) = detect_faces(frame), detect_faces(frame, "yunet")
    np.testing.assert_allclose(yunet[:2] + yunet[2:4] / 2, haar[:2] + haar[2:4] / 2, atol=0.25 * haar[2])
    right, left = yunet[5:7], yunet[7:9]
    assert right[0] < left[0]
    assert yunet[1] < right[1] < yunet[1] + yunet[3] / 2


def test_finding_faces_needs_no_deep_learning_library():
    code = "import sys, helpers.faces; print([m for m in ('tensorflow', 'keras', 'jax', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
