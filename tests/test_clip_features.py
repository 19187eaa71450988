"""Frame features of labelled clips: files, resuming, damaged clips, scales; with a small network for most of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from drawn_features import D, T, draw_features, write_drawn, write_features

from data_sample.make.motion_sample import motion_plan
from helpers import clip_features, pipeline
from helpers.clip_features import average_scales, extract_clip_features, feature_file, read_variants
from helpers.clip_frames import FrameJob, clip_frames
from helpers.config import ClassificationConfig
from helpers.files import ROOT, read_json
from helpers.large import read_labelled
from helpers.video import read_frames
from helpers.weights import Weights

SAMPLE = ROOT / "data_sample" / "motion"
PX = 32


SCRIPT = """
import sys, time
from types import SimpleNamespace
import numpy as np
from helpers import clip_features
from helpers.config import ClassificationConfig
from helpers.weights import Weights

def slow_mean_colour(x):
    time.sleep(0.4)
    return x.mean(axis=(1, 2))

weights = Weights("random", "a test", "0" * 64, "none")
clip_features.build_backbone = lambda name, weights_, input_px: SimpleNamespace(
    input_px=32, feature_dim=3, prepare=None, weights=weights, model=slow_mean_colour
)
clip_features.compile_forward = lambda network, precision, prepare=None: network
clip_features.extract_clip_features(ClassificationConfig.checked(eval(sys.argv[1])))
"""


def mean_colour(x: np.ndarray) -> np.ndarray:
    """A network of 3 features."""
    return x.mean(axis=(1, 2))


class PoolHere:
    """Decodes in this process: starting one takes a second, and what it notes is not seen here."""

    def __init__(self, work, **_):
        self.work = work

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, tasks):
        return ((clip, self.work(job)) for clip, job in tasks)


@pytest.fixture(autouse=True)
def network(monkeypatch):
    backbone = SimpleNamespace(
        input_px=PX,
        feature_dim=3,
        prepare=None,
        weights=Weights("random", "a test", "0" * 64, "none"),
        model=mean_colour,
    )
    monkeypatch.setattr(clip_features, "build_backbone", lambda name, weights, input_px: backbone)
    monkeypatch.setattr(clip_features, "compile_forward", lambda network, precision, prepare=None: network)
    monkeypatch.setattr(pipeline, "ClipPool", PoolHere)


@pytest.fixture
def cfg(tmp_path) -> ClassificationConfig:
    """Six clips of the sample, two of each class: four in train, two in test."""
    keys = [*motion_plan()["key"][:4], *motion_plan()["key"][-2:]]
    for key in keys:
        (tmp_path / "data" / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLE / f"{key}.mp4", tmp_path / "data" / f"{key}.mp4")
    folders = {"data_dir": str(tmp_path / "data"), "out_dir": str(tmp_path / "run")}
    return ClassificationConfig(**folders, n_frames=5, frame_px=64, scales=[1.0], views=1, tta_views=0)


def change(cfg: ClassificationConfig, **values) -> ClassificationConfig:
    return ClassificationConfig(**cfg.as_dict(without=()) | values)


def contents(cfg: ClassificationConfig) -> dict[str, np.ndarray]:
    """Features of all clips in all views, by file and key."""
    found = {}
    for path in sorted((cfg.out / "classification" / "features").glob("*.h5")):
        features = read_labelled(path)
        found |= {(path.name, key): rows for key, rows in zip(features["key"], features["features"], strict=True)}
    return found


def assert_equal(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_row_is_what_the_network_says_about_a_frame_of_the_clip(cfg):
    manifest = extract_clip_features(cfg)
    features = read_labelled(feature_file(cfg, "train"))
    assert features["categories"] == manifest["categories"]
    assert features["features"].shape == (4, 5, 3)
    assert features["valid"].all()
    for k, key in enumerate(features["key"]):
        video = read_frames(cfg.data / f"{key}.mp4", n_frames=5, backend="pyav")
        assert np.abs(features["features"][k] - video.frames.mean(axis=(1, 2))).max() < 1
        assert np.array_equal(features["t_s"][k], video.t_s)
        assert key.split("/")[1] == sorted(features["categories"])[features["labels"][k]]
        assert features["source"][k] == key.rsplit("/", 1)[1][:11]
    with h5py.File(feature_file(cfg, "train")) as file:
        assert set(file) == {"features", "labels", "num_frames", "t_s", "valid", "key", "source"}
        assert [file[name].dtype for name in ("features", "labels", "num_frames")] == ["float32", "int64", "int32"]
        assert (file["features"].compression, file["features"].compression_opts) == ("gzip", 4)
        names = ("num_videos", "max_frames", "feature_dim", "multi_scale")
        assert [file.attrs[name] for name in names] == [4, 5, 3, False]
        assert json.loads(file.attrs["category_mapping"]) == manifest["categories"]
    dark = read_labelled(feature_file(cfg, "train", "dark"))["features"]
    assert np.allclose(dark, 0.3 * features["features"], atol=1)


def test_every_split_has_a_file_per_view_and_a_description(cfg):
    cfg = change(cfg, tta_views=1)
    manifest = extract_clip_features(cfg)
    views = ["", "_view01", "_tta01"]
    views += [f"_{name}{tta}" for name in ("noise", "blur", "dark") for tta in ("", "_tta01")]
    names = [f"classification/features/{split}_features{view}.h5" for split in ("train", "test") for view in views]
    assert sorted(manifest["features"]) == sorted(names)
    analysis = read_json(cfg.out / "classification" / "features" / "configuration_analysis.json")
    about = {"frames_per_video": 5, "image_size": [64, 64], "processing_mode": "pyav"}
    assert analysis["preprocessing_info"] == about
    assert analysis["splits"]["train"]["features_shape"] == [4, 5, 3]
    assert analysis["splits"]["test"]["num_frames"] == {"min": 5, "max": 5, "mean": 5.0}
    extract_clip_features(change(cfg, views=0, scales=[1.0, 0.85, 1.15]))
    left = {path.name for path in cfg.out.rglob("*.h5")}
    assert all("_multiscale" in name and "view" not in name for name in left)


def test_the_official_split_gives_each_clip_only_the_views_that_it_needs(cfg):
    with pytest.raises(ValueError, match="official"):
        extract_clip_features(change(cfg, split="official"), to_train=True)
    names = {Path(name).stem for name in extract_clip_features(change(cfg, split="official"))["features"]}
    assert names == {"train_features", "train_features_view01"} | {
        f"test_features{view}" for view in ("", "_noise", "_blur", "_dark")
    }
    with pytest.raises(FileNotFoundError, match="08"):  # trained otherwise than extracted
        read_variants(cfg)


def test_a_damaged_clip_is_recorded_and_left_out(cfg):
    key = motion_plan()["key"][1]
    path = cfg.data / f"{key}.mp4"
    path.write_bytes(path.read_bytes()[:500])
    manifest = extract_clip_features(cfg)
    assert [entry["clip"] for entry in manifest["failed"]] == [key]
    assert manifest["counts"]["made"] == 5
    assert key not in read_labelled(feature_file(cfg, "train"))["key"]


def test_rows_that_the_network_fails_on_are_recorded_and_not_valid(cfg, monkeypatch):
    def blind_in_the_dark(x: np.ndarray) -> np.ndarray:
        y = mean_colour(x)
        return np.where(y.mean(axis=1, keepdims=True) < 45, np.nan, y)

    monkeypatch.setattr(clip_features, "compile_forward", lambda network, precision, prepare=None: blind_in_the_dark)
    for _ in range(2):  # found again, they are still told
        manifest = extract_clip_features(cfg)
        dark, plain = (read_labelled(feature_file(cfg, "train", view)) for view in ("dark", "plain"))
        lost = {(entry["clip"], entry["row"]) for entry in manifest["failed"] if entry["reason"].startswith("dark: ")}
        assert {(dark["key"][i], k) for i, k in zip(*np.nonzero(~dark["valid"]), strict=True)} <= lost
        assert not dark["valid"].all()
        assert plain["valid"].all()
        assert manifest["counts"]["invalid_rows"] == len(manifest["failed"]) > 0
    assert set(dark["key"][~dark["valid"].any(axis=1)]).isdisjoint(read_variants(cfg).table.index)


@pytest.fixture
def decoded(monkeypatch) -> set:
    """Key and views of every clip that is decoded."""
    seen = set()

    def noted(job: FrameJob):
        seen.add((job.key, job.views))
        return clip_frames(job)

    monkeypatch.setattr(clip_features, "clip_frames", noted)
    return seen


def test_only_what_is_missing_damaged_or_of_another_version_is_made(cfg, decoded, tmp_path):
    keys = [*motion_plan()["key"][:4], *motion_plan()["key"][-2:]]
    (clip := cfg.data / f"{keys[1]}.mp4").rename(tmp_path / "aside.mp4")
    assert extract_clip_features(cfg)["counts"]["made"] == 5
    (tmp_path / "aside.mp4").rename(clip)
    decoded.clear()
    counts = extract_clip_features(cfg)["counts"]
    assert (counts["found"], counts["made"]) == (5, 1)
    assert {key for key, _ in decoded} == {keys[1]}
    expected = contents(cfg)
    decoded.clear()
    times = {path: path.stat().st_mtime_ns for path in cfg.out.rglob("*.h5")}
    extract_clip_features(cfg)
    assert {path: path.stat().st_mtime_ns for path in cfg.out.rglob("*.h5")} == times
    feature_file(cfg, "test", "noise").write_bytes(b"damaged")
    extract_clip_features(cfg)
    assert not decoded  # its rows are there
    damaged = cfg.out / "classification" / "frames" / keys[-1] / "noise.npz"
    damaged.write_bytes(damaged.read_bytes()[:300])
    os.utime(cfg.data / f"{keys[0]}.mp4", (1, 1))
    extract_clip_features(cfg)
    assert {(key, views) for key, views in decoded if key != keys[0]} == {(keys[-1], ("noise",))}
    assert keys[0] in {key for key, _ in decoded}
    assert_equal(contents(cfg), expected)
    decoded.clear()
    extract_clip_features(more := change(cfg, views=3))
    assert {view for _, views in decoded for view in views} == {"view02", "view03"}
    extract_clip_features(fresh := change(more, out_dir=str(tmp_path / "fresh")))
    assert_equal(contents(more), contents(fresh))


def count(folder: Path) -> int:
    """Clips with a file of each of their views: plain, one for training, three corrupted."""
    return sum(len(list(clip.glob("[!.]*.npz"))) == 5 for clip in {path.parent for path in folder.rglob("plain.npz")})


def test_an_extraction_that_is_killed_and_started_again_gives_the_same(cfg, tmp_path):
    whole = change(cfg, out_dir=str(tmp_path / "whole"))
    extract_clip_features(whole)
    frames = cfg.out / "classification" / "frames"
    one_clip_at_a_time = change(cfg, batch_size=5, workers=1).as_dict(without=())
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, repr(one_clip_at_a_time)], cwd=ROOT)
    deadline = time.monotonic() + 120
    while count(frames) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL) if os.name != "nt" else process.kill()
    process.wait()
    there = count(frames)
    assert 2 <= there < 6
    assert not list(cfg.out.rglob("*.h5"))
    counts = extract_clip_features(cfg)["counts"]
    assert (counts["found"], counts["made"]) == (there, 6 - there)
    assert_equal(contents(cfg), contents(whole))


def test_an_array_gives_the_rows_of_the_video_that_it_was_made_of(cfg):
    key = motion_plan()["key"][0]
    frames = read_frames(cfg.data / f"{key}.mp4").frames
    np.savez_compressed((cfg.data / key).parent / "processed_data.npz", videos=frames[None].transpose(0, 1, 4, 2, 3))
    extract_clip_features(cfg)
    features = read_labelled(feature_file(cfg, "train"))
    rows = dict(zip(features["key"], features["features"], strict=True))
    assert np.abs(rows[key] - rows[f"{key.rpartition('/')[0]}/processed_data/0000"]).max() < 1


def test_scales_leave_what_changes_steadily_as_it_is():
    t_s = np.sort(np.random.default_rng(0).random(11))
    ramp = np.stack([t_s, 5 - 3 * t_s], axis=1).astype(np.float32)
    averaged, times, valid = average_scales((ramp, t_s, np.ones(11, bool)), [1.0, 0.85, 1.15])
    assert np.allclose(averaged, ramp, atol=1e-6)  # zero padding would damp the end
    assert np.array_equal(times, t_s)
    assert valid.all()


def test_scales_smooth_in_time_and_never_use_rows_that_are_not_valid():
    t_s, valid = np.arange(13.0), np.ones(13, bool)
    rows = np.random.default_rng(1).random((13, 2)).astype(np.float32)
    only = average_scales((rows, t_s, valid), [7 / 13])[0]
    assert np.array_equal(only[::2], rows[::2])
    assert np.allclose(only[1::2], (rows[:-1:2] + rows[2::2]) / 2)
    rows[4], valid[4] = 1e9, False
    averaged, _, usable = average_scales((rows, t_s, valid), [1.0, 7 / 13])
    assert averaged.max() <= 1
    assert np.array_equal(np.flatnonzero(~usable), [4])
    assert not averaged[4].any()


def test_a_clip_of_one_frame_has_one_row():
    rows = (np.ones((1, 2), np.float32), np.zeros(1), np.ones(1, bool))
    assert average_scales(rows, [1.0, 0.85, 1.15])[0].tolist() == [[1, 1]]


def test_views_of_several_splits_are_pooled_in_one_order_padded_and_masked(tmp_path):
    cfg = ClassificationConfig(out_dir=str(tmp_path), scales=[1.0], views=0, tta_views=0)
    folder = feature_file(cfg, "train").parent
    write_drawn(folder, 2, noise=2.0, blur=1.0, dark=1.0)
    write_drawn(folder, 1, split="test", noise=2.0, blur=1.0, dark=1.0)
    short = draw_features(1, split="test")
    write_features(folder / "test_features_blur.h5", short | {"features": short["features"][:, :5]})
    clips = read_variants(cfg)
    assert clips.features["plain"].shape == (9, T, D)
    assert clips.table["split"].tolist() == ["test"] * 3 + ["train"] * 6
    assert clips.classes == ["down", "turn", "up"]
    assert clips.table["label"].tolist() == [0, 1, 2] * 3
    assert clips.masks["blur"].sum(axis=1).tolist() == [5] * 3 + [T] * 6
    features, mask = clips.frames("blur", np.array([1, 4]))
    assert np.array_equal(features[0, :5], short["features"][1, :5])
    assert mask[1].all()
    write_features(folder / "train_features_noise.h5", draw_features(1))
    with pytest.raises(ValueError, match="noise"):  # of other clips
        read_variants(cfg)
