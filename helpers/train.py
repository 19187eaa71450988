"""How networks are fitted: what is minimised, by which steps, from which batches; and many trainings by workers.

In: a network, inputs and labels (n, k), NaN where a rating is missing, of training and validation clips. Out: the
fitted network and one row per epoch. Worker processes have one thread each, so that no figure depends on their number.
"""

import hashlib
import json
import logging
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
from keras import ops
from tqdm.auto import tqdm

from helpers.callbacks import TrainingState
from helpers.config import TrainingConfig
from helpers.files import code_version, replacing
from helpers.store import read_arrays, write_arrays
from helpers.workers import ClipPool

log = logging.getLogger(__name__)

Part = tuple[Any, ...]  # inputs as the network takes them, an array or several in a dict or tuple; labels; weights (n,)

FINAL_RATE = 0.02  # share of the learning rate left at the end of the cosine
MAX_NORM = 1.0  # gradients are clipped to it, each weight's by itself
STEPS_AT_ONCE = 64  # between two returns to Python, whose cost is lost among so many
PATIENCE_S = 24 * 3600.0  # that a training may take
THREADS = ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "TF_NUM_INTRAOP", "TF_NUM_INTEROP")
ONE_THREAD = {"TF_DETERMINISTIC_OPS": "1", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
ONE_THREAD |= {f"{name}_THREADS": "1" for name in THREADS}


def job_file(folder: Path, job: NamedTuple, suffix: str = ".npz") -> Path:
    """What a training leaves in a folder, named by all that tells it from the others: `<model>-<seed>.npz`."""
    return folder / ("-".join(map(str, job)) + suffix)


def is_done(path: Path, known: str) -> bool:
    """Whether the arrays of a training are there, whole and of this fingerprint, and its network, where it has one."""
    try:
        found = str(read_arrays(path)["fingerprint"])
    except (FileNotFoundError, ValueError, KeyError):
        return False
    return found == known or (found == f"{known}.keras" and path.with_suffix(".keras").exists())


def fingerprint(facts: Any, arrays: Iterable[np.ndarray] = ()) -> str:
    """sha256 of what a training depends on: facts (as JSON takes them), arrays, Keras, its backend and this code."""
    known = [facts, keras.backend.backend(), keras.__version__, code_version()]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def train_missing(
    make: Callable[[Any, Sequence[NamedTuple]], Iterator[tuple[dict[str, np.ndarray], keras.Model | None]]],
    context: Any,
    folder: Path,
    groups: Sequence[Sequence[NamedTuple]],
    known: str,
    *,
    workers: int,
    progress: bool = False,
) -> None:
    """Do the trainings that `folder` does not hold in worker processes, each group of jobs, longest first, in one.

    `make`, at the top level of a module, is given `context`, whatever pickles, and the jobs of a group, and yields the
    arrays and the network (or None) of each. The network is written first (`.keras`), then the arrays, whose
    fingerprint `known`, of what all of them depend on, says that all is there; then `.state.npz` is removed, which
    `make` may keep its state in. RuntimeError where a training failed: the message names it and its reason.
    """
    groups = [[job for job in group if not is_done(job_file(folder, job), known)] for group in groups]
    groups = [group for group in groups if group]
    n_jobs = sum(map(len, groups))
    options = {"ahead_chunks": n_jobs, "patience_s": PATIENCE_S, "environment": ONE_THREAD}
    with (
        tqdm(total=n_jobs, unit="training", disable=not progress) as bar,
        ClipPool(_serve, workers=max(min(workers, len(groups)), 1), **options) as pool,
    ):
        for group, done in pool.run((group, (make, context, folder, group, known)) for group in groups):
            for job in group:
                named = ", ".join(f"{name} {value}" for name, value in job._asdict().items())
                try:
                    next(done)
                except Exception as error:
                    said = str(error) or type(error).__name__
                    raise RuntimeError(f"the training of {named} failed: {said}") from error
                log.info("trained %s", named)
                bar.update()


def _serve(task: tuple[Callable, Any, Path, Sequence[NamedTuple], str]) -> Iterator[bool]:
    """Do and write the trainings of one group, in a worker process."""
    make, context, folder, jobs, known = task
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "workers.log", "ab") as file:
        os.dup2(file.fileno(), 2)  # TensorFlow minds this and that
    for job, (arrays, model) in zip(jobs, make(context, jobs), strict=True):
        if model is not None:
            with replacing(job_file(folder, job, ".keras")) as part:
                model.save(part)
        write_arrays(job_file(folder, job), fingerprint=known if model is None else f"{known}.keras", **arrays)
        job_file(folder, job, ".state.npz").unlink(missing_ok=True)
        yield True


class Trainer:
    """A network that is compiled once and fitted from many starts: tracing takes as long as a short training.

    A loss, by default the mean squared error over what is rated, is minimised by AdamW; gradients are clipped to norm
    1; the learning rate falls on a cosine to 2 % of its start, or halves where the validation loss has not fallen for
    `callbacks.PLATEAU` epochs. What a training gives depends on its start, data and seed alone.
    """

    def __init__(self, model: keras.Model, cfg: TrainingConfig, loss: keras.losses.Loss | None = None):
        self.model, self.cfg, self.loss = model, cfg, loss
        self._compiled_for, self._optimizer_start = None, []

    def fit(
        self,
        start: keras.Model,
        train: Part,
        validation: Part,
        *,
        state: Path | None = None,
        known: str = "",
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> pd.DataFrame:
        """Fit from the variables of `start`, the network itself or one built alike, and leave the best epoch's in it.

        `train`, `validation`: inputs, labels (n, k), and weights of the clips (n,) where they are to count otherwise.
        `state`, `known`, `callbacks`: see `TrainingState`; the caller removes the file when results are safe. Python's
        `random`, which `keras.utils.set_random_seed` governs, orders batches. Returns columns epoch, loss, val_loss.
        """
        cfg = self.cfg
        batches = ShuffledBatches(train, cfg.batch_size, random.randrange(2**31))
        self._compile(len(batches), missing=any(bool(np.isnan(part[1]).any()) for part in (train, validation)))
        _copy_variables(start, self.model)
        kept = TrainingState(batches.shuffle, cfg, callbacks, state, known)
        self.model.fit(
            batches.feed(),
            epochs=cfg.epochs,
            steps_per_epoch=len(batches) if batches.repeats else None,
            initial_epoch=kept.next_epoch,
            validation_data=_in_batches(validation, min(1024, 32 * cfg.batch_size)),  # both go by a clip's length
            callbacks=[*kept.counting, *callbacks, kept],
            shuffle=False,
            verbose=0,
        )
        if not np.isfinite([row["val_loss"] for row in kept.rows]).any():
            raise ValueError("the loss must be finite, got none in any epoch. Lower learning_rate.")
        _copy_variables(self.model, start)
        start.compiled = False  # what is saved needs nothing of this file
        return pd.DataFrame(kept.rows)

    def _compile(self, n_batches: int, missing: bool) -> None:
        """Compile where that is not done for so many batches, else set the optimizer back to its start."""
        self.model.compiled = True
        if (n_batches, missing) == self._compiled_for:
            for variable, value in zip(self.model.optimizer.variables, self._optimizer_start, strict=True):
                variable.assign(value)
            return
        at_once = 1 if keras.backend.backend() == "torch" else min(n_batches, STEPS_AT_ONCE)  # PyTorch refuses more
        optimizer = build_optimizer(self.cfg, self.cfg.epochs * n_batches)
        self.model.compile(optimizer, self.loss or (RatedError() if missing else "mse"), steps_per_execution=at_once)
        optimizer.build(self.model.trainable_variables)
        self._compiled_for = n_batches, missing
        self._optimizer_start = [ops.convert_to_numpy(variable.value) for variable in self.model.optimizer.variables]


def _copy_variables(of: keras.Model, to: keras.Model) -> None:
    """Weights and the seeds of dropout."""
    for variable, other in zip(to.variables, of.variables, strict=True) if of is not to else ():
        variable.assign(other.value)


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Make networks that are built inside compute in "float32", "bfloat16" or "float16", their weights float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision if precision == "float32" else f"mixed_{precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class RatedError(keras.losses.Loss):
    """Mean of squared errors over the ratings that are there, 0 where a batch has none; NaN counts for nothing."""

    def call(self, y_true, y_pred):
        y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        rated = ops.logical_not(ops.isnan(y_true))
        error = ops.where(rated, ops.where(rated, y_true, 0.0) - y_pred, 0.0)  # inside, too: NaN has a NaN gradient
        return ops.sum(ops.square(error)) / ops.maximum(ops.sum(ops.cast(rated, "float32")), 1.0)


class FusedAdamW(keras.optimizers.Adam):
    """AdamW with clipped gradients on TensorFlow: per weight one pass each for norm, decay and Adam.

    Equal to `keras.optimizers.AdamW(rate, weight_decay=decay, clipnorm=max_norm)` but for rounding: most of a step of a
    small network is its optimizer, which there makes dozens of short passes over every weight.
    """

    def __init__(self, learning_rate: Any, decay: float, max_norm: float):
        super().__init__(learning_rate)
        self.decay, self.max_norm = decay, max_norm

    def update_step(self, gradient, variable, learning_rate):
        import tensorflow as tf  # the other backends have an optimizer without it

        rate, step = tf.cast(learning_rate, variable.dtype), tf.cast(self.iterations.value, variable.dtype) + 1.0
        norm = tf.sqrt(2 * tf.nn.l2_loss(gradient))
        clipped = tf.cond(norm > self.max_norm, lambda: gradient * (self.max_norm / norm), lambda: gradient)
        variable.assign(variable * (1.0 - rate * self.decay))
        k = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[k].value.handle,
            v=self._velocities[k].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=clipped,
        )


def build_optimizer(cfg: TrainingConfig, steps: int) -> keras.optimizers.Optimizer:
    """Build AdamW as `cfg` says, in its fastest form for this backend, for a training of so many steps."""
    rate = cfg.learning_rate
    if cfg.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps, FINAL_RATE)
    if keras.backend.backend() == "tensorflow":
        return FusedAdamW(rate, cfg.weight_decay, MAX_NORM)
    return keras.optimizers.AdamW(rate, weight_decay=cfg.weight_decay, clipnorm=MAX_NORM)


class ShuffledBatches(keras.utils.PyDataset):
    """Batches of arrays in memory, in an order that seed and epoch decide: a training goes on where it was stopped."""

    def __init__(self, part: Part, batch_size: int, seed: int):
        super().__init__()
        self.part, self.batch_size, self.seed, self._fed = part, batch_size, seed, None
        self.shuffle(0)

    def __len__(self) -> int:
        return -(-len(self.part[1]) // self.batch_size)

    def __getitem__(self, index: int) -> Part:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return keras.tree.map_structure(lambda array: array[rows], self.part)

    @property
    def repeats(self) -> bool:
        """Whether `feed` has no end, as one execution is an epoch: the iterator is then made once for a training."""
        return len(self) <= STEPS_AT_ONCE

    def shuffle(self, epoch: int) -> None:
        """Draw the order of an epoch."""
        self.order = np.random.default_rng([self.seed, epoch]).permutation(len(self.part[1]))
        if self._fed is not None:
            self._fed.assign(self.order)

    def feed(self) -> Any:
        """What `keras.Model.fit` takes: on TensorFlow batches without Python, a quarter of a small training's time."""
        if keras.backend.backend() != "tensorflow":
            return self
        import tensorflow as tf

        with tf.device("CPU:0"):
            part, self._fed = keras.tree.map_structure(tf.constant, self.part), tf.Variable(self.order)

        def batch(index):
            rows = self._fed[index * self.batch_size : (index + 1) * self.batch_size]
            return keras.tree.map_structure(lambda array: tf.gather(array, rows), part)

        batches = tf.data.Dataset.range(len(self)).repeat(None if self.repeats else 1).map(batch)
        return _plain(batches)


def _in_batches(part: Part, batch_size: int) -> Any:
    """Arrays as `keras.Model.fit` takes them for validation."""
    if keras.backend.backend() != "tensorflow":
        return ShuffledBatches(part, batch_size, 0)
    import tensorflow as tf

    return _plain(tf.data.Dataset.from_tensor_slices(part).batch(batch_size))


def _plain(batches: Any) -> Any:
    """Optimise nothing, which would be done anew for every epoch and take half of a small training's time."""
    options = type(batches.options())()
    options.experimental_optimization.apply_default_optimizations = options.autotune.enabled = False
    return batches.with_options(options)
