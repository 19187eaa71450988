"""Stored flow as batches: keys, lengths, sizes, units, masks, and what must not be mixed."""

import logging

import numpy as np
import pytest
from test_flow_files import some_flow, write_tree

from helpers.flow import OpticalFlowSequenceLoader, normalise_flow, resize_flow, write_flow

CLIP_A, CLIP_B = "training80_01/-AmMDnVl4s8.003", "training80_01/_plk5k7PBEg.010"


def ours(path, flow: np.ndarray, fps: float = 15.0, method: str = "dis_fast", clip_px: float = 20.0) -> None:
    write_flow(path, flow, np.arange(len(flow)) / fps, fps, method, clip_px, "float32")


def constant(n: int, dx: float, dy: float, side: int = 14) -> np.ndarray:
    return np.broadcast_to(np.float32([dx, dy]), (n, side, side, 2)).copy()


def test_all_three_kinds_are_found_under_the_keys_of_their_clips(tmp_path):
    flow = some_flow(5)
    ours(tmp_path / f"{CLIP_A}.npz", flow)
    write_tree(tmp_path / CLIP_B, flow)
    np.save(tmp_path / "training80_01" / "clip 10.npy", flow)
    np.save(tmp_path / "training80_01" / "clip 2.npy", flow)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / ".part-x.npz").write_bytes(b"half")
    loader = OpticalFlowSequenceLoader(tmp_path)
    assert loader.keys == (CLIP_A, CLIP_B, "training80_01/clip 2", "training80_01/clip 10")
    for key in loader.keys:
        assert np.array_equal(loader.load(key), flow)
        assert loader.missing(key) == []


def test_a_list_of_files_and_folders_has_keys_below_their_common_folder(tmp_path):
    ours(tmp_path / "x" / "a.npz", some_flow())
    write_tree(tmp_path / "y" / "id.003", some_flow())
    np.save(tmp_path / "b.npy", some_flow())
    paths = [tmp_path / "x" / "a.npz", tmp_path / "y" / "id.003", tmp_path / "b.npy"]
    assert OpticalFlowSequenceLoader(paths).keys == ("b", "x/a", "y/id.003")
    assert OpticalFlowSequenceLoader(paths[0]).keys == ("a",)
    assert OpticalFlowSequenceLoader(tmp_path / "y" / "id.003").keys == ("id.003",)


def test_a_clip_that_is_stored_twice_is_refused(tmp_path):
    ours(tmp_path / "a.npz", some_flow())
    np.save(tmp_path / "a.npy", some_flow())
    with pytest.raises(ValueError, match=r"a must be stored once, got .*a\.np[yz] and .*a\.np[yz]"):
        OpticalFlowSequenceLoader(tmp_path)


def test_nothing_to_load_is_said(tmp_path):
    with pytest.raises(ValueError, match="must hold flow .* got none"):
        OpticalFlowSequenceLoader(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is missing"):
        OpticalFlowSequenceLoader(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"x\.npy is missing"):
        OpticalFlowSequenceLoader([tmp_path / "x.npy"])


def test_an_unknown_key_and_unknown_options_are_refused(tmp_path):
    ours(tmp_path / "a.npz", some_flow())
    with pytest.raises(ValueError, match=r"key must be one of the 1 clips \(a, \.\.\.\), got 'b'"):
        OpticalFlowSequenceLoader(tmp_path).load("b")
    with pytest.raises(ValueError, match="trim must be one of start, centre, got 'end'"):
        OpticalFlowSequenceLoader(tmp_path, trim="end")
    with pytest.raises(ValueError, match="gaps must be one of error, zero, got 'skip'"):
        OpticalFlowSequenceLoader(tmp_path, gaps="skip")


def test_a_batch_is_what_the_extraction_would_have_made_of_the_same_flow(tmp_path):
    flow = np.random.default_rng(4).normal(0, 9, (5, 14, 14, 2)).astype(np.float32)
    ours(tmp_path / "a.npz", flow, clip_px=100.0)
    (batch,) = OpticalFlowSequenceLoader(tmp_path).batches(["a"], batch_size=3, length=5, size_px=7)
    assert batch.flow.shape == (1, 5, 7, 7, 2)
    assert batch.flow.dtype == np.float32
    assert batch.mask.all()
    np.testing.assert_allclose(batch.flow[0], normalise_flow(resize_flow(flow, 7), 20), atol=1e-7)


def test_vectors_are_scaled_with_the_size_and_divided_by_the_range(tmp_path):
    ours(tmp_path / "a.npz", constant(3, 8, -4))
    (batch,) = OpticalFlowSequenceLoader(tmp_path, clip_px=10).batches(["a"], batch_size=1, length=3, size_px=7)
    np.testing.assert_allclose(batch.flow, np.broadcast_to(np.float32([0.4, -0.2]), (1, 3, 7, 7, 2)))


def test_clips_of_all_lengths_fill_batches_in_the_given_order(tmp_path):
    for name, n in (("a", 2), ("b", 11), ("c", 5)):
        ours(tmp_path / f"{name}.npz", constant(n, n, 0))
    loader = OpticalFlowSequenceLoader(tmp_path)
    first, second = loader.batches(["c", "a", "b"], batch_size=2, length=5, size_px=14)
    assert (first.keys, second.keys) == (("c", "a"), ("b",))
    assert first.mask.tolist() == [[True] * 5, [True, True, False, False, False]]
    assert not first.flow[1, 2:].any()
    np.testing.assert_allclose(first.flow[1, :2, ..., 0], 2 / 20)
    assert second.flow.shape == (1, 5, 14, 14, 2)
    np.testing.assert_allclose(second.flow[..., 0], 11 / 20)


def test_a_long_clip_keeps_its_start_or_its_middle(tmp_path):
    flow = np.arange(7, dtype=np.float32)[:, None, None, None] * np.ones((7, 3, 3, 2), np.float32)
    np.save(tmp_path / "a.npy", flow)
    for trim, kept in (("start", [0, 1, 2]), ("centre", [2, 3, 4])):
        got, mask = OpticalFlowSequenceLoader(tmp_path, trim=trim).pad_or_trim(flow, 3)
        assert got[:, 0, 0, 0].tolist() == kept
        assert mask.all()
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        OpticalFlowSequenceLoader(tmp_path).pad_or_trim(flow, 0)


def test_a_single_flow_is_repeated_only_on_request(tmp_path):
    np.save(tmp_path / "a.npy", constant(1, 5, 0)[0])
    (padded,) = OpticalFlowSequenceLoader(tmp_path).batches(["a"], batch_size=1, length=4, size_px=14)
    assert padded.mask.tolist() == [[True, False, False, False]]
    assert not padded.flow[0, 1:].any()
    (repeated,) = OpticalFlowSequenceLoader(tmp_path, repeat_single=True).batches(
        ["a"], batch_size=1, length=4, size_px=14
    )
    assert repeated.mask.all()
    np.testing.assert_allclose(repeated.flow[..., 0], 5 / 20)


def test_a_gap_in_a_tree_is_an_error_or_a_masked_zero(tmp_path, caplog):
    write_tree(tmp_path / "a", constant(5, 6, 0))
    (tmp_path / "a" / "flow_0001_0002.npy").unlink()
    loader = OpticalFlowSequenceLoader([tmp_path / "a"])
    assert loader.missing("a") == ["flow_0001_0002.npy"]
    with pytest.raises(ValueError, match=r"flow_0001_0002\.npy is missing"):
        loader.load("a")
    loader = OpticalFlowSequenceLoader([tmp_path / "a"], gaps="zero")
    with caplog.at_level(logging.WARNING):
        (batch,) = loader.batches(["a"], batch_size=1, length=6, size_px=14)
    assert "a: 1 of 5 pairs are missing and count as no motion" in caplog.text
    assert batch.mask.tolist() == [[True, False, True, True, True, False]]
    assert not batch.flow[0, 1].any()


def test_flow_of_another_method_or_rate_is_not_mixed(tmp_path):
    ours(tmp_path / "a.npz", constant(3, 1, 0))
    ours(tmp_path / "b.npz", constant(3, 1, 0), method="tvl1")
    ours(tmp_path / "c.npz", constant(3, 1, 0), fps=30)
    write_tree(tmp_path / "d", constant(3, 1, 0))
    loader = OpticalFlowSequenceLoader(tmp_path)
    for key, what in (("b", "tvl1 at 15 fps"), ("c", "dis_fast at 30 fps"), ("d", "pairs of the source project")):
        with pytest.raises(ValueError, match=f"{key} holds {what}.*, a dis_fast at 15 fps"):
            list(loader.batches(["a", key], batch_size=1, length=3, size_px=14))


def test_values_that_were_cut_below_the_range_are_said(tmp_path, caplog):
    ours(tmp_path / "a.npz", constant(3, 9, 0), clip_px=5)
    with caplog.at_level(logging.WARNING):
        OpticalFlowSequenceLoader(tmp_path).load("a")
    assert "a: 0.5 of its values were cut at 5 px" in caplog.text


def test_what_is_not_square_cannot_be_resized_and_names_the_clip(tmp_path):
    np.save(tmp_path / "a.npy", some_flow(3, 11, 13))
    with pytest.raises(ValueError, match=r"a: flow must have shape .*, got \(3, 11, 13, 2\)"):
        list(OpticalFlowSequenceLoader(tmp_path).batches(["a"], batch_size=1, length=3, size_px=7))


def test_a_nan_names_its_file(tmp_path):
    flow = constant(3, 1, 0)
    flow[1, 2, 3] = np.nan
    np.save(tmp_path / "a.npy", flow)
    with pytest.raises(ValueError, match=r"a\.npy: flow must be finite, got NaN or infinity in field 1"):
        OpticalFlowSequenceLoader(tmp_path).load("a")
