"""The forecast of a run: rates measured by the stages themselves, on a few clips."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from trees import write_faces
from trees import write_pairs as write_flow

from helpers import check, forecast
from helpers.clips import scan_clips
from helpers.config import AlignmentConfig
from helpers.video import probe

ROOT = Path(__file__).resolve().parent.parent
AWKWARD = ROOT / "data_sample" / "awkward"
CLIP = ROOT / "data_sample" / "training80_01" / "4eke_igcKkn.000.mp4"


def parameters(**changed):
    """Small ones, by notebook."""
    small = {
        "02_clip_preparation": {"fps": 2.0, "detect_every": 2},
        "03_static_extraction": {"every_n_frames": 4, "workers": 1},
        "04_dynamic_extraction": {"endpoint": "Conv3d_1a_7x7", "input_px": 32},
        "05_alignment": {},
    }
    return {name: values | changed.get(f"of_{name[:2]}", {}) for name, values in small.items()}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two good clips and a broken one, checked."""
    folder = tmp_path_factory.mktemp("clips")
    for name in "ab":
        shutil.copy(CLIP, folder / f"{name}.mp4")
    shutil.copy(AWKWARD / "broken.mp4", folder / "c.mp4")
    return folder, check.check_clips(folder, *scan_clips(folder), workers=1)


@pytest.fixture(scope="module")
def table(clips):
    folder, checked = clips
    return forecast.forecast(checked, folder, parameters())


def test_a_forecast_has_a_row_per_stage_and_counts_the_usable_clips(table):
    assert table.index.tolist() == ["02 preparation", "03 static", "04 dynamic", "05 alignment"]
    assert (table["per_s"].iloc[:3] > 0).all()
    assert (table["bytes"] > 0).all()
    assert table["bound"].tolist() == ["cores"] * 3 + [""]
    assert (table.attrs["clips"], table.attrs["clip"], table.attrs["flow"]) == (2, "a", "dis_fast")
    assert table.attrs["clip_hours"] == pytest.approx(2 * probe(CLIP).duration_s / 3600)


def test_hours_and_bytes_are_the_rates_times_the_length_of_the_clips(table):
    row, seconds = table.loc["03 static"], 3600 * table.attrs["clip_hours"]
    assert row["hours"] * 3600 == pytest.approx(seconds * row["per_s"] + row["start_s"])
    one_row = 2048 * 4
    assert 0.5 * one_row < row["bytes"] / (seconds / 2) < 1.5 * one_row  # 2 fps, every 4th: a row in 2 seconds


def test_the_text_of_a_forecast_names_stages_hours_disk_and_room(table):
    text = forecast.forecast_text(table)
    assert "Forecast for 2 clips (0.0 h (10 s)) on " in text
    assert "with dis_fast flow and random weights" in text
    assert "Free on the disk of" in text
    assert "WARNING" not in text
    assert max(map(len, text.splitlines())) <= check.WIDTH
    assert "WARNING: not enough" in forecast.forecast_text(table.assign(bytes=10**18))
    table = table.copy()
    table.attrs = table.attrs | {"device": "NVIDIA H200"}
    for bound, useless in (("cores", True), ("GPU", False)):
        assert ("second GPU" in forecast.forecast_text(table.assign(bound=bound))) == useless


def test_stages_that_read_trees_are_measured_on_them(clips, tmp_path):
    folder, checked = clips
    write_faces(tmp_path / "faces" / "b", range(0, 40, 5))  # clips of 5 s: 1.6 faces and 5 flows a second
    write_flow(tmp_path / "flow" / "b", np.random.default_rng(0).normal(0, 2, (25, 32, 32, 2)).astype(np.float32))
    trees = {"of_03": {"faces_dir": str(tmp_path / "faces")}, "of_04": {"flow_dir": str(tmp_path / "flow")}}
    found = forecast.forecast(checked, folder, parameters(**trees))
    assert found.attrs["clip"] == "b"
    duration_s = probe(CLIP).duration_s
    a_row_s = found.loc["03 static", "bytes"] / (2 * duration_s) / (2048 * 4)
    assert 0.5 < a_row_s / (8 / duration_s) < 1.5
    text = forecast.forecast_text(found)
    assert f"03 static reads {tmp_path / 'faces'} instead of the videos." in text
    assert f"04 dynamic reads {tmp_path / 'flow'} instead of the videos." in text
    assert "with stored flow" in text


def test_trees_without_a_common_clip_give_no_forecast(clips, tmp_path):
    folder, checked = clips
    write_faces(tmp_path / "faces" / "a", range(0, 40, 5))
    write_flow(tmp_path / "flow" / "b", np.zeros((25, 32, 32, 2), np.float32))
    trees = {"of_03": {"faces_dir": str(tmp_path / "faces")}, "of_04": {"flow_dir": str(tmp_path / "flow")}}
    with pytest.raises(ValueError, match="needs a clip that all trees hold, got none"):
        forecast.forecast(checked, folder, parameters(**trees))


def test_clips_that_cannot_be_cut_are_run_as_a_whole_or_left_out(clips, tmp_path, monkeypatch):
    def fail(*_):
        raise LookupError("libdav1d")

    monkeypatch.setattr(forecast, "write_excerpt", fail)
    folder, checked = clips
    ab = checked.loc[["a", "b"]].assign(duration_s=[5.0, 7200.0])
    assert forecast.beginnings(ab, folder, tmp_path, 2.0).to_dict() == {"a": 5.0}
    with pytest.raises(LookupError, match="libdav1d"):
        forecast.beginnings(ab.loc[["b"]], folder, tmp_path, 2.0)


def profile(spent_s, network_s, clip_s):
    return forecast.Profile(spent_s, network_s, clip_s, n_bytes=0, rows=0, dim=0)


def test_what_a_second_of_clip_costs_is_what_further_ones_added():
    first, then = profile(12.0, 1.0, clip_s=2.0), profile(22.0, 10.0, clip_s=7.0)
    assert forecast.scaled(first, then, "GPU") == {"per_s": 2.0, "start_s": 8.0, "bound": "GPU"}
    assert forecast.scaled(first, then, "CPU")["bound"] == "cores"
    assert forecast.scaled(first, profile(22.0, 5.0, clip_s=7.0), "GPU")["bound"] == "cores"  # it waited for these


def test_clips_that_are_no_longer_than_the_first_are_taken_as_a_whole():
    short = profile(12.0, 1.0, clip_s=2.0)
    assert forecast.scaled(short, short, "CPU") == {"per_s": 6.0, "start_s": 0.0, "bound": "cores"}


@pytest.mark.parametrize(("reduction", "static_dim", "dynamic_dim"), [("groups", 512, 256), ("none", 2048, 1024)])
def test_the_aligned_file_is_as_large_as_its_arrays(reduction, static_dim, dynamic_dim):
    profiles = {
        "03 static": forecast.Profile(1, 1, clip_s=2, n_bytes=0, rows=10, dim=2048),
        "04 dynamic": forecast.Profile(1, 1, clip_s=2, n_bytes=0, rows=6, dim=1024),
    }
    tokens = [np.zeros((5, static_dim), np.float32), np.zeros((3, dynamic_dim), np.float32)]
    pairs = [np.zeros((5, static_dim), np.float32), np.zeros((5, dynamic_dim), np.float32)]
    expected = sum(array.nbytes for array in tokens + pairs)
    assert forecast.aligned_bytes(profiles, AlignmentConfig(reduction=reduction)) == expected


def test_without_a_usable_clip_there_is_no_forecast(clips):
    folder, checked = clips
    with pytest.raises(ValueError, match="a forecast needs at least one usable clip, got none"):
        forecast.forecast(checked.loc[["c"]], folder, parameters())


def test_clips_that_a_few_looks_took_for_usable_are_named_when_none_can_be_run(clips):
    folder, _ = clips
    checked = pd.DataFrame({"path": "c.mp4", "duration_s": 5.0, "coverage": 1.0, "usable": True}, index=["c"])
    with pytest.raises(ValueError, match=r"a forecast needs a clip that can be run, got c: .*not a readable video"):
        forecast.forecast(checked, folder, parameters())
