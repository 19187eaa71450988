"""Flow on disk: what is read back, how wrong it may be, and which files are refused."""

import numpy as np
import pytest

from helpers.flow import DTYPES, pair_files, quantum, read_flow, read_flow_array, read_flow_tree, write_flow
from helpers.store import write_arrays


def some_flow(n: int = 3, height: int = 11, width: int = 13, sd_px: float = 4.0) -> np.ndarray:
    return np.random.default_rng(2).normal(0, sd_px, (n, height, width, 2)).astype(np.float32)


def seconds(flow: np.ndarray, fps: float = 15.0) -> np.ndarray:
    return np.arange(len(flow)) / fps


def write_tree(folder, flow: np.ndarray, first: int = 0, digits: int = 4) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, field in enumerate(flow, first):
        np.save(folder / f"flow_{i:0{digits}d}_{i + 1:0{digits}d}.npy", field)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip_px", [20.0, 7.0])
def test_no_value_in_range_is_wrong_by_more_than_half_a_step(tmp_path, dtype, clip_px):
    flow = some_flow()
    write_flow(tmp_path / "a.npz", flow, seconds(flow), 15, "dis_fast", clip_px, dtype)
    got = read_flow(tmp_path / "a.npz")
    assert got.flow.dtype == np.float32
    assert got.flow.shape == flow.shape
    error = np.abs(got.flow - np.clip(flow, -clip_px, clip_px)).max()
    assert error <= got.quantum_px / 2 + 1e-6
    assert error >= got.quantum_px / 5  # the stated step is no idle bound
    assert got.quantum_px == quantum(dtype, clip_px)


def test_the_steps_are_those_that_the_table_states():
    assert quantum("uint8", 20) / 2 == pytest.approx(0.079, abs=5e-4)
    assert quantum("int16", 20) / 2 == quantum("float16", 20) / 2 == 1 / 128
    assert quantum("float32", 20) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_motion_stays_exactly_zero_and_both_ends_of_the_range_are_kept(tmp_path, dtype):
    flow = np.zeros((1, 5, 7, 2), np.float32)
    flow[0, 1:3, 0] = [[20, -20], [-20, 20]]
    write_flow(tmp_path / "a.npz", flow, [0.0], 15, "tvl1", dtype=dtype)
    np.testing.assert_allclose(read_flow(tmp_path / "a.npz").flow, flow, rtol=1e-6)


def test_what_the_file_says_about_itself_is_read_back(tmp_path):
    flow = np.zeros((2, 5, 7, 2), np.float32)
    flow[0, :, 0, 1] = -31
    write_flow(tmp_path / "deep" / "id.003.npz", flow, [0.2, 0.4], 5, "farneback", 30)
    got = read_flow(tmp_path / "deep" / "id.003.npz")
    assert (got.fps, got.method, got.clip_px, got.quantum_px) == (5, "farneback", 30, 1 / 64)
    assert got.clamped_share == pytest.approx(5 / 140)
    assert got.t_s.tolist() == [0.2, 0.4]
    assert got.flow.min() == -30
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["id.003.npz"]


def test_smooth_flow_takes_a_tenth_of_float32_and_less(tmp_path):
    y, x = np.indices((96, 96)) / 96
    flow = np.stack([3 * np.sin(4 * x) * y, 2 * np.cos(5 * y)], axis=-1)[None].astype(np.float32)
    flow += np.random.default_rng(1).normal(0, 0.01, flow.shape).astype(np.float32)
    sizes = {}
    for dtype in DTYPES:
        write_flow(tmp_path / f"{dtype}.npz", flow, [0.0], 15, "dis_medium", dtype=dtype)
        sizes[dtype] = (tmp_path / f"{dtype}.npz").stat().st_size
    assert sizes["uint8"] < sizes["int16"] < sizes["float16"] < sizes["float32"]
    assert sizes["int16"] < 0.2 * sizes["float32"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"flow": np.zeros((2, 5, 7), np.float32)},
            r"flow must have shape \(n, H, W, 2\), n at least 1, got \(2, 5, 7\)",
        ),
        ({"flow": np.zeros((2, 5, 7, 2), np.uint8)}, "flow must be decimal numbers in pixels, got uint8"),
        ({"flow": np.full((2, 5, 7, 2), np.nan)}, "got NaN or infinity in field 0"),
        ({"t_s": [0.0]}, r"t_s must ascend and have shape \(2,\) like flow, got \(1,\)"),
        ({"t_s": [0.2, 0.1]}, "t_s must ascend"),
        ({"fps": 0}, "fps must be above 0 and method a name, got 0 and 'tvl1'"),
        ({"dtype": "int8"}, "dtype must be one of uint8, int16, float16, float32, got 'int8'"),
        ({"clip_px": 0}, "clip_px must be above 0 and at most 511.984 for int16, got 0"),
        ({"clip_px": 512}, "at most 511.984 for int16, got 512"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_writing(tmp_path, change, message):
    right = {"flow": np.zeros((2, 5, 7, 2), np.float32), "t_s": [0.0, 0.1], "fps": 10, "method": "tvl1"}
    with pytest.raises(ValueError, match=message):
        write_flow(tmp_path / "a.npz", **(right | change))
    assert not list(tmp_path.iterdir())


def test_other_and_damaged_files_are_named(tmp_path):
    write_arrays(tmp_path / "rows.npz", features=np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"rows\.npz is not a flow file: it holds features"):
        read_flow(tmp_path / "rows.npz")
    flow = some_flow()
    write_flow(tmp_path / "a.npz", flow, seconds(flow), 15, "dis_fast")
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.npz is damaged"):
        read_flow(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError):
        read_flow(tmp_path / "none.npz")


def test_a_tree_of_pairs_is_read_in_the_order_of_its_numbers(tmp_path):
    flow = some_flow(12)
    write_tree(tmp_path, flow, digits=1)  # unpadded: by name, flow_10_11 would come before flow_2_3
    (tmp_path / "notes.txt").write_text("by hand")
    got, real = read_flow_tree(tmp_path)
    assert np.array_equal(got, flow)
    assert real.all()


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_may_start_at_zero_or_one(tmp_path, first):
    write_tree(tmp_path, some_flow(3), first)
    assert next(iter(pair_files(tmp_path))) == f"flow_000{first}_000{first + 1}.npy"
    assert None not in pair_files(tmp_path).values()


def test_a_missing_pair_is_named_or_on_request_no_motion(tmp_path):
    flow = some_flow(5)
    write_tree(tmp_path, flow)
    (tmp_path / "flow_0002_0003.npy").unlink()
    with pytest.raises(ValueError, match=r"flow_0002_0003\.npy is missing\. Copy it again, or .* gaps='zero'"):
        read_flow_tree(tmp_path)
    got, real = read_flow_tree(tmp_path, "zero")
    assert real.tolist() == [True, True, False, True, True]
    assert not got[2].any()
    assert np.array_equal(got[real], flow[real])
    with pytest.raises(ValueError, match="gaps must be 'error' or 'zero', got 'skip'"):
        read_flow_tree(tmp_path, "skip")


def test_missing_first_pairs_are_gaps(tmp_path):
    write_tree(tmp_path, some_flow(2), first=2)
    with pytest.raises(ValueError, match=r"flow_0000_0001\.npy is missing"):
        read_flow_tree(tmp_path)
    got, real = read_flow_tree(tmp_path, "zero")
    assert real.tolist() == [False, False, True, True]
    assert not got[:2].any()


def test_pairs_that_are_no_neighbours_are_refused(tmp_path):
    write_tree(tmp_path, some_flow(2))
    np.save(tmp_path / "flow_0002_0004.npy", some_flow(1)[0])
    with pytest.raises(ValueError, match=r"flow_0002_0004\.npy must be the one pair of 2 and 3"):
        read_flow_tree(tmp_path)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (np.zeros((11, 13), np.float32), r"flow must have shape \(H, W, 2\), got \(11, 13\)"),
        (np.zeros((2, 11, 13), np.float32), r"flow must have shape \(n, H, W, 2\)"),
        (np.zeros((7, 7, 2), np.float32), r"flow must have shape \(11, 13, 2\) as in the first file, got \(7, 7, 2\)"),
        (np.full((11, 13, 2), np.inf), "flow must be finite"),
        (np.zeros((11, 13, 2), np.int16), "flow must be decimal numbers in pixels, got int16"),
        (np.array([{"a": 1}] * 3), "is not an array of numbers"),
    ],
)
def test_a_bad_field_is_named_with_the_reason(tmp_path, field, message):
    write_tree(tmp_path, some_flow(3))
    np.save(tmp_path / "flow_0001_0002.npy", field)
    with pytest.raises(ValueError, match=r"flow_0001_0002\.npy.*" + message):
        read_flow_tree(tmp_path)


def test_a_folder_without_pairs_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must hold files like flow_0000_0001\.npy, got none"):
        read_flow_tree(tmp_path)


def test_an_array_is_read_as_float32_and_a_single_field_becomes_a_sequence_of_one(tmp_path):
    flow = some_flow(3)
    np.save(tmp_path / "a.npy", flow.astype(np.float64))
    np.save(tmp_path / "b.npy", flow[0])
    assert np.array_equal(read_flow_array(tmp_path / "a.npy"), flow)
    assert read_flow_array(tmp_path / "a.npy").dtype == np.float32
    assert np.array_equal(read_flow_array(tmp_path / "b.npy"), flow[:1])
    (tmp_path / "c.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"c\.npy is not an array of numbers"):
        read_flow_array(tmp_path / "c.npy")
