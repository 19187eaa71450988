"""Batches across clips; no clip ends a stage, whatever it holds or raises, and what is no clip's does."""

import errno
import logging
import os
import shutil
import threading
import time
from functools import partial
from types import SimpleNamespace

import chunkwork
import numpy as np
import pytest
from trees import reasons, table_of

from helpers.config import PreparationConfig
from helpers.faces import prepare_clips
from helpers.files import ROOT, DiskFullError, read_json
from helpers.forward import NetworkError
from helpers.pipeline import AT_ONCE, ClipRun, Network, RepeatedError
from helpers.rows import Source, StaticRows
from helpers.store import AbsentError, ClipError, Stage
from helpers.workers import PoolError

FACE = sorted((ROOT / "data_sample" / "training80_01").glob("*.mp4"))[0]
NOBODY = SimpleNamespace(fps=15.0, n_frames=8, has_face=lambda t_s: np.ones(np.shape(t_s), bool))


def doubled(x: np.ndarray) -> np.ndarray:
    return 2 * x


class Seen:
    """A network that remembers the shapes of its inputs; it fails on values from `limit` on, and has so much room."""

    def __init__(self, limit: float = np.inf, room: int = 1000):
        self.limit, self.room, self.shapes = limit, room, []

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.shapes.append(x.shape)
        if len(x) > self.room:
            raise MemoryError(f"the network ran out of memory on an input of {x.shape}.")
        if x.max() >= self.limit:
            raise NetworkError("the network failed")
        return doubled(x)


def outputs_of(network, sizes, batch_size, n_rows=1) -> list[float]:
    """What the network makes of sample k, so many times k: its first value, NaN where it failed."""
    samples = [(k, np.full(size, k, np.float32), n_rows) for k, size in enumerate(sizes)]
    places, outputs = zip(*Network(network, batch_size).run(samples), strict=True)
    assert places == tuple(range(len(sizes)))
    return [float(output[0]) if isinstance(output, np.ndarray) else np.nan for output in outputs]


@pytest.mark.parametrize(
    ("sizes", "n_rows", "shapes"),
    [
        ([2], 1, [(1, 2)]),
        ([2] * 11, 1, [(4, 2)] * 3),  # the last is filled up
        ([2, 2, 2, 2, 2, 3, 3, 2], 1, [(4, 2), (4, 2), (2, 3), (4, 2)]),  # of one kind, each as large as the first
        ([2] * 4, 2, [(2, 2), (2, 2)]),
        ([2] * 2, 9, [(1, 2), (1, 2)]),  # of more rows than a batch has
    ],
)
def test_samples_of_one_kind_share_batches_of_one_shape_and_everyone_gets_their_own(sizes, n_rows, shapes):
    network = Seen()
    assert outputs_of(network, sizes, 4, n_rows) == [2.0 * k for k in range(len(sizes))]
    assert sorted(network.shapes) == sorted(shapes)


def test_two_batches_are_in_the_network_while_the_next_is_filled_and_their_seconds_count_once():
    meet, go_on = threading.Barrier(AT_ONCE, timeout=10), threading.Event()

    def slow(x: np.ndarray) -> np.ndarray:
        assert go_on.wait(10)
        meet.wait()
        time.sleep(0.4)
        return doubled(x)

    def samples():
        for k in range(4):
            if k == 3:
                go_on.set()  # would never be reached if the network were waited for
            yield k, np.full(2, k, np.float32), 1

    network = Network(slow, 1)
    assert [output[0] for _, output in network.run(samples())] == [0, 2, 4, 6]
    assert 0.8 <= network.busy_s < 1.6


def test_half_as_many_are_tried_when_memory_runs_out_and_kept_to():
    network = Seen(room=2)
    assert outputs_of(network, [2] * 19, 8) == [2.0 * k for k in range(19)]
    sizes = [shape[0] for shape in network.shapes]
    assert set(sizes) == {8, 4, 2}
    assert sizes.count(2) == 10
    with pytest.raises(MemoryError):
        outputs_of(Seen(room=0), [2] * 3, 4)


def test_where_two_do_not_fit_beside_each_other_one_goes_after_the_other():
    inside = threading.Semaphore(1)

    def crowded(x: np.ndarray) -> np.ndarray:
        if not inside.acquire(blocking=False):
            raise MemoryError("the network ran out of memory.")
        time.sleep(0.02)
        inside.release()
        return doubled(x)

    assert outputs_of(crowded, [2] * 12, 2) == [2.0 * k for k in range(12)]


def test_a_sample_that_the_network_fails_on_costs_itself_only_and_any_other_error_comes_out(caplog):
    np.testing.assert_array_equal(outputs_of(Seen(limit=6), [2] * 7, 4), [0, 2, 4, 6, 8, 10, np.nan])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    with pytest.raises(AttributeError):
        outputs_of(lambda x: x.no_such_method(), [2] * 3, 2)


def job(path, key, fingerprint):
    return chunkwork.raising, key


def fine(path, key, fingerprint):
    return chunkwork.raising, "fine"


def run_of(keys, out, stage, source, network=None) -> ClipRun:
    cfg = SimpleNamespace(data=out / "data", out=out, progress=False, workers=1)
    return ClipRun("a stage", table_of(keys), cfg, stage, source, network)


def run_stage(keys, out, make_job=job, within=lambda key: None):
    """A stage that keeps what a decoder process says about each clip; `within` is asked about it in this one."""
    with Stage(out / "stage", "a stage", {}) as stage:
        with run_of(keys, out, stage, Source(chunkwork.call, make_job, fingerprint=lambda path, key: key)) as run:
            for clip, chunks in run:
                with run.of(clip):
                    list(chunks)
                    within(clip.key)
                    np.savez(stage.path(clip.key), stamp=clip.fingerprint)
                    run.count("made")
        return stage.finish(**run.finish())


@pytest.mark.parametrize("where", ["decoder", "within"])
def test_whatever_class_is_raised_about_a_clip_is_its_clips_in_one_line_with_the_traceback_in_the_log(tmp_path, where):
    errors = chunkwork.ERRORS | (chunkwork.OF_WORKERS if where == "decoder" else {})

    def raises(key):
        if key in errors:
            raise errors[key][0]()

    how = {} if where == "decoder" else {"make_job": fine, "within": raises}
    manifest = run_stage([*errors, "fine"], tmp_path, **how)
    assert manifest["counts"] == {"clips": len(errors) + 1, "made": 1, "found": 0, "failed": len(errors)}
    log = (tmp_path / "progress.log").read_text()
    for key, (_, said) in errors.items():
        reason = reasons(manifest)[key]
        assert reason.startswith(said) or key == "stop"
        assert reason.isprintable()
        assert len(reason) <= 400
        assert f"a stage: {key}: {reason}" in log
    assert log.count("Traceback (most recent call last)") >= len(errors)


def stream(keys, out, network, write=None):
    source = Source(
        chunkwork.call,
        lambda path, key, fp: (chunkwork.growing, key),
        lambda job: StaticRows(NOBODY),
        lambda _, key: key,
    )
    with Stage(out / "stage", "a stage", {}) as stage:
        stage.write = write or stage.write
        with run_of(keys, out, stage, source, Network(network, 2)) as run:
            run.stream()
        return stage.finish(**run.finish())


def rows_by_size(x):
    """A network whose features are as many as its input has rows, so that those of "odd" do not fit together."""
    return x.mean(axis=(2, 3)).astype(np.float32)


def test_what_the_network_or_the_rows_of_one_clip_cannot_do_is_that_clips(tmp_path):
    def no_room(x):
        if x.shape[1] == 6:
            raise MemoryError("no room.")
        return rows_by_size(x)

    manifest = stream(["a", "odd", "z"], tmp_path, rows_by_size)
    assert list(reasons(manifest)) == ["odd"]
    assert manifest["counts"] | {"made": 2, "rows": 4, "invalid_rows": 0} == manifest["counts"]
    counts = stream(["a", "b", "odd"], tmp_path, no_room)["counts"]
    assert counts | {"made": 2, "found": 1, "rows": 6, "invalid_rows": 1} == counts


def test_a_file_that_cannot_take_its_place_is_its_clips_and_a_full_disk_is_the_runs(tmp_path):
    def full(key, rows, fingerprint):
        raise DiskFullError("the disk is full")

    (tmp_path / "stage" / "folder.npz").mkdir(parents=True)
    found = reasons(stream(["a", "folder", "n" * 255, "z"], tmp_path, rows_by_size))
    assert found["folder"].startswith("IsADirectoryError")
    assert "File name too long" in found["n" * 255]
    assert len(found) == 2
    with pytest.raises(DiskFullError):
        stream(["b", "c"], tmp_path, rows_by_size, full)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2), OSError(errno.EROFS, "Read-only file system")])
def test_what_is_not_the_clips_ends_the_run_and_what_is_done_stays(tmp_path, error, monkeypatch):
    def interrupted(key):
        if key == "b":
            raise error

    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with pytest.raises(type(error)) as caught:
        run_stage("abc", tmp_path, within=interrupted)
    assert caught.value is error
    assert not read_json(tmp_path / "stage" / "manifest.json")["finished"]
    with monkeypatch.context() as patch:
        patch.setattr("subprocess.Popen", refuse)
        with pytest.raises(PoolError, match="temporarily"):
            run_stage("abc", tmp_path)
    assert run_stage("abc", tmp_path)["counts"]["found"] == 1


def fails(which, kind, path, key, fingerprint):
    if int(key[1:]) in which:
        raise kind(f"{path.name}: breaks off at {len(key)}.{key[1:]} s of {key}. Copy it again.")
    return chunkwork.raising, "fine"


@pytest.mark.parametrize(
    ("which", "kind"),
    [(range(1, 21), ClipError), (range(19), ClipError), (range(22, 41), ClipError), (range(42), AbsentError)],
)
def test_the_same_failure_of_some_clips_or_nothing_of_any_ends_no_run(tmp_path, which, kind):
    manifest = run_stage([f"c{k}" for k in range(42)], tmp_path, partial(fails, which, kind))
    assert manifest["counts"]["failed"] == len(which)


@pytest.mark.parametrize("kind", [OSError, ClipError])
@pytest.mark.parametrize(("n", "which"), [(25, range(25)), (60, range(1, 60, 2))])
def test_the_same_failure_in_the_first_20_clips_or_half_of_40_ends_the_run_and_removes_nothing(
    tmp_path, n, which, kind
):
    keys = [f"c{k}" for k in range(n)]
    run_stage(keys, tmp_path)
    with pytest.raises(RepeatedError, match="failed alike"):
        run_stage(keys, tmp_path, partial(fails, which, kind))
    assert run_stage(keys, tmp_path, partial(fails, [3], kind))["counts"]["found"] == n - 1
    assert not (tmp_path / "stage" / "c3.npz").exists()


def test_two_clips_never_share_a_file(tmp_path):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "MANIFEST.JSON").touch()  # as where the file system does not know "A" from "a"
    with pytest.raises(ValueError, match="b/film"):
        run_stage(["b/Film", "b/film", "c"], tmp_path)


def test_the_end_says_how_many_and_why(tmp_path, caplog):
    caplog.set_level("INFO")
    run_stage(["c1", "c2"], tmp_path)
    run_stage([f"c{k}" for k in range(1, 6)], tmp_path, partial(fails, [3, 4], ClipError))
    assert "1 of 5 clips made, 2 found, 2 left out (2 breaks off at … s of c…)" in caplog.text
    assert "done: 5 of 5 clips" in (tmp_path / "progress.log").read_text()


def test_no_file_ends_the_preparation(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    os.mkfifo(data / "pipe.mp4")
    (data / "folder.mp4").mkdir()
    (data / "loop.mp4").symlink_to("loop.mp4")
    (data / "text.mp4").write_text("not a video\n" * 1000)
    shutil.copy(FACE, data / "fine.mp4")
    clips = table_of([*sorted(path.stem for path in data.iterdir()), "text.mp4/below", "n" * 300, "nul\0"])
    cfg = PreparationConfig(data_dir=str(data), out_dir=str(tmp_path / "run"), workers=2)
    found = reasons(prepare_clips(clips, cfg))
    assert set(clips.index) - {"fine"} == set(found)
    assert all(reason.isprintable() for reason in found.values())
