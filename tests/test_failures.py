"""No clip ends a stage, whatever it holds or raises; what is no clip's does, and nothing is passed over in silence."""

import errno
import os
import shutil
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import av
import chunkwork
import cv2
import numpy as np
import pandas as pd
import pytest

from helpers.config import PreparationConfig
from helpers.container import VideoError
from helpers.faces import prepare_clips
from helpers.failures import RepeatedError, by_kind
from helpers.files import ROOT, DiskFullError, read_json
from helpers.pipeline import ClipRun, Network, Work
from helpers.rows import StaticRows
from helpers.store import Stage
from helpers.video import iter_frames
from helpers.workers import PoolError

FACE = sorted((ROOT / "data_sample" / "training80_01").glob("*.mp4"))[0]
NOBODY = SimpleNamespace(fps=15.0, n_frames=8, has_face=lambda t_s: np.ones(np.shape(t_s), bool))


def table(keys) -> pd.DataFrame:
    return pd.DataFrame({"path": [f"{key}.mp4" for key in keys]}, index=pd.Index(list(keys), name="key"))


def job(path, key, stamp):
    return (chunkwork.raising, key), None


def run_stage(keys, out, make_job=job, stamp=lambda path, key: key, within=lambda key: None):
    """A stage that keeps what a decoder process says about each clip; `within` is asked about it in this one."""
    cfg = SimpleNamespace(data=out / "data", out=out, progress=False, workers=1)
    with Stage(out / "stage", "a stage", {}) as stage:
        with ClipRun("a stage", table(keys), cfg, stage, Work(chunkwork.call, make_job, stamp)) as run:
            for clip, chunks in run:
                with run.of(clip):
                    list(chunks)
                    within(clip.key)
                    np.savez(stage.path(clip.key), stamp=clip.stamp)
                    run.count("made")
        return stage.finish(**run.finish())


def reasons(manifest) -> dict[str, str]:
    return {entry["clip"]: entry["reason"] for entry in manifest["failed"]}


def check_each_is_told(manifest, errors, out):
    """Every error is its clip's: one printable line in the list, the traceback in the log."""
    assert manifest["counts"] == {"clips": len(errors) + 1, "made": 1, "found": 0, "failed": len(errors)}
    log = (out / "progress.log").read_text()
    for key, (_, said) in errors.items():
        reason = reasons(manifest)[key]
        assert reason.startswith(said) or key == "stop"
        assert reason.isprintable()
        assert len(reason) <= 400
        assert f"a stage: {key}: {reason}" in log
    assert log.count("Traceback (most recent call last)") >= len(errors)


def test_whatever_class_a_decoder_raises_is_its_clips(tmp_path):
    errors = chunkwork.ERRORS | chunkwork.OF_WORKERS
    check_each_is_told(run_stage([*errors, "fine"], tmp_path), errors, tmp_path)


@pytest.mark.parametrize("where", ["job", "stamp", "within"])
def test_whatever_class_is_raised_about_a_clip_here_is_its_clips(tmp_path, where):
    def raises(key, given=None):
        if key in chunkwork.ERRORS:
            raise chunkwork.ERRORS[key][0]()
        return given

    ways = {
        "job": {"make_job": lambda path, key, stamp: raises(key, ((chunkwork.raising, "fine"), None))},
        "stamp": {"stamp": lambda path, key: raises(key, key)},
        "within": {"make_job": lambda *_: ((chunkwork.raising, "fine"), None), "within": raises},
    }
    check_each_is_told(run_stage([*chunkwork.ERRORS, "fine"], tmp_path, **ways[where]), chunkwork.ERRORS, tmp_path)


def rows_by_size(x):
    """A network whose features are as many as its input has rows, so that those of "odd" do not fit together."""
    if x.shape[1:] == (5, 5, 3):
        raise ValueError("negative dimension")
    return x.mean(axis=(2, 3)).astype(np.float32)


def stream(keys, out, network=rows_by_size, write=None):
    cfg = SimpleNamespace(data=out / "data", out=out, progress=False, workers=1)
    work = Work(chunkwork.call, lambda path, key, stamp: ((chunkwork.growing, key), None), lambda path, key: key)
    with Stage(out / "stage", "a stage", {}) as stage:
        stage.write = write or stage.write
        with ClipRun("a stage", table(keys), cfg, stage, work, Network(network, 2)) as run:
            run.stream(lambda kept: StaticRows(NOBODY))
        return stage.finish(**run.finish())


def test_what_the_network_or_the_rows_of_one_clip_cannot_do_is_that_clips(tmp_path):
    def no_room(x):
        if x.shape[1] == 6:
            raise MemoryError("no room.")
        return rows_by_size(x)

    manifest = stream(["a", "odd", "z"], tmp_path)
    assert list(reasons(manifest)) == ["odd"]
    assert manifest["counts"]["made"] == 2
    assert stream(["b", "odd", "y"], tmp_path, no_room)["counts"]["made"] == 3  # one row is not valid


def test_a_file_that_cannot_take_its_place_is_its_clips(tmp_path):
    keys = ["a", "folder", "n" * 255, "z"]
    (tmp_path / "stage" / "folder.npz").mkdir(parents=True)
    manifest = stream(keys, tmp_path)
    assert reasons(manifest)["folder"].startswith("IsADirectoryError")
    assert "File name too long" in reasons(manifest)["n" * 255]
    assert manifest["counts"]["made"] == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2), OSError(errno.EROFS, "Read-only file system")])
def test_what_is_not_the_clips_ends_the_run(tmp_path, error):
    def interrupted(key):
        if key == "b":
            raise error

    with pytest.raises(type(error)) as caught:
        run_stage("abc", tmp_path, within=interrupted)
    assert caught.value is error
    assert not read_json(tmp_path / "stage" / "manifest.json")["finished"]
    assert run_stage("abc", tmp_path)["counts"]["found"] == 1


def test_a_full_disk_and_processes_that_do_not_start_end_the_run(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    def full(key, rows, stamp):
        raise DiskFullError("the disk is full")

    with pytest.raises(DiskFullError):
        stream(["a", "b"], tmp_path, write=full)
    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.raises(PoolError, match="Resource temporarily unavailable"):
        run_stage("abc", tmp_path)


def fails(which, path, key, stamp):
    if int(key[1:]) in which:
        raise VideoError(f"{path.name}: breaks off at {len(key)}.{key[1:]} s of {key}. Copy it again.")
    return (chunkwork.raising, "fine"), None


@pytest.mark.parametrize("which", [range(1, 25), range(19), range(22, 41)])
def test_failures_of_some_of_the_first_clips_end_no_run(tmp_path, which):
    manifest = run_stage([f"c{k}" for k in range(42)], tmp_path, partial(fails, which))
    assert manifest["counts"]["failed"] == len(which)


@pytest.mark.parametrize(("n", "which"), [(25, range(20)), (60, range(1, 60, 2))])
def test_the_same_failure_in_the_first_20_clips_or_half_of_40_ends_the_run(tmp_path, n, which):
    keys = [f"c{k}" for k in range(n)]
    with pytest.raises(RepeatedError, match="failed alike"):
        run_stage(keys, tmp_path, partial(fails, which))
    counts = run_stage(keys, tmp_path, partial(fails, ()))["counts"]  # the cause is gone
    assert counts["made"] + counts["found"] == n


def test_files_of_failed_clips_stay_until_the_run_knows_that_it_is_their_fault(tmp_path):
    keys = [f"c{k}" for k in range(25)]
    run_stage(keys, tmp_path)
    with pytest.raises(RepeatedError):
        run_stage(keys, tmp_path, partial(fails, range(25)))
    assert run_stage(keys, tmp_path, partial(fails, [3]))["counts"]["found"] == 24
    assert not (tmp_path / "stage" / "c3.npz").exists()


def test_two_clips_never_share_a_file(tmp_path):
    (tmp_path / "stage" / "b").mkdir(parents=True)
    (tmp_path / "stage" / "MANIFEST.JSON").touch()  # as where the file system does not know "A" from "a"
    manifest = run_stage(["b/Film", "b/film", "c"], tmp_path)
    assert reasons(manifest) == {"b/film": "its file would take the place of that of b/Film. Rename one of the two."}


def test_the_end_says_how_many_and_why(tmp_path, caplog):
    caplog.set_level("INFO")
    run_stage(["c1", "c2"], tmp_path)
    run_stage([f"c{k}" for k in range(1, 6)], tmp_path, partial(fails, [3, 4]))
    assert "1 of 5 clips made, 2 found, 2 left out (2 breaks off at … s of c…)" in caplog.text
    assert by_kind(f"{'abcdefg'[n]} is odd" for n in range(7)).endswith(", 2 of other kinds")


def write_changing(path: Path, kind: str) -> None:
    """Two seconds of a face, which change halfway."""
    frames = [frame for frame, _, _ in iter_frames(FACE, fps=10, indices=slice(0, 20))]
    with av.open(str(path), "w") as target:
        stream = target.add_stream("mjpeg", rate=10, width=160, height=120, pix_fmt="yuvj420p")
        for n, frame in enumerate(frames):
            late = n >= 10
            size = (96, 128) if late and kind == "size" else (160, 120)
            layout = "yuvj444p" if late and kind == "format" else "yuvj420p"
            picture = av.VideoFrame.from_ndarray(cv2.resize(frame, size), format="rgb24").reformat(format=layout)
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = *size, layout, Fraction(1, 10)
            for packet in (*encoder.encode(picture), *encoder.encode(None)):
                packet.stream, packet.time_base = stream, Fraction(1, 10)
                packet.pts = packet.dts = 10 + (n - 10) * 3 if late and kind == "time base" else n
                target.mux(packet)


def test_no_file_ends_the_preparation(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for kind in ("size", "format", "time base"):
        write_changing(data / f"{kind}.mkv", kind)
    os.mkfifo(data / "pipe.mp4")
    (data / "folder.mp4").mkdir()
    (data / "loop.mp4").symlink_to("loop.mp4")
    (data / "text.mp4").write_text("not a video\n" * 1000)
    shutil.copy(FACE, data / "fine.mp4")
    paths = [*sorted(path.name for path in data.iterdir()), "text.mp4/below.mp4", "n" * 300 + ".mp4", "nul\0.mp4"]
    clips = pd.DataFrame({"path": paths}, index=pd.Index([path.rpartition(".")[0] for path in paths], name="key"))
    cfg = PreparationConfig(data_dir=str(data), out_dir=str(tmp_path / "run"), workers=2)
    manifest = prepare_clips(clips, cfg)
    assert not {"fine", "format"} & set(reasons(manifest))
    assert set(clips.index) - {"fine", "format", "size", "time base"} == set(reasons(manifest)) - {"size", "time base"}
    assert all(reason.isprintable() for reason in reasons(manifest).values())
