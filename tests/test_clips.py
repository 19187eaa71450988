"""Clips: scanning folders, keys, sources, splits, leakage, and every bad folder with its message."""

import os

import pandas as pd
import pytest
from layout import make_clips

from helpers import clips, inventory, names
from helpers.clips import TRAITS


def test_a_scan_tells_key_path_source_split_and_bytes(folder):
    table = clips.find_clips(folder)
    assert table.index.name == "key"
    assert table.columns.tolist() == ["path", "source", "split", "bytes"]
    assert table.loc["training80_01/-AmMDnVl4s8.003"].tolist() == [
        "training80_01/-AmMDnVl4s8.003.mp4",
        "-AmMDnVl4s8",
        "train",
        5,
    ]
    assert table.loc["test80_02/_plk5k7PBEg.001", ["source", "split"]].tolist() == ["_plk5k7PBEg", "test"]


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-1/training80_01/a.mp4", "train"),
        ("train/training80_75/a.mp4", "train"),
        ("TRAIN/a.mp4", "train"),
        ("FirstImpressionsV2/val/a.mp4", "validation"),
        ("validation80_25/a.mp4", "validation"),
        ("test-2/a.mp4", "test"),
        ("train/test80_01/a.mp4", "test"),
        ("trainees/a.mp4", ""),
        ("train.mp4", ""),
        ("a/b/c.mp4", ""),
    ],
)
def test_splits_are_read_from_folder_names(tmp_path, path, split):
    assert clips.find_clips(make_clips(tmp_path, path))["split"].tolist() == [split]


def test_keys_keep_dots_dashes_and_folders_that_look_like_files(tmp_path):
    make_clips(tmp_path, "a.003/b.004.MOV", "a.003.mp4/c.webm", "-x.y.AVI", "_é/ü ö.mkv")
    table = clips.find_clips(tmp_path)
    assert sorted(table.index) == sorted(["a.003/b.004", "a.003.mp4/c", "-x.y", "_é/ü ö"])
    assert table.loc["a.003/b.004", "path"] == "a.003/b.004.MOV"


def test_a_clip_whose_name_tells_no_source_is_its_own(tmp_path):
    make_clips(tmp_path, "a/interview one.mp4", "a/abcdefghijk.01.mp4", "b/ábcdefghijk.001.mp4")
    table = clips.find_clips(tmp_path)
    assert (table["source"] == table.index).all()


def test_hidden_files_other_files_and_special_files_are_left_out(tmp_path):
    make_clips(tmp_path, "a.mp4", "._a.mp4", ".ipynb_checkpoints/a.mp4", ".cache/b.mp4", "notes.txt", "mp4", ".mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert clips.find_clips(tmp_path).index.tolist() == ["a"]


def test_two_files_with_one_key_are_named_and_the_others_go_on(tmp_path):
    make_clips(tmp_path, "IMG_1.MOV", "IMG_1.mp4", "b.mp4")
    table, left_out = clips.scan_clips(tmp_path)
    assert table.index.tolist() == ["b"]
    problem = "IMG_1.MOV and IMG_1.mp4 have the same key IMG_1. Rename or remove all but one."
    assert left_out.to_numpy().tolist() == [[name, "same key", problem] for name in ("IMG_1.MOV", "IMG_1.mp4")]


def test_a_folder_that_cannot_hold_clips_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        clips.find_clips(tmp_path / "nowhere")
    (tmp_path / "a file").touch()
    with pytest.raises(NotADirectoryError, match="a file is a file"):
        clips.find_clips(tmp_path / "a file")
    with pytest.raises(ValueError, match="1 empty"):
        clips.find_clips(tmp_path)


def test_links_are_followed_once_and_loops_end(tmp_path):
    disk = make_clips(tmp_path / "disk", "train/a.mp4", "c.mp4")
    data = make_clips(tmp_path / "data", "b.mp4")
    (data / "linked").symlink_to(disk)
    (data / "linked again").symlink_to(disk)
    (data / "self").symlink_to(data)
    (data / "up").symlink_to(tmp_path)
    (data / "knot").symlink_to(data / "knot")
    (data / "file.mp4").symlink_to(disk / "train/a.mp4")
    assert clips.find_clips(data).index.tolist() == ["b", "file", "linked/c", "linked/train/a"]


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


def test_a_name_that_is_not_utf8_is_named_and_the_others_go_on(tmp_path):
    make_clips(tmp_path, "b.mp4")
    try:
        open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4"), "wb").close()
    except OSError:
        return  # this file system takes UTF-8 names only
    table, left_out = clips.scan_clips(tmp_path)
    assert table.index.tolist() == ["b"]
    assert left_out.iloc[0, :2].tolist() == ["caf\\xe9.mp4", "not UTF-8"]
    inventory.write_rows(left_out, tmp_path / "left_out.csv")
    assert "caf\\xe9.mp4,not UTF-8,its name is not UTF-8" in (tmp_path / "left_out.csv").read_text()


def test_leakage_counts_the_clips_that_share_a_source():
    table = pd.DataFrame(
        {
            "source": ["a", "a", "b", "c", "a", "c", "d", "b", "e", "e", "f"],
            "split": ["train"] * 3 + ["validation"] + ["test"] * 7,
        }
    )
    assert clips.leakage(table).to_numpy().tolist() == [
        ["validation", "train", 1, 0, 0],
        ["test", "train", 7, 2, 2 / 7],
        ["test", "train + validation", 7, 3, 3 / 7],
    ]


def test_leakage_of_clips_without_splits_is_an_empty_table():
    table = clips.leakage(pd.DataFrame({"source": ["a", "b"], "split": ["", "train"]}))
    assert table.empty
    assert table.columns.tolist() == ["split", "against", "clips", "sharing", "share"]


def test_the_table_of_clips_comes_back_from_its_file_as_it_was(tmp_path):
    make_clips(tmp_path, "001.mp4", "train/NA.mp4", "-x ü.mp4")
    (tmp_path / "ratings.csv").write_text("clip," + ",".join(TRAITS) + "\nNA,0.1,0.2,,0.4,0.5\n")
    table = clips.read_clips(tmp_path)
    clips.write_clips(table, tmp_path / "clips.csv")
    pd.testing.assert_frame_equal(clips.load_clips(tmp_path / "clips.csv"), table)
    with pytest.raises(FileNotFoundError, match="Run 01_data_analysis first"):
        clips.load_clips(tmp_path / "absent.csv")


def test_names_with_any_character_come_back_from_their_file(tmp_path):
    names = ("a\rb", "a\nb", "a\r\nb", 'q"q', "c,d", " lead", "trail ", "x\\y", "😀", "'")
    table = clips.clip_table({name: f"{name}.mp4" for name in names}, tmp_path)
    for part in (table, table.drop(index=["a\rb", "a\r\nb"])):
        clips.write_clips(part, tmp_path / "clips.csv")
        pd.testing.assert_frame_equal(clips.load_clips(tmp_path / "clips.csv"), part)


def test_only_the_suffix_of_a_video_is_taken_off():
    assert [names.clip_key(path) for path in ("a/id.003.mp4", "a/id.003", "b.MOV", "c.mp4.mp4", "d")] == [
        "a/id.003",
        "a/id.003",
        "b",
        "c.mp4",
        "d",
    ]


def test_numbers_in_names_are_ordered_as_numbers_folder_by_folder():
    shuffled = ["p10/1", "p9/2", "p9/02", "p9/10", "-p/1"]
    assert sorted(shuffled, key=names.natural_order) == ["-p/1", "p9/02", "p9/2", "p9/10", "p10/1"]


@pytest.mark.parametrize(
    ("name", "key"),
    [(" x", " x"), ("x", "x"), (" x.mp4", " x"), ("y ", "a/y "), ("b\\z", "b\\z"), ("./x ", "x"), (" b\\z", "b/z"),
     ("c_aligned", "c_aligned"), ("x_aligned", "x")],
)  # fmt: skip
def test_a_name_is_taken_as_it_is_before_it_is_tidied_or_taken_for_faces_of_openface(name, key):
    assert names.match_clips([name], [" x", "x", "a/y ", "b\\z", "b/z", "c_aligned", "c"]) == ({key: name}, {})


def test_names_that_mean_no_clip_or_several_are_told():
    named, refused = names.match_clips(["a.mp4", "a", "b", "c"], ["x/a", "x/b", "y/b"])
    assert named == {"x/a": "a.mp4"}
    assert list(refused) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("truth", "synthetic"),
    [(None, False), ("clip,truth\na,1\n", False), ("key,openness,window_s\na,1,2\n", True), ("key,clip_seed\n", True)],
)
def test_clips_are_synthetic_where_the_truth_says_how_they_were_drawn(tmp_path, truth, synthetic):
    if truth:
        (tmp_path / "truth.csv").write_text(truth)
    assert clips.is_synthetic(tmp_path) is synthetic
