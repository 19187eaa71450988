"""The drawn motion classes: the same poses in another order, the same drawing every time, and the shipped files."""

import hashlib

import numpy as np
import pandas as pd

from data_sample.make.motion_sample import (
    CLASSES,
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


def test_whoever_looks_for_rated_clips_passes_the_classes_by(tmp_path):
    assert not find_clips(SHIPPED.parent).index.str.startswith("motion/").any()
    assert len(find_clips(SHIPPED)) == len(motion_plan())
    for name in ("train/a.mp4", "other/b.mp4", f"other/{LEAVE_OUT}"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_clips(tmp_path).index.tolist() == ["train/a"]
    assert find_clips(tmp_path / "other").index.tolist() == ["b"]
