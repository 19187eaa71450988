"""Which face a clip is about: linking, cuts, still pictures, sizes; clips are put together of drawn ones."""

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from numbered import FrameList

from helpers import faces
from helpers.config import DynamicConfig, PreparationConfig
from helpers.crops import Job, face_flows
from helpers.files import ROOT
from helpers.people import MainFace, main_face
from helpers.rows import DynamicRows
from helpers.tracking import Follower
from helpers.tracks import NoFaceError
from helpers.video import read_frames

NAMES = ("4rfnd819V3N.000", "B62kW3nmp1p.000")
ONE, OTHER = (read_frames(ROOT / "data_sample" / "training80_01" / f"{name}.mp4").frames[:60] for name in NAMES)
NOTHING = np.zeros((0, 5), np.float32)


def row(x: float) -> np.ndarray:
    return np.float32([[x, 10, 20, 20, 8]])


def face_of(found: list[np.ndarray]) -> MainFace | None:
    follower = Follower()
    follower.found, follower.looked = found, [8 * look for look in range(len(found))]
    return main_face(follower)


@pytest.fixture
def track(monkeypatch):
    """From frames to their track."""

    def of(frames: np.ndarray, **parameters):
        def stream(path, *, fps, backend, indices=None):
            chosen = range(len(frames)) if indices is None else indices
            return FrameList([(frames[k], k / 15, k) for k in chosen])

        monkeypatch.setattr(faces, "iter_frames", stream)
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


def test_the_main_face_is_followed_by_overlap_not_by_order_or_size_alone():
    small_ones = [np.float32([[10 + 2 * k, 10, 20, 20, 7]]) for k in range(5)]
    large = np.float32([[100, 10, 40, 40, 9]])
    found = [np.concatenate([large, small_ones[0]]), *small_ones[1:3], np.concatenate([small_ones[3], large])]
    got = face_of([*found, small_ones[4]])
    assert (got.places, got.reason) == ([(0, 0), (3, 1)], "largest summed area: 1.6 times the next of 2 faces")
    got = face_of([small_ones[0], large / 2, *small_ones[1:]])
    assert got.places == [(0, 0), (2, 0), (3, 0), (4, 0), (5, 0)]


def test_one_face_or_none_needs_no_choice():
    got = face_of([row(3), NOTHING, row(4)])
    assert got == ([(0, 0), (2, 0)], "the only face", True, [])
    assert face_of([NOTHING, NOTHING]) is None


def test_faces_of_about_one_size_are_told():
    found = [np.concatenate([row(3), row(60) * np.float32([1, 1, 1.1, 1.1, 1])])] * 3
    assert face_of(found).remarks == ["another face is nearly as large (1.2 times)"]


def test_a_cut_to_another_person_and_back_leaves_the_first_one_with_a_gap(track):
    got = track(np.concatenate([ONE[:30], OTHER[:30], ONE[30:60]]))
    alone = track(ONE)
    assert got.cuts.tolist() == [30, 60]
    assert got.coverage == pytest.approx(2 / 3)
    assert np.isnan(got.boxes_xyxy[:, 0]).nonzero()[0].tolist() == list(range(30, 60))
    assert got.has_face(got.t_s).tolist() == [True] * 30 + [False] * 30 + [True] * 30
    np.testing.assert_allclose(got.box_xyxy, alone.box_xyxy, atol=3)
    np.testing.assert_allclose(got.found_xyxy[:25], alone.found_xyxy[:25], atol=1e-3)
    assert got.remarks == "3 shots; the face of 4.0 s of 6.0 s is taken"
    assert got.reason == "most time on screen: 8 of 12 looks, of 2 faces"


def test_too_little_of_a_person_says_how_often_the_clip_is_cut(track):
    pieces = np.concatenate([ONE[:8], OTHER[:8]])
    with pytest.raises(NoFaceError, match=r"face in only 50 % of .* at least 60 % needed \(2 shots\)"):
        track(pieces, min_coverage=0.6)


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
    for place, flow, n in rows.samples(chunks):
        rows.receive(place, np.ones((n, 1, 1, 3), np.float32) * (flow.shape[0] > 0))
    assert rows.result().reason.tolist() == ["", "", "crosses a cut at 1.3 s", ""]


def test_a_slide_that_changes_behind_a_speaker_is_no_cut_of_hers(track):
    frames = on_a_page((sized(ONE, 200), 400, 180))
    frames[30:, 20:340, 20:380] = 20
    got = track(frames)
    assert got.cuts.tolist() == []
    assert got.remarks == ""


def test_who_moves_wins_over_a_still_picture_though_smaller_than_min_face(track):
    photo = np.repeat(cv2.resize(OTHER[0], (460, 345))[None, :, 60:400], 40, axis=0)
    got = track(on_a_page((photo, 5, 5), (sized(ONE[:40], 160), 460, 230)))
    assert got.box_xyxy[0] > 440
    assert got.box_xyxy[1] > 200
    assert got.reason == "the only face that moves"
    assert "a still face of" in got.remarks
    assert "px is passed over; the face is" in got.remarks
    assert "below min_face (0.2 of the picture's shorter side)" in got.remarks


def test_a_still_picture_alone_is_told_and_a_face_too_small_has_the_parameters_name(track):
    assert track(np.repeat(ONE[:1], 30, axis=0)).remarks == "the face does not move: a still picture?"
    inset = on_a_page((sized(ONE[:24], 160), 460, 230))
    with pytest.raises(
        NoFaceError, match=r"^the face is too small: \d\d px wide, below min_face \(0.2 of .*smaller min_face"
    ):
        track(inset)
    assert track(inset, min_face=0.1).box_xyxy[0] > 440


def test_a_face_that_walks_out_of_the_clips_one_box_is_told(track):
    wall = np.full((60, 240, 560, 3), 128, np.uint8)
    for k in range(60):
        wall[k, :, 4 * k : 4 * k + 320] = ONE[k]
    assert "outside of the clip's one box at" in track(wall, detect_every=4).remarks
    assert track(wall, detect_every=4, crop="smooth").remarks == ""


def test_a_turned_clip_without_its_tag_is_told(track):
    with pytest.raises(
        NoFaceError, match="^no face found in 2 looked-at frames; there is one when the picture is turned"
    ):
        track(np.rot90(ONE[:12], axes=(1, 2)))


def test_remarks_stand_in_the_manifest_also_of_clips_that_were_done_before(tmp_path):
    write(tmp_path / "still.mp4", ONE[[0] * 30])
    clips = pd.DataFrame({"path": ["still.mp4"]}, index=pd.Index(["still"], name="key"))
    cfg = PreparationConfig(data_dir=str(tmp_path), out_dir=str(tmp_path / "run"), workers=1)
    for _ in range(2):
        assert faces.prepare_clips(clips, cfg)["remarks"] == {"still": "the face does not move: a still picture?"}
