"""How one network is fitted: what is minimised, batches from memory, the best validation epoch, going on after a kill.

In: a network, inputs and labels (n, k), NaN where a rating is missing, of training and validation clips. Out: the
fitted network and one row per epoch; below a folder `batch_metrics/metrics_history.json` (losses),
`time_tracking/time_logs.json` (seconds) and `lr_tracking/lr_logs.json` (learning rates). The order of batches is drawn
from the seed and the number of the epoch, so that a training that was interrupted goes on as if it had not been.
"""

import hashlib
import importlib.util
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import keras
import numpy as np
import pandas as pd
from keras import ops

from helpers.config import TrainingConfig
from helpers.files import needs, read_json, replacing, write_json
from helpers.store import read_arrays

FINAL_RATE = 0.02  # share of the learning rate left at the end of the cosine
MAX_NORM = 1.0  # gradients are clipped to it, each weight's by itself


class RatedError(keras.losses.Loss):
    """Mean of squared errors over the ratings that are there: labels that are NaN count for nothing.

    Where no rating is missing it is the mean squared error; where a batch has none at all it is 0. Over an epoch Keras
    averages it by the rows of the batches, whatever share of them is rated.
    """

    def call(self, y_true, y_pred):
        y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        rated = ops.logical_not(ops.isnan(y_true))
        error = ops.where(rated, ops.where(rated, y_true, 0.0) - y_pred, 0.0)  # inside, too: NaN has a NaN gradient
        return ops.sum(ops.square(error)) / ops.maximum(ops.sum(ops.cast(rated, "float32")), 1.0)


class FusedAdamW(keras.optimizers.Adam):
    """AdamW with clipped gradients on TensorFlow: per weight one pass each for norm, decay and Adam.

    Equal to `keras.optimizers.AdamW(rate, weight_decay=decay, clipnorm=max_norm)` but for rounding.

    Args:
        learning_rate: Number or schedule.
        decay: Share of a weight that a step takes off, times the learning rate.
        max_norm: Longest gradient of one weight.
    """

    def __init__(self, learning_rate: Any, decay: float, max_norm: float, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.decay, self.max_norm = decay, max_norm

    def update_step(self, gradient, variable, learning_rate):
        import tensorflow as tf  # the other backends have an optimizer without it

        rate, one = tf.cast(learning_rate, variable.dtype), tf.constant(1.0, variable.dtype)
        step = tf.cast(self.iterations.value, variable.dtype) + one
        beta_1, beta_2 = one * self.beta_1, one * self.beta_2
        norm, longest = tf.sqrt(2 * tf.nn.l2_loss(gradient)), one * self.max_norm
        clipped = tf.cond(norm > longest, lambda: gradient * (longest / norm), lambda: gradient)
        variable.assign(variable * (one - rate * self.decay))
        k = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[k].value.handle,
            v=self._velocities[k].value.handle,
            beta1_power=beta_1**step,
            beta2_power=beta_2**step,
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=one * self.epsilon,
            grad=clipped,
        )

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"decay": self.decay, "max_norm": self.max_norm}


def build_optimizer(cfg: TrainingConfig, steps: int) -> keras.optimizers.Optimizer:
    """Build AdamW as `cfg` says, in its fastest form for this backend.

    Args:
        cfg: Learning rate and schedule ("cosine": to 2 % of its start over the training), weight decay.
        steps: Steps of the whole training.
    """
    if cfg.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(cfg.learning_rate, steps, FINAL_RATE)
    else:
        rate = cfg.learning_rate
    if keras.backend.backend() == "tensorflow":
        return FusedAdamW(rate, cfg.weight_decay, MAX_NORM)
    return keras.optimizers.AdamW(rate, weight_decay=cfg.weight_decay, clipnorm=MAX_NORM)


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


Part = tuple[Any, np.ndarray]  # inputs as the network takes them: an array, or several in a dict or tuple; labels

PLATEAU = 5  # epochs without a better validation loss before the learning rate is halved
STEPS_AT_ONCE = 64  # between two returns to Python, whose cost is lost among so many
KEEP_EVERY_S = 30.0  # seconds between two writings of the state: shorter trainings write none
STOPPER = ("wait", "best", "best_epoch", "stopped_epoch")  # what EarlyStopping remembers, its weights apart
REDUCER = ("wait", "best", "cooldown_counter")  # what ReduceLROnPlateau remembers


def fit(
    model: keras.Model,
    train: Part,
    validation: Part,
    cfg: TrainingConfig,
    *,
    state: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> pd.DataFrame:
    """Fit by AdamW and restore the best validation epoch.

    The learning rate falls on a cosine to 2 % of its start, or halves whenever the validation loss has not fallen for
    `PLATEAU` epochs. Gradients are clipped to norm 1. Afterwards the model is compiled with a plain AdamW without
    memory, or SGD where parts of it are frozen: a saved model needs nothing of this file.

    Args:
        model: Not yet compiled.
        train, validation: Inputs, and labels (n, k), NaN where a rating is missing.
        cfg: Epochs, batch size, learning rate and schedule, weight decay, patience (0: train to the end),
            the first epoch that may be kept.
        state: File that the training is kept in while it runs, and gone on from where it is one of the same training;
            the caller removes it when the results are safe.
        callbacks: Further ones, called before the state is kept.

    Returns:
        One row per epoch: epoch, loss, val_loss (mean squared errors over what is rated).
    """
    seed = random.randrange(2**31)  # keras.utils.set_random_seed governs `random`
    batches = ShuffledBatches(*train, cfg.batch_size, seed)
    steps = len(batches)
    missing = np.isnan(train[1]).any() or np.isnan(validation[1]).any()
    loss = RatedError() if missing else "mse"
    at_once = 1 if keras.backend.backend() == "torch" else min(steps, STEPS_AT_ONCE)  # PyTorch refuses more
    model.compile(build_optimizer(cfg, cfg.epochs * steps), loss, steps_per_execution=at_once)
    model.optimizer.build(model.trainable_variables)
    patience, first = cfg.patience or cfg.epochs, cfg.first_epoch
    stopper = keras.callbacks.EarlyStopping(
        "val_loss", patience=patience, restore_best_weights=True, start_from_epoch=first
    )
    reducers = [keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=PLATEAU)]
    memory = Memory(stopper, reducers if cfg.schedule == "plateau" else [], cfg.epochs)
    if state is not None:
        memory.open(state, fingerprint(model, train, validation, cfg))
    model.fit(
        batches,
        epochs=cfg.epochs,
        initial_epoch=memory.next_epoch,
        validation_data=validation,
        validation_batch_size=1024,
        callbacks=[batches.shuffler(), stopper, *memory.reducers, *callbacks, memory],
        shuffle=False,
        verbose=0,
    )
    end_rate = float(model.optimizer.learning_rate)
    whole = all(part.trainable for part in model._flatten_layers())
    after = keras.optimizers.AdamW(end_rate, weight_decay=cfg.weight_decay) if whole else keras.optimizers.SGD(end_rate)
    model.compile(after, loss="mse")  # SGD has no memory per weight: a loaded model does not know which were frozen
    model.optimizer.build(model.trainable_variables)  # else what is saved could not be loaded
    return pd.DataFrame(memory.rows)


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Make networks compute in this precision, their weights float32, while they are built inside.

    Args:
        precision: "float32", "bfloat16" or "float16" (whose loss is scaled against underflow).
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision if precision == "float32" else f"mixed_{precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class ShuffledBatches(keras.utils.PyDataset):
    """Batches of arrays in memory, in an order that seed and epoch decide."""

    def __init__(self, inputs: Any, labels: np.ndarray, batch_size: int, seed: int):
        super().__init__()
        self.inputs, self.labels, self.batch_size, self.seed = inputs, labels, batch_size, seed
        self.shuffle(0)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, index: int) -> Part:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return keras.tree.map_structure(lambda array: array[rows], self.inputs), self.labels[rows]

    def shuffle(self, epoch: int) -> None:
        """Draw the order of an epoch."""
        self.order = np.random.default_rng([self.seed, epoch]).permutation(len(self.labels))

    def shuffler(self) -> keras.callbacks.Callback:
        """A callback that draws the order as each epoch begins."""
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.shuffle(epoch))


def fingerprint(model: keras.Model, train: Part, validation: Part, cfg: TrainingConfig) -> str:
    """What a training depends on as sha256: start of the model, arrays, parameters."""
    digest = hashlib.sha256(repr((cfg.as_dict(), keras.backend.backend(), keras.__version__)).encode())
    for array in [*model.get_weights(), *keras.tree.flatten((train, validation))]:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class Memory(keras.callbacks.Callback):
    """All that a training would lose with its process: weights, optimizer, best epoch, patience, history.

    Args:
        stopper, reducers: The callbacks whose counters belong to the training; they come before this one.
        epochs: Of the whole training.
    """

    def __init__(
        self,
        stopper: keras.callbacks.EarlyStopping,
        reducers: list[keras.callbacks.ReduceLROnPlateau],
        epochs: int,
    ):
        super().__init__()
        self.stopper, self.reducers, self.epochs = stopper, reducers, epochs
        self.next_epoch, self.rows = 0, []
        self.path, self.stamp, self._found = None, "", None

    def open(self, path: Path, stamp: str) -> None:
        """Keep the state in this file from now on, and go on from what is in it if it bears the same stamp."""
        self.path, self.stamp = path, stamp
        try:
            found = read_arrays(path)
        except (FileNotFoundError, ValueError):  # none, or a damaged one: the training starts anew
            return
        if str(found.get("stamp")) == stamp:
            self._found, self.next_epoch = found, int(found["next_epoch"])

    def on_train_begin(self, logs=None):
        self._kept = time.monotonic()
        if self._found is None:
            return
        found = self._found
        for k, variable in enumerate(self._variables()):
            variable.assign(found[f"variable_{k}"])
        best = [found[f"best_{k}"] for k in range(int(found["n_best"]))]
        self.stopper.best_weights = best or None
        for k, (callback, names) in enumerate(self._counters()):
            for name in names:
                setattr(callback, name, found[f"counter_{k}_{name}"].item())
        columns = {name: values for name, values in found.items() if name.startswith("row_")}
        self.rows = pd.DataFrame({name.removeprefix("row_"): v for name, v in columns.items()}).to_dict("records")
        self._found = None

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append({"epoch": epoch} | {name: float(value) for name, value in logs.items()})
        self.next_epoch = self.epochs if self.model.stop_training else epoch + 1
        if self.path is not None and time.monotonic() - self._kept >= KEEP_EVERY_S:
            self.keep()
            self._kept = time.monotonic()

    def keep(self) -> None:
        """Write the state; the file that was there is replaced only by a whole one."""
        arrays = {f"variable_{k}": keras.ops.convert_to_numpy(v.value) for k, v in enumerate(self._variables())}
        best = self.stopper.best_weights or []
        arrays |= {f"best_{k}": value for k, value in enumerate(best)}
        for k, (callback, names) in enumerate(self._counters()):
            arrays |= {f"counter_{k}_{name}": getattr(callback, name) for name in names}
        arrays |= {f"row_{name}": values for name, values in pd.DataFrame(self.rows).items()}
        with replacing(self.path) as part, open(part, "wb") as file:  # not compressed: noise does not get smaller
            np.savez(file, stamp=self.stamp, next_epoch=self.next_epoch, n_best=len(best), **arrays)

    def _variables(self) -> list[keras.Variable]:
        return [*self.model.variables, *self.model.optimizer.variables]  # seeds of dropout and metrics included

    def _counters(self) -> list[tuple[keras.callbacks.Callback, tuple[str, ...]]]:
        return [(self.stopper, STOPPER), *((reducer, REDUCER) for reducer in self.reducers)]


MUCH = {"start": 0.2, "validation": 0.2, "other": 0.15}  # shares from which a part is worth changing something
UNEVEN = 2.0  # slowest twentieth of the executions over the median: something else uses the machine
WASTED = 0.25  # share of the epochs after the best one, from which patience is recommended


def analyse_time(times: dict[str, Any], metrics: dict[str, Any] | None = None) -> dict[str, Any]:
    """Share out the time of a training and say what would shorten it.

    The first execution and the first validation include tracing: what they take beyond the median of the later ones is
    the start. With a single one of a kind, nothing can be told apart and its time stays where it was measured.

    Args:
        times: What `TimeTrackingCallback` wrote.
        metrics: What `PerformanceMonitorCallback` wrote, to judge how many epochs were worth it.

    Returns:
        `seconds` and `share` of start, steps, validation and other, `total_s`, `epoch_s` and
        `step_ms` (medians without the start), `recommendations` (sentences).

    Raises:
        ValueError: No epoch was finished.
    """
    epochs, executions = pd.DataFrame(times["epoch"]), pd.DataFrame(times["execution"])
    if epochs.empty:
        raise ValueError("times must hold a finished epoch, got none. Train for one at least.")
    per_step = executions["seconds"] / executions["steps"]
    usual = per_step[1:].median() if len(per_step) > 1 else per_step.iloc[0]
    steps_start = max(executions["seconds"].iloc[0] - usual * executions["steps"].iloc[0], 0.0)
    validation_start = _beyond_the_usual(epochs["validation_s"])
    seconds = {
        "start": steps_start + validation_start,
        "steps": epochs["steps_s"].sum() - steps_start,
        "validation": epochs["validation_s"].sum() - validation_start,
        "other": epochs["other_s"].sum(),
    }
    seconds = {name: float(value) for name, value in seconds.items()}
    total = sum(seconds.values())
    found = {
        "seconds": seconds,
        "share": {name: value / total for name, value in seconds.items()},
        "total_s": total,
        "epoch_s": float(epochs["seconds"][1:].median() if len(epochs) > 1 else epochs["seconds"].iloc[0]),
        "step_ms": float(usual * 1000),
        "uneven": float(per_step[1:].quantile(0.95) / usual) if len(per_step) > 1 else 1.0,
        "epochs": len(epochs),
    }
    return found | {"recommendations": recommend(found, metrics)}


def _beyond_the_usual(seconds: pd.Series) -> float:
    return max(float(seconds.iloc[0] - seconds[1:].median()), 0.0) if len(seconds) > 1 else 0.0


def recommend(found: dict[str, Any], metrics: dict[str, Any] | None = None) -> list[str]:
    """Sentences that follow from the shares of `analyse_time`; at least one."""
    share, seconds = found["share"], found["seconds"]
    said = []
    if share["start"] > MUCH["start"]:
        said.append(
            f"Starting takes {share['start']:.0%} ({seconds['start']:.1f} s, once per training): a longer training "
            f"costs only {found['epoch_s']:.2f} s per epoch more, and a faster step would hardly be felt."
        )
    if share["validation"] > MUCH["validation"]:
        said.append(
            f"Validation takes {share['validation']:.0%} ({seconds['validation']:.1f} s): a smaller validation_share "
            "or larger validation batches would shorten it."
        )
    if share["other"] > MUCH["other"]:
        said.append(
            f"Callbacks, files and waiting for batches take {share['other']:.0%} ({seconds['other']:.1f} s): "
            "leave TensorBoard or other callbacks out, or write to a local disk."
        )
    if found["uneven"] > UNEVEN:
        said.append(
            f"The slowest twentieth of the executions takes {found['uneven']:.1f} times the median: something else "
            "uses this machine; fewer workers at a time would make each steadier."
        )
    said += _wasted_epochs(found, metrics)
    if not said or max(share, key=share.get) == "steps":
        said.append(
            f"Steps take {share['steps']:.0%} at {found['step_ms']:.1f} ms each: only larger batches, a smaller "
            "network, another backend or a faster device shorten the training itself."
        )
    return said


def _wasted_epochs(found: dict[str, Any], metrics: dict[str, Any] | None) -> list[str]:
    losses = [entry["val_loss"] for entry in (metrics or {}).get("epoch", []) if "val_loss" in entry]
    if not losses:
        return []
    after = len(losses) - 1 - int(np.argmin(losses))
    if after / len(losses) <= WASTED:
        return []
    return [
        f"The best of {len(losses)} epochs was number {len(losses) - after}: the {after} after it took about "
        f"{after * found['epoch_s']:.1f} s and changed nothing; patience would end such a training earlier."
    ]


def write_time_analysis(folder: str | Path) -> dict[str, Any]:
    """Analyse an experiment's folder; write and return `training_time_analysis/training_time_analysis.json`."""
    folder = Path(folder)
    times = read_json(needs(folder / TIMES_FILE, "a training with `helpers.train.watchers`"))
    metrics = read_json(folder / METRICS_FILE) if (folder / METRICS_FILE).exists() else None
    found = analyse_time(times, metrics)
    write_json(folder / "training_time_analysis" / "training_time_analysis.json", found)
    return found
