"""Which reduction 05 takes: the bank's where it fits, groups where it does not, components of training clips only."""

import numpy as np
import pandas as pd
import pytest

from helpers import reduction
from helpers.clips import TRAITS
from helpers.config import AlignmentConfig
from helpers.store import FeatureFile, Stage, write_features

WIDTHS = {"static": 23, "dynamic": 17}
N_CLIPS = 40


@pytest.fixture
def clips():
    keys = [f"a/{i:02d}" for i in range(N_CLIPS)]
    table = pd.DataFrame(
        {"source": [f"s{i // 2}" for i in range(N_CLIPS)], "split": ""}, index=pd.Index(keys, name="key")
    )
    return table.assign(**dict.fromkeys(TRAITS, 0.5))


@pytest.fixture
def run(tmp_path, clips):
    """A run's folder with finished stages and random rows."""
    rng = np.random.default_rng(0)
    for name, width in WIDTHS.items():
        stage = Stage(tmp_path / "run" / name, name, {"weights": {"name": "random"}, "of": name})
        for key in clips.index:
            t = np.arange(5) / 2
            rows = rng.standard_normal((5, width)).astype("float32")
            write_features(stage.path(key), FeatureFile(rows, t, t + 0.5, np.arange(5), np.ones(5, bool)))
        stage.finish()
    return tmp_path / "run"


def choose(run, clips, **changed):
    cfg = AlignmentConfig(out_dir=str(run), bank_dir=str(run / "bank"), static_dim=7, dynamic_dim=3, **changed)
    return reduction.choose_reduction(cfg, clips)


def write_bank(run, **changed):
    extractors = {name: {"weights": {"name": "random"}, "of": name} | changed for name in WIDTHS}
    methods = [reduction.ChannelGroups(width, 2) for width in WIDTHS.values()]
    reduction.write_reduction(run / "bank" / "reduction.npz", reduction.Reduction(*methods, extractors))


def test_the_banks_reduction_is_taken_when_the_bank_was_made_alike(run, clips):
    write_bank(run)
    chosen, why = choose(run, clips)
    assert (chosen.static.n_out, chosen.dynamic.n_out) == (2, 2)
    assert "the token bank, which was made with the same parameters" in why


def test_otherwise_groups_are_taken_and_the_difference_is_said(run, clips):
    write_bank(run, precision="bfloat16")
    chosen, why = choose(run, clips)
    assert (chosen.static.n_out, chosen.dynamic.n_out) == (7, 3)
    assert "made differently: dynamic.precision: None here, 'bfloat16' there" in why


def test_no_bank_is_said(run, clips):
    _, why = choose(run, clips)
    assert "holds no token bank" in why


def test_components_are_fitted_on_the_training_clips_of_the_split_only(run, clips):
    chosen, why = choose(run, clips, reduction="pca", validation_share=0.1, test_share=0.2, seed=3)
    fitted = clips.loc[list(chosen.fitted_on), "source"]
    held_out = set(clips["source"]) - set(fitted)
    assert len(chosen.fitted_on) == 2 * 14  # of 20 sources, 2 validate and 4 test
    assert len(held_out) == 6
    assert why == "principal components of 28 training clips"
    again, _ = choose(run, clips, reduction="pca", validation_share=0.1, test_share=0.2, seed=4)
    assert set(again.fitted_on) != set(chosen.fitted_on)


def test_unrated_clips_are_not_fitted_on_and_partly_rated_ones_are(run, clips):
    clips.loc[clips.index[:10], clips.columns[2:]] = np.nan
    clips.loc[clips.index[10:], "openness"] = np.nan
    chosen, _ = choose(run, clips, reduction="pca", validation_share=0.1, test_share=0.2)
    assert not set(clips.index[:10]) & set(chosen.fitted_on)


def test_all_channels_can_be_kept(run, clips):
    chosen, why = choose(run, clips, reduction="none")
    assert (chosen.static.n_out, chosen.dynamic.n_out) == (23, 17)
    assert why == "all channels"


def test_an_unfinished_stage_is_named(tmp_path, clips):
    with pytest.raises(FileNotFoundError, match="Run 03_static_extraction first"):
        choose(tmp_path, clips)


def test_what_it_was_fitted_on_comes_back(run, clips, tmp_path):
    chosen, _ = choose(run, clips, reduction="pca", validation_share=0.1, test_share=0.2)
    reduction.write_reduction(tmp_path / "r.npz", chosen)
    assert reduction.read_reduction(tmp_path / "r.npz").fitted_on == chosen.fitted_on


def test_the_width_is_that_of_the_first_clip_with_rows_and_no_other_is_read(run, clips):
    for name in WIDTHS:
        (run / name / "a/00.npz").unlink()
        (run / name / "a/02.npz").write_bytes(b"would be an error")
    chosen, _ = choose(run, clips)
    assert (chosen.static.n_in, chosen.dynamic.n_in) == (23, 17)
    with pytest.raises(ValueError, match="static must hold rows of the clips to reduce, got none"):
        choose(run, clips.iloc[:1])


def test_equal_rows_have_no_components():
    rows = np.full((7, 5), 0.3, np.float32) * (1 + 1e-7 * np.arange(7, dtype=np.float32)[:, None])
    with pytest.raises(ValueError, match="rows must differ to have components, got 7 equal ones"):
        reduction.Pca.fit(rows, 3)
