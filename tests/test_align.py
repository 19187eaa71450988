"""Alignment by key, its checks and files; reductions and what they refuse."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest

from helpers import align
from helpers.align import Aligned, ChannelGroups, Pca, Reduction, align_streams, read_reduction, write_reduction
from helpers.clips import TRAITS
from helpers.config import AlignmentConfig
from helpers.store import FeatureFile, Stage, read_arrays, read_manifest, write_features

DS, DD = 11, 13  # distinct primes
KEYS = ["a/clip.1", "a/clip.2", "a/clip.0"]
WHOLE = Reduction(ChannelGroups(DS, DS), ChannelGroups(DD, DD), {})


def write_rows(path, features: np.ndarray, t_s: np.ndarray, valid: np.ndarray | bool = True) -> None:
    frame, valid = np.arange(len(t_s)), np.broadcast_to(valid, len(t_s))
    write_features(path, FeatureFile(features.astype("float32"), t_s - 0.1, t_s + 0.1, frame, valid))


@pytest.fixture
def folders(tmp_path):
    """Clip k has k + 2 face rows of value k and k + 3 motion rows of value 10 k, written in another order."""
    for k in (2, 0, 1):
        n = k + 2
        write_rows(tmp_path / "static" / f"a/clip.{k}.npz", np.full((n, DS), k), 0.5 * np.arange(n))
        write_rows(tmp_path / "dynamic" / f"a/clip.{k}.npz", np.full((n + 1, DD), 10 * k), 0.4 * np.arange(n + 1))
    return tmp_path / "static", tmp_path / "dynamic"


@pytest.fixture
def clips():
    table = pd.DataFrame({"source": ["x", "y", "x"], "split": ["train", "test", ""]}, pd.Index(KEYS, name="key"))
    return table.assign(**{trait: [0.1 * i, 0.2, np.nan] for i, trait in enumerate(TRAITS)})


@pytest.fixture
def aligned(folders, clips):
    return align_streams(clips, *folders, WHOLE)


def test_streams_and_ratings_are_joined_by_key_and_each_face_row_to_the_motion_row_of_its_time(aligned):
    assert aligned.clips.tolist() == KEYS
    assert (aligned.static_features.shape, aligned.dynamic_features.shape) == ((3, 4, DS), (3, 5, DD))
    assert aligned.static_features.max((1, 2)).tolist() == [1, 2, 0]
    assert aligned.dynamic_features.max((1, 2)).tolist() == [10, 20, 0]
    np.testing.assert_allclose(aligned.labels[0], [0, 0.1, 0.2, 0.3, 0.4], atol=1e-7)
    assert aligned.rated.tolist() == [True, True, False]
    assert aligned.static_mask.sum(1).tolist() == [3, 4, 2]
    assert aligned.dynamic_mask.sum(1).tolist() == [4, 5, 3]
    assert not aligned.static_features[~aligned.static_mask].any()
    np.testing.assert_allclose(aligned.static_t_s[1], [0, 0.5, 1, 1.5], atol=1e-6)
    assert aligned.pooled()["static"][:, 0].tolist() == [1, 2, 0]  # of the tokens only
    pairs = align.pair_frames(aligned)
    assert pairs["clip"].tolist() == [0] * 3 + [1] * 4 + [2] * 2
    # Faces at 0, .5, 1, motion at 0, .4, .8, 1.2: 1.0 lies nearest to .8 and 1.2, and the earlier one is taken.
    np.testing.assert_allclose(pairs["dynamic_t_s"][:3], [0, 0.4, 0.8], atol=1e-6)
    assert pairs["dynamic_features"][:, 0].tolist() == [10] * 3 + [20] * 4 + [0] * 2


def test_invalid_rows_are_dropped_the_rest_is_put_in_order_and_a_clip_without_a_stream_is_said(folders, clips, caplog):
    (folders[1] / "a/clip.2.npz").unlink()
    write_rows(folders[0] / "a/clip.0.npz", np.ones((2, DS)), np.arange(2), valid=False)
    features, valid = np.arange(4)[:, None] * np.ones((4, DS)), np.array([True, False, True, True])
    write_rows(folders[0] / "a/clip.1.npz", features, np.array([2.0, 0, 1, 0.5]), valid)
    aligned = align_streams(clips, *folders, WHOLE)
    assert aligned.clips.tolist() == ["a/clip.1"]
    assert aligned.static_features[0, :, 0].tolist() == [3, 2, 0]
    np.testing.assert_allclose(aligned.static_t_s[0], [0.5, 1, 2], atol=1e-6)
    assert "a/clip.2 is left out" in caplog.text
    assert "a/clip.0 is left out" in caplog.text
    assert align.stream_table(clips, *folders)["dynamic"].tolist() == [True, False, True]


def test_memory_holds_reduced_rows_only(tmp_path):
    """9.8 MB of rows pass through a tenth of that."""
    wide, keys = np.ones((3, 10240), "float32"), [f"{k:02}" for k in range(80)]
    for key in keys:
        write_rows(tmp_path / "static" / f"{key}.npz", wide, np.arange(3))
        write_rows(tmp_path / "dynamic" / f"{key}.npz", np.ones((2, DD)), np.arange(2))
    clips = pd.DataFrame({"source": keys, "split": "", TRAITS[0]: 0.5}, index=keys)
    reduction = Reduction(ChannelGroups(10240, 8), ChannelGroups(DD, DD), {})
    tracemalloc.start()
    align_streams(clips, tmp_path / "static", tmp_path / "dynamic", reduction)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_read_again_it_is_the_same_invented_labels_are_stamped_and_half_written_it_is_not_finished(aligned, tmp_path):
    for written in (aligned, align.with_synthetic_labels(aligned, seed=1)):
        align.write_aligned(tmp_path, written, "float16")
        assert read_arrays(tmp_path / align.CLIPS_FILE)["static_features"].dtype == np.float16
        again = align.read_aligned(tmp_path)
        for name, value in vars(again).items():
            np.testing.assert_array_equal(value, getattr(written, name))
            assert getattr(value, "dtype", None) == getattr(getattr(written, name), "dtype", None)
        assert again.synthetic == again.rated.all() == (written is not aligned)
    align.write_run(tmp_path, aligned, WHOLE)
    with pytest.raises(AttributeError):
        align.write_run(tmp_path, aligned, None)
    with pytest.raises(FileNotFoundError, match="05_alignment"):
        read_manifest(tmp_path, "05_alignment")


def test_what_cannot_be_aligned_read_or_reduced_is_refused(tmp_path, clips, aligned, run):
    reduction = Reduction(ChannelGroups(DS, 3), ChannelGroups(DD, 2), {"static": {"weights": "a"}})
    equal = np.full((7, 5), 0.3, np.float32) * (1 + 1e-7 * np.arange(7, dtype=np.float32)[:, None])
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / align.CLIPS_FILE, labels=np.zeros(2))
    Stage(run[0] / "static", "static", {"weights": {"name": "random"}, "of": "static"}).finish()
    for call, error, word in (
        (lambda: align_streams(clips, tmp_path, tmp_path, WHOLE), ValueError, "03_static_extraction"),
        (lambda: align.read_aligned(tmp_path), FileNotFoundError, "05_alignment"),
        (lambda: align.read_aligned(tmp_path / "other"), ValueError, "05_alignment"),
        (lambda: ChannelGroups(6, 7), ValueError, "1 to 6"),
        (lambda: Pca.fit(np.zeros((4, DS), "float32"), 5), ValueError, "1 to 4"),
        (lambda: Pca.fit(equal, 3), ValueError, "differ"),
        (lambda: reduction.static.transform(np.zeros((1, DD))), ValueError, "shape"),
        (lambda: reduction.check({"static": {"weights": "b"}}), ValueError, "static.weights: 'b' here, 'a' there"),
        (lambda: choose(tmp_path, clips), FileNotFoundError, "03_static_extraction"),
        (lambda: choose(*run), ValueError, "must hold rows"),
    ):
        with pytest.raises(error, match=word):
            call()
    for name, values in (
        ("labels", np.full((3, 5), 1.5)),
        ("static_features", np.full((3, 4, DS), np.nan)),
        ("static_features", np.zeros((2, 4, DS))),
        ("static_t_s", np.zeros((3, 7))),
        ("dynamic_mask", np.zeros((3, 5), bool)),
        ("clips", np.array(["a", "a", "b"])),
    ):
        with pytest.raises(ValueError, match=f"{name} must"):
            Aligned(**vars(aligned) | {name: values})


def test_groups_are_means_components_uncorrelated_and_read_again_they_give_the_same_numbers(tmp_path):
    x = np.arange(6, dtype="float32")[None]
    assert ChannelGroups(6, 2).transform(x).tolist() == [[1, 4]]
    assert ChannelGroups(5, 2).transform(x[:, :5]).tolist() == [[0.5, 3]]
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 3)) @ rng.normal(size=(3, DS)) * np.geomspace(1, 1000, DS)).astype("float32")
    x[:, 4] = 7  # a dead channel
    pca, groups = Pca.fit(x, 2), ChannelGroups(DD, 2)
    out = pca.transform(x)
    assert out.shape == (200, 2)
    assert abs(out[:, 0].std() - 3) < 0.02  # the first has a size of its own
    assert abs(np.corrcoef(out.T)[0, 1]) < 0.02
    assert not pca.components[4].any() or pca.gain[4] == 0
    reduction = Reduction(pca, groups, {"static": {"weights": "a"}}, ("a", "b"))
    write_reduction(tmp_path / "reduction.npz", reduction)
    again = read_reduction(tmp_path / "reduction.npz")
    np.testing.assert_array_equal(again.static.transform(x), out)
    assert (again.identity, again.fitted_on) == (reduction.identity, ("a", "b"))
    again.check(reduction.extractors)
    other = Reduction(Pca.fit(x[:50], 2), groups, {})
    assert other.identity["static"]["sha256"] != reduction.identity["static"]["sha256"]


WIDTHS = {"static": 23, "dynamic": 17}


@pytest.fixture
def run(tmp_path):
    """A run's folder with finished stages and random rows, and its clips."""
    rng, keys = np.random.default_rng(0), [f"a/{i:02d}" for i in range(40)]
    for name, width in WIDTHS.items():
        stage = Stage(tmp_path / "run" / name, name, {"weights": {"name": "random"}, "of": name})
        for key in keys:
            write_rows(stage.path(key), rng.standard_normal((5, width)), np.arange(5) / 2)
        stage.finish(feature_dim=width)
    table = pd.DataFrame({"source": [f"s{i // 2}" for i in range(40)], "split": ""}, pd.Index(keys, name="key"))
    return tmp_path / "run", table.assign(**dict.fromkeys(TRAITS, 0.5))


def choose(folder, clips, **changed):
    cfg = AlignmentConfig(out_dir=str(folder), bank_dir=str(folder / "bank"), static_dim=7, dynamic_dim=3, **changed)
    return align.choose_reduction(cfg, clips)


def test_the_banks_reduction_is_taken_where_it_fits_else_groups(run):
    for bank, reduction, widths, word in (
        (None, "auto", (7, 3), "no token bank"),
        (None, "none", (23, 17), "all channels"),
        ({}, "auto", (2, 2), "the token bank"),
        ({"precision": "bfloat16"}, "auto", (7, 3), "dynamic.precision: None here, 'bfloat16' there"),
    ):
        if bank is not None:
            extractors = {name: {"weights": {"name": "random"}, "of": name} | bank for name in WIDTHS}
            methods = [ChannelGroups(width, 2) for width in WIDTHS.values()]
            write_reduction(run[0] / "bank" / "reduction.npz", Reduction(*methods, extractors))
        chosen, why = choose(*run, reduction=reduction)
        assert (chosen.static.n_out, chosen.dynamic.n_out) == widths
        assert word in why


def test_components_are_fitted_on_rated_training_clips_of_the_split_only(run):
    how, (folder, clips) = {"reduction": "pca", "validation_share": 0.1, "test_share": 0.2}, run
    chosen, why = choose(folder, clips, **how, seed=3)
    held_out = set(clips["source"]) - set(clips.loc[list(chosen.fitted_on), "source"])
    assert len(chosen.fitted_on) == 2 * 14  # of 20 sources, 2 validate and 4 test
    assert len(held_out) == 6
    assert why == "principal components of 28 training clips"
    assert set(choose(folder, clips, **how, seed=4)[0].fitted_on) != set(chosen.fitted_on)
    clips.loc[clips.index[:10], list(TRAITS)] = np.nan
    clips.loc[clips.index[10:], "openness"] = np.nan
    assert not set(clips.index[:10]) & set(choose(folder, clips, **how)[0].fitted_on)
