"""Whether what is seen is real: planted windows by hand, models whose answer is known, models that agree or not."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from test_attention import DD, DS, TD, TS, aligned

from helpers import evidence
from helpers.config import TrainingConfig
from helpers.evidence import HeldOut, planted_windows, window_spans
from helpers.experiment import TrainingData
from helpers.model import CompletePersonalityModel


def test_a_token_is_inside_when_half_of_it_lies_in_a_window(tmp_path):
    """Tokens of 1 s at .5, 1.5, ...; windows 1.5 to 2.5 (half of two tokens) and 4.2 to 5.2 (.8 of one)."""
    pd.DataFrame({"key": ["clip0"], "warm_s": 1.5, "cool_s": 4.2, "window_s": 1.0}).to_csv(tmp_path / "truth.csv")
    assert planted_windows(tmp_path, aligned(1))[0].tolist() == [False, True, True, False, True, False, False]


def test_pointing_counts_clips_whose_largest_effect_is_inside():
    effects = np.array([[0.1, -0.9, 0.2], [0.5, 0.1, 0.3], [0.1, 0.2, 9.0]])
    inside = np.array([[False, True, False], [False, True, True], [True, False, True]])
    mask = np.array([[True, True, True], [True, True, True], [True, True, False]])
    test = HeldOut(None, SimpleNamespace(dynamic_mask=mask), inside, np.zeros(1))
    assert test.points(effects).tolist() == [1, 0, 0]
    assert test.uniform() == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)


def test_windows_are_read_by_key(tmp_path):
    clips = aligned(2)
    truth = pd.DataFrame(
        {"key": ["clip1", "clip0"], "warm_s": [0.0, 3.0], "cool_s": [5.0, 1.0], "window_s": [1.0, 1.0]}
    )
    truth.to_csv(tmp_path / "truth.csv", index=False)
    inside = planted_windows(tmp_path, clips)
    assert np.flatnonzero(inside[0]).tolist() == [1, 3]
    assert np.flatnonzero(inside[1]).tolist() == [0, 5]
    assert planted_windows(tmp_path / "none", clips) is None
    assert window_spans(tmp_path, "clip0")["cool light"] == (1.0, 2.0)
    assert window_spans(tmp_path, "another") == {}


WINDOWS = {"warm_s": 2.0, "cool_s": 5.0, "window_s": 1.0}  # motion tokens 2 and 5 of every clip


def reads(place: int) -> CompletePersonalityModel:
    """A network that sees one motion token only: the others look like nothing special, the mean token where given."""
    keras.utils.set_random_seed(3)
    model = CompletePersonalityModel(DS, DD, 8, 1)
    attend = model.cross_attention.call

    def call(static, dynamic, *rest, **options):
        seen = (np.arange(dynamic.shape[1]) == place).astype("float32")[None, :, None]
        blank = dynamic[:, -1:] if dynamic.shape[1] > TD else 0.0
        return attend(static, dynamic * seen + blank * (1 - seen), *rest, **options)

    model.cross_attention.call = call
    return model


@pytest.fixture(scope="module")
def bank():
    return aligned(40)


@pytest.fixture(scope="module")
def measured(bank, tmp_path_factory):
    """Models of both seeds: the true one reads token 2, planted; the control token 4 of its shuffled motion."""
    folder = tmp_path_factory.mktemp("drawn")
    pd.DataFrame({"key": bank.clips} | WINDOWS).to_csv(folder / "truth.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "rated_clips", lambda _: bank)
        patch.setattr(evidence, "load_trained", lambda _, name, __: reads(4 if "shuffled" in name else 2))
        return evidence.evaluate(TrainingData(folder, None, ""), TrainingConfig(seeds=[0, 1]), "agreeableness")


def test_a_model_that_rests_on_what_was_planted_is_told_from_one_that_does_not(measured):
    chance = 2 / TD
    assert measured["occlusion_chance"] == pytest.approx(chance)
    for kind in ("occlusion", "deletion"):
        assert measured[f"{kind}_pointing"] == 1
        assert measured[f"{kind}_pointing_interval"] == [1, 1]
        low, high = measured[f"{kind}_pointing_shuffled_interval"]
        assert low <= measured[f"{kind}_pointing_shuffled"] <= high
        assert measured[f"{kind}_pointing_shuffled"] < 0.7
    assert 0 < measured["motion_pointing"] < 1
    assert (
        measured["motion_pointing_interval"][0] < measured["motion_pointing"] < measured["motion_pointing_interval"][1]
    )
    assert [seed["seed"] for seed in measured["seeds"]] == [0, 1]


def test_the_most_unusual_motion_needs_no_model(bank):
    motion = np.zeros_like(bank.dynamic_features)
    motion[:, 1] = 3  # far from the mean
    odd = dataclasses.replace(bank, dynamic_features=motion)
    inside = np.tile(np.arange(TD) == 1, (len(bank), 1))
    assert evidence.HeldOut(None, odd, inside, motion.mean((0, 1))).farthest_points().tolist() == [1.0] * len(bank)
    assert not evidence.HeldOut(None, odd, ~inside, motion.mean((0, 1))).farthest_points().any()


def test_relevance_is_given_by_target_beside_its_uniform_share(measured, bank):
    assert list(measured["relevance"]) == bank.targets.tolist()
    for row in measured["relevance"].values():
        assert row["inside"] == pytest.approx(1)
        assert row["uniform"] == pytest.approx(2 / TD)
        assert row["inside_shuffled"] < 0.7


def test_curves_of_both_models_come_with_areas_and_intervals(measured):
    table = measured["deletion"]
    assert table["replaced"] == pytest.approx(np.arange(TD + 1) / TD)
    for model in ("true", "shuffled"):
        assert list(table[model]) == ["occlusion", "relevance", "attention", "random"]
        for row in table[model].values():
            assert row["deletion_area"] == pytest.approx(np.mean(row["deletion"]))
            low, high = row["insertion_area_interval"]
            assert low <= row["insertion_area"] <= high
        assert table[model]["relevance"]["deletion_area"] > table[model]["random"]["deletion_area"]


def test_without_a_planted_truth_only_what_needs_none_is_measured(bank, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "rated_clips", lambda _: bank)
    monkeypatch.setattr(evidence, "load_trained", lambda *_: reads(2))
    found = evidence.evaluate(TrainingData(tmp_path, None, ""), TrainingConfig(seeds=[0]), "agreeableness")
    assert found["occlusion_pointing"] is found["relevance"] is found["deletion_pointing_interval"] is None
    assert found["seeds"] == []
    assert found["deletion"]["true"]["attention"]["deletion_area"] > 0


def test_shares_are_of_each_clips_own_weight(bank):
    inside = np.zeros((40, TD), bool)
    inside[:, 0] = True
    view = evidence.HeldOut(None, dataclasses.replace(bank), inside, np.zeros(DD))
    alike, first = np.ones((40, TD)), np.ones((40, TD))
    first[:, 0] = TD - 1
    row = evidence.share_table({"true": [view], "shuffled": [view]}, {"true": [first], "shuffled": [alike]})
    assert row["inside"] == pytest.approx(0.5)
    assert row["interval"] == pytest.approx([0.5, 0.5])
    assert [row["inside_shuffled"], row["uniform"]] == pytest.approx([1 / TD] * 2)


BASELINE = np.zeros(DD, "float32")


def network(seed: int) -> CompletePersonalityModel:
    keras.utils.set_random_seed(seed)
    return CompletePersonalityModel(DS, DD, 8, 2)


def test_rank_correlations_are_those_of_ranks_and_skip_what_is_missing():
    a = np.array([[1.0, 2.0, 9.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [1.0, 2.0, np.nan]])
    b = np.array([[0.1, 0.2, 0.3], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    np.testing.assert_allclose(evidence.rank_correlation(a, b), [1, -1, np.nan, np.nan])


def test_masked_tokens_show_nothing():
    clips = aligned(4)
    clips.dynamic_mask[1, 3:] = False
    clips.static_mask[2, 2:] = False
    shown = evidence.show(network(0), clips, BASELINE, 3)
    assert shown["attention"].shape == (4, TS * TD)
    assert np.isnan(shown["relevance"][1]).tolist() == [False] * 3 + [True] * (TD - 3)
    assert np.isfinite(shown["attention"][2].reshape(TS, TD)).all(1).tolist() == [True, True, False, False, False]


def test_a_model_agrees_with_itself_and_not_with_other_weights():
    model, clips = network(0), aligned(20)
    found = evidence.randomisation(model, {"itself": model, "other": network(7)}, clips, BASELINE, 3)
    for measure in evidence.MEASURES:
        assert found["itself"][measure]["value"] == pytest.approx(1)
    low, high = found["other"]["relevance"]["interval"]
    assert low <= found["other"]["relevance"]["value"] <= high < 0.6


@pytest.mark.parametrize("n_live", [5, 1, None])
def test_seeds_are_compared_on_clips_that_neither_has_seen(n_live, tmp_path, monkeypatch):
    bank = aligned(60)
    data = TrainingData(tmp_path, tmp_path if n_live else None, "")
    monkeypatch.setattr(evidence, "rated_clips", lambda _: bank)
    monkeypatch.setattr(TrainingData, "live_clips", property(lambda _: n_live and aligned(n_live)))
    monkeypatch.setattr(evidence, "load_trained", lambda *_: network(0))
    cfg = TrainingConfig(seeds=[0, 1], test_share=0.4)
    found = evidence.agreement(data, cfg, 3)
    both = (evidence.split_of(bank, cfg, 0) == "test") & (evidence.split_of(bank, cfg, 1) == "test")
    assert found["clips"] == (5 if n_live == 5 else both.sum())
    assert found["attention"]["value"] == pytest.approx(1)  # of one and the same network
    assert found["relevance"]["other_clips"] < 0.9


def test_a_single_seed_agrees_with_nobody(tmp_path):
    assert evidence.agreement(TrainingData(tmp_path, None, ""), TrainingConfig(seeds=[0]), 0) is None
