"""The forecast of a run: measured on drawn clips with small networks, and its model on numbers done by hand."""

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from trees import write_faces
from trees import write_pairs as write_flow

from helpers import files, forecast
from helpers.backbones import Backbone
from helpers.check import check_clips
from helpers.config import AlignmentConfig, DynamicConfig, PreparationConfig, StaticConfig
from helpers.container import probe
from helpers.crops import Chunk, Job
from helpers.engine import costs
from helpers.engine.costs import Measured
from helpers.faces import track_clip
from helpers.forecast import Stages
from helpers.precomputed import StoredTrack
from helpers.weights import Weights
from helpers.workers import cores

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "data_sample"
CLIP = SAMPLE / "training80_01" / "4eke_igcKkn.000.mp4"
SMALL = Stages(
    PreparationConfig(fps=2.0, detect_every=2),
    StaticConfig(every_n_frames=4, workers=1),
    DynamicConfig(endpoint="Conv3d_1a_7x7", input_px=32),
    AlignmentConfig(),
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two good clips and a broken one, checked."""
    folder = tmp_path_factory.mktemp("clips")
    for name in "ab":
        shutil.copy(CLIP, folder / f"{name}.mp4")
    shutil.copy(SAMPLE / "awkward" / "broken.mp4", folder / "c.mp4")
    return folder, check_clips(folder, workers=0)


@pytest.fixture(scope="module")
def table(clips):
    folder, checked = clips
    return forecast.forecast(checked, folder, SMALL)


def test_a_forecast_has_a_row_per_stage_and_counts_the_usable_clips(table):
    assert table.index.tolist() == ["02 preparation", "03 static", "04 dynamic", "05 alignment"]
    assert (table["work_s"].iloc[:3] > 0).all()
    assert (table["network_s"].iloc[1:3] > 0).all()
    assert (table["bytes"] > 0).all()
    assert table["workers"].tolist() == [cores(), 1, cores(), 1]
    assert (table.attrs["clips"], table.attrs["clip"], table.attrs["flow"]) == (2, "a", "dis_fast")
    assert table.attrs["clip_hours"] == pytest.approx(2 * probe(CLIP).duration_s / 3600)


def test_hours_and_bytes_are_the_rates_times_the_length_of_the_clips(table):
    row = table.loc["03 static"]
    seconds = 3600 * table.attrs["clip_hours"]
    assert row["hours"] * 3600 == pytest.approx(seconds * (row["work_s"] + row["network_s"]) + row["start_s"])
    one_row = 2048 * 4
    assert 0.5 * one_row < row["bytes"] / (seconds / 2) < 1.5 * one_row  # 2 fps, every 4th: a row in 2 seconds


def test_the_text_of_a_forecast_names_stages_hours_disk_and_room(table):
    text = forecast.as_text(table)
    assert "Forecast for 2 clips (0.0 h (10 s)) on " in text
    assert "with dis_fast flow and random weights" in text
    assert "Free on the disk of" in text
    assert "WARNING" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert "WARNING: not enough" in forecast.as_text(table.assign(bytes=10**18))


def test_stages_that_read_trees_are_measured_on_them(clips, tmp_path):
    folder, checked = clips
    write_faces(tmp_path / "faces" / "b", range(0, 40, 5))  # clips of 5 s: 1.6 faces and 5 flows a second
    write_flow(tmp_path / "flow" / "b", np.random.default_rng(0).normal(0, 2, (25, 32, 32, 2)).astype(np.float32))
    trees = {"faces_dir": str(tmp_path / "faces")}, {"flow_dir": str(tmp_path / "flow")}
    stages = replace(
        SMALL, static=replace(SMALL.static, **trees[0]), dynamic=replace(SMALL.dynamic, **trees[1], workers=1)
    )
    table = forecast.forecast(checked, folder, stages)
    assert table.attrs["clip"] == "b"
    duration_s = probe(CLIP).duration_s
    a_row_s = table.loc["03 static", "bytes"] / (2 * duration_s) / (2048 * 4)
    assert 0.5 < a_row_s / (8 / duration_s) < 1.5
    text = forecast.as_text(table)
    assert f"03 static reads {tmp_path / 'faces'} instead of the videos." in text
    assert f"04 dynamic reads {tmp_path / 'flow'} instead of the videos." in text
    assert "with stored flow" in text


def test_trees_without_a_common_clip_give_no_forecast(clips, tmp_path):
    folder, checked = clips
    write_faces(tmp_path / "faces" / "a", range(0, 40, 5))
    write_flow(tmp_path / "flow" / "b", np.zeros((25, 32, 32, 2), np.float32))
    stages = replace(
        SMALL,
        static=replace(SMALL.static, faces_dir=str(tmp_path / "faces")),
        dynamic=replace(SMALL.dynamic, flow_dir=str(tmp_path / "flow")),
    )
    with pytest.raises(ValueError, match="got no clip that all of the trees hold"):
        forecast.forecast(checked, folder, stages)


def test_a_slower_flow_is_measured_as_slower_on_fewer_fields(tmp_path):
    """A field of TV-L1 takes about 100 times one of DIS, at any load of the machine."""
    track = track_clip(CLIP, replace(SMALL.preparation, backend="pyav", fps=15.0))
    fields, flow_s = {}, {}
    for flow in ("dis_medium", "tvl1"):
        job = Job(CLIP, track, replace(SMALL.dynamic, flow=flow), "pyav")
        pieces, flow_s[flow] = costs.measure_flow(job, tmp_path)
        fields[flow] = sum(len(piece.t_s) for piece in pieces)
    assert flow_s["tvl1"] > 10 * flow_s["dis_medium"]
    assert fields["dis_medium"] == 64
    assert 2 <= fields["tvl1"] <= 8


def test_each_stage_is_reckoned_for_its_own_device(clips, monkeypatch):
    folder, checked = clips
    cost = Measured(work_s=0.25, network_s=2.0, start_s=0.0, bytes_per_s=0.0)
    measured = dict.fromkeys(("02 preparation", "03 static", "04 dynamic"), cost)
    monkeypatch.setattr(forecast, "_measure_one", lambda *_: ("a", measured))
    devices = {"CPU": {"kind": "CPU", "name": "a processor"}, "GPU:1": {"kind": "GPU", "name": "a card"}}
    monkeypatch.setattr(forecast, "chosen_device", lambda name: pd.Series(devices[name]))
    stages = replace(
        SMALL, static=replace(SMALL.static, device="cpu"), dynamic=replace(SMALL.dynamic, device="GPU:1", workers=1)
    )
    table = forecast.forecast(checked, folder, stages)
    per_s = table["hours"] / table.attrs["clip_hours"]
    assert per_s[["03 static", "04 dynamic"]].tolist() == pytest.approx([2.25, 2.0])
    assert table.attrs["device"] == f"a processor ({cores()} cores, no GPU) and a card"


def test_a_network_is_measured_on_the_device_of_its_stage(tmp_path, monkeypatch):
    inputs = keras.Input((31, 31, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    small = Backbone("resnet50", model, 31, 3, Weights("random", "", "", ""))
    monkeypatch.setattr(costs, "build_backbone", lambda *_: small)
    scopes = []
    monkeypatch.setattr(costs, "device_scope", lambda name: scopes.append(name) or nullcontext())
    piece = Chunk(np.zeros((4, 31, 31, 3), np.uint8), np.arange(4) / 2, np.arange(4), "")
    seen = costs.Input([piece], StoredTrack(2.0, 4), work_s=0.1, per_s=2.0)
    costs.measure_static(Job(CLIP, None, replace(SMALL.static, device="cpu")), tmp_path, lambda size_px: seen)
    assert scopes == ["CPU:0", "CPU:0"]
    for measure, cfg in ((costs.measure_static, SMALL.static), (costs.measure_dynamic, SMALL.dynamic)):
        with pytest.raises(ValueError, match="device must be one of .* got 'GPU:7'"):
            measure(Job(CLIP, None, replace(cfg, device="GPU:7")), tmp_path)


def test_a_processor_does_one_after_the_other_and_a_gpu_both_at_once():
    cost = Measured(work_s=6.0, network_s=2.0, start_s=0.0, bytes_per_s=0.0)
    assert forecast.stage_seconds(cost, 1, on_gpu=False) == 8
    assert forecast.stage_seconds(cost, 1, on_gpu=True) == 6
    assert forecast.stage_seconds(replace(cost, work_s=1.0), 1, on_gpu=True) == 2
    assert forecast.stage_seconds(cost, 1000, on_gpu=False) == 6 / cores() + 2  # no more of them than cores


@pytest.mark.parametrize(("reduction", "static_dim", "dynamic_dim"), [("groups", 512, 256), ("none", 2048, 1024)])
def test_the_aligned_file_is_as_large_as_its_arrays(reduction, static_dim, dynamic_dim):
    measured = {
        "03 static": Measured(0, 0, 0, 0, rows_per_s=5, dim=2048),
        "04 dynamic": Measured(0, 0, 0, 0, rows_per_s=3, dim=1024),
    }
    cfg = AlignmentConfig(reduction=reduction)
    tokens = [np.zeros((5, static_dim), np.float32), np.zeros((3, dynamic_dim), np.float32)]
    pairs = [np.zeros((5, static_dim), np.float32), np.zeros((5, dynamic_dim), np.float32)]
    assert forecast.aligned_bytes(measured, cfg) == sum(array.nbytes for array in tokens + pairs)


def test_without_a_usable_clip_there_is_no_forecast(clips):
    folder, checked = clips
    with pytest.raises(ValueError, match="a forecast needs at least one usable clip, got none"):
        forecast.forecast(checked.loc[["c"]], folder, SMALL)


def test_clips_that_a_few_looks_took_for_usable_are_named_when_none_can_be_run(clips):
    folder, _ = clips
    checked = pd.DataFrame({"path": "c.mp4", "duration_s": 5.0, "coverage": 1.0, "usable": True}, index=["c"])
    with pytest.raises(ValueError, match="a forecast needs a clip that can be run, got c: .*not a readable video"):
        forecast.forecast(checked, folder, SMALL)


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.01, "0.0 h (36 s)"), (0.4166, "0.4 h (25 min)"), (5.99, "6.0 h (359 min)"), (1234.5, "1,234 h")],
)
def test_hours_are_said_in_the_unit_that_fits(hours, text):
    assert files.duration(hours) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(999, "999 B"), (1500, "1.5 kB"), (3.06e6, "3.1 MB"), (2e15, "2,000.0 TB")]
)
def test_bytes_are_said_in_the_unit_that_fits(n_bytes, text):
    assert files.size(n_bytes) == text


def test_room_is_that_of_the_disk_a_folder_will_be_on(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert files.free_bytes(tmp_path / "not" / "yet") == pytest.approx(free, rel=0.05)
