"""Clips: what in a folder is one and what is not, what a name means, sources, splits, leakage."""

import os

import av
import numpy as np
import pandas as pd
import pytest
from layout import make_clips

from helpers import clips, names
from helpers.clips import TRAITS, as_line, find_clips, leakage, scan_clips, take_inventory
from helpers.splits import split_clips


def test_a_scan_tells_key_path_source_split_and_bytes(folder):
    odd = ["a.003/b.004.MOV", "a.003.mp4/c.webm", "-x.y.AVI", "_é/ü ö.mkv", "a/interview one.mp4", "abcdefghijk.01.mp4"]
    table = find_clips(make_clips(folder, *odd))
    assert table.index.name == "key"
    assert table.columns.tolist() == ["path", "source", "split", "bytes"]
    key = "training80_01/-AmMDnVl4s8.003"
    assert table.loc[key].tolist() == [f"{key}.mp4", "-AmMDnVl4s8", "train", 5]
    assert table.loc["test80_02/_plk5k7PBEg.001", ["source", "split"]].tolist() == ["_plk5k7PBEg", "test"]
    for path in odd:  # its key keeps dots and dashes; a name that tells no source is its own
        assert table.loc[path.rpartition(".")[0], ["path", "source"]].tolist() == [path, path.rpartition(".")[0]]


def test_splits_are_read_from_folder_names(tmp_path):
    splits = {
        "train-1/training80_01/a.mp4": "train",
        "FirstImpressionsV2/VAL/a.mp4": "validation",
        "validation80_25/a.mp4": "validation",
        "train/test80_01/a.mp4": "test",
        "trainees/a.mp4": "",
        "train.mp4": "",
    }
    table = find_clips(make_clips(tmp_path, *splits))
    assert dict(zip(table["path"], table["split"], strict=True)) == splits


def test_a_folder_that_cannot_hold_clips_is_an_error(tmp_path):
    (tmp_path / "a file").touch()
    for path, error in (("nowhere", FileNotFoundError), ("a file", NotADirectoryError), ("", ValueError)):
        with pytest.raises(error, match="data_dir must"):
            find_clips(tmp_path / path)


def write_video(path, form, codec, pictures=12):
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        for i in range(pictures):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_file_is_a_clip_or_of_a_kind_by_what_it_holds(tmp_path):
    clips = {  # its name, format, codec, and the key that it gets
        "a.ts": ("mpegts", "mpeg2video", "a"),
        "moving.gif": ("gif", "gif", "moving"),
        "old.dat": ("mpeg", "mpeg1video", "old"),
        "a.strange": ("matroska", "mpeg4", "a.strange"),
        "id.003": ("mp4", "mpeg4", "id.003"),
    }
    kinds = {
        "code.ts": (lambda p: p.write_text("Größe " * 400, encoding="utf-8"), "no video"),
        "x.dat": (lambda p: p.write_bytes(np.random.RandomState(0).bytes(50_000)), "no video"),
        "list": (
            lambda p: p.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.ts\n#EXT-X-ENDLIST\n"),
            "no video",
        ),
        "empty": (lambda p: p.touch(), "no video"),
        "still": (lambda p: write_video(p, "image2pipe", "mjpeg", pictures=1), "no video"),
        "one.unknown": (lambda p: write_video(p, "mp4", "mpeg4", pictures=1), "pictures"),
        "pipe": (os.mkfifo, "special file"),
        "pipe.mp4": (os.mkfifo, "special file"),
        "gone.unknown": (lambda p: p.symlink_to("/nowhere"), "link to nothing"),
        "._IMG_1.mov": (lambda p: p.write_bytes(b"x"), "hidden"),
        "Thumbs.db": (lambda p: p.write_bytes(b"x"), "hidden"),
        "GX010001.LRV": (lambda p: p.write_bytes(b"x"), ".lrv"),
        "a.mp4.part": (lambda p: p.write_bytes(b"x"), ".part"),
        "b.mp4.bak": (lambda p: write_video(p, "mp4", "mpeg4"), ".bak"),  # as its suffix tells, without a look
        "1.JPG": (lambda p: write_video(p, "mp4", "mpeg4"), ".jpg"),
    }
    for name, (form, codec, _) in clips.items():
        write_video(tmp_path / name, form, codec)
    for name, (write, _) in kinds.items():
        write(tmp_path / name)
    found, left_out = take_inventory(make_clips(tmp_path, "b.mp4", "c.MTS"))
    assert found == {"b": "b.mp4", "c": "c.MTS"} | {key: name for name, (_, _, key) in clips.items()}
    assert dict(zip(left_out["path"], left_out["kind"], strict=True)) == {
        name: kind for name, (_, kind) in kinds.items()
    }


def test_one_line_says_what_was_seen_used_and_left_out(tmp_path):
    make_clips(tmp_path, "a.mp4", "c/IMG.MOV", "c/IMG.mp4", "1.jpg", "2.jpg", "other/.nomedia", "ratings (1).csv")
    (tmp_path / "ratings.csv").write_text("clip,openness\na,0.5\n")
    found, left_out = take_inventory(tmp_path)
    line = as_line(len(found), left_out, "out/left_out.csv")
    for words in (
        "seen 8 files: 1 clips, 1 of ratings, 6 left out (2 .jpg; 2 same key: c/IMG.MOV, c/IMG.mp4; ",
        "1 folder with .nomedia; 1 ratings not read: ratings (1).csv); list: out/left_out.csv",
        "ratings (1).csv looks like ratings and is not read: ratings.csv is",
    ):
        assert words in line


@pytest.mark.parametrize("read", [False, True])
def test_what_looks_like_ratings_and_is_not_read_says_what_to_do(tmp_path, read):
    named = {"ratings (1).csv": True, "ratings.csv.gz": True, "sub/ratings_new.json": True, "ratings.pdf": False}
    named |= {"big five.csv": not read, "docs/2024/ratings.csv": not read}
    make_clips(tmp_path, "a.mp4", *named)
    if read:
        (tmp_path / "ratings.csv").write_text("clip,openness\na,0.5\n")
    left_out = take_inventory(tmp_path)[1].set_index("path").loc[list(named)]
    assert (left_out["kind"] == "ratings not read").to_dict() == named
    assert (left_out["problem"] != "").to_dict() == named


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


def test_leakage_counts_the_clips_that_share_a_source():
    table = pd.DataFrame({"source": [*"aabcacdbeef"], "split": ["train"] * 3 + ["validation"] + ["test"] * 7})
    assert leakage(table).to_numpy().tolist() == [
        ["validation", "train", 1, 0, 0],
        ["test", "train", 7, 2, 2 / 7],
        ["test", "train + validation", 7, 3, 3 / 7],
    ]
    assert leakage(pd.DataFrame({"source": ["a", "b"], "split": ["", "train"]})).empty


def test_the_table_of_clips_comes_back_from_its_file_as_it_was(tmp_path):
    make_clips(tmp_path, "001.mp4", "train/NA.mp4", "-x ü.mp4")
    (tmp_path / "ratings.csv").write_text("clip," + ",".join(TRAITS) + "\nNA,0.1,0.2,,0.4,0.5\n")
    table = clips.read_clips(tmp_path)
    names = ("a\rb", "a\nb", "a\r\nb", 'q"q', "c,d", " lead", "trail ", "x\\y", "😀", "'")
    odd = clips.clip_table({name: f"{name}.mp4" for name in names}, tmp_path)
    for part in (table, odd, odd.drop(index=["a\rb", "a\r\nb"])):
        clips.write_clips(part, tmp_path / "clips.csv")
        pd.testing.assert_frame_equal(clips.load_clips(tmp_path / "clips.csv"), part)
    with pytest.raises(FileNotFoundError, match="01_data_analysis"):
        clips.load_clips(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("truth", "synthetic"),
    [(None, False), ("clip,truth\na,1\n", False), ("key,openness,window_s\na,1,2\n", True), ("key,clip_seed\n", True)],
)
def test_clips_are_synthetic_where_the_truth_says_how_they_were_drawn(tmp_path, truth, synthetic):
    if truth:
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
