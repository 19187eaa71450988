"""Stored flow: which fields it holds and when, and every kind of field that is refused."""

import tracemalloc

import numpy as np
import pytest
from test_flow_files import write_tree

from helpers.flow import normalise_flow, read_flow, resize_flow, write_flow
from helpers.precomputed import FieldError, StoredError, open_flow_tree, read_field, stored_flows
from helpers.store import read_arrays, write_arrays

SIDE = 8
CLIP = "training80_01/-AmMDnVl4s8.003"


def flow_of(n: int, side: int = SIDE, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 4, (n, side, side, 2)).astype(np.float32)


def ours(path, flow, fps=15.0, method="dis_fast"):
    write_flow(path, flow, np.arange(len(flow)) / fps, fps, method, dtype="float32")


def flows_of(tree, name, input_px=SIDE, clip_px=20.0):
    """All fields of a clip, their times and numbers, and the reasons by their place in the clip."""
    pieces = list(stored_flows(tree.job(name, input_px, clip_px)))
    starts = np.cumsum([0, *(len(piece.values) for piece in pieces)])
    reasons = {
        int(start) + at: reason
        for start, piece in zip(starts, pieces, strict=False)
        for at, reason in piece.unusable.items()
    }
    return *(np.concatenate([getattr(p, field) for p in pieces]) for field in ("values", "t_s", "frame")), reasons


@pytest.mark.parametrize(("n", "first"), [(5, 0), (70, 0), (33, 1)])
def test_a_tree_of_pairs_gives_every_field_at_its_time(tmp_path, n, first):
    flow = flow_of(n)
    write_tree(tmp_path / CLIP, flow, first=first)
    tree = open_flow_tree(tmp_path, 6.0)
    assert list(tree.clips) == [CLIP]
    assert tree.identity == {"flow": tmp_path.name, "side_px": SIDE, "fps": 6.0, "made": "pairs of unknown method"}
    values, t_s, numbers, reasons = flows_of(tree, CLIP)
    np.testing.assert_array_equal(values, normalise_flow(flow, 20.0))
    assert values.dtype == np.float32
    np.testing.assert_allclose(t_s, np.arange(n) / 6)
    assert numbers.tolist() == list(range(first, n + first))
    assert reasons == {}
    assert tree.job(CLIP, SIDE, 20.0).track.n_frames == n + 1
    assert tree.job(CLIP, SIDE, 20.0).track.fps == 6.0


@pytest.mark.parametrize("input_px", [4, 16])
def test_fields_of_another_side_than_the_network_are_scaled_with_their_vectors(tmp_path, input_px):
    flow = flow_of(3)
    write_tree(tmp_path / "a", flow)
    values, *_ = flows_of(open_flow_tree(tmp_path, 6.0), "a", input_px, clip_px=2.0)
    np.testing.assert_array_equal(values, normalise_flow(resize_flow(flow, input_px), 2.0))
    assert np.abs(values).max() == 1


def test_every_bad_field_is_zero_with_its_reason_and_the_others_stay(tmp_path):
    write_tree(tmp_path / "a", flow_of(40))
    write_tree(tmp_path / "b", flow_of(3))

    def path(i):
        return tmp_path / "a" / f"flow_{i:04d}_{i + 1:04d}.npy"

    path(1).write_bytes(b"")
    path(2).write_text("no array\n")
    path(3).write_bytes(path(3).read_bytes()[:-7])
    path(4).write_bytes(path(4).read_bytes()[:20])
    for i, value in ((5, np.nan), (6, np.inf)):
        field = flow_of(1)[0]
        field[2, 3, 1] = value
        np.save(path(i), field)
    np.save(path(7), flow_of(1, SIDE - 1)[0])
    np.save(path(8), flow_of(1)[0].transpose(2, 0, 1))
    np.save(path(9), flow_of(1))
    np.save(path(10), np.zeros((SIDE, SIDE, 2), np.uint8))
    path(35).unlink()
    values, _, _, reasons = flows_of(open_flow_tree(tmp_path, 6.0), "a")
    expected = {
        1: "flow_0001_0002.npy: empty (0 bytes)",
        2: "flow_0002_0003.npy: not an npy file",
        3: "flow_0003_0004.npy: cut short or damaged",
        4: "flow_0004_0005.npy: cut short or damaged",
        5: "flow_0005_0006.npy: NaN or infinity",
        6: "flow_0006_0007.npy: NaN or infinity",
        7: "flow_0007_0008.npy: shape (7, 7, 2), not (8, 8, 2) like the others",
        8: "flow_0008_0009.npy: shape (2, 8, 8), not (8, 8, 2) like the others",
        9: "flow_0009_0010.npy: shape (1, 8, 8, 2), not (8, 8, 2) like the others",
        10: "flow_0010_0011.npy: uint8 values, not decimal numbers in pixels",
        35: "flow_0035_0036.npy: missing",
    }
    assert list(reasons) == list(expected)
    for place, reason in expected.items():
        assert reasons[place].startswith(reason)
        assert not values[place].any()
    good = [i for i in range(40) if i not in expected]
    np.testing.assert_array_equal(values[good], normalise_flow(flow_of(40)[good], 20.0))


def test_our_files_know_their_rate_and_method(tmp_path):
    flow = flow_of(35)
    ours(tmp_path / f"{CLIP}.npz", flow, fps=25.0, method="tvl1")
    tree = open_flow_tree(tmp_path, 6.0)
    assert (tree.fps, tree.made, tree.side_px) == (25.0, "tvl1", SIDE)
    values, t_s, numbers, reasons = flows_of(tree, CLIP)
    np.testing.assert_allclose(values, normalise_flow(flow, 20.0), atol=1e-6)
    np.testing.assert_allclose(t_s, np.arange(35) / 25)
    assert numbers.tolist() == list(range(35))
    assert reasons == {}


def peak_of(run) -> int:
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_long_clip_is_looked_at_by_its_header_and_decoded_in_pieces(tmp_path):
    n, side = 645, 32
    flow = flow_of(n, side)
    write_flow(tmp_path / "a.npz", flow, np.arange(n) / 15, 15.0, "dis_fast")
    values, *_ = flows_of(open_flow_tree(tmp_path, 6.0), "a", side)
    np.testing.assert_array_equal(values, normalise_flow(read_flow(tmp_path / "a.npz").flow, 20.0))
    assert peak_of(lambda: open_flow_tree(tmp_path, 6.0)) < 0.1 * flow.nbytes
    job = open_flow_tree(tmp_path, 6.0).job("a", side, 20.0)
    assert peak_of(lambda: [None for _ in stored_flows(job)]) < 0.9 * flow.nbytes  # half of it: the codes, in int16


def test_what_is_wrong_in_a_later_piece_costs_the_clip_and_is_told_by_its_place(tmp_path):
    ours(tmp_path / "a.npz", flow_of(70))
    arrays = read_arrays(tmp_path / "a.npz")
    arrays["codes"][40, 1, 2, 3] = np.inf
    write_arrays(tmp_path / "a.npz", **arrays)
    with pytest.raises(StoredError, match=r"^a\.npz: flow must be finite, got NaN or infinity in field 40"):
        flows_of(open_flow_tree(tmp_path, 6.0), "a")


def test_a_bad_field_of_a_plain_array_is_told_by_its_place(tmp_path):
    flow = flow_of(5)
    flow[3, 0, 0, 0] = np.nan
    np.save(tmp_path / "a.npy", flow)
    values, _, _, reasons = flows_of(open_flow_tree(tmp_path, 6.0), "a")
    assert reasons == {3: "field 3: NaN or infinity"}
    assert not values[3].any()


def test_a_clip_of_another_method_or_rate_or_that_cannot_be_read_costs_itself_only(tmp_path):
    for name in "abc":
        ours(tmp_path / f"{name}.npz", flow_of(4))
    ours(tmp_path / "tvl.npz", flow_of(4), method="tvl1")
    ours(tmp_path / "slow.npz", flow_of(4), fps=5.0)
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-50])
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    write_tree(tmp_path / "twice", flow_of(2))
    np.save(tmp_path / "twice" / "flow_0000_0002.npy", flow_of(1)[0])
    tree = open_flow_tree(tmp_path, 6.0)
    reasons = {
        "tvl": "its flow is tvl1, 15 a second, that of the others dis_fast, 15 a second",
        "slow": "its flow is dis_fast, 5 a second, that of the others",
        "damaged": "^damaged.npz is damaged",
        "other": "^other.npz is damaged",
        "twice": "flow_0000_0002.npy must be the one pair of 0 and 1",
    }
    for name, reason in reasons.items():
        with pytest.raises(StoredError, match=reason) as error:
            tree.job(name, SIDE, 20.0)
        assert str(tmp_path) not in str(error.value)
    assert len(flows_of(tree, "b")[0]) == 4


@pytest.mark.parametrize("change", [{"fps": 0.0}, {"fps": "fast"}, {"t_s": np.zeros(0)}, {"t_s": np.arange(5) / 15}])
def test_a_file_that_contradicts_itself_costs_its_clip(tmp_path, change):
    for name in "ab":
        ours(tmp_path / f"{name}.npz", flow_of(4))
    arrays = read_arrays(tmp_path / "b.npz")
    np.savez(tmp_path / "b.npz", **arrays | change)
    tree = open_flow_tree(tmp_path, 6.0)
    with pytest.raises(StoredError):
        flows_of(tree, "b")


def test_a_damaged_header_costs_its_field(tmp_path):
    write_tree(tmp_path / "a", flow_of(4))
    path = tmp_path / "a" / "flow_0001_0002.npy"
    content = path.read_bytes()
    for place in range(10, 128):
        path.write_bytes(content[:place] + b"(" + content[place + 1 :])
        with pytest.raises(FieldError):
            read_field(path.name, path, SIDE + 1)


def test_times_that_do_not_fit_the_rate_cost_the_clip(tmp_path):
    ours(tmp_path / "a.npz", flow_of(4))
    ours(tmp_path / "b.npz", flow_of(4))
    write_flow(tmp_path / "c.npz", flow_of(4), np.array([0, 1, 2, 30]) / 15, 15.0, "dis_fast")
    with pytest.raises(StoredError, match="c.npz: its fields must be 15 a second from 0 s on"):
        open_flow_tree(tmp_path, 6.0).job("c", SIDE, 20.0)


def test_a_changed_or_removed_field_changes_the_stamp_of_its_clip(tmp_path):
    write_tree(tmp_path / "a", flow_of(4))
    write_tree(tmp_path / "b", flow_of(4))
    tree = open_flow_tree(tmp_path, 6.0)
    seen = [tree.stamp("a")]
    np.save(tmp_path / "b" / "flow_0000_0001.npy", flow_of(1, seed=5)[0])
    assert tree.stamp("a") == seen[0]
    np.save(tmp_path / "a" / "flow_0000_0001.npy", flow_of(1, seed=5)[0])
    seen.append(tree.stamp("a"))
    (tmp_path / "a" / "flow_0003_0004.npy").unlink()
    assert len({*seen, tree.stamp("a")}) == 3


def test_a_folder_that_cannot_be_used_at_all_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="flow_dir must be a folder of stored flow"):
        open_flow_tree(tmp_path / "nowhere", 6.0)
    with pytest.raises(ValueError, match="must hold flow .* got none"):
        open_flow_tree(tmp_path, 6.0)
    (tmp_path / "a.npy").touch()
    with pytest.raises(ValueError, match="not one of 1 clips looked at can be read"):
        open_flow_tree(tmp_path, 6.0)
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 6, 2), np.float32))
    with pytest.raises(ValueError, match=r"must have shape \(S, S, 2\), got \(8, 6, 2\)"):
        open_flow_tree(tmp_path, 6.0)
