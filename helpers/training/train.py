"""Training of one model with one seed, and the worker process that does it again and again.

In: `Aligned` clips with ratings, `TrainingConfig`, the name of a model and a seed. Out: predictions (N, k) for all
clips, the history per epoch, and the Keras model. As a program (`python -m helpers.training.train FOLDER`) it reads
lines "model seed stamp" and leaves `<model>-<seed>.npz` and `.keras`. Every choice is made on the validation clips.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.align import Aligned, bank_differences, read_aligned
from helpers.config import TrainingConfig
from helpers.files import read_json, replacing
from helpers.splits import split_clips
from helpers.store import read_manifest, write_arrays
from helpers.training.baselines import BASELINES
from helpers.training.callbacks import EpochLines, tensorboard, watchers
from helpers.training.fitting import KEEP_EVERY_S, computing_in, fit
from helpers.training.variants import config_of, model_inputs, model_labels, start_model

log = logging.getLogger(__name__)

WATCHED = "watched"  # below training/: what the callbacks of each training wrote
# parameters that change no single training
NOT_DECISIVE = ("bank_dir", "out_dir", "seeds", "models", "workers", "progress")


@dataclass(frozen=True)
class TrainingData:
    """Which clips are trained on, and which are only scored.

    Attributes:
        folder: Aligned folder of the clips for training and test.
        live: Aligned folder of the run's own clips, scored with the trained models; None where they are the same.
        statement: One line that says so.
    """

    folder: Path
    live: Path | None
    statement: str

    @property
    def live_clips(self) -> Aligned | None:
        return read_aligned(self.live) if self.live else None

    @property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.folder / "manifest.json")


def choose_data(bank: Path, run: Path) -> TrainingData:
    """Take the token bank when the run's clips are drawn as its own, and both were made alike; otherwise the clips at
    hand, and say why.

    Args:
        bank: Aligned folder of the bank; it may be missing.
        run: Aligned folder of the run.
    """
    ours = read_manifest(run, "05_alignment")
    if not (bank / "manifest.json").exists():
        return TrainingData(run, None, "the clips of this run; there is no token bank")
    analysis = run.parent / "analysis.json"
    if not (analysis.exists() and read_json(analysis).get("drawn")):
        return TrainingData(run, None, "the clips of this run; those of the token bank are drawn")
    found = bank_differences(read_json(bank / "manifest.json"), ours)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return TrainingData(run, None, f"the clips of this run; the token bank differs: {'; '.join(found[:3])}{more}")
    return TrainingData(bank, run, "the token bank, made as the tokens of this run")


def rated_clips(data: TrainingData) -> Aligned:
    """The clips of `data` that have a rating; ValueError when there is none."""
    aligned = read_aligned(data.folder)
    if not aligned.rated.any():
        raise ValueError(
            f"{data.folder} must hold rated clips to train on, got none of {len(aligned)}: {data.statement}. "
            "Add ratings."
        )
    return aligned.take(aligned.rated)


@dataclass(frozen=True)
class Fitted:
    """What one training leaves: prediction float32 (N, k) for all clips, `history` (epoch, loss, val_loss), the model.

    `history` is empty and `model` None where there is no network.
    """

    prediction: np.ndarray
    live_prediction: np.ndarray
    history: pd.DataFrame
    model: keras.Model | None


def split_of(aligned: Aligned, cfg: TrainingConfig, seed: int) -> np.ndarray:
    """Assign each clip to "train", "validation" or "test", str (N,), as `cfg.split` says."""
    shares = cfg.validation_share, cfg.test_share
    return split_clips(aligned.clips, aligned.sources, aligned.splits, cfg.split, seed, *shares, cfg.folds)


def load_trained(cfg: TrainingConfig, name: str, seed: int) -> keras.Model:
    """Load the network that a training left in `cfg.out`."""
    return keras.saving.load_model(cfg.out / "training" / f"{name}-{seed}.keras")


def train_one(
    name: str,
    seed: int,
    data: Aligned,
    live: Aligned | None,
    cfg: TrainingConfig,
    *,
    state: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Fitted:
    """Train one model with one seed, which decides its split, its start and its order of batches.

    Args:
        name: A baseline, or a name that `variants` knows.
        seed: Any int from 0.
        data: Rated clips to train on and to test.
        live: Further clips to score, or None.
        cfg: Parameters of the training.
        state, callbacks: See `helpers.training.fitting.fit`.
    """
    split = split_of(data, cfg, seed)
    train, validation = split == "train", split == "validation"
    sets = [data] if live is None else [data, live]
    if name in BASELINES:
        return _fitted(BASELINES[name](sets, train, validation))
    inputs = [model_inputs(name, s, seed) for s in sets]
    with computing_in(cfg.precision):
        model = start_model(name, data, cfg, seed, int(train.sum()))
    labels = model_labels(name, data.labels, train | validation, seed)
    parts = [({k: v[rows] for k, v in inputs[0].items()}, labels[rows]) for rows in (train, validation)]
    history = fit(model, *parts, config_of(name, cfg), state=state, callbacks=callbacks)
    return _fitted([model.predict(i, batch_size=1024, verbose=0) for i in inputs], history, model)


def _fitted(predictions: list[np.ndarray], history: pd.DataFrame | None = None, model: keras.Model | None = None):
    own, live = (np.asarray(p, "float32") for p in [*predictions, predictions[0][:0]][:2])
    return Fitted(own, live, pd.DataFrame() if history is None else history, model)


def write_fitted(folder: Path, name: str, seed: int, stamp: str, fitted: Fitted) -> None:
    """Write one training: the model first, then the arrays whose stamp says that all of it is there."""
    if fitted.model is not None:
        with replacing(folder / f"{name}-{seed}.keras") as part:
            fitted.model.save(part)
    history = {f"history_{column}": fitted.history[column].to_numpy() for column in fitted.history}
    predictions = {"prediction": fitted.prediction, "live_prediction": fitted.live_prediction}
    write_arrays(folder / f"{name}-{seed}.npz", stamp=stamp, **predictions, **history)


def main(folder: Path) -> None:
    """Serve trainings: read `task.json`, then a line "model seed stamp" each from standard input, answer "done".

    Before that, each epoch of a network is a line "epoch loss val_loss".

    The end of the input ends the worker, so none outlives the process that started it by more than one training.
    """
    task = read_json(folder / "task.json")
    cfg = TrainingConfig.checked(task["config"])
    chosen = TrainingData(Path(task["data"]), Path(task["live"]) if task["live"] else None, "")
    data, live = rated_clips(chosen), chosen.live_clips
    for line in sys.stdin:
        name, seed, stamp = line.split()
        state = folder / f"{name}-{seed}.state.npz"
        callbacks = [*watchers(folder / WATCHED / f"{name}-{seed}", KEEP_EVERY_S), EpochLines(sys.stdout)]
        if cfg.tensorboard:
            callbacks.append(tensorboard(folder / "tensorboard" / f"{name}-{seed}"))
        fitted = train_one(name, int(seed), data, live, cfg, state=state, callbacks=callbacks)
        write_fitted(folder, name, int(seed), stamp, fitted)
        state.unlink(missing_ok=True)
        keras.backend.clear_session()
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
