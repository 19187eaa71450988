"""Trainings seen as they go: curves that grow in a notebook, a line of text now and then elsewhere.

In: what Keras tells its callbacks, here or in worker processes. Out: a widget, or log lines; nothing that a result
depends on.
"""

import logging
import textwrap
import time

import ipywidgets as widgets
import keras
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import clear_output, display

from helpers.front_end import in_front_end
from helpers.plots.training import plot_history, plot_losses

log = logging.getLogger(__name__)

EVERY_S = 1.0  # between two drawings: a training is not to wait for its picture
LINE_EVERY_S = 10.0  # between two lines of text


def watch_live() -> keras.callbacks.Callback:
    """The curve in a notebook that somebody looks at, lines of text in a terminal or a script."""
    return LiveCurve() if in_front_end() else LossLines()


class LiveCurve(keras.callbacks.Callback):
    """Training and validation error in a widget, drawn anew every second at most, and at the end."""

    def on_train_begin(self, logs=None):
        self.epochs, self._drawn = [], 0.0
        self.output = widgets.Output()
        display(self.output)

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append({"epoch": epoch, "loss": logs["loss"], "val_loss": logs["val_loss"]})
        if time.monotonic() - self._drawn >= EVERY_S:
            self.draw()

    def on_train_end(self, logs=None):
        if self.epochs:
            self.draw()

    def draw(self) -> None:
        """Replace the picture by one of all epochs so far."""
        ax = plot_losses(self.epochs)
        with self.output:
            clear_output(wait=True)
            display(ax.figure)
        plt.close(ax.figure)
        self._drawn = time.monotonic()


class LossLines(keras.callbacks.Callback):
    """A log line with the losses every ten seconds at most; a short training says nothing."""

    def on_train_begin(self, logs=None):
        self._said = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        if time.monotonic() - self._said >= LINE_EVERY_S:
            log.info("epoch %d: loss %.5f, validation %.5f", epoch + 1, logs["loss"], logs["val_loss"])
            self._said = time.monotonic()


def watch_trainings(n: int) -> "TrainingLines":
    """For `n` trainings in other processes: curves where a front end is open, lines of text elsewhere."""
    return TrainingCurves(n) if in_front_end() else TrainingLines(n)


class TrainingLines:
    """A log line every ten seconds at most: how many trainings are done, where the last one heard of is.

    Args:
        n: Trainings that there will be.
    """

    every_s = LINE_EVERY_S

    def __init__(self, n: int):
        self.n, self.epochs, self.finished = n, [], []
        self._shown = time.monotonic()

    def add(self, name: str, seed: int, epoch: int, loss: float, val_loss: float) -> None:
        """Take in an epoch (mean squared errors); threads may call this."""
        self.epochs.append({"model": name, "seed": seed, "epoch": epoch, "loss": loss, "val_loss": val_loss})

    def finish(self, name: str, seed: int) -> None:
        """Take in that a training is done; threads may call this."""
        self.finished.append((name, seed))

    def show(self) -> None:
        """Say how far it is if it is time again; for the thread that owns the pictures."""
        if self.epochs and time.monotonic() - self._shown >= self.every_s:
            self._show()
            self._shown = time.monotonic()

    def end(self) -> None:
        """Take in that all trainings are done; who reads a log is told so elsewhere."""

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        last = self.epochs[-1]
        where = f"{last['model']} with seed {last['seed']}, epoch {last['epoch'] + 1}"
        return f"{len(self.finished)} of {self.n} trainings done; {where}: validation {last['val_loss']:.5f}"

    def _show(self) -> None:
        log.info("%s", self.progress)


class TrainingCurves(TrainingLines):
    """The curves of all trainings so far in a widget, drawn anew every second at most, and at the end."""

    every_s = EVERY_S

    def __init__(self, n: int):
        super().__init__(n)
        self.output = widgets.Output()
        display(self.output)

    def end(self) -> None:
        """Leave the curves as they are at the end."""
        if self.epochs:
            self._show()

    def _show(self) -> None:
        fig = plot_history(pd.DataFrame(list(self.epochs)))
        fig.suptitle(textwrap.fill(self.progress, 90), fontsize=10)
        with self.output:
            clear_output(wait=True)
            display(fig)
        plt.close(fig)
