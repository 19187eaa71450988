"""What clips are called, walking a folder, and which clip a name means: rules from strict to loose."""

import os

import pytest
from layout import make_clips

from helpers import clips, names


@pytest.mark.parametrize(
    ("name", "paths", "key", "rule"),
    [
        ("p1/anna_01", ["p1/anna_01.mp4"], "p1/anna_01", "key"),
        ("anna_01.mts", ["p1/anna_01.mp4"], "p1/anna_01", "file name"),
        ("./y.mov", ["a/b/y.mp4"], "a/b/y", "file name"),
        ("x.mp4", ["x.mp4", "a/x.mp4"], "x", "key"),
        ("a/x", ["x.mp4", "a/x.mp4"], "a/x", "key"),
        ("id.003", ["id.003.mp4"], "id.003", "key"),
        ("anna_aligned", ["p/anna.mp4"], "p/anna", "file name"),
        ("ANNA_aligned", ["p/anna.mp4", "p/anna_aligned.x"], "p/anna", "other case"),
        ("C:\\study\\anna_01.MP4", ["anna_01.mp4"], "anna_01", "path"),
        ("/home/u/study/p1/anna_01.mp4", ["p1/anna_01.mp4", "p2/anna_01.mp4"], "p1/anna_01", "path"),
        ("\\\\server\\share\\anna_01.mp4", ["anna_01.mp4"], "anna_01", "path"),
        ("file:///home/u/anna_01.mp4", ["anna_01.mp4"], "anna_01", "path"),
        ("../data/anna_01.mp4", ["anna_01.mp4"], "anna_01", "path"),
        ("~/study/anna_01.mp4", ["anna_01.mp4"], "anna_01", "path"),
        ("/home/u/anna_01.mp4", ["train/anna_01.mp4"], "train/anna_01", "file name of a path"),
        ("study/anna_01.mp4", ["anna_01.mp4"], "anna_01", "path"),  # the data folder is called study
        ("other/anna_01.mp4", ["anna_01.mp4"], "", names.NO_CLIP),
        ("p2/anna_01", ["p1/anna_01.mp4"], "", names.NO_CLIP),
        ("P1/Anna_01.MP4", ["p1/anna_01.mp4"], "p1/anna_01", "other case"),
        ("ANNA_01", ["anna_01.mp4", "Anna_01.mp4"], "", "fits anna_01 and Anna_01"),
        ("Anna_01", ["anna_01.mp4", "Anna_01.mp4"], "Anna_01", "key"),
        ("/x/P1/anna.mp4", ["p1/Anna.mp4", "q/anna.mp4"], "p1/Anna", "path, other case"),
        ("/x/GRÖSSE.MP4", ["größe.mp4"], "größe", "path, other case"),
        ("/u/x.mp4", ["p1/x.mp4", "p2/x.mp4"], "", "fits p1/x and p2/x"),
        ("id", ["id.003"], "", names.NO_CLIP),
        ("a.left", ["a.right.mp4"], "", names.NO_CLIP),
        ("1", ["001.mp4"], "", names.NO_CLIP),
        ("", ["1.mp4"], "", names.NO_CLIP),
    ],
)
def test_a_name_means_the_clip_of_the_strictest_rule_that_fits(tmp_path, name, paths, key, rule):
    assert names.match_names([name], map(names.clip_key, paths), tmp_path / "study") == [(name, key, rule)]


@pytest.mark.parametrize(
    ("name", "key"),
    [(" x", " x"), ("x", "x"), (" x.mp4", " x"), ("y ", "a/y "), ("b\\z", "b\\z"), ("./x ", "x"), (" b\\z", "b/z"),
     ("c_aligned", "c_aligned"), ("x_aligned", "x"), ("X", "x")],
)  # fmt: skip
def test_a_name_is_taken_as_it_is_before_it_is_tidied_or_taken_for_faces_of_openface(name, key):
    assert names.match_clips([name], [" x", "x", "a/y ", "b\\z", "b/z", "c_aligned", "c"]) == ({key: name}, {})


def test_names_that_mean_no_clip_or_several_or_one_that_is_taken_are_told():
    named, refused = names.match_clips(["a.mp4", "a", "b", "c"], ["x/a", "x/b", "y/b"])
    assert named == {"x/a": "a.mp4"}
    assert list(refused) == ["a", "b", "c"]


def test_the_file_of_another_folder_does_not_stand_for_one_that_is_named_and_another_spelling_does():
    found = names.match_names(["/x/p1/anna.mp4", "/x/p2/anna.mp4", "ANNA"], ["p1/anna"])
    assert [key for _, key, _ in found] == ["p1/anna", "", "p1/anna"]


def test_one_foreign_row_among_good_ones_is_named(tmp_path):
    make_clips(tmp_path, "anna_01.mp4", "anna_02.mp4")
    (tmp_path / "ratings.csv").write_text("clip,warmth\nC:\\study\\anna_01.MP4,0.2\nANNA_02,0.4\n/x/ben.mp4,0.6\n")
    found = clips.read_ratings(tmp_path, clips.find_clips(tmp_path), ["warmth"])
    assert found.table["warmth"].to_dict() == {"anna_01": 0.2, "anna_02": 0.4}
    assert found.matched["rule"].tolist() == ["path", "other case", names.NO_CLIP]
    assert found.problems.to_numpy().tolist() == [["/x/ben.mp4", "rating without clip"]]
    matched, lost = clips.as_lines(found.matched)
    assert "2 names matched (1 by path, 1 by other case)" in matched
    assert "1 names fit no clip: /x/ben.mp4" in lost
    assert clips.as_lines(found.matched[:0]) == []


def test_only_the_suffix_of_a_video_is_taken_off():
    keys = {"a/id.003.mp4": "a/id.003", "a/id.003": "a/id.003", "b.MOV": "b", "c.mp4.mp4": "c.mp4", "d": "d"}
    assert {path: names.clip_key(path) for path in keys} == keys


def test_numbers_in_names_are_ordered_as_numbers_folder_by_folder():
    shuffled = ["p10/1", "p9/2", "p9/02", "p9/10", "-p/1"]
    assert sorted(shuffled, key=names.natural_order) == ["-p/1", "p9/02", "p9/2", "p9/10", "p10/1"]


def test_links_are_followed_once_and_loops_end(tmp_path):
    disk = make_clips(tmp_path / "disk", "train/a.mp4", "c.mp4")
    data = make_clips(tmp_path / "data", "b.mp4")
    for link, there in {"linked": disk, "again": disk, "self": data, "up": tmp_path, "knot": data / "knot"}.items():
        (data / link).symlink_to(there)
    (data / "file.mp4").symlink_to(disk / "train/a.mp4")
    assert clips.find_clips(data).index.tolist() == ["again/c", "again/train/a", "b", "file"]


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_scanned(tmp_path, monkeypatch, caplog):
    make_clips(tmp_path, "open/a.mp4", "locked/b.mp4")
    scandir = os.scandir

    def locked(folder):
        if str(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", locked)
    assert clips.find_clips(tmp_path).index.tolist() == ["open/a"]
    assert "locked cannot be read (Permission denied): its clips are left out" in caplog.text
    with pytest.raises(PermissionError):
        clips.find_clips(tmp_path / "locked")
