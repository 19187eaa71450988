"""Extraction of many clips: what is written, what is recorded, and that stopping and starting again changes nothing."""

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import chunkwork
import numpy as np
import pandas as pd
import pytest

from helpers import extract
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.extract import extract_dynamic, extract_static
from helpers.faces import prepare_clips
from helpers.files import ROOT, read_json
from helpers.store import read_features
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
def run(tmp_path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Two good clips and two bad ones, and the folders as parameters."""
    data = tmp_path / "data ä"
    (data / "-b").mkdir(parents=True)
    for key, source in zip(GOOD, SHIPPED, strict=False):
        shutil.copy(source, data / f"{key}.mp4")
    (data / "empty.mp4").touch()
    shutil.copy(SAMPLE / "awkward" / "no_face.mp4", data / "wall.mp4")
    keys = sorted([*GOOD, *BAD])
    clips = pd.DataFrame({"path": [f"{key}.mp4" for key in keys]}, index=pd.Index(keys, name="key"))
    return clips, {"data_dir": str(data), "out_dir": str(tmp_path / "run")}


def extract_all(clips: pd.DataFrame, folders: dict[str, str], batch_size: int = 32) -> list[dict]:
    return [
        prepare_clips(clips, PreparationConfig(**folders)),
        extract_static(clips, StaticConfig(**folders, batch_size=batch_size)),
        extract_dynamic(clips, DynamicConfig(**folders)),
    ]


def contents(folders: dict[str, str]) -> dict[str, bytes]:
    out = Path(folders["out_dir"])
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.npz"))}


def test_every_good_clip_has_its_files_and_every_bad_one_its_reason_and_manifest_and_log_say_how(run):
    clips, folders = run
    faces, static, dynamic = extract_all(clips, folders)
    assert {entry["clip"]: entry["reason"] for entry in faces["failed"]} == BAD
    for manifest in (static, dynamic):
        reasons = {entry["clip"]: entry["reason"] for entry in manifest["failed"]}
        assert reasons == {key: f"no faces file: {reason}" for key, reason in BAD.items()}
    out = Path(folders["out_dir"])
    for key in GOOD:
        assert read_track(out / "faces" / f"{key}.npz").n_frames == 73
        rows = read_features(out / "static" / f"{key}.npz")
        assert rows.features.shape == (9, 3)
        assert rows.frame.tolist() == [4, 12, 20, 28, 36, 44, 52, 60, 68]
        rows = read_features(out / "dynamic" / f"{key}.npz")
        assert rows.features.shape == (9, 2)
        assert rows.frame.tolist() == [0, 8, 16, 24, 32, 40, 48, 56, 64]
    assert len(contents(folders)) == 3 * len(GOOD)
    identity = dynamic["identity"]
    assert identity["parameters"]["endpoint"] == "Mixed_3c"
    assert identity["preparation"]["parameters"]["backend"] in ("pyav", "opencv")
    assert identity["weights"]["sha256"] == "0" * 64
    assert identity["network_backend"] in ("tensorflow", "jax", "torch")
    assert dynamic["finished"]
    counts = {"clips": 4, "made": 2, "found": 0, "failed": 2, "rows": 18, "invalid_rows": 0, "feature_dim": 2}
    assert dynamic["counts"] == counts
    assert static["identity"]["parameters"]["every_n_frames"] == 8
    assert folders["data_dir"] not in json.dumps(static["identity"])
    check_logs(Path(folders["out_dir"]))


def check_logs(out: Path) -> None:
    """The eleven keys of the source project, and more."""
    log = read_json(out / "static" / "extraction_log.json")
    assert (log["total_images"], log["features_shape"]) == (18, [18, 3])
    assert log["images_per_second"] == pytest.approx(1 / log["average_time_per_image"])
    assert {
        "start_time", "total_images", "batch_size", "gpu_acceleration", "end_time", "extraction_time_seconds",
        "extraction_time_formatted", "features_shape", "features_saved_to", "average_time_per_image",
        "images_per_second",
    } == set(log) - {"weights", "failed", "seconds_spent", "network_share", "usage", "device"}  # fmt: skip
    assert set(log["seconds_spent"]) == {"decoding", "cropping", "network", "writing"}
    assert 0 < log["network_share"] < 1
    assert log["usage"]["memory_peak_gib"] > 0
    assert "memory peak gib " in (out / "progress.log").read_text()
    log = read_json(out / "dynamic" / "extraction_log.json")
    assert log["total_sequences"] == 18
    assert set(log["seconds_spent"]) == {"decoding", "cropping", "flow", "network", "writing"}


def test_stopping_and_starting_again_ends_in_the_same_files(run, monkeypatch):
    clips, folders = run
    extract_all(clips, folders)
    whole = contents(folders)
    shutil.rmtree(folders["out_dir"])
    calls = []

    def stop_at_the_second(x: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return mean_colour(x)

    with monkeypatch.context() as patch:
        patch.setattr(extract, "compile_forward", lambda network, precision, prepare=None: stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            extract_all(clips, folders, batch_size=9)
    assert not read_json(Path(folders["out_dir"]) / "static" / "manifest.json")["finished"]
    assert len(contents(folders)) == 3
    _, static, _ = extract_all(clips, folders)
    assert (static["counts"]["made"], static["counts"]["found"], static["counts"]["rows"]) == (1, 1, 18)
    assert contents(folders) == whole


def test_batch_sizes_given_or_measured_change_no_file(run, monkeypatch):
    clips, folders = run
    extract_all(clips, folders)
    whole = contents(folders)
    monkeypatch.setattr(extract, "measured_batch", lambda forward, shape, **_: 3)
    for size, sizes in ((5, {"static": 5, "dynamic": 5}), (0, {"static": 3, "dynamic": 3 * 8})):  # of 64 flows
        shutil.rmtree(folders["out_dir"])
        prepare_clips(clips, PreparationConfig(**folders))
        extract_static(clips, StaticConfig(**folders, batch_size=size))
        extract_dynamic(clips, DynamicConfig(**folders, batch_size=size))
        assert contents(folders) == whole
        for name, n in sizes.items():
            assert read_json(Path(folders["out_dir"]) / name / "extraction_log.json")["batch_size"] == n


def test_a_decoder_that_crashes_costs_one_clip(run, monkeypatch):
    clips, folders = run
    monkeypatch.setattr("helpers.faces.tracks_of", chunkwork.tracks_of_all_but_one)
    failed = {entry["clip"]: entry["reason"] for entry in prepare_clips(clips, PreparationConfig(**folders))["failed"]}
    assert set(failed) == {*BAD, "a"}
    assert "SIGSEGV" in failed["a"]
    monkeypatch.undo()
    assert prepare_clips(clips, PreparationConfig(**folders))["counts"]["made"] == 1  # the next run tries it again


def test_what_is_done_is_not_done_again_and_what_was_damaged_or_lost_is(run):
    clips, folders = run
    with pytest.raises(FileNotFoundError, match="02_clip_preparation"):
        extract_static(clips, StaticConfig(**folders))
    extract_all(clips, folders)
    out = Path(folders["out_dir"])
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    for manifest in extract_all(clips, folders):
        assert (manifest["counts"]["made"], manifest["counts"]["found"], len(manifest["failed"])) == (0, 2, 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    path = out / "static" / f"{GOOD[0]}.npz"
    path.write_bytes(path.read_bytes()[:100])
    assert extract_static(clips, StaticConfig(**folders))["counts"]["made"] == 1
    assert read_features(path).features.shape == (9, 3)
    (out / "faces" / "a.npz").unlink()
    manifest = extract_static(clips, StaticConfig(**folders))
    assert "a" in {entry["clip"] for entry in manifest["failed"]}
    assert not (out / "static" / "a.npz").exists()


def test_a_changed_clip_is_made_again_from_its_faces_on_and_leaves_no_rows_where_it_is_broken(run):
    clips, folders = run
    extract_all(clips, folders)
    path = Path(folders["data_dir"]) / "a.mp4"
    shutil.copy(SHIPPED[2], path)
    stale = extract_static(clips, StaticConfig(**folders))
    assert "changed since" in {entry["clip"]: entry["reason"] for entry in stale["failed"]}["a"]
    for manifest in extract_all(clips, folders):
        assert manifest["counts"]["made"] == 1
    path.write_text("not a video\n")
    for manifest in extract_all(clips, folders):
        assert "a" in {entry["clip"] for entry in manifest["failed"]}
    assert sorted(contents(folders)) == sorted(f"{stage}/{GOOD[0]}.npz" for stage in ("faces", "static", "dynamic"))


def test_other_parameters_are_refused_with_the_difference(run):
    clips, folders = run
    extract_all(clips, folders)
    with pytest.raises(ValueError, match=r"parameters\.flow: 'dis_medium' here, 'dis_fast' there"):
        extract_dynamic(clips, DynamicConfig(**folders, flow="dis_medium"))
    assert extract_static(clips, StaticConfig(**folders, batch_size=5))["counts"]["found"] == 2


def test_rows_without_a_face_are_counted_with_their_reason_on_every_call(run):
    clips, folders = run
    shutil.copy(SAMPLE / "awkward" / "face_leaving.mp4", Path(folders["data_dir"]) / "a.mp4")
    for _ in range(2):
        _, static, dynamic = extract_all(clips, folders)
        for manifest in (static, dynamic):
            rows = [entry for entry in manifest["failed"] if "row" in entry]
            assert [entry["row"] for entry in rows] == [5, 6, 7, 8]
            assert all(entry["reason"].startswith("the face is lost at ") for entry in rows)
            assert manifest["counts"]["invalid_rows"] == 4
    assert not read_features(Path(folders["out_dir"]) / "static" / "a.npz").features[5:].any()


def cut_short(track: Path) -> None:
    track.write_bytes(track.read_bytes()[:300])


def made_a_folder(track: Path) -> None:
    track.unlink()
    (track / "within").mkdir(parents=True)


def of_another(track: Path) -> None:
    shutil.copy(track.with_name("-b") / "ü 1.001.npz", track)


@pytest.mark.parametrize(
    ("damage", "why", "made"),
    [
        (cut_short, "it is damaged", 1),
        (made_a_folder, "it is damaged", 0),
        (of_another, "the clip has changed since", 1),
    ],
)
def test_a_damaged_track_costs_its_clip_until_02_has_made_it_again(run, damage, why, made):
    clips, folders = run
    prepare_clips(clips, PreparationConfig(**folders))
    damage(Path(folders["out_dir"]) / "faces" / "a.npz")
    for extracted in (extract_static(clips, StaticConfig(**folders)), extract_dynamic(clips, DynamicConfig(**folders))):
        reasons = {entry["clip"]: entry["reason"] for entry in extracted["failed"]}
        assert why in reasons["a"]
    failed = {entry["clip"]: entry["reason"] for entry in prepare_clips(clips, PreparationConfig(**folders))["failed"]}
    assert failed.get("a", "").startswith("" if made else "IsADirectoryError")
    assert extract_static(clips, StaticConfig(**folders))["counts"]["made"] == made
