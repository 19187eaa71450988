"""Where a clip is cut; the faces of a clip, linked and chosen, and a box at every sample."""

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from numbered import FrameList

from helpers import faces
from helpers.config import DynamicConfig, PreparationConfig
from helpers.detectors import shrunk
from helpers.files import ROOT
from helpers.rows import DynamicRows, Job, face_flows
from helpers.tracking import Follower, MainFace, Shots, link, main_face, roll_deg
from helpers.tracks import DETECTED, INTERPOLATED, NONE, NoFaceError
from helpers.video import read_frames

NOTHING = np.zeros((0, 5), np.float32)
NAMES = ("4rfnd819V3N.000", "B62kW3nmp1p.000")
ONE, OTHER = (read_frames(ROOT / "data_sample" / "training80_01" / f"{name}.mp4").frames[:60] for name in NAMES)
TWO = np.concatenate([ONE[:25], OTHER[:25]])


def scaled(frames: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return np.clip(frames * np.asarray(gain)[:, None, None, None], 0, 255).astype(np.uint8)


def with_frames(numbers: list[int], change) -> np.ndarray:
    frames = ONE.copy()
    for number in numbers:
        frames[number] = change(frames[number], number)
    return frames


def shaken(px: float) -> np.ndarray:
    moves = np.random.default_rng(0).normal(0, px, (60, 2))
    return with_frames(
        range(60), lambda f, k: cv2.warpAffine(f, np.float32([[1, 0, moves[k, 0]], [0, 1, moves[k, 1]]]), (320, 240))
    )


def hand(frame: np.ndarray, number: int) -> np.ndarray:
    return cv2.circle(frame.copy(), (80 * number - 1700, 120), 130, (180, 140, 120), -1)


def flash(frame: np.ndarray, number: int) -> np.ndarray:
    return cv2.convertScaleAbs(frame, alpha=3, beta=60) if number < 30 else frame * 0 + 255


DIP = np.r_[np.ones(15), np.linspace(1, 0, 8), np.zeros(4), np.linspace(0, 1, 8), np.ones(15)]
CLIPS = {
    "two cuts": (np.concatenate([ONE[:20], OTHER[:20], ONE[20:40]]), [20, 40]),
    "three shots of a quarter second": (np.concatenate([ONE[:20], OTHER[:4], ONE[24:28], OTHER[28:50]]), [20, 24, 28]),
    "a cut in the dark": (scaled(TWO, np.full(50, 0.15)), [25]),
    "one frame in between": (with_frames([30], lambda f, k: OTHER[k]), []),
    "a flash": (with_frames([20, 40], flash), []),
    "out of black and back": (scaled(ONE[:50], DIP), []),
    "from one to the other through black": (scaled(TWO, DIP), [28]),
    "a shaken camera": (shaken(4), []),
    "a light that is turned down": (scaled(ONE, np.r_[np.ones(30), np.full(30, 0.5)]), []),
    "a hand before the camera": (with_frames(range(20, 28), hand), []),
    "black": (ONE * 0, []),
    "one picture": (ONE[:1], []),
}  # fmt: skip


def cuts_of(frames: np.ndarray) -> list[int]:
    shots = Shots()
    for frame in frames:
        shots.step(shrunk(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 180)[0])
    return shots.cuts().tolist()


@pytest.mark.parametrize("name", CLIPS)
def test_cuts_are_where_the_picture_changes_as_no_face_makes_it(name):
    frames, expected = CLIPS[name]
    assert cuts_of(frames) == pytest.approx(expected, abs=3 if "through black" in name else 0)


def row(x: float, side: float = 20, confidence: float = 8) -> np.ndarray:
    return np.float32([x, 10, side, side, confidence])


def face_of(found: list[np.ndarray]) -> MainFace | None:
    """The main face of a clip of which nothing is known but the detector's rows at every eighth sample."""
    follower = Follower()
    follower.found, follower.looked = found, [8 * look for look in range(len(found))]
    return main_face(follower, 15.0)


def test_the_main_face_is_followed_by_overlap_not_by_order_or_size_alone():
    small_ones = [np.float32([[10 + 2 * k, 10, 20, 20, 7]]) for k in range(5)]
    large = np.float32([[100, 10, 40, 40, 9]])
    found = [np.concatenate([large, small_ones[0]]), *small_ones[1:3], np.concatenate([small_ones[3], large])]
    got = face_of([*found, small_ones[4]])
    assert (got.looks, got.reason) == ([0, 3], "largest summed area: 1.6 times the next of 2 faces")
    got = face_of([small_ones[0], large / 2, *small_ones[1:]])
    assert got.looks == [0, 2, 3, 4, 5]


def test_one_face_none_or_two_of_about_one_size():
    got = face_of([row(3)[None], NOTHING, row(4)[None]])
    assert (got.looks, got.coverage, got.moves, got.remarks) == ([0, 2], 2 / 3, True, [])
    assert face_of([NOTHING, NOTHING]) is None
    (remark,) = face_of([np.stack([row(3), row(60, side=22)])] * 3).remarks
    assert "nearly as large" in remark


def test_a_face_is_forgotten_after_a_while_the_later_the_longer_it_was_there():
    follower = Follower()
    follower.found = [row(3)[None]] * 20 + [row(60)[None]] + [NOTHING] * 150 + [np.stack([row(3), row(60)])]
    follower.looked = list(range(len(follower.found)))
    assert sorted(map(len, link(follower))) == [1, 1, 21]


def path_of(looks: list[int], rows: np.ndarray, n: int, cuts: tuple[int, ...] = ()):
    """The track at 10 fps, every fourth sample a look, of a face with one row per look."""
    face = MainFace(looks, rows, 1.0, np.array(cuts, int), True, "", [])
    cfg = PreparationConfig(fps=10.0, detect_every=4, max_gap_s=0.4)
    return faces.track_of_face(face, [rows], cfg, t_s=np.arange(n) / 10, frame=np.arange(n), decoder="")


def test_a_gap_is_filled_up_to_the_limit_and_not_across_a_cut():
    rows = np.stack([row(10), row(14), row(20)])
    path = path_of([1, 2, 4], rows, 20)
    filled = [NONE] * 4 + [DETECTED] + [INTERPOLATED] * 3
    assert path.source.tolist() == filled + [DETECTED] + [NONE] * 7 + [DETECTED] + [NONE] * 3
    assert path.found_xyxy[4:9, 0].tolist() == [10, 11, 12, 13, 14]
    assert np.isnan(path.found_xyxy).all(axis=1).tolist() == [s == NONE for s in path.source]
    assert path.confidence[[4, 5, 16]].tolist() == [8, 0, 8]
    assert (path_of([1, 2, 3], rows, 16, cuts=(6,)).source == INTERPOLATED).nonzero()[0].tolist() == [9, 10, 11]


def test_roll_is_positive_when_the_right_of_the_picture_is_lower():
    rows = np.zeros((3, 15), np.float32)
    rows[:, :5], rows[:, 7], rows[:, 8] = row(10), 10, 10 * np.tan(np.radians([10, 14, -45]))  # the left eye
    np.testing.assert_allclose(roll_deg(rows), [10, 14, -45], rtol=1e-5)
    assert path_of([1, 2, 3], rows, 16).angle_deg == pytest.approx(10, rel=1e-5)


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
    assert np.isnan(got.found_xyxy[:, 0]).nonzero()[0].tolist() == [*range(25, 64), 89]  # from look to look
    assert got.has_face(got.t_s).tolist() == [True] * 30 + [False] * 30 + [True] * 30
    np.testing.assert_allclose(got.box_xyxy, alone.box_xyxy, atol=3)
    np.testing.assert_allclose(got.found_xyxy[:25], alone.found_xyxy[:25], atol=1e-3)
    assert got.remarks == "3 shots; the face of 4.0 s of 6.0 s is taken"
    assert got.reason == "most time on screen: 8 of 12 looks, of 2 faces"
    with pytest.raises(NoFaceError, match=r"67 % .* 70 % needed \(3 shots\)"):
        track(np.concatenate([ONE[:30], OTHER[:30], ONE[30:60]]), min_coverage=0.7)


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


def test_who_moves_wins_over_a_still_picture_and_a_face_too_small_has_the_parameters_name(track):
    photo = np.repeat(cv2.resize(OTHER[0], (460, 345))[None, :, 60:400], 45, axis=0)
    inset = (sized(ONE[:45], 160), 460, 230)
    with pytest.raises(NoFaceError, match=r"too small: \d\d px wide, .*min_face"):
        track(on_a_page(inset))
    assert track(on_a_page(inset), min_face=0.1).box_xyxy[0] > 440
    found = track(on_a_page((photo, 5, 5), inset))
    assert found.box_xyxy[0] > 440
    assert "passed over" in found.remarks


def noisy(frame: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(frame, 3, (48, *frame.shape)).clip(0, 255).astype(np.uint8)


def by_hand(frame: np.ndarray) -> np.ndarray:
    moves = np.cumsum(np.random.default_rng(0).normal(0, 0.7, (48, 2)), axis=0)
    return np.stack([cv2.warpAffine(frame, np.float32([[1, 0, x], [0, 1, y]]), (320, 240)) for x, y in moves])


def zoomed(frame: np.ndarray) -> np.ndarray:
    moves = [np.float32([[k, 0, 160 - 160 * k], [0, k, 120 - 120 * k]]) for k in np.linspace(1, 1.25, 48)]
    return np.stack([cv2.warpAffine(frame, move, (320, 240)) for move in moves])


@pytest.mark.parametrize("filmed", [noisy, by_hand, zoomed])
def test_a_picture_of_a_face_is_still_however_it_is_filmed(track, filmed):
    assert "still picture" in track(filmed(ONE[0])).remarks
    assert track(ONE).remarks == ""


def test_a_face_that_walks_out_of_the_clips_one_box_is_told(track):
    wall = np.full((60, 240, 560, 3), 128, np.uint8)
    for k in range(60):
        wall[k, :, 4 * k : 4 * k + 320] = ONE[k]
    assert "outside" in track(wall, detect_every=4).remarks


def test_remarks_stand_in_the_manifest_also_of_clips_that_were_done_before(tmp_path):
    write(tmp_path / "still.mp4", ONE[[0] * 30])
    clips = pd.DataFrame({"path": ["still.mp4"]}, index=pd.Index(["still"], name="key"))
    cfg = PreparationConfig(data_dir=str(tmp_path), out_dir=str(tmp_path / "run"), workers=1)
    for _ in range(2):
        assert faces.prepare_clips(clips, cfg)["remarks"] == {"still": "the face does not move: a still picture?"}
