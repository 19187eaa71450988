"""The synthetic sample: same seeds, same frames; cues where they are planted and nowhere else; the shipped files."""

import hashlib
import pickle
import pickletools
import subprocess
import sys

import av
import cv2
import numpy as np
import pandas as pd
import pytest

from data_sample.make import motion_sample
from data_sample.make.awkward import turn_clockwise
from data_sample.make.drawing import draw_identity
from data_sample.make.sample import (
    draw_clip,
    draw_latents,
    rate_clip,
    sample_plan,
    sample_ratings,
    sample_truth,
    write_mp4,
    write_sample,
)
from data_sample.make.timeline import WINDOW_S, plan_motion
from helpers.clips import TRAITS, find_clips
from helpers.files import ROOT
from helpers.names import LEAVE_OUT
from helpers.splits import source_of
from helpers.video import read_frames

SHIPPED = ROOT / "data_sample"
MOTION_SHA256 = "a8093116a1e89845337f86766ea5c6c187dcc2df966d8f8607fd4e5ac2b4a17b"
PICKLE_KEYS = ["extraversion", "neuroticism", "agreeableness", "conscientiousness", "interview", "openness"]
MIDDLE = dict.fromkeys(TRAITS, 0.5)


def decode(path):
    with av.open(path) as container:
        return list(container.decode(video=0))


def gray(frames):
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(float)


def test_the_same_seeds_draw_the_same_frames_in_this_and_in_another_process():
    ours = draw_clip(3, 5, n_frames=47).frames
    assert np.array_equal(ours, draw_clip(3, 5, n_frames=47).frames)
    code = (
        "import cv2, hashlib; cv2.setNumThreads(1); from data_sample.make.sample import draw_clip; "
        "print(hashlib.sha256(draw_clip(3, 5, n_frames=47).frames.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(ours.tobytes()).hexdigest()
    motion = motion_sample.draw_motion_clip(7, "bow_lean_raise", 11)
    assert hashlib.sha256(motion.tobytes()).hexdigest() == MOTION_SHA256


def test_another_person_in_the_same_clip_keeps_motion_and_ratings_but_not_the_face():
    one, other = draw_clip(2, 13, n_frames=47), draw_clip(3, 13, n_frames=47)
    assert (one.warm_s, one.cool_s, one.ratings) == (other.warm_s, other.cool_s, other.ratings)
    assert not np.array_equal(one.frames, other.frames)
    assert not np.allclose(draw_identity(2).skin, draw_identity(3).skin)


@pytest.mark.parametrize("trait", ["openness", "conscientiousness"])
def test_openness_and_conscientiousness_change_colour_but_no_gray_value(trait):
    low, high = (draw_clip(2, 17, latents={trait: value}, n_frames=47).frames for value in (0.0, 1.0))
    change = np.abs(low.astype(float) - high).max(axis=-1)
    assert (change > 40).mean() > 0.01
    gray_change = np.abs(gray(low) - gray(high))
    assert np.quantile(gray_change, 0.999) <= 2  # rounding; a few dark pixels clip at 0
    assert gray_change.mean() < 0.05


def test_the_coloured_light_cannot_be_seen_in_gray():
    drawing = draw_clip(2, 17, latents=MIDDLE | {"extraversion": 0.0})
    warm, cool = (int((start + 0.42) * 15) for start in (drawing.warm_s, drawing.cool_s))
    corner = drawing.frames[:, 60:120, :60].astype(float)  # wall beside the head
    red_minus_blue = (corner[..., 0] - corner[..., 2]).mean(axis=(1, 2))
    assert red_minus_blue[warm] - red_minus_blue[cool] > 15
    assert np.ptp(gray(drawing.frames)[:, 60:120, :60].mean(axis=(1, 2))) < 0.5


def test_agreeableness_moves_the_nods_between_the_windows_and_nothing_else():
    low, high = (plan_motion(MIDDLE | {"agreeableness": a}, 19, 73, 15.0) for a in (0.0, 1.0))
    for name, curve in vars(low).items():
        assert (name == "nod") != np.array_equal(curve, getattr(high, name)), name
    assert np.all(low.nod[high.nod != 0] == 0)
    assert np.all(high.glow[high.nod != 0] > 0)
    assert np.all(low.glow[low.nod != 0] < 0)


def test_extraversion_sets_the_tempo_of_the_sway_but_not_its_size():
    slow, fast = (plan_motion(MIDDLE | {"extraversion": e}, 23, 733, 15.0).shift_x for e in (0.0, 1.0))
    turns = [np.count_nonzero(np.diff(np.sign(np.diff(x)))) / 2 / (733 / 15) for x in (slow, fast)]
    np.testing.assert_allclose(turns, [0.22, 1.17], atol=0.03)
    assert abs(np.abs(slow).max() / np.abs(fast).max() - 1) < 0.02


def test_neuroticism_sets_the_size_of_the_tremor_and_nothing_else():
    calm, middle, shaky = (plan_motion(MIDDLE | {"neuroticism": n}, 29, 73, 15.0) for n in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(shaky.roll_deg - middle.roll_deg, middle.roll_deg - calm.roll_deg, atol=1e-12)
    assert 2.5 < np.abs(shaky.roll_deg - calm.roll_deg).max() <= 2.9
    assert [name for name in vars(calm) if not np.array_equal(vars(calm)[name], vars(shaky)[name])] == ["roll_deg"]


def test_warm_and_cool_windows_lie_inside_the_clip_apart_and_in_either_order():
    plans = [plan_motion(MIDDLE, seed, 73, 15.0) for seed in range(101)]
    gaps = np.array([plan.cool_s - plan.warm_s for plan in plans])
    assert np.all(np.abs(gaps) > WINDOW_S + 0.35)
    assert 0.3 < (gaps > 0).mean() < 0.7
    starts = np.array([(plan.warm_s, plan.cool_s) for plan in plans])
    assert starts.min() >= 0.35
    assert starts.max() + WINDOW_S <= 73 / 15 - 0.35


def test_ratings_follow_the_latents_with_the_promised_noise_and_latents_are_independent():
    latents = pd.DataFrame([draw_latents(seed) for seed in range(997)])
    ratings = pd.DataFrame([rate_clip(row, seed) for seed, row in enumerate(latents.to_dict("records"))])
    noise = (ratings[list(TRAITS)] - latents)[(latents > 0.2) & (latents < 0.8)]
    np.testing.assert_allclose(noise.std(), 0.06, atol=0.006)
    assert np.abs(latents.corr().to_numpy() - np.eye(5)).max() < 0.12
    np.testing.assert_allclose(ratings["interview"] - ratings[list(TRAITS)].mean(axis=1), 0, atol=0.15)


def test_a_sample_started_again_draws_only_what_is_missing(tmp_path):
    first = write_sample(tmp_path, 2, 3, clips_per_source=2)
    kept, lost = (tmp_path / f"{key}.mp4" for key in first["key"])
    kept.write_bytes(b"as it was")
    lost.unlink()
    pd.testing.assert_frame_equal(write_sample(tmp_path, 2, 3, clips_per_source=2), first)
    assert kept.read_bytes() == b"as it was"
    assert len(decode(lost)) == 73
    assert not list(tmp_path.rglob(".part-*"))


def test_the_shipped_clips_are_those_that_their_seeds_draw():
    truth = pd.read_csv(SHIPPED / "truth.csv")
    pd.testing.assert_frame_equal(truth, sample_truth(sample_plan()), check_dtype=False, rtol=0, atol=1e-6)
    files = {path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.glob("*80_*/*.mp4")}
    assert files == set(truth["key"])
    for row in truth.iloc[[0, 23]].itertuples():
        shown = read_frames(SHIPPED / f"{row.key}.mp4", backend="pyav").frames.astype(float)
        drawn = draw_clip(row.source_seed, row.clip_seed).frames.astype(float)
        assert abs(shown.mean() - drawn.mean()) < 2
        blurred = [np.stack([cv2.blur(frame, (5, 5)) for frame in frames]) for frames in (shown, drawn)]
        assert np.abs(blurred[0] - blurred[1]).mean() < 2
        assert np.corrcoef(shown.ravel(), drawn.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(("split", "name"), [("train", "training"), ("validation", "validation"), ("test", "test")])
def test_shipped_ratings_are_plain_python_2_pickles_in_chalearns_order(split, name):
    raw = (SHIPPED / f"annotation_{name}.pkl").read_bytes()
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(raw)}
    assert opcodes == {"PROTO", "EMPTY_DICT", "MARK", "SHORT_BINSTRING", "BINFLOAT", "SETITEMS", "STOP"}
    plan = sample_plan()
    ratings = sample_ratings(plan[plan["split"] == split])
    wanted = {t: {f"{key.split('/')[1]}.mp4": value for key, value in ratings[t].items()} for t in PICKLE_KEYS}
    table = pickle.loads(raw, encoding="latin1")
    assert (list(table), table) == (PICKLE_KEYS, wanted)


@pytest.mark.parametrize(
    "refused",
    [
        lambda path: draw_clip(1, 1, n_frames=44),  # too short for two windows
        lambda path: draw_clip(1, 1, latents={"openess": 1.0}),
        lambda path: sample_plan(0),
        lambda path: sample_plan(3, clips_per_source=0),
        lambda path: write_mp4(np.zeros((2, 31, 64, 3), np.uint8), path),  # an odd side
        lambda path: turn_clockwise(b"....tkhd\x01" + bytes(80), width=240),  # another version
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, refused):
    with pytest.raises(ValueError, match="got"):
        refused(tmp_path / "clip.mp4")


def test_a_file_of_uneven_times_shows_the_drawing_of_each_moment(tmp_path):
    drawn, t_s = draw_clip(2, 3).frames[[0, 1, 5, 7]], np.array([0, 1, 5, 7]) / 15
    write_mp4(drawn, tmp_path / "uneven.mp4", t_s=t_s)
    frames = decode(tmp_path / "uneven.mp4")
    np.testing.assert_allclose([frame.time for frame in frames], t_s, atol=1e-3)
    assert np.abs(frames[2].to_ndarray(format="rgb24").astype(float) - drawn[2]).mean() < 3


def test_motion_clips_of_one_source_hold_the_same_poses_in_one_split_once_per_class():
    for seed in range(40):
        puppet = motion_sample.build_puppet(seed)
        poses = [sorted(motion_sample.clip_poses(puppet, category).tolist()) for category in motion_sample.CLASSES]
        assert poses[0] == poses[1] == poses[2]
    plan = motion_sample.motion_plan()
    assert len(plan) >= 120
    assert plan["key"].is_unique
    assert (plan.groupby("source")["category"].agg(sorted).map(tuple) == tuple(sorted(motion_sample.CLASSES))).all()
    assert (plan.groupby("source")["split"].nunique() == 1).all()
    assert [source_of(key) for key in plan["key"]] == plan["source"].tolist()
    assert set(plan["source"]).isdisjoint(motion_sample.motion_plan(seed=1)["source"])


def test_the_shipped_motion_clips_are_the_drawn_ones():
    folder = SHIPPED / "motion"
    plan = pd.read_csv(folder / "truth.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(plan, motion_sample.motion_plan(), check_dtype=False)
    assert set(find_clips(folder).index) == set(plan["key"])
    for _, row in plan.iloc[::40].iterrows():
        drawn = motion_sample.draw_motion_clip(row["source_seed"], row["category"], row["clip_seed"])
        shipped = read_frames(folder / f"{row['key']}.mp4", backend="pyav").frames
        moves = [(frames - frames.mean(axis=0)).ravel() for frames in (shipped, drawn)]
        assert np.corrcoef(moves)[0, 1] > 0.7  # compression takes noise away; another order gives 0


def test_whoever_looks_for_rated_clips_passes_the_classes_by(tmp_path):
    assert not find_clips(SHIPPED).index.str.startswith("motion/").any()
    for name in ("train/a.mp4", "other/b.mp4", f"other/{LEAVE_OUT}"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_clips(tmp_path).index.tolist() == ["train/a"]
    assert find_clips(tmp_path / "other").index.tolist() == ["b"]
