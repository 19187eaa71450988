"""Clips in all their views as arrays, and their folds."""

import numpy as np
import pandas as pd
import pytest
from drawn_features import D, T, draw_features, write_drawn, write_features

from helpers.class_folders import check_folds, plan_folds
from helpers.clip_features import features_folder, read_variants
from helpers.clip_frames import PLAIN
from helpers.config import ClassificationConfig


def config(folder, **values):
    return ClassificationConfig(out_dir=str(folder), scales=[1.0], **values)


def test_views_of_several_splits_are_pooled_in_one_order(tmp_path):
    cfg = config(tmp_path)
    write_drawn(features_folder(cfg), 2, view01=1.0, tta01=0.5, noise=2.0, noise_tta01=2.5)
    write_drawn(features_folder(cfg), 1, split="test")
    write_drawn(features_folder(cfg), 5, split="other")
    clips = read_variants(cfg)
    assert clips.features[PLAIN].shape == (9, T, D)
    assert clips.table["split"].tolist() == ["test"] * 3 + ["train"] * 6
    assert clips.classes == ["down", "turn", "up"]
    assert clips.table["label"].tolist() == [0, 1, 2] * 3
    assert (clips.views, clips.corruptions) == (["view01"], ["noise"])
    assert (clips.tta(), clips.tta("noise")) == (["tta01"], ["noise_tta01"])

    inputs, labels = clips.training(np.array([4, 8]), augmented=True)
    assert labels.tolist() == [1, 2, 1, 2]
    np.testing.assert_array_equal(inputs["features"][2:], clips.features["view01"][[4, 8]])
    with pytest.raises(ValueError, match=r"clip test/down/000 must have usable frames in the view view01, got none"):
        clips.training(np.array([0]), augmented=True)


def test_a_shorter_view_is_padded_and_masked(tmp_path):
    cfg = config(tmp_path)
    write_drawn(features_folder(cfg), 1)
    short = draw_features(1)
    write_features(features_folder(cfg) / "train_features_low_rate.h5", short | {"features": short["features"][:, :5]})
    clips = read_variants(cfg)
    assert clips.features["low_rate"].shape == (3, T, D)
    assert clips.masks["low_rate"].sum(axis=1).tolist() == [5, 5, 5]


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    cfg = config(tmp_path)
    write_drawn(features_folder(cfg), 2)
    write_features(features_folder(cfg) / "train_features_noise.h5", draw_features(1))
    with pytest.raises(ValueError, match=r"features \(train, noise\) must be of the clips of the plain ones"):
        read_variants(cfg)
    with pytest.raises(FileNotFoundError, match="holds no features averaged over scales"):
        read_variants(ClassificationConfig(out_dir=str(tmp_path)))


def labelled(*clips):
    """A table of clips of (split, class, source)."""
    table = pd.DataFrame(clips, columns=["split", "category", "source"])
    return table.assign(label=table["category"].map({"a": 0, "b": 1}))


MANY = labelled(*(("train", name, f"source{k}") for k in range(10) for name in "ab"))
ENOUGH = [(split, name, f"{split}{k}") for split in ("train", "validation", "test") for name in "ab" for k in range(2)]


def test_every_clip_is_tested_once_by_folds_that_share_no_source():
    folds = plan_folds(MANY, ClassificationConfig(folds=5))
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(20))
    for fold in folds:
        parts = [set(MANY["source"][rows]) for rows in (fold.train, fold.validation, fold.test)]
        assert [len(part) for part in parts] == [6, 2, 2]
        assert len(set.union(*parts)) == 10
        assert np.bincount(MANY["label"][fold.train]).tolist() == [6, 6]
    assert sorted(np.concatenate([fold.validation for fold in folds])) == list(range(20))


def test_the_official_split_is_one_fold_of_the_folders():
    table = labelled(*ENOUGH)
    (fold,) = plan_folds(table, ClassificationConfig(split="official"))
    for split in ("train", "validation", "test"):
        assert set(table["split"][getattr(fold, split)]) == {split}


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ({("train", "b")}, "training clips of fold 0 must be of all classes, got none of b"),
        ({("test", "a")}, "test clips must be of all classes, got none of a"),
        ({("validation", "a"), ("validation", "b")}, "needs folders train, validation, test, got test, train"),
        ({("test", "test1")}, "test clips must be of 2 sources at least, got 1"),
    ],
)
def test_clips_that_cannot_be_trained_and_tested_on_are_refused_before_any_work(left_out, message):
    cfg = ClassificationConfig(split="official")
    check_folds(labelled(*ENOUGH), ["a", "b"], cfg)
    clips = [clip for clip in ENOUGH if clip[:2] not in left_out and clip[::2] not in left_out]
    with pytest.raises(ValueError, match=message):
        check_folds(labelled(*clips), ["a", "b"], cfg)


def test_too_few_sources_or_clips_for_the_folds_are_refused_before_any_work():
    with pytest.raises(ValueError, match="folds must be at most the number of sources, 6, got 7"):
        check_folds(labelled(*ENOUGH), ["a", "b"], ClassificationConfig(folds=7))
    alone = labelled(*(("train", name, f"of {name} {k}") for name in "ab" for k in range(3)))
    with pytest.raises(ValueError, match="folds must be at most the number of clips of the largest class, 3, got 5"):
        check_folds(alone, ["a", "b"], ClassificationConfig(folds=5))
