"""Extraction: what rows stand for, what is written of many clips; stopping and bad files change nothing else."""

import json
import shutil
import time
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numbered import WIDTH, read_numbers, write_numbered
from trees import BAD_PICTURES, SIDE, face, reasons, some_flow, table_of, write_faces, write_pairs

from helpers import extract, rows
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.extract import extract_dynamic, extract_static
from helpers.faces import prepare_clips, track_clip
from helpers.files import ROOT, read_json
from helpers.flow import OpticalFlowComputer, normalise_flow, resize_flow
from helpers.forward import NetworkError
from helpers.pipeline import rows_of_clip
from helpers.rows import Chunk, DynamicRows, Job, StaticRows, face_crops, face_flows
from helpers.store import ClipError, read_arrays, read_features
from helpers.tracks import crop_at, read_track
from helpers.video import read_frames
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
    """A motion network up to a stage of 2 channels: (B, T, S, S, 2) to the mean of each pair of time steps."""
    assert x.shape[1] % 2 == 0
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


def stored(root, keys=KEYS, **how):
    """The manifest of rows from pictures of faces, or from flow where its folder is given."""
    how = {"data_dir": str(root), "out_dir": str(root / "run"), "workers": 1} | how
    if "flow_dir" in how:
        return extract_dynamic(table_of(keys, ""), DynamicConfig(**how, input_px=32))
    return extract_static(table_of(keys, ""), StaticConfig(**{"faces_dir": str(root / "faces")} | how))


def test_rows_of_stored_faces_have_the_times_of_their_numbers_and_bad_ones_a_reason_that_a_second_run_repeats(
    trees, caplog
):
    for name, (write, _) in BAD_PICTURES.items():
        write(trees / "faces" / "a.001" / name)
    write_faces(trees / "faces" / "b.001_aligned", [0])
    n = len(BAD_PICTURES)
    manifest = stored(trees)
    assert manifest["counts"] == {
        "clips": 3, "made": 2, "found": 0, "failed": 1, "rows": 40 + n, "invalid_rows": n, "feature_dim": 3,
    }  # fmt: skip
    assert reasons(manifest) == {KEYS[2]: "there is nothing of it in faces"}
    assert "b.001_aligned in faces is left out" in caplog.text  # b.001 has its own name
    assert manifest["identity"]["stored"] == {"faces": "faces", "side_px": SIDE, "fps": 30.0}
    assert "every_n_frames" not in manifest["identity"]["parameters"]
    with pytest.raises(ValueError, match=r"stored\.fps: 25.0 here, 30.0 there"):
        stored(trees, faces_fps=25.0)
    with pytest.raises(ValueError, match="of this run"):
        stored(trees, keys=["other"])
    shutil.move(trees / "faces", trees / "moved" / "faces")
    again = stored(trees, faces_dir=str(trees / "moved" / "faces"), batch_size=3)
    assert (again["counts"]["found"], bad_rows(again)) == (2, bad_rows(manifest))
    for (key, row, reason), k, (name, (_, why)) in zip(bad_rows(again), range(n), BAD_PICTURES.items(), strict=True):
        assert (key, row) == (KEYS[0], 20 + k)
        assert reason.startswith(f"{name}: {why}")
    got, whole = (read_features(trees / "run" / "static" / f"{key}.npz") for key in KEYS[:2])
    assert got.valid.tolist() == [True] * 20 + [False] * n
    assert not got.features[20:].any()
    np.testing.assert_array_equal(got.features[:20], whole.features)
    assert whole.frame.tolist() == list(range(0, 100, 5))
    np.testing.assert_allclose(whole.t_start_s, np.arange(20) / 6)
    np.testing.assert_allclose(whole.t_end_s - whole.t_start_s, 1 / 30)
    expected = [cv2.resize(face(number), (64, 64)).mean(axis=(0, 1)) for number in range(0, 100, 5)]
    np.testing.assert_allclose(whole.features, expected, atol=2)  # JPEG
    assert "reason" not in read_arrays(trees / "run" / "static" / f"{KEYS[1]}.npz")


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


def track_of(n_frames, seen_until_s=1e3):
    """A face that fills the numbered clip's upper left square."""
    box, has_face = np.float32([0, 0, WIDTH, WIDTH]), lambda t_s: np.asarray(t_s) <= seen_until_s
    return SimpleNamespace(fps=15.0, n_frames=n_frames, align_eyes=False, box_xyxy=box, has_face=has_face)


def numbers_of(crops):
    """A network whose only feature is the number that a frame carries, plus one."""
    return np.float32(read_numbers(crops))[:, None] + 1


def static_rows(path, track, network, batch_size):
    crops = face_crops(Job(path, track, StaticConfig(), "pyav", WIDTH))
    return rows_of_clip(StaticRows(track), crops, network, batch_size)


@pytest.mark.parametrize(
    ("n", "batch_size", "frames"),
    [(29, 1, [4, 12, 20, 28]), (29, 32, [4, 12, 20, 28]), (1, 32, [0]), (3, 32, [1]), (7, 32, [3]), (8, 32, [4])],
)
def test_static_rows_stand_for_the_middle_frame_of_each_segment(tmp_path, n, batch_size, frames):
    got = static_rows(write_numbered(tmp_path / "clip.mp4", n), track_of(n), numbers_of, batch_size)
    assert got.features[:, 0].tolist() == [frame + 1 for frame in frames]
    assert got.frame.tolist() == frames
    np.testing.assert_allclose(got.t_start_s, np.array(frames) / 15)
    np.testing.assert_allclose(got.t_end_s, (np.array(frames) + 1) / 15)
    assert got.valid.all()


def test_rows_not_finite_without_a_face_or_that_the_network_fails_on_are_zero_and_invalid(tmp_path):
    def odd(crops):
        features = numbers_of(crops)
        if 21 in features:
            raise NetworkError("the network failed on an input")
        return np.where(features == 13, np.nan, features)

    track = track_of(37, seen_until_s=2.0)
    got = static_rows(write_numbered(tmp_path / "clip.mp4", 37), track, odd, 2)
    assert got.features[:, 0].tolist() == [5, 0, 0, 29, 0]
    assert got.valid.tolist() == [True, False, False, True, False]
    why = StaticRows(track).why_invalid(got)
    assert list(why) == [1, 2, 4]
    assert why[1] == why[2] != why[4] == "the face is lost at 2.4 s"


def dynamic_rows(n, network, **parameters):
    """Rows of n flows of 2x2 px in chunks of 5; flow k is 100 + k everywhere and begins with frame 2k of the file."""
    cfg, numbers = DynamicConfig(**parameters), np.arange(n)
    chunks = [
        Chunk(np.ones((len(k), 2, 2, 2), np.float32) * (100 + k)[:, None, None, None], k / 15, 2 * k, "d")
        for k in np.array_split(numbers, range(5, n, 5))
    ]
    of_clip = DynamicRows(track_of(n + 1), cfg)
    return rows_of_clip(of_clip, chunks, network, cfg.batch_size), of_clip.why_invalid


def pooled(x):
    """A whole network: row i is the mean of flows 8i to 8i+15, (B, ceil(T / 8) - 1, 2)."""
    return np.stack([x[:, i : i + 16].mean(axis=(1, 2, 3)) for i in range(0, x.shape[1] - 8, 8)], axis=1)


WHOLE, POOLED, WINDOWS = {"endpoint": "Mixed_3c"}, {"endpoint": "", "input_px": 224}, {"mode": "windows"}


@pytest.mark.parametrize("at_once", [8, 512])
@pytest.mark.parametrize(("how", "network", "overhang"), [(WHOLE, halve_time, 0), (POOLED, pooled, 8)])
@pytest.mark.parametrize("segment", [8, 16])
@pytest.mark.parametrize("n", [77, 31])
def test_rows_of_a_whole_clip_are_means_over_their_flows(monkeypatch, at_once, how, network, overhang, segment, n):
    monkeypatch.setattr(rows, "FLOWS_AT_ONCE", at_once)
    got, _ = dynamic_rows(n, network, **how, segment=segment)
    starts = np.arange(0, n - segment - overhang + 1, segment)
    expected = [100 + np.mean(np.arange(start, start + segment + overhang)) for start in starts]
    np.testing.assert_allclose(got.features, np.repeat(expected, 2).reshape(-1, 2))
    np.testing.assert_allclose(got.t_start_s, starts / 15)
    np.testing.assert_allclose(got.t_end_s, (starts + segment + overhang) / 15)
    assert got.frame.tolist() == (2 * starts).tolist()
    assert got.valid.all()


@pytest.mark.parametrize("segment", [8, 24])
def test_where_a_long_clip_is_cut_into_passes_no_row_meets_a_border_in_the_middle(monkeypatch, segment):
    def blurred(x):
        """A halve_time that sees 9 flows on either side of a row's own: a running mean with a border of zeros."""
        means = [np.convolve(of[:, 0, 0, 0], np.ones(19) / 19, "same") for of in x]
        return np.stack(means)[..., None, None, None]

    in_passes, _ = dynamic_rows(731, blurred, segment=segment)
    monkeypatch.setattr(rows, "FLOWS_AT_ONCE", 10_000)
    once, _ = dynamic_rows(731, blurred, segment=segment)
    assert len(once.features) == 731 // segment
    np.testing.assert_allclose(in_passes.features, once.features, rtol=1e-6)


@pytest.mark.parametrize(("window", "stride", "n"), [(16, 8, 72), (16, 5, 61), (9, 13, 72), (16, 16, 16)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_windows_are_computed_one_by_one(window, stride, n, batch_size):
    def network(x):
        assert x.shape[:2] == (min(batch_size, len(starts)), window)
        return x

    starts = np.arange(0, n - window + 1, stride)
    got, _ = dynamic_rows(n, network, **WINDOWS, window=window, stride=stride, batch_size=batch_size)
    np.testing.assert_allclose(got.features[:, 0], 100 + starts + (window - 1) / 2)
    np.testing.assert_allclose(got.t_end_s, (starts + window) / 15)


@pytest.mark.parametrize(
    ("how", "network", "n", "length", "valid"),
    [(WHOLE, halve_time, 4, 8, True), (WHOLE, halve_time, 7, 8, True), (POOLED, pooled, 7, 16, False)]
    + [(WINDOWS, halve_time, 7, 16, False), (WINDOWS, halve_time, 8, 16, True)],
)
def test_too_short_a_clip_is_padded_with_no_motion_and_invalid_but_kept_where_that_is_most_of_it(
    how, network, n, length, valid
):
    got, why_invalid = dynamic_rows(n, network, **how)
    np.testing.assert_allclose(got.features, [[sum(range(100, 100 + n)) / length] * 2])
    assert (got.t_end_s.tolist(), got.valid.tolist()) == ([n / 15], [valid])
    assert why_invalid(got) == ({} if valid else {0: "made mostly of padding: the clip is too short"})
    with pytest.raises(ClipError, match="only 3"):
        dynamic_rows(3, network, **how)


def test_flow_of_a_clip_is_that_of_its_stable_crop_and_masked_across_a_cut():
    track = replace(track_clip(SHIPPED[0], PreparationConfig()), cuts=np.array([20]))
    cfg = DynamicConfig(flow_clip_px=2.0)
    chunks = list(face_flows(Job(SHIPPED[0], track, cfg)))
    crops = np.stack([crop_at(frame, track, 224) for frame in read_frames(SHIPPED[0], fps=15).frames])
    flow = normalise_flow(resize_flow(OpticalFlowComputer("dis_fast").compute(crops), 112), 2.0)
    flow[19] = 0
    np.testing.assert_array_equal(np.concatenate([chunk.values for chunk in chunks]), flow)
    assert np.concatenate([chunk.frame for chunk in chunks]).tolist() == list(range(72))
    assert chunks[0].decoder.endswith("h264, software")
    got = rows_of_clip(DynamicRows(track, cfg), chunks, halve_time, 32)
    assert got.reason.tolist() == ["", "", "crosses a cut at 1.3 s", *[""] * 6]
    assert got.valid.tolist() == [True, True, False, *[True] * 6]
