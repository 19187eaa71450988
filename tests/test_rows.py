"""Rows of one clip: which frames and flows they stand for, their times, and what becomes of too short a clip."""

from types import SimpleNamespace

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
from helpers.tracks import crop_face
from helpers.video import read_frames

SHIPPED = ROOT / "data_sample" / "training80_01" / "-5fEkrFeWrs.001.mp4"


def track_of(n_frames, seen_until_s=1e3, cuts=()):
    """A face that fills the numbered clip's upper left square."""
    about = {"fps": 15.0, "n_frames": n_frames, "align_eyes": False, "cuts": np.array(cuts)}
    return SimpleNamespace(
        **about, box_xyxy=np.float32([0, 0, WIDTH, WIDTH]), has_face=lambda t_s: np.asarray(t_s) <= seen_until_s
    )


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


def stage(x):
    """A network up to a stage that halves time: (B, T, 2, 2, 2) to the mean of each pair of time steps."""
    assert x.shape[1] % 2 == 0
    return x.reshape(len(x), -1, 2, *x.shape[2:]).mean(axis=2)


def pooled(x):
    """A whole network: row i is the mean of flows 8i to 8i+15, (B, ceil(T / 8) - 1, 2)."""
    return np.stack([x[:, i : i + 16].mean(axis=(1, 2, 3)) for i in range(0, x.shape[1] - 8, 8)], axis=1)


WHOLE, POOLED, WINDOWS = {"endpoint": "Mixed_3c"}, {"endpoint": "", "input_px": 224}, {"mode": "windows"}


@pytest.mark.parametrize("at_once", [8, 512])
@pytest.mark.parametrize(("how", "network", "overhang"), [(WHOLE, stage, 0), (POOLED, pooled, 8)])
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
        """A stage that sees 9 flows on either side of a row's own: a running mean with a border of zeros."""
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
    [(WHOLE, stage, 4, 8, True), (WHOLE, stage, 7, 8, True), (POOLED, pooled, 7, 16, False)]
    + [(WINDOWS, stage, 7, 16, False), (WINDOWS, stage, 8, 16, True)],
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


def test_flow_of_a_clip_is_that_of_its_stable_crop():
    track = track_clip(SHIPPED, PreparationConfig())
    chunks = list(face_flows(Job(SHIPPED, track, DynamicConfig(flow_clip_px=2.0))))
    got = np.concatenate([chunk.values for chunk in chunks])
    crops = np.stack([crop_face(frame, track.box_xyxy, 224) for frame in read_frames(SHIPPED, fps=15).frames])
    flow = resize_flow(OpticalFlowComputer("dis_fast").compute(crops), 112)
    np.testing.assert_array_equal(got, normalise_flow(flow, 2.0))
    assert got.shape == (72, 112, 112, 2)
    assert np.concatenate([chunk.frame for chunk in chunks]).tolist() == list(range(72))
    assert chunks[0].decoder.endswith("h264, software")


def test_flow_across_a_cut_is_masked(tmp_path):
    track, cfg = track_of(40, cuts=[20]), DynamicConfig(input_px=32)
    chunks = list(face_flows(Job(write_numbered(tmp_path / "a.mp4", 40), track, cfg, "pyav")))
    moves = [flow.any() for chunk in chunks for flow in chunk.values]
    assert moves == [k != 19 for k in range(39)]
    got = rows_of_clip(DynamicRows(track, cfg), chunks, lambda x: x[:, ::2] + 1, 32)
    assert got.reason.tolist() == ["", "", "crosses a cut at 1.3 s", ""]
    assert got.valid.tolist() == [True, True, False, True]
