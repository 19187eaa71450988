"""Clips: what in a folder is one and what is not, sources, splits, leakage, and every bad folder with its message."""

import os

import av
import numpy as np
import pandas as pd
import pytest
from layout import make_clips

from helpers import clips
from helpers.clips import TRAITS, as_line, find_clips, scan_clips, take_inventory


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
    assert clips.leakage(table).to_numpy().tolist() == [
        ["validation", "train", 1, 0, 0],
        ["test", "train", 7, 2, 2 / 7],
        ["test", "train + validation", 7, 3, 3 / 7],
    ]
    assert clips.leakage(pd.DataFrame({"source": ["a", "b"], "split": ["", "train"]})).empty


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
