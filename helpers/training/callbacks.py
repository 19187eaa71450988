"""What a training is watched by: callbacks that write what happened as JSON, beside the model.

In: what Keras tells its callbacks. Out: below a folder `batch_metrics/metrics_history.json` (losses),
`time_tracking/time_logs.json` (seconds) and `lr_tracking/lr_logs.json` (learning rates), always whole. A
training that goes on after a kill goes on in the same files. "Execution" is the steps between two returns to Python.
"""

import importlib.util
import time
from pathlib import Path
from typing import Any, TextIO

import keras

from helpers.files import needs, read_json, write_json

METRICS_FILE = Path("batch_metrics", "metrics_history.json")
TIMES_FILE = Path("time_tracking", "time_logs.json")
RATES_FILE = Path("lr_tracking", "lr_logs.json")


class _Log(keras.callbacks.Callback):
    """Lists of entries, each with its `epoch`, written to one JSON file when an epoch ends.

    Args:
        path: The file.
        lists: Names of the lists in it.
        every_s: Seconds between two writings at least; the end of the training is written in any case.
    """

    def __init__(self, path: Path, lists: tuple[str, ...], every_s: float):
        super().__init__()
        self.path, self.every_s, self._written = path, every_s, time.monotonic()
        self.logs: dict[str, list[dict[str, Any]]] = {name: [] for name in lists}
        self._last_step = -1
        self._begun = False

    def on_train_begin(self, logs=None):
        self._begun = False

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self._last_step = epoch, -1
        if not self._begun:  # earlier epochs stay, what a killed epoch left does not
            found = read_json(self.path) if epoch and self.path.exists() else {}
            self.logs = {name: [e for e in found.get(name, []) if e["epoch"] < epoch] for name in self.logs}
            self._begun = True

    def on_epoch_end(self, epoch, logs=None):
        if time.monotonic() - self._written >= self.every_s:
            write_json(self.path, self.logs)
            self._written = time.monotonic()

    def on_train_end(self, logs=None):
        if self._begun:  # a training that was done already has nothing to say
            write_json(self.path, self.logs)

    def _steps_since(self, step: int) -> int:
        """How many steps the execution that ended with this step had."""
        steps, self._last_step = step - self._last_step, step
        return steps


class PerformanceMonitorCallback(_Log):
    """Losses: `batch`, the mean of the epoch so far after each execution (epoch, step, loss); `epoch`, all at its end.

    Args:
        folder: Of the experiment.
        every_s: Seconds between two writings at least; 0 writes after every epoch.
    """

    def __init__(self, folder: str | Path, every_s: float = 0.0):
        super().__init__(Path(folder) / METRICS_FILE, ("batch", "epoch"), every_s)

    def on_train_batch_end(self, batch, logs=None):
        self.logs["batch"].append({"epoch": self.epoch, "step": int(batch)} | _plain(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.logs["epoch"].append({"epoch": epoch} | _plain(logs))
        super().on_epoch_end(epoch, logs)


class TimeTrackingCallback(_Log):
    """Seconds: `execution` (epoch, steps, seconds) and `epoch` (epoch, seconds, steps_s, validation_s, other_s).

    `other_s` is what is left of an epoch: reading batches between executions, callbacks, files.

    Args:
        folder: Of the experiment.
        every_s: Seconds between two writings at least; 0 writes after every epoch.
    """

    def __init__(self, folder: str | Path, every_s: float = 0.0):
        super().__init__(Path(folder) / TIMES_FILE, ("execution", "epoch"), every_s)

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._epoch_began, self._steps_s, self._validation_s = time.perf_counter(), 0.0, 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        seconds = time.perf_counter() - self._began
        self._steps_s += seconds
        self.logs["execution"].append({"epoch": self.epoch, "steps": self._steps_since(batch), "seconds": seconds})

    def on_test_begin(self, logs=None):
        self._test_began = time.perf_counter()

    def on_test_end(self, logs=None):
        self._validation_s += time.perf_counter() - self._test_began

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self._epoch_began
        parts = {"steps_s": self._steps_s, "validation_s": self._validation_s}
        other = max(seconds - sum(parts.values()), 0.0)
        self.logs["epoch"].append({"epoch": epoch, "seconds": seconds} | parts | {"other_s": other})
        super().on_epoch_end(epoch, logs)


class LearningRateTrackerCallback(_Log):
    """Learning rates: `execution` (epoch, step, learning_rate, after it) and `epoch` (epoch, learning_rate).

    Args:
        folder: Of the experiment.
        every_s: Seconds between two writings at least; 0 writes after every epoch.
    """

    def __init__(self, folder: str | Path, every_s: float = 0.0):
        super().__init__(Path(folder) / RATES_FILE, ("execution", "epoch"), every_s)

    def on_train_batch_end(self, batch, logs=None):
        rate = float(self.model.optimizer.learning_rate)
        self.logs["execution"].append({"epoch": self.epoch, "step": int(batch), "learning_rate": rate})

    def on_epoch_end(self, epoch, logs=None):
        self.logs["epoch"].append({"epoch": epoch, "learning_rate": float(self.model.optimizer.learning_rate)})
        super().on_epoch_end(epoch, logs)


def watchers(folder: str | Path, every_s: float = 0.0) -> list[keras.callbacks.Callback]:
    """All three, each with its file below `folder`, written after every epoch, or every so many seconds."""
    kinds = PerformanceMonitorCallback, TimeTrackingCallback, LearningRateTrackerCallback
    return [kind(folder, every_s) for kind in kinds]


class EpochLines(keras.callbacks.Callback):
    """A line "epoch loss val_loss" after each epoch, for whoever reads the other end of a pipe.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO):
        super().__init__()
        self.stream = stream

    def on_epoch_end(self, epoch, logs=None):
        self.stream.write(f"{epoch} {logs['loss']:.6g} {logs['val_loss']:.6g}\n")
        self.stream.flush()


def read_logs(folder: str | Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What the three wrote below `folder`: `metrics`, `times` and `rates`."""
    files = {"metrics": METRICS_FILE, "times": TIMES_FILE, "rates": RATES_FILE}
    return {name: read_json(needs(Path(folder) / file, "train_model")) for name, file in files.items()}


def tensorboard(folder: str | Path) -> keras.callbacks.TensorBoard:
    """Keras' callback for TensorBoard; ValueError where the package is missing.

    Args:
        folder: Of the event files: `tensorboard --logdir <folder>` shows them.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError(
            "tensorboard must be False without the package of that name, got True. Install it: pip install tensorboard."
        )
    return keras.callbacks.TensorBoard(str(folder), update_freq="epoch", write_graph=False)


def _plain(logs: dict[str, Any] | None) -> dict[str, float]:
    return {name: float(value) for name, value in (logs or {}).items()}
