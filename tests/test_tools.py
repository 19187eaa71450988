"""Tools of the maintainer: two results folders are compared, executed notebooks are tidied."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from helpers.files import ROOT
from tools.reexecute import drop_native_messages

FAILED = [{"clip": "b", "reason": "no face"}, {"clip": "c", "reason": "broken"}]
BOXES = np.tile(np.float32([10, 10, 50, 50]), (4, 1))
MOVED = BOXES + np.float32([3, 0, 0, 0])
OLD = {
    "faces/a.npz": {"box_xyxy": BOXES[0], "found_xyxy": BOXES, "coverage": 1.0, "fingerprint": "then"},
    "static/a.npz": {"features": np.ones((4, 8), "float32"), "valid": np.ones(4, bool), "fingerprint": "then"},
    "aligned/aligned_frames.npz": {"static_features": np.ones((4, 2)), "clips": np.array(["a", "b"])},
    "static/manifest.json": {
        "identity": {"fps": 15.0}, "failed": FAILED, "seconds": 1.0, "counts": {"clips": 3, "found": 0},
    },
    "summary.json": {
        "models": {"ridge": {"r2": {"mean": 0.5}, "mae": 0.1}},
        "attention": {"pointing": 0.9, "pointing_interval": [0.8, 0.95]},
        "comparisons": {"a": {"verdict": "ridge is better: +0.50 [+0.40, +0.60].", "low": 0.4}},
        "seconds": 3.0,
    },
    "predictions.csv": "model,clip,prediction\nridge,a,0.5\nridge,b,0.25\n",
    "clips.csv": "key,source\na,a\nb,\n",
}  # fmt: skip


def change(folder, place, value):
    """Put a value into a place of a folder: a file, an array of it, or keys of its JSON."""
    name, _, keys = place.partition(":")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **(dict(np.load(path)) | {keys: value} if keys else value))
    elif keys:
        data = inner = json.loads(path.read_text())
        *above, last = keys.split(":")
        for key in above:
            inner = inner[key]
        inner[last] = value
        path.write_text(json.dumps(data))
    else:
        path.write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (0, {  # what may change
            "static/a.npz:fingerprint": ("now", ""),
            "static/manifest.json:seconds": (9.0, ""),
            "static/manifest.json:counts:found": (3, ""),
            "static/manifest.json:failed": (FAILED[::-1], ""),
            "summary.json:models:ridge:mae": (0.1 + 5e-7, "largest difference 5e-07 at summary.json:models:ridge:mae"),
            "summary.json:attention:pointing_interval": ([0.805, 0.945], ""),
            "summary.json:comparisons:a:verdict": ("ridge is better: +0.50 [+0.41, +0.60].", ""),
            "predictions.csv": ("model,clip,prediction\nridge,b,0.25\nridge,a,0.5000004\n", ""),
        }),
        (1, {  # each kind of difference
            "summary.json:models:ridge:r2:mean": (0.50001, "r2:mean: 0.5 "),
            "summary.json:attention:pointing_interval": ([0.8, 0.93], "pointing_interval[1]: 0.95 became 0.93"),
            "summary.json:comparisons:a:verdict": ("ridge is worse", "became 'ridge is worse'"),
            "summary.json:models:constant": ({}, "models:constant is only in NEW"),
            "static/a.npz:features": (np.full((4, 8), 1 + 1e-6, "float32"), "a.npz: features is not the same bits"),
            "static/a.npz:valid": (np.zeros(3, bool), "valid bool (4,)  became bool (3,)"),
            "static/manifest.json:identity:fps": (25.0, "identity:fps: 15 became 25"),
            "static/manifest.json:failed": ([{"clip": "b", "reason": "dark"}], "failed: "),
            "aligned/aligned_frames.npz:clips": (np.array(["a", "x"]), "aligned_frames.npz:clips: 'b' became 'x'"),
            "clips.csv": ("key,source\na,a\nb,b\n", "clips.csv:source: '' became 'b'"),
            "predictions.csv": (
                "model,clip,prediction\nridge,a,0.5\nridge,b,0.26\n", "prediction: 0.25 became 0.26 (1 of 2 values",
            ),
            "more.csv": ("key\n", "more.csv: only in NEW"),
        }),
        (1, {  # where boxes moved, rows are not compared bit for bit
            "faces/a.npz:box_xyxy": (MOVED[0], ""),
            "faces/a.npz:found_xyxy": (MOVED, "3.00 px (largest)"),
            "faces/a.npz:coverage": (0.75, "coverage 1.000 -> 0.750"),
            "static/a.npz:features": (np.zeros((4, 8), "float32"), "rows of 1 clips not compared bit for bit"),
        }),
        (2, {"summary.json": ("{", "")}),
    ],
)  # fmt: skip
def test_what_changed_in_a_results_folder_is_found_with_its_place(tmp_path, status, changes):
    old, new = tmp_path / "old", tmp_path / "new"
    for place, value in OLD.items():
        change(old, place, value)
    shutil.copytree(old, new)
    for place, (value, _) in changes.items():
        change(new, place, value)
    command = map(str, (sys.executable, ROOT / "tools" / "compare_results.py", old, new))
    done = subprocess.run([*command], capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    assert [text for _, text in changes.values() if text not in done.stdout] == []


def test_messages_of_native_code_go_and_others_stay():
    noise = "WARNING: All log messages before absl::InitializeLog() is called\nI0000 00:00 cuda.cc] x\n"
    texts = [("stderr", noise), ("stderr", noise + "a warning\n"), ("stdout", "3\n")]
    outputs = [new_output("stream", name=name, text=text) for name, text in texts]
    notebook = new_notebook(cells=[new_code_cell("1", outputs=outputs)])
    drop_native_messages(notebook)
    assert [output.text for output in notebook.cells[0].outputs] == ["a warning\n", "3\n"]
