"""Batches across clips, files and stages; no clip ends a stage, whatever it holds or raises; what is no clip's does."""

import dataclasses
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

from helpers import store
from helpers.config import PreparationConfig
from helpers.faces import prepare_clips
from helpers.files import ROOT, DiskFullError, read_json
from helpers.forward import NetworkError
from helpers.pipeline import AT_ONCE, ClipRun, Network, RepeatedError
from helpers.rows import Source, StaticRows
from helpers.store import AbsentError, ClipError, Stage
from helpers.workers import PoolError

NOBODY = SimpleNamespace(fps=15.0, n_frames=8, has_face=lambda t_s: np.ones(np.shape(t_s), bool))


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
        return 2 * x


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
        return 2 * x

    def samples():
        for k in range(4):
            if k == 3:
                go_on.set()  # would never be reached if the network were waited for
            yield k, np.full(2, k, np.float32), 1

    network = Network(slow, 1)
    assert [output[0] for _, output in network.run(samples())] == [0, 2, 4, 6]
    assert 0.8 <= network.busy_s < 1.6


def test_when_memory_runs_out_half_as_many_are_tried_and_kept_to_and_at_last_one_after_the_other():
    network, inside = Seen(room=2), threading.Semaphore(1)
    assert outputs_of(network, [2] * 19, 8) == [2.0 * k for k in range(19)]
    sizes = [shape[0] for shape in network.shapes]
    assert set(sizes) == {8, 4, 2}
    assert sizes.count(2) == 10
    with pytest.raises(MemoryError):
        outputs_of(Seen(room=0), [2] * 3, 4)

    def crowded(x: np.ndarray) -> np.ndarray:
        if not inside.acquire(blocking=False):
            raise MemoryError("the network ran out of memory.")
        time.sleep(0.02)
        inside.release()
        return 2 * x

    assert outputs_of(crowded, [2] * 12, 2) == [2.0 * k for k in range(12)]


def test_a_sample_that_the_network_fails_on_costs_itself_only_and_any_other_error_comes_out(caplog):
    np.testing.assert_array_equal(outputs_of(Seen(limit=6), [2] * 7, 4), [0, 2, 4, 6, 8, 10, np.nan])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    with pytest.raises(AttributeError):
        outputs_of(lambda x: x.no_such_method(), [2] * 3, 2)


def run_stage(keys, out, work=lambda key: (chunkwork.raising, key), within=lambda key: None, network=None):
    """A stage of what decoder processes do with each clip, `work`; `within` is asked about it in this one."""
    cfg = SimpleNamespace(data=out / "data", out=out, progress=False, workers=1)
    source = Source(
        chunkwork.call, lambda path, key, _: work(key), lambda job: StaticRows(NOBODY), lambda path, key: key
    )
    with Stage(out / "stage", "a stage", {}) as stage:
        network = network and Network(network, 2)
        with ClipRun("a stage", table_of(keys), cfg, stage, source, network) as run:
            if network:
                run.stream()
            for clip, chunks in () if network else run:
                with run.of(clip):
                    list(chunks)
                    within(clip.key)
                    np.savez(stage.path(clip.key), fingerprint=clip.fingerprint)
                    run.count("made")
        return stage.finish(**run.finish())


@pytest.mark.parametrize("where", ["decoder", "within"])
def test_whatever_class_is_raised_about_a_clip_is_its_clips_in_one_line_with_the_traceback_in_the_log(tmp_path, where):
    errors = chunkwork.ERRORS | (chunkwork.OF_WORKERS if where == "decoder" else {})

    def raises(key):
        if key in errors:
            raise errors[key][0]()

    how = {} if where == "decoder" else {"work": lambda key: (chunkwork.raising, "fine"), "within": raises}
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


def rows_by_size(x):
    """A network whose features are as many as its input has rows, so that those of "odd" do not fit together."""
    return x.mean(axis=(2, 3)).astype(np.float32)


def test_what_the_network_the_rows_or_the_file_of_one_clip_cannot_do_is_that_clips(tmp_path, monkeypatch):
    def no_room(x):
        if x.shape[1] == 6:
            raise MemoryError("no room.")
        return rows_by_size(x)

    def full(*_):
        raise DiskFullError("the disk is full")

    stream = partial(run_stage, out=tmp_path, work=lambda key: (chunkwork.growing, key))
    (tmp_path / "stage" / "folder.npz").mkdir(parents=True)
    manifest = stream(["a", "odd", "folder", "n" * 255, "z"], network=rows_by_size)
    found = reasons(manifest)
    assert list(found) == ["odd", "folder", "n" * 255]
    assert found["folder"].startswith("IsADirectoryError")
    assert "File name too long" in found["n" * 255]
    assert manifest["counts"] | {"made": 2, "rows": 4, "invalid_rows": 0} == manifest["counts"]
    counts = stream(["a", "b", "odd"], network=no_room)["counts"]
    assert counts | {"made": 2, "found": 1, "rows": 6, "invalid_rows": 1} == counts
    monkeypatch.setattr(Stage, "write", full)
    with pytest.raises(DiskFullError):
        stream(["b", "c"], network=rows_by_size)


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


def fails(which, kind, key):
    if int(key[1:]) in which:
        raise kind(f"{key}.mp4: breaks off at {len(key)}.{key[1:]} s of {key}. Copy it again.")
    return chunkwork.raising, "fine"


@pytest.mark.parametrize(
    ("which", "kind"),
    [(range(1, 21), ClipError), (range(19), ClipError), (range(22, 41), ClipError), (range(42), AbsentError)],
)
def test_the_same_failure_of_some_clips_or_nothing_of_any_ends_no_run_and_is_counted(tmp_path, caplog, which, kind):
    caplog.set_level("INFO")
    n = len(which)
    assert run_stage([f"c{k}" for k in range(42)], tmp_path, partial(fails, which, kind))["counts"]["failed"] == n
    assert f"{42 - n} of 42 clips made, 0 found, {n} left out ({n} breaks off at … s of c…)" in caplog.text
    assert "done: 42 of 42 clips" in (tmp_path / "progress.log").read_text()


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


def test_no_file_ends_the_preparation(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    os.mkfifo(data / "pipe.mp4")
    (data / "folder.mp4").mkdir()
    (data / "loop.mp4").symlink_to("loop.mp4")
    (data / "text.mp4").write_text("not a video\n" * 1000)
    shutil.copy(sorted((ROOT / "data_sample" / "training80_01").glob("*.mp4"))[0], data / "fine.mp4")
    clips = table_of([*sorted(path.stem for path in data.iterdir()), "text.mp4/below", "n" * 300, "nul\0"])
    cfg = PreparationConfig(data_dir=str(data), out_dir=str(tmp_path / "run"), workers=2)
    found = reasons(prepare_clips(clips, cfg))
    assert set(clips.index) - {"fine"} == set(found)
    assert all(reason.isprintable() for reason in found.values())


def test_two_clips_never_share_a_file(tmp_path):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "MANIFEST.JSON").touch()  # as where the file system does not know "A" from "a"
    with pytest.raises(ValueError, match="b/film"):
        run_stage(["b/Film", "b/film", "c"], tmp_path)


def rows(n=3, width=5, **more):
    t = np.arange(n) / 15
    features = np.arange(n * width, dtype=np.float32).reshape(n, width)
    return store.FeatureFile(features, t, t + 1 / 15, np.arange(n), np.arange(n) != 1, **more)


@pytest.mark.parametrize("reason", [None, np.array(["", "face_000010.jpg: größer, not RGB", ""])])
def test_a_feature_file_comes_back_as_it_was_and_what_is_none_is_refused(tmp_path, reason):
    path = tmp_path / "training80_01" / "-a b.ü.003.npz"
    store.write_features(path, rows(reason=reason), fingerprint="7-11")
    back = store.read_features(path)
    for f in dataclasses.fields(back):
        np.testing.assert_array_equal(getattr(back, f.name), getattr(rows(reason=reason), f.name))
    assert (back.features.dtype, back.valid.dtype) == (np.float32, bool)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert ("reason" in store.read_arrays(path)) == (reason is not None)
    assert back.in_time().reason is None
    assert back.in_time().frame.tolist() == [0, 2]
    for wrong in ({"t_end_s": np.zeros(2)}, {"features": np.zeros(3)}, {"reason": np.array(["", ""])}):
        with pytest.raises(ValueError, match="must have shape"):
            dataclasses.replace(back, **wrong)
    with pytest.raises(ValueError, match="clips must be"):
        store.write_arrays(tmp_path / "a.npz", clips=np.array(["a", None], dtype=object))


@pytest.mark.parametrize("damage", [lambda b: b[:-40], lambda b: b"", lambda b: b[:60] + b"\0\0\0" + b[63:]])
def test_a_damaged_file_a_changed_clip_and_a_stage_made_differently_are_told_and_never_count_as_done(tmp_path, damage):
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"123")
    before = store.clip_fingerprint(clip)
    with Stage(tmp_path / "static", "static", {"parameters": {"every_n_frames": 8}}) as stage:
        path = stage.path("a")
        store.write_features(path, rows(), fingerprint=before)
        assert stage.done("a", before)
        assert not stage.done("b", before)
        clip.write_bytes(b"1234")
        assert not stage.done("a", store.clip_fingerprint(clip))
        path.write_bytes(damage(path.read_bytes()))
        assert not stage.done("a", before)
    with pytest.raises(ValueError, match=r"a\.npz is damaged"):
        store.read_features(path)
    with pytest.raises(ValueError, match=r"parameters\.every_n_frames: 5 here, 8 there"):
        Stage(tmp_path / "static", "static", {"parameters": {"every_n_frames": 5}})


def test_a_manifest_is_that_of_a_finished_stage(tmp_path):
    for _ in range(2):  # a folder without a manifest, an unfinished one
        with pytest.raises(FileNotFoundError, match="03_static_extraction"):
            store.read_manifest(tmp_path, "03_static_extraction")
        stage = Stage(tmp_path, "static", {"a": 1})
        stage.release()
    stage.fail("b/c", "no face found")
    stage.fail("d", "not finite", row=3)
    manifest = stage.finish(clips=2, rows=7)
    assert manifest == store.read_manifest(tmp_path, "03_static_extraction")
    assert [tuple(entry.values()) for entry in manifest["failed"]] == [("b/c", "no face found"), ("d", "not finite", 3)]
    assert manifest["counts"] == {"clips": 2, "rows": 7}
