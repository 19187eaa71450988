"""Trees of face pictures: which clips and times they hold, and every kind of picture that is refused."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers import precomputed
from helpers.config import PreparationConfig
from helpers.extract import prepare_clips
from helpers.faces import crop_at, export_faces, read_track
from helpers.files import ROOT
from helpers.precomputed import PictureError, StoredError, open_face_tree, pictures_of, read_face, stored_crops
from helpers.store import write_arrays
from helpers.video import iter_frames

SAMPLE = ROOT / "data_sample"
SIDE = 32


def face(seed: int = 0, side: int = SIDE) -> np.ndarray:
    """A smooth colour picture, RGB uint8 (side, side, 3), that JPEG keeps well."""
    corners = np.random.default_rng(seed).integers(40, 216, (3, 3, 3)).astype(np.uint8)
    return cv2.resize(corners, (side, side), interpolation=cv2.INTER_CUBIC)


def write_tree(folder, numbers, name="face_{:06d}.jpg", side=SIDE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(face(number, side)).save(folder / name.format(number), quality=95)


def write_bad_pictures(folder) -> None:
    """One file of every bad kind, numbered from 100: see `KINDS`."""
    rgb = Image.fromarray(face())
    paths = {kind: folder / f"face_{number:06d}" for number, kind in enumerate(KINDS, 100)}
    paths["empty"].with_suffix(".jpg").touch()
    paths["text"].with_suffix(".jpg").write_text("no picture\n")
    rgb.save(paths["cut"].with_suffix(".jpg"), quality=95)
    whole = paths["cut"].with_suffix(".jpg").read_bytes()
    paths["cut"].with_suffix(".jpg").write_bytes(whole[:-40])
    rgb.save(paths["cut png"].with_suffix(".png"))
    whole = paths["cut png"].with_suffix(".png").read_bytes()
    paths["cut png"].with_suffix(".png").write_bytes(whole[: len(whole) // 2])
    rgb.resize((SIDE, SIDE - 1)).save(paths["size"].with_suffix(".jpg"))
    rgb.convert("L").save(paths["grey"].with_suffix(".jpg"))
    rgb.convert("RGBA").save(paths["alpha"].with_suffix(".png"))
    rgb.convert("CMYK").save(paths["cmyk"].with_suffix(".jpg"))
    rgb.convert("P").save(paths["palette"].with_suffix(".png"))
    cv2.imwrite(str(paths["deep grey"].with_suffix(".png")), face()[..., 0].astype(np.uint16) * 257)
    cv2.imwrite(str(paths["deep"].with_suffix(".png")), face().astype(np.uint16) * 257)


KINDS = {
    "empty": "face_000100.jpg: empty (0 bytes)",
    "text": "face_000101.jpg: not a picture",
    "cut": "face_000102.jpg: unreadable (image file is truncated",
    "cut png": "face_000103.png: unreadable (",
    "size": "face_000104.jpg: 32x31 px, not 32x32 px like the others",
    "grey": "face_000105.jpg: greyscale, not RGB",
    "alpha": "face_000106.png: with transparency (RGBA), not RGB",
    "cmyk": "face_000107.jpg: CMYK, not RGB",
    "palette": "face_000108.png: a palette of colours, not RGB",
    "deep grey": "face_000109.png: 16 bits per channel, not 8",
    "deep": "face_000110.png: 16 bits per channel, not 8",
}


def crops_of(tree, name, size_px=SIDE):
    """All crops of a clip, their times and numbers, and the reasons by their place in the clip."""
    pieces = list(stored_crops(tree.job(name, size_px)))
    starts = np.cumsum([0, *(len(piece.values) for piece in pieces)])
    reasons = {
        int(start) + at: reason
        for start, piece in zip(starts, pieces, strict=False)
        for at, reason in piece.unusable.items()
    }
    return *(np.concatenate([getattr(p, field) for p in pieces]) for field in ("values", "t_s", "frame")), reasons


def test_every_picture_comes_in_the_order_of_its_number_at_its_time(tmp_path):
    write_tree(tmp_path / "training80_01" / "-AmMDnVl4s8.003", range(0, 60, 5), "face_frame_{}.jpg")
    tree = open_face_tree(tmp_path, 30.0)
    assert list(tree.clips) == ["training80_01/-AmMDnVl4s8.003"]
    assert (tree.side_px, tree.identity["fps"]) == (SIDE, 30.0)
    crops, t_s, numbers, reasons = crops_of(tree, "training80_01/-AmMDnVl4s8.003")
    assert numbers.tolist() == list(range(0, 60, 5))  # frame_5 before frame_10
    np.testing.assert_allclose(t_s, np.arange(12) / 6)
    assert reasons == {}
    assert crops.dtype == np.uint8
    for crop, number in zip(crops, numbers, strict=True):
        assert np.abs(crop.astype(int) - face(number)).mean() < 3


def test_the_pictures_are_decoded_exactly_and_in_colour(tmp_path):
    write_tree(tmp_path / "a", [7])
    expected = cv2.cvtColor(cv2.imread(str(tmp_path / "a" / "face_000007.jpg")), cv2.COLOR_BGR2RGB)
    crops, *_ = crops_of(open_face_tree(tmp_path, 30.0), "a")
    np.testing.assert_array_equal(crops[0], expected)


@pytest.mark.parametrize("at_a_time", [1, 3, 64])
def test_every_bad_picture_is_zero_with_its_reason_and_the_others_stay(tmp_path, monkeypatch, at_a_time):
    monkeypatch.setattr(precomputed, "CROPS_PER_CHUNK", at_a_time)
    folder = tmp_path / "tree" / "a"
    write_tree(folder, [0, 5, 200])
    write_tree(tmp_path / "tree" / "b", range(3))
    write_bad_pictures(folder)
    crops, _, numbers, reasons = crops_of(open_face_tree(tmp_path / "tree", 30.0), "a")
    assert numbers.tolist() == [0, 5, *range(100, 111), 200]
    assert list(reasons) == list(range(2, 13))
    for got, expected in zip(reasons.values(), KINDS.values(), strict=True):
        assert got.startswith(expected)
    assert not crops[2:13].any()
    for place, number in ((0, 0), (1, 5), (13, 200)):
        assert np.abs(crops[place].astype(int) - face(number)).mean() < 3


def test_a_picture_that_the_camera_held_sideways_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(face(1)).save(tmp_path / "face_1.jpg", quality=95, exif=exif)
    got = read_face(tmp_path / "face_1.jpg", SIDE)
    assert np.abs(got.astype(int) - np.rot90(face(1), -1)).mean() < 3


def test_a_png_under_the_name_of_a_jpeg_is_read(tmp_path):
    Image.fromarray(face(1)).save(tmp_path / "face_1.png")
    (tmp_path / "face_1.png").rename(tmp_path / "face_1.jpg")
    np.testing.assert_array_equal(read_face(tmp_path / "face_1.jpg", SIDE), face(1))
    with pytest.raises(PictureError, match="face_2.jpg: there is no such file any more"):
        read_face(tmp_path / "face_2.jpg", SIDE)


def test_pictures_are_scaled_to_the_network_like_crops(tmp_path):
    write_tree(tmp_path / "a", [0], side=64)
    crops, *_ = crops_of(open_face_tree(tmp_path, 30.0), "a", size_px=32)
    assert crops.shape == (1, 32, 32, 3)
    assert np.abs(crops[0].astype(int) - face(0, 64)[::2, ::2]).mean() < 3


def test_two_pictures_of_one_number_cost_their_clip_only(tmp_path):
    write_tree(tmp_path / "a", [10])
    write_tree(tmp_path / "a", [10], "frame_{}.png")
    write_tree(tmp_path / "b", [10])
    tree = open_face_tree(tmp_path, 30.0)
    with pytest.raises(StoredError, match="face_000010.jpg and frame_10.png have the same number 10"):
        tree.job("a", SIDE)
    assert tree.job("b", SIDE).track.n_frames == 1


def test_a_changed_renamed_or_removed_picture_changes_the_stamp_of_its_clip(tmp_path):
    for name in "ab":
        write_tree(tmp_path / name, range(3))
    tree = open_face_tree(tmp_path, 30.0)
    seen = [tree.stamp("a")]
    (tmp_path / "b" / "face_000000.jpg").touch()
    assert tree.stamp("a") == seen[0]
    (tmp_path / "a" / "face_000002.jpg").rename(tmp_path / "a" / "face_000003.jpg")
    seen.append(tree.stamp("a"))
    (tmp_path / "a" / "face_000003.jpg").unlink()
    seen.append(tree.stamp("a"))
    Image.fromarray(face(9)).save(tmp_path / "a" / "face_000001.jpg")
    seen.append(tree.stamp("a"))
    assert len(set(seen)) == 4


def test_a_change_is_seen_in_a_clip_of_which_a_link_leads_nowhere(tmp_path):
    write_tree(tmp_path / "a", range(3))
    (tmp_path / "a" / "face_000003.jpg").symlink_to(tmp_path / "nowhere.jpg")
    tree = open_face_tree(tmp_path, 30.0)
    before = tree.stamp("a")
    Image.fromarray(face(9)).save(tmp_path / "a" / "face_000001.jpg")
    assert tree.stamp("a") != before


def test_a_number_that_no_computer_counts_to_costs_the_clip(tmp_path):
    write_tree(tmp_path / "a", [10**19])
    write_tree(tmp_path / "b", [10])
    with pytest.raises(StoredError, match="the number in face_1.*0.jpg is too large"):
        open_face_tree(tmp_path, 30.0).job("a", SIDE)


def test_links_are_followed_once_and_hidden_and_other_files_are_passed_over(tmp_path):
    write_tree(tmp_path / "elsewhere" / "a", [0])
    root = tmp_path / "tree"
    write_tree(root / ".trash" / "c", [0])
    (root / "b").mkdir()
    write_tree(root / "b", [3])
    shutil.copy(root / "b" / "face_000003.jpg", root / "b" / "cover.jpg")
    (root / "b" / "face_000004.txt").touch()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "linked" / "loop").symlink_to(root)
    tree = open_face_tree(root, 30.0)
    assert list(tree.clips) == ["b", "linked/a"]
    assert list(pictures_of(tree.clips["b"])) == [3]


def test_a_tree_that_cannot_be_used_at_all_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="faces_dir must be a folder of face pictures"):
        open_face_tree(tmp_path / "nowhere", 30.0)
    with pytest.raises(ValueError, match="faces_dir must hold pictures like clip/face_0001.jpg, got none below"):
        open_face_tree(tmp_path, 30.0)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "face_0.jpg").touch()
    with pytest.raises(ValueError, match="not one of 1 looked at can be read"):
        open_face_tree(tmp_path, 30.0)
    Image.fromarray(face()[:20]).save(tmp_path / "a" / "face_1.jpg")
    with pytest.raises(ValueError, match="must be square, got 32x20 px. Crop them to squares."):
        open_face_tree(tmp_path, 30.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A clip's faces as `helpers.faces` writes them, every third frame, and what they were cut from."""
    root = tmp_path_factory.mktemp("exported")
    (root / "data").mkdir()
    shutil.copy(sorted((SAMPLE / "training80_01").glob("*.mp4"))[0], root / "data" / "ü.001.mp4")
    clips = pd.DataFrame({"path": ["ü.001.mp4"]}, index=pd.Index(["ü.001"], name="key"))
    prepare_clips(clips, PreparationConfig(data_dir=str(root / "data"), out_dir=str(root / "run"), workers=1))
    export_faces(clips, root / "data", root / "run", root, every=3)
    return root


def test_what_export_writes_comes_back_with_its_exact_times(exported):
    tree = open_face_tree(exported / "faces_jpeg", 99.0)  # the rate is not needed: the times are known
    crops, t_s, numbers, reasons = crops_of(tree, "ü.001", size_px=224)
    assert numbers.tolist() == list(range(0, 73, 3))
    assert reasons == {}
    np.testing.assert_allclose(t_s, np.arange(0, 73, 3) / 15)
    assert tree.job("ü.001", 224).track.fps == pytest.approx(15)
    track = read_track(exported / "run" / "faces" / "ü.001.npz")
    frames = iter_frames(exported / "data" / "ü.001.mp4", indices=slice(0, None, 3))
    expected = [crop_at(frame, track, t, 224) for frame, t, _ in frames]
    assert np.abs(crops.astype(int) - expected).mean() < 3


def test_exported_times_that_do_not_fit_the_pictures_cost_the_clip(exported, tmp_path):
    for name in ("faces_jpeg", "faces_jpeg_times"):
        shutil.copytree(exported / name, tmp_path / name)
    tree = open_face_tree(tmp_path / "faces_jpeg", 30.0)
    before = tree.stamp("ü.001")
    times = tmp_path / "faces_jpeg_times" / "ü.001.npz"
    write_arrays(times, frame=np.arange(0, 73, 6), t_s=np.arange(0, 73, 6) / 15)
    assert tree.stamp("ü.001") != before
    with pytest.raises(StoredError, match="say nothing of face_000003.jpg"):
        tree.job("ü.001", 224)
    times.write_bytes(b"half")
    with pytest.raises(StoredError, match="ü.001.npz, is damaged"):
        tree.job("ü.001", 224)
