"""Class folders: what is a clip of which class, in which split, from which source; their folds; what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_sample.make.motion_sample import CLASSES, motion_plan
from helpers.class_folders import check_folds, find_classes, plan_folds
from helpers.config import ClassificationConfig
from helpers.files import ROOT


def make(root: Path, *names: str) -> Path:
    """Files of different content each."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes([number]) * 10)
    return root


def test_the_sample_is_found_whole():
    found, plan = find_classes(ROOT / "data_sample" / "motion"), motion_plan().set_index("key")
    assert found.categories == {name: label for label, name in enumerate(sorted(CLASSES))}
    assert found.problems.empty
    pd.testing.assert_frame_equal(
        found.table.loc[plan.index, ["source", "split", "category"]],
        plan[["source", "split", "category"]],
        check_dtype=False,
    )
    assert (found.table["label"].map(sorted(CLASSES).__getitem__) == found.table["category"]).all()


def test_a_class_has_the_same_label_in_every_split_and_may_lie_deep(tmp_path):
    make(tmp_path, "train/b/1.mp4", "train/a/x/y/-AmMDnVl4s8.002.mov", "val/b/2.mp4", "notes/c/3.mp4", "train/.c/4.mp4")
    columns = ["key", "source", "split", "category", "label"]
    assert find_classes(tmp_path).table.reset_index()[columns].to_numpy().tolist() == [
        ["train/a/x/y/-AmMDnVl4s8.002", "-AmMDnVl4s8", "train", "a", 0],
        ["train/b/1", "train/b/1", "train", "b", 1],
        ["val/b/2", "val/b/2", "validation", "b", 1],
    ]


def test_what_does_not_fit_is_recorded(tmp_path):
    make(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "test/b/3.mp4", "train/loose.mp4", "train/b/processed_data.npz")
    (tmp_path / "test" / "empty").mkdir()
    problems = dict(find_classes(tmp_path).problems.groupby("name")["problem"].agg(list))
    assert problems["test"] == ["no clips of class a", "no clips of class empty"]
    assert problems.keys() == {"train/loose.mp4", "train/b/processed_data.npz", "test"}


def test_clips_of_an_array_are_clips(tmp_path):
    folder = make(tmp_path, "train/a/1.mp4") / "train" / "b" / "sub"
    folder.mkdir(parents=True)
    np.save(folder / "processed_data.npy", np.zeros((2, 5, 3, 7, 11), np.uint8))
    table = find_classes(tmp_path).table
    assert table.index.tolist()[1:] == ["train/b/sub/processed_data/0000", "train/b/sub/processed_data/0001"]
    assert table["place"].tolist() == [-1, 0, 1]
    assert table["source"].nunique() == 3


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["a/1.mp4"], "train, validation, test"),
        (["train/a/1.mp4"], "two classes"),
        (["train/a/1.mp4", "train/b/2.mp4", "train/b/2.avi"], "same key 'train/b/2'"),
        (["train/a/1.mp4", "train/b/2.mp4", "test/b/again.mp4"], "test/b/again.mp4 and train/a/1.mp4"),
    ],
)
def test_folders_that_cannot_be_told_apart_are_refused(tmp_path, names, word):
    make(tmp_path, *names)
    if "again" in names[-1]:
        shutil.copy(tmp_path / names[0], tmp_path / names[-1])
    with pytest.raises(ValueError, match=word):
        find_classes(tmp_path)


def labelled(*clips: tuple[str, str, str]) -> pd.DataFrame:
    """A table of clips of (split, class, source)."""
    table = pd.DataFrame(clips, columns=["split", "category", "source"])
    return table.assign(label=table["category"].map({"a": 0, "b": 1}))


MANY = labelled(*(("train", name, f"source{k}") for k in range(10) for name in "ab"))
ENOUGH = [(split, name, f"{split}{k}") for split in ("train", "validation", "test") for name in "ab" for k in range(2)]


def test_every_clip_is_tested_once_by_folds_that_share_no_source():
    folds = plan_folds(MANY, ClassificationConfig(folds=5))
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(20))
    assert sorted(np.concatenate([fold.validation for fold in folds])) == list(range(20))
    for fold in folds:
        parts = [set(MANY["source"][rows]) for rows in fold]
        assert [len(part) for part in parts] == [6, 2, 2]
        assert len(set.union(*parts)) == 10
        assert np.bincount(MANY["label"][fold.train]).tolist() == [6, 6]


def test_the_official_split_is_one_fold_of_the_folders():
    table = labelled(*ENOUGH)
    (fold,) = plan_folds(table, ClassificationConfig(split="official"))
    for split in ("train", "validation", "test"):
        assert set(table["split"][getattr(fold, split)]) == {split}


@pytest.mark.parametrize(
    ("clips", "parameters", "word"),
    [
        ([clip for clip in ENOUGH if clip[:2] != ("train", "b")], {"split": "official"}, "none of b"),
        ([clip for clip in ENOUGH if clip[:2] != ("test", "a")], {"split": "official"}, "none of a"),
        ([clip for clip in ENOUGH if clip[0] != "validation"], {"split": "official"}, "got test, train"),
        ([clip for clip in ENOUGH if clip[2] != "test1"], {"split": "official"}, "2 sources"),
        (ENOUGH, {"folds": 7}, "at most 6"),
        ([("train", name, f"{name}{k}") for name in "ab" for k in range(3)], {"folds": 5}, "at most 3"),
    ],
)
def test_clips_that_cannot_be_trained_and_tested_on_are_refused_before_any_work(clips, parameters, word):
    check_folds(labelled(*ENOUGH), ["a", "b"], ClassificationConfig(split="official"))
    with pytest.raises(ValueError, match=word):
        check_folds(labelled(*clips), ["a", "b"], ClassificationConfig(**parameters))
