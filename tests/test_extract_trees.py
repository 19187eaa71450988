"""Extraction from trees of faces and flow: bad files cost their rows, with the reason, on every run."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import test_extract
from trees import KINDS, face, write_bad_pictures, write_faces
from trees import write_pairs as write_flow

from helpers.config import DynamicConfig, StaticConfig
from helpers.extract import extract_dynamic, extract_static
from helpers.store import read_arrays, read_features

KEYS = ["train-1/a.001", "train-1/b.001", "train-1/c.001"]
SIDE = 32
networks = test_extract.networks  # small ones in place of the real ones


def flow_of(n: int) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 2, (n, SIDE, SIDE, 2)).astype(np.float32)


@pytest.fixture
def run(tmp_path) -> tuple[pd.DataFrame, dict[str, str], Path]:
    """Three clips without videos: two with 20 faces and 25 flows each, one with neither."""
    for name in ("a.001", "b.001"):
        write_faces(tmp_path / "faces" / name, range(0, 100, 5))
        write_flow(tmp_path / "flow" / name, flow_of(25))
    clips = pd.DataFrame({"path": KEYS}, index=pd.Index(KEYS, name="key"))
    return clips, {"data_dir": str(tmp_path), "out_dir": str(tmp_path / "run"), "workers": 1}, tmp_path


def static(run, **more):
    clips, folders, root = run
    return extract_static(clips, StaticConfig(**folders, faces_dir=str(root / "faces"), **more))


def dynamic(run, **more):
    clips, folders, root = run
    return extract_dynamic(clips, DynamicConfig(**folders, flow_dir=str(root / "flow"), input_px=32, **more))


def test_rows_of_stored_faces_have_the_times_of_their_numbers(run):
    manifest = static(run)
    assert manifest["counts"] == {
        "clips": 3, "made": 2, "found": 0, "failed": 1, "rows": 40, "invalid_rows": 0, "feature_dim": 3,
    }  # fmt: skip
    assert manifest["failed"] == [{"clip": KEYS[2], "reason": "there is nothing of it in faces"}]
    assert manifest["identity"]["stored"] == {"faces": "faces", "side_px": SIDE, "fps": 30.0}
    assert "every_n_frames" not in manifest["identity"]["parameters"]
    rows = read_features(run[2] / "run" / "static" / f"{KEYS[0]}.npz")
    assert rows.frame.tolist() == list(range(0, 100, 5))
    np.testing.assert_allclose(rows.t_start_s, np.arange(20) / 6)
    np.testing.assert_allclose(rows.t_end_s - rows.t_start_s, 1 / 30)
    expected = [cv2.resize(face(number), (64, 64)).mean(axis=(0, 1)) for number in range(0, 100, 5)]
    np.testing.assert_allclose(rows.features, expected, atol=2)  # JPEG
    assert rows.decoder.startswith("Pillow ")
    assert "reason" not in read_arrays(run[2] / "run" / "static" / f"{KEYS[0]}.npz")


def test_bad_pictures_are_rows_with_a_reason_that_a_second_run_repeats(run):
    write_bad_pictures(run[2] / "faces" / "a.001")
    first = static(run)
    again = static(run)
    assert (first["counts"]["made"], again["counts"]["made"], again["counts"]["found"]) == (2, 0, 2)
    for manifest in (first, again):
        bad = [entry for entry in manifest["failed"] if "row" in entry]
        assert [(entry["clip"], entry["row"]) for entry in bad] == [(KEYS[0], row) for row in range(20, 31)]
        for entry, reason in zip(bad, KINDS.values(), strict=True):
            assert entry["reason"].startswith(reason)
        assert manifest["counts"]["invalid_rows"] == len(KINDS)
    rows = read_features(run[2] / "run" / "static" / f"{KEYS[0]}.npz")
    assert rows.valid.tolist() == [True] * 20 + [False] * 11
    assert not rows.features[20:].any()
    assert len(rows.in_time().valid) == 20


def test_a_bad_flow_costs_the_rows_that_it_is_part_of(run):
    folder = run[2] / "flow" / "a.001"
    (folder / "flow_0009_0010.npy").unlink()
    np.save(folder / "flow_0012_0013.npy", np.full((SIDE, SIDE, 2), np.nan, np.float32))
    np.save(folder / "flow_0024_0025.npy", np.zeros((3, 3, 2), np.float32))  # behind the last row
    for _ in range(2):
        manifest = dynamic(run)
        assert [entry for entry in manifest["failed"] if "row" in entry] == [
            {"clip": KEYS[0], "row": 1, "reason": "flow_0009_0010.npy: missing"}
        ]
    rows = read_features(run[2] / "run" / "dynamic" / f"{KEYS[0]}.npz")
    assert rows.valid.tolist() == [True, False, True]
    np.testing.assert_allclose(rows.t_start_s, np.arange(3) * 8 / 6)
    whole = read_features(run[2] / "run" / "dynamic" / f"{KEYS[1]}.npz")
    np.testing.assert_allclose(whole.features[0], flow_of(25)[:8].mean(axis=(0, 1, 2)) / 20, atol=1e-5)
    np.testing.assert_array_equal(rows.features[[0, 2]], whole.features[[0, 2]])


def test_with_windows_every_window_with_a_bad_flow_is_invalid(run):
    (run[2] / "flow" / "a.001" / "flow_0012_0013.npy").write_bytes(b"")
    dynamic(run, mode="windows", window=10, stride=5)
    rows = read_features(run[2] / "run" / "dynamic" / f"{KEYS[0]}.npz")
    assert rows.valid.tolist() == [True, False, False, True]  # from 0, 5, 10 and 15
    assert rows.reason.tolist() == ["", *["flow_0012_0013.npy: empty (0 bytes)"] * 2, ""]


def test_stored_clips_that_cannot_be_used_leave_no_rows(run):
    root = run[2]
    dynamic(run)
    for number in range(3, 25):
        (root / "flow" / "a.001" / f"flow_{number:04d}_{number + 1:04d}.npy").unlink()
    shutil.rmtree(root / "flow" / "b.001")
    write_flow(root / "flow" / "c.001", flow_of(8))
    np.save(root / "flow" / "c.001" / "flow_0002_0004.npy", flow_of(1)[0])
    assert {entry["clip"]: entry["reason"].split(". ")[0] for entry in dynamic(run)["failed"]} == {
        KEYS[0]: "only 3 flows, at least 4 needed",
        KEYS[1]: "there is nothing of it in flow",
        KEYS[2]: "flow_0002_0003.npy and flow_0002_0004.npy have the same number 2",
    }
    assert not list((root / "run" / "dynamic").rglob("*.npz"))


def test_a_tree_at_another_rate_or_size_is_refused_with_the_difference(run):
    static(run)
    with pytest.raises(ValueError, match=r"stored\.fps: 25.0 here, 30.0 there"):
        static(run, faces_fps=25.0)
    shutil.move(run[2] / "faces", run[2] / "moved" / "faces")
    clips, folders, root = run
    moved = extract_static(clips, StaticConfig(**folders, faces_dir=str(root / "moved" / "faces"), batch_size=3))
    assert moved["counts"]["found"] == 2  # the same pictures, elsewhere
