"""The benchmarks run and say what they promise; how fast anything is, no test judges."""

import keras
import pytest

from benchmarks import alternation, dynamic, machine, memory, static, training
from helpers.backbones import Backbone
from helpers.files import read_json, write_json
from helpers.weights import Weights


@pytest.fixture
def result_of(tmp_path):
    """Runs a benchmark; returns its JSON, after a look at what it always holds."""

    def run(benchmark, *arguments):
        benchmark.main([*arguments, "--json", str(tmp_path / "result.json")])
        result = read_json(tmp_path / "result.json")
        assert {"settings", "machine", "rows"} <= result.keys()
        assert {"backend", "kind", "name", "cores"} == result["machine"]["devices"][0].keys()
        return result

    return run


def test_ways_take_turns_and_the_order_turns():
    calls = []
    ways = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = alternation.alternate(ways, 3)
    assert "".join(calls) == "abccbaabc"
    assert [len(values) for values in seconds.values()] == [3, 3, 3]


def small_backbone(name, weights):
    inputs = keras.Input((31, 31, 3))
    x = keras.layers.Conv2D(5, 3, strides=2, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    return Backbone(name, model, 31, 5, Weights(name, weights, "", ""))


def test_static(result_of, monkeypatch):
    monkeypatch.setattr(static, "build_backbone", small_backbone)  # tracing ResNet-50 three ways takes a while
    tiny = ["--clips", "2", "--few", "5", "--batch", "7", "--rounds", "1"]
    result = result_of(static, *tiny)
    ways = {row["way"]: row for row in result["rows"]}
    assert ways["stage float32"]["images"] == 30
    assert ways["forward float32"]["images"] == 28
    assert ways[static.LOOP]["images"] == 28  # of the 35 asked for there are 30
    assert ways["stage bfloat16"]["to_forward"] == result["ratio_pipeline_to_forward_bf16"] > 0
    assert result["ratio_to_source_loop"] > 0
    assert 0.999 < result["cosine_bf16"] <= 1 + 1e-9


def small_motion_network(weights, endpoint):
    inputs = keras.Input((None, 112, 112, 2))
    return keras.Model(inputs, keras.layers.Conv3D(3, 2, strides=(2, 16, 16), padding="same")(inputs)), None


def test_dynamic(result_of, monkeypatch):
    monkeypatch.setattr(dynamic, "build_motion_network", small_motion_network)
    result = result_of(dynamic, "--clips", "2", "--few", "3", "--rounds", "1")
    ways = {row["way"]: row["clips"] for row in result["rows"]}
    assert (ways["stage float32"], ways[dynamic.FLY], ways[dynamic.WORK], ways[dynamic.WINDOWS]) == (2, 2, 2, 1)
    assert result["ratio_clip_pass_to_stride1"] > 1
    assert result["attainable_clips_per_s"] > 0
    assert result["ratio_pipeline_to_attainable"] > 0


def test_memory(result_of, monkeypatch):
    monkeypatch.setattr(memory, "FIRST", 64)
    result = result_of(memory, "--rows", "150")
    assert [row["rows"] for row in result["rows"]] == [64, 150]
    assert result["rss_mb_peak"] == pytest.approx(max(result["rss_mb_64"], result["rss_mb_150"]))
    assert result["rows_per_s"] * result["decoder_cpu_ms_per_row"] > 0


class SmallModel(keras.Model):
    def __init__(self, *widths):
        super().__init__()
        self.scores = keras.layers.Dense(5)
        self.scores.build((None, widths[0]))
        self.built = True

    def call(self, inputs):
        return self.scores(inputs["static"])


def test_training(result_of, monkeypatch):
    monkeypatch.setattr(training, "CompletePersonalityModel", SmallModel)  # tracing the real one takes a while
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)
    tiny = ["--widths", "11/7", "--samples", "37", "--epochs", "1", "--rounds", "1"]
    result = result_of(training, *tiny)
    rows = result["rows"]
    assert [row["way"] for row in rows] == [training.PEER, training.OURS]
    assert result["ratio_to_default_fit"] == rows[1]["ratio"]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=0.02)  # the same work
    assert result["loss_difference"] == pytest.approx(rows[1]["loss"] / rows[0]["loss"] - 1)


def test_two_machines_are_measured_and_compared(result_of, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("helpers.backbones.build_backbone", small_backbone)
    tiny = ["--size", "64", "--batches", "1", "3", "--clips", "1", "--px", "32", "--repeats", "1"]
    tiny += ["--endpoint", "MaxPool3d_2a_3x3"]
    result = result_of(machine, *tiny)
    names = [(row["name"], row["batch"]) for row in result["rows"]]
    assert names[0] == ("matmul 64 x 64", 1)
    assert names[3:] == [("resnet50", 1), ("resnet50", 3), ("I3D to MaxPool3d_2a_3x3, 16 flows", 1)]
    assert all(row["per_s"] > 0 for row in result["rows"])
    assert result["measured"][:2] == "20"
    twice = {"settings": {"px": 1}, "rows": [row | {"per_s": 2 * row["per_s"]} for row in result["rows"]]}
    write_json(tmp_path / "b.json", result | twice)
    machine.main(["--compare", str(tmp_path / "result.json"), str(tmp_path / "b.json")])
    said = capsys.readouterr().out
    assert "measured with different settings: " in said
    assert said.count(" 2.00\n") == len(result["rows"])
