"""The benchmarks run and say what they promise, kills of runs included; how fast anything is, no test judges."""

import multiprocessing
from functools import partial

import chunkwork
import keras
import pytest

from benchmarks import alternation, dynamic, machine, memory, rearranged, resume, static, training
from helpers.backbones import Backbone
from helpers.clips import find_clips
from helpers.files import read_json, write_json
from helpers.store import read_features
from helpers.weights import Weights


@pytest.fixture
def result_of(tmp_path):
    """Runs a benchmark; returns its JSON."""

    def run(benchmark, arguments):
        benchmark.main([*arguments.split(), "--json", str(tmp_path / "result.json")])
        result = read_json(tmp_path / "result.json")
        assert {"backend", "kind", "name", "cores"} == result["machine"]["devices"][0].keys()
        return result

    return run


def test_ways_take_turns_and_the_order_turns():
    calls = []
    ways = {name: lambda name=name: calls.append(name) for name in "abc"}
    assert [len(values) for values in alternation.alternate(ways, 3).values()] == [3, 3, 3]
    assert "".join(calls) == "abccbaabc"


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


class SmallModel(keras.Model):
    def __init__(self, *widths):
        super().__init__()
        self.scores = keras.layers.Dense(5)
        self.scores.build((None, widths[0]))
        self.built = True

    def call(self, inputs):
        return self.scores(inputs["static"])


def test_memory_and_training_are_measured(result_of, monkeypatch):
    monkeypatch.setattr(memory, "FIRST", 64)
    result = result_of(memory, "--rows 150")
    assert [row["rows"] for row in result["rows"]] == [64, 150]
    assert result["rss_mb_peak"] == pytest.approx(max(result["rss_mb_64"], result["rss_mb_150"]))
    monkeypatch.setattr(training, "CompletePersonalityModel", SmallModel)  # the real one drops out at random
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
    clips = find_clips(rearranged.DATA).iloc[-1:]
    rearranged.extract_all(clips, tmp_path)
    for name, width in {"static": 2048, "dynamic": 1024}.items():
        assert read_features(tmp_path / name / f"{clips.index[0]}.npz").features.shape == (9, width)
