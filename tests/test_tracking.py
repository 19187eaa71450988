"""The faces of a clip: followed, linked, chosen, and a box at every sample."""

from types import SimpleNamespace

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from numbered import FrameList

from helpers import faces
from helpers.config import DynamicConfig, PreparationConfig
from helpers.files import ROOT
from helpers.rows import DynamicRows, Job, face_flows
from helpers.tracking import (
    Follower,
    MainFace,
    face_path,
    main_face,
    roll_deg,
    smooth,
)
from helpers.tracks import DETECTED, INTERPOLATED, NONE, TRACKED, NoFaceError
from helpers.video import read_frames

NOTHING = np.zeros((0, 5), np.float32)
NAMES = ("4rfnd819V3N.000", "B62kW3nmp1p.000")
ONE, OTHER = (read_frames(ROOT / "data_sample" / "training80_01" / f"{name}.mp4").frames[:60] for name in NAMES)


def row(x: float, side: float = 20, confidence: float = 8) -> np.ndarray:
    return np.float32([x, 10, side, side, confidence])


def leg(look: int, samples: list[int], xs: list[float], arrived: int | None = None, row: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        start=(look, row),
        arrived=None if arrived is None else (arrived, 0),
        samples=samples,
        boxes_xyxy=[np.array([x, 10, x + 20, 30], float) for x in xs],
        similarity=[0.5] * len(samples),
    )


def path_of(looks: list[int], rows: list, legs: list, n: int, cuts: tuple[int, ...] = ()) -> SimpleNamespace:
    """The path at 10 fps, every fourth sample a look, of a face with one row per look, or that begins at these x."""
    rows = np.stack([row(x) for x in rows] if np.isscalar(rows[0]) else rows)
    face = MainFace([(look, 0) for look in looks], rows, 1.0, np.array(cuts, int), True, "", [])
    follower = SimpleNamespace(legs=legs, shots=SimpleNamespace(fps=10.0))
    return SimpleNamespace(**face_path(follower, face, n, every=4, max_gap_s=0.4))


def test_a_leg_that_arrives_is_bent_onto_the_detection():
    other = leg(0, [1, 2, 3], [90, 90, 90], row=1)  # of another face
    path = path_of([0, 1], [10, 16], [leg(0, [1, 2, 3, 4], [11, 13, 13, 12], arrived=1), other], 5)  # 4 px short of it
    assert path.found_xyxy[:, 0].tolist() == [10, 12, 15, 16, 16]
    assert path.source.tolist() == [DETECTED, TRACKED, TRACKED, TRACKED, DETECTED]
    assert path.confidence.tolist() == [8, 4, 4, 4, 8]


def test_a_gap_is_filled_up_to_the_limit_and_masked_beyond_it_and_across_a_cut():
    path = path_of([1, 2, 4], [10, 14, 20], [leg(2, [9, 10], [15, 16])], 20)
    before = [NONE] * 4 + [DETECTED] + [INTERPOLATED] * 3
    assert path.source.tolist() == before + [DETECTED, TRACKED, TRACKED] + [NONE] * 5 + [DETECTED] + [NONE] * 3
    assert np.isnan(path.boxes_xyxy).all(axis=1).tolist() == [s == NONE for s in path.source]
    path = path_of([1, 2, 3], [10, 14, 20], [leg(2, [9, 10, 11], [15, 16, 17])], 16, cuts=(6, 11))
    known = [DETECTED] + [NONE] * 3 + [DETECTED, TRACKED, TRACKED, NONE, DETECTED]
    assert path.source.tolist() == [NONE] * 4 + known + [NONE] * 3


def test_smoothing_has_no_delay_halves_its_cut_off_and_does_not_reach_over_gaps():
    t = np.arange(400)
    slow, fast = np.sin(2 * np.pi * t / 200), np.sin(2 * np.pi * t / 20)
    got = smooth(np.column_stack([slow, fast, 3 * t + 2]), 20)
    np.testing.assert_allclose(got[60:-60, 0], slow[60:-60], atol=0.01)
    np.testing.assert_allclose(got[60:-60, 1], fast[60:-60] / 2, atol=0.01)
    np.testing.assert_allclose(got[:, 2], 3 * t + 2)  # to the very ends
    values = np.r_[np.zeros(9), np.full(3, np.nan), np.full(5, 7), np.nan, 3][:, None]
    np.testing.assert_allclose(smooth(values, 10), values, atol=1e-12)


def test_roll_is_positive_when_the_right_of_the_picture_is_lower_and_known_where_there_is_a_box():
    rows = np.zeros((3, 15), np.float32)
    rows[:, :5], rows[:, 7], rows[:, 8] = row(10), 10, 10 * np.tan(np.radians([10, 14, -45]))  # the left eye
    np.testing.assert_allclose(roll_deg(rows), [10, 14, -45], rtol=1e-5)
    path = path_of([1, 2], list(rows[:2]), [], 12)
    assert np.isnan(path.angle_deg).tolist() == [True] * 4 + [False] * 5 + [True] * 3
    np.testing.assert_allclose(path.angle_deg[4:9], [10, 11, 12, 13, 14], rtol=1e-5)


SIZE = 60  # of the square that stands for a face


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth noise, RGB uint8."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2.5)
    gray = np.clip(128 + 60 * blurred / blurred.std(), 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


FACE, WALL = texture(1, 3 * SIZE, 3 * SIZE), texture(2, 180, 320)


def scene(x: float, y: float, side: float = SIZE) -> np.ndarray:
    """The face with its upper left corner at (x, y) before the wall."""
    k = side / len(FACE)
    matrix = np.float32([[k, 0, x], [0, k, y]])
    return cv2.warpAffine(FACE, matrix, (320, 180), WALL.copy(), cv2.INTER_AREA, cv2.BORDER_TRANSPARENT)


def rows_at(x: float, y: float, side: float = SIZE) -> np.ndarray:
    return np.float32([[x, y, side, side, 9]])


def followed(frames: list[np.ndarray], looks: dict[int, np.ndarray]) -> Follower:
    follower = Follower()
    for k, frame in enumerate(frames):
        follower.step(k, frame, looks.get(k))
    return follower


def test_a_face_that_moves_and_grows_is_followed_until_it_is_found_again():
    where = [(20 + 6 * k, 40 + 2 * k, SIZE * 1.02**k) for k in range(9)]
    frames = [cv2.resize(scene(*place), None, fx=2, fy=2) for place in where]
    leg = followed(frames, {k: rows_at(*(2 * v for v in where[k])) for k in (0, 8)}).legs[0]
    assert (leg.start, leg.arrived) == ((0, 0), (1, 0))
    assert leg.samples == list(range(1, 9))
    expected = 2 * np.array([[x, y, x + s, y + s] for x, y, s in where[1:]])
    np.testing.assert_allclose(leg.boxes_xyxy, expected, atol=3)
    assert min(leg.similarity) > 0.8


def test_a_face_that_vanishes_or_leaves_is_lost():
    gone = followed([scene(50, 60)] * 4 + [WALL] * 4, {0: rows_at(50, 60)})
    assert gone.legs[0].samples == [1, 2, 3]
    left = followed([scene(230 + 10 * k, 60) for k in range(12)], {0: rows_at(230, 60)})
    assert 2 < left.legs[0].samples[-1] < 8


def face_of(found: list[np.ndarray]) -> MainFace | None:
    follower = Follower()
    follower.found, follower.looked = found, [8 * look for look in range(len(found))]
    return main_face(follower)


def test_the_main_face_is_followed_by_overlap_not_by_order_or_size_alone():
    small_ones = [np.float32([[10 + 2 * k, 10, 20, 20, 7]]) for k in range(5)]
    large = np.float32([[100, 10, 40, 40, 9]])
    found = [np.concatenate([large, small_ones[0]]), *small_ones[1:3], np.concatenate([small_ones[3], large])]
    got = face_of([*found, small_ones[4]])
    assert (got.places, got.reason) == ([(0, 0), (3, 1)], "largest summed area: 1.6 times the next of 2 faces")
    got = face_of([small_ones[0], large / 2, *small_ones[1:]])
    assert got.places == [(0, 0), (2, 0), (3, 0), (4, 0), (5, 0)]


def test_one_face_none_or_two_of_about_one_size():
    got = face_of([row(3)[None], NOTHING, row(4)[None]])
    assert (got.places, got.coverage, got.moves, got.remarks) == ([(0, 0), (2, 0)], 2 / 3, True, [])
    assert face_of([NOTHING, NOTHING]) is None
    (remark,) = face_of([np.stack([row(3), row(60, side=22)])] * 3).remarks
    assert "nearly as large" in remark


@pytest.fixture
def track(monkeypatch):
    """From frames to their track."""

    def of(frames: np.ndarray, **parameters):
        stream = FrameList([(frame, k / 15, k) for k, frame in enumerate(frames)])
        monkeypatch.setattr(faces, "iter_frames", lambda path, **_: stream)
        return faces.track_clip("clip.mp4", PreparationConfig(**parameters))

    return of


def write(path, frames: np.ndarray) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=15, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def on_a_page(*pictures: tuple[np.ndarray, int, int]) -> np.ndarray:
    """Clips (n, h, w, 3) at x, y of a page of 640 x 360 with lines of text."""
    page = np.full((len(pictures[0][0]), 360, 640, 3), 235, np.uint8)
    page[:, 15::24, 30:300] = 90
    for frames, x, y in pictures:
        page[:, y : y + frames.shape[1], x : x + frames.shape[2]] = frames
    return page


def sized(frames: np.ndarray, width: int) -> np.ndarray:
    return np.stack([cv2.resize(f, (width, width * 3 // 4), interpolation=cv2.INTER_AREA) for f in frames])


def test_a_cut_to_another_person_and_back_leaves_the_first_one_with_a_gap(track):
    got = track(np.concatenate([ONE[:30], OTHER[:30], ONE[30:60]]))
    alone = track(ONE)
    assert got.cuts.tolist() == [30, 60]
    assert got.coverage == pytest.approx(2 / 3)
    assert np.isnan(got.boxes_xyxy[:, 0]).nonzero()[0].tolist() == list(range(30, 64))  # to the next look
    assert got.has_face(got.t_s).tolist() == [True] * 30 + [False] * 30 + [True] * 30
    np.testing.assert_allclose(got.box_xyxy, alone.box_xyxy, atol=3)
    np.testing.assert_allclose(got.found_xyxy[:25], alone.found_xyxy[:25], atol=1e-3)
    assert got.remarks == "3 shots; the face of 4.0 s of 6.0 s is taken"
    assert got.reason == "most time on screen: 8 of 12 looks, of 2 faces"
    with pytest.raises(NoFaceError, match=r"67 % .* 70 % needed \(3 shots\)"):
        track(np.concatenate([ONE[:30], OTHER[:30], ONE[30:60]]), min_coverage=0.7)


def test_a_cross_fade_to_another_person_does_not_join_the_two(track):
    share = np.r_[np.zeros(40), np.linspace(0, 1, 20), np.ones(60)][:, None, None, None]
    first, second = (np.concatenate([frames, frames[::-1]]) for frames in (OTHER, ONE))
    got = track((first * (1 - share) + second * share).astype(np.uint8))
    assert got.cuts.tolist() == pytest.approx([50], abs=4)
    assert not got.has_face(got.t_s)[:40].any()  # the second one is there longer
    assert got.has_face(got.t_s)[64:].all()


def test_flow_across_a_cut_is_masked(track, tmp_path):
    frames = np.concatenate([ONE[:20], OTHER[:20]])
    write(tmp_path / "a.mp4", frames)
    cfg = DynamicConfig(input_px=32)
    found = track(frames, detect_every=4)
    assert found.cuts.tolist() == [20]
    chunks = list(face_flows(Job(tmp_path / "a.mp4", found, cfg, "pyav")))
    flows = np.concatenate([chunk.values for chunk in chunks])
    assert not flows[19].any()
    assert all(flow.any() for flow in flows[:19])
    rows = DynamicRows(found, cfg)
    for flow, n in rows.samples(chunks):
        rows.receive(np.ones((n, 1, 1, 3), np.float32) * (flow.shape[0] > 0))
    assert rows.result().reason.tolist() == ["", "", "crosses a cut at 1.3 s", ""]


def test_a_slide_that_changes_behind_a_speaker_is_no_cut_of_hers(track):
    frames = on_a_page((sized(ONE, 200), 400, 180))
    frames[30:, 20:340, 20:380] = 20
    got = track(frames)
    assert (got.cuts.tolist(), got.remarks) == ([], "")


def test_who_moves_wins_over_a_still_picture_though_smaller_than_min_face(track):
    photo = np.repeat(cv2.resize(OTHER[0], (460, 345))[None, :, 60:400], 40, axis=0)
    got = track(on_a_page((photo, 5, 5), (sized(ONE[:40], 160), 460, 230)))
    assert got.box_xyxy[0] > 440
    assert got.box_xyxy[1] > 200
    assert got.reason == "the only face that moves"
    assert "px is passed over" in got.remarks
    assert "min_face" in got.remarks


def test_a_face_too_small_has_the_parameters_name(track):
    inset = on_a_page((sized(ONE[:24], 160), 460, 230))
    with pytest.raises(NoFaceError, match=r"too small: \d\d px wide, .*min_face"):
        track(inset)
    assert track(inset, min_face=0.1).box_xyxy[0] > 440


def test_a_face_that_walks_out_of_the_clips_one_box_is_told(track):
    wall = np.full((60, 240, 560, 3), 128, np.uint8)
    for k in range(60):
        wall[k, :, 4 * k : 4 * k + 320] = ONE[k]
    assert "outside" in track(wall, detect_every=4).remarks
    assert track(wall, detect_every=4, crop="smooth").remarks == ""


def test_remarks_stand_in_the_manifest_also_of_clips_that_were_done_before(tmp_path):
    write(tmp_path / "still.mp4", ONE[[0] * 30])
    clips = pd.DataFrame({"path": ["still.mp4"]}, index=pd.Index(["still"], name="key"))
    cfg = PreparationConfig(data_dir=str(tmp_path), out_dir=str(tmp_path / "run"), workers=1)
    for _ in range(2):
        assert faces.prepare_clips(clips, cfg)["remarks"] == {"still": "the face does not move: a still picture?"}
