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
from helpers.store import FeatureFile, Stage, write_features

WIDTH = 7
KEYS = ("training80_01/-AmMDnVl4s8.003", "training80_01/clip 2", "training80_01/clip 10", "ü, b")
RATINGS = pd.DataFrame({trait: [0.1 * i, np.nan] for i, trait in enumerate(TRAITS)}, index=[KEYS[2], KEYS[0]])


def rows(k, n, width=WIDTH):
    """Row i of clip k is full of 100 k + i; the second row is invalid."""
    start_s = np.arange(n) / 15 + 0.1
    features = np.repeat(100.0 * k + np.arange(n), width).reshape(n, width).astype("float32")
    return FeatureFile(features, start_s, start_s + 1 / 15, 2 * np.arange(n), np.arange(n) != 1)


def write_stage(run, files, keys):
    """A finished stage of these rows by key, in a run of the clips `keys`."""
    stage = Stage(run / "static", "static", {"weights": {"name": "random"}})
    for key, made in files.items():
        write_features(stage.path(key), made, "1-1")
    stage.finish()
    table = pd.DataFrame({"path": list(keys), "openness": 0.5}, pd.Index(list(keys), name="key"))
    write_clips(table, run / "clips.csv")
    return stage.folder


@pytest.fixture
def stage(tmp_path):
    """Four clips of 2, 3, 4 and 5 rows in a run that knows a fifth, in another order than that of their keys."""
    keys = [*KEYS[:2], "failed", *KEYS[2:]]
    return write_stage(tmp_path / "run", {KEYS[k]: rows(k, k + 2) for k in (2, 0, 3, 1)}, keys)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_array_and_its_index_are_read_with_numpy_and_pandas_alone(stage, tmp_path):
    path = large.write_large(stage, tmp_path / "out", "static")
    array, index = np.load(path, mmap_mode="r"), pd.read_csv(path.with_suffix(".csv"))
    assert (path.name, array.dtype, array.shape) == ("static_features_large.npy", np.float32, (2 + 3 + 4 + 5, WIDTH))
    assert index.columns.tolist() == ["row", "clip", "t_start_s", "t_end_s", "frame", "valid"]
    assert index["row"].tolist() == list(range(14))
    assert index["clip"].unique().tolist() == list(KEYS)  # in the order of the run
    for k, key in enumerate(KEYS):
        made, mine = rows(k, k + 2), index[index["clip"] == key]
        np.testing.assert_array_equal(array[mine["row"]], made.features)
        for name in ("t_start_s", "t_end_s", "frame", "valid"):
            np.testing.assert_allclose(mine[name], getattr(made, name), rtol=1e-15)
    said = json.loads(path.with_suffix(".json").read_text())
    assert (said["identity"], said["shape"]) == ({"weights": {"name": "random"}}, [14, WIDTH])
    assert said["counts"] == {"clips": 4, "rows": 14, "invalid_rows": 4}


def test_an_hdf5_file_has_the_names_types_and_attributes_of_the_source_project(stage, tmp_path):
    large.write_hdf5(stage, tmp_path / "static_features.h5", "static", RATINGS)
    with h5py.File(tmp_path / "static_features.h5") as file:
        features = file["features"]
        assert (features.shape, features.compression, features.compression_opts) == ((4, 5, WIDTH), "gzip", 4)
        dtypes = {"features": "float32", "labels": "float32", "num_frames": "int32", "t_s": "float64", "valid": "bool"}
        assert {name: str(file[name].dtype) for name in dtypes} == dtypes
        assert file["num_frames"][:].tolist() == [2, 3, 4, 5]
        expected = {"num_videos": 4, "max_frames": 5, "feature_dim": WIDTH, "category_mapping": "{}"}
        assert {name: file.attrs[name] for name in expected} == expected
        assert not file.attrs["multi_scale"]
        assert json.loads(file.attrs["identity"]) == {"weights": {"name": "random"}}
        assert file["clips"].asstr()[:].tolist() == list(KEYS)
        assert file["targets"].asstr()[:].tolist() == list(TRAITS)
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
    keys = [f"c{k}" for k in range(60)]
    folder = write_stage(tmp_path, {key: rows(k, 50, 2048) for k, key in enumerate(keys)}, keys)
    tracemalloc.start()
    large.write_large(folder, tmp_path, "static")
    large.write_hdf5(folder, tmp_path / "static_features.h5", "static", RATINGS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:200]), "clip 2.npz"),
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


def test_a_stage_that_is_not_there_empty_being_filled_or_not_of_that_name_is_refused(stage, tmp_path):
    with pytest.raises(FileNotFoundError, match="04_dynamic_extraction"):
        large.write_large(tmp_path / "dynamic", tmp_path, "dynamic")
    for folder, name in ((stage, "dynamic"), (stage, "faces"), (write_stage(tmp_path / "none", {}, ["a"]), "static")):
        with pytest.raises(ValueError, match="must"):
            large.write_large(folder, tmp_path, name)
    with FolderLock(stage.parent), pytest.raises(LockedError):
        large.write_large(stage, tmp_path, "static")


@pytest.mark.parametrize("room", [100, 40_000, 2_000_000])
def test_a_disk_that_fills_up_ends_neither_python_nor_the_files_before(tmp_path, room):
    resource = pytest.importorskip("resource")  # a limit on the size of files stands for the disk
    noise = [np.random.default_rng(k).normal(size=(300, 211)).astype("float32") for k in range(9)]
    files = {f"c{k}": dataclasses.replace(rows(k, 300), features=values) for k, values in enumerate(noise)}
    folder, out = write_stage(tmp_path / "run", files, files), tmp_path / "out"
    writers = [
        lambda: large.write_hdf5(folder, out / "static_features.h5", "static", RATINGS),
        lambda: large.write_large(folder, out, "static"),
    ]
    for write in writers:
        write()
    before, limits = contents(out), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        for write in writers:
            with pytest.raises(DiskFullError):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(out) == before
