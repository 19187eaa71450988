"""Export of face crops: names, contents, resuming, and clips that cannot be exported."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from helpers import faces as export
from helpers.config import PreparationConfig
from helpers.extract import prepare_clips
from helpers.faces import crop_at, export_faces, read_track
from helpers.files import ROOT
from helpers.store import read_arrays
from helpers.video import read_frames

SAMPLE = ROOT / "data_sample"
GOOD, LEAVING, WALL = "training80_01/-ü.001", "leaving", "wall"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Three prepared clips: a person, one whose face leaves, a wall."""
    root = tmp_path_factory.mktemp("export")
    data = root / "data"
    (data / "training80_01").mkdir(parents=True)
    shutil.copy(sorted((SAMPLE / "training80_01").glob("*.mp4"))[0], data / f"{GOOD}.mp4")
    shutil.copy(SAMPLE / "awkward" / "face_leaving.mp4", data / f"{LEAVING}.mp4")
    shutil.copy(SAMPLE / "awkward" / "no_face.mp4", data / f"{WALL}.mp4")
    keys = [GOOD, LEAVING, WALL]
    clips = pd.DataFrame({"path": [f"{key}.mp4" for key in keys]}, index=pd.Index(keys, name="key"))
    prepare_clips(clips, PreparationConfig(data_dir=str(data), out_dir=str(root / "run")))
    return clips, data, root / "run"


def names(to: Path, key: str) -> list[str]:
    return sorted(path.name for path in (to / "faces_jpeg" / key).iterdir())


def test_every_fifth_frame_is_a_crop_under_its_number(prepared, tmp_path):
    clips, data, run = prepared
    manifest = export_faces(clips, data, run, tmp_path)
    assert names(tmp_path, GOOD) == [f"face_{number:06d}.jpg" for number in range(0, 73, 5)]
    assert manifest["counts"]["made"] == 2
    assert manifest["failed"] == [{"clip": WALL, "reason": "no faces file: no face found in 6 looked-at frames"}]
    got = cv2.cvtColor(cv2.imread(str(tmp_path / "faces_jpeg" / GOOD / "face_000035.jpg")), cv2.COLOR_BGR2RGB)
    frame = read_frames(data / f"{GOOD}.mp4", indices=[35]).frames[0]
    expected = crop_at(frame, read_track(run / "faces" / f"{GOOD}.npz"), 35 / 15, 224)
    assert got.shape == (224, 224, 3)
    assert np.abs(got.astype(int) - expected).mean() < 3
    times = read_arrays(tmp_path / "faces_jpeg_times" / f"{GOOD}.npz")
    assert times["frame"].tolist() == list(range(0, 73, 5))
    np.testing.assert_allclose(times["t_s"], np.arange(0, 73, 5) / 15)


def test_frames_without_the_face_are_left_out(prepared, tmp_path):
    clips, data, run = prepared
    export_faces(clips, data, run, tmp_path, every=1)
    numbers = [int(name[5:11]) for name in names(tmp_path, LEAVING)]
    track = read_track(run / "faces" / f"{LEAVING}.npz")
    assert numbers == np.flatnonzero(track.has_face(np.arange(73) / 15)).tolist()
    assert 30 < len(numbers) < 60


def test_what_is_done_stays_and_what_is_missing_is_made_again(prepared, tmp_path):
    clips, data, run = prepared
    export_faces(clips, data, run, tmp_path)
    before = (tmp_path / "faces_jpeg" / GOOD / "face_000000.jpg").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "faces_jpeg" / LEAVING)
    counts = export_faces(clips, data, run, tmp_path)["counts"]
    assert (counts["made"], counts["found"], counts["failed"]) == (1, 1, 1)
    assert (tmp_path / "faces_jpeg" / GOOD / "face_000000.jpg").stat().st_mtime_ns == before
    assert names(tmp_path, LEAVING)


def test_an_export_that_breaks_off_leaves_no_half_folder(prepared, tmp_path, monkeypatch):
    clips, data, run = prepared
    whole = export.crop_at

    def breaks(frame, track, t_s, size_px):
        if t_s > 2:
            raise KeyboardInterrupt
        return whole(frame, track, t_s, size_px)

    monkeypatch.setattr(export, "crop_at", breaks)
    with pytest.raises(KeyboardInterrupt) as kept:  # with all that its frames hold
        export_faces(clips, data, run, tmp_path)
    assert list((tmp_path / "faces_jpeg" / "training80_01").iterdir()) == []
    monkeypatch.undo()
    export_faces(clips, data, run, tmp_path)  # the folder is free
    assert kept.tb is not None
    assert len(names(tmp_path, GOOD)) == 15


def test_a_clip_that_has_changed_is_not_exported_with_its_old_face(prepared, tmp_path):
    clips, data, run = prepared
    changed = tmp_path / "data"
    shutil.copytree(data, changed)
    (changed / f"{LEAVING}.mp4").touch()
    export_faces(clips, data, run, tmp_path / "to")
    manifest = export_faces(clips, changed, run, tmp_path / "to")
    assert {entry["clip"] for entry in manifest["failed"]} == {LEAVING, WALL}
    assert "the clip has changed since" in manifest["failed"][0]["reason"]
    assert not (tmp_path / "to" / "faces_jpeg" / LEAVING).exists()


def test_other_settings_are_refused(prepared, tmp_path):
    clips, data, run = prepared
    export_faces(clips.iloc[2:], data, run, tmp_path)
    with pytest.raises(ValueError, match="was made differently: every: 4 here, 5 there"):
        export_faces(clips, data, run, tmp_path, every=4)
    with pytest.raises(ValueError, match="every must be at least 1 and quality 1 to 100, got 0 and 95"):
        export_faces(clips, data, run, tmp_path, every=0)
    with pytest.raises(FileNotFoundError, match="Run 02_clip_preparation first"):
        export_faces(clips, data, tmp_path / "nowhere", tmp_path)
