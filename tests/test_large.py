"""Large files of a stage or of labelled clips: whole, readable without this package, made in flat memory."""

import dataclasses
import json
import tracemalloc

import h5py
import numpy as np
import pandas as pd
import pytest

from helpers import large
from helpers.clips import TRAITS, write_clips
from helpers.files import DiskFullError, FolderLock, LockedError
from helpers.large import write_sequences
from helpers.store import FeatureFile, Stage, write_features

N, T, D = 3, 7, 5  # distinct primes: a swapped axis cannot pass
WIDTH = 7
NO_RATINGS = pd.DataFrame(columns=list(TRAITS), dtype=float)
KEYS = ("training80_01/-AmMDnVl4s8.003", "training80_01/clip 2", "training80_01/clip 10", "ü, b")


def rows(k, n, width=WIDTH):
    """Row i of clip k is full of 100 k + i; the second row is invalid."""
    start_s = np.arange(n) / 15 + 0.1
    features = np.repeat(100.0 * k + np.arange(n), width).reshape(n, width).astype("float32")
    return FeatureFile(features, start_s, start_s + 1 / 15, 2 * np.arange(n), np.arange(n) != 1)


@pytest.fixture
def stage(tmp_path):
    """Four clips of 2, 3, 4 and 5 rows, finished, in another order than that of their keys."""
    stage = Stage(tmp_path / "run" / "static", "static", {"weights": {"name": "random"}})
    for k in (2, 0, 3, 1):
        write_features(stage.path(KEYS[k]), rows(k, k + 2), "1-1")
    stage.finish(clips=4)
    return in_run(stage, KEYS)


def in_run(stage, keys):
    """The stage's folder, in a run of these clips."""
    write_clips(
        pd.DataFrame({"path": keys, "openness": 0.5}, pd.Index(keys, name="key")), stage.folder.parent / "clips.csv"
    )
    return stage.folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_array_and_its_index_are_read_with_numpy_and_pandas_alone(stage, tmp_path):
    path = large.write_large(stage, tmp_path / "out", "static")
    assert path.name == "static_features_large.npy"
    array = np.load(path, mmap_mode="r")
    index = pd.read_csv(path.with_suffix(".csv"))
    assert array.dtype == np.float32
    assert array.shape == (2 + 3 + 4 + 5, WIDTH)
    assert index.columns.tolist() == ["row", "clip", "t_start_s", "t_end_s", "frame", "valid"]
    assert index["row"].tolist() == list(range(14))
    assert index["clip"].unique().tolist() == list(KEYS)  # natural order: clip 2 before clip 10
    for k, key in enumerate(KEYS):
        made, mine = rows(k, k + 2), index[index["clip"] == key]
        np.testing.assert_array_equal(array[mine["row"]], made.features)
        for name in ("t_start_s", "t_end_s", "frame", "valid"):
            np.testing.assert_allclose(mine[name], getattr(made, name), rtol=1e-15)
    assert sorted(p.name for p in path.parent.iterdir()) == [f"{path.stem}.{s}" for s in ("csv", "json", "npy")]
    said = json.loads(path.with_suffix(".json").read_text())
    assert said["identity"] == {"weights": {"name": "random"}}
    assert said["shape"] == [14, WIDTH]
    assert said["counts"] == {"clips": 4, "rows": 14, "invalid_rows": 4}


def test_an_hdf5_file_has_the_names_types_and_attributes_of_the_source_project(stage, tmp_path):
    ratings = pd.DataFrame({trait: [0.1 * i, np.nan] for i, trait in enumerate(TRAITS)}, index=[KEYS[2], KEYS[0]])
    large.write_hdf5(stage, tmp_path / "static_features.h5", "static", ratings)
    with h5py.File(tmp_path / "static_features.h5") as file:
        features = file["features"]
        assert (features.shape, features.dtype) == ((4, 5, WIDTH), np.float32)
        assert (features.compression, features.compression_opts) == ("gzip", 4)
        assert file["num_frames"].dtype == np.int32
        assert file["num_frames"][:].tolist() == [2, 3, 4, 5]
        expected = {"num_videos": 4, "max_frames": 5, "feature_dim": WIDTH, "category_mapping": "{}"}
        assert {name: file.attrs[name] for name in expected} == expected
        assert not file.attrs["multi_scale"]
        assert json.loads(file.attrs["identity"]) == {"weights": {"name": "random"}}
        assert file["clips"].asstr()[:].tolist() == list(KEYS)
        assert file["targets"].asstr()[:].tolist() == list(TRAITS)
        assert file["labels"].dtype == np.float32
        np.testing.assert_allclose(file["labels"][2], [0, 0.1, 0.2, 0.3, 0.4], atol=1e-7)
        assert np.isnan(file["labels"][:][[0, 1, 3]]).all()
        for k in range(4):
            made = rows(k, k + 2)
            np.testing.assert_array_equal(features[k, : k + 2], made.features)
            assert not features[k, k + 2 :].any()
            np.testing.assert_array_equal(file["t_s"][k, : k + 2], made.t_s)
            assert file["valid"][k].tolist() == made.valid.tolist() + [False] * (3 - k)


def test_memory_stays_flat(tmp_path):
    """24 MB of rows pass through less memory than a quarter of them."""
    stage = Stage(tmp_path / "static", "static", {})
    for k in range(60):
        write_features(stage.path(f"c{k}"), rows(k, 50, 2048), "1-1")
    stage.finish()
    folder = in_run(stage, [f"c{k}" for k in range(60)])
    tracemalloc.start()
    path = large.write_large(folder, tmp_path, "static")
    large.write_hdf5(folder, tmp_path / "static_features.h5", "static", NO_RATINGS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 24e6
    assert peak < 6e6


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:200]), "clip 2.npz is damaged"),
        (lambda file: write_features(file, rows(1, 3, WIDTH + 1), "1-1"), "width 7 .* 8"),
    ],
)
def test_clips_that_are_damaged_or_of_another_width_are_named_and_what_was_there_stays(stage, tmp_path, damage, word):
    large.write_large(stage, tmp_path / "out", "static")
    before = contents(tmp_path / "out")
    damage(stage / f"{KEYS[1]}.npz")
    with pytest.raises(ValueError, match=word):
        large.write_large(stage, tmp_path / "out", "static")
    assert contents(tmp_path / "out") == before


def test_a_stage_that_is_not_there_empty_or_not_of_that_name_is_refused(stage, tmp_path):
    with pytest.raises(FileNotFoundError, match="Run 04_dynamic_extraction first"):
        large.write_large(tmp_path / "dynamic", tmp_path, "dynamic")
    none = Stage(tmp_path / "none" / "static", "static", {})
    none.finish()
    for folder, name in ((stage, "dynamic"), (stage, "faces"), (in_run(none, ["a"]), "static")):
        with pytest.raises(ValueError, match="must"):
            large.write_large(folder, tmp_path, name)


def test_only_the_clips_of_the_run_are_written_in_their_order(stage, tmp_path):
    kept = [KEYS[3], "failed", KEYS[0]]
    table = pd.DataFrame({"path": kept, "openness": 0.5}, index=pd.Index(kept, name="key"))
    write_clips(table, stage.parent / "clips.csv")
    path = large.write_large(stage, tmp_path, "static")
    large.write_hdf5(stage, tmp_path / "static_features.h5", "static", table)
    assert pd.read_csv(path.with_suffix(".csv"))["clip"].tolist() == [KEYS[3]] * 5 + [KEYS[0]] * 2
    np.testing.assert_array_equal(np.load(path), np.concatenate([rows(3, 5).features, rows(0, 2).features]))
    assert json.loads(path.with_suffix(".json").read_text())["counts"]["clips"] == 2
    with h5py.File(tmp_path / "static_features.h5") as file:
        assert file["clips"].asstr()[:].tolist() == [KEYS[3], KEYS[0]]


def test_a_run_that_is_being_filled_is_refused(stage, tmp_path):
    with FolderLock(stage.parent):
        with pytest.raises(LockedError):
            large.write_large(stage, tmp_path, "static")
        with pytest.raises(LockedError):
            large.write_hdf5(stage, tmp_path / "static_features.h5", "static", NO_RATINGS)


@pytest.mark.parametrize("room", [100, 40_000, 2_000_000])
def test_a_disk_that_fills_up_ends_neither_python_nor_the_files_before(tmp_path, room):
    resource = pytest.importorskip("resource")  # a limit on the size of files stands for the disk
    stage = Stage(tmp_path / "run" / "static", "static", {})
    for k in range(9):
        noise = np.random.default_rng(k).normal(size=(300, 211)).astype("float32")
        write_features(stage.path(f"c{k}"), dataclasses.replace(rows(k, 300), features=noise), "1-1")
    stage.finish()
    in_run(stage, [f"c{k}" for k in range(9)])
    out = tmp_path / "out"
    writers = [
        lambda: large.write_hdf5(stage.folder, out / "static_features.h5", "static", NO_RATINGS),
        lambda: large.write_large(stage.folder, out, "static"),
    ]
    for write in writers:
        write()
    before = contents(out)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        for write in writers:
            with pytest.raises(DiskFullError):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(out) == before


def write_labelled(path):
    """Three clips of two classes; returns what was written."""
    r = np.random.default_rng(0)
    num_frames = np.array([7, 2, 4], np.int32)
    valid = np.arange(T) < num_frames[:, None]
    valid[0, 3] = False  # a row that is there and not to be used
    keys = ["train/pass/ä.001", "train/nod/b.001", "train/pass/c.001"]
    written = {
        "features": np.where(valid[..., None], r.standard_normal((N, T, D)), 0).astype(np.float32),
        "t_s": np.where(np.arange(T) < num_frames[:, None], np.arange(T) / 25, 0),
        "valid": valid,
        "num_frames": num_frames,
        "labels": np.array([1, 0, 1]),
        "key": np.array(keys),
        "source": np.array(["ä", "b", "c"]),
    }
    clips = zip(*(written[name] for name in ("features", "t_s", "valid", "num_frames")), strict=True)
    sequences = ((rows[:n], t_s[:n], usable[:n]) for rows, t_s, usable, n in clips)
    datasets = {"labels": written["labels"]}
    datasets |= {name: written[name].astype(h5py.string_dtype()) for name in ("key", "source")}
    attributes = {"category_mapping": '{"nod": 0, "pass": 1}', "multi_scale": True}
    write_sequences(path, sequences, (num_frames, D), datasets, attributes)
    return written


def test_sequences_of_labelled_clips_have_the_names_of_j3(tmp_path):
    written = write_labelled(tmp_path / "train_features.h5")
    with h5py.File(tmp_path / "train_features.h5") as file:
        for name, values in written.items():
            read = file[name].asstr()[:] if name in ("key", "source") else file[name][:]
            assert np.array_equal(read, values), name
        dtypes = {"features": "float32", "labels": "int64", "num_frames": "int32", "t_s": "float64", "valid": "bool"}
        assert {name: str(file[name].dtype) for name in dtypes} == dtypes
        attributes = dict(file.attrs)
    assert json.loads(attributes.pop("category_mapping")) == {"nod": 0, "pass": 1}
    assert attributes == {"num_videos": N, "max_frames": T, "feature_dim": D, "multi_scale": True}
