"""Features made elsewhere: three layouts, whose clip a row is, and what is wrong with what is refused."""

import dataclasses
import hashlib
import shutil
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from layout import make_clips

from helpers import external, large
from helpers.__main__ import main
from helpers.align import align_streams
from helpers.clips import TRAITS, find_clips, write_clips
from helpers.external import import_features, usable_rows
from helpers.files import FolderLock, LockedError, read_json, write_json
from helpers.names import match_clips
from helpers.reduction import ChannelGroups, Reduction
from helpers.store import FeatureFile, Stage, read_features, read_manifest, write_features

DS, DD = 7, 11  # distinct primes
KEYS = ("test80_02/_plk5k7PBEg.001", "training80_01/-AmMDnVl4s8.003", "training80_01/-AmMDnVl4s8.004")


def features(k, n=4, width=DS):
    """Row i of clip k holds 100 k + 10 i and up: no two numbers of a test are the same."""
    return (100.0 * k + 10 * np.arange(n)[:, None] + np.arange(width)).astype("float32")


def stage_of(folder, name, width):
    """A stage as 03 and 04 make it: times that decimal text cannot say shortly, one row invalid."""
    stage = Stage(folder / name, name, {"parameters": {"weights": "random"}, "weights": {"name": "random"}})
    for k, key in enumerate(KEYS):
        start_s = np.arange(k + 3) / 7 + 0.1
        rows = FeatureFile(
            features(k, k + 3, width), start_s, start_s + 1 / 3, 4 * np.arange(k + 3), np.arange(k + 3) != 1
        )
        write_features(stage.path(key), rows, "1-1")
    stage.finish()
    return stage.folder


def assert_equal_stages(made, original):
    for key in KEYS:
        a, b = read_features(made / f"{key}.npz"), read_features(original / f"{key}.npz")
        for f in dataclasses.fields(a):
            np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name), err_msg=f"{key} {f.name}")


@pytest.fixture
def per_clip(tmp_path):
    """A folder of one file per clip, called by the ends of their keys: with centres, with spans, as it is."""
    source = tmp_path / "their features"
    (source / "training80_01").mkdir(parents=True)
    t_s = np.array([0.3, 0.1, 0.2, 0.4])
    np.savez(source / "_plk5k7PBEg.001.mp4.npz", features=features(0), t_s=t_s)
    np.savez(source / "training80_01" / "-AmMDnVl4s8.003.npz", features=features(1), t_start_s=t_s, t_end_s=t_s + 0.2)
    np.save(source / "training80_01" / "-AmMDnVl4s8.004.npy", features(2))
    return source


def test_a_large_array_comes_back_as_the_stage_it_was_made_of(folder, tmp_path):
    original = stage_of(tmp_path / "run", "static", DS)
    path = large.write_large(original, tmp_path / "out", "static")
    manifest = import_features(path, tmp_path / "new", "static", data=folder)
    assert_equal_stages(tmp_path / "new" / "static", original)
    assert manifest["counts"] == {
        "clips": 3, "made": 3, "found": 0, "failed": 0, "rows": 12, "invalid_rows": 3, "other_faces": 0,
        "feature_dim": DS, "unmatched": 0,
    }  # fmt: skip
    assert read_manifest(tmp_path / "new" / "static", "03")["finished"]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest["identity"]["weights"] == {"name": "elsewhere", "source": path.name, "sha256": sha256}
    assert not [p for p in (tmp_path / "new").iterdir() if p.name.startswith(".part-")]


def test_a_stage_folder_of_another_run_is_a_folder_of_files(folder, tmp_path):
    original = stage_of(tmp_path / "run", "dynamic", DD)
    import_features(original, tmp_path / "new", "dynamic", data=folder)
    assert_equal_stages(tmp_path / "new" / "dynamic", original)


def test_a_csv_gives_the_same_stage_as_an_array(folder, tmp_path):
    original = stage_of(tmp_path / "run", "static", DS)
    path = large.write_large(original, tmp_path / "out", "static")
    table = pd.read_csv(path.with_suffix(".csv")).drop(columns="row")
    table = table.join(pd.DataFrame(np.load(path)).add_prefix("f")).sample(frac=1, random_state=5)
    table.to_csv(tmp_path / "all.csv", index=False)
    import_features(tmp_path / "all.csv", tmp_path / "new", "static", data=folder)
    assert_equal_stages(tmp_path / "new" / "static", original)


def test_an_array_in_the_order_of_a_csv_is_placed_by_frame_and_fps(folder, tmp_path):
    """The layout of the source project: rows in the order of the faces, every fifth frame."""
    np.save(tmp_path / "static_features_large.npy", np.concatenate([features(k) for k in (2, 0)]))
    lines = [f"{name},{frame}" for name in ("-AmMDnVl4s8.004.mp4", "_plk5k7PBEg.001") for frame in (0, 5, 10, 15)]
    (tmp_path / "faces.csv").write_text("clip,frame\n" + "\n".join(lines))
    manifest = import_features(
        tmp_path / "static_features_large.npy", tmp_path, "static", data=folder, index=tmp_path / "faces.csv", fps=25
    )
    rows = read_features(tmp_path / "static" / f"{KEYS[2]}.npz")
    np.testing.assert_array_equal(rows.features, features(2))
    np.testing.assert_allclose(rows.t_start_s, [0, 0.2, 0.4, 0.6])
    np.testing.assert_allclose(rows.t_end_s, [0.04, 0.24, 0.44, 0.64])
    assert rows.frame.tolist() == [0, 5, 10, 15]
    reason = "there are no features of it in static_features_large.npy"
    assert manifest["failed"] == [{"clip": KEYS[1], "reason": reason}]
    assert manifest["identity"]["elsewhere"]["fps"] == 25


def test_files_per_clip_are_sorted_in_time(folder, per_clip, tmp_path):
    import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)
    moments, spans, counted = (read_features(tmp_path / "new" / "static" / f"{key}.npz") for key in KEYS)
    np.testing.assert_allclose(moments.t_s, [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(moments.features, features(0)[[1, 2, 0, 3]])
    np.testing.assert_allclose(spans.t_end_s - spans.t_start_s, 0.2)
    np.testing.assert_array_equal(spans.features, features(1)[[1, 2, 0, 3]])
    assert spans.frame.tolist() == [-1] * 4  # unknown
    np.testing.assert_allclose(counted.t_start_s, [0, 0.2, 0.4, 0.6])


def test_an_imported_stream_is_aligned_with_one_that_was_made_here(folder, per_clip, tmp_path):
    made = stage_of(tmp_path / "run", "dynamic", DD)
    import_features(per_clip, tmp_path / "run", "static", data=folder, fps=5)
    clips = find_clips(folder).assign(**dict.fromkeys(TRAITS, 0.5))
    whole = Reduction(ChannelGroups(DS, DS), ChannelGroups(DD, DD), {})
    aligned = align_streams(clips, tmp_path / "run" / "static", made, whole)
    assert aligned.clips.tolist() == list(KEYS)
    assert aligned.static_mask.sum(1).tolist() == [4, 4, 4]
    assert aligned.dynamic_mask.sum(1).tolist() == [2, 3, 4]  # without the invalid row of each
    np.testing.assert_array_equal(aligned.static_features[2], features(2))
    np.testing.assert_allclose(aligned.static_t_s[2], [0.1, 0.3, 0.5, 0.7], rtol=1e-6)


def test_started_again_it_goes_on_and_other_features_are_refused(folder, per_clip, tmp_path):
    import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)
    (tmp_path / "new" / "static" / f"{KEYS[1]}.npz").unlink()
    again = import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)
    assert (again["counts"]["made"], again["counts"]["found"]) == (1, 2)
    np.save(per_clip / "training80_01" / "-AmMDnVl4s8.004.npy", features(3))
    with pytest.raises(ValueError, match=r"static was made differently: weights\.sha256"):
        import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)


def test_an_import_that_breaks_off_leaves_the_folder_free(folder, per_clip, tmp_path, monkeypatch):
    def breaks(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(external, "_write_clip", breaks)
    with pytest.raises(KeyboardInterrupt) as kept:  # with all that its frames hold
        import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)
    monkeypatch.undo()
    assert import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)["counts"]["made"] == 3
    assert kept.tb is not None


def test_rows_that_are_not_finite_are_invalid_with_their_reason(folder, per_clip, tmp_path):
    odd = features(2).astype("float64")
    odd[1, 3], odd[2, 0] = np.nan, 1e300  # more than float32 holds
    np.savez(per_clip / "training80_01" / "-AmMDnVl4s8.003.npz", features=odd, t_s=np.arange(4), valid=[1, 1, 1, 0])
    manifest = import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)
    rows = read_features(tmp_path / "new" / "static" / f"{KEYS[1]}.npz")
    assert rows.valid.tolist() == [True, False, False, False]
    assert not rows.features[1:3].any()
    assert manifest["failed"] == [
        {"clip": KEYS[1], "row": 1, "reason": "value 3 is not finite"},
        {"clip": KEYS[1], "row": 2, "reason": "value 0 is not finite"},
        {"clip": KEYS[1], "row": 3, "reason": "marked invalid where it was made"},
    ]
    assert manifest["counts"]["invalid_rows"] == 3


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-300]), "is damaged"),
        (lambda p: np.savez(p, features=features(1), t_s=np.arange(3)), r"t_s must be numbers of shape \(4,\)"),
        (lambda p: np.savez(p, features=features(1)[0], t_s=0), r"features must be numbers of shape \(n, D\)"),
        (lambda p: np.savez(p, features=features(1), t_start_s=np.arange(4)), "must come together"),
        (
            lambda p: np.savez(p, features=features(1), t_s=[0, 1, np.nan, 3]),
            "row 2: the clip must have a whole frame and end",
        ),
        (lambda p: np.savez(p, rows=features(1), times=np.arange(4)), "must hold an array 'features', got rows, times"),
        (lambda p: np.savez(p, np.array([{}], dtype=object)), "is damaged"),
    ],
)
def test_a_clip_whose_file_is_damaged_is_left_out_with_its_reason(folder, per_clip, tmp_path, damage, reason):
    import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)
    shutil.rmtree(tmp_path / "new")
    damage(per_clip / "training80_01" / "-AmMDnVl4s8.003.npz")
    manifest = import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)
    (failed,) = manifest["failed"]
    assert failed["clip"] == KEYS[1]
    with pytest.raises(ValueError, match=reason):
        raise ValueError(failed["reason"])
    assert "-AmMDnVl4s8.003.npz" in failed["reason"]
    assert manifest["counts"]["made"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "clip,t_s,f0\n_plk5k7PBEg.001,0,1\n_plk5k7PBEg.001,0,a lot",
            "all.csv line 3: f0 must be a number, got 'a lot'",
        ),
        ("clip,t_s,f0\n_plk5k7PBEg.001,soon,1", "all.csv line 2: t_s must be a number, got 'soon'"),
        ("clip,t_s,f0\n_plk5k7PBEg.001,,1", "all.csv line 2: t_s must be a number, got ''"),
        ("clip,t_s,f0\n,0,1", "all.csv line 2: clip must name a clip"),
        (
            "clip,t_s,frame,f0\n_plk5k7PBEg.001,0,0.5,1",
            "all.csv line 2: _plk5k7PBEg.001 must have a whole frame .* got frame 0.5",
        ),
        ("clip,t_s,valid,f0\n_plk5k7PBEg.001,0,maybe,1", "line 2: valid must be True or False, got 'maybe'"),
        ("clip,t_s,f0\n_plk5k7PBEg.001,0,1,2", "line 2 must not have more cells than there are names"),
        ("clip,t_s,f0\n_plk5k7PBEg.001,0,1\n_plk5k7PBEg.001,0,1,2", "all.csv is not a CSV in UTF-8 .*line 3"),
        ("who,t_s,f0\na,0,1", "all.csv must have a column 'clip', got who, t_s, f0"),
        ("clip,t_s\n_plk5k7PBEg.001,0", "must have columns of features beside clip, t_s"),
        ("clip,t_s,f0\n", "must have lines below its column names"),
        ("", "is not a CSV in UTF-8"),
        ("clip,f0\n_plk5k7PBEg.001,1", r"rows must have times \(t_s, or t_start_s and t_end_s\), got none. Give fps."),
        ("clip,t_s,f0\nnobody,0,1\n_plk5k7PBEg.001,0,1", "must fit one clip each, got nobody: there is no such clip"),
    ],
)
def test_a_damaged_table_is_refused_with_line_and_column(folder, tmp_path, text, message):
    (tmp_path / "all.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        import_features(tmp_path / "all.csv", tmp_path / "new", "static", data=folder)
    assert not (tmp_path / "new" / "static").exists()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("clip,t_s\n" + "_plk5k7PBEg.001,0\n" * 3, "must have a line per row of x.npy, 4, got 3"),
        ("clip,t_s,row\n_plk5k7PBEg.001,0,4", "line 2: row must be 0 to 3, each once, got 4"),
        ("clip,t_s,row\n_plk5k7PBEg.001,0,1\n_plk5k7PBEg.001,0,1", "line 3: row must be 0 to 3, each once, got 1"),
    ],
)
def test_an_index_that_does_not_fit_its_array_is_refused(folder, tmp_path, index, message):
    np.save(tmp_path / "x.npy", features(0))
    with pytest.raises(FileNotFoundError, match=r"x\.csv is missing: an array needs an index CSV"):
        import_features(tmp_path / "x.npy", tmp_path / "new", "static", data=folder)
    (tmp_path / "x.csv").write_text(index)
    with pytest.raises(ValueError, match=message):
        import_features(tmp_path / "x.npy", tmp_path / "new", "static", data=folder)


def test_names_that_fit_no_clip_or_several_are_refused_or_left_out(tmp_path):
    data = make_clips(tmp_path / "data", "a/one.mp4", "b/one.mp4", "b/two.mp4")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("one", "two", "three"):
        np.savez(source / f"{name}.npz", features=features(0), t_s=np.arange(4))
    with pytest.raises(ValueError, match="one: it fits a/one and b/one; three: there is no such clip"):
        import_features(source, tmp_path / "run", "static", data=data)
    manifest = import_features(source, tmp_path / "run", "static", data=data, skip_unmatched=True)
    assert (manifest["counts"]["made"], manifest["counts"]["unmatched"], manifest["counts"]["failed"]) == (1, 2, 2)
    assert {entry["clip"] for entry in manifest["failed"]} == {"one", "three", "a/one", "b/one"}


def test_two_names_of_one_clip_are_refused():
    named, refused = match_clips(["a.mp4", "a"], ["x/a"])
    assert named == {"x/a": "a.mp4"}
    assert refused == {"a": "a.mp4 means the same clip x/a"}


def test_clips_of_different_widths_are_refused(folder, per_clip, tmp_path):
    np.save(per_clip / "training80_01" / "-AmMDnVl4s8.004.npy", features(2, width=DD))
    with pytest.raises(ValueError, match=f"must be of one width, got {DS} for .* and {DD} for"):
        import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)
    assert not (tmp_path / "new" / "static").exists()


def test_wrong_arguments_are_named(folder, per_clip, tmp_path):
    with pytest.raises(ValueError, match="stream must be static or dynamic, got 'faces'"):
        import_features(per_clip, tmp_path, "faces", data=folder)
    with pytest.raises(ValueError, match="fps must be above 0, got -1"):
        import_features(per_clip, tmp_path, "static", data=folder, fps=-1)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        import_features(tmp_path / "nowhere", tmp_path, "static", data=folder)
    with pytest.raises(ValueError, match="must hold a .npy or .npz per clip, got none"):
        import_features(folder, tmp_path, "static", data=folder)


def test_whole_numbers_and_half_floats_are_features_too():
    for dtype in ("float16", "int32", "uint8"):
        rows, reasons = usable_rows(np.ones((2, 3), dtype), {"frame": np.array([255, 7], "uint8")}, 5)
        np.testing.assert_allclose(rows.t_end_s, [1.6, 51.2])  # 8 bits are not enough for frame 256
        assert rows.features.dtype == np.float32
        assert rows.valid.all()
        assert not reasons


def test_memory_does_not_grow_with_the_array(tmp_path):
    """33 MB of rows of 40 clips pass through less memory than a quarter of them."""
    data = make_clips(tmp_path / "data", *(f"c{k}.mp4" for k in range(40)))
    np.save(tmp_path / "x.npy", np.zeros((4000, 2048), "float32"))
    (tmp_path / "x.csv").write_text("clip\n" + "".join(f"c{k}\n" for k in range(40)) * 100)
    tracemalloc.start()
    manifest = import_features(tmp_path / "x.npy", tmp_path / "run", "static", data=data, fps=15)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert manifest["counts"]["rows"] == 4000
    assert peak < 8e6
    assert read_json(tmp_path / "run" / "static" / "manifest.json")["identity"]["elsewhere"]["layout"] == "array"


@pytest.mark.parametrize("source", ["stage", "array"])
def test_clips_with_odd_names_come_back_from_our_own_files(tmp_path, source):
    names = (" lead", "trail ", "a\rb", "c\nd", "x\\y")
    data = make_clips(tmp_path / "data", *(f"{name}.mp4" for name in names))
    stage = Stage(tmp_path / "run" / "static", "static", {})
    for k, name in enumerate(names):
        t_s = np.arange(4) / 5
        write_features(stage.path(name), FeatureFile(features(k), t_s, t_s, np.arange(4), t_s >= 0), "1-1")
    stage.finish()
    found = stage.folder if source == "stage" else large.write_large(stage.folder, tmp_path, "static")
    assert import_features(found, tmp_path / "new", "static", data=data)["counts"]["made"] == len(names)
    for k, name in enumerate(names):
        np.testing.assert_array_equal(read_features(tmp_path / "new" / "static" / f"{name}.npz").features, features(k))


@pytest.mark.parametrize("columns", ["t_s", "frame", "t_start_s,t_end_s"])
def test_a_clip_with_one_time_twice_is_refused(folder, tmp_path, columns):
    cells = [",".join([k] * (1 + columns.count(","))) for k in "010"]
    (tmp_path / "x.csv").write_text(f"clip,{columns},f0\n" + "".join(f"{KEYS[0]},{cell},5\n" for cell in cells))
    with pytest.raises(ValueError, match=rf"x\.csv line 4: {KEYS[0]} must have one row at a time, got another at 0 s"):
        import_features(tmp_path / "x.csv", tmp_path / "new", "static", data=folder, fps=5)
    assert not (tmp_path / "new" / "static").exists()


def test_features_are_not_taken_into_a_run_that_is_being_filled(folder, per_clip, tmp_path):
    with FolderLock(tmp_path / "new"), pytest.raises(LockedError, match="new is being filled by process"):
        import_features(per_clip, tmp_path / "new", "static", data=folder, fps=5)


def test_the_commands_write_large_files_and_take_them_back(folder, tmp_path, capsys):
    run, new = tmp_path / "run", tmp_path / "new"
    originals = {name: stage_of(run, name, width) for name, width in (("static", DS), ("dynamic", DD))}
    write_clips(find_clips(folder).assign(**dict.fromkeys(TRAITS, 0.5)), run / "clips.csv")
    assert main(["large", "--run", str(run), "--hdf5"]) == 0
    made = {f"{name}_features{end}" for name in originals for end in ("_large.npy", "_large.csv", "_large.json", ".h5")}
    assert {path.name for path in (run / "features").iterdir()} == made
    done = {"04_dynamic_extraction": {"fingerprint": "a"}, "05_alignment": {"fingerprint": "b"}}
    write_json(new / "run.json", done | {"06_training": {"fingerprint": "c"}})
    for name, original in originals.items():
        source = str(run / "features" / f"{name}_features_large.npy")
        assert main(["features", "--from", source, "--stream", name, "--data", str(folder), "--out", str(new)]) == 0
        assert_equal_stages(new / name, original)
    assert list(read_json(new / "run.json")) == ["04_dynamic_extraction"]  # what was made of other features is not done
    assert "3 clips made, 0 were there, 0 left out; 12 rows of 7, 3 of them invalid" in capsys.readouterr().out
    assert main(["large", "--run", str(folder)]) == 1
    assert "holds no features. Run 03_static_extraction first" in capsys.readouterr().err
