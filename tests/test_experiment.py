"""Training: splits, controls, repeatability, resume, the summary's form. Small drawn tokens stand in for clips."""

import dataclasses
import json

import keras
import numpy as np
import pandas as pd
import pytest

from helpers import experiment, results, train, variants
from helpers.align import Aligned, write_aligned
from helpers.clips import TRAITS
from helpers.config import TrainingConfig
from helpers.experiment import Job, TrainingData, choose_data
from helpers.files import read_json, write_json
from helpers.out_of_distribution import read_training_tokens
from helpers.reduction import ChannelGroups, Reduction, write_reduction
from helpers.store import read_arrays
from helpers.train import is_done
from helpers.variants import SHUFFLED_MODEL, TOKEN_MODEL

N, T, DS, DD = 60, 5, 7, 3
SMALL = {"epochs": 2, "batch_size": 16, "fusion_dim": 8, "num_heads": 1, "seeds": [0, 1], "workers": 1}
FEW = ("constant", "ridge", TOKEN_MODEL)
IDENTITY = {"static": {"parameters": {"weights": "random"}}, "dynamic": {}, "reduction": {}}


def tokens(n: int = N, name: str = "bank") -> Aligned:
    """Clips of 20 sources; openness is the mean of the first face channel, so that ridge can find it."""
    rng = np.random.default_rng(n)
    static = rng.normal(size=(n, T, DS)).astype("float32")
    labels = rng.uniform(0.2, 0.8, (n, 5)).astype("float32")
    labels[:, 0] = np.clip(0.5 + 0.4 * static[:, :, 0].mean(1), 0, 1)
    times = np.tile((np.arange(T) + 0.5).astype("float32"), (n, 1))
    return Aligned(
        static,
        rng.normal(size=(n, T, DD)).astype("float32"),
        *[np.ones((n, T), bool)] * 2,
        *[times] * 2,
        labels,
        np.array([f"{name}/{i:03d}" for i in range(n)]),
        np.array([f"{name}{i // 3}" for i in range(n)]),
        np.array(["train", "validation", "test"] * (n // 3)),
        np.array(TRAITS),
    )


def write_folder(folder, aligned: Aligned, identity: dict = IDENTITY, fitted_on: tuple = ()) -> None:
    write_aligned(folder, aligned, frames=False)
    write_reduction(folder / "reduction.npz", Reduction(ChannelGroups(DS, DS), ChannelGroups(DD, DD), {}, fitted_on))
    write_json(folder / "manifest.json", {"identity": identity, "finished": True})


@pytest.fixture
def data(tmp_path):
    write_folder(tmp_path / "bank", tokens())
    unrated = tokens(6, "live")
    unrated.labels[1] = np.nan
    write_folder(tmp_path / "aligned", unrated)
    return TrainingData(tmp_path / "bank", tmp_path / "aligned", "a bank")


@pytest.fixture
def cfg(tmp_path):
    return TrainingConfig(out_dir=str(tmp_path / "run"), models=",".join(FEW), **SMALL)


def test_every_split_holds_clips_and_cuts_no_source(cfg):
    aligned = tokens()
    split = experiment.split_of(aligned, cfg, 0)
    by_source = pd.DataFrame({"source": aligned.sources, "split": split}).groupby("source")["split"].nunique()
    assert by_source.max() == 1
    assert set(split) == {"train", "validation", "test"}
    assert (split != experiment.split_of(aligned, cfg, 1)).any()


def test_shuffling_keeps_each_clips_tokens_and_leaves_padding_at_the_end():
    aligned = tokens()
    aligned.dynamic_mask[:, -1] = False
    order = variants.shuffled_order(aligned, 3)
    mixed = variants.shuffle_motion(aligned, 3)
    assert (order[:, -1] == T - 1).all()
    assert np.array_equal(np.sort(order, 1), np.tile(np.arange(T), (N, 1)))
    assert np.array_equal(mixed.dynamic_features[4, 0], aligned.dynamic_features[4, order[4, 0]])
    assert not np.array_equal(mixed.dynamic_features, aligned.dynamic_features)
    assert np.array_equal(mixed.dynamic_t_s, aligned.dynamic_t_s)


def test_the_constant_is_the_mean_of_the_training_ratings(cfg):
    aligned = tokens()
    fitted = experiment.train_one(Job("constant", 0), aligned, None, cfg)
    mean = aligned.labels[experiment.split_of(aligned, cfg, 0) == "train"].mean(0)
    np.testing.assert_allclose(fitted.prediction, np.tile(mean, (N, 1)), atol=1e-6)
    assert fitted.live_prediction.shape == (0, 5)
    assert fitted.model is None


def test_on_a_plateau_the_rate_is_halved_and_training_stops_when_patience_ends(cfg):
    x, y = np.zeros((24, 3), "float32"), np.random.default_rng(0).uniform(0, 1, (24, 5)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])  # nothing to learn but the mean
    slow = dataclasses.replace(cfg, schedule="plateau", patience=13, epochs=400, learning_rate=0.01)
    history = train.fit(model, (x, y), (x, y[::-1] * 0 - 1), slow)
    assert len(history) < 60
    assert float(model.optimizer.learning_rate) < 0.01 / 2


def test_ridge_finds_a_linear_cue(cfg):
    aligned = tokens()
    fitted = experiment.train_one(Job("ridge", 0), aligned, tokens(6, "live"), cfg)
    test = experiment.split_of(aligned, cfg, 0) == "test"
    assert np.corrcoef(fitted.prediction[test, 0], aligned.labels[test, 0])[0, 1] > 0.9
    assert fitted.live_prediction.shape == (6, 5)


def test_aligned_inputs_pair_motion_by_time():
    aligned = tokens()
    late = Aligned(**vars(aligned) | {"dynamic_t_s": aligned.dynamic_t_s + 1})
    inputs = variants.model_inputs("aligned_mlp", late, 0)
    assert np.array_equal(inputs["dynamic"][:, 1], aligned.dynamic_features[:, 0])


@pytest.mark.slow
def test_one_training_repeats_exactly_and_the_best_epoch_is_restored(cfg, tmp_path, monkeypatch):
    aligned, state = tokens(), tmp_path / "state.npz"
    monkeypatch.setattr(train, "KEEP_EVERY_S", 0.0)
    first = experiment.train_one(Job(TOKEN_MODEL, 0), aligned, None, cfg)
    second = experiment.train_one(
        Job(TOKEN_MODEL, 0), aligned, None, cfg, state=state
    )  # keeping its state changes nothing
    assert state.exists()
    assert np.array_equal(first.prediction, second.prediction)
    validation = experiment.split_of(aligned, cfg, 0) == "validation"
    error = np.mean((first.prediction - aligned.labels)[validation] ** 2)
    assert error == pytest.approx(first.history["val_loss"].min(), rel=1e-4)
    assert first.history.columns.tolist() == ["epoch", "loss", "val_loss"]


@pytest.mark.slow
def test_the_table_is_resumed_to_the_same_results(data, cfg, monkeypatch):
    first = results.run_table(data, cfg)
    folder = cfg.out / "training"
    kept = folder / "ridge-1.npz"
    before = kept.stat().st_mtime_ns
    (folder / f"{TOKEN_MODEL}-1.npz").unlink()
    (folder / "ridge-0.npz").write_bytes(b"half a file")
    again = results.run_table(data, cfg)
    assert again == first
    assert kept.stat().st_mtime_ns == before
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "run_jobs", None)  # nothing is left to train
        assert results.run_table(data, cfg) == first
    check_results(first, cfg, data)


def check_results(found: dict, cfg: TrainingConfig, data: TrainingData) -> None:
    assert read_json(cfg.out / "training" / "training.json") == json.loads(json.dumps(found))
    assert list(found["models"]) == list(FEW)
    ridge = found["models"]["ridge"]
    assert list(ridge["r2"]) == ["O", "C", "E", "A", "N", "mean"]
    assert ridge["r2"]["O"] == pytest.approx(np.mean([s["r2"]["O"] for s in ridge["seeds"]]))
    assert {"ccc", "pearson", "mae", "mean_accuracy"} <= set(ridge)
    assert found["models"]["constant"]["pearson"]["O"] == 0
    assert found["split"] == {
        "by": "source",
        "train": 48,
        "validation": 6,
        "test": 6,
        "test_clips_sharing_a_source_with_train": 0,
        "warning": None,
    }
    pairs = [(c["a"], c["b"]) for c in found["comparisons"]]
    assert pairs == [("ridge", "constant"), (TOKEN_MODEL, "constant"), (TOKEN_MODEL, "ridge")]
    assert found["ratings"] == {"clips": 60, "rated": dict.fromkeys(TRAITS, 60), "first_missing": None}
    assert found["live"]["clips"] == 5
    assert found["about"]["constant"] == "the mean training rating for everyone"
    shown = results.as_table(found)
    assert shown.index.tolist() == [*FEW, "constant, 5 clips of this run", f"{TOKEN_MODEL}, 5 clips of this run"]
    assert shown.loc["ridge", "O"] == ridge["r2"]["O"]
    table = pd.read_csv(cfg.out / "predictions.csv")
    assert table.columns.tolist() == ["model", "seed", "split", "clip", "source", "trait", "truth", "prediction"]
    assert len(table) == len(FEW) * 2 * (6 + 6 + 6) * 5
    assert table["truth"].isna().sum() == len(FEW) * 2 * 5
    history = pd.read_csv(cfg.out / "training" / "history.csv")
    assert len(history) == 2 * cfg.epochs
    logs, shown = results.watched(cfg, found, TOKEN_MODEL, 1)
    of_model = history[(history["model"] == TOKEN_MODEL) & (history["seed"] == 1)]
    np.testing.assert_allclose([e["loss"] for e in logs["metrics"]["epoch"]], of_model["loss"], rtol=1e-4)
    assert shown["verdict"] == found["comparisons"][1]["verdict"]
    assert shown["time"]["epochs"] == cfg.epochs
    card = results.keep_model(data, cfg, found)
    assert card["licence"].startswith("that of the data and of the weights behind the features (static: unknown")
    assert card["caveats"][0].startswith("Errors by group are unknown")
    assert card["weights"] == "random"
    assert len(card["training_quantiles"]["openness"]) == 101
    assert card["interval_half_width"]["openness"] == 1  # six validation clips bound nothing
    assert (cfg.out / "model" / "model.keras").exists()
    assert (cfg.out / "model" / "reduction.npz").exists()
    assert card["training_length_s"] > 0
    assert card["drawn"] is False  # no truth.csv beside them
    familiar = read_training_tokens(cfg.out / "model" / "familiar.npz")
    assert {name: len(known.held_out) for name, known in familiar.items()} == {"static": 6, "dynamic": 6}


@pytest.mark.slow
def test_a_failing_training_names_itself_its_error_and_the_log(data, cfg, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "abacus")  # of the workers: here Keras is imported already
    with pytest.raises(RuntimeError, match="model token_cross_attention, seed 0 failed: .*abacus"):
        results.run_table(data, cfg)


def test_the_reason_of_an_error_in_a_training_is_said(data, cfg):
    unrated = tokens()
    unrated.labels[:] = np.nan
    write_folder(data.folder, unrated)
    with pytest.raises(RuntimeError, match="model constant, seed 1 failed: .* must hold rated clips"):
        experiment.train_all([Job("constant", 1)], data, cfg)


def test_other_parameters_or_other_clips_are_not_taken_for_done(data, cfg):
    stamp = experiment.fingerprint(data, cfg)
    other = TrainingConfig(**vars(cfg) | {"epochs": 3})
    assert experiment.fingerprint(data, other) != stamp
    assert experiment.fingerprint(data, TrainingConfig(**vars(cfg) | {"seeds": [5], "workers": 3})) == stamp
    write_folder(data.live, tokens(9, "live"))
    assert experiment.fingerprint(data, cfg) != stamp


def test_clips_that_the_reduction_saw_may_not_be_held_out(data, cfg):
    write_folder(data.folder, tokens(), fitted_on=tuple(tokens().clips[:30]))
    with pytest.raises(ValueError, match="clips that the reduction was not fitted on.*with seed 0"):
        results.run_table(data, cfg)


def test_no_rated_clip_is_an_error_that_says_what_is_trained_on(data, cfg):
    unrated = tokens()
    unrated.labels[:] = np.nan
    write_folder(data.folder, unrated)
    with pytest.raises(ValueError, match="must hold rated clips to train on, got none of 60: a bank"):
        results.run_table(data, cfg)


def test_a_bank_made_like_the_run_is_trained_on_and_the_run_scored(data):
    write_json(data.live.parent / "analysis.json", {"drawn": True})
    chosen = choose_data(data.folder, data.live)
    assert (chosen.folder, chosen.live) == (data.folder, data.live)
    assert "the token bank" in chosen.statement


def test_a_bank_of_drawn_clips_does_not_stand_in_for_real_ones(data):
    for analysis in ({}, {"drawn": False}):
        write_json(data.live.parent / "analysis.json", analysis)
        chosen = choose_data(data.folder, data.live)
        assert (chosen.folder, chosen.live) == (data.live, None)
        assert chosen.statement == "the clips of this run; those of the token bank are drawn"


def test_a_bank_made_otherwise_is_not_used_and_the_difference_is_said(data, tmp_path):
    write_json(data.live.parent / "analysis.json", {"drawn": True})
    write_folder(data.live, tokens(6), IDENTITY | {"dynamic": {"endpoint": "Mixed_4b"}})
    chosen = choose_data(data.folder, data.live)
    assert (chosen.folder, chosen.live) == (data.live, None)
    assert "dynamic.endpoint: 'Mixed_4b' here, None there" in chosen.statement
    assert "there is no token bank" in choose_data(tmp_path / "none", data.live).statement


def test_the_shuffled_control_is_the_token_model_on_moved_motion():
    aligned = tokens()
    plain, mixed = (variants.model_inputs(name, aligned, 0) for name in (TOKEN_MODEL, SHUFFLED_MODEL))
    assert not np.array_equal(plain["dynamic"], mixed["dynamic"])
    assert np.array_equal(plain["static"], mixed["static"])
    np.testing.assert_allclose(plain["dynamic"].sum(1), mixed["dynamic"].sum(1), atol=1e-5)


def test_the_stamp_stands_in_every_training(data, cfg, tmp_path):
    fitted = experiment.train_one(Job("constant", 0), tokens(), None, cfg)
    experiment.write_fitted(tmp_path, Job("constant", 0), "stamp", fitted)
    assert str(read_arrays(tmp_path / "constant-0.npz")["stamp"]) == "stamp"
    assert is_done(tmp_path / "constant-0.npz", "stamp")
    assert not is_done(tmp_path / "constant-0.npz", "another")


def test_one_more_network_is_trained_beside_a_run_once(data, cfg):
    name, path = variants.SHUFFLED_LABELS_MODEL, cfg.out / "training" / f"{variants.SHUFFLED_LABELS_MODEL}-0.npz"
    model = experiment.train_further(name, 0, data, cfg)
    first = path.stat().st_mtime_ns
    again = experiment.train_further(name, 0, data, cfg)
    assert path.stat().st_mtime_ns == first
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
