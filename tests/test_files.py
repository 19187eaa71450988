"""Paths, atomic writing, JSON; locks on folders: one filler at a time, and a dead one counts for nothing."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from unittest.mock import Mock

import numpy as np
import pytest

from helpers import files
from helpers.files import ROOT, DiskFullError, FolderLock, LockedError
from helpers.store import Stage

FULL = OSError(errno.ENOSPC, "No space left on device")
HIDING = ValueError("cannot close the archive")
HIDING.__context__ = OSError(errno.EDQUOT, "Disk quota exceeded")


def test_a_relative_path_lies_below_the_repository_or_the_folder_of_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORKBOOK_RESULTS", raising=False)
    assert files.resolve("results/sample") == ROOT / "results" / "sample"
    assert files.resolve(tmp_path) == tmp_path
    monkeypatch.setenv("WORKBOOK_RESULTS", str(tmp_path))
    assert files.resolve("results/sample/model") == tmp_path / "sample" / "model"
    assert files.resolve("data_sample") == ROOT / "data_sample"


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize(
    ("error", "raised", "named"),
    [
        (RuntimeError("half-way"), RuntimeError, "half-way"),
        (PermissionError(errno.EACCES, "no"), PermissionError, "no"),
        (FULL, DiskFullError, r"a\.txt"),
        (HIDING, DiskFullError, r"a\.txt"),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error, raised, named, at_the_end):
    path = tmp_path / "a.txt"
    path.write_text("old")
    if at_the_end:
        monkeypatch.setattr(os, "fsync", Mock(side_effect=error))
    with pytest.raises(raised, match=named), files.replacing(path) as part:
        part.write_text("new")
        if not at_the_end:
            raise error
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["a.txt"])


def test_json_is_readable_by_others_as_the_umask_says_and_sorted_and_what_cannot_be_read_is_named(tmp_path):
    mask = os.umask(0o022)
    os.umask(mask)
    path = tmp_path / "deep" / "ä b.json"
    given = {10: float("nan"), 9: [1, float("-inf")], 1: {"r2": np.float64("nan"), "n": 2**70, "text": "NaN é"}}
    files.write_json(path, given)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    read = files.read_json(path)
    assert read == {"1": {"r2": None, "n": 2**70, "text": "NaN é"}, "9": [1, None], "10": None}
    assert list(read) == ["1", "9", "10"]  # by number, as they are sorted before they are text
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match=r"ä b\.json"):
        files.read_json(path)
    with pytest.raises(FileNotFoundError, match=r"clips\.csv .*01_data_analysis"):
        files.needs(tmp_path / "clips.csv", "01_data_analysis")


def test_differences_are_named_by_their_path():
    ours = {"fps": 15.0, "weights": {"name": "resnet50", "source": "random"}}
    theirs = {"fps": 15.0, "weights": {"name": "resnet50", "source": "imagenet"}, "extra": 1}
    found = ["extra: None here, 1 there", "weights.source: 'random' here, 'imagenet' there"]
    assert (files.differences(ours, theirs), files.differences(ours, ours)) == (found, [])


def test_the_code_version_is_that_of_a_checkout_of_its_own(tmp_path, monkeypatch):
    init = "git init -q . && git -c user.name=a -c user.email=b commit -qm c --allow-empty"
    subprocess.run(init, cwd=tmp_path, shell=True, check=True)
    (tmp_path / "site-packages").mkdir()
    for root, has_commit in ((tmp_path, True), (tmp_path / "site-packages", False)):
        monkeypatch.setattr(files, "ROOT", root)
        files.code_version.cache_clear()
        assert (files.code_version()[:2], "+" in files.code_version()) == ("0.", has_commit)
    files.code_version.cache_clear()


HOLD = "import sys, helpers.files as f; kept = f.FolderLock(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def test_a_folder_is_its_first_process_s_until_that_dies_and_leftovers_go_except_below_a_lock(tmp_path):
    names = ("aligned/.part-x.npz", ".part-a1b2/deep/features", "faces/a/.part-y.npz", "aligned/x.npz")
    command = [sys.executable, "-c", HOLD, str(tmp_path / "faces")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout.readline() == b"held\n"
        for path in (tmp_path / name for name in names):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        FolderLock(tmp_path).release()
        with pytest.raises(LockedError, match=f"process {other.pid} on "):
            Stage(tmp_path / "faces", "faces", {})
        assert [(tmp_path / name).exists() for name in names] == [False, False, True, True]
        assert not (tmp_path / ".part-a1b2").exists() | (tmp_path / "faces" / "manifest.json").exists()
        other.send_signal(signal.SIGKILL)
    with FolderLock(tmp_path / "faces"), pytest.raises(LockedError):
        FolderLock(tmp_path / "faces")
    assert not (tmp_path / names[2]).exists()


def test_a_lock_ends_with_its_with_its_release_or_its_owner(tmp_path):
    with pytest.raises(RuntimeError, match="half-way"), FolderLock(tmp_path):
        raise RuntimeError("half-way")
    kept = FolderLock(tmp_path)
    kept.release()
    kept.release()
    kept = FolderLock(tmp_path)
    del kept
    FolderLock(tmp_path).release()


@pytest.mark.parametrize(
    ("call", "code", "raised"),
    [((fcntl, "flock"), errno.ENOLCK, None), ((fcntl, "flock"), errno.EOPNOTSUPP, None),
     ((os, "write"), errno.ENOSPC, DiskFullError)],
)  # fmt: skip
def test_a_file_system_without_locks_is_said_and_the_run_goes_on_a_full_one_ends_it(
    tmp_path, monkeypatch, caplog, call, code, raised
):
    with monkeypatch.context() as patched, pytest.raises(raised) if raised else nullcontext():
        patched.setattr(*call, Mock(side_effect=OSError(code, os.strerror(code))))
        with Stage(tmp_path, "faces", {}) as stage:
            stage.finish()
    assert ("cannot be locked" in caplog.text, (tmp_path / "manifest.json").exists()) == (not raised, not raised)
    FolderLock(tmp_path).release()


def test_standard_error_of_libraries_and_children_goes_into_a_file_for_a_while(tmp_path, capfd):
    with files.stderr_into(tmp_path / "log"):
        os.system("echo child >&2")
        os.write(2, b"library\n")
    os.write(2, b"after\n")
    assert (tmp_path / "log").read_text() == "child\nlibrary\n"
    assert capfd.readouterr().err == "after\n"
