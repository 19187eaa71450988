"""The benchmarks run and say what they promise, kills and damage included; how fast anything is, no test judges."""

import multiprocessing
from functools import partial

import chunkwork
import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from toy_tokens import network

from benchmarks import damaged, decode, dynamic, machine, memory, rearranged, resume, static, training, variants
from benchmarks.clips import TO_DAMAGE, draw_pictures, write_encodings
from benchmarks.decode import AUTO
from benchmarks.flow import accuracy_table, end_point_error, warped_pairs
from benchmarks.pointing import DATA, planted_places, pointing, score_slopes
from benchmarks.readers import OPENCV, Job, Way, read_fully
from helpers.align import ChannelGroups, Pca
from helpers.backbones import Backbone
from helpers.clips import find_clips
from helpers.config import PreparationConfig
from helpers.faces import track_clip
from helpers.files import read_json, write_json
from helpers.store import read_features
from helpers.video import probe, read_frames
from helpers.weights import Weights

N_FRAMES, NAME = 31, "h264 faststart mp4"
SMALL = (NAME, "h264 mkv", "mpeg4 avi", "vp9 webm", "av1 mkv")


@pytest.fixture
def result_of(tmp_path):
    """Runs a benchmark; returns its JSON."""

    def run(benchmark, arguments):
        benchmark.main([*arguments.split(), "--json", str(tmp_path / "result.json")])
        result = read_json(tmp_path / "result.json")
        assert {"backend", "kind", "name", "cores"} == result["machine"]["devices"][0].keys()
        return result

    return run


def small_backbone(name, weights):
    inputs = keras.Input((31, 31, 3))
    x = keras.layers.Conv2D(5, 3, strides=2, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    return Backbone(name, model, 31, 5, Weights(name, weights, "", ""))


def small_motion_network(weights, endpoint):
    inputs = keras.Input((None, 112, 112, 2))
    return keras.Model(inputs, keras.layers.Conv3D(3, 2, strides=(2, 16, 16), padding="same")(inputs)), None


def test_features_are_timed_with_the_same_work_for_every_way(result_of, monkeypatch):
    monkeypatch.setattr(static, "build_backbone", small_backbone)  # tracing ResNet-50 three ways takes a while
    result = result_of(static, "--clips 2 --few 5 --batch 7 --rounds 1")
    ways = {row["way"]: row for row in result["rows"]}
    images = [ways[name]["images"] for name in ("stage float32", "forward float32", static.LOOP)]
    assert images == [30, 28, 28]  # whole batches; of the 35 asked for there are 30
    assert ways["stage bfloat16"]["to_forward"] == result["ratio_pipeline_to_forward_bf16"] > 0
    assert 0.999 < result["cosine_bf16"] <= 1 + 1e-9
    monkeypatch.setattr(dynamic, "build_motion_network", small_motion_network)
    result = result_of(dynamic, "--clips 2 --few 3 --rounds 1")
    ways = {row["way"]: row["clips"] for row in result["rows"]}
    assert [ways[name] for name in ("stage float32", dynamic.FLY, dynamic.WORK, dynamic.WINDOWS)] == [2, 2, 2, 1]
    assert result["ratio_clip_pass_to_stride1"] > 1


def small_model(*widths):
    streams = {
        name: keras.Input((width,), name=name) for name, width in zip(("static", "dynamic"), widths, strict=True)
    }
    return keras.Model(streams, keras.layers.Dense(5)(streams["static"]))


def test_memory_and_training_are_measured(result_of, monkeypatch):
    monkeypatch.setattr(memory, "FIRST", 64)
    result = result_of(memory, "--rows 150")
    assert [row["rows"] for row in result["rows"]] == [64, 150]
    assert result["rss_mb_peak"] == pytest.approx(max(result["rss_mb_64"], result["rss_mb_150"]))
    monkeypatch.setattr(training, "CompletePersonalityModel", small_model)  # the real one drops out at random
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)  # no other backend
    result = result_of(training, "--widths 11/7 --samples 37 --epochs 1 --rounds 1")
    peer, ours = result["rows"]
    assert (peer["way"], ours["way"]) == (training.PEER, training.OURS)
    assert peer["loss"] == pytest.approx(ours["loss"], rel=0.02)  # the same work


def test_two_machines_are_measured_and_compared(result_of, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("helpers.backbones.build_backbone", small_backbone)
    tiny = "--size 64 --batches 1 3 --clips 1 --px 32 --repeats 1 --endpoint MaxPool3d_2a_3x3"
    result = result_of(machine, tiny)
    names = [(row["name"], row["batch"]) for row in result["rows"]]
    assert names[0] == ("matmul 64 x 64", 1)
    assert names[3:] == [("resnet50", 1), ("resnet50", 3), ("I3D to MaxPool3d_2a_3x3, 16 flows", 1)]
    assert all(row["per_s"] > 0 for row in result["rows"])
    twice = {"settings": {"px": 1}, "rows": [row | {"per_s": 2 * row["per_s"]} for row in result["rows"]]}
    write_json(tmp_path / "b.json", result | twice)
    machine.main(["--compare", str(tmp_path / "result.json"), str(tmp_path / "b.json")])
    said = capsys.readouterr().out
    assert "measured with different settings: " in said
    assert said.count(" 2.00\n") == len(result["rows"])


@pytest.mark.parametrize(("forgetful", "status", "identical"), [(False, 0, 1), (True, 1, 0)])
def test_a_run_that_goes_on_differently_after_a_kill_is_found_out(tmp_path, monkeypatch, forgetful, status, identical):
    def start_run(clips, out):
        run = partial(chunkwork.fill, clips, out, forgetful=forgetful)
        process = multiprocessing.get_context("spawn").Process(target=run)
        process.start()
        return process

    monkeypatch.setattr(resume, "start_run", start_run)
    arguments = ["--kills", "1", "--seed", "1"]  # of this seed, the instant lies in the midst of the second stage
    assert resume.main([*arguments, "--json", str(tmp_path / "result.json")]) == status
    result = read_json(tmp_path / "result.json")
    assert (result["kills"], result["identical"]) == (1, identical)


@pytest.mark.slow
def test_the_run_that_is_killed_makes_rows_as_wide_as_those_of_the_real_networks(tmp_path):
    clips = find_clips(DATA).iloc[-1:]
    rearranged.extract_all(clips, tmp_path)
    for name, width in {"static": 2048, "dynamic": 1024}.items():
        assert read_features(tmp_path / name / f"{clips.index[0]}.npz").features.shape == (9, width)


@pytest.mark.parametrize("pair", list(warped_pairs(3, 96)), ids=lambda pair: f"{pair.texture}, {pair.warp}")
def test_following_the_true_motion_shows_the_first_picture_again(pair):
    y, x = np.indices(pair.gray0.shape, np.float32)
    back = cv2.remap(pair.gray1, x + pair.truth[..., 0], y + pair.truth[..., 1], cv2.INTER_CUBIC)
    off, still = (np.abs(gray.astype(float) - pair.gray0)[16:-16, 16:-16].mean() for gray in (back, pair.gray1))
    assert off < 1
    assert off < 0.5 * still or pair.warp in ("shift 0.5 px", "smile")  # these change little by themselves


def test_errors_are_mean_distances_inside_the_border_and_rank_the_methods_as_their_makers_do():
    truth = np.zeros((11, 13, 2), np.float32)
    flow = truth + np.float32([3, -4])
    flow[0] = 100
    assert end_point_error(flow, truth, border_px=1) == 5 < end_point_error(flow, truth, border_px=0)
    with pytest.raises(ValueError, match="sides above 32"):
        end_point_error(flow, truth)
    table = accuracy_table(("farneback", "dis_fast", "dis_medium"), seeds=(0,), side_px=128)
    mean = table.groupby("method")[["motion_px", "clean_px", "fields_per_s"]].mean()
    assert mean["clean_px"]["dis_medium"] < mean["clean_px"]["dis_fast"] < mean["clean_px"]["farneback"]
    assert mean["clean_px"]["dis_medium"] < 0.2
    assert (mean["clean_px"] < mean["motion_px"]).all()
    assert mean["fields_per_s"]["dis_fast"] > mean["fields_per_s"]["dis_medium"] > 0


@pytest.mark.parametrize("method", ["pca", "groups"])
def test_slopes_are_those_of_small_steps_through_reduction_and_model(method):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 29)).astype(np.float32)
    reduction = Pca.fit(rng.normal(size=(101, 29)).astype(np.float32), 11) if method == "pca" else ChannelGroups(29, 11)
    model = network(width=16)
    motion = rng.normal(size=(1, 7, 13)).astype(np.float32)

    def inputs(rows):
        return {"static": reduction.transform(rows)[None], "dynamic": motion}

    slopes = score_slopes(model, inputs(rows), 3, reduction, "static")
    assert slopes.shape == rows.shape
    step = 1e-2 * rng.normal(size=rows.shape).astype(np.float32)
    changed = np.subtract(*(float(model(inputs(rows + way * step))[0, 3]) for way in (1, -1))) / 2
    assert abs(changed) > 1e-3  # far above the rounding of a score
    assert (slopes * step).sum() == pytest.approx(changed, rel=0.03)


def test_a_map_is_judged_by_the_places_that_were_planted():
    places = np.zeros((2, 8, 8), bool)
    places[:, :2, :2] = True
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 0, 0], maps[1, 3, 3] = -1, 1
    found = pointing(maps, places)
    assert found["chance"] == 4 / 64
    assert found["strongest"] == 0.5
    assert 0.25 < found["mass"] <= 0.5  # the rest of the first map has spread around its place


@pytest.mark.slow
def test_the_band_is_above_the_eyes_and_the_scarf_below_the_mouth():
    truth = pd.read_csv(DATA / "truth.csv", index_col="key").iloc[0]
    track = track_clip(DATA / f"{truth.name}.mp4", PreparationConfig())
    for trait, top, bottom in (("openness", 0.1, 0.5), ("conscientiousness", 0.7, 1.0)):
        places = planted_places(truth, trait, track, np.array([0.5, 3.0]), 112)
        rows = np.argwhere(places)[:, 1] / 112
        assert 0.01 < places.mean() < 0.15
        assert top < np.quantile(rows, 0.05)
        assert np.quantile(rows, 0.95) <= bottom


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The same few pictures in several encodings: name -> file."""
    pictures = draw_pictures(76, (160, 112), 25)[:N_FRAMES]
    encodings = {name: TO_DAMAGE[name] for name in SMALL}
    return write_encodings(pictures, encodings, tmp_path_factory.mktemp("clips"), 25)


@pytest.mark.parametrize("name", SMALL)
def test_a_way_that_is_off_by_one_frame_is_not_exact(small, name):
    path, asked = small[name], {"n_frames": 11}
    assert (probe(path).codec, probe(path).n_frames) == (name.split()[0], N_FRAMES)
    frames = read_frames(path, **asked, size=(16, 16), backend="pyav")
    job = Job(path, asked, np.unique(frames.index), probe(path).n_frames)
    known = decode.neighbourhood(job)
    for shift, n_wrong in ((0, 0), (1, 11), (-1, 11)):
        off = (job.numbers + shift).clip(0, N_FRAMES - 1)
        frames = np.stack([known[number] for number in off.tolist()])
        n_stuck = int((off == job.numbers).sum()) if shift else 0  # at the end of the clip
        assert decode.wrong_frames(frames, job, known) == n_wrong - n_stuck
    assert decode.wrong_frames(frames[:-1], job, known) == 11


def test_decode_measures_every_way_and_whether_its_frames_are_exact(small, tmp_path, monkeypatch):
    def failing(job):
        raise RuntimeError("no such codec")

    monkeypatch.setattr("benchmarks.readers.PEERS", {"failing": lambda: Way(failing, failing, "failing 1.0")})
    monkeypatch.setattr(decode, "hwdevices_available", lambda: [])
    monkeypatch.setattr(decode, "cores", lambda: 1)
    path = str(small[NAME])
    decode.main([path, "--rounds", "1", "--clips", "7200", "--json", str(tmp_path / "result.json")])
    result = read_json(tmp_path / "result.json")
    assert result["auto_to_best_peer"][path] == result["auto_to_opencv"][path] > 0  # OpenCV is the only exact peer
    assert [(row["backend"], row["exact"]) for row in result["parity"]] == [("pyav", True), ("opencv", True)]
    rows = [row for row in result["rows"] if row["way"] != "failing"]
    assert [row["way"] for row in rows] == [AUTO, "pyav", "opencv", OPENCV] * 3
    assert [row["n_frames"] for row in rows[::4]] == [N_FRAMES, N_FRAMES, 7]
    for row in rows:
        assert row["exact"] == "yes"
        assert row["frames_per_s"] == pytest.approx(row["n_frames"] * row["videos_per_s"])
        assert row["hours"] == pytest.approx(2 / row["videos_per_s"])
    assert [row["decoder"] for row in result["rows"] if row["way"] == "failing"] == ["RuntimeError: no such codec"] * 3


def test_damage_is_named_and_counted(small, tmp_path, monkeypatch):
    source = variants.Source(NAME, small[NAME], small[NAME].read_bytes(), variants.media_ranges(small[NAME]))
    for make in (variants.cut_off, variants.remove_box):
        path = tmp_path / f"{make.__name__}.mp4"
        path.write_bytes(make(source, np.random.default_rng(2))[1])
        found = read_fully(path, "pyav")
        assert found["verdict"] == "named"
        assert path.name in found["reason"]
    monkeypatch.setattr(damaged, "SAMPLE", ("awkward/very_short.mp4",))
    monkeypatch.setattr(damaged, "DRAWN_SIZE", (160, 112))
    damaged.main(["--variants", "40", "--encodings", NAME, "--json", str(tmp_path / "result.json")])
    result = read_json(tmp_path / "result.json")
    assert (result["variants"], result["good"], result["good_refused"], len(result["cases"])) == (40, 2, {}, 40)
    assert (result["crashed"], result["hung"]) == (0, 0)
    assert [row["kind"] for row in result["rows"]] == list(variants.KINDS)
    for row in result["rows"]:
        assert row["variants"] == sum(row[name] for name in list(damaged.COLUMNS)[2:])
    assert sum(row["variants"] for row in result["rows"]) == 40
