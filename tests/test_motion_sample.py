"""The drawn motion classes: the same poses in another order, the same drawing every time, and the shipped files."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from data_sample.make import motion_sample
from data_sample.make.__main__ import main
from data_sample.make.motion_sample import (
    CLASSES,
    GESTURES,
    SIZE,
    build_puppet,
    clip_poses,
    draw_motion_clip,
    motion_plan,
)
from helpers.clips import find_clips
from helpers.files import ROOT
from helpers.names import LEAVE_OUT
from helpers.splits import source_of
from helpers.video import read_frames

SHIPPED = ROOT / "data_sample" / "motion"
DRAWING_SHA256 = "a8093116a1e89845337f86766ea5c6c187dcc2df966d8f8607fd4e5ac2b4a17b"


def test_clips_of_one_source_hold_the_same_poses_whatever_their_class():
    for seed in range(40):
        puppet = build_puppet(seed)
        poses = [sorted(clip_poses(puppet, category).tolist()) for category in CLASSES]
        assert poses[0] == poses[1] == poses[2]


def test_the_order_of_gestures_is_the_class():
    for category, gestures in CLASSES.items():
        poses = clip_poses(build_puppet(3), category)
        first = np.array([np.flatnonzero(poses[:, k])[0] for k in range(len(GESTURES))])
        assert [GESTURES[k] for k in np.argsort(first)] == list(gestures)


def test_a_gesture_moves_the_picture():
    frames, poses = draw_motion_clip(3, "raise_bow_lean", 0).astype(int), clip_poses(build_puppet(3), "raise_bow_lean")
    still = frames[np.flatnonzero(~poses.any(axis=1))].mean(axis=0)
    for k in range(len(GESTURES)):
        peak = frames[poses[:, k].argmax()]
        assert (np.abs(peak - still).max(axis=2) > 40).mean() > 0.05


def test_a_drawing_is_the_same_bit_by_bit():
    frames = draw_motion_clip(7, "bow_lean_raise", 11)
    assert frames.shape[1:] == (SIZE, SIZE, 3)
    assert hashlib.sha256(frames.tobytes()).hexdigest() == DRAWING_SHA256


def test_each_source_has_every_class_once_and_lies_in_one_split():
    plan = motion_plan()
    assert len(plan) >= 120
    assert plan["key"].is_unique
    assert (plan.groupby(["source", "category"]).size() == 1).all()
    assert (plan.groupby("source")["category"].nunique() == len(CLASSES)).all()
    assert (plan.groupby("source")["split"].nunique() == 1).all()
    assert [source_of(key) for key in plan["key"]] == plan["source"].tolist()
    assert set(plan["source"]).isdisjoint(motion_plan(seed=1)["source"])


def test_an_unknown_class_is_refused_by_name():
    with pytest.raises(ValueError, match=r"category must be one of bow_lean_raise, .* got 'jump'"):
        clip_poses(build_puppet(0), "jump")


def test_the_shipped_clips_are_the_drawn_ones_and_small():
    plan = pd.read_csv(SHIPPED / "truth.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(plan, motion_plan(), check_dtype=False)
    files = {path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.mp4")}
    assert files == set(plan["key"])
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 1_500_000
    for _, row in plan.iloc[::40].iterrows():
        drawn = draw_motion_clip(row["source_seed"], row["category"], row["clip_seed"])
        shipped = read_frames(SHIPPED / f"{row['key']}.mp4", backend="pyav").frames
        assert shipped.shape == drawn.shape
        moves = [(frames - frames.mean(axis=0)).ravel() for frames in (shipped, drawn)]
        assert np.corrcoef(moves)[0, 1] > 0.7  # compression takes noise away; another order gives 0


def test_started_again_a_sample_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(motion_sample, "SPLIT_SOURCES", {"train": 1})
    first, *others = motion_sample.write_motion_sample(tmp_path)["key"]
    before = (tmp_path / f"{first}.mp4").stat().st_mtime_ns
    (tmp_path / f"{others[0]}.mp4").unlink()
    motion_sample.write_motion_sample(tmp_path)
    assert (tmp_path / f"{first}.mp4").stat().st_mtime_ns == before
    assert (tmp_path / f"{others[0]}.mp4").exists()


def test_the_command_draws_other_puppets(tmp_path, monkeypatch):
    monkeypatch.setattr(motion_sample, "SPLIT_SOURCES", {"train": 1})
    main(["--motion", "--seed", "1", "--out", str(tmp_path)])
    drawn = {path.name for path in tmp_path.rglob("*.mp4")}
    assert len(drawn) == len(CLASSES)
    assert drawn.isdisjoint(path.name for path in SHIPPED.rglob("*.mp4"))


def test_whoever_looks_for_rated_clips_passes_the_classes_by(tmp_path):
    assert not find_clips(SHIPPED.parent).index.str.startswith("motion/").any()
    assert len(find_clips(SHIPPED)) == len(motion_plan())
    for name in ("train/a.mp4", "other/b.mp4", f"other/{LEAVE_OUT}"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_clips(tmp_path).index.tolist() == ["train/a"]
    assert find_clips(tmp_path / "other").index.tolist() == ["b"]
