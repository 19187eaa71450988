"""Faces: detectors, cuts, who is followed, one stable box, and a reason where there is none."""

import hashlib
import tracemalloc
from dataclasses import asdict, replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from tiny_yunet import tiny_yunet
from trees import table_of

from data_sample.make.sample import write_mp4
from helpers import faces, tracking, weights
from helpers.config import PreparationConfig
from helpers.faces import prepare_clips, stable_box, track_clip
from helpers.files import ROOT
from helpers.store import write_arrays
from helpers.tracking import Follower, MainFace, Shots, chosen_detector, detect_faces, main_face, shrunk
from helpers.tracks import DETECTED, INTERPOLATED, NONE, FaceTrack, NoFaceError, crop_at, read_track, write_track
from helpers.video import read_frames

SAMPLE = ROOT / "data_sample"
SHIPPED, *CLIPS = (
    SAMPLE / "training80_01" / f"{name}.mp4" for name in ("-5fEkrFeWrs.001", "4rfnd819V3N.000", "B62kW3nmp1p.000")
)
ONE, OTHER = (read_frames(path).frames[:60] for path in CLIPS)


def awkward(name: str, **changes) -> FaceTrack:
    return track_clip(SAMPLE / "awkward" / f"{name}.mp4", PreparationConfig(**changes))


@pytest.fixture
def track(monkeypatch):
    """From frames to their track."""

    def of(frames, fps=15.0, **parameters):
        monkeypatch.setattr(faces, "iter_frames", lambda *_, **__: ((f, k / fps, k, "") for k, f in enumerate(frames)))
        return track_clip("clip.mp4", PreparationConfig(fps=fps, **parameters))

    return of


def forget():
    tracking._yunet.cache_clear()
    chosen_detector.cache_clear()


@pytest.fixture
def yunet(tmp_path, monkeypatch):
    """The row of YuNet as a network that sees a face in every red square of 32 px, to be fetched from a file."""
    source = tmp_path / "source.onnx"
    source.write_bytes(tiny_yunet())
    file = replace(weights.YUNET, url=source.as_uri(), file_hash=hashlib.sha256(tiny_yunet()).hexdigest())
    monkeypatch.setitem(weights.WEIGHTS, "yunet", replace(weights.WEIGHTS["yunet"], files=(file,)))
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path / "mine"))
    forget()
    yield source
    forget()


def test_a_face_is_found_where_it_is_at_any_size():
    frame = read_frames(SHIPPED, indices=[0]).frames[0]
    (found,) = detect_faces(frame)
    assert found[4] >= tracking.N_NEIGHBOURS
    assert detect_faces(frame * 0).shape == (0, 5)
    (larger,) = detect_faces(cv2.resize(frame, None, fx=3, fy=3))
    np.testing.assert_allclose(larger[:4] / 3, found[:4], atol=0.08 * found[2])


def red_square(x: int, y: int, side: int, height: int, width: int) -> np.ndarray:
    frame = np.full((height, width, 3), 20, np.uint8)
    frame[y : y + side, x : x + side] = [240, 20, 20]
    return frame


def test_opencv_runs_a_network_of_yunets_shape_on_frames_of_any_size_and_its_eyes_are_turned_level(yunet, track):
    chosen_detector("yunet")
    assert detect_faces(np.full((100, 100, 3), 128, np.uint8), "yunet").shape == (0, 15)
    (row,) = detect_faces(red_square(128, 64, 32, 180, 320), "yunet")
    np.testing.assert_allclose(row[:4], [112, 48, 64, 64], atol=1e-3)  # 48 px wide, 64 px tall, made square
    assert 0.6 < row[4] < 1
    np.testing.assert_allclose(row[5:], [128, 72, 160, 88, 144, 96, 128, 112, 160, 112], atol=1e-3)
    (large,) = detect_faces(red_square(512, 256, 128, 1440, 2560), "yunet")
    np.testing.assert_allclose(large[:4], [448, 192, 256, 256], atol=1e-2)
    frames = [red_square(64 + 32 * (k // 4), 64, 32, 180, 320) for k in range(9)]
    got = track(frames, fps=4.0, detect_every=4, detector="yunet", align_eyes=True)
    assert got.coverage == 1
    np.testing.assert_allclose(got.angle_deg, np.degrees(np.arctan2(16, 32)), rtol=1e-4)
    np.testing.assert_allclose(got.box_xyxy[[0, 2]].mean(), 64 + 32 + 16, atol=1e-3)
    assert got.detector == f"face_detection_yunet_2023mar, OpenCV {cv2.__version__}"


def test_auto_is_yunet_where_it_can_be_had_else_haar_and_neither_asked_for_nor_begun_with_it_is_replaced(
    yunet, tmp_path, caplog
):
    caplog.set_level("INFO", "helpers.tracking")
    clips, cfg = table_of([]), PreparationConfig(out_dir=str(tmp_path / "run"), detector="auto")
    with pytest.raises(FileNotFoundError):
        detect_faces(ONE[0], "yunet")
    identity = prepare_clips(clips, cfg)["identity"]
    assert identity["parameters"]["detector"] == "yunet"
    assert weights.WEIGHTS["yunet"].files[0].file_hash in identity["detector"]
    (place := weights.WEIGHTS["yunet"].path).unlink()
    yunet.unlink()
    forget()
    assert chosen_detector("auto") == "haar"
    assert yunet.as_uri() in caplog.text
    with pytest.raises(ValueError, match="yunet"):
        prepare_clips(clips, cfg)
    other = replace(cfg, out_dir=str(tmp_path / "other"))
    identity = prepare_clips(clips, other)["identity"]
    assert identity == prepare_clips(clips, replace(other, detector="haar"))["identity"]  # as before, silent
    with pytest.raises(FileNotFoundError, match="OCEAN_WEIGHTS") as error:
        chosen_detector("yunet")
    assert f"{place} from {yunet.as_uri()}" in str(error.value)
    place.write_bytes(b"another network")
    with pytest.raises(ValueError, match="published hash"):
        chosen_detector("yunet")


@pytest.mark.weights
def test_yunet_finds_the_faces_that_haar_finds_and_their_eyes():
    if not weights.YUNET.place.is_file():
        pytest.skip(f"{weights.YUNET.place} is not there")
    (haar,), (yunet,) = detect_faces(ONE[0]), detect_faces(ONE[0], "yunet")
    np.testing.assert_allclose(yunet[:2] + yunet[2:4] / 2, haar[:2] + haar[2:4] / 2, atol=0.25 * haar[2])
    right, left = yunet[5:7], yunet[7:9]
    assert right[0] < left[0]
    assert yunet[1] < right[1] < yunet[1] + yunet[3] / 2


def test_a_person_has_a_box_at_every_sample_and_the_stable_one_is_that_of_the_shipped_features():
    got = track_clip(SHIPPED, PreparationConfig())
    assert got.frame.tolist() == list(range(73))
    np.testing.assert_allclose(got.t_s, np.arange(73) / 15)
    assert got.source.tolist() == [DETECTED if k % 8 == 0 else INTERPOLATED for k in range(73)]
    assert (got.confidence > 0).tolist() == [k % 8 == 0 for k in range(73)]
    assert np.isfinite(got.found_xyxy).all()
    assert (got.coverage, got.reason) == (1, "the only face")
    assert got.detector.startswith("haarcascade_frontalface_alt2, OpenCV ")
    # Written down when data_sample/tokens was made; other numbers mean that the shipped features no longer fit.
    assert got.box_xyxy.tolist() == [65.75, 24.25, 235.75, 194.25]


def test_the_larger_of_two_faces_is_the_main_one():
    got = awkward("two_faces")
    assert (got.coverage, got.n_faces_max, got.reason[:7]) == (1, 2, "largest")
    assert 0 < got.box_xyxy[[0, 2]].mean() < 160
    assert 0 < got.box_xyxy[[1, 3]].mean() < 240


def test_a_track_is_the_same_after_writing_and_reading_and_another_file_is_named(tmp_path):
    written = replace(awkward("very_short"), fingerprint="a version")
    write_track(tmp_path / "a" / "b.npz", written)
    got = read_track(tmp_path / "a" / "b.npz")
    np.testing.assert_equal(asdict(got), asdict(written))
    write_arrays(tmp_path / "other.npz", features=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz"):
        read_track(tmp_path / "other.npz")


def test_memory_does_not_grow_with_the_clip(track):
    peak = []
    for n in (50, 200):
        tracemalloc.start()
        track([ONE[0]] * n, detect_every=25)
        peak.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peak[1] < peak[0] + 1e6


@pytest.mark.parametrize("angle", [-20.0, 12.0])
def test_eyes_are_turned_level(angle):
    frame = np.zeros((200, 200, 3), np.uint8)
    down = np.tan(np.radians(angle)) * 40
    for x, y in ((80, 100 - down / 2), (120, 100 + down / 2)):
        cv2.circle(frame, (x, round(y)), 4, (255, 255, 255), -1, cv2.LINE_AA)
    turned = SimpleNamespace(box_xyxy=np.float32([50, 50, 150, 150]), align_eyes=True, angle_deg=angle)
    ys, xs = np.nonzero(crop_at(frame, turned, 300)[..., 0] > 128)
    left, right = (ys[side].mean() for side in (xs < 150, xs >= 150))
    assert abs(left - right) < 3


@pytest.mark.parametrize(
    ("box", "side", "rows", "columns"),  # of the frame
    [([5, 7, 18, 20], 13, range(7, 20), range(5, 18)), ([-4, 3, 7, 14], 11, range(3, 14), [0] * 4 + [*range(7)])],
)
def test_a_crop_shows_the_box_and_repeats_the_edge_beyond_the_frame(box, side, rows, columns):
    frame = np.random.default_rng(1).integers(0, 256, (31, 47, 3)).astype(np.uint8)
    of = SimpleNamespace(box_xyxy=np.float32(box), align_eyes=False, angle_deg=30.0)
    np.testing.assert_array_equal(crop_at(frame, of, side), frame[np.ix_(rows, columns)])
    assert crop_at(frame, of, 26).shape == (26, 26, 3)


def test_a_face_that_leaves_is_lost_two_looks_later():
    got = awkward("face_leaving")
    assert got.coverage == pytest.approx(0.4)
    last_s = got.t_s[got.source == DETECTED][-1]
    assert got.has_face(np.array([0, last_s, last_s + 16 / 15, last_s + 17 / 15])).tolist() == [True, True, True, False]
    assert got.sample_at(np.array([0, 0.06, 1 / 15, 6.5 / 15, 9])).tolist() == [0, 0, 1, 6, 72]
    for name, word in (("face_leaving", "40 % .* 50 %"), ("no_face", "no face")):
        with pytest.raises(NoFaceError, match=word):
            awkward(name, min_coverage=0.5)


def test_the_stable_box_is_the_median_enlarged_and_raised():
    rows = np.float32([[10, 20, 30, 30, 9], [12, 22, 30, 30, 9], [100, 90, 50, 50, 9]])
    cx, cy, half = 27, 37 - 0.08 * 30, 1.7 * 30 / 2
    np.testing.assert_allclose(stable_box(rows, 1.7), [cx - half, cy - half, cx + half, cy + half], rtol=1e-6)


def hand(frame, x):
    return cv2.circle(frame.copy(), (x, 120), 130, (180, 140, 120), -1)


def scaled(frames, gain):
    return np.clip(frames * np.asarray(gain)[:, None, None, None], 0, 255).astype(np.uint8)


def moved(frames, shifts, zooms=(1,) * 60):
    moves = ([[k, 0, x], [0, k, y]] for k, (x, y) in zip(zooms, shifts, strict=False))
    return np.stack([cv2.warpAffine(f, np.float32(m), (320, 240)) for f, m in zip(frames, moves, strict=True)])


def swapped(frames):
    """`ONE` with other frames, by number."""
    return np.stack([frames.get(k, frame) for k, frame in enumerate(ONE)])


RANDOM = np.random.default_rng(0).normal(0, 1, (60, 2))
TWO = np.concatenate([ONE[:25], OTHER[:25]])
DIP = np.r_[np.ones(15), np.linspace(1, 0, 8), np.zeros(4), np.linspace(0, 1, 8), np.ones(15)]
CUTS = {
    "two cuts": (np.concatenate([ONE[:20], OTHER[:20], ONE[20:40]]), [20, 40]),
    "three shots of a quarter second": (np.concatenate([ONE[:20], OTHER[:4], ONE[24:28], OTHER[28:50]]), [20, 24, 28]),
    "a cut in the dark": (scaled(TWO, np.full(50, 0.15)), [25]),
    "one frame in between": (swapped({30: OTHER[30]}), []),
    "a flash": (swapped({20: cv2.convertScaleAbs(ONE[20], alpha=3, beta=60), 40: ONE[0] * 0 + 255}), []),
    "out of black and back": (scaled(ONE[:50], DIP), []),
    "from one to the other through black": (scaled(TWO, DIP), [28]),
    "a shaken camera": (moved(ONE, 4 * RANDOM), []),
    "a light that is turned down": (scaled(ONE, np.r_[np.ones(30), np.full(30, 0.5)]), []),
    "a hand before the camera": (swapped({20 + k: hand(ONE[20 + k], 80 * k - 100) for k in range(8)}), []),
    "black": (ONE * 0, []),
    "one picture": (ONE[:1], []),
}


@pytest.mark.parametrize("name", CUTS)
def test_cuts_are_where_the_picture_changes_as_no_face_makes_it(name):
    (frames, expected), shots = CUTS[name], Shots()
    for frame in frames:
        shots.step(shrunk(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 180)[0])
    assert shots.cuts().tolist() == pytest.approx(expected, abs=3 if "through black" in name else 0)


def row(x, side=20):
    return np.float32([x, 10, side, side, 8])


def face_of(found: list[np.ndarray]) -> MainFace | None:
    """The main face of a clip of which nothing is known but the detector's rows at every eighth sample."""
    follower = Follower()
    follower.found, follower.looked = found, [8 * look for look in range(len(found))]
    return main_face(follower, 15.0)


def test_the_main_face_is_followed_by_overlap_not_by_order_or_size_alone():
    small_ones = [row(10 + 2 * k)[None] for k in range(5)]
    large = np.float32([[100, 10, 40, 40, 9]])
    found = [np.concatenate([large, small_ones[0]]), *small_ones[1:3], np.concatenate([small_ones[3], large])]
    got = face_of([*found, small_ones[4]])
    assert (got.looks, got.reason) == ([0, 3], "largest summed area: 1.6 times the next of 2 faces")
    got = face_of([small_ones[0], large / 2, *small_ones[1:]])
    assert got.looks == [0, 2, 3, 4, 5]
    assert face_of([np.zeros((0, 5), np.float32)] * 2) is None
    (remark,) = face_of([np.stack([row(3), row(60, side=22)])] * 3).remarks
    assert "nearly as large" in remark


def path_of(looks: list[int], rows: np.ndarray, n: int, cuts: tuple[int, ...] = ()):
    """The track at 10 fps, every fourth sample a look, of a face with one row per look."""
    face = MainFace(looks, rows, 1.0, np.array(cuts, int), True, "", [])
    cfg = PreparationConfig(fps=10.0, detect_every=4, max_gap_s=0.4)
    return faces.track_of_face(face, [rows], cfg, t_s=np.arange(n) / 10, frame=np.arange(n), decoder="")


def test_a_gap_is_filled_up_to_the_limit_and_not_across_a_cut_and_the_roll_is_that_in_the_middle():
    rows = np.stack([row(10), row(14), row(20)])
    path = path_of([1, 2, 4], rows, 20)
    filled = [NONE] * 4 + [DETECTED] + [INTERPOLATED] * 3 + [DETECTED] + [NONE] * 7 + [DETECTED] + [NONE] * 3
    assert path.source.tolist() == filled
    assert path.found_xyxy[4:9, 0].tolist() == [10, 11, 12, 13, 14]
    assert np.isnan(path.found_xyxy).all(axis=1).tolist() == [s == NONE for s in path.source]
    assert path.confidence[[4, 5, 16]].tolist() == [8, 0, 8]
    landmarks = np.zeros((3, 10), np.float32)
    landmarks[:, 2], landmarks[:, 3] = 10, 10 * np.tan(np.radians([10, 14, -45]))  # the left eye; the right one at 0, 0
    path = path_of([1, 2, 3], np.column_stack([rows, landmarks]), 16, cuts=(6,))
    assert (path.source == INTERPOLATED).nonzero()[0].tolist() == [9, 10, 11]
    assert path.angle_deg == pytest.approx(10, rel=1e-5)  # positive when the right of the picture is lower


def test_a_cut_to_another_person_and_back_leaves_the_first_one_with_a_gap(track):
    frames = np.concatenate([ONE[:30], OTHER[:30], ONE[30:60]])
    got, alone = track(frames), track(ONE)
    assert got.cuts.tolist() == [30, 60]
    assert got.coverage == pytest.approx(2 / 3)
    assert np.isnan(got.found_xyxy[:, 0]).nonzero()[0].tolist() == [*range(25, 64), 89]  # from look to look
    assert got.has_face(got.t_s).tolist() == [True] * 30 + [False] * 30 + [True] * 30
    np.testing.assert_allclose(got.box_xyxy, alone.box_xyxy, atol=3)
    np.testing.assert_allclose(got.found_xyxy[:25], alone.found_xyxy[:25], atol=1e-3)
    assert got.remarks == "3 shots; the face of 4.0 s of 6.0 s is taken"
    assert got.reason == "most time on screen: 8 of 12 looks, of 2 faces"
    with pytest.raises(NoFaceError, match=r"67 % .* 70 % needed \(3 shots\)"):
        track(frames, min_coverage=0.7)


def on_a_page(*pictures):
    """Clips (n, h, w, 3) at x, y of a page of 640 x 360 with lines of text."""
    page = np.full((len(pictures[0][0]), 360, 640, 3), 235, np.uint8)
    page[:, 15::24, 30:300] = 90
    for frames, x, y in pictures:
        page[:, y : y + frames.shape[1], x : x + frames.shape[2]] = frames
    return page


def sized(frames, width):
    return np.stack([cv2.resize(f, (width, width * 3 // 4), interpolation=cv2.INTER_AREA) for f in frames])


def test_who_speaks_beside_slides_is_one_person(track):
    frames = on_a_page((sized(ONE, 200), 400, 180))
    frames[30:, 20:340, 20:380] = 20
    got = track(frames)
    assert (got.cuts.tolist(), got.coverage, got.remarks) == ([30], 1, "2 shots")


def test_who_moves_wins_over_a_still_picture_and_a_face_too_small_has_the_parameters_name(track):
    photo = np.repeat(cv2.resize(OTHER[0], (460, 345))[None, :, 60:400], 45, axis=0)
    alone, beside = (on_a_page(*stills, (sized(ONE[:45], 160), 460, 230)) for stills in ((), ((photo, 5, 5),)))
    with pytest.raises(NoFaceError, match=r"\d\d px wide, .*min_face"):
        track(alone)
    for frames, share, remark in ((alone, 0.1, ""), (beside, 0.1, "passed over"), (beside, 0.2, "below min_face")):
        found = track(frames, min_face=share)
        assert found.box_xyxy[0] > 440
        assert remark in found.remarks
    poster = np.repeat(cv2.resize(ONE[0], (160, 120))[None], 45, axis=0)
    found = track(on_a_page((photo, 5, 5), (poster, 460, 230)))
    assert (found.box_xyxy[0] < 440, "still picture" in found.remarks) == (True, True)


def test_a_picture_of_a_face_is_still_however_it_is_filmed(track):
    still, zoom = np.repeat(ONE[:1], 48, axis=0), np.linspace(1, 1.25, 48)
    noisy = np.random.default_rng(0).normal(still, 3).clip(0, 255).astype(np.uint8)
    by_hand = moved(still, 0.7 * np.cumsum(RANDOM[:48], axis=0))
    zoomed = moved(still, np.outer(1 - zoom, [160, 120]), zoom)
    for filmed in (noisy, by_hand, zoomed):
        for detect_every in (1, 8):
            assert "still picture" in track(filmed, detect_every=detect_every).remarks
    assert track(ONE).remarks == ""


def test_a_face_that_walks_out_of_the_clips_one_box_is_told(track):
    wall = np.full((60, 240, 560, 3), 128, np.uint8)
    for k in range(60):
        wall[k, :, 4 * k : 4 * k + 320] = ONE[k]
    assert "outside" in track(wall, detect_every=4).remarks


def test_remarks_stand_in_the_manifest_also_of_clips_that_were_done_before(tmp_path):
    write_mp4(ONE[[0] * 30], tmp_path / "still.mp4", 15, crf=18)
    cfg = PreparationConfig(data_dir=str(tmp_path), out_dir=str(tmp_path / "run"), workers=1)
    for _ in range(2):
        remarks = prepare_clips(table_of(["still"]), cfg)["remarks"]
        assert remarks == {"still": "the face does not move: a still picture?"}
