"""Features made elsewhere become a stage, a stage becomes large files: whose clip a row is, and what is refused."""

import json
import tracemalloc

import h5py
import numpy as np
import pandas as pd
import pytest
from layout import make_clips
from numbered import write_numbered

from helpers import large
from helpers.__main__ import main
from helpers.clips import TRAITS, write_clips
from helpers.external import as_text, import_features
from helpers.files import DiskFullError, FolderLock, LockedError, read_json, write_json
from helpers.store import FeatureFile, Stage, read_features, write_features

DS, DD = 7, 11  # distinct primes
KEYS = ("test80_02/_plk5k7PBEg.001", "training80_01/-AmMDnVl4s8.003", "training80_01/-AmMDnVl4s8.004")
ORDER = (2, 0, 1)  # of the clips in the run
A, B = "x/anna_01", "x/bert_02"


def features(k, n=4, width=DS):
    """Row i of clip k holds 100 k + 10 i and up: no two numbers of a test are the same."""
    return (100.0 * k + 10 * np.arange(n)[:, None] + np.arange(width)).astype("float32")


def rows_of(k, width=DS):
    """Rows as 03 and 04 make them: times that decimal text cannot say shortly, the second row invalid."""
    start_s, valid = np.arange(k + 3) / 7 + 0.1, np.arange(k + 3) != 1
    return FeatureFile(features(k, k + 3, width), start_s, start_s + 1 / 3, 4 * np.arange(k + 3), valid)


def write_run(run, name, files, ratings=None):
    """A stage of a run, and the run's clips; returns the folder of the stage."""
    stage = Stage(run / name, name, {"parameters": {"weights": "random"}, "weights": {"name": "random"}})
    for key, rows in files.items():
        write_features(stage.path(key), rows, "1-1")
    stage.finish()
    keys = [*files, "failed"]
    write_clips(pd.DataFrame({"path": keys} | (ratings or {}), pd.Index(keys, name="key")), run / "clips.csv")
    return stage.folder


def stage_of(run, name, width):
    ratings = {trait: [np.nan, 0.1 * i, np.nan, np.nan] for i, trait in enumerate(TRAITS)}
    return write_run(run, name, {KEYS[k]: rows_of(k, width) for k in ORDER}, ratings)


def assert_equal_stages(made, original):
    for key in KEYS:
        a, b = read_features(made / f"{key}.npz"), read_features(original / f"{key}.npz")
        for name in ("features", "t_start_s", "t_end_s", "frame", "valid"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=f"{key} {name}")


@pytest.fixture
def per_clip(tmp_path):
    """A folder of one file per clip, called by the ends of their keys: with centres, with spans, as it is."""
    source = tmp_path / "their features"
    (source / "training80_01").mkdir(parents=True)
    t_s = np.array([0.3, 0.1, 0.2, 0.4])
    np.savez(source / "_plk5k7PBEg.001.mp4.npz", features=features(0), t_s=t_s)
    np.savez(source / "training80_01" / "-AmMDnVl4s8.003.npz", features=features(1), t_start_s=t_s, t_end_s=t_s + 0.2)
    np.save(source / "training80_01" / "-AmMDnVl4s8.004.npy", features(2).astype("float16"))
    return source


def imported(tmp_path, texts, key=A, clips=(A, B), **how):
    """The rows of a clip, and the manifest, of a folder of files by name."""
    data = make_clips(tmp_path / "data", *(f"{clip}.mp4" for clip in clips))
    for name, text in texts.items():
        (make_clips(tmp_path / "processed", name) / name).write_bytes(text.encode())
    manifest = import_features(tmp_path / "processed", tmp_path / "run", "static", data=data, **how)
    return read_features(tmp_path / "run" / "static" / f"{key}.npz"), manifest


def test_a_table_of_our_own_rows_comes_back_as_the_stage_they_were_made_of(folder, tmp_path):
    original = stage_of(tmp_path / "run", "static", DS)
    path = large.write_large(original, tmp_path / "out", "static")
    array, index, said = np.load(path), pd.read_csv(path.with_suffix(".csv")), read_json(path.with_suffix(".json"))
    assert (path.name, array.dtype, index["row"].tolist()) == ("static_features_large.npy", "float32", list(range(12)))
    assert index["clip"].unique().tolist() == [KEYS[k] for k in ORDER]
    assert (said["identity"]["weights"], said["shape"]) == ({"name": "random"}, [12, DS])
    assert said["counts"] == {"clips": 3, "rows": 12, "invalid_rows": 3}
    table = index.join(pd.DataFrame(array).add_prefix("f"))
    table.sample(frac=1, random_state=5).to_csv(tmp_path / "all.csv", index=False)
    manifest = import_features(tmp_path / "all.csv", tmp_path / "new", "static", data=folder)
    assert_equal_stages(tmp_path / "new" / "static", original)
    counts = {"clips": 3, "made": 3, "found": 0, "failed": 0, "rows": 12, "invalid_rows": 3}
    assert manifest["counts"] == counts | {"feature_dim": DS, "unmatched": 0}
    assert manifest["identity"]["weights"]["source"] == "all.csv"
    left_out = {"renamed": {}, "left_out": ["row"]}
    assert manifest["identity"]["external"] == {"layout": "table", "fps": None, "columns": left_out}


def test_the_commands_write_large_files_also_as_the_source_project_did_and_take_features(folder, tmp_path, capsys):
    run, new = tmp_path / "run", tmp_path / "new"
    originals = {name: stage_of(run, name, width) for name, width in (("static", DS), ("dynamic", DD))}
    assert main(["large", "--run", str(run), "--hdf5"]) == 0
    made = {f"{name}_features{end}" for name in originals for end in ("_large.npy", "_large.csv", "_large.json", ".h5")}
    assert {path.name for path in (run / "features").iterdir()} == made
    with h5py.File(run / "features" / "static_features.h5") as file:
        dtypes = {"features": "float32", "labels": "float32", "num_frames": "int32", "t_s": "float64", "valid": "bool"}
        assert {name: str(file[name].dtype) for name in dtypes} == dtypes
        assert file["num_frames"][:].tolist() == [5, 3, 4]
        expected = {"num_videos": 3, "max_frames": 5, "feature_dim": DS, "category_mapping": "{}", "multi_scale": False}
        assert {name: file.attrs[name] for name in expected} == expected
        assert json.loads(file.attrs["identity"])["weights"] == {"name": "random"}
        assert file["clips"].asstr()[:].tolist() == [KEYS[k] for k in ORDER]
        assert file["targets"].asstr()[:].tolist() == list(TRAITS)
        np.testing.assert_allclose(file["labels"][1], [0, 0.1, 0.2, 0.3, 0.4], atol=1e-7)
        assert np.isnan(file["labels"][:][[0, 2]]).all()
        for place, k in enumerate(ORDER):
            rows, n = rows_of(k), k + 3
            np.testing.assert_array_equal(file["features"][place, :n], rows.features)
            assert not file["features"][place, n:].any()
            np.testing.assert_array_equal(file["t_s"][place, :n], rows.t_s)
            assert file["valid"][place].tolist() == rows.valid.tolist() + [False] * (5 - n)
    done = {"04_dynamic_extraction": {"fingerprint": "a"}, "05_alignment": {"fingerprint": "b"}}
    write_json(new / "run.json", done | {"06_training": {"fingerprint": "c"}})
    where = ["--data", str(folder), "--out", str(new)]
    assert main(["features", "--from", str(originals["static"]), "--stream", "static", *where]) == 0
    assert_equal_stages(new / "static", originals["static"])
    assert list(read_json(new / "run.json")) == ["04_dynamic_extraction"]  # what was made of other features is not done
    assert "rows: 12" in capsys.readouterr().out
    assert main(["large", "--run", str(folder)]) == 1


def test_files_per_clip_are_sorted_in_time_and_started_again_it_goes_on_with_the_same_ones(folder, per_clip, tmp_path):
    import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)
    moments, spans, counted = (read_features(tmp_path / "new" / "static" / f"{key}.npz") for key in KEYS)
    np.testing.assert_allclose(moments.t_s, [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(moments.features, features(0)[[1, 2, 0, 3]])
    np.testing.assert_allclose(spans.t_end_s - spans.t_start_s, 0.2)
    assert spans.frame.tolist() == [-1] * 4  # unknown
    np.testing.assert_allclose(counted.t_start_s, [0, 0.2, 0.4, 0.6])
    (tmp_path / "new" / "static" / f"{KEYS[1]}.npz").unlink()
    again = import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)
    assert (again["counts"]["made"], again["counts"]["found"]) == (1, 2)
    with FolderLock(tmp_path / "new"), pytest.raises(LockedError):
        import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)
    np.save(per_clip / "training80_01" / "-AmMDnVl4s8.004.npy", features(3))
    again = import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)
    assert (again["counts"]["made"], again["counts"]["found"]) == (1, 2)
    assert read_features(tmp_path / "new" / "static" / f"{KEYS[2]}.npz").features[0, 0] == 300
    with pytest.raises(ValueError, match="fps"):
        import_features(per_clip, tmp_path / "new", "static", data=folder, fps=6)


def test_a_clip_whose_file_cannot_be_used_is_left_out_and_rows_that_are_not_finite_are_invalid(
    folder, per_clip, tmp_path
):
    path, good = per_clip / "training80_01" / "-AmMDnVl4s8.003.npz", features(1)
    for arrays, reason in (
        ({}, "003.npz"),
        ({"features": np.array([{}], dtype=object)}, "003.npz"),
        ({"rows": good, "times": np.arange(4)}, "features"),
        ({"features": good[0], "t_s": np.arange(7)}, "shape"),
        ({"features": features(1, width=DD), "t_s": np.arange(4)}, f"the {DS} columns of the others, got {DD}"),
        ({"features": good, "t_s": np.arange(3)}, "t_s must be 4 numbers"),
        ({"features": good, "t_start_s": np.arange(4)}, "together"),
        ({"features": good, "t_s": [0, 1, np.nan, 3]}, "line 2 must have a time"),
        ({"features": good, "t_s": [0, 1, 1, 3]}, "line 2 must be the only"),
        ({"features": good, "t_s": np.arange(4), "valid": [1, np.nan, 1, 1]}, "line 1 must be valid"),
        ({"features": good, "t_s": np.arange(4), "valid": [1, 1, 0.3, 1]}, "line 2 must be valid"),
    ):
        path.write_bytes(path.read_bytes()[:-300]) if not arrays else np.savez(path, **arrays)
        (failed,) = import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)["failed"]
        assert failed["clip"] == KEYS[1]
        assert reason in failed["reason"]
    odd = features(2).astype("float64")
    odd[1, 3], odd[2, 0] = np.nan, 1e300  # more than float32 holds
    frame = np.array([0, 1, 2, 255], "uint8")  # 8 bits are not enough for the end of the last one
    np.savez(path, features=odd, frame=frame, valid=[1, 1, 1, 0])
    manifest = import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)
    rows = read_features(tmp_path / "new" / "static" / f"{KEYS[1]}.npz")
    assert (rows.valid.tolist(), rows.t_end_s[-1]) == ([True, False, False, False], pytest.approx(51.2))
    assert not rows.features[1:3].any()
    reasons = ["value 3 is not finite", "value 0 is not finite", "marked invalid where it was made"]
    assert manifest["failed"] == [{"clip": KEYS[1], "row": i, "reason": why} for i, why in enumerate(reasons, 1)]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("clip,t_s,f0\n_plk5k7PBEg.001,0,a lot", "features"),
        ("clip,t_s,f0\n_plk5k7PBEg.001,,1", "line 2"),
        ("clip,t_s,f0\n,0,1", "line 2"),
        ("clip,t_s,frame,f0\n_plk5k7PBEg.001,0,0.5,1", "line 2 .*0.5"),
        ("clip,t_s,valid,f0\n_plk5k7PBEg.001,0,maybe,1", "line 2 must be valid"),
        ("clip,t_s,f0\n_plk5k7PBEg.001,0,1\n_plk5k7PBEg.001,0,1,2,3", "line 3"),
        ("who,t_s,f0\na,0,1", "'clip', got t_s, f0, who"),
        ("clip,t_s\n_plk5k7PBEg.001,0", "features"),
        ("clip,t_s,f0\n", "no lines"),
        ("clip,t_s,f0,f0\na,1,2,3", "names"),
        ("", "CSV"),
        ("clip,f0\n_plk5k7PBEg.001,1", "Give fps"),
        ("clip,start,f0\n_plk5k7PBEg.001,0,1", "together"),
        ("clip,t_s,f0\nnobody,0,1", "nobody"),
        *(
            (f"clip,{times},f0\n" + "".join(f"{KEYS[0]},{cells},5\n" for cells in ("0,0", "1,1", "0,0")), "line 4")
            for times in ("t_s,frame", "t_start_s,t_end_s")
        ),
    ],
)
def test_a_damaged_table_is_refused_with_line_and_column(folder, tmp_path, text, word):
    (tmp_path / "all.csv").write_text(text)
    with pytest.raises(ValueError, match=word):
        import_features(tmp_path / "all.csv", tmp_path / "new", "static", data=folder)
    for source, how in ((tmp_path / "all.csv", {"fps": -1}), (tmp_path, {"stream": "faces"}), (folder, {})):
        with pytest.raises(ValueError, match="must"):
            import_features(source, tmp_path / "new", **{"stream": "static", "data": folder} | how)
    with pytest.raises(FileNotFoundError):
        import_features(tmp_path / "nowhere", tmp_path / "new", "static", data=folder)
    assert not (tmp_path / "new" / "static").exists()


def test_names_are_matched_as_those_of_ratings_are_and_what_fits_no_clip_or_several_is_left_out(tmp_path):
    data = make_clips(tmp_path / "data", "a/one.mp4", "b/one.mp4", "b/two.mp4", "b/d\r.mp4")
    lines = ["input,t_s,f", "one,0,1", "/home/u/study/TWO.MP4,0,2", "three,0,3", '"d\r.mp4",0,4']
    (tmp_path / "f.csv").write_bytes("\n".join(lines).encode())
    manifest = import_features(tmp_path / "f.csv", tmp_path / "run", "static", data=data)
    assert read_features(tmp_path / "run" / "static" / "b/two.npz").features.tolist() == [[2]]
    assert (manifest["counts"]["made"], manifest["counts"]["unmatched"], manifest["counts"]["failed"]) == (2, 2, 2)
    assert {entry["clip"] for entry in manifest["failed"]} == {"one", "three", "a/one", "b/one"}


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
FROM_BOTH = "t_s,start,f\n0.5,7,1\n1.5,9,2\n"  # a time is there: a start without an end is not needed
FROM_FRAMES = "frame_idx\tfacial_expression\tau_1\n0\tNeutral\t1\n5\tHappy\t2\n"
FROM_PEOPLE = 't,AU,emotion,f\n0,1,happy,"1,234"\n1,much,sad,5\n2,3,happy,6\n'  # a cell that is no number costs its row


@pytest.mark.parametrize(
    ("text", "names", "t_s", "frames", "features", "valid"),
    [
        (OPENFACE, "AU01_r AU02_r", [0, 0.033, 0.067], [0, 1, 2], [[1.5, 10], [0, 0], [2.5, 30]], [1, 0, 1]),
        (PYFEAT, "x_0 AU01", [0.25, 1.25, 2.25], [0, 2, 4], [[1, 10], [0, 0], [3, 30]], [1, 0, 1]),
        (OPENSMILE, "F0 loudness", [0, 0.01], [-1, -1], [[1.5, 10], [2.5, 20]], [1, 1]),
        (AUDFORMAT, "F0", [0.01, 0.02], [-1, -1], [[1], [2]], [1, 1]),
        (MEDIAPIPE, "jawOpen", [0, 0.5005], [-1, -1], [[0.5], [0.25]], [0, 1]),
        (FROM_EXCEL, "f", [0.5, 1.5], [-1, -1], [[1], [2]], [1, 1]),
        (FROM_BOTH, "f", [0.5, 1.5], [-1, -1], [[1], [2]], [1, 1]),
        (FROM_NOTHING, "f", [0.25, 0.75], [0, 1], [[1], [2]], [1, 1]),
        (FROM_FRAMES, "au_1", [0.25, 2.75], [0, 5], [[1], [2]], [1, 1]),
        (FROM_PEOPLE, "AU f", [0, 1, 2], [-1, -1, -1], [[0, 0], [0, 0], [3, 6]], [0, 0, 1]),
    ],
)
def test_columns_of_other_programs_are_understood(tmp_path, text, names, t_s, frames, features, valid):
    rows, manifest = imported(tmp_path, {"anna_01.csv": text}, fps=2)  # which counts where there are no times
    np.testing.assert_allclose(rows.t_s, t_s, atol=1e-9)
    np.testing.assert_array_equal(rows.features, np.array(features, "float32"))
    assert (rows.frame.tolist(), rows.valid.tolist()) == (frames, np.array(valid, bool).tolist())
    assert manifest["made_with"]["columns"]["features"] == names.split()
    assert f"features: [{', '.join(names.split())}]" in as_text(manifest)
    if text == PYFEAT:  # what is no feature is named, and part of the identity
        known = {"clip": "input", "confidence": "FaceScore", "face": "Identity"}
        left_out = ["(no name)", "FaceRectX", "Identity_1", "FrameHeight", "approx_time"]
        assert manifest["identity"]["external"]["columns"] == {"renamed": known, "left_out": left_out}
    if text == FROM_PEOPLE:
        assert manifest["made_with"]["columns"]["left_out"] == ["emotion"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (OPENFACE.replace("AU02_r", "AU09_r"), "AU02_r"),
        (OPENFACE.splitlines()[0], "no lines"),
        (OPENFACE.replace("0.067", "0.033").replace("\n2", "\n\n2"), "line 5"),
        (OPENFACE.replace("\n2, 0", "\n2, 1"), "one face, got 0, 1"),
        (OPENFACE.replace("AU01_r", "AU02_r"), "different names"),
        (OPENFACE.replace(", 1, ", ", 0, "), "valid"),  # a tool that never found the face says so in every row
    ],
)
def test_a_csv_that_cannot_be_used_costs_its_clip_only(tmp_path, caplog, text, reason):
    turned = OPENFACE.replace("AU01_r, AU02_r", "AU02_r, AU01_r")
    texts = {"anna_01.csv": OPENFACE, "bert_02.csv": text, "anna_01.hog": "x", "carl.csv": turned}
    rows, manifest = imported(tmp_path, texts, "x/carl", (A, B, "x/carl"))
    np.testing.assert_array_equal(rows.features, [[10, 1.5], [0, 0], [30, 2.5]])  # by name, not by place
    (failed,) = [entry for entry in manifest["failed"] if "row" not in entry]
    assert failed["clip"] == B
    assert reason in failed["reason"]
    assert "1 .hog" in caplog.text


def test_times_beyond_the_end_of_the_video_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    write_numbered(tmp_path / "data" / "anna_01.mp4", 20, 10)
    text = "t,f\n" + "".join(f"{100 * i},1\n" for i in range(20))
    with pytest.raises(ValueError, match="video of 2.0 s, got 1900 s"):
        imported(tmp_path, {"anna_01.csv": text}, clips=())
    rows, _ = imported(tmp_path, {"anna_01.csv": text.replace("t,", "t_ms,")}, "anna_01", clips=())
    np.testing.assert_allclose(rows.t_s, np.arange(20) / 10)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_large_files_are_made_in_flat_memory_and_a_full_disk_ends_neither_python_nor_the_files_before(tmp_path):
    """24 MB of rows pass through less memory than a quarter of them."""
    stage = write_run(tmp_path, "static", dict.fromkeys([f"c{k}" for k in range(60)], rows_of(47, 2048)))
    out, ratings = tmp_path / "out", pd.DataFrame(columns=list(TRAITS))
    writers = [
        lambda: large.write_hdf5(stage, out / "static_features.h5", "static", ratings),
        lambda: large.write_large(stage, out, "static"),
    ]
    tracemalloc.start()
    for write_file in writers:
        write_file()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6
    resource = pytest.importorskip("resource")  # a limit on the size of files stands for the disk
    before, limits = contents(out), resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (100, 40_000, 2_000_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            for write_file in writers:
                with pytest.raises(DiskFullError):
                    write_file()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert contents(out) == before


def test_a_stage_that_is_no_whole_one_of_that_name_is_refused_and_what_was_there_stays(tmp_path):
    stage, out = stage_of(tmp_path, "static", DS), tmp_path / "out"
    large.write_large(stage, out, "static")
    before = contents(out)
    for folder, name, error, word in (
        (tmp_path / "dynamic", "dynamic", FileNotFoundError, "04_dynamic_extraction"),
        (stage, "dynamic", ValueError, "must"),
        (stage, "faces", ValueError, "must"),
        (write_run(tmp_path / "none", "static", {}), "static", ValueError, "must"),
    ):
        with pytest.raises(error, match=word):
            large.write_large(folder, out, name)
    with FolderLock(tmp_path), pytest.raises(LockedError):
        large.write_large(stage, out, "static")
    write_features(stage / f"{KEYS[1]}.npz", rows_of(1, DD), "1-1")
    with pytest.raises(ValueError, match=f"width {DS} .* {DD}"):
        large.write_large(stage, out, "static")
    (stage / f"{KEYS[1]}.npz").write_bytes((stage / f"{KEYS[1]}.npz").read_bytes()[:200])
    with pytest.raises(ValueError, match="003.npz"):
        large.write_large(stage, out, "static")
    assert contents(out) == before
