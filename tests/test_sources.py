"""Which tree belongs to a run, and which of its folders to which clip."""

import logging

import numpy as np
import pytest
import test_precomputed
from trees import SIDE, some_flow, write_faces, write_pairs

from helpers.config import DynamicConfig, StaticConfig
from helpers.precomputed import StoredError
from helpers.saliency import inputs_at
from helpers.sources import open_source

KEYS = ["train-1/training80_01/-AmMDnVl4s8.003", "train-1/training80_01/b", "c"]


def stored_faces(tmp_path, *names):
    for name in names:
        write_faces(tmp_path / "faces" / name, range(3))
    return StaticConfig(faces_dir=str(tmp_path / "faces"), out_dir=str(tmp_path / "run"))


def test_a_folder_belongs_to_the_clip_whose_key_ends_in_its_name(tmp_path, caplog):
    cfg = stored_faces(tmp_path, "training80_01/-AmMDnVl4s8.003", "b", "training80_01/b", "stranger")
    with caplog.at_level(logging.INFO):
        source = open_source(cfg, KEYS)
    assert source.named == {KEYS[0]: "training80_01/-AmMDnVl4s8.003", KEYS[1]: "b"}
    assert "training80_01/b in faces is left out: b means the same clip" in caplog.text
    assert "faces holds 1 clips that are not of this run" in caplog.text
    job, track = source.job(tmp_path, KEYS[0], "", SIDE)
    assert len(job.paths) == track.n_frames == 3
    assert source.stamp(tmp_path, KEYS[0]).startswith("3-")
    assert source.stamp(tmp_path, "c") == "missing"
    with pytest.raises(StoredError, match="there is nothing of it in faces"):
        source.job(tmp_path, "c", "missing", SIDE)


def test_a_folder_of_openface_belongs_to_its_clip(tmp_path):
    cfg = stored_faces(tmp_path, "b_aligned", "c")
    (tmp_path / "faces" / "b.hog").touch()
    source = open_source(cfg, KEYS)
    assert source.named == {KEYS[1]: "b_aligned", "c": "c"}
    assert source.made_with["passed_over"] == {".hog": 1}


def test_the_identity_names_the_tree_and_nothing_that_only_videos_need(tmp_path):
    cfg = stored_faces(tmp_path, "c")
    source = open_source(cfg, KEYS)
    assert source.identity == {"stored": {"faces": "faces", "side_px": SIDE, "fps": 30.0}}
    assert not {"faces_dir", "every_n_frames"} & set(cfg.as_dict(without=source.not_decisive))
    write_pairs(tmp_path / "flow" / "c", some_flow(5, 8, 8))
    cfg = DynamicConfig(flow_dir=str(tmp_path / "flow"), flow_fps=5.0, input_px=32)
    source = open_source(cfg, KEYS)
    assert source.identity["stored"]["fps"] == 5.0
    assert not {"flow_dir", "flow_fps", "flow"} & set(cfg.as_dict(without=source.not_decisive))
    job, track = source.job(tmp_path, "c", "", 224)
    assert (job.size_px, job.clip_px, track.n_frames, track.fps) == (32, 20.0, 6, 5.0)


exported = test_precomputed.exported


def test_what_the_network_is_shown_can_be_looked_at(exported, tmp_path):
    folders = {"data_dir": str(exported / "data"), "out_dir": str(exported / "run")}
    video = exported / "data" / "ü.001.mp4"
    cfg = StaticConfig(**folders, every_n_frames=6)
    of_video = inputs_at(open_source(cfg, ["ü.001"]), video, "ü.001", np.array([11, 0]))
    stored = StaticConfig(**folders, faces_dir=str(exported / "faces_jpeg"))
    of_tree = inputs_at(open_source(stored, ["ü.001"]), video, "ü.001", [23, 1])  # every third frame: 69 and 3
    assert of_video.shape == of_tree.shape == (2, 224, 224, 3)
    assert np.abs(of_video.astype(int) - of_tree).mean() < 3
    assert np.abs(of_video[0].astype(int) - of_video[1]).mean() > 5
    flow = inputs_at(open_source(DynamicConfig(**folders), ["ü.001"]), video, "ü.001", [40])
    assert flow.shape == (1, 112, 112, 2)
    assert 0 < np.abs(flow).max() <= 1


def test_a_tree_of_other_clips_is_refused(tmp_path):
    cfg = stored_faces(tmp_path, "x", "y")
    with pytest.raises(ValueError, match="must hold clips of this run, got 2 others: x: there is no such clip"):
        open_source(cfg, KEYS)


def test_without_a_tree_the_videos_and_their_tracks_are_wanted(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run 02_clip_preparation first"):
        open_source(StaticConfig(out_dir=str(tmp_path)), KEYS)
