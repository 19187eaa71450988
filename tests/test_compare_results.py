"""The comparison of two results folders finds each kind of difference, and no other."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.files import ROOT

TOOL = ROOT / "tools" / "compare_results.py"
SUMMARY = {
    "models": {"ridge": {"r2": {"mean": 0.5}, "mae": 0.1}},
    "attention": {"pointing": 0.9, "pointing_interval": [0.8, 0.95]},
    "comparisons": [{"verdict": "ridge is better: +0.50 [+0.40, +0.60].", "low": 0.4}],
    "seconds": 3.0,
}


def npz(path: Path, **arrays: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def change_npz(path: Path, **arrays: object) -> None:
    npz(path, **(dict(np.load(path)) | arrays))


def change_json(path: Path, *keys: str, value: object) -> None:
    data = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(data))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old", tmp_path / "new"
    boxes = np.tile(np.float32([10, 10, 50, 50]), (4, 1))
    npz(old / "faces/a.npz", box_xyxy=boxes[0], found_xyxy=boxes, coverage=1.0, stamp="then")
    npz(old / "static/a.npz", features=np.ones((4, 8), "float32"), valid=np.ones(4, bool), stamp="then")
    npz(old / "aligned/aligned_frames.npz", static_features=np.ones((4, 2), "float32"), clips=np.array(["a", "b"]))
    failed = [{"clip": "b", "reason": "no face"}, {"clip": "c", "reason": "broken"}]
    manifest = {"identity": {"fps": 15.0}, "failed": failed, "seconds": 1.0, "counts": {"clips": 3, "found": 0}}
    (old / "static/manifest.json").write_text(json.dumps(manifest))
    (old / "summary.json").write_text(json.dumps(SUMMARY))
    (old / "predictions.csv").write_text("model,clip,prediction\nridge,a,0.5\nridge,b,0.25\n")
    (old / "clips.csv").write_text("key,source\na,a\nb,\n")
    shutil.copytree(old, new)
    return old, new


def compare(*folders: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, str(TOOL), *map(str, folders)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_what_may_change_is_equal(folders: tuple[Path, Path]) -> None:
    _, new = folders
    change_npz(new / "static/a.npz", stamp="now")
    change_json(new / "static/manifest.json", "seconds", value=9.0)
    change_json(new / "static/manifest.json", "counts", "found", value=3)
    failed = json.loads((new / "static/manifest.json").read_text())["failed"]
    change_json(new / "static/manifest.json", "failed", value=failed[::-1])
    change_json(new / "summary.json", "models", "ridge", "mae", value=0.1 + 5e-7)
    change_json(new / "summary.json", "attention", "pointing_interval", value=[0.805, 0.945])
    change_json(new / "summary.json", "comparisons", 0, "verdict", value="ridge is better: +0.50 [+0.41, +0.60].")
    (new / "predictions.csv").write_text("model,clip,prediction\nridge,b,0.25\nridge,a,0.5000004\n")
    status, text = compare(*folders)
    assert status == 0, text
    assert "largest difference 5e-07 at summary.json:models:ridge:mae" in text


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "point": (
        lambda n: change_json(n / "summary.json", "models", "ridge", "r2", "mean", value=0.50001),
        "r2:mean: 0.5 ",
    ),
    "interval": (
        lambda n: change_json(n / "summary.json", "attention", "pointing_interval", value=[0.8, 0.93]),
        "pointing_interval[1]: 0.95 became 0.93",
    ),
    "verdict": (
        lambda n: change_json(n / "summary.json", "comparisons", 0, "verdict", value="ridge is worse"),
        "became 'ridge is worse'",
    ),
    "key": (
        lambda n: change_json(n / "summary.json", "models", "constant", value={}),
        "models:constant is only in NEW",
    ),
    "rows": (
        lambda n: change_npz(n / "static/a.npz", features=np.full((4, 8), 1 + 1e-6, "float32")),
        "static/a.npz: features is not the same bits",
    ),
    "valid": (lambda n: change_npz(n / "static/a.npz", valid=np.zeros(3, bool)), "valid bool (4,)  became bool (3,)"),
    "identity": (
        lambda n: change_json(n / "static/manifest.json", "identity", "fps", value=25.0),
        "identity:fps: 15 became 25",
    ),
    "failure": (
        lambda n: change_json(n / "static/manifest.json", "failed", value=[{"clip": "b", "reason": "dark"}]),
        "failed: ",
    ),
    "aligned": (
        lambda n: change_npz(n / "aligned/aligned_frames.npz", clips=np.array(["a", "x"])),
        "aligned_frames.npz:clips: 'b' became 'x'",
    ),
    "prediction": (
        lambda n: (n / "predictions.csv").write_text("model,clip,prediction\nridge,a,0.5\nridge,b,0.26\n"),
        "predictions.csv:prediction: 0.25 became 0.26 (1 of 2 values",
    ),
    "clips": (lambda n: (n / "clips.csv").write_text("key,source\na,a\nb,b\n"), "clips.csv:source: '' became 'b'"),
    "absent": (lambda n: (n / "predictions.csv").unlink(), "predictions.csv: only in OLD"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_each_kind_of_difference_is_found_with_its_place(folders: tuple[Path, Path], kind: str) -> None:
    change, found = CHANGES[kind]
    change(folders[1])
    status, text = compare(*folders)
    assert status == 1
    assert found in text
    assert text.count("DIFFERENCES") == 1


def test_rows_are_not_compared_bit_for_bit_where_boxes_moved(folders: tuple[Path, Path]) -> None:
    boxes = np.tile(np.float32([13, 10, 50, 50]), (4, 1))
    change_npz(folders[1] / "faces/a.npz", box_xyxy=boxes[0], found_xyxy=boxes, coverage=0.75)
    change_npz(folders[1] / "static/a.npz", features=np.zeros((4, 8), "float32"))
    status, text = compare(*folders)
    assert status == 1
    assert "0.00 px (median), 3.00 px (largest)" in text
    assert "coverage 1.000 -> 0.750" in text
    assert "rows of 1 clips not compared bit for bit" in text


def test_a_damaged_file_cannot_be_compared(folders: tuple[Path, Path]) -> None:
    (folders[1] / "summary.json").write_text("{")
    status, text = compare(*folders)
    assert (status, text.count("cannot be read")) == (2, 1)
