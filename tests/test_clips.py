"""Clips: what in a folder is one and what is not, what a name means, sources, splits, leakage."""

import os

import numpy as np
import pandas as pd
import pytest
from layout import make_clips
from numbered import write_numbered

from helpers import clips, names
from helpers.clips import TRAITS, as_line, find_clips, leakage, scan_clips, take_inventory, write_rows
from helpers.splits import split_clips


def test_a_scan_tells_key_path_source_split_and_bytes_in_the_order_of_numbers(tmp_path):
    rows = [  # key, suffix, source where it is not the key, split
        ("-p/1", ".mp4", "", ""),
        ("-x.y", ".AVI", "", ""),
        ("FirstImpressionsV2/VAL/a", ".mp4", "", "validation"),
        ("_é/ü ö", ".mkv", "", ""),
        ("a/interview one", ".mp4", "", ""),
        ("a.003/b.004", ".MOV", "", ""),
        ("a.003.mp4/c", ".webm", "", ""),
        ("abcdefghijk.01", ".mp4", "", ""),
        ("c.mp4", ".mp4", "", ""),
        ("p9/02", ".mp4", "", ""),
        ("p9/2", ".mp4", "", ""),
        ("p9/10", ".mp4", "", ""),
        ("p10/1", ".mp4", "", ""),
        ("test80_02/_plk5k7PBEg.001", ".mp4", "_plk5k7PBEg", "test"),
        ("train", ".mp4", "", ""),
        ("train/test80_01/a", ".mp4", "", "test"),
        ("train-1/training80_01/a", ".mp4", "", "train"),
        ("trainees/a", ".mp4", "", ""),
        ("training80_01/-AmMDnVl4s8.003", ".mp4", "-AmMDnVl4s8", "train"),
        ("validation80_25/a", ".mp4", "", "validation"),
    ]
    table = find_clips(make_clips(tmp_path, *(key + suffix for key, suffix, *_ in reversed(rows)))).reset_index()
    assert table.columns.tolist() == ["key", "path", "source", "split", "bytes"]
    expected = [[key, key + suffix, source or key, split, 5] for key, suffix, source, split in rows]
    assert table.to_numpy().tolist() == expected


def test_a_folder_that_cannot_hold_clips_is_an_error(tmp_path):
    (tmp_path / "a file").touch()
    for path, error in (("nowhere", FileNotFoundError), ("a file", NotADirectoryError), ("", ValueError)):
        with pytest.raises(error, match="data_dir must"):
            find_clips(tmp_path / path)


def test_a_file_is_a_clip_or_of_a_kind_by_what_it_holds(tmp_path):
    def video(suffix, codec="mpeg4", pixels="yuv420p", pictures=12):
        made = write_numbered(tmp_path / f"made{suffix}", pictures, 25, codec=codec, pixels=pixels)
        return made.read_bytes()

    files = {  # what it holds, its kind, the key of a clip
        "a.ts": (video(".ts", "mpeg2video"), "clip", "a"),
        "moving.gif": (video(".gif", "gif", "rgb8"), "clip", "moving"),
        "old.dat": (video(".mpg", "mpeg1video"), "clip", "old"),
        "a.strange": (video(".mkv"), "clip", "a.strange"),
        "id.003": (video(".mp4"), "clip", "id.003"),
        "b.mp4": (b"as its suffix tells, without a look", "clip", "b"),
        "c.MTS": (b"", "clip", "c"),
        "b.mp4.bak": (video(".mp4"), ".bak", ""),
        "1.JPG": (video(".mp4"), ".jpg", ""),
        "GX010001.LRV": (b"x", ".lrv", ""),
        "a.mp4.part": (b"x", ".part", ""),
        "code.ts": ("Größe ".encode() * 400, "no video", ""),
        "x.dat": (np.random.RandomState(0).bytes(50_000), "no video", ""),
        "list": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.ts\n#EXT-X-ENDLIST\n", "no video", ""),
        "empty": (b"", "no video", ""),
        "still": (video(".mjpeg", "mjpeg", "yuvj420p", pictures=1), "no video", ""),
        "one.unknown": (video(".mp4", pictures=1), "pictures", ""),
        "._IMG_1.mov": (b"x", "hidden", ""),
        "Thumbs.db": (b"x", "hidden", ""),
        "pipe": (os.mkfifo, "special file", ""),
        "pipe.mp4": (os.mkfifo, "special file", ""),
        "gone.unknown": (lambda path: path.symlink_to("/nowhere"), "link to nothing", ""),
    }
    (data := tmp_path / "data").mkdir()
    for name, (content, *_) in files.items():
        (data / name).write_bytes(content) if isinstance(content, bytes) else content(data / name)
    found, left_out = take_inventory(data)
    assert found == {key: name for name, (_, kind, key) in files.items() if kind == "clip"}
    kinds = {name: kind for name, (_, kind, _) in files.items() if kind != "clip"}
    assert dict(zip(left_out["path"], left_out["kind"], strict=True)) == kinds


def test_what_is_left_out_is_told_in_a_line_and_ratings_that_are_not_read_with_what_to_do(tmp_path):
    make_clips(tmp_path, "a.mp4", "c/IMG.MOV", "c/IMG.mp4", "1.jpg", "2.jpg", "other/.nomedia")
    named = {"ratings (1).csv", "ratings.csv.gz", "sub/ratings_new.json"}
    make_clips(tmp_path, *named, "ratings.pdf", "big five.csv", "docs/2024/ratings.csv")
    for expected in (named | {"big five.csv", "docs/2024/ratings.csv"}, named):
        found, left_out = take_inventory(tmp_path)
        unread = left_out["kind"] == "ratings not read"
        assert set(left_out["path"][unread]) == expected
        assert ((left_out["problem"] != "") == unread | (left_out["kind"] == "same key")).all()
        (tmp_path / "ratings.csv").write_text("clip,openness\na,0.5\n")
    line = as_line(len(found), left_out, "out/left_out.csv")
    for words in (
        "seen 13 files: 1 clips, 1 of ratings, 11 left out (3 ratings not read: ratings (1).csv, ratings.csv.gz, ",
        "; 2 .jpg; 2 same key: c/IMG.MOV, c/IMG.mp4; ",
        "1 folder with .nomedia",
        "); list: out/left_out.csv; ratings (1).csv looks like ratings and is not read: ratings.csv is",
    ):
        assert words in line


def test_a_name_that_is_not_utf8_is_named_and_the_others_go_on(tmp_path):
    make_clips(tmp_path, "b.mp4")
    try:
        open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4"), "wb").close()
    except OSError:
        return  # this file system takes UTF-8 names only
    table, left_out = scan_clips(tmp_path)
    assert table.index.tolist() == ["b"]
    clips.write_rows(left_out, tmp_path / "left_out.csv")
    assert "caf\\xe9.mp4,not UTF-8,its name is not UTF-8" in (tmp_path / "left_out.csv").read_text()


def test_the_table_of_clips_comes_back_from_its_file_as_it_was(tmp_path):
    make_clips(tmp_path, "001.mp4", "train/NA.mp4", "-x ü.mp4")
    (tmp_path / "ratings.csv").write_text("clip,group," + ",".join(TRAITS) + "\nNA,null,0.1,0.2,,0.4,0.5\n")
    table = clips.read_clips(tmp_path)
    names = ("a\rb", "a\nb", "a\r\nb", 'q"q', "c,d", " lead", "trail ", "x\\y", "😀", "'")
    odd = clips.clip_table({name: f"{name}.mp4" for name in names}, tmp_path)
    for part in (table, odd, odd.drop(index=["a\rb", "a\r\nb"])):
        clips.write_clips(part, tmp_path / "clips.csv")
        pd.testing.assert_frame_equal(clips.load_clips(tmp_path / "clips.csv"), part)
    with pytest.raises(FileNotFoundError, match="01_data_analysis"):
        clips.load_clips(tmp_path / "absent.csv")


def test_clips_are_synthetic_where_the_truth_says_how_they_were_drawn(tmp_path):
    assert not clips.is_synthetic(tmp_path)
    for truth, synthetic in (("clip,truth\na,1\n", False), ("key,window_s\na,2\n", True), ("key,clip_seed\n", True)):
        (tmp_path / "truth.csv").write_text(truth)
        assert clips.is_synthetic(tmp_path) is synthetic


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


def test_of_names_together_the_first_and_the_closest_count_and_what_means_none_or_several_is_told():
    named, refused = names.match_clips(["a.mp4", "a", "b", "c"], ["x/a", "x/b", "y/b"])
    assert named == {"x/a": "a.mp4"}
    assert list(refused) == ["a", "b", "c"]
    keys = [" x", "x", "a/y ", "b\\z", "b/z", "c_aligned", "c"]
    given = [" x", "x", " x.mp4", "y ", "b\\z", "./x ", " b\\z", "c_aligned", "x_aligned", "X"]
    meant = [" x", "x", " x", "a/y ", "b\\z", "x", "b/z", "c_aligned", "x", "x"]  # tidied only where it must be
    assert [key for _, key, _ in names.match_names(given, keys)] == meant
    found = names.match_names(["/x/p1/anna.mp4", "/x/p2/anna.mp4", "ANNA"], ["p1/anna"])
    assert [key for _, key, _ in found] == ["p1/anna", "", "p1/anna"]  # the file of another folder stands for none


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


def test_leakage_counts_the_clips_that_share_a_source():
    table = pd.DataFrame({"source": [*"aabcacdbeef"], "split": ["train"] * 3 + ["validation"] + ["test"] * 7})
    assert leakage(table).to_numpy().tolist() == [
        ["validation", "train", 1, 0, 0],
        ["test", "train", 7, 2, 2 / 7],
        ["test", "train + validation", 7, 3, 3 / 7],
    ]
    assert leakage(pd.DataFrame({"source": ["a", "b"], "split": ["", "train"]})).empty


SOURCES = np.repeat([f"source {i}" for i in range(41)], 5)


def split(kind: str, seed: int = 3, validation: float = 0.1, test: float = 7, sources=SOURCES, official=SOURCES):
    return split_clips(np.arange(len(sources)).astype(str), sources, official, kind, seed, validation, test)


def test_a_split_by_source_keeps_sources_whole_whatever_their_order_and_a_random_one_leaks():
    part = split("source")
    table = pd.DataFrame({"source": SOURCES, "split": part})
    assert table.groupby("source")["split"].nunique().eq(1).all()
    assert table.groupby("split")["source"].nunique().to_dict() == {"test": 7, "train": 30, "validation": 4}
    assert leakage(table)["sharing"].tolist() == [0, 0, 0]
    assert (part[::-1] == split("source", sources=SOURCES[::-1])).all()
    assert (part != split("source", seed=1)).any()
    table["split"] = split("random", test=0.2)
    assert (table["split"] == "test").sum() == 41
    assert leakage(table)["share"].min() > 0.9


def test_the_official_split_is_as_the_data_says_and_one_with_an_empty_part_is_refused():
    official = np.array(["train", "validation", "test", ""] * 15)
    assert split("official", official=official).tolist() == official.tolist()
    for kind, validation, test, word in (
        *(("source", *shares, "source to each part") for shares in ((0.01, 0.2), (0.2, 0), (2, 2))),
        ("official", 0.1, 7, "official"),
    ):
        with pytest.raises(ValueError, match=word):
            split(kind, validation=validation, test=test, sources=list("abcd"))


def test_a_table_of_files_keeps_a_name_with_a_line_break_in_its_row(tmp_path):
    table = pd.DataFrame({"path": ["a\rb.txt", "c.txt"], "kind": ".txt", "problem": ""})
    write_rows(table, tmp_path / "left_out.csv")
    assert pd.read_csv(tmp_path / "left_out.csv", dtype=str)["path"].tolist() == ["a\rb.txt", "c.txt"]
