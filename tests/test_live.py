"""What is seen while trainings run: widgets in a notebook, rare lines elsewhere."""

import logging

import matplotlib.pyplot as plt
import pytest

from helpers import live

LOSSES = [{"loss": 0.09, "val_loss": 0.16}, {"loss": 0.04, "val_loss": 0.09}]


def told(callback) -> None:
    callback.on_train_begin()
    for epoch, logs in enumerate(LOSSES):
        callback.on_epoch_end(epoch, logs)
    callback.on_train_end()


def test_a_script_gets_lines_and_few_of_them(caplog, monkeypatch):
    callback = live.watch_live()
    assert isinstance(callback, live.LossLines)
    with caplog.at_level(logging.INFO):
        told(callback)
        assert not caplog.records
        monkeypatch.setattr(live, "LINE_EVERY_S", 0.0)
        told(callback)
    assert [record.message for record in caplog.records][1] == "epoch 2: loss 0.04000, validation 0.09000"


@pytest.mark.usefixtures("figures")
def test_a_notebook_gets_a_curve_that_ends_with_all_epochs(monkeypatch):
    shown, drawn = [], []
    monkeypatch.setattr(live, "in_front_end", lambda: True)
    monkeypatch.setattr(live, "display", shown.append)
    monkeypatch.setattr(live, "clear_output", lambda wait: drawn.append(wait))
    callback = live.watch_live()
    before = plt.get_fignums()
    told(callback)
    assert shown[0] is callback.output
    assert len(shown) == 3  # the widget, the first epoch, and all of them: no drawing in between
    assert shown[-1].axes[0].lines[0].get_ydata() == pytest.approx([0.3, 0.2])
    assert drawn == [True, True]
    assert plt.get_fignums() == before


def test_trainings_elsewhere_are_lines_where_nobody_looks(caplog, monkeypatch):
    seen = live.watch_trainings(5)
    assert type(seen) is live.TrainingLines
    monkeypatch.setattr(seen, "every_s", 0.0)
    with caplog.at_level(logging.INFO):
        seen.show()
        assert not caplog.records  # nothing heard of yet
        seen.add("ridge_mlp", 3, 0, 0.1, 0.2)
        seen.finish("aligned_mlp", 3)
        seen.show()
        seen.end()
    line = "1 of 5 trainings done; ridge_mlp with seed 3, epoch 1: validation 0.20000"
    assert [record.message for record in caplog.records] == [line]


@pytest.mark.usefixtures("figures")
def test_curves_of_trainings_elsewhere_grow_in_a_widget(monkeypatch):
    shown = []
    monkeypatch.setattr(live, "in_front_end", lambda: True)
    monkeypatch.setattr(live, "display", shown.append)
    monkeypatch.setattr(live, "clear_output", lambda wait: None)
    seen, before = live.watch_trainings(2), plt.get_fignums()
    assert shown == [seen.output]
    for epoch, losses in enumerate(LOSSES):
        seen.add("aligned_mlp", 0, epoch, *losses.values())
    seen.show()
    assert len(shown) == 1  # not yet time
    seen.end()
    assert shown[1].axes[1].lines[0].get_ydata() == pytest.approx([0.4, 0.3])
    assert "0 of 2 trainings done" in shown[1].get_suptitle()
    assert plt.get_fignums() == before
