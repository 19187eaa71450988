"""Paths, atomic writing, JSON."""

import errno
import json
import os

import numpy as np
import pytest

from helpers import files


def test_a_relative_path_lies_below_the_repository_whatever_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORKBOOK_RESULTS", raising=False)
    assert files.resolve("results/sample") == files.ROOT / "results" / "sample"
    assert files.resolve(tmp_path) == tmp_path


def test_results_can_lie_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_RESULTS", str(tmp_path))
    assert files.resolve("results/sample/model") == tmp_path / "sample" / "model"
    assert files.resolve("data_sample") == files.ROOT / "data_sample"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half-way"), files.replacing(path) as part:
        part.write_text("new")
        raise RuntimeError("half-way")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_written_file_is_readable_by_others_as_the_umask_says(tmp_path):
    mask = os.umask(0o022)
    os.umask(mask)
    files.write_json(tmp_path / "deep" / "ä b.json", {"b": 1, "a": "é"})
    path = tmp_path / "deep" / "ä b.json"
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert list(json.loads(path.read_text(encoding="utf-8"))) == ["a", "b"]


def test_a_number_that_does_not_exist_is_null(tmp_path):
    given = {10: float("nan"), 9: [1, float("-inf")], 1: {"r2": np.float64("nan"), "n": 2**70, "text": "NaN"}}
    files.write_json(tmp_path / "a.json", given)
    read = files.read_json(tmp_path / "a.json")
    assert read == {"1": {"r2": None, "n": 2**70, "text": "NaN"}, "9": [1, None], "10": None}
    assert list(read) == ["1", "9", "10"]  # by number, as they are sorted before they are text


def test_a_damaged_json_file_is_named(tmp_path):
    (tmp_path / "run.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"run\.json is not JSON"):
        files.read_json(tmp_path / "run.json")


def test_a_missing_input_says_which_notebook_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"clips\.csv is missing\. Run 01_data_analysis first"):
        files.needs(tmp_path / "clips.csv", "01_data_analysis")


def test_differences_are_named_by_their_path():
    ours = {"fps": 15.0, "weights": {"name": "resnet50", "source": "random"}}
    theirs = {"fps": 15.0, "weights": {"name": "resnet50", "source": "imagenet"}, "extra": 1}
    assert files.differences(ours, theirs) == [
        "extra: None here, 1 there",
        "weights.source: 'random' here, 'imagenet' there",
    ]
    assert files.differences(ours, ours) == []


def test_the_code_version_begins_with_the_packages_own():
    assert files.code_version().startswith("0.")


def test_a_full_disk_is_said_and_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.json"
    files.write_json(path, 1)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(files.DiskFullError) as stopped:
        files.write_json(path, 2)
    assert str(stopped.value).startswith(f"the disk is full (No space left on device): {path} needs more room. ")
    assert str(stopped.value).endswith("Free some and run the same command: it goes on from here.")
    assert os.listdir(tmp_path) == ["a.json"]
    assert files.read_json(path) == 1


def test_want_of_room_is_found_behind_the_error_that_hid_it(tmp_path):
    def fail():
        try:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        finally:
            raise ValueError("cannot close the archive")

    with pytest.raises(files.DiskFullError, match="quota"), files.replacing(tmp_path / "a.npz"):
        fail()


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(PermissionError, match="no"), files.replacing(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")
