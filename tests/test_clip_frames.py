"""Views of a clip: what is drawn hangs on seed, key and name only, and each kind of change does what it says."""

import numpy as np
import pytest

from data_sample.make.motion_sample import motion_plan
from helpers import clip_frames
from helpers.clip_frames import (
    CORRUPTIONS,
    PLAIN,
    STEP,
    FrameJob,
    View,
    corrupt,
    draw_view,
    exposed,
    generator,
    held,
    places_of,
    show,
    split_name,
    view_names,
)
from helpers.config import ClassificationConfig
from helpers.files import ROOT
from helpers.video import read_frames, uniform_indices

SAMPLE = ROOT / "data_sample" / "motion"
KEY = motion_plan()["key"][0]


def job(*views: str, **parameters) -> FrameJob:
    cfg = ClassificationConfig(**({"n_frames": 7, "frame_px": 64} | parameters))
    return FrameJob(SAMPLE / f"{KEY}.mp4", -1, KEY, views, cfg, "pyav", 64)


def frames_of(views: FrameJob) -> dict[str, np.ndarray]:
    pieces = list(clip_frames.clip_frames(views))
    return {name: np.concatenate([p.values for p in pieces if p.view == name]) for name in views.views}


def drawn_frame(side: int = 40) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (side, side, 3), np.uint8)


def test_the_plain_view_is_the_evenly_spread_frames_of_the_clip():
    (piece,) = clip_frames.clip_frames(job(PLAIN))
    expected = read_frames(SAMPLE / f"{KEY}.mp4", n_frames=7, backend="pyav")
    assert np.array_equal(piece.values, expected.frames)
    assert np.array_equal(piece.frame, expected.index)
    assert np.array_equal(piece.t_s, expected.t_s)


def test_a_short_clip_shows_each_frame_once():
    frame = np.concatenate([piece.frame for piece in clip_frames.clip_frames(job(PLAIN, n_frames=1000))])
    assert frame.tolist() == list(range(len(read_frames(SAMPLE / f"{KEY}.mp4").frames)))


def test_a_view_does_not_depend_on_the_others_or_their_order():
    names = ("view01", "noise", "tta02", "crop_tta01", PLAIN)
    together, backwards = frames_of(job(*names)), frames_of(job(*names[::-1]))
    for name in names:
        assert np.array_equal(together[name], backwards[name])
        assert np.array_equal(together[name], frames_of(job(name))[name])
    assert frames_of(job("view01", seed=1))["view01"].shape != together["view01"].shape or not np.array_equal(
        frames_of(job("view01", seed=1))["view01"], together["view01"]
    )


def test_all_views_come_from_one_decoding(monkeypatch):
    opened, read = [], clip_frames.read_frames
    monkeypatch.setattr(clip_frames, "read_frames", lambda *a, **k: opened.append(a) or read(*a, **k))
    training, testing = view_names(10, 2)
    assert len(frames_of(job(PLAIN, *training, *testing))) == 1 + 10 + 2 + 5 * 3
    assert len(opened) == 1


def test_names_tell_the_corruption_and_the_view():
    assert view_names(2, 1) == (
        ["view01", "view02"],
        ["tta01", *(name for kind in CORRUPTIONS for name in (kind, f"{kind}_tta01"))],
    )
    assert split_name("low_rate_tta01") == ("low_rate", "tta01")
    assert split_name("noise") == ("noise", PLAIN)
    assert split_name("view03") == ("", "view03")


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_a_faster_view_shows_the_clip_in_fewer_rows(speed):
    n_rows = 16
    n_frames = STEP * (n_rows - 1) + 1
    places = places_of(View(speed=speed), n_frames, n_rows, generator(0, "a", "b"))
    assert np.array_equal(np.diff(places).round(), np.diff((np.arange(len(places)) * STEP * speed).round()))
    assert len(places) == {0.8: 16, 1.0: 16, 1.25: 13}[speed]
    assert places[-1] < n_frames


def test_jitter_moves_rows_and_keeps_their_order():
    plain, n_frames = uniform_indices(61, 16), 61
    for k in range(20):
        places = places_of(View(jitter=0.45), n_frames, 16, generator(k, "a", "b"))
        assert (np.diff(places) >= 0).all()
        assert 0 < np.abs(places - plain).max() <= 2


def test_a_low_rate_shows_each_frame_for_three_rows():
    places = places_of(View(), 61, 16, generator(0, "a", "b"))
    assert held("low_rate", places, 61, 16).tolist() == [k // 3 * 3 * 4 for k in range(16)]
    assert held("blur", places, 61, 16) is places


def test_a_direction_is_turned_round_only_when_it_is_allowed():
    views = [draw_view(0, f"clip {k}", "view01", flip=True) for k in range(40)]
    assert 8 < sum(view.flip for view in views) < 32
    assert not any(draw_view(0, f"clip {k}", "view01", flip=False).flip for k in range(40))
    frame = drawn_frame()
    assert np.array_equal(show(frame, View(flip=True), 40, generator(0, "a", "b")), frame[:, ::-1])


def test_a_view_crops_erases_and_changes_light():
    frame, r = drawn_frame(), generator(0, "a", "b")
    assert np.array_equal(show(frame, View(), 40, r), frame)
    assert np.array_equal(show(frame, View(window=(0.25, 0.5, 0.5)), 20, r), frame[20:40, 10:30])
    erased = show(frame, View(erased=(0.0, 0.5, 0.25, 1.0)), 40, r)
    assert (erased[20:, :10] == 128).all()
    assert np.array_equal(erased[:20], frame[:20])
    assert np.array_equal(show(frame, View(gain=(0.5, 1.0, 1.0)), 40, r)[..., 0], frame[..., 0] // 2)
    dark = (frame * 0.3).astype(np.uint8)
    assert show(dark, exposed(View(exposed=True), dark), 40, r).mean() == pytest.approx(110, abs=1)
    assert exposed(View(), dark) == View()
    noise = show(np.full_like(frame, 128), View(noise_sd=10.0), 40, r).astype(float) - 128
    assert noise.std() == pytest.approx(10, rel=0.1)


def test_corruptions_do_what_their_names_say():
    frame = drawn_frame()
    noise = corrupt(np.full_like(frame, 128), "noise", 0, KEY, 3).astype(float) - 128
    assert noise.std() == pytest.approx(25, rel=0.1)
    assert corrupt(frame, "blur", 0, KEY, 0).std() < frame.std() / 2
    assert corrupt(frame, "dark", 0, KEY, 0).mean() == pytest.approx(0.3 * frame.mean(), abs=1)
    cropped = corrupt(np.indices((40, 40, 1))[0].repeat(3, axis=2).astype(np.uint8), "crop", 0, KEY, 0)
    assert np.ptp(cropped) == 27
    assert not np.array_equal(corrupt(frame, "noise", 0, KEY, 0), corrupt(frame, "noise", 0, KEY, 1))
