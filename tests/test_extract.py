"""Extraction of many clips: what is written and recorded; stopping, starting again, bad files change nothing else."""

import json
import shutil
import time
from itertools import count
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from trees import BAD_PICTURES, SIDE, face, reasons, some_flow, table_of, write_faces, write_pairs

from helpers import extract
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.extract import extract_dynamic, extract_static
from helpers.faces import prepare_clips
from helpers.files import ROOT, read_json
from helpers.store import read_arrays, read_features
from helpers.tracks import read_track
from helpers.weights import Weights

SAMPLE = ROOT / "data_sample"
SHIPPED = sorted((SAMPLE / "training80_01").glob("*.mp4"))
GOOD = ["-b/ü 1.001", "a"]
BAD = {
    "empty": "the file is empty (0 bytes). Copy or download it again.",
    "wall": "no face found in 6 looked-at frames",
}


def mean_colour(x: np.ndarray) -> np.ndarray:
    """A static network of 3 features, slow enough for its share of the time to show in the log."""
    time.sleep(0.05)
    return x.mean(axis=(1, 2))


def halve_time(x: np.ndarray) -> np.ndarray:
    """A motion network up to a stage of 2 channels that halves time."""
    return x.reshape(len(x), -1, 2, *x.shape[2:]).mean(axis=2)


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    """Small networks in place of the real ones."""
    weights = Weights("random", "a test", "0" * 64, "none")
    backbone = SimpleNamespace(input_px=64, feature_dim=3, prepare=None, weights=weights, model=mean_colour)
    monkeypatch.setattr(extract, "build_backbone", lambda name, weights: backbone)
    monkeypatch.setattr(extract, "build_motion_network", lambda weights_name, endpoint: (halve_time, weights))
    monkeypatch.setattr(extract, "compile_forward", lambda network, precision, prepare=None: network)


@pytest.fixture
def run(tmp_path):
    """Two good clips and two bad ones; the folder of videos, that of results, and both as parameters."""
    data, out = tmp_path / "data ä", tmp_path / "run"
    (data / "-b").mkdir(parents=True)
    for key, source in zip(GOOD, SHIPPED, strict=False):
        shutil.copy(source, data / f"{key}.mp4")
    (data / "empty.mp4").touch()
    shutil.copy(SAMPLE / "awkward" / "no_face.mp4", data / "wall.mp4")
    return table_of(sorted([*GOOD, *BAD])), data, out, {"data_dir": str(data), "out_dir": str(out)}


def extract_all(clips, folders):
    stages = (prepare_clips, PreparationConfig), (extract_static, StaticConfig), (extract_dynamic, DynamicConfig)
    return [stage(clips, config(**folders)) for stage, config in stages]


def contents(out):
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*.npz"))}


def bad_rows(manifest):
    return [(entry["clip"], entry["row"], entry["reason"]) for entry in manifest["failed"] if "row" in entry]


def test_every_good_clip_has_its_files_every_bad_one_its_reason_and_manifest_and_log_say_how(run):
    clips, data, out, folders = run
    with pytest.raises(FileNotFoundError, match="02_clip_preparation"):
        extract_static(clips, StaticConfig(**folders))
    faces, static, dynamic = extract_all(clips, folders)
    assert reasons(faces) == BAD
    assert reasons(static) == reasons(dynamic) == {key: f"no faces file: {reason}" for key, reason in BAD.items()}
    for key in GOOD:
        assert read_track(out / "faces" / f"{key}.npz").n_frames == 73
        for name, width, first in (("static", 3, 4), ("dynamic", 2, 0)):
            rows = read_features(out / name / f"{key}.npz")
            assert rows.features.shape == (9, width)
            assert rows.frame.tolist() == list(range(first, 73, 8))[:9]
    identity = dynamic["identity"]
    assert identity["parameters"]["endpoint"] == "Mixed_3c"
    assert identity["preparation"]["parameters"]["backend"] == "pyav"
    assert identity["weights"]["sha256"] == "0" * 64
    assert str(data) not in json.dumps(static["identity"])
    log = read_json(out / "static" / "extraction_log.json")
    assert (log["total_images"], log["features_shape"]) == (18, [18, 3])
    assert log["images_per_second"] == pytest.approx(1 / log["average_time_per_image"])
    assert set(log) >= {
        "start_time", "total_images", "batch_size", "gpu_acceleration", "end_time", "extraction_time_seconds",
        "extraction_time_formatted", "features_shape", "features_saved_to", "average_time_per_image",
        "images_per_second", "weights", "failed",
    }  # fmt: skip
    assert 0 < log["network_share"] < 1
    assert log["usage"]["memory_peak_gib"] > 0
    log = read_json(out / "dynamic" / "extraction_log.json")
    assert set(log["seconds_spent"]) == {"decoding", "cropping", "flow", "network", "writing"}
    with pytest.raises(ValueError, match=r"parameters\.flow: 'dis_medium' here, 'dis_fast' there"):
        extract_dynamic(clips, DynamicConfig(**folders, flow="dis_medium"))


def test_stopping_and_starting_again_and_other_batches_end_in_the_same_files(run, monkeypatch):
    clips, _, out, folders = run
    extract_all(clips, folders)
    whole, calls = contents(out), count()
    shutil.rmtree(out / "static")

    def stop_at_the_second(x: np.ndarray) -> np.ndarray:
        if next(calls) == 1:  # of two threads
            raise KeyboardInterrupt
        return mean_colour(x)

    with monkeypatch.context() as patch:
        patch.setattr(extract, "compile_forward", lambda network, precision, prepare=None: stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            extract_static(clips, StaticConfig(**folders, batch_size=9))
    assert not read_json(out / "static" / "manifest.json")["finished"]
    assert len(list((out / "static").rglob("*.npz"))) == 1
    counts = extract_static(clips, StaticConfig(**folders, batch_size=5))["counts"]
    assert (counts["made"], counts["found"], counts["rows"]) == (1, 1, 18)
    shutil.rmtree(out / "dynamic")
    monkeypatch.setattr(extract, "measured_batch", lambda forward, shape, **_: 3)
    extract_dynamic(clips, DynamicConfig(**folders, batch_size=0))
    assert read_json(out / "dynamic" / "extraction_log.json")["batch_size"] == 3 * 8  # of 64 flows
    assert contents(out) == whole


def made_a_folder(track):
    track.unlink()
    (track / "within").mkdir(parents=True)


DAMAGES = [  # of a track, and whether the preparation can make it again
    (lambda track: track.write_bytes(track.read_bytes()[:300]), True),
    (lambda track: shutil.copy(track.with_name("-b") / "ü 1.001.npz", track), True),  # that of another clip
    (made_a_folder, False),
]


def test_what_is_done_is_not_done_again_and_what_was_damaged_lost_or_changed_is(run):
    clips, data, out, folders = run
    extract_all(clips, folders)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    for manifest in extract_all(clips, folders):
        assert (manifest["counts"]["made"], manifest["counts"]["found"], len(manifest["failed"])) == (0, 2, 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    rows, track, video = out / "static" / "a.npz", out / "faces" / "a.npz", data / "a.mp4"
    rows.write_bytes(rows.read_bytes()[:100])
    assert extract_static(clips, StaticConfig(**folders))["counts"]["made"] == 1
    for damage, made in DAMAGES:
        damage(track)
        assert "it is damaged, or the clip has changed" in reasons(extract_static(clips, StaticConfig(**folders)))["a"]
        assert not rows.exists()
        failed = reasons(prepare_clips(clips, PreparationConfig(**folders)))
        assert failed.get("a", "").startswith("" if made else "IsADirectoryError")
    shutil.rmtree(track)
    shutil.copy(SAMPLE / "awkward" / "face_leaving.mp4", video)
    assert "a" in reasons(extract_static(clips, StaticConfig(**folders)))
    for made in (1, 0):
        manifests = extract_all(clips, folders)
        assert [manifest["counts"]["made"] for manifest in manifests] == [made] * 3
        for manifest in manifests[1:]:  # the same said of rows without a face, whether made or found
            assert [row for _, row, _ in bad_rows(manifest)] == [5, 6, 7, 8]
            assert all(reason.startswith("the face is lost at ") for *_, reason in bad_rows(manifest))
            assert manifest["counts"]["invalid_rows"] == 4
    assert not read_features(rows).features[5:].any()
    video.write_text("not a video\n")
    assert all("a" in reasons(manifest) for manifest in extract_all(clips, folders))
    assert [*map(str, contents(out))] == [f"{stage}/{GOOD[0]}.npz" for stage in ("dynamic", "faces", "static")]


KEYS = ["train-1/a.001", "train-1/b.001", "train-1/c.001"]
FLOW = some_flow(25, SIDE, SIDE, sd_px=2.0)


@pytest.fixture
def trees(tmp_path):
    """Faces and flow of two clips without videos, 20 and 25 each; a third has neither."""
    for name in ("a.001", "b.001"):
        write_faces(tmp_path / "faces" / name, range(0, 100, 5), "face_frame_{}.jpg")  # 5 before 10
        write_pairs(tmp_path / "flow" / name, FLOW)
    return tmp_path


def stored(root, **how):
    """The manifest of rows from pictures of faces, or from flow where its folder is given."""
    how = {"data_dir": str(root), "out_dir": str(root / "run"), "workers": 1} | how
    if "flow_dir" in how:
        return extract_dynamic(table_of(KEYS, ""), DynamicConfig(**how, input_px=32))
    return extract_static(table_of(KEYS, ""), StaticConfig(**{"faces_dir": str(root / "faces")} | how))


def test_rows_of_stored_faces_have_the_times_of_their_numbers(trees):
    manifest = stored(trees)
    assert manifest["counts"] == {
        "clips": 3, "made": 2, "found": 0, "failed": 1, "rows": 40, "invalid_rows": 0, "feature_dim": 3,
    }  # fmt: skip
    assert reasons(manifest) == {KEYS[2]: "there is nothing of it in faces"}
    assert manifest["identity"]["stored"] == {"faces": "faces", "side_px": SIDE, "fps": 30.0}
    assert "every_n_frames" not in manifest["identity"]["parameters"]
    rows = read_features(trees / "run" / "static" / f"{KEYS[0]}.npz")
    assert rows.frame.tolist() == list(range(0, 100, 5))
    np.testing.assert_allclose(rows.t_start_s, np.arange(20) / 6)
    np.testing.assert_allclose(rows.t_end_s - rows.t_start_s, 1 / 30)
    expected = [cv2.resize(face(number), (64, 64)).mean(axis=(0, 1)) for number in range(0, 100, 5)]
    np.testing.assert_allclose(rows.features, expected, atol=2)  # JPEG
    assert "reason" not in read_arrays(trees / "run" / "static" / f"{KEYS[0]}.npz")
    with pytest.raises(ValueError, match=r"stored\.fps: 25.0 here, 30.0 there"):
        stored(trees, faces_fps=25.0)
    shutil.move(trees / "faces", trees / "moved" / "faces")
    assert stored(trees, faces_dir=str(trees / "moved" / "faces"), batch_size=3)["counts"]["found"] == 2


def test_bad_pictures_are_rows_with_a_reason_that_a_second_run_repeats(trees):
    for name, (write, _) in BAD_PICTURES.items():
        write(trees / "faces" / "a.001" / name)
    for found in (0, 2):
        manifest = stored(trees)
        assert manifest["counts"]["found"] == found
        assert [row for _, row, _ in bad_rows(manifest)] == list(range(20, 20 + len(BAD_PICTURES)))
        for (*_, reason), (name, (_, expected)) in zip(bad_rows(manifest), BAD_PICTURES.items(), strict=True):
            assert reason.startswith(f"{name}: {expected}")
    rows = read_features(trees / "run" / "static" / f"{KEYS[0]}.npz")
    assert rows.valid.tolist() == [True] * 20 + [False] * len(BAD_PICTURES)
    assert not rows.features[20:].any()


def test_a_bad_flow_costs_the_rows_that_it_is_part_of(trees):
    folder, flow_dir = trees / "flow" / "a.001", str(trees / "flow")
    (folder / "flow_0009_0010.npy").unlink()
    np.save(folder / "flow_0012_0013.npy", np.full((SIDE, SIDE, 2), np.nan, np.float32))
    np.save(folder / "flow_0024_0025.npy", np.zeros((3, 3, 2), np.float32))  # behind the last row
    for _ in range(2):
        manifest = stored(trees, flow_dir=flow_dir)
        assert bad_rows(manifest) == [(KEYS[0], 1, "flow_0009_0010.npy: missing")]
    made = "pairs of unknown method"
    assert manifest["identity"]["stored"] == {"flow": "flow", "side_px": SIDE, "fps": 6.0, "made": made}
    assert not {"flow_dir", "flow_fps", "flow"} & set(manifest["identity"]["parameters"])
    rows, whole = (read_features(trees / "run" / "dynamic" / f"{key}.npz") for key in KEYS[:2])
    np.testing.assert_allclose(rows.t_start_s, np.arange(3) * 8 / 6)
    np.testing.assert_allclose(whole.features[0], FLOW[:8].mean(axis=(0, 1, 2)) / 20, atol=1e-5)
    np.testing.assert_array_equal(rows.features[[0, 2]], whole.features[[0, 2]])
    how = {"mode": "windows", "window": 10, "stride": 5, "out_dir": str(trees / "windows")}
    found = bad_rows(stored(trees, flow_dir=flow_dir, **how))  # windows from 0, 5, 10 and 15: all of them
    assert [(key, int(reason[5:9])) for key, _, reason in found] == [(KEYS[0], n) for n in (9, 9, 12, 24)]
