"""Feature sets of labelled clips: plain h5py reads what J3 promises, and reading gives back what was written."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from helpers.store import FeatureSet, read_feature_set, write_feature_set

N, T, D = 3, 7, 5  # distinct primes: a swapped axis cannot pass


def drawn_set() -> FeatureSet:
    r = np.random.default_rng(0)
    num_frames = np.array([7, 2, 4], np.int32)
    valid = np.arange(T) < num_frames[:, None]
    valid[0, 3] = False  # a row that is there and not to be used
    return FeatureSet(
        features=np.where(valid[..., None], r.standard_normal((N, T, D)), 0).astype(np.float32),
        labels=np.array([1, 0, 1]),
        num_frames=num_frames,
        t_s=np.where(np.arange(T) < num_frames[:, None], np.arange(T) / 25, 0),
        valid=valid,
        keys=np.array(["train/pass/ä.001", "train/nod/b.001", "train/pass/c.001"]),
        sources=np.array(["ä", "b", "c"]),
        categories={"nod": 0, "pass": 1},
        multi_scale=True,
    )


def test_a_feature_set_comes_back_as_it_was_written(tmp_path):
    written = drawn_set()
    write_feature_set(tmp_path / "train_features.h5", written)
    read = read_feature_set(tmp_path / "train_features.h5")
    for name in ("features", "labels", "num_frames", "t_s", "valid", "keys", "sources"):
        ours, theirs = getattr(read, name), getattr(written, name)
        assert ours.dtype.kind == theirs.dtype.kind, name
        assert np.array_equal(ours, theirs), name
    assert read.categories == {"nod": 0, "pass": 1}
    assert read.multi_scale


def test_plain_h5py_sees_the_names_dtypes_and_attributes_of_j3(tmp_path):
    write_feature_set(tmp_path / "a.h5", drawn_set())
    with h5py.File(tmp_path / "a.h5") as file:
        assert {name: str(file[name].dtype) for name in ("features", "labels", "num_frames", "t_s", "valid")} == {
            "features": "float32",
            "labels": "int64",
            "num_frames": "int32",
            "t_s": "float64",
            "valid": "bool",
        }
        assert (file["features"].compression, file["features"].compression_opts) == ("gzip", 4)
        attributes = dict(file.attrs)
    assert json.loads(attributes.pop("category_mapping")) == {"nod": 0, "pass": 1}
    assert attributes == {"num_videos": N, "max_frames": T, "feature_dim": D, "multi_scale": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t_s": np.zeros((T, N))}, r"t_s must have shape \(3, 7\)"),
        ({"labels": np.array([0, 1, 2])}, "labels must be among .* got 2"),
        ({"valid": np.zeros((N, T), bool)}, "zero where valid is False"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(drawn_set(), **change)


def test_a_missing_or_damaged_file_says_what_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run 08_clip_classification first"):
        read_feature_set(tmp_path / "none.h5")
    write_feature_set(tmp_path / "a.h5", drawn_set())
    whole = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged file"):
        read_feature_set(tmp_path / "a.h5")
