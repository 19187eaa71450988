"""What a training is watched and gone on by: callbacks that write what happened as JSON, what follows from its times,
and the state that outlives its process.

Out: below a folder `batch_metrics/metrics_history.json` (losses), `time_tracking/time_logs.json` (seconds) and
`lr_tracking/lr_logs.json` (learning rates). "Execution" is the steps between two returns to Python.
"""

import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops

from helpers.config import TrainingConfig
from helpers.files import needs, read_json, replacing, write_json
from helpers.store import read_arrays

PLATEAU = 5  # epochs without a better validation loss before the learning rate is halved
KEEP_EVERY_S = 30.0  # seconds between two writings of the state: shorter trainings write none

ADVICE = {  # by figure of the analysis: from which value something is said, and what
    "start": (0.2, "Starting takes {start:.0%} ({start_s:.1f} s, once per training): each further epoch costs "
                   "{epoch_s:.2f} s only."),
    "validation": (0.2, "Validation takes {validation:.0%} ({validation_s:.1f} s): lower validation_share."),
    "other": (0.15, "Callbacks, files and waiting for batches take {other:.0%} ({other_s:.1f} s): leave TensorBoard "
                    "out, or write to a local disk."),
    "wasted": (0.25, "The best of {epochs} epochs was number {best}: the {after} after it took about {after_s:.1f} s "
                     "and changed nothing: lower patience."),
    "steps": (0.5, "Steps take {steps:.0%} at {step_ms:.1f} ms each: larger batches, a smaller network or a faster "
                   "device would shorten them."),
}  # fmt: skip


class _Log(keras.callbacks.Callback):
    """Lists of entries, each with its `epoch`, in one JSON file when training ends; `TrainingState` keeps `logs`."""

    file: str
    executions = "execution"  # the list of what is logged after each execution; "epoch" is that of epochs

    def __init__(self, folder: str | Path):
        super().__init__()
        self.path = Path(folder) / self.file
        self.logs: dict[str, list[dict[str, Any]]] = {self.executions: [], "epoch": []}

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.logs[self.executions].append({"epoch": self.epoch} | self.of_execution(int(batch), logs or {}))

    def on_epoch_end(self, epoch, logs=None):
        self.logs["epoch"].append({"epoch": epoch} | self.of_epoch(logs or {}))

    def on_train_end(self, logs=None):
        write_json(self.path, self.logs)

    def of_execution(self, step: int, logs: dict[str, Any]) -> dict[str, Any]:
        return {"step": step} | self.of_epoch(logs)


class PerformanceMonitorCallback(_Log):
    """Losses: `batch` (epoch, step, means of the epoch so far) after each execution; `epoch`, all at its end."""

    file, executions = "batch_metrics/metrics_history.json", "batch"

    def of_epoch(self, logs: dict[str, Any]) -> dict[str, float]:
        return {name: float(value) for name, value in logs.items()}


class LearningRateTrackerCallback(_Log):
    """Learning rates: `execution` (epoch, step, learning_rate, after it) and `epoch` (epoch, learning_rate)."""

    file = "lr_tracking/lr_logs.json"

    def of_epoch(self, logs: dict[str, Any]) -> dict[str, float]:
        return {"learning_rate": float(self.model.optimizer.learning_rate)}


class TimeTrackingCallback(_Log):
    """Seconds: `execution` (epoch, steps, seconds) and `epoch` (epoch, seconds, steps_s, validation_s, other_s).

    `other_s` is what is left of an epoch: reading batches between executions, callbacks, files.
    """

    file = "time_tracking/time_logs.json"

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._epoch_began, self._steps_s, self._validation_s, self._last_step = time.perf_counter(), 0.0, 0.0, -1

    def on_train_batch_begin(self, batch, logs=None):
        self._began = time.perf_counter()

    def on_test_begin(self, logs=None):
        self._test_began = time.perf_counter()

    def on_test_end(self, logs=None):
        self._validation_s += time.perf_counter() - self._test_began

    def of_execution(self, step: int, logs: dict[str, Any]) -> dict[str, Any]:
        seconds, steps = time.perf_counter() - self._began, step - self._last_step
        self._steps_s, self._last_step = self._steps_s + seconds, step
        return {"steps": steps, "seconds": seconds}

    def of_epoch(self, logs: dict[str, Any]) -> dict[str, float]:
        seconds = time.perf_counter() - self._epoch_began
        other_s = max(seconds - self._steps_s - self._validation_s, 0.0)
        return {"seconds": seconds, "steps_s": self._steps_s, "validation_s": self._validation_s, "other_s": other_s}


LOGS = {"metrics": PerformanceMonitorCallback, "times": TimeTrackingCallback, "rates": LearningRateTrackerCallback}


def watchers(folder: str | Path, tensorboard_in: Path | None = None) -> list[keras.callbacks.Callback]:
    """The three that log below `folder`, and Keras' TensorBoard where a folder for it is given."""
    logs = [kind(folder) for kind in LOGS.values()]
    if tensorboard_in is None:
        return logs
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError("tensorboard must be False without its package, got True. Do: pip install tensorboard.")
    return [*logs, keras.callbacks.TensorBoard(str(tensorboard_in), update_freq="epoch", write_graph=False)]


def read_logs(folder: str | Path) -> dict[str, Any]:
    """What the three wrote below `folder`: `metrics`, `times` and `rates`; and `analysis`, see `analyse_time`."""
    logs = {name: read_json(needs(Path(folder) / kind.file, "a training")) for name, kind in LOGS.items()}
    return logs | {"analysis": analyse_time(logs["times"], logs["metrics"])}


def analyse_time(times: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """Share out the time of a training and say what would shorten it; what its callbacks wrote must hold an epoch.

    Returns `seconds` and `share` of start (what tracing takes), steps, validation and other, `total_s`, `epoch_s` and
    `step_ms` (medians without the start), `epochs`, `recommendations` (sentences with the number they rest on).
    """
    epochs, executions = pd.DataFrame(times["epoch"]), pd.DataFrame(times["execution"])
    step_s, n, epoch_s = _usual(executions["seconds"] / executions["steps"]), len(epochs), _usual(epochs["seconds"])
    spent = _spent(epochs, executions, step_s)
    found = {
        "seconds": spent.to_dict(),
        "share": (spent / spent.sum()).to_dict(),
        "total_s": float(spent.sum()),
        "epoch_s": epoch_s,
        "step_ms": step_s * 1000,
        "epochs": n,
    }
    best = int(np.nanargmin(np.array([entry["val_loss"] for entry in metrics["epoch"]], float))) + 1
    after = {"best": best, "after": n - best, "after_s": (n - best) * epoch_s, "wasted": 1 - best / n}
    figures = found | found["share"] | spent.add_suffix("_s").to_dict() | after
    said = [sentence.format(**figures) for name, (limit, sentence) in ADVICE.items() if figures[name] > limit]
    return found | {"recommendations": said}


def _spent(epochs: pd.DataFrame, executions: pd.DataFrame, step_s: float) -> pd.Series:
    """Seconds by part; what the first execution and validation, which trace, take beyond the later is the start."""
    steps_start = max(executions["seconds"][0] - step_s * executions["steps"][0], 0.0)
    validation_start = max(epochs["validation_s"][0] - _usual(epochs["validation_s"]), 0.0)
    sums = epochs[["steps_s", "validation_s", "other_s"]].sum().to_numpy() - [steps_start, validation_start, 0.0]
    return pd.Series([steps_start + validation_start, *sums], ["start", "steps", "validation", "other"])


def _usual(seconds: pd.Series) -> float:
    """Median without the first, where there are others."""
    return float(seconds[1:].median() if len(seconds) > 1 else seconds[0])


class TrainingState(keras.callbacks.Callback):
    """All that a training would lose with its process: weights, optimizer, best epoch, patience, history, logs.

    Keras' BackupAndRestore keeps neither the best weights nor the counters of patience. What is in the file `path` is
    gone on from where it is of the same training: `known` is the fingerprint of all that it depends on. `shuffle` is
    called with each epoch before it begins, further `callbacks` before the state is kept, with what they have in
    `logs`.
    """

    def __init__(
        self,
        shuffle: Callable[[int], None],
        cfg: TrainingConfig,
        callbacks: Sequence[keras.callbacks.Callback],
        path: Path | None,
        known: str,
    ):
        super().__init__()
        stopper = keras.callbacks.EarlyStopping(patience=cfg.patience or cfg.epochs, restore_best_weights=True)
        reducer = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=PLATEAU, min_delta=0)
        self.counting = [stopper, reducer] if cfg.schedule == "plateau" else [stopper]  # they are called before this
        self.logged = [each for each in callbacks if hasattr(each, "logs")]
        self.shuffle, self.epochs, self.path, self.known = shuffle, cfg.epochs, path, known
        self.next_epoch, self.rows, self._found = 0, [], None
        try:
            arrays = read_arrays(path) if path else {}
            found = json.loads(str(arrays["known"]))
        except (FileNotFoundError, ValueError, KeyError):  # none, or a damaged one: the training starts anew
            return
        if found["fingerprint"] == known:
            self._found, self.next_epoch, self.rows = (arrays, found), found["next_epoch"], found["rows"]

    def on_train_begin(self, logs=None):
        self._kept = time.monotonic()
        if self._found is None:
            return
        arrays, found = self._found
        for k, variable in enumerate(self._variables()):
            variable.assign(arrays[f"variable_{k}"])
        n_best = sum(name.startswith("best_") for name in arrays)
        self.counting[0].best_weights = [arrays[f"best_{k}"] for k in range(n_best)] or None
        for callback, values in zip(self.counting, found["counters"], strict=True):
            vars(callback).update(values)
        for callback, values in zip(self.logged, found["logs"], strict=True):
            callback.logs = values

    def on_epoch_begin(self, epoch, logs=None):
        self.shuffle(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append({"epoch": epoch} | {name: float(value) for name, value in logs.items()})
        self.next_epoch = self.epochs if self.model.stop_training else epoch + 1
        if self.path is not None and time.monotonic() - self._kept >= KEEP_EVERY_S:
            self._keep()
            self._kept = time.monotonic()

    def _keep(self) -> None:
        """Write the state; the file that was there is replaced only by a whole one."""
        counters = [{k: v for k, v in vars(each).items() if isinstance(v, int | float)} for each in self.counting]
        known = {"fingerprint": self.known, "next_epoch": self.next_epoch, "rows": self.rows, "counters": counters}
        known["logs"] = [each.logs for each in self.logged]
        arrays = {f"variable_{k}": ops.convert_to_numpy(v.value) for k, v in enumerate(self._variables())}
        arrays |= {f"best_{k}": value for k, value in enumerate(self.counting[0].best_weights or [])}
        with replacing(self.path) as part, open(part, "wb") as file:  # not compressed: noise does not get smaller
            np.savez(file, known=json.dumps(known), **arrays)

    def _variables(self) -> list[keras.Variable]:
        return [*self.model.variables, *self.model.optimizer.variables]  # seeds of dropout and metrics included
