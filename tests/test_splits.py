"""Splits: sources stay whole, seeds repeat, folds cover every clip, what leaks is known to leak."""

import numpy as np
import pandas as pd
import pytest

from helpers import splits
from helpers.clips import leakage


def test_a_split_by_source_keeps_sources_whole_and_their_number_exact():
    sources = np.repeat([f"source {i}" for i in range(41)], 5)
    part = splits.split_by_source(sources, 3, validation=0.1, test=7)
    table = pd.DataFrame({"source": sources, "split": part})
    assert table.groupby("source")["split"].nunique().eq(1).all()
    assert table.groupby("split")["source"].nunique().to_dict() == {"test": 7, "train": 30, "validation": 4}
    assert leakage(table)["sharing"].tolist() == [0, 0, 0]


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_clips():
    sources = np.repeat([f"source {i}" for i in range(23)], 3)
    part = splits.split_by_source(sources, 0, validation=3, test=5)
    assert (part == splits.split_by_source(sources, 0, validation=3, test=5)).all()
    assert (part != splits.split_by_source(sources, 1, validation=3, test=5)).any()
    assert (part[::-1] == splits.split_by_source(sources[::-1], 0, validation=3, test=5)).all()


def test_a_random_split_of_clips_leaks():
    sources = np.repeat([f"source {i}" for i in range(23)], 7)
    split = splits.split_by_source(np.arange(len(sources)), 0, validation=0.1, test=0.2)
    assert leakage(pd.DataFrame({"source": sources, "split": split}))["share"].min() > 0.9


@pytest.mark.parametrize(("validation", "test"), [(0.01, 0.2), (0.2, 0), (2, 1)])
def test_a_split_with_an_empty_part_is_refused(validation, test):
    with pytest.raises(ValueError, match="must leave a source to each part, got .* of 3 sources"):
        splits.split_by_source(["a", "b", "c"], 0, validation=validation, test=test)


def test_clips_are_split_by_source_at_random_or_as_the_data_says():
    keys, sources = np.arange(60), np.repeat(np.arange(12), 5)
    official = np.array(["train", "validation", "test", ""] * 15)
    options = {"seed": 3, "validation": 0.2, "test": 0.25}
    by_source = splits.split_clips(keys, sources, official, "source", **options)
    assert by_source.tolist() == splits.split_by_source(sources, 3, validation=0.2, test=0.25).tolist()
    at_random = splits.split_clips(keys, sources, official, "random", **options)
    assert (at_random == "test").sum() == 15
    assert leakage(pd.DataFrame({"source": sources, "split": at_random}))["sharing"].min() > 0
    assert splits.split_clips(keys, sources, official, "official", **options).tolist() == official.tolist()
    with pytest.raises(ValueError, match="the official split must have rated validation clips, got none"):
        splits.split_clips(keys, sources, np.where(official == "validation", "", official), "official", **options)
    with pytest.raises(ValueError, match="kind must be source, kfold, random or official, got 'none'"):
        splits.split_clips(keys, sources, official, "none", **options)


def test_every_clip_is_tested_in_one_fold_and_no_fold_cuts_a_source():
    sources = np.repeat([f"source {i}" for i in range(23)], 3)
    parts = np.stack([splits.split_folds(sources, seed, validation=0.1, folds=4) for seed in range(4)])
    assert ((parts == "test").sum(0) == 1).all()
    for part in parts:
        table = pd.DataFrame({"source": sources, "split": part})
        assert table.groupby("source")["split"].nunique().eq(1).all()
        assert table.groupby("split")["source"].nunique()["validation"] == 2
        assert table.groupby("split")["source"].nunique()["test"] in (5, 6)


def test_the_next_seeds_are_the_folds_of_another_shuffle():
    sources = np.arange(20).astype(str)
    options = {"validation": 2, "folds": 5}
    first, again, next_round = (splits.split_folds(sources, seed, **options) for seed in (0, 0, 5))
    assert (first == again).all()
    assert ((first == "test") != (next_round == "test")).any()
    by_kind = splits.split_clips(sources, sources, sources, "kfold", 5, 2, 0.1, 5)
    assert (by_kind == next_round).all()


@pytest.mark.parametrize(
    ("folds", "validation", "message"),
    [(1, 1, "folds must be 2 to 4, the number of sources, got 1"), (5, 1, "got 5"), (2, 2, "must leave a source")],
)
def test_folds_without_sources_are_refused(folds, validation, message):
    with pytest.raises(ValueError, match=message):
        splits.split_folds(list("abcd"), 0, validation=validation, folds=folds)
