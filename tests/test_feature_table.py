"""Features as other programs leave them: what their columns are, whose the rows are, and what is left out."""

import av
import numpy as np
import pytest
from layout import make_clips

from helpers.__main__ import main
from helpers.external import as_lines, import_features
from helpers.store import read_features

A, B = "x/anna_01", "x/bert_02"


@pytest.fixture
def data(tmp_path):
    return make_clips(tmp_path / "data", f"{A}.mp4", f"{B}.mp4")


def write(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text.encode())
    return folder


def taken(source, tmp_path, data, key=A, **how):
    manifest = import_features(source, tmp_path / "run", "static", data=data, **how)
    return read_features(tmp_path / "run" / "static" / f"{key}.npz"), manifest


OPENFACE = """frame, face_id, timestamp, confidence, success, AU01_r, AU02_r
1, 0, 0, 0.98, 1, 1.5, 10
2, 0, 0.033, 0.03, 0, 0, 0
3, 0, 0.067, 0.95, 1, 2.5, 30
"""
PYFEAT = """,FaceRectX,FaceScore,x_0,AU01,Identity_1,FrameHeight,input,frame,approx_time,Identity
0,9,.99,1,10,,720,anna_01.mp4,0,00:00,Person_0
1,9,,2,,,720,anna_01.mp4,2,00:00,Person_0
2,9,.98,3,30,,720,anna_01.mp4,4,00:00,Person_0
"""
OPENSMILE = "name;frameTime;F0;loudness\r\n'unknown';0.00;1.5;10\r\n'unknown';0.01;2.5;20\r\n"
AUDFORMAT = """file,start,end,F0
/a/anna_01.wav,0 days 00:00:00,0 days 00:00:00.020000,1
/a/anna_01.wav,0.01,0.03,2
"""
MEDIAPIPE = "\ufeffsep=;\r\nPerson;Timestamp (ms);presence;jawOpen;\r\n0;500,5;0,99;0,25;\r\n0;0;0;0,5;\r\n"
FROM_EXCEL = "t;f;g\n0,5;1;\n;;\n1,5;2;\n\n;;\n"
FROM_NOTHING = "f\n1\n2\n"
FROM_FRAMES = "frame_idx\tfacial_expression\tau_1\n0\tNeutral\t1\n5\tHappy\t2\n"


@pytest.mark.parametrize(
    ("text", "names", "t_s", "frames", "features", "valid", "how"),
    [
        (OPENFACE, "AU01_r AU02_r", [0, 0.033, 0.067], [0, 1, 2], [[1.5, 10], [0, 0], [2.5, 30]], [1, 0, 1], {}),
        (PYFEAT, "x_0 AU01", [0.02, 0.1, 0.18], [0, 2, 4], [[1, 10], [0, 0], [3, 30]], [1, 0, 1], {"fps": 25}),
        (OPENSMILE, "F0 loudness", [0, 0.01], [-1, -1], [[1.5, 10], [2.5, 20]], [1, 1], {}),
        (AUDFORMAT, "F0", [0.01, 0.02], [-1, -1], [[1], [2]], [1, 1], {}),
        (MEDIAPIPE, "jawOpen", [0, 0.5005], [-1, -1], [[0.5], [0.25]], [0, 1], {}),
        (FROM_EXCEL, "f", [0.5, 1.5], [-1, -1], [[1], [2]], [1, 1], {}),
        (FROM_NOTHING, "f", [0.25, 0.75], [0, 1], [[1], [2]], [1, 1], {"fps": 2}),
        (FROM_FRAMES, "au_1", [0.05, 0.55], [0, 5], [[1], [2]], [1, 1], {"fps": 10}),
    ],
)
def test_columns_of_other_programs_are_understood(tmp_path, data, text, names, t_s, frames, features, valid, how):
    rows, manifest = taken(write(tmp_path / "processed", "anna_01.csv", text), tmp_path, data, **how)
    np.testing.assert_allclose(rows.t_s, t_s, atol=1e-9)
    np.testing.assert_array_equal(rows.features, np.array(features, "float32"))
    assert (rows.frame.tolist(), rows.valid.tolist()) == (frames, np.array(valid, bool).tolist())
    columns = manifest["made_with"]["columns"]
    assert columns["features"] == names.split()
    renamed = {role: name for role, name in columns["known"].items() if role != name}
    told = {"renamed": renamed, "left_out": columns["left_out"]}
    assert manifest["identity"]["elsewhere"].get("columns", {"renamed": {}, "left_out": []}) == told
    assert f"{len(names.split())} columns are features: {', '.join(names.split())}" in as_lines(manifest)


def test_what_is_no_feature_is_named(tmp_path, data):
    _, manifest = taken(write(tmp_path / "processed", "anna_01.csv", PYFEAT), tmp_path, data, fps=25)
    columns = manifest["made_with"]["columns"]
    assert columns["left_out"] == ["(no name)", "FaceRectX", "Identity_1", "FrameHeight", "approx_time"]
    known = {"clip": "input", "frame": "frame", "confidence": "FaceScore", "face": "Identity"}
    assert columns["known"] == known


def test_a_folder_of_openface_gives_a_clip_per_csv_and_counts_the_other_files(tmp_path, data):
    source = write(tmp_path / "processed", "anna_01.csv", OPENFACE)
    write(source, "bert_02.csv", OPENFACE.replace("AU01_r, AU02_r", "AU02_r, AU01_r"))
    for name in ("anna_01.hog", "anna_01_of_details.txt", "bert_02.hog"):
        write(source, name, "x")
    rows, manifest = taken(source, tmp_path, data, key=B)
    np.testing.assert_array_equal(rows.features[0], [10, 1.5])  # by name, not by place
    assert (manifest["counts"]["made"], manifest["counts"]["invalid_rows"]) == (2, 2)
    assert manifest["made_with"]["passed_over"] == {".hog": 2, ".txt": 1}
    assert "files passed over: 2 .hog, 1 .txt" in as_lines(manifest)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            OPENFACE.replace("2.5", "much").replace("\n2", "\n\n2"),
            "bert_02.csv line 5: AU01_r must be a number, got 'much'",
        ),
        (OPENFACE.replace("AU02_r", "AU09_r"), "must have the columns of anna_01.csv, got no 'AU02_r'"),
        (OPENFACE.splitlines()[0], "bert_02.csv must have lines below its column names"),
        (OPENFACE.replace("0.067", "0.033"), "bert_02.csv line 4: bert_02 must have one row at a time"),
        (OPENFACE.replace("AU01_r", "AU02_r"), "must have one column 'AU02_r', got two"),
        ("", "is not a CSV in UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_used_costs_its_clip_only(tmp_path, data, text, reason):
    source = write(write(tmp_path / "processed", "anna_01.csv", OPENFACE), "bert_02.csv", text)
    write(source, "carl.csv", OPENFACE)
    rows, manifest = taken(source, tmp_path, make_clips(data, "x/carl.mp4"), key="x/carl")
    np.testing.assert_array_equal(rows.features, [[1.5, 10], [0, 0], [2.5, 30]])
    (failed,) = [entry for entry in manifest["failed"] if "row" not in entry]
    assert failed["clip"] == B
    assert reason in failed["reason"]


def test_of_several_faces_the_one_that_is_there_longest_is_taken(tmp_path, data):
    lines = ["clip,face_id,t,success,confidence,f"]
    lines += [f"anna_01,1,{i / 10},{int(i != 2)},.9,{i}" for i in range(5)]
    lines += [f"anna_01,0,{i / 10},1,.9,{100 + i}" for i in range(3)]
    lines += [f"bert_02,{face},{i / 10},1,{c},{10 * face + i}" for i in range(2) for face, c in ((0, 0.5), (1, 0.8))]
    write(tmp_path, "all.csv", "\n".join(lines))
    rows, manifest = taken(tmp_path / "all.csv", tmp_path, data)
    assert rows.features[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert rows.valid.tolist() == [True, True, False, True, True]
    assert read_features(tmp_path / "run" / "static" / f"{B}.npz").features[:, 0].tolist() == [10, 11]  # the surer one
    assert manifest["counts"]["other_faces"] == 5
    assert any(line.startswith("5 rows of other faces left out") for line in as_lines(manifest))


def test_rows_of_people_who_are_not_told_apart_are_refused(tmp_path, data):
    write(tmp_path, "all.csv", "clip,t,f\nanna_01,0,1\nanna_01,0,2\n")
    with pytest.raises(ValueError, match="line 3: anna_01 must have one row at a time, got another at 0 s"):
        taken(tmp_path / "all.csv", tmp_path, data)


def test_the_columns_that_are_features_may_be_named(tmp_path, data, capsys):
    write(tmp_path, "all.csv", "clip,t,AU1,AU2,mood,confidence\nanna_01,0,1,2,glad,.5\nanna_01,1,1,3,sad,.6\n")
    with pytest.raises(ValueError, match=r"mood must be a number, got 'glad'. Remove the column, or say which"):
        taken(tmp_path / "all.csv", tmp_path, data)
    command = ["features", "--stream", "static", "--data", str(data), "--out", str(tmp_path / "run")]
    assert main([*command, "--from", str(tmp_path / "all.csv"), "--columns", "AU*, confidence"]) == 0
    assert read_features(tmp_path / "run" / "static" / f"{A}.npz").features.tolist() == [
        [1, 2, 0.5],
        [1, 3, np.float32(0.6)],
    ]
    said = capsys.readouterr().out
    for line in (
        "3 columns are features: AU1, AU2, confidence",
        "2 columns are known: clip, t as t_s",
        "1 columns are left out: mood",
    ):
        assert line in said


def test_a_table_in_our_own_words_has_the_identity_that_it_had(tmp_path, data):
    write(tmp_path, "all.csv", "clip,t_s,frame,valid,f0\nanna_01,0,7,True,1\nbert_02,0,7,False,2\n")
    rows, manifest = taken(tmp_path / "all.csv", tmp_path, data)
    assert manifest["identity"]["elsewhere"] == {"layout": "table", "index_sha256": "", "fps": None}
    assert rows.frame.tolist() == [7]


def test_the_columns_that_most_files_have_count(tmp_path, data):
    source = write(tmp_path / "processed", "aa_summary.csv", "name,n\nx,1\n")
    for name in ("anna_01.csv", "bert_02.csv"):
        write(source, name, OPENFACE)
    _, manifest = taken(source, tmp_path, data, skip_unmatched=True)
    assert (manifest["counts"]["made"], manifest["counts"]["unmatched"]) == (2, 1)


def test_parts_of_a_table_in_several_files_are_one(tmp_path, data):
    source = write(tmp_path / "parts", "part 1.csv", "clip,t,f\nanna_01,0,1\nbert_02,0,5\n")
    write(source, "part 2.csv", "clip,t,f\nanna_01,1,2\n")
    rows, manifest = taken(source, tmp_path, data)
    assert rows.features[:, 0].tolist() == [1, 2]
    assert manifest["counts"]["made"] == 2


def test_times_beyond_the_end_of_the_video_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    with av.open(str(tmp_path / "data" / "anna_01.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(20):
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), "uint8"))))
        video.mux(stream.encode())
    text = "t,f\n" + "".join(f"{100 * i},1\n" for i in range(20))
    with pytest.raises(
        ValueError, match="its rows must lie within its video of 2.0 s, got 1900 s. Say t_ms if times are"
    ):
        taken(write(tmp_path / "ms", "anna_01.csv", text), tmp_path, tmp_path / "data")
    rows, _ = taken(
        write(tmp_path / "ms", "anna_01.csv", text.replace("t,", "t_ms,")), tmp_path, tmp_path / "data", "anna_01"
    )
    np.testing.assert_allclose(rows.t_s, np.arange(20) / 10)


def test_a_clip_in_two_files_or_with_a_time_twice_is_told(tmp_path, data):
    for folder in ("one", "two"):
        (tmp_path / "source" / folder).mkdir(parents=True)
        np.savez(tmp_path / "source" / folder / "anna_01.npz", features=np.ones((2, 3)), t_s=[0, 1])
    with pytest.raises(ValueError, match="two/anna_01: .*(means the same clip|no such clip)|one/anna_01"):
        taken(tmp_path / "source", tmp_path, data)
    (tmp_path / "source" / "two" / "anna_01.npz").unlink()
    np.savez(tmp_path / "source" / "one" / "anna_01.npz", features=np.ones((2, 3)), t_s=[1, 1])
    with pytest.raises(ValueError, match="anna_01.npz: row 1: the clip must have one row at a time"):
        taken(tmp_path / "source" / "one", tmp_path, data)


def test_names_of_another_computer_are_matched_as_those_of_ratings_are(tmp_path, data):
    (tmp_path / "f.csv").write_text("input,t_s,f\n/home/u/study/ANNA_01.MP4,0,1\nC:\\study\\bert_02.mp4,0,2\n")
    assert taken(tmp_path / "f.csv", tmp_path, data, B)[0].features.tolist() == [[2]]
    (tmp_path / "f.csv").write_text("input,t_s,f\nx/anna_01,0,1\n/home/u/anna_01.mp4,0,2\n")
    with pytest.raises(ValueError, match="/home/u/anna_01.mp4: x/anna_01 means the same clip x/anna_01"):
        taken(tmp_path / "f.csv", tmp_path, data)


def test_a_clip_without_a_valid_row_is_left_out(tmp_path, data):
    """A tool that never found the face says so in every row."""
    write(tmp_path / "of", "anna_01.csv", OPENFACE)
    write(tmp_path / "of", "bert_02.csv", OPENFACE.replace(", 1, ", ", 0, "))
    reason = "none of its 3 rows is valid (the first: marked invalid where it was made)."
    assert taken(tmp_path / "of", tmp_path, data)[1]["failed"][0] == {"clip": B, "reason": reason}
