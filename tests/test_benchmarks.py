"""The benchmarks run and say what they promise; how fast anything is, no test judges."""

import shutil
import sys

import keras
import numpy as np
import pytest

from benchmarks import __main__, alternation, extraction, forward, training
from helpers.backbones import Backbone
from helpers.files import ROOT, read_json
from helpers.weights import Weights


def rows_of(benchmark, tmp_path, capsys, *arguments):
    """Run a benchmark; returns its JSON, after a look at the table and at what both always hold."""
    file = tmp_path / "result.json"
    benchmark.main([*arguments, "--json", str(file)])
    result = read_json(file)
    table = capsys.readouterr().out
    assert {"settings", "machine", "rows"} <= result.keys()
    assert {"backend", "kind", "name", "cores"} == result["machine"]["devices"][0].keys()
    assert "json" not in result["settings"]
    for column in benchmark.COLUMNS:
        assert column in table
    return result


def test_ways_take_turns_and_the_order_turns():
    calls = []
    ways = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = alternation.alternate(ways, 3)
    assert "".join(calls) == "abccbaabc"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert min(map(min, seconds.values())) >= 0


def test_no_round_begins_after_the_limit_but_one_is_always_run():
    calls = []
    assert len(alternation.alternate({"a": lambda: calls.append(1)}, 7, limit_s=0)["a"]) == 1
    assert len(calls) == 1


def test_rounds_are_at_least_one():
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        alternation.alternate({}, 0)


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    assert alternation.ratio([2, 30, 7], [1, 5, 7]) == 2
    assert alternation.minus([5, 9], [2, 3]) == [3, 6]


def small_backbone(name, weights):
    inputs = keras.Input((31, 31, 3))
    x = keras.layers.Conv2D(5, 3, strides=2, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    return Backbone(name, model, 31, 5, Weights(name, weights, "", ""))


def test_forward(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(forward, "build_backbone", small_backbone)  # tracing ResNet-50 four ways takes a while
    tiny = ["--batch", "3", "--flows", "16", "--px", "32", "--rounds", "1"]
    rows = rows_of(forward, tmp_path, capsys, *tiny)["rows"]
    assert [row["network"] for row in rows] == ["resnet50"] * 4 + ["i3d"] * 4
    for row in rows:
        assert row.keys() >= {"way", "unit", "per_s", "ratio", "cosine", "seconds"}
        assert row["per_s"] > 0
        assert row["cosine"] > 0.999
    assert [row["ratio"] for row in rows if row["way"] == forward.PEER] == [1, 1]


def test_the_cosine_is_that_of_the_worst_row():
    a = np.array([[3.0, 4.0], [1.0, 1.0]])[:, None]  # (rows, places, C)
    b = np.array([[4.0, 3.0], [1.0, 1.0]])[:, None]
    assert forward.worst_cosine(a, b, 2) == pytest.approx(24 / 25)


@pytest.mark.slow
def test_extraction_measures_what_can_be_used_and_names_the_rest(tmp_path, capsys):
    data = tmp_path / "clips"
    data.mkdir()
    shutil.copy(ROOT / "data_sample" / "awkward" / "very_short.mp4", data)
    (data / "a_text.mp4").write_text("no video")
    result = rows_of(extraction, tmp_path, capsys, "--data", str(data), "--rounds", "1")
    assert [row["part"] for row in result["rows"]] == list(extraction.PARTS)
    assert all(len(row["seconds"]) == 1 and row.keys() >= {"part", "s_per_clip"} for row in result["rows"])
    assert [(row["limit"], row["ratio"] > 0) for row in result["rows"][-2:]] == [("ResNet-50", True), ("I3D", True)]
    assert [entry["clip"] for entry in result["skipped"]] == ["a_text"]
    assert "a_text.mp4" in result["skipped"][0]["reason"]


def test_extraction_without_a_usable_clip_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "build_stages", lambda precision: {})
    (tmp_path / "a_text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"must hold a clip that can be used, got 1 that cannot"):
        extraction.main(["--data", str(tmp_path)])


class SmallModel(keras.Model):
    def __init__(self, *widths):
        super().__init__()
        self.scores = keras.layers.Dense(5)
        self.scores.build((None, widths[0]))
        self.built = True

    def call(self, inputs):
        return self.scores(inputs["static"])


def test_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "CompletePersonalityModel", SmallModel)  # tracing the real one takes a while
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)
    tiny = ["--widths", "11/7", "--samples", "37", "--epochs", "1", "--rounds", "1"]
    result = rows_of(training, tmp_path, capsys, *tiny)
    rows = result["rows"]
    assert [row["way"] for row in rows] == [training.PEER, training.OURS]
    for row in rows:
        assert row.keys() >= {"backend", "start_s", "samples_per_s", "ratio", "loss", "seconds"}
        assert [len(epochs) for epochs in row["seconds"]] == [2]
    assert rows[0]["ratio"] == 1
    assert result["ratio_to_default_fit"] == rows[1]["ratio"]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=0.02)  # the same work
    assert result["loss_difference"] == pytest.approx(rows[1]["loss"] / rows[0]["loss"] - 1)


def test_all_benchmarks_run_though_one_fails(tmp_path, capfd, monkeypatch):
    """Processes of their own, here without a benchmark in them."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "$@"\ncase "$2" in *forward) exit 3;; esac\n')
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    assert __main__.main(["--json", str(tmp_path)]) == 1
    out, err = capfd.readouterr()
    for name in ("forward", "extraction", "training"):
        assert f"== {name}\n-m benchmarks.{name} --json {tmp_path / name}.json" in out
    assert "error: forward failed" in err


def test_every_benchmark_of_the_folder_is_run():
    shared = {"__init__", "__main__", "alternation", "clips", "readers", "rearranged", "variants"}
    assert set(__main__.BENCHMARKS) == {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - shared
