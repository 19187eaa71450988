"""The synthetic sample: same seeds, same frames; cues where they are planted; the shipped files and the token bank."""

import hashlib
import pickle
import pickletools
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
from layout import make_clips

from data_sample.make import bank, motion_sample, sample
from data_sample.make.sample import draw_clip, sample_plan
from data_sample.make.timeline import plan_motion
from helpers import align
from helpers.clips import TRAITS, find_clips, read_clips
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.extract import extract_dynamic, extract_static
from helpers.faces import prepare_clips
from helpers.files import ROOT, read_json
from helpers.names import LEAVE_OUT
from helpers.splits import source_of
from helpers.store import STREAMS
from helpers.video import probe, read_frames

SHIPPED = ROOT / "data_sample"
TOKENS = SHIPPED / "tokens"
MOTION_SHA256 = "a8093116a1e89845337f86766ea5c6c187dcc2df966d8f8607fd4e5ac2b4a17b"
PICKLE_KEYS = ["extraversion", "neuroticism", "agreeableness", "conscientiousness", "interview", "openness"]
MIDDLE = dict.fromkeys(TRAITS, 0.5)


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


CURVES = {
    "openness": set(),
    "conscientiousness": set(),
    "extraversion": {"shift_x", "shift_y", "yaw", "roll_deg"},
    "agreeableness": {"nod"},
    "neuroticism": {"roll_deg"},
}


@pytest.mark.parametrize("trait", CURVES)
def test_each_trait_moves_its_own_curve_and_nothing_else_or_changes_colour_but_no_gray_value(trait):
    low, high = (vars(plan_motion(MIDDLE | {trait: value}, 19, 73, 15.0)) for value in (0.0, 1.0))
    assert {name for name, curve in low.items() if not np.array_equal(curve, high[name])} == CURVES[trait]
    if not CURVES[trait]:
        low, high = (draw_clip(2, 17, latents={trait: value}, n_frames=47).frames for value in (0.0, 1.0))
        assert (np.abs(low.astype(float) - high).max(axis=-1) > 40).mean() > 0.01
        gray = (np.float64([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]) for frames in (low, high))
        change = np.abs(np.subtract(*gray))
        assert np.quantile(change, 0.999) <= 2  # rounding; a few dark pixels clip at 0
        assert change.mean() < 0.05


def test_ratings_follow_the_latents_with_the_promised_noise_and_latents_are_independent():
    latents = pd.DataFrame([sample.draw_latents(seed) for seed in range(997)])
    ratings = pd.DataFrame([sample.rate_clip(row, seed) for seed, row in enumerate(latents.to_dict("records"))])
    noise = (ratings[list(TRAITS)] - latents)[(latents > 0.2) & (latents < 0.8)]
    np.testing.assert_allclose(noise.std(), 0.06, atol=0.006)
    assert np.abs(latents.corr().to_numpy() - np.eye(5)).max() < 0.12
    np.testing.assert_allclose(ratings["interview"] - ratings[list(TRAITS)].mean(axis=1), 0, atol=0.15)


def test_a_sample_started_again_draws_only_what_is_missing(tmp_path):
    first = sample.write_sample(tmp_path, 2, 3, clips_per_source=2)
    kept, lost = (tmp_path / f"{key}.mp4" for key in first["key"])
    kept.write_bytes(b"as it was")
    lost.unlink()
    pd.testing.assert_frame_equal(sample.write_sample(tmp_path, 2, 3, clips_per_source=2), first)
    assert kept.read_bytes() == b"as it was"
    assert probe(lost).n_frames == 73
    assert not list(tmp_path.rglob(".part-*"))


def test_the_shipped_clips_and_ratings_are_those_that_their_seeds_draw():
    plan, truth = sample_plan(), pd.read_csv(SHIPPED / "truth.csv")
    pd.testing.assert_frame_equal(truth, sample.sample_truth(plan), check_dtype=False, rtol=0, atol=1e-6)
    files = {path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.glob("*80_*/*.mp4")}
    assert files == set(truth["key"])
    for row in truth.iloc[[0, 23]].itertuples():
        shown = read_frames(SHIPPED / f"{row.key}.mp4", backend="pyav").frames.astype(float)
        drawn = draw_clip(row.source_seed, row.clip_seed).frames.astype(float)
        assert abs(shown.mean() - drawn.mean()) < 2
        blurred = [np.stack([cv2.blur(frame, (5, 5)) for frame in frames]) for frames in (shown, drawn)]
        assert np.abs(blurred[0] - blurred[1]).mean() < 2
        assert np.corrcoef(shown.ravel(), drawn.ravel())[0, 1] > 0.98
    for split, name in (("train", "training"), ("validation", "validation"), ("test", "test")):
        raw = (SHIPPED / f"annotation_{name}.pkl").read_bytes()  # plain, of Python 2, in ChaLearn's order
        opcodes = {opcode.name for opcode, _, _ in pickletools.genops(raw)}
        assert opcodes == {"PROTO", "EMPTY_DICT", "MARK", "SHORT_BINSTRING", "BINFLOAT", "SETITEMS", "STOP"}
        ratings = sample.sample_ratings(plan[plan["split"] == split])
        wanted = {t: {f"{key.split('/')[1]}.mp4": value for key, value in ratings[t].items()} for t in PICKLE_KEYS}
        table = pickle.loads(raw, encoding="latin1")
        assert (list(table), table) == (PICKLE_KEYS, wanted)


def test_motion_clips_are_the_drawn_ones_the_same_poses_once_per_class_and_a_source_in_one_split():
    for seed in range(40):
        puppet = motion_sample.build_puppet(seed)
        poses = [sorted(motion_sample.clip_poses(puppet, category).tolist()) for category in motion_sample.CLASSES]
        assert poses[0] == poses[1] == poses[2]
    plan, folder = motion_sample.motion_plan(), SHIPPED / "motion"
    assert len(plan) >= 120
    assert plan["key"].is_unique
    assert (plan.groupby("source")["category"].agg(sorted).map(tuple) == tuple(sorted(motion_sample.CLASSES))).all()
    assert (plan.groupby("source")["split"].nunique() == 1).all()
    assert [source_of(key) for key in plan["key"]] == plan["source"].tolist()
    assert set(plan["source"]).isdisjoint(motion_sample.motion_plan(seed=1)["source"])
    truth = pd.read_csv(folder / "truth.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(truth, plan, check_dtype=False)
    assert set(find_clips(folder).index) == set(plan["key"])
    for _, row in plan.iloc[::40].iterrows():
        drawn = motion_sample.draw_motion_clip(row["source_seed"], row["category"], row["clip_seed"])
        shipped = read_frames(folder / f"{row['key']}.mp4", backend="pyav").frames
        moves = [(frames - frames.mean(axis=0)).ravel() for frames in (shipped, drawn)]
        assert np.corrcoef(moves)[0, 1] > 0.7  # compression takes noise away; another order gives 0


def test_whoever_looks_for_rated_clips_passes_the_classes_by(tmp_path):
    assert not find_clips(SHIPPED).index.str.startswith("motion/").any()
    make_clips(tmp_path, "train/a.mp4", "other/b.mp4", f"other/{LEAVE_OUT}")
    assert find_clips(tmp_path).index.tolist() == ["train/a"]
    assert find_clips(tmp_path / "other").index.tolist() == ["b"]


def test_the_bank_holds_a_thousand_clips_in_nine_tokens_and_any_split_of_it_is_clean():
    tokens, reduction = align.read_aligned(TOKENS), align.read_reduction(TOKENS / "reduction.npz")
    identity = read_json(TOKENS / "manifest.json")["identity"]
    assert (tokens.static_features.shape, tokens.dynamic_features.shape) == ((1000, 9, 64), (1000, 9, 32))
    assert all(of.all() for of in (tokens.static_mask, tokens.dynamic_mask, tokens.rated))
    assert len(np.unique(tokens.sources)) == 200
    np.testing.assert_allclose(tokens.static_t_s, tokens.dynamic_t_s, atol=0.05)
    assert identity["static"]["weights"]["name"] == identity["dynamic"]["weights"]["name"] == "random"
    assert identity["reduction"] == reduction.identity
    fitted, drawn = {source_of(key) for key in reduction.fitted_on}, set(tokens.sources)
    shipped = set(read_clips(SHIPPED).dropna()["source"])
    assert len(fitted) >= 100
    assert len(fitted | drawn | shipped) == len(fitted) + len(drawn) + len(shipped)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("again", "least", "most"),
    [("extracted", 0.999, 0.02), ("drawn", 0.98, 0.15)],  # the encoder's bytes differ from run to run
)
def test_clips_extracted_or_drawn_again_give_their_tokens(tmp_path, again, least, most):
    data, tokens = SHIPPED, TOKENS / "shipped"
    if again == "drawn":
        data, tokens = tmp_path / "clips", TOKENS
        plan = sample.sample_plan(bank.BANK_CLIPS, bank.BANK_SEED, bank.BANK_CLIPS_PER_SOURCE, splits=False)
        for place in (3, 500):
            sample.write_clip(data, plan.iloc[place])
    clips = read_clips(data)
    clips = clips if again == "drawn" else clips.dropna().iloc[[0, 17, 35]]
    folders = {"data_dir": str(data), "out_dir": str(tmp_path)}  # the path of notebooks 02 to 05 at their defaults
    prepare_clips(clips, PreparationConfig(**folders))
    extract_static(clips, StaticConfig(**folders))
    extract_dynamic(clips, DynamicConfig(**folders))
    reduction, theirs = align.read_reduction(TOKENS / "reduction.npz"), align.read_aligned(tokens)
    ours = align.align_streams(clips, tmp_path / "static", tmp_path / "dynamic", reduction)
    theirs = theirs.take([theirs.clips.tolist().index(key) for key in clips.index])
    for name in STREAMS:
        a, b = getattr(ours, f"{name}_features"), getattr(theirs, f"{name}_features")
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > least
        assert np.abs(a - b).mean() < most * b.std()
