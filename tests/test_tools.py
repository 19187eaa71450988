"""Tools of the maintainer: two results folders are compared, executed notebooks are tidied, the README is a map."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from helpers.files import ROOT
from tools.reexecute import drop_native_messages

README = (ROOT / "README.md").read_text(encoding="utf-8")
SUMMARY = {
    "models": {"ridge": {"r2": {"mean": 0.5}, "mae": 0.1}},
    "attention": {"pointing": 0.9, "pointing_interval": [0.8, 0.95]},
    "comparisons": [{"verdict": "ridge is better: +0.50 [+0.40, +0.60].", "low": 0.4}],
    "seconds": 3.0,
}
BOXES = np.tile(np.float32([10, 10, 50, 50]), (4, 1))


def change_npz(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **((dict(np.load(path)) if path.exists() else {}) | arrays))


def change_json(path, *keys, value):
    data = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(data))


@pytest.fixture
def folders(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    change_npz(old / "faces/a.npz", box_xyxy=BOXES[0], found_xyxy=BOXES, coverage=1.0, stamp="then")
    change_npz(old / "static/a.npz", features=np.ones((4, 8), "float32"), valid=np.ones(4, bool), stamp="then")
    change_npz(old / "aligned/aligned_frames.npz", static_features=np.ones((4, 2)), clips=np.array(["a", "b"]))
    failed = [{"clip": "b", "reason": "no face"}, {"clip": "c", "reason": "broken"}]
    manifest = {"identity": {"fps": 15.0}, "failed": failed, "seconds": 1.0, "counts": {"clips": 3, "found": 0}}
    (old / "static/manifest.json").write_text(json.dumps(manifest))
    (old / "summary.json").write_text(json.dumps(SUMMARY))
    (old / "predictions.csv").write_text("model,clip,prediction\nridge,a,0.5\nridge,b,0.25\n")
    (old / "clips.csv").write_text("key,source\na,a\nb,\n")
    shutil.copytree(old, new)
    return old, new


def compare(*folders):
    command = [sys.executable, ROOT / "tools" / "compare_results.py", *folders]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_what_may_change_is_equal(folders):
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


def test_each_kind_of_difference_is_found_with_its_place(folders):
    _, new = folders
    change_json(new / "summary.json", "models", "ridge", "r2", "mean", value=0.50001)
    change_json(new / "summary.json", "attention", "pointing_interval", value=[0.8, 0.93])
    change_json(new / "summary.json", "comparisons", 0, "verdict", value="ridge is worse")
    change_json(new / "summary.json", "models", "constant", value={})
    change_npz(new / "static/a.npz", features=np.full((4, 8), 1 + 1e-6, "float32"), valid=np.zeros(3, bool))
    change_json(new / "static/manifest.json", "identity", "fps", value=25.0)
    change_json(new / "static/manifest.json", "failed", value=[{"clip": "b", "reason": "dark"}])
    change_npz(new / "aligned/aligned_frames.npz", clips=np.array(["a", "x"]))
    (new / "clips.csv").write_text("key,source\na,a\nb,b\n")
    (new / "predictions.csv").write_text("model,clip,prediction\nridge,a,0.5\nridge,b,0.26\n")
    shutil.copy(new / "clips.csv", new / "more.csv")
    status, text = compare(*folders)
    assert status == 1
    for found in (
        "r2:mean: 0.5 ",
        "pointing_interval[1]: 0.95 became 0.93",
        "became 'ridge is worse'",
        "models:constant is only in NEW",
        "static/a.npz: features is not the same bits",
        "valid bool (4,)  became bool (3,)",
        "identity:fps: 15 became 25",
        "failed: ",
        "aligned_frames.npz:clips: 'b' became 'x'",
        "clips.csv:source: '' became 'b'",
        "predictions.csv:prediction: 0.25 became 0.26 (1 of 2 values",
        "more.csv: only in NEW",
    ):
        assert found in text, found
    (new / "summary.json").write_text("{")
    assert compare(*folders)[0] == 2


def test_rows_are_not_compared_bit_for_bit_where_boxes_moved(folders):
    moved = BOXES + np.float32([3, 0, 0, 0])
    change_npz(folders[1] / "faces/a.npz", box_xyxy=moved[0], found_xyxy=moved, coverage=0.75)
    change_npz(folders[1] / "static/a.npz", features=np.zeros((4, 8), "float32"))
    status, text = compare(*folders)
    assert status == 1
    for found in ("3.00 px (largest)", "coverage 1.000 -> 0.750", "rows of 1 clips not compared bit for bit"):
        assert found in text


def test_messages_of_native_code_go_and_others_stay():
    noise = "WARNING: All log messages before absl::InitializeLog() is called\nI0000 00:00 cuda.cc] x\n"
    texts = [("stderr", noise), ("stderr", noise + "a warning\n"), ("stdout", "3\n")]
    outputs = [new_output("stream", name=name, text=text) for name, text in texts]
    notebook = new_notebook(cells=[new_code_cell("1", outputs=outputs)])
    drop_native_messages(notebook)
    assert [output.text for output in notebook.cells[0].outputs] == ["a warning\n", "3\n"]


def test_the_readme_names_every_file_of_the_library_and_its_links_lead_to_files():
    rows = re.findall(r"^\| ([^|]+) \|", README.partition("| file in `helpers/` |")[2], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w/]+)`", row)]
    there = {path.stem for path in (ROOT / "helpers").glob("*.py")} - {"__init__"}
    assert sorted(named) == sorted({*there, "plots/"})
    assert [link for link in re.findall(r"\]\(([^)#:]+)\)", README) if not (ROOT / link).exists()] == []
