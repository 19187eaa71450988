"""Which clip a name means: rules from strict to loose, and the reason where it means none."""

import pandas as pd
import pytest
from layout import make_clips

from helpers import clips, matching
from helpers.names import clip_key


def table(*paths):
    return pd.DataFrame({"path": paths, "split": ""}, index=[clip_key(path) for path in paths])


@pytest.mark.parametrize(
    ("name", "paths", "key", "rule"),
    [
        ("p1/anna_01", ["p1/anna_01.mp4"], "p1/anna_01", "key"),
        ("anna_01.mp4", ["p1/anna_01.mp4"], "p1/anna_01", "file name"),
        ("anna_01.mts", ["p1/anna_01.mp4"], "p1/anna_01", "file name"),
        ("/x/P1/anna.mp4", ["p1/Anna.mp4", "q/anna.mp4"], "p1/Anna", "path, other case"),
        ("./y.mov", ["a/b/y.mp4"], "a/b/y", "file name"),
        ("x.mp4", ["x.mp4", "a/x.mp4"], "x", "key"),
        ("a/x", ["x.mp4", "a/x.mp4"], "a/x", "key"),
        ("id.003", ["id.003.mp4"], "id.003", "key"),
        ("C:\\study\\anna_01.MP4", ["anna_01.mp4"], "anna_01", "path"),
        ("/home/u/study/anna_01.mp4", ["anna_01.mp4"], "anna_01", "path"),
        ("/home/u/study/p1/anna_01.mp4", ["p1/anna_01.mp4", "p2/anna_01.mp4"], "p1/anna_01", "path"),
        ("\\\\server\\share\\anna_01.mp4", ["anna_01.mp4"], "anna_01", "path"),
        ("file:///home/u/anna_01.mp4", ["anna_01.mp4"], "anna_01", "path"),
        ("../data/anna_01.mp4", ["anna_01.mp4"], "anna_01", "path"),
        ("~/study/anna_01.mp4", ["anna_01.mp4"], "anna_01", "path"),
        ("/home/u/anna_01.mp4", ["train/anna_01.mp4"], "train/anna_01", "file name of a path"),
        ("study/anna_01.mp4", ["anna_01.mp4"], "anna_01", "path"),  # the data folder is called study
        ("other/anna_01.mp4", ["anna_01.mp4"], "", "there is no such clip"),
        ("p2/anna_01", ["p1/anna_01.mp4"], "", "there is no such clip"),
        ("ANNA_01", ["anna_01.mp4"], "anna_01", "other case"),
        ("P1/Anna_01.MP4", ["p1/anna_01.mp4"], "p1/anna_01", "other case"),
        ("ANNA_01", ["anna_01.mp4", "Anna_01.mp4"], "", "fits anna_01 and Anna_01"),
        ("Anna_01", ["anna_01.mp4", "Anna_01.mp4"], "Anna_01", "key"),
        ("D:\\STUDY\\P1\\ANNA_01.MP4", ["p1/anna_01.mp4"], "p1/anna_01", "path, other case"),
        ("/x/GRÖSSE.MP4", ["größe.mp4"], "größe", "path, other case"),
        ("/u/x.mp4", ["p1/x.mp4", "p2/x.mp4"], "", "fits p1/x and p2/x"),
        ("a", ["a.strange"], "a.strange", "without suffix"),
        ("a.strange", ["a.strange"], "a.strange", "key"),
        ("id", ["id.003"], "", "there is no such clip"),
        ("a.left", ["a.right.mp4"], "", "there is no such clip"),
        ("1", ["001.mp4"], "001", "same number"),
        ("001", ["1.mp4"], "1", "same number"),
        ("1.0", ["p/1.mp4"], "p/1", "same number"),
        ("p/01", ["p/1.mp4", "q/1.mp4"], "p/1", "same number"),
        ("01", ["1.mp4", "001.mp4"], "", "fits 1 and 001"),
        ("10", ["1.mp4"], "", "there is no such clip"),
        ("", ["1.mp4"], "", "there is no such clip"),
        ("p01", ["day1/P01/talk.mp4", "day1/P02/talk.mp4"], "day1/P01/talk", "only clip of its folder"),
        ("P01", ["P01/talk.mp4", "P01/read.mp4"], "", "fits P01/talk and P01/read"),
    ],
)
def test_a_name_means_the_clip_of_the_strictest_rule_that_fits(tmp_path, name, paths, key, rule):
    found = matching.match_names([name], table(*paths), root=tmp_path / "study")
    assert found.to_numpy().tolist() == [[name, key, rule]]


def test_the_file_of_another_folder_does_not_stand_for_one_that_is_named_and_another_spelling_does():
    found = matching.match_names(["/x/p1/anna.mp4", "/x/p2/anna.mp4", "ANNA"], table("p1/anna.mp4"))
    assert found["key"].tolist() == ["p1/anna", "", "p1/anna"]


def test_what_was_matched_is_told_by_rule_and_what_was_not_by_name():
    found = matching.match_names(["a", "B", "X", "d", "e", "f", "g", "h"], table("a.mp4", "b.mp4", "x.mp4", "p/X.mp4"))
    assert matching.as_lines(found) == [
        "ratings: 3 names matched (1 by file name, 1 by key, 1 by other case)",
        "ratings: 5 names fit no clip: d, e, f, g, h",
    ]
    assert matching.as_lines(matching.match_names(["A"], table("a/a.mp4", "b/a.mp4"))) == [
        "ratings: 0 names matched",
        "ratings: 1 names fit no clip: A (fits a/a and b/a)",
    ]
    assert matching.as_lines(found[:0]) == []


def test_one_foreign_row_among_good_ones_is_named(tmp_path):
    make_clips(tmp_path, "anna_01.mp4", "anna_02.mp4")
    (tmp_path / "ratings.csv").write_text("clip,warmth\nC:\\study\\anna_01.MP4,0.2\nANNA_02,0.4\n/x/ben.mp4,0.6\n")
    found = clips.read_ratings(tmp_path, clips.find_clips(tmp_path), ["warmth"])
    assert found.table["warmth"].to_dict() == {"anna_01": 0.2, "anna_02": 0.4}
    assert found.matched["rule"].tolist() == ["path", "other case", "there is no such clip"]
    assert found.problems.to_numpy().tolist() == [["/x/ben.mp4", "rating without clip"]]
