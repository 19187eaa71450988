"""Labelled clips: folders, folds, views, arrays, and features, with a small network for most of it."""

import json
import os
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest

from data_sample.make.motion_sample import motion_plan
from helpers import clip_features
from helpers.clip_features import average_scales, extract_clip_features, find_classes, plan_folds, views_of
from helpers.clip_frames import CORRUPTIONS, STEP, FrameJob, clip_frames, open_array, read_clip, show_view
from helpers.config import ClassificationConfig
from helpers.container import VideoError
from helpers.files import ROOT, read_json
from helpers.video import read_frames
from helpers.weights import Weights

SAMPLE = ROOT / "data_sample" / "motion"
PX = 32
RANDOM = np.random.default_rng(0)
FRAME = RANDOM.integers(0, 256, (40, 40, 3), np.uint8)
VIDEOS = RANDOM.integers(0, 256, (2, 5, 3, 7, 11), np.uint8)  # (N, T, C, H, W), distinct primes but for the channels


def make(root: Path, *names: str) -> Path:
    """Files of different content each, and their folder if there are any."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes([number]) * 10)
    return root


def test_classes_have_one_label_in_all_splits_may_lie_deep_and_what_does_not_fit_is_said(tmp_path):
    make(tmp_path, "train/b/1.mp4", "train/a/x/y/-AmMDnVl4s8.002.mov", "val/b/2.mp4", "notes/c/3.mp4", "train/.c/4.mp4")
    make(tmp_path, "train/loose.mp4", "train/b/processed_data.npz", "train/b/sub/processed_data.pt")
    (tmp_path / "val" / "empty").mkdir()
    (tmp_path / "train" / "b" / "sub2").mkdir()
    np.save(tmp_path / "train" / "b" / "sub2" / "processed_data.npy", VIDEOS)
    found = find_classes(tmp_path)
    columns = ["key", "place", "source", "split", "category", "label"]
    assert found.table.reset_index()[columns].to_numpy().tolist() == [
        ["train/a/x/y/-AmMDnVl4s8.002", -1, "-AmMDnVl4s8", "train", "a", 0],
        ["train/b/1", -1, "train/b/1", "train", "b", 1],
        *(["train/b/sub2/processed_data/" + n, int(n), "train/b/sub2/processed_data/" + n, "train", "b", 1]
          for n in ("0000", "0001")),
        ["val/b/2", -1, "val/b/2", "validation", "b", 1],
    ]  # fmt: skip
    left_out = {f"train/{name}" for name in ("loose.mp4", "b/processed_data.npz", "b/sub/processed_data.pt")}
    assert {entry["name"] for entry in found.problems} == left_out | {"validation/a", "validation/empty"}


def labelled(*clips: tuple[str, str, str]) -> clip_features.LabelledClips:
    """Clips of (split, class, source)."""
    table = pd.DataFrame(clips, columns=["split", "category", "source"])
    return clip_features.LabelledClips(table.assign(label=table["category"].map({"a": 0, "b": 1})), ["a", "b"], [])


ENOUGH = [(split, name, f"{split}{k}") for split in ("train", "validation", "test") for name in "ab" for k in range(2)]


def test_every_clip_is_tested_once_by_folds_that_share_no_source():
    many = labelled(*(("train", name, f"source{k}") for k in range(10) for name in "ab"))
    folds = plan_folds(many, ClassificationConfig(folds=5))
    for kind in ("validation", "test"):
        assert sorted(np.concatenate([getattr(fold, kind) for fold in folds])) == list(range(20))
    for fold in folds:
        parts = [set(many.table["source"][rows]) for rows in fold]
        assert [len(part) for part in parts] == [6, 2, 2]
        assert len(set.union(*parts)) == 10
    (fold,) = plan_folds(clips := labelled(*ENOUGH), ClassificationConfig(split="official"))
    assert [set(clips.table["split"][rows]) for rows in fold] == [{"train"}, {"validation"}, {"test"}]


@pytest.mark.parametrize(
    ("clips", "parameters", "word"),
    [
        ([clip for clip in ENOUGH if clip[:2] != ("train", "b")], {"split": "official"}, "none of b"),
        ([clip for clip in ENOUGH if clip[0] != "validation"], {"split": "official"}, "got test, train"),
        (ENOUGH, {"folds": 7}, "at most 6"),
        ([("train", name, f"{name}{k}") for name in "ab" for k in range(3)], {"folds": 5}, "at most 3"),
        ([], None, "data_dir"),  # there is no such folder
        (["a/1.mp4"], None, "train, validation, test"),
        (["train/a/1.mp4"], None, "two"),
        (["train/a/1.mp4", "train/b/2.mp4", "train/b/2.avi"], None, "same key 'train/b/2'"),
    ],
)
def test_clips_that_cannot_be_trained_and_tested_on_are_refused_before_any_work(tmp_path, clips, parameters, word):
    with pytest.raises(ValueError, match=word):
        if parameters is None:
            find_classes(make(tmp_path / "data", *clips))
        plan_folds(labelled(*clips), ClassificationConfig(**parameters))


KEY = motion_plan()["key"][0]


def job(*views: str, n_frames: int = 5, **parameters) -> FrameJob:
    cfg = ClassificationConfig(n_frames=n_frames, frame_px=64, **parameters)
    return FrameJob(SAMPLE / f"{KEY}.mp4", -1, KEY, views, cfg, "pyav", PX)


def test_a_view_depends_on_its_name_and_seed_and_not_on_the_others():
    def shown(*views: str, **parameters) -> dict[str, np.ndarray]:
        return {chunk.view: chunk.values for chunk in clip_frames(job(*views, **parameters))}

    views = shown("plain", "view01", "view02", "tta01", "noise", "noise_tta01")
    assert all(values.shape[1:] == (PX, PX, 3) for values in views.values())
    for name in ("noise_tta01", "view02"):
        assert np.array_equal(shown(name)[name], views[name])
    assert not np.array_equal(shown("view02", seed=1)["view02"], views["view02"])


@pytest.mark.parametrize("n_frames", [1, 5, STEP * 15 + 1])
def test_a_view_of_another_speed_ends_where_the_clip_ends_and_turns_a_direction_only_where_it_may(n_frames):
    half = np.tile(np.repeat(np.array([0, 200], np.uint8), 20)[:, None], (n_frames, 40, 1, 3))  # dark left, light right
    views, turned = {"plain", *(f"view{k:02}" for k in range(30))}, {True: 0, False: 0}
    for view, flip in product(views, turned):
        places, frames = zip(*show_view(half, view, job(n_frames=16, flip=flip)), strict=True)
        assert list(places) == sorted(places)
        assert 0 <= places[0] <= places[-1] < n_frames
        assert len(places) <= min(16, n_frames)
        turned[flip] += frames[0][:, :8].mean() > frames[0][:, -8:].mean()
    assert 5 < turned[True] < 25
    assert turned[False] == 0
    plain = [place for place, _ in show_view(half, "plain", job(n_frames=16))]
    assert plain == list(range(0, n_frames, STEP if n_frames > 16 else 1))


def test_corruptions_do_what_their_names_say_and_views_for_testing_bring_light():
    noise = CORRUPTIONS["noise"](np.full_like(FRAME, 128), RANDOM).astype(float) - 128
    assert noise.std() == pytest.approx(25, rel=0.1)
    assert CORRUPTIONS["blur"](FRAME, RANDOM).std() < FRAME.std() / 2
    assert CORRUPTIONS["dark"](FRAME, RANDOM).mean() == pytest.approx(0.3 * FRAME.mean(), abs=1)
    frames = np.full((17, 40, 40, 3), 40, np.uint8)
    assert next(show_view(frames, "tta01", job()))[1].mean() == pytest.approx(110, rel=0.1)
    assert next(show_view(frames, "plain", job()))[1].mean() == 40


def test_an_array_is_read_clip_by_clip_and_one_of_another_kind_is_refused(tmp_path):
    for stored in (VIDEOS, VIDEOS / np.float32(255)):
        np.save(array := tmp_path / f"{stored.dtype}.npy", stored)
        np.savez_compressed(archive := tmp_path / f"{stored.dtype}.npz", x=0, videos=stored)
        for path, place in product((array, archive), (0, 1)):
            assert len(open_array(path)) == 2
            assert np.array_equal(read_clip(path, place), VIDEOS[place].transpose(0, 2, 3, 1))
    wrong = {"normalisation": np.full((1, 2, 3, 4, 4), -1.5), "shape": np.zeros((1, 2, 4, 4, 3), np.uint8)}
    for word, stored in (wrong | {"objects": np.array([{}])}).items():
        np.save(array := tmp_path / f"{word}.npy", stored, allow_pickle=True)
        with pytest.raises(VideoError, match=f": .*{word}"):
            read_clip(array, 0)


def use_network(forward, put):
    """Take a network of 3 features in place of the real one."""
    weights = Weights("random", "a test", "0" * 64, "none")
    backbone = SimpleNamespace(input_px=PX, feature_dim=3, prepare=None, weights=weights, model=None)
    put(clip_features, "build_backbone", lambda name, weights, input_px: backbone)
    put(clip_features, "compile_forward", lambda network, precision, prepare: forward)


@pytest.fixture
def cfg(tmp_path, monkeypatch) -> ClassificationConfig:
    """Nine clips of the sample, three of each class and of each source: two sources in train, one in test."""
    use_network(lambda x: x.mean(axis=(1, 2)), monkeypatch.setattr)
    for key in [*motion_plan()["key"][:6], *motion_plan()["key"][-3:]]:
        (tmp_path / "data" / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLE / f"{key}.mp4", tmp_path / "data" / f"{key}.mp4")
    how = {"n_frames": 5, "frame_px": 64, "scales": [1.0], "views": 1, "tta_views": 0, "folds": 3, "workers": 1}
    return ClassificationConfig(data_dir=str(tmp_path / "data"), out_dir=str(tmp_path / "run"), **how)


def test_a_row_is_what_the_network_says_about_a_frame_and_the_plain_ones_go_to_hdf5(cfg):
    clips, folder = extract_clip_features(cfg), cfg.out / "classification" / "features"
    for key, split, label, source in clips.table[["split", "label", "source"]].itertuples():
        video = read_frames(cfg.data / f"{key}.mp4", n_frames=5, backend="pyav")
        (features, t_s, valid), (dark, *_) = clips.read(key, ["plain", "dark"])
        assert np.abs(features - video.frames.mean(axis=(1, 2))).max() < 1
        assert np.array_equal(t_s, video.t_s)
        assert valid.all()
        assert np.allclose(dark, 0.3 * features, atol=1)
        assert (key.split("/")[1], source) == (clips.classes[label], key.rsplit("/", 1)[1][:11])
        with h5py.File(folder / f"{split}_features.h5") as file:
            k = file["key"].asstr()[:].tolist().index(key)
            assert np.array_equal(file["features"][k], features)
            assert (file["labels"][k], file["source"].asstr()[k], file["num_frames"][k]) == (label, source, 5)
    with h5py.File(folder / "train_features.h5") as file:
        assert [file[name].dtype for name in ("features", "labels", "num_frames")] == ["float32", "int64", "int32"]
        assert (file["features"].compression, file["features"].compression_opts) == ("gzip", 4)
        names = ("num_videos", "max_frames", "feature_dim", "multi_scale")
        assert [file.attrs[name] for name in names] == [6, 5, 3, False]
        assert json.loads(file.attrs["category_mapping"]) == {name: k for k, name in enumerate(clips.classes)}
    analysis = read_json(folder / "configuration_analysis.json")
    assert analysis["preprocessing_info"] == {"frames_per_video": 5, "image_size": [64, 64], "processing_mode": "pyav"}
    assert analysis["splits"]["train"]["features_shape"] == [6, 5, 3]
    assert analysis["splits"]["test"]["num_frames"] == {"min": 5, "max": 5, "mean": 5.0}
    with pytest.raises(ValueError, match="scales"):
        extract_clip_features(replace(cfg, scales=[1.0, 0.85]))
    extract_clip_features(replace(cfg, scales=[1.0, 0.85], out_dir=f"{cfg.out}2"))
    names = {path.name for path in Path(f"{cfg.out}2").rglob("*.h5")}
    assert names == {f"{split}_features_multiscale.h5" for split in ("train", "test")}


def test_the_official_split_gives_views_where_they_are_needed_and_few_sources_are_said_before(cfg):
    cfg = replace(cfg, split="official")
    with pytest.raises(ValueError, match="official"):
        extract_clip_features(cfg)
    for split in ("validation", "test"):
        shutil.copytree(cfg.data / "train", cfg.data / split, dirs_exist_ok=True)
    frames = read_frames(cfg.data / f"{KEY}.mp4").frames
    np.savez_compressed((cfg.data / KEY).parent / "processed_data.npz", videos=frames[None].transpose(0, 1, 4, 2, 3))
    clips = extract_clip_features(cfg)
    ours, theirs = (next(clips.read(key))[0] for key in (KEY, f"{KEY.rpartition('/')[0]}/processed_data/0000"))
    assert np.abs(ours - theirs).max() < 1  # an array gives the rows of the video that it was made of
    assert ["3 sources" in problem["problem"] for problem in clips.problems] == [True]
    views = {"train": ["plain", "view01"], "validation": ["plain"], "test": ["blur", "dark", "noise", "plain"]}
    for key, split in clips.table["split"].items():
        with np.load(clips.folder / f"{key}.npz") as file:
            assert sorted(set(file["view"].tolist())) == views[split]


def test_what_cannot_be_used_is_recorded_left_out_and_found_again(cfg, monkeypatch):
    def blind_in_the_dark(x: np.ndarray) -> np.ndarray:
        y = x.mean(axis=(1, 2))
        return np.where(y.mean(axis=1, keepdims=True) < 34.7, np.nan, y)

    use_network(blind_in_the_dark, monkeypatch.setattr)
    path = cfg.data / f"{(damaged := motion_plan()['key'][1])}.mp4"
    path.write_bytes(path.read_bytes()[:500])
    for _ in range(2):
        clips = extract_clip_features(cfg)
        lost = {entry["clip"] for entry in clips.manifest["failed"] if "row" not in entry}
        rows = {(entry["clip"], entry["row"]) for entry in clips.manifest["failed"] if "row" in entry}
        assert clips.manifest["counts"]["invalid_rows"] == len(rows) > 0
        assert KEY in {key for key, _ in rows} - lost
        assert clips.manifest["counts"]["failed"] == 1
        assert len(clips.table) == 9 - len(lost)
        assert sum(note.startswith("left out: ") for note in clips.notes()) == len(lost) == 4
        for key in (lost | set(clips.table.index)) - {damaged}:
            seen = all(valid.any() for *_, valid in clips.read(key, views_of("train", cfg)))
            assert seen == (key not in lost)


def test_an_extraction_goes_on_and_makes_only_what_is_not_there_or_of_another_clip(cfg):
    whole = extract_clip_features(cfg)
    rows = {key: [*whole.read(key, views_of("train", cfg))] for key in whole.table.index}
    for key in whole.table.index[::2]:
        (whole.folder / f"{key}.npz").unlink()
    for found in (4, 8):
        clips = extract_clip_features(replace(cfg, batch_size=5))
        assert [clips.manifest["counts"][name] for name in ("found", "made")] == [found, 9 - found]
        for key, before in rows.items():
            for ours, theirs in zip(clips.read(key, views_of("train", cfg)), before, strict=True):
                assert all(map(np.array_equal, ours, theirs))
        os.utime(cfg.data / f"{KEY}.mp4", (1, 1))  # another version of the clip


def test_scales_leave_what_changes_steadily_smooth_in_time_and_never_use_rows_that_are_not_valid():
    t_s = np.sort(np.random.default_rng(0).random(11))
    ramp = np.stack([t_s, 5 - 3 * t_s], axis=1).astype(np.float32)
    averaged, valid = average_scales(ramp, t_s, np.ones(11, bool), [1.0, 0.85, 1.15])
    assert np.allclose(averaged, ramp, atol=1e-6)  # zero padding would damp the end
    assert valid.all()
    one = np.ones((1, 2), np.float32)
    assert average_scales(one, np.zeros(1), np.ones(1, bool), [1.0, 0.85, 1.15])[0].tolist() == [[1, 1]]
    t_s, valid = np.arange(13.0), np.ones(13, bool)
    rows = np.random.default_rng(1).random((13, 2)).astype(np.float32)
    only, _ = average_scales(rows, t_s, valid, [7 / 13])
    assert np.array_equal(only[::2], rows[::2])
    assert np.allclose(only[1::2], (rows[:-1:2] + rows[2::2]) / 2)
    rows[4], valid[4] = np.nan, False
    averaged, usable = average_scales(rows, t_s, valid, [1.0, 7 / 13])
    assert averaged.max() <= 1
    assert np.array_equal(np.flatnonzero(~usable), [4])
    assert not averaged[4].any()
