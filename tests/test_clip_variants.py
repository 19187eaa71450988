import numpy as np
import pandas as pd
import pytest
from drawn_features import D, T, draw_features, write_drawn

from helpers.class_folders import LabelledClips
from helpers.clip_variants import check_folds, plan_folds, read_variants
from helpers.config import ClassificationConfig
from helpers.large import write_feature_set
from helpers.views import PLAIN


def read(folder):
    return read_variants(folder, multi_scale=False)


def test_variants_of_several_splits_are_pooled_in_one_order(tmp_path):
    write_drawn(tmp_path, 2, view01=1.0, tta01=0.5, noise=2.0, noise_tta01=2.5)
    write_feature_set(tmp_path / "test_features.h5", draw_features(1, split="test"))
    write_feature_set(tmp_path / "test_features_multiscale.h5", draw_features(5, split="other"))
    clips = read(tmp_path)
    assert clips.features[PLAIN].shape == (9, T, D)
    assert clips.splits.tolist() == ["test"] * 3 + ["train"] * 6
    assert clips.classes == ("down", "turn", "up")
    assert clips.labels.tolist() == [0, 1, 2] * 3
    assert (clips.views, clips.corruptions) == (["view01"], ["noise"])
    assert (clips.tta(), clips.tta("noise")) == (["tta01"], ["noise_tta01"])

    inputs, labels = clips.training(np.array([4, 8]), augmented=True)
    assert labels.tolist() == [1, 2, 1, 2]
    np.testing.assert_array_equal(inputs["features"][2:], clips.features["view01"][[4, 8]])
    with pytest.raises(ValueError, match=r"clip test/down/000 must have usable frames in the variant view01, got none"):
        clips.training(np.array([0]), augmented=True)


def test_a_shorter_variant_is_padded_and_masked(tmp_path):
    write_drawn(tmp_path, 1)
    short = draw_features(1)
    cut = {name: getattr(short, name)[:, :5] for name in ("features", "t_s", "valid")}
    fields = {name: getattr(short, name) for name in ("labels", "keys", "sources", "categories")}
    write_feature_set(
        tmp_path / "train_features_low_rate.h5",
        type(short)(**cut, **fields, num_frames=np.full(3, 5, np.int32)),
    )
    clips = read(tmp_path)
    assert clips.features["low_rate"].shape == (3, T, D)
    assert clips.masks["low_rate"].sum(axis=1).tolist() == [5, 5, 5]


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write_drawn(tmp_path, 2)
    write_feature_set(tmp_path / "train_features_noise.h5", draw_features(1))
    with pytest.raises(ValueError, match=r"features \(train, noise\) must be of the clips of the plain features"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no features averaged over scales"):
        read_variants(tmp_path, multi_scale=True)


def test_a_clip_with_features_that_are_no_numbers_is_named(tmp_path):
    drawn = draw_features(2)
    drawn.features[4, 2, 1] = np.nan
    write_feature_set(tmp_path / "train_features.h5", drawn)
    with pytest.raises(ValueError, match=r"must be finite, got NaN or infinity in train/turn/001"):
        read(tmp_path)


def test_every_clip_is_tested_once_by_folds_that_share_no_source(tmp_path):
    write_drawn(tmp_path, 10)
    clips = read(tmp_path)
    folds = plan_folds(clips, ClassificationConfig(folds=5))
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(30))
    for fold in folds:
        parts = [set(clips.sources[rows]) for rows in (fold.train, fold.validation, fold.test)]
        assert [len(part) for part in parts] == [6, 2, 2]
        assert len(set.union(*parts)) == 10
        assert np.bincount(clips.labels[fold.train]).tolist() == [6, 6, 6]
    with pytest.raises(ValueError, match="folds must be at most the number of sources, 10, got 11"):
        plan_folds(clips, ClassificationConfig(folds=11))


def test_the_official_folders_are_one_fold(tmp_path):
    for split in ("train", "val", "test"):
        write_feature_set(tmp_path / f"{split}_features.h5", draw_features(2, split=split))
    (fold,) = plan_folds(read(tmp_path), ClassificationConfig(split="official"))
    assert set(read(tmp_path).splits[fold.validation]) == {"val"}
    (tmp_path / "val_features.h5").unlink()
    with pytest.raises(ValueError, match="needs folders train, validation and test, got test, train"):
        plan_folds(read(tmp_path), ClassificationConfig(split="official"))


def labelled(*clips):
    """Labelled clips of (split, class, source)."""
    table = pd.DataFrame(clips, columns=["split", "category", "source"])
    categories = {name: label for label, name in enumerate(sorted(set(table["category"])))}
    table["label"] = table["category"].map(categories)
    return LabelledClips(table.rename_axis("key"), categories, pd.DataFrame())


ENOUGH = [(split, name, f"{split}{k}") for split in ("train", "validation", "test") for name in "ab" for k in range(2)]


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ({("train", "b")}, "training clips of fold 0 must be of all classes, got none of b"),
        ({("test", "a")}, "test clips must be of all classes, got none of a"),
        ({("validation", "a"), ("validation", "b")}, "needs folders train, validation and test, got test, train"),
        ({("test", "test1")}, "test clips must be of 2 sources at least, got 1"),
    ],
)
def test_clips_that_cannot_be_trained_and_tested_on_are_refused_before_any_work(left_out, message):
    cfg = ClassificationConfig(split="official")
    check_folds(labelled(*ENOUGH), cfg)
    clips = [clip for clip in ENOUGH if clip[:2] not in left_out and clip[::2] not in left_out]
    with pytest.raises(ValueError, match=message):
        check_folds(labelled(*clips), cfg)


def test_too_few_sources_for_the_folds_are_refused_before_any_work():
    with pytest.raises(ValueError, match="folds must be at most the number of sources, 6, got 7"):
        check_folds(labelled(*ENOUGH), ClassificationConfig(folds=7))
