"""Paths, atomic writing, JSON; locks on folders: one filler at a time, and a dead one counts for nothing."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest

from helpers import files
from helpers.files import ROOT, DiskFullError, FolderLock, LockedError
from helpers.store import Stage


def test_a_relative_path_lies_below_the_repository_or_the_folder_of_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORKBOOK_RESULTS", raising=False)
    assert files.resolve("results/sample") == ROOT / "results" / "sample"
    assert files.resolve(tmp_path) == tmp_path
    monkeypatch.setenv("WORKBOOK_RESULTS", str(tmp_path))
    assert files.resolve("results/sample/model") == tmp_path / "sample" / "model"
    assert files.resolve("data_sample") == ROOT / "data_sample"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("half-way"), RuntimeError),
        (PermissionError(errno.EACCES, "no"), PermissionError),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error, raised):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(raised), files.replacing(path) as part:
        part.write_text("new")
        raise error
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["a.txt"])


def test_want_of_room_is_found_behind_the_error_that_hid_it(tmp_path, monkeypatch):
    def fail():
        try:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        finally:
            raise ValueError("cannot close the archive")

    with pytest.raises(DiskFullError, match=r"a\.npz"), files.replacing(tmp_path / "a.npz"):
        fail()
    monkeypatch.setattr(os, "fsync", lambda handle: fail())
    with pytest.raises(DiskFullError):
        files.write_json(tmp_path / "a.json", 1)
    assert not os.listdir(tmp_path)


def test_json_is_readable_by_others_as_the_umask_says_and_sorted(tmp_path):
    mask = os.umask(0o022)
    os.umask(mask)
    path = tmp_path / "deep" / "ä b.json"
    given = {10: float("nan"), 9: [1, float("-inf")], 1: {"r2": np.float64("nan"), "n": 2**70, "text": "NaN é"}}
    files.write_json(path, given)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    read = files.read_json(path)
    assert read == {"1": {"r2": None, "n": 2**70, "text": "NaN é"}, "9": [1, None], "10": None}
    assert list(read) == ["1", "9", "10"]  # by number, as they are sorted before they are text


def test_damaged_and_missing_files_are_named(tmp_path):
    (tmp_path / "run.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"run\.json"):
        files.read_json(tmp_path / "run.json")
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


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock on `tmp_path / "faces"`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "faces")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_with_the_name_of_the_first_while_that_lives(tmp_path, other):
    with pytest.raises(LockedError, match=f"process {other.pid} on "):
        Stage(tmp_path / "faces", "faces", {})
    assert not (tmp_path / "faces" / "manifest.json").exists()
    other.send_signal(signal.SIGKILL)
    other.wait()
    with FolderLock(tmp_path / "faces"), pytest.raises(LockedError):
        FolderLock(tmp_path / "faces")


def test_a_lock_ends_with_its_with_its_release_or_its_owner(tmp_path):
    with pytest.raises(RuntimeError, match="half-way"), FolderLock(tmp_path):
        raise RuntimeError("half-way")
    kept = FolderLock(tmp_path)
    kept.release()
    kept.release()
    kept = FolderLock(tmp_path)
    del kept
    FolderLock(tmp_path).release()


def test_leftovers_of_killed_writers_are_removed_except_below_a_lock_of_their_own(tmp_path, other):
    names = ("aligned/.part-x.npz", ".part-a1b2/deep/features", "faces/a/.part-y.npz", "aligned/x.npz")
    for path in (tmp_path / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    FolderLock(tmp_path).release()
    with pytest.raises(LockedError):
        FolderLock(tmp_path / "faces")
    assert [(tmp_path / name).exists() for name in names] == [False, False, True, True]
    assert not (tmp_path / ".part-a1b2").exists()
    other.kill()
    other.wait()
    FolderLock(tmp_path / "faces").release()
    assert not (tmp_path / names[2]).exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_the_run_goes_on(tmp_path, monkeypatch, caplog, code):
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(code, os.strerror(code))))
    with Stage(tmp_path, "faces", {}) as stage:
        stage.finish()
    assert "cannot be locked" in caplog.text
    assert (tmp_path / "manifest.json").exists()


def test_a_full_disk_is_no_lock_and_is_said(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patched, pytest.raises(DiskFullError):
        patched.setattr(os, "write", Mock(side_effect=full))
        FolderLock(tmp_path)
    FolderLock(tmp_path).release()


def test_standard_error_of_libraries_and_children_goes_into_a_file_for_a_while(tmp_path, capfd):
    with files.stderr_into(tmp_path / "log"):
        os.system("echo child >&2")
        os.write(2, b"library\n")
    os.write(2, b"after\n")
    assert (tmp_path / "log").read_text() == "child\nlibrary\n"
    assert capfd.readouterr().err == "after\n"
