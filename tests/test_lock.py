"""Locks on folders: one filler at a time, and a dead one counts for nothing."""

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys

import pytest

from helpers import files
from helpers.files import ROOT, DiskFullError, FolderLock, LockedError
from helpers.store import Stage

HOLD = """
import sys, time
from helpers.files import FolderLock
kept = FolderLock(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock on `tmp_path / "faces"`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "faces")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path, other):
    with pytest.raises(LockedError) as refused:
        Stage(tmp_path / "faces", "faces", {})
    message = str(refused.value)
    assert f"faces is being filled by process {other.pid} on {platform.node()} since 20" in message
    assert message.endswith("Wait until that has ended, or stop it, or take another folder.")
    assert not (tmp_path / "faces" / "manifest.json").exists()


def test_the_lock_of_a_killed_process_is_no_lock(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert f"process {other.pid}" in (tmp_path / "faces" / files.LOCK).read_text()
    with FolderLock(tmp_path / "faces"), pytest.raises(LockedError):
        FolderLock(tmp_path / "faces")


def test_a_lock_ends_with_its_with_its_release_or_its_owner(tmp_path):
    with pytest.raises(RuntimeError, match="half-way"), FolderLock(tmp_path):
        raise RuntimeError("half-way")
    kept = FolderLock(tmp_path)
    kept.release()
    kept.release()
    forgotten = FolderLock(tmp_path)
    del forgotten
    FolderLock(tmp_path).release()


def test_a_refused_stage_gives_the_folder_back_at_once(tmp_path):
    Stage(tmp_path, "static", {"every": 8}).finish()
    with pytest.raises(ValueError, match="every: 5 here, 8 there") as refused:
        Stage(tmp_path, "static", {"every": 5})
    Stage(tmp_path, "static", {"every": 8}).finish()
    assert refused.tb  # would have kept the lock alive


def test_leftovers_of_killed_writers_are_removed_except_below_a_lock_of_their_own(tmp_path):
    FolderLock(tmp_path / "faces").release()
    mine, theirs = tmp_path / "aligned" / ".part-x.npz", tmp_path / "faces" / "a" / ".part-y.npz"
    for path in (mine, theirs, tmp_path / "aligned" / "x.npz"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    FolderLock(tmp_path).release()
    assert sorted(path.name for path in tmp_path.rglob("*.npz")) == [".part-y.npz", "x.npz"]
    FolderLock(tmp_path / "faces").release()
    assert not theirs.exists()


def test_the_scratch_folder_of_a_killed_import_is_removed_unless_another_holds_the_lock(tmp_path, other):
    mine, theirs = tmp_path / ".part-a1b2", tmp_path / "faces" / "a" / ".part-c3d4"
    for scratch in (mine, theirs):
        (scratch / "deep").mkdir(parents=True)
        (scratch / "deep" / "features.float32").touch()
    FolderLock(tmp_path).release()
    assert not mine.exists()
    assert theirs.exists()
    with pytest.raises(LockedError):
        FolderLock(tmp_path / "faces")
    assert (theirs / "deep" / "features.float32").exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP])
def test_a_file_system_without_locks_is_said_and_the_run_goes_on(tmp_path, monkeypatch, caplog, code):
    def refuse(handle, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Stage(tmp_path, "faces", {}) as stage:
        stage.finish()
    assert "cannot be locked" in caplog.text
    assert f"({os.strerror(code)}). See to it that nothing else writes there." in caplog.text
    assert (tmp_path / "manifest.json").exists()


def test_a_full_disk_is_no_lock_and_is_said(tmp_path, monkeypatch):
    def full(handle, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(DiskFullError, match="Free some and run the same command"):
        patched.setattr(os, "write", full)
        FolderLock(tmp_path)
    FolderLock(tmp_path).release()
