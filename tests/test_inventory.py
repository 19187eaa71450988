"""What lies in a folder: files whose suffix tells nothing are opened, the others are not, and all are counted."""

import os

import av
import numpy as np
import pytest
from layout import make_clips

from helpers import clips, inventory
from helpers.inventory import as_line, look_into, take_inventory


def write_video(path, form, codec, pictures=12):
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        for i in range(pictures):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "form", "codec", "key"),
    [
        ("a.ts", "mpegts", "mpeg2video", "a"),
        ("a.gif", "gif", "gif", "a"),
        ("a.dat", "mpeg", "mpeg1video", "a"),
        ("a.strange", "matroska", "mpeg4", "a.strange"),
        ("id.003", "mp4", "mpeg4", "id.003"),
        ("no suffix", "mp4", "libx264", "no suffix"),
        ("raw", "h264", "libx264", "raw"),
    ],
)
def test_a_file_is_a_clip_by_what_it_holds(tmp_path, name, form, codec, key):
    write_video(tmp_path / name, form, codec)
    assert take_inventory(tmp_path).clips == {key: name}
    assert clips.find_clips(tmp_path).index.tolist() == [key]


@pytest.mark.parametrize(
    ("name", "write", "kind"),
    [
        ("a.ts", lambda p: p.write_text("export const a = 1;\n" * 9), "no video"),
        ("README", lambda p: p.write_text("Größe " * 400, encoding="utf-8"), "no video"),
        ("x.dat", lambda p: p.write_bytes(np.random.RandomState(0).bytes(50_000)), "no video"),
        ("empty", lambda p: p.touch(), "empty"),
        ("still", lambda p: write_video(p, "image2pipe", "mjpeg", pictures=1), "pictures"),
        ("one.gif", lambda p: write_video(p, "gif", "gif", pictures=1), "pictures"),
        ("one.unknown", lambda p: write_video(p, "mp4", "mpeg4", pictures=1), "pictures"),
        ("pipe", os.mkfifo, "special file"),
        ("pipe.mp4", os.mkfifo, "special file"),
        ("gone.unknown", lambda p: p.symlink_to("/nowhere"), "link to nothing"),
        ("._IMG_1.mov", lambda p: p.write_bytes(b"x"), "hidden"),
        ("Thumbs.db", lambda p: p.write_bytes(b"x"), "hidden"),
        ("~$ratings.xlsx", lambda p: p.write_bytes(b"x"), "hidden"),
        ("GX010001.LRV", lambda p: p.write_bytes(b"x"), "camera previews"),
        ("a.mp4.part", lambda p: p.write_bytes(b"x"), "unfinished downloads"),
    ],
)
def test_what_is_no_clip_is_named_with_its_kind(tmp_path, name, write, kind):
    write(tmp_path / name)
    make_clips(tmp_path, "b.mp4")
    found, left_out = take_inventory(tmp_path)
    assert found == {"b": "b.mp4"}
    assert left_out[["path", "kind"]].to_numpy().tolist() == [[name, kind]]


def test_previews_and_backups_of_a_video_are_no_clips(tmp_path, monkeypatch):
    make_clips(tmp_path, "a.mp4", "a.gif", "a.mp4.bak", "a.mp4~", "a.mov_original", "a", "b.gif", "p.q/a", "id.003")
    monkeypatch.setattr(inventory, "look_into", lambda file: "clip")
    found, left_out = take_inventory(tmp_path)
    assert found == {"a": "a.mp4", "b": "b.gif", "p.q/a": "p.q/a", "id.003": "id.003"}
    assert sorted(left_out["path"]) == ["a", "a.gif", "a.mov_original", "a.mp4.bak", "a.mp4~"]
    assert set(left_out["kind"]) == {"copies"}


def test_what_a_suffix_tells_is_not_opened(tmp_path, monkeypatch):
    make_clips(tmp_path, "a.MTS", "b.m2ts", "faces/1.JPG", "faces/2.png", "c.wav", "d.npz", "e.zip", "f.srt", "g.py")
    monkeypatch.setattr(inventory, "look_into", None)
    found, left_out = take_inventory(tmp_path)
    assert found == {"a": "a.MTS", "b": "b.m2ts"}
    assert left_out["kind"].value_counts().to_dict() == {
        "pictures": 2, "sound": 1, "arrays": 1, "archives": 1, "subtitles": 1, "code": 1
    }  # fmt: skip


def test_one_line_says_what_was_seen_used_and_left_out(tmp_path):
    make_clips(tmp_path, "a.mp4", "c/IMG.MOV", "c/IMG.mp4", "1.jpg", "2.jpg", "other/.nomedia", "ratings (1).csv")
    (tmp_path / "ratings.csv").write_text("clip,openness\na,0.5\n")
    found, left_out = take_inventory(tmp_path)
    assert as_line(len(found), left_out, "out/left_out.csv") == (
        "seen 8 files: 1 clips, 1 of ratings, 6 left out (2 pictures; 2 same key: c/IMG.MOV, c/IMG.mp4; "
        "1 folder with .nomedia; 1 ratings not read: ratings (1).csv); list: out/left_out.csv; "
        "ratings (1).csv looks like ratings and is not read: ratings.csv is. Remove one of the two, or join them"
    )
    assert as_line(1, left_out[:0]) == "seen 1 files: 1 clips, none left out"


@pytest.mark.parametrize(
    ("name", "read", "advice"),
    [
        *(
            (name, False, "Save it beside the clips as ratings.csv or .xlsx, with a column clip.")
            for name in (
                "ratings (1).csv",
                "My Ratings.XLSX",
                "ratings.xls",
                "ratings.csv.gz",
                "big five.csv",
                "sub/ratings_new.json",
            )
        ),
        ("ratings (1).csv", True, "ratings.csv is. Remove one of the two"),
        ("sub/ratings.csv", True, "ratings.csv is. Remove one of the two"),
        ("big five.csv", True, ""),
        ("notes.txt", False, ""),
        ("ratings.pdf", False, ""),
    ],
)
def test_what_looks_like_ratings_and_is_not_read_says_what_to_do(tmp_path, name, read, advice):
    make_clips(tmp_path, "a.mp4", name)
    if read:
        (tmp_path / "ratings.csv").write_text("clip,openness\na,0.5\n")
    problems = "".join(take_inventory(tmp_path).left_out["problem"])
    assert advice in problems
    assert bool(advice) == bool(problems)


def test_a_file_that_cannot_be_opened_is_no_clip(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    make_clips(tmp_path, "locked")
    monkeypatch.setattr(av, "open", refuse)
    assert look_into(tmp_path / "locked") == "cannot be read"


def test_ratings_deep_in_a_folder_are_named_where_there_are_no_others(tmp_path):
    write_video(tmp_path / "a.mp4", "mp4", "mpeg4")
    (tmp_path / "docs/2024").mkdir(parents=True)
    (tmp_path / "docs/2024/ratings.csv").write_text("clip,openness\na,.5\n")
    assert "docs/2024/ratings.csv may be ratings and is not read" in as_line(1, take_inventory(tmp_path).left_out)
