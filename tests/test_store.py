"""Feature files and stages: whole or not there, resumed or refused."""

import dataclasses

import numpy as np
import pytest

from helpers import store


def rows(n=3, width=5, **more):
    t = np.arange(n) / 15
    features = np.arange(n * width, dtype=np.float32).reshape(n, width)
    return store.FeatureFile(features, t, t + 1 / 15, np.arange(n), np.arange(n) != 1, **more)


@pytest.mark.parametrize("reason", [None, np.array(["", "face_000010.jpg: größer, not RGB", ""])])
def test_a_feature_file_comes_back_as_it_was(tmp_path, reason):
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


def test_what_is_no_feature_file_is_refused(tmp_path):
    for wrong in ({"t_end_s": np.zeros(2)}, {"features": np.zeros(3)}, {"reason": np.array(["", ""])}):
        with pytest.raises(ValueError, match="must have shape"):
            dataclasses.replace(rows(), **wrong)
    with pytest.raises(ValueError, match="clips must be"):
        store.write_arrays(tmp_path / "a.npz", clips=np.array(["a", None], dtype=object))


@pytest.mark.parametrize("damage", [lambda b: b[:-40], lambda b: b"", lambda b: b[:60] + b"\0\0\0" + b[63:]])
def test_a_damaged_file_is_named_and_never_counts_as_done(tmp_path, damage):
    stage = store.Stage(tmp_path, "static", {})
    path = stage.path("a")
    store.write_features(path, rows(), fingerprint="1-1")
    assert stage.done("a", "1-1")
    path.write_bytes(damage(path.read_bytes()))
    assert not stage.done("a", "1-1")
    with pytest.raises(ValueError, match=r"a\.npz is damaged"):
        store.read_features(path)


def test_a_changed_clip_and_a_stage_made_differently_are_told(tmp_path):
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"123")
    before = store.clip_fingerprint(clip)
    with store.Stage(tmp_path / "static", "static", {"parameters": {"every_n_frames": 8}}) as stage:
        store.write_features(stage.path("a"), rows(), fingerprint=before)
        clip.write_bytes(b"1234")
        assert not stage.done("a", store.clip_fingerprint(clip))
        assert not stage.done("b", before)
    with pytest.raises(ValueError, match=r"parameters\.every_n_frames: 5 here, 8 there"):
        store.Stage(tmp_path / "static", "static", {"parameters": {"every_n_frames": 5}})


def test_a_manifest_is_that_of_a_finished_stage(tmp_path):
    for _ in range(2):  # a folder without a manifest, an unfinished one
        with pytest.raises(FileNotFoundError, match="03_static_extraction"):
            store.read_manifest(tmp_path, "03_static_extraction")
        stage = store.Stage(tmp_path, "static", {"a": 1})
        stage.release()
    stage.fail("b/c", "no face found")
    stage.fail("d", "not finite", row=3)
    manifest = stage.finish(clips=2, rows=7)
    assert manifest == store.read_manifest(tmp_path, "03_static_extraction")
    assert manifest["failed"] == [
        {"clip": "b/c", "reason": "no face found"},
        {"clip": "d", "reason": "not finite", "row": 3},
    ]
    assert manifest["counts"] == {"clips": 2, "rows": 7}
