"""How one network is fitted: batches from memory, the best validation epoch, and going on after a kill.

In: a network, inputs and labels (n, k) of training and validation clips, `TrainingConfig`. Out: the fitted network and
one row per epoch. The order of batches is drawn from the seed and the number of the epoch, so that a training that was
interrupted goes on as if it had not been.
"""

import hashlib
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.config import TrainingConfig
from helpers.files import replacing
from helpers.store import read_arrays
from helpers.training.objective import RatedError, build_optimizer

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
