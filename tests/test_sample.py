"""The synthetic sample: same seeds, same frames; cues where they are planted and nowhere else; ChaLearn's files."""

import hashlib
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest

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
from helpers.clips import TRAITS
from helpers.files import ROOT

SHIPPED = ROOT / "data_sample"
PICKLE_KEYS = ["extraversion", "neuroticism", "agreeableness", "conscientiousness", "interview", "openness"]
MIDDLE = dict.fromkeys(TRAITS, 0.5)


def decode(path: Path) -> list[av.VideoFrame]:
    with av.open(path) as container:
        return list(container.decode(video=0))


def pixels(path: Path) -> np.ndarray:
    return np.stack([frame.to_ndarray(format="rgb24") for frame in decode(path)])


def count_faces(frame: np.ndarray) -> int:
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")
    return len(cascade.detectMultiScale(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 1.1, 5, minSize=(40, 40)))


def gray(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(float)


@pytest.fixture(scope="module")
def truth() -> pd.DataFrame:
    return pd.read_csv(SHIPPED / "truth.csv")


def test_the_same_seeds_draw_the_same_frames_in_this_and_in_another_process():
    ours = draw_clip(3, 5, n_frames=47).frames
    assert np.array_equal(ours, draw_clip(3, 5, n_frames=47).frames)
    code = (
        "import cv2, hashlib; cv2.setNumThreads(1); from data_sample.make.sample import draw_clip; "
        "print(hashlib.sha256(draw_clip(3, 5, n_frames=47).frames.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(ours.tobytes()).hexdigest()


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


def test_the_shipped_truth_is_what_its_seeds_give(truth):
    again = sample_truth(sample_plan())
    pd.testing.assert_frame_equal(truth, again, check_dtype=False, rtol=0, atol=1e-6)
    assert sorted(f"{key}.mp4" for key in truth["key"]) == sorted(
        path.relative_to(SHIPPED).as_posix() for path in SHIPPED.glob("*80_*/*.mp4")
    )


def test_shipped_clips_decode_to_what_is_drawn_again(truth):
    for row in truth.iloc[[0, 23]].itertuples():
        shown = pixels(SHIPPED / f"{row.key}.mp4").astype(float)
        drawn = draw_clip(row.source_seed, row.clip_seed).frames.astype(float)
        assert shown.shape == drawn.shape
        assert abs(shown.mean() - drawn.mean()) < 2
        blurred = [np.stack([cv2.blur(frame, (5, 5)) for frame in frames]) for frames in (shown, drawn)]
        assert np.abs(blurred[0] - blurred[1]).mean() < 2
        assert np.corrcoef(shown.ravel(), drawn.ravel())[0, 1] > 0.98


def test_a_face_is_found_in_shipped_clips_of_every_person(truth):
    for key in truth.groupby("source")["key"].first():
        assert count_faces(decode(SHIPPED / f"{key}.mp4")[37].to_ndarray(format="rgb24")) == 1, key


@pytest.mark.parametrize(("split", "name"), [("train", "training"), ("validation", "validation"), ("test", "test")])
def test_shipped_ratings_are_plain_python_2_pickles_in_chalearns_order(split, name):
    raw = (SHIPPED / f"annotation_{name}.pkl").read_bytes()
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(raw)}
    assert opcodes == {"PROTO", "EMPTY_DICT", "MARK", "SHORT_BINSTRING", "BINFLOAT", "SETITEMS", "STOP"}
    table = pickle.loads(raw, encoding="latin1")
    assert list(table) == PICKLE_KEYS
    plan = sample_plan()
    ratings = sample_ratings(plan[plan["split"] == split])
    for trait in PICKLE_KEYS:
        assert table[trait] == {f"{key.split('/')[1]}.mp4": value for key, value in ratings[trait].items()}


def test_shipped_files_are_small():
    clips = [path.stat().st_size for path in SHIPPED.glob("*80_*/*.mp4")]
    awkward = [path.stat().st_size for path in (SHIPPED / "awkward").glob("*.mp4")]
    assert max(clips) < 60_000
    assert sum(clips) < 1_600_000
    assert max(awkward) < 45_000
    assert sum(awkward) < 300_000


def awkward(name: str) -> Path:
    return SHIPPED / "awkward" / f"{name}.mp4"


@pytest.mark.parametrize(
    ("name", "every", "faces"),
    [("no_face", 11, [0] * 5), ("face_leaving", 12, [1, 1, 1, 0, 0, 0, 0]), ("two_faces", 24, [2] * 4)],
)
def test_awkward_clips_show_the_faces_they_promise(name, every, faces):
    assert [count_faces(frame) for frame in pixels(awkward(name))[::every]] == faces


def test_awkward_files_are_short_broken_and_at_the_rate_of_films():
    assert len(decode(awkward("very_short"))) == 7
    times = [frame.time for frame in decode(awkward("odd_frame_rate"))]
    np.testing.assert_allclose(np.diff(times), 1001 / 24000, atol=1e-4)
    with pytest.raises(av.error.InvalidDataError):
        decode(awkward("broken"))


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


def test_variable_frame_rate_has_uneven_times_that_show_the_drawing_of_that_moment(tmp_path):
    steps = np.diff([frame.time for frame in decode(awkward("variable_frame_rate"))])
    assert set(np.round(steps * 15)) >= {1, 2, 3}
    drawn = draw_clip(2, 3).frames[[0, 1, 5, 7]]
    write_mp4(drawn, tmp_path / "uneven.mp4", t_s=np.array([0, 1, 5, 7]) / 15)
    frames = decode(tmp_path / "uneven.mp4")
    np.testing.assert_allclose([frame.time for frame in frames], np.array([0, 1, 5, 7]) / 15, atol=1e-3)
    assert np.abs(frames[2].to_ndarray(format="rgb24").astype(float) - drawn[2]).mean() < 3


def test_portrait_rotated_lies_in_the_file_and_stands_when_its_note_is_followed():
    stored = decode(awkward("portrait_rotated"))[0]
    assert (stored.height, stored.width, stored.rotation) == (240, 320, -90)
    lying = stored.to_ndarray(format="rgb24")
    assert count_faces(lying) == 0
    assert count_faces(np.ascontiguousarray(np.rot90(lying, -1))) == 1
    capture = cv2.VideoCapture(str(awkward("portrait_rotated")))
    assert capture.get(cv2.CAP_PROP_ORIENTATION_META) == 90
    assert capture.read()[1].shape == (320, 240, 3)
