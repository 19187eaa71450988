"""Rows of one clip: which frames and flows they stand for, their times, and what becomes of too short a clip."""

import numpy as np
import pytest
from numbered import WIDTH, read_numbers, write_numbered

from helpers import rows
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.faces import track_clip
from helpers.files import ROOT
from helpers.flow import OpticalFlowComputer, normalise_flow, resize_flow
from helpers.forward import NetworkError
from helpers.pipeline import rows_of_clip
from helpers.rows import Chunk, DynamicRows, Job, StaticRows, face_crops, face_flows
from helpers.store import ClipError
from helpers.tracks import FaceTrack, crop_face
from helpers.video import read_frames

SHIPPED = sorted((ROOT / "data_sample" / "training80_01").glob("*.mp4"))


def track_of(n_frames: int, last_seen_s: float = 1e3, fps: float = 15.0) -> FaceTrack:
    """A face that fills the numbered clip's upper left square and is seen at 0 s and at `last_seen_s`."""
    box = np.float32([0, 0, WIDTH, WIDTH])
    seen = np.linspace(0, last_seen_s, 5000)
    boxes, zeros, ones = np.tile(box, (5000, 1)), np.zeros(5000, np.float32), np.ones(5000, np.uint8)
    return FaceTrack(
        box_xyxy=box, found_xyxy=boxes, confidence=zeros + 9, source=ones, t_s=seen, frame=np.arange(5000),
        coverage=1.0, n_faces_max=1, fps=fps, every=8, n_frames=n_frames, align_eyes=False, detector="", decoder="",
        reason="",
    )  # fmt: skip


def numbers_of(crops: np.ndarray) -> np.ndarray:
    """A network whose only feature is the number that a frame carries, plus one."""
    return np.float32(read_numbers(crops))[:, None] + 1


def static_of_clip(path, track, forward, batch_size):
    crops = face_crops(Job(path, track, StaticConfig(), "pyav", WIDTH))
    return rows_of_clip(StaticRows(track), crops, forward, batch_size)


def dynamic_of_chunks(chunks, track, forward, cfg):
    return rows_of_clip(DynamicRows(track, cfg), chunks, forward, cfg.batch_size)


@pytest.mark.parametrize(
    ("n", "batch_size", "frames"),
    [(29, 1, [4, 12, 20, 28]), (29, 32, [4, 12, 20, 28]), (1, 32, [0]), (3, 32, [1]), (7, 32, [3]), (8, 32, [4])],
)
def test_static_rows_stand_for_the_middle_frame_of_each_segment(tmp_path, n, batch_size, frames):
    path = write_numbered(tmp_path / "clip.mp4", n)
    got = static_of_clip(path, track_of(n), numbers_of, batch_size)
    assert got.features[:, 0].tolist() == [frame + 1 for frame in frames]
    assert got.frame.tolist() == frames
    np.testing.assert_allclose(got.t_start_s, np.array(frames) / 15)
    np.testing.assert_allclose(got.t_end_s, (np.array(frames) + 1) / 15)
    assert got.valid.all()


def test_rows_not_finite_without_a_face_or_that_the_network_fails_on_are_zero_and_invalid(tmp_path):
    def odd(crops: np.ndarray) -> np.ndarray:
        features = numbers_of(crops)
        if 21 in features:
            raise NetworkError("the network failed on an input")
        return np.where(features == 13, np.nan, features)

    path, track = write_numbered(tmp_path / "clip.mp4", 37), track_of(37, last_seen_s=1.0)
    got = static_of_clip(path, track, odd, 2)
    assert got.features[:, 0].tolist() == [5, 0, 0, 29, 0]
    assert got.valid.tolist() == [True, False, False, True, False]
    why = StaticRows(track).why_invalid(got)
    assert list(why) == [1, 2, 4]
    assert why[1] == why[2] != why[4] == "the face is lost at 2.4 s"


def chunks_of(n: int, size: int = 5) -> list[Chunk]:
    """n flows of 2x2 px in chunks; flow k is 100 + k everywhere and begins with frame 2k of the file."""
    parts = np.array_split(np.arange(n), range(size, n, size))
    return [
        Chunk(np.ones((len(k), 2, 2, 2), np.float32) * (100 + k)[:, None, None, None], k / 15, 2 * k, "d")
        for k in parts
    ]


def stage(x: np.ndarray) -> np.ndarray:
    """A network up to a stage that halves time: (B, T, 2, 2, 2) to the mean of each pair of time steps."""
    assert x.shape[1] % 2 == 0
    return x.reshape(len(x), -1, 2, *x.shape[2:]).mean(axis=2)


def pooled(x: np.ndarray) -> np.ndarray:
    """A whole network: row i is the mean of flows 8i to 8i+15, (B, ceil(T / 8) - 1, 2)."""
    return np.stack([x[:, i : i + 16].mean(axis=(1, 2, 3)) for i in range(0, x.shape[1] - 8, 8)], axis=1)


@pytest.mark.parametrize("chunk", [8, 512])
@pytest.mark.parametrize(("endpoint", "network", "overhang"), [("Mixed_3c", stage, 0), ("", pooled, 8)])
@pytest.mark.parametrize("segment", [8, 16])
@pytest.mark.parametrize("n", [77, 31])
def test_rows_of_a_whole_clip_are_means_over_their_flows(monkeypatch, chunk, endpoint, network, overhang, segment, n):
    monkeypatch.setattr(rows, "FLOWS_AT_ONCE", chunk)
    cfg = DynamicConfig(endpoint=endpoint, segment=segment, input_px=224)
    got = dynamic_of_chunks(chunks_of(n), track_of(n + 1), network, cfg)
    starts = np.arange(0, n - segment - overhang + 1, segment)
    expected = [100 + np.mean(np.arange(start, start + segment + overhang)) for start in starts]
    np.testing.assert_allclose(got.features, np.repeat(expected, 2).reshape(-1, 2))
    np.testing.assert_allclose(got.t_start_s, starts / 15)
    np.testing.assert_allclose(got.t_end_s, (starts + segment + overhang) / 15)
    assert got.frame.tolist() == (2 * starts).tolist()
    assert got.valid.all()


def blurred(x: np.ndarray) -> np.ndarray:
    """A stage that sees 9 flows on either side of a row's own: a running mean with a border of zeros."""
    weight = np.ones(19) / 19
    return np.stack([np.convolve(of[:, 0, 0, 0], weight, "same")[:, None, None, None] for of in x])


@pytest.mark.parametrize("segment", [8, 24])
def test_where_a_long_clip_is_cut_into_passes_no_row_meets_a_border_in_the_middle(monkeypatch, segment):
    cfg, n = DynamicConfig(segment=segment), 731
    whole = dynamic_of_chunks(chunks_of(n), track_of(n + 1), blurred, cfg)
    monkeypatch.setattr(rows, "FLOWS_AT_ONCE", 10_000)
    once = dynamic_of_chunks(chunks_of(n), track_of(n + 1), blurred, cfg)
    assert len(whole.features) == len(once.features) == n // segment
    np.testing.assert_allclose(whole.features, once.features, rtol=1e-6)


@pytest.mark.parametrize(("window", "stride", "n"), [(16, 8, 72), (16, 5, 61), (9, 13, 72), (16, 16, 16)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_windows_are_computed_one_by_one(window, stride, n, batch_size):
    shapes = []

    def network(x: np.ndarray) -> np.ndarray:
        shapes.append(x.shape[:2])
        return x

    cfg = DynamicConfig(mode="windows", window=window, stride=stride, batch_size=batch_size)
    got = dynamic_of_chunks(chunks_of(n), track_of(n + 1), network, cfg)
    starts = np.arange(0, n - window + 1, stride)
    np.testing.assert_allclose(got.features[:, 0], 100 + starts + (window - 1) / 2)
    np.testing.assert_allclose(got.t_end_s, (starts + window) / 15)
    assert shapes == [(min(batch_size, len(starts)), window)] * -(-len(starts) // batch_size)


@pytest.mark.parametrize("n", [4, 7])
def test_a_clip_shorter_than_a_segment_is_padded_with_no_motion(n):
    got = dynamic_of_chunks(chunks_of(n), track_of(n + 1), stage, DynamicConfig())
    np.testing.assert_allclose(got.features, [[sum(range(100, 100 + n)) / 8] * 2])
    assert got.t_end_s.tolist() == [n / 15]
    assert got.valid.all()
    with pytest.raises(ClipError, match="only 3"):
        dynamic_of_chunks(chunks_of(3), track_of(4), stage, DynamicConfig())


def test_a_row_that_is_mostly_padding_is_invalid_but_kept():
    for cfg, network in ((DynamicConfig(endpoint="", input_px=224), pooled), (DynamicConfig(mode="windows"), stage)):
        got = dynamic_of_chunks(chunks_of(7), track_of(8), network, cfg)
        assert got.features.any()
        assert DynamicRows(track_of(8), cfg).why_invalid(got) == {0: "made mostly of padding: the clip is too short"}
    assert dynamic_of_chunks(chunks_of(8), track_of(9), stage, DynamicConfig(mode="windows")).valid.all()


def test_flow_of_a_clip_is_that_of_its_stable_crop():
    track = track_clip(SHIPPED[0], PreparationConfig())
    chunks = list(face_flows(Job(SHIPPED[0], track, DynamicConfig(flow_clip_px=2.0))))
    got = np.concatenate([chunk.values for chunk in chunks])
    frames = read_frames(SHIPPED[0], fps=15).frames
    crops = np.stack([crop_face(frame, track.box_xyxy, 224) for frame in frames])
    flow = resize_flow(OpticalFlowComputer("dis_fast").compute(crops), 112)
    np.testing.assert_array_equal(got, normalise_flow(flow, 2.0))
    assert got.shape == (72, 112, 112, 2)
    assert np.concatenate([chunk.frame for chunk in chunks]).tolist() == list(range(72))
    assert chunks[0].decoder.endswith("h264, software")
