"""Locks on folders: one filler at a time, and a dead one counts for nothing."""

import errno
import platform
import signal
import subprocess
import sys

import pytest

from helpers import files
from helpers.files import ROOT, FolderLock, LockedError
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


def test_those_who_share_exclude_only_those_who_do_not(tmp_path):
    first, second = (Stage(tmp_path, "faces", {}, shared=True) for _ in range(2))
    first.finish()
    with pytest.raises(LockedError):
        Stage(tmp_path, "faces", {})
    second.finish()
    with Stage(tmp_path, "faces", {}), pytest.raises(LockedError):
        Stage(tmp_path, "faces", {}, shared=True)


def test_leftovers_of_killed_writers_are_removed_unless_another_may_be_writing_them(tmp_path):
    FolderLock(tmp_path / "faces").release()
    mine, theirs = tmp_path / "aligned" / ".part-x.npz", tmp_path / "faces" / "a" / ".part-y.npz"
    for path in (mine, theirs, tmp_path / "aligned" / "x.npz"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    FolderLock(tmp_path, shared=True).release()
    assert mine.exists()
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


def test_a_file_system_without_locks_is_said_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    def refuse(handle, shared):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files, "_lock", refuse)
    FolderLock(tmp_path).release()
    assert "cannot be locked (No locks available). See to it that nothing else writes there." in caplog.text
