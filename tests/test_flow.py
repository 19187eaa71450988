"""Flow: known motion, its file; stored faces and flow: which samples, when, whose, and every kind that is refused."""

from functools import partial

import cv2
import numpy as np
import pytest
from PIL import Image
from trees import SIDE, face, some_flow, write_faces, write_pairs

from helpers.flow import METHODS, OpticalFlowComputer, normalise_flow, read_flow, resize_flow, write_flow
from helpers.plots.preparation import flow_to_rgb
from helpers.precomputed import FaceTree, OpticalFlowSequenceLoader, StoredError, read_face, stored_chunks
from helpers.rows import CROPS_PER_CHUNK
from helpers.store import read_arrays, write_arrays

FLOW_PX, COLUMNS = 8, ("values", "t_s", "frame")
CLIP = "training80_01/-AmMDnVl4s8.003"


def flow_of(n, side=FLOW_PX):
    """Flow in whole steps of our files, which hold it exactly."""
    return np.random.default_rng(2).integers(-700, 700, (n, side, side, 2)).astype(np.float32) / 64


def ours(path, flow, fps=15.0, method="dis_fast"):
    write_flow(path, flow, np.arange(len(flow)) / fps, fps, method)


def samples_of(job):
    """All samples of a clip, their times and numbers, and the reasons by their place in the clip."""
    chunks = list(stored_chunks(job))
    values, t_s, numbers = (np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in COLUMNS)
    reasons = {CROPS_PER_CHUNK * k + at: why for k, chunk in enumerate(chunks) for at, why in chunk.unusable.items()}
    return values, t_s, numbers.tolist(), reasons


def apart(picture, other):
    return np.abs(picture.astype(int) - other).mean()


def test_a_picture_is_known_by_its_content_turned_as_it_says_and_scaled_like_a_crop(tmp_path):
    Image.fromarray(face(1)).save(tmp_path / "face_1.jpg", format="png")
    np.testing.assert_array_equal(read_face(tmp_path / "face_1.jpg", SIDE), face(1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(face(1)).save(tmp_path / "face_2.jpg", quality=95, exif=exif)
    assert apart(read_face(tmp_path / "face_2.jpg", SIDE), np.rot90(face(1), -1)) < 3
    write_faces(tmp_path / "tree" / "a", [0], side=64)
    for name in ("face_{}.jpg", "frame_{}.png"):
        write_faces(tmp_path / "tree" / "b", [10], name)
    tree = FaceTree(tmp_path / "tree", 30.0)
    with pytest.raises(StoredError, match="number 10"):
        tree.job("b", SIDE)
    assert apart(samples_of(tree.job("a", 32))[0][0], face(0, 64)[::2, ::2]) < 3


def test_pictures_of_other_programs_are_ordered_and_faces_told_apart(tmp_path, caplog):
    names = {"frame_det_00_{:06d}.bmp": 0, "{:04d}.webp": 1, "id003_frame_{}.png": 1}  # of the first
    for k, name in enumerate(names):
        write_faces(tmp_path / f"{k}_aligned", range(1, 5), name)
    write_faces(tmp_path / "0_aligned", range(11, 14), "frame_det_01_00000{}9.bmp")  # another face, at other times
    for k, first in enumerate(names.values()):
        crops, t_s, found, reasons = samples_of(FaceTree(tmp_path, 30.0).job(f"{k}_aligned", SIDE))
        assert (found, reasons) == (list(range(first, first + 4)), {})
        np.testing.assert_allclose(t_s, np.arange(first, first + 4) / 30)
        assert all(apart(crop, face(seed)) < 5 for crop, seed in zip(crops, range(1, 5), strict=True))
    assert "0_aligned: 3 pictures of other faces are left out" in caplog.text
    assert caplog.text.count("left out") == 1


def test_a_changed_renamed_or_removed_sample_changes_the_fingerprint_of_its_clip(tmp_path):
    for name in "ab":
        write_faces(tmp_path / name, range(3))
    (tmp_path / "a" / "face_000009.jpg").symlink_to(tmp_path / "nowhere.jpg")
    tree, two, three = FaceTree(tmp_path, 30.0), tmp_path / "a" / "face_000002.jpg", tmp_path / "a" / "face_000003.jpg"
    seen = [tree.fingerprint("a")]
    (tmp_path / "b" / "face_000000.jpg").touch()
    (tmp_path / "a" / "Thumbs.db").touch()  # what systems leave is none
    assert tree.fingerprint("a") == seen[0]
    for change in (lambda: two.rename(three), three.unlink, lambda: write_faces(tmp_path / "a", [1], side=64)):
        change()
        seen.append(tree.fingerprint("a"))
    assert len(set(seen)) == 4


@pytest.mark.parametrize("tree", [FaceTree, OpticalFlowSequenceLoader])
def test_a_tree_that_cannot_be_used_at_all_is_refused(tmp_path, tree):
    with pytest.raises(FileNotFoundError, match="_dir must be"):
        tree(tmp_path / "nowhere", 30.0)
    with pytest.raises(ValueError, match="got none"):
        tree(tmp_path, 30.0)
    (tmp_path / "a").mkdir()
    for name in ("face_0.jpg", "flow_0_1.npy"):
        (tmp_path / "a" / name).touch()
    with pytest.raises(ValueError, match="none that can be read"):
        tree(tmp_path, 30.0)
    Image.fromarray(face()[:20]).save(tmp_path / "a" / "face_1.jpg")
    np.save(tmp_path / "a" / "flow_1_2.npy", np.zeros((20, 32, 2), np.float32))
    with pytest.raises(ValueError, match="20, 32"):
        tree(tmp_path, 30.0)


class Hostile:
    """Writes a file into the working folder when it is unpickled."""

    def __reduce__(self):
        return (open, ("opened", "w"))


def one_bad(value):
    field = flow_of(1)[0]
    field[2, 3, 1] = value
    return field


def cut_at(end):
    return lambda path: path.write_bytes(path.read_bytes()[:end])


BAD_FIELDS = {  # what makes or is the field, and the reason
    1: (lambda path: path.write_bytes(b""), "empty (0 bytes)"),
    2: (lambda path: path.write_text("no array\n"), "unreadable ("),
    3: (cut_at(-7), "unreadable ("),
    4: (cut_at(20), "unreadable ("),
    5: (one_bad(np.nan), "NaN or infinity"),
    6: (one_bad(np.inf), "NaN or infinity"),
    7: (flow_of(1, FLOW_PX - 1)[0], "float32 (7, 7, 2), not decimal numbers (8, 8, 2)"),
    8: (flow_of(1)[0].transpose(2, 0, 1), "float32 (2, 8, 8), not"),
    9: (flow_of(1), "float32 (1, 8, 8, 2), not"),
    10: (np.zeros((FLOW_PX, FLOW_PX, 2), np.uint8), "uint8 (8, 8, 2), not"),
    11: (np.array([Hostile()], dtype=object), "unreadable ("),
    35: (lambda path: path.unlink(), "missing"),
}


def test_every_bad_field_is_zero_with_its_reason_and_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, n in (("a", 40), ("b", 3)):
        write_pairs(tmp_path / "flows" / name, flow_of(n))
    for i, (bad, _) in BAD_FIELDS.items():
        path = tmp_path / "flows" / "a" / f"flow_{i:04d}_{i + 1:04d}.npy"
        bad(path) if callable(bad) else np.save(path, bad)
    values, _, _, reasons = samples_of(OpticalFlowSequenceLoader(tmp_path / "flows", 6.0).job("a", FLOW_PX, 20.0))
    assert list(reasons) == list(BAD_FIELDS)
    for i, (_, reason) in BAD_FIELDS.items():
        assert reasons[i].startswith(f"flow_{i:04d}_{i + 1:04d}.npy: {reason}")
        assert not values[i].any()
    good = [i for i in range(40) if i not in BAD_FIELDS]
    np.testing.assert_array_equal(values[good], normalise_flow(flow_of(40)[good], 20.0))
    assert not (tmp_path / "opened").exists()


def test_our_files_know_their_rate_and_method_and_one_of_another_kind_or_damaged_costs_itself_only(tmp_path):
    for name in "abc":
        ours(tmp_path / f"{name}.npz", flow_of(45), fps=25.0, method="tvl1")
    ours(tmp_path / "dis.npz", flow_of(4), fps=25.0)
    ours(tmp_path / "slow.npz", flow_of(4), fps=5.0, method="tvl1")
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-50])
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    write_pairs(tmp_path / "twice", flow_of(2))
    np.save(tmp_path / "twice" / "flow_0000_0002.npy", flow_of(1)[0])
    times = [np.array(t_s) / 25 for t_s in ([], range(46), [*range(44), 90])]
    for i, change in enumerate([{"fps": 0.0}, {"fps": "fast"}, *({"t_s": t_s} for t_s in times)]):
        np.savez(tmp_path / f"contradicts {i}.npz", **read_arrays(tmp_path / "b.npz") | change)
    tree = OpticalFlowSequenceLoader(tmp_path, 6.0)
    assert (tree.fps, tree.made, tree.side_px, len(tree.clips)) == (25.0, "tvl1", FLOW_PX, 13)
    for name in {*tree.clips}.difference("abc"):
        with pytest.raises(StoredError) as error:
            tree.job(name, FLOW_PX, 20.0)
        assert str(tmp_path) not in str(error.value)
    values, t_s, numbers, reasons = samples_of(tree.job("b", FLOW_PX, 20.0))
    np.testing.assert_array_equal(values, normalise_flow(flow_of(45)))
    np.testing.assert_allclose(t_s, np.arange(45) / 25)
    assert (numbers, reasons) == (list(range(45)), {})


def test_all_kinds_of_flow_are_found_in_natural_order_under_the_keys_of_their_clips(tmp_path):
    flow = flow_of(5)
    other = "training80_01/_plk5k7PBEg.010"
    ours(tmp_path / f"{CLIP}.npz", flow)
    write_pairs(tmp_path / other, flow, digits=1)  # unpadded: by name, flow_10_11 would come before flow_2_3
    for name in ("clip 10", "clip 2"):
        np.save(tmp_path / "training80_01" / f"{name}.npy", flow)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / ".part-x.npz").write_bytes(b"half")
    keys = [CLIP, other, "training80_01/clip 2", "training80_01/clip 10"]
    assert list(OpticalFlowSequenceLoader(tmp_path, 6.0).clips) == keys
    (tmp_path / f"{CLIP}.npz").unlink()
    loader = OpticalFlowSequenceLoader(tmp_path / other, 6.0)  # itself a clip
    assert list(loader.clips) == ["_plk5k7PBEg.010"]
    np.testing.assert_array_equal(loader.load("_plk5k7PBEg.010")[0], flow)
    with pytest.raises(ValueError, match="'b'"):
        loader.load("b")
    ours(tmp_path / "training80_01" / "clip 2.npz", flow)
    with pytest.raises(ValueError, match="are the same clip 'training80_01/clip 2'"):
        OpticalFlowSequenceLoader(tmp_path, 6.0)


@pytest.mark.parametrize(("n", "first", "missing"), [(70, 0, []), (33, 1, []), (12, 2, [0, 1])])
def test_pairs_begin_at_zero_or_one_and_a_higher_start_means_missing_ones(tmp_path, n, first, missing):
    write_pairs(tmp_path / CLIP, flow_of(n), first, digits=1)
    tree = OpticalFlowSequenceLoader(tmp_path, 6.0)
    flow, t_s, numbers, reasons = samples_of(tree.job(CLIP, FLOW_PX, 20.0))
    assert reasons == {i: f"flow_{i}_{i + 1}.npy: missing" for i in missing}
    assert not flow[missing].any()
    np.testing.assert_array_equal(flow[len(missing) :], normalise_flow(flow_of(n), 20.0))
    np.testing.assert_allclose(t_s, np.arange(len(flow)) / 6)
    assert numbers == list(range(first - len(missing), n + first))
    assert tree.job(CLIP, FLOW_PX, 20.0).n_frames == len(flow) + 1


def test_batches_are_cut_padded_repeated_on_request_and_masked_where_a_field_is_bad(tmp_path):
    flow, single = flow_of(11), flow_of(1)
    for name, fields in (("a", single), ("b", flow[:2]), ("c", flow)):
        write_pairs(tmp_path / name, fields, digits=1)
    (tmp_path / "c" / "flow_1_2.npy").unlink()
    loader = OpticalFlowSequenceLoader(tmp_path, 6.0)
    (first, mask, names), (last, _, rest) = loader.batches(
        ["c", "a", "b"], batch_size=2, length=4, size_px=4, clip_px=6.0
    )
    assert (names, rest, last.shape, last.dtype) == (["c", "a"], ["b"], (1, 4, 4, 4, 2), np.float32)
    assert mask.tolist() == [[True, False, True, True], [True, False, False, False]]
    np.testing.assert_array_equal(first[mask][1:3], normalise_flow(resize_flow(flow[2:4], 4), 6.0))
    assert not first[~mask].any()
    ((repeated, mask, _),) = loader.batches(["a"], batch_size=1, length=4, size_px=FLOW_PX, repeat_single=True)
    np.testing.assert_array_equal(repeated[0], np.repeat(normalise_flow(single), 4, axis=0))
    assert mask.all()


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_moved_right_or_down_gives_its_motion_in_pixels(method):
    noise = np.random.default_rng(5).integers(0, 256, (97, 97, 3)).astype(np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)
    frames = [np.roll(texture, (dy, dx), axis=(0, 1)) for dx, dy in ((0, 0), (3, 0), (3, 2))]
    flow = OpticalFlowComputer(method).compute(np.stack(frames))
    assert (flow.shape, flow.dtype) == ((2, 97, 97, 2), np.float32)
    for field, motion in zip(flow, ((3, 0), (0, 2)), strict=True):
        np.testing.assert_allclose(np.median(field[20:-20, 20:-20].reshape(-1, 2), axis=0), motion, atol=0.3)


def test_resizing_scales_the_vectors_and_normalising_truncates_and_divides():
    flow = np.broadcast_to(np.float32([6, -4]), (5, 22, 22, 2))
    np.testing.assert_allclose(resize_flow(flow, 11), np.broadcast_to(np.float32([3, -2]), (5, 11, 11, 2)))
    np.testing.assert_allclose(resize_flow(flow[0], 44), np.broadcast_to(np.float32([12, -8]), (44, 44, 2)))
    rough = np.random.default_rng(3).normal(size=(14, 14, 2)).astype(np.float32)
    np.testing.assert_allclose(resize_flow(rough, 7), rough.reshape(7, 2, 7, 2, 2).mean((1, 3)) / 2, atol=1e-6)
    normal = normalise_flow(np.float64([[-25, -20, -5, 0, 10, 21]]), 20)
    assert (normal.tolist(), normal.dtype) == ([[-1, -1, -0.25, 0, 0.5, 1]], np.float32)


def test_colours_show_direction_and_length():
    flow = np.float32([[[0, 0], [4, 0], [2, 0], [-4, 0], [0, 4], [0, -4], [9, 0]]])
    still, right, slow, left, down, up, beyond = flow_to_rgb(flow, max_px=4)[0].tolist()
    assert still == [255, 255, 255]
    assert right == beyond == [255, 0, 0]
    assert slow == pytest.approx([255, 128, 128], abs=1)
    assert left == [0, 255, 255]
    assert down == pytest.approx([128, 255, 0], abs=1)
    assert up == pytest.approx([128, 0, 255], abs=1)


@pytest.mark.parametrize("clip_px", [20.0, 7.0])
def test_a_flow_file_holds_values_to_half_a_step_and_what_is_said_about_them(tmp_path, clip_px):
    flow = some_flow()
    write_flow(tmp_path / "deep" / "id.003.npz", flow, [0.2, 0.4, 0.6], 5, "farneback", clip_px)
    got = read_flow(tmp_path / "deep" / "id.003.npz")
    assert got.flow.dtype == np.float32
    assert 1 / 64 / 5 <= np.abs(got.flow - np.clip(flow, -clip_px, clip_px)).max() <= 1 / 64 / 2 + 1e-6
    np.testing.assert_array_equal(got[2], got.flow[2])
    assert (got.t_s.tolist(), got.fps, got.method, got.clip_px) == ([0.2, 0.4, 0.6], 5, "farneback", clip_px)


def test_what_is_no_flow_is_refused_before_anything_is_written_and_damaged_files_are_named(tmp_path):
    right = {"flow": np.zeros((2, 5, 7, 2), np.float32), "t_s": [0.0, 0.1], "fps": 10, "method": "tvl1"}
    wrong = (
        {"flow": np.zeros((2, 5, 7), np.float32)},
        {"flow": np.zeros((2, 5, 7, 2), np.uint8)},
        {"flow": np.full((2, 5, 7, 2), np.nan)},
        {"t_s": [0.0]},
        {"t_s": [0.2, 0.1]},
        {"fps": 0},
        {"clip_px": 512},
    )
    path = tmp_path / "a.npz"
    for call in (
        partial(OpticalFlowComputer().compute, np.zeros((1, 97, 97, 3), np.uint8)),
        partial(OpticalFlowComputer, "raft"),
        partial(resize_flow, np.zeros((5, 7, 11, 2), np.float32), 7),
        partial(normalise_flow, np.zeros((3, 3, 2)), 0),
        *(partial(write_flow, path, **right | change) for change in wrong),
    ):
        with pytest.raises(ValueError, match="must"):
            call()
    assert not list(tmp_path.iterdir())
    write_flow(path, **right)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_arrays(tmp_path / "rows.npz", features=np.zeros((2, 3)))
    for name, error in (("rows", ValueError), ("a", ValueError), ("none", FileNotFoundError)):
        with pytest.raises(error, match=f"{name}.npz"):
            read_flow(tmp_path / f"{name}.npz")
