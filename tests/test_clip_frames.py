"""Views of a clip, and clips of array files."""

from pathlib import Path

import numpy as np
import pytest

from data_sample.make.motion_sample import motion_plan
from helpers.clip_frames import (
    STEP,
    FrameJob,
    clip_frames,
    corrupt,
    count_clips,
    crop,
    places_of,
    read_clip,
    relight,
    show_view,
    split_name,
    view_names,
)
from helpers.config import ClassificationConfig
from helpers.container import VideoError
from helpers.files import ROOT

KEY = motion_plan()["key"][0]
RANDOM = np.random.default_rng(0)
FRAME = RANDOM.integers(0, 256, (40, 40, 3), np.uint8)


def job(*views: str, **parameters) -> FrameJob:
    cfg = ClassificationConfig(n_frames=5, frame_px=64, **parameters)
    return FrameJob(ROOT / "data_sample" / "motion" / f"{KEY}.mp4", -1, KEY, views, cfg, "pyav", 32)


def shown(*views: str, **parameters) -> dict[str, np.ndarray]:
    return {chunk.view: chunk.values for chunk in clip_frames(job(*views, **parameters))}


def test_a_view_depends_on_its_name_and_seed_and_not_on_the_others():
    views = shown("plain", "view01", "view02", "tta01", "noise", "noise_tta01")
    assert all(values.shape[1:] == (32, 32, 3) for values in views.values())
    assert np.array_equal(shown("noise_tta01")["noise_tta01"], views["noise_tta01"])
    assert np.array_equal(shown("view02")["view02"], views["view02"])
    assert not np.array_equal(shown("view02", seed=1)["view02"], views["view02"])
    assert not np.array_equal(views["view01"][:4], views["view02"][:4])


def test_names_say_corruption_and_view():
    assert view_names(1, 1) == (
        ["view01"],
        ["tta01", "noise", "noise_tta01", "blur", "blur_tta01", "dark", "dark_tta01"],
    )
    assert [split_name(name) for name in ("noise_tta01", "noise", "view03")] == [
        ("noise", "tta01"),
        ("noise", "plain"),
        ("", "view03"),
    ]


@pytest.mark.parametrize(("speed", "n_rows"), [(0.8, 16), (1.0, 16), (1.25, 13)])
def test_a_faster_view_shows_the_clip_in_fewer_rows(speed, n_rows):
    places = places_of(speed, 0.0, STEP * 15 + 1, 16)
    assert places.tolist() == (np.arange(n_rows) * STEP * speed).round().tolist()
    assert places_of(0.5, 1.0, 61, 16)[-1] == 60  # a slower one begins anywhere
    assert places_of(speed, 0.0, 1, 16).tolist() == [0]


def test_a_direction_is_turned_round_only_where_it_is_allowed():
    half = np.tile(np.repeat(np.array([0, 200], np.uint8), 20)[:, None], (17, 40, 1, 3))  # dark left, light right

    def turned(k: int, flip: bool) -> bool:
        _, frame = next(show_view(half, f"view{k:02}", job(flip=flip)))
        return frame[:, :8].mean() > frame[:, -8:].mean()

    assert 5 < sum(turned(k, True) for k in range(30)) < 25
    assert not any(turned(k, False) for k in range(30))


def test_views_for_testing_bring_a_dark_clip_to_light():
    frames = np.full((17, 40, 40, 3), 40, np.uint8)
    assert next(show_view(frames, "tta01", job()))[1].mean() == pytest.approx(110, rel=0.1)
    assert next(show_view(frames, "plain", job()))[1].mean() == 40


def test_a_part_is_shown_and_light_and_noise_are_added():
    assert np.array_equal(crop(FRAME, 1, 0.3, 0.3, 40), FRAME)
    assert np.array_equal(crop(FRAME, 0.5, 0.5, 1.0, 20), FRAME[20:40, 10:30])
    assert np.array_equal(relight(FRAME, 0.5, 0.0, RANDOM), FRAME // 2)


def test_corruptions_do_what_their_names_say():
    noise = corrupt(np.full_like(FRAME, 128), "noise", RANDOM).astype(float) - 128
    assert noise.std() == pytest.approx(25, rel=0.1)
    assert corrupt(FRAME, "blur", RANDOM).std() < FRAME.std() / 2
    assert corrupt(FRAME, "dark", RANDOM).mean() == pytest.approx(0.3 * FRAME.mean(), abs=1)
    assert corrupt(FRAME, "", RANDOM) is FRAME


VIDEOS = RANDOM.integers(0, 256, (2, 5, 3, 7, 11), np.uint8)  # (N, T, C, H, W), distinct primes but for the channels


@pytest.mark.parametrize("name", ["processed_data.npy", "processed_data.npz"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_an_array_is_read_clip_by_clip(tmp_path, name, kind):
    path, stored = tmp_path / name, VIDEOS if kind is np.uint8 else (VIDEOS / np.float32(255)).astype(kind)
    np.save(path, stored) if name.endswith("y") else np.savez_compressed(path, x=0, videos=stored)
    assert count_clips(path) == 2
    for place in (0, 1):
        assert np.array_equal(read_clip(path, place), VIDEOS[place].transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("stored", "word"),
    [
        (np.full((1, 2, 3, 4, 4), -1.5), "normalisation"),
        (np.zeros((1, 2, 4, 4, 3), np.uint8), "shape"),
        (np.array([{}]), "numbers"),
    ],
)
def test_arrays_of_other_kinds_are_refused(tmp_path, stored, word):
    np.save(tmp_path / "processed_data.npy", stored, allow_pickle=True)
    with pytest.raises(VideoError, match=word):
        read_clip(tmp_path / "processed_data.npy", 0)


class RunsCode:
    """What a pickle does with it, a reader must not."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_torch_file_is_read_as_the_array_it_holds_and_runs_nothing(tmp_path):
    torch = pytest.importorskip("torch")
    path, videos = tmp_path / "processed_data.pt", torch.from_numpy(VIDEOS)
    for held in ({"videos": videos}, videos, {"videos": videos / 255}):
        torch.save(held, path)
        assert np.array_equal(read_clip(path, 1), VIDEOS[1].transpose(0, 2, 3, 1))
    for held in ({"videos": RunsCode(tmp_path / "ran")}, {"frames": videos}, [1, 2]):
        torch.save(held, path)
        with pytest.raises(VideoError):
            count_clips(path)
    assert not (tmp_path / "ran").exists()
