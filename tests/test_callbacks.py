"""Callbacks and what follows from their files: entries, resume, shares of the time and what is recommended."""

import importlib.util

import keras
import numpy as np
import pytest

from helpers import callbacks
from helpers.files import read_json

N, BATCH = 29, 8
FALLING = {"epoch": [{"epoch": e, "val_loss": 1.0 - e / 10} for e in range(4)]}


def trained(folder) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    rate = keras.optimizers.schedules.PolynomialDecay(0.1, 12, 0.0)
    model.compile(keras.optimizers.SGD(rate), "mse", run_eagerly=True)
    x, y = np.ones((N, 3), "float32"), np.zeros((N, 2), "float32")
    settings = {"batch_size": BATCH, "epochs": 3, "verbose": 0}
    model.fit(x, y, validation_data=(x, y), callbacks=callbacks.watchers(folder), **settings)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="runs its small network eagerly")
def test_losses_rates_and_seconds_are_written_as_the_training_goes(tmp_path):
    trained(tmp_path)
    metrics = read_json(tmp_path / "batch_metrics" / "metrics_history.json")
    assert [(e["epoch"], e["step"]) for e in metrics["batch"]] == [(e, s) for e in range(3) for s in range(4)]
    assert [e.keys() for e in metrics["epoch"]] == [{"epoch", "loss", "val_loss"}] * 3
    assert metrics["batch"][3]["loss"] == pytest.approx(metrics["epoch"][0]["loss"])
    rates = read_json(tmp_path / "lr_tracking" / "lr_logs.json")
    np.testing.assert_allclose([e["learning_rate"] for e in rates["epoch"]], 0.1 * (1 - np.array([4, 8, 12]) / 12))
    assert len(rates["execution"]) == 12
    times = read_json(tmp_path / "time_tracking" / "time_logs.json")
    for epoch in times["epoch"]:
        assert epoch["steps_s"] + epoch["validation_s"] + epoch["other_s"] == pytest.approx(epoch["seconds"])
        assert min(epoch["steps_s"], epoch["validation_s"]) > 0
    assert [e["steps"] for e in times["execution"]] == [1] * 12


def times(first: float, validation: float = 0.1, other: float = 0.1, steps: float = 1.0, epochs: int = 4) -> dict:
    """A training of known shares: executions of 10 steps and `steps` seconds, the first one `first` seconds longer."""
    executions = [{"epoch": e, "steps": 10, "seconds": steps + first * (e == 0)} for e in range(epochs)]
    parts = [(x["seconds"], validation, other) for x in executions]
    names = ("steps_s", "validation_s", "other_s")
    return {
        "execution": executions,
        "epoch": [
            {"epoch": e, "seconds": sum(p)} | dict(zip(names, p, strict=True)) for e, p in enumerate(parts)
        ],
    }  # fmt: skip


def test_the_shares_are_those_of_the_measured_seconds():
    found = callbacks.analyse_time(times(first=5.2), FALLING)
    assert found["seconds"] == pytest.approx({"start": 5.2, "steps": 4.0, "validation": 0.4, "other": 0.4})
    assert sum(found["share"].values()) == pytest.approx(1)
    assert found["step_ms"] == pytest.approx(100)
    assert found["epoch_s"] == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (times(first=5.0), ["Starting takes 51% (5.0 s"]),
        (times(first=0, validation=1.0), ["Validation takes 48% (4.0 s)"]),
        (times(first=0, other=0.5), ["take 31% (2.0 s)", "Steps take 62%"]),
        (times(first=0), ["Steps take 83% at 100.0 ms each"]),
    ],
)
def test_a_recommendation_follows_from_its_share_and_names_it(measured, words):
    said = callbacks.analyse_time(measured, FALLING)["recommendations"]
    assert len(said) == len(words)
    assert all(word in sentence for word, sentence in zip(words, said, strict=True))


def test_epochs_after_the_best_are_counted_as_wasted():
    metrics = {"epoch": [{"epoch": e, "val_loss": loss} for e, loss in enumerate((3.0, 1.0, 2.0, 2.0))]}
    said = callbacks.analyse_time(times(first=0), metrics)["recommendations"]
    assert "The best of 4 epochs was number 2: the 2 after it took about 2.4 s" in said[0]


def test_what_cannot_be_watched_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        callbacks.watchers(tmp_path, tmp_path)
