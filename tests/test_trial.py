"""What is seen is evaluated, on models whose answer is known and with real networks on a few clips."""

import dataclasses

import keras
import numpy as np
import pandas as pd
import pytest
from test_attention import DD, DS, TD, aligned

from helpers import evidence
from helpers.config import TrainingConfig
from helpers.model import CompletePersonalityModel
from helpers.training.train import TrainingData

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
