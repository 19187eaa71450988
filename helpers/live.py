"""A training seen as it goes: a curve that grows in a notebook, a line of text now and then elsewhere.

In: what Keras tells its callbacks. Out: a widget, or log lines; nothing that a result depends on.
"""

import logging
import time

import ipywidgets as widgets
import keras
import matplotlib.pyplot as plt
from IPython import get_ipython
from IPython.display import clear_output, display

from helpers.plots.dashboard import plot_losses

log = logging.getLogger(__name__)

EVERY_S = 1.0  # between two drawings: drawing takes a tenth of it
LINE_EVERY_S = 10.0  # between two lines of text


def watch_live() -> keras.callbacks.Callback:
    """The curve in a notebook that somebody looks at, lines of text in a terminal or a script."""
    shell = get_ipython()
    return LiveCurve() if shell is not None and hasattr(shell, "kernel") else LossLines()


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
