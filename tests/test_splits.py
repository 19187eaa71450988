"""Splits: sources stay whole, seeds repeat, what leaks is known to leak."""

import numpy as np
import pandas as pd
import pytest

from helpers.clips import leakage
from helpers.splits import split_clips

SOURCES = np.repeat([f"source {i}" for i in range(41)], 5)
KEYS = np.arange(len(SOURCES)).astype(str)


def split(kind: str, seed: int = 3, validation: float = 0.1, test: float = 7, sources=SOURCES):
    keys = KEYS[: len(sources)]
    return split_clips(keys, sources, np.full(len(keys), ""), kind, seed, validation, test)


def test_a_split_by_source_keeps_sources_whole_and_a_random_one_leaks():
    table = pd.DataFrame({"source": SOURCES, "split": split("source")})
    assert table.groupby("source")["split"].nunique().eq(1).all()
    assert table.groupby("split")["source"].nunique().to_dict() == {"test": 7, "train": 30, "validation": 4}
    assert leakage(table)["sharing"].tolist() == [0, 0, 0]
    table["split"] = split("random", test=0.2)
    assert (table["split"] == "test").sum() == 41
    assert leakage(table)["share"].min() > 0.9


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_clips():
    part = split("source")
    assert (part == split("source")).all()
    assert (part != split("source", seed=1)).any()
    assert (part[::-1] == split("source", sources=SOURCES[::-1])).all()


def test_the_official_split_is_as_the_data_says():
    official = np.array(["train", "validation", "test", ""] * 15)
    given = np.arange(60), np.arange(60), official, "official", 0, 0.1, 0.1
    assert split_clips(*given).tolist() == official.tolist()


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        *(("source", {"validation": v, "test": t}, "source to each part") for v, t in ((0.01, 0.2), (0.2, 0), (2, 2))),
        ("official", {}, "official"),
    ],
)
def test_a_split_with_an_empty_part_is_refused(kind, options, word):
    with pytest.raises(ValueError, match=word):
        split(kind, sources=list("abcd"), **options)
