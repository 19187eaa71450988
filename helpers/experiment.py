"""All models with all seeds: the clips, one training each, the worker processes that do it, predictions as files.

In: `Aligned` clips with ratings and `TrainingConfig`. Out: below `training/` for each model and seed an `.npz` and a
`.keras` called `<model>-<seed>`. As a program (`python -m helpers.experiment FOLDER K N`) it does every N-th training
that is left. Every choice is made on the validation clips. Workers have one thread each, so the figures depend neither
on their number nor on what was done before.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.align import CLIPS_FILE, Aligned, read_aligned
from helpers.callbacks import watchers
from helpers.config import TrainingConfig
from helpers.files import ROOT, needs, read_json, replacing, write_json
from helpers.reduction import bank_differences, read_reduction
from helpers.splits import split_clips, training_splits
from helpers.store import read_arrays, read_manifest, write_arrays
from helpers.train import fit
from helpers.variants import BASELINES, config_of, model_inputs, model_labels, start_model, variant_of

log = logging.getLogger(__name__)

WATCHED = "watched"  # below training/: what the callbacks of each training wrote
# parameters that change no single training
NOT_DECISIVE = ("bank_dir", "out_dir", "seeds", "models", "workers", "progress")
ONE_THREAD = {  # for processes whose figures may depend neither on their number nor on the machine's cores
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_DETERMINISTIC_OPS": "1",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}


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
    """Take the token bank when the run's clips are synthetic as its own, and both were made alike; otherwise the clips
    at hand, and say why.

    Args:
        bank: Aligned folder of the bank; it may be missing.
        run: Aligned folder of the run.
    """
    ours, analysis = read_manifest(run, "05_alignment"), run.parent / "analysis.json"
    if not (bank / "manifest.json").exists():
        reason = "there is no token bank"
    elif not (analysis.exists() and read_json(analysis).get("drawn")):
        reason = "those of the token bank are drawn"
    elif found := bank_differences(read_json(bank / "manifest.json"), ours):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        reason = f"the token bank differs: {'; '.join(found[:3])}{more}"
    else:
        return TrainingData(bank, run, "the token bank, made as the tokens of this run")
    return TrainingData(run, None, f"the clips of this run; {reason}")


def load_run(out: Path, bank: Path) -> tuple[TrainingData, TrainingConfig]:
    """Return what a run was trained on and how. FileNotFoundError names the notebook that is missing.

    Args:
        out: Folder of the run.
        bank: Aligned folder of the token bank; it may be missing.
    """
    training = read_json(needs(out / "training" / "training.json", "06_training"))
    own = {"seeds": training["seeds"], "models": ",".join(training["models"]), "out_dir": str(out)}
    return choose_data(bank, out / "aligned"), TrainingConfig.checked(training["config"] | own)


def rated_clips(data: TrainingData) -> Aligned:
    """The clips of `data` that have a rating; ValueError when there is none."""
    aligned = read_aligned(data.folder)
    if not aligned.rated.any():
        raise ValueError(
            f"{data.folder} must hold rated clips to train on, got none of {len(aligned)}: {data.statement}. "
            "Add ratings."
        )
    return aligned.take(aligned.rated)


def split_of(aligned: Aligned, cfg: TrainingConfig, seed: int) -> np.ndarray:
    """Assign each clip to "train", "validation" or "test", str (N,), as `cfg.split` says."""
    shares = cfg.validation_share, cfg.test_share
    return split_clips(aligned.clips, aligned.sources, aligned.splits, cfg.split, seed, *shares, cfg.folds)


def check_splits(data: TrainingData, bank: Aligned, cfg: TrainingConfig) -> None:
    """Raise ValueError when the reduction was fitted on held-out clips, or see `helpers.splits.training_splits`."""
    fitted_on = read_reduction(data.folder / "reduction.npz").fitted_on
    about = {"source": bank.sources, "split": bank.splits} | dict(zip(bank.targets, bank.labels.T, strict=True))
    for seed, split in training_splits(pd.DataFrame(about, bank.clips), bank.targets, cfg).items():
        seen = np.isin(bank.clips[split != "train"], fitted_on).sum()
        if seen:
            raise ValueError(
                f"seeds must hold out clips that the reduction was not fitted on, got {seen} that it was fitted on "
                f"with seed {seed}. Train with the split, shares and seed of 05_alignment alone, or take its reduction "
                "'groups', which fits nothing."
            )


@dataclass(frozen=True)
class Fitted:
    """What one training leaves; `history` is empty and `model` None where there is no network.

    Attributes:
        prediction, live_prediction: float32 (N, k) for all clips, and for the run's own.
        history: Columns epoch, loss, val_loss.
        model: The network.
    """

    prediction: np.ndarray
    live_prediction: np.ndarray
    history: pd.DataFrame
    model: keras.Model | None


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
        state, callbacks: See `helpers.train.fit`.
    """
    split = split_of(data, cfg, seed)
    train, validation = split == "train", split == "validation"
    sets, history, model = [data] if live is None else [data, live], pd.DataFrame(), None
    if name in BASELINES:
        predictions = BASELINES[name](sets, train, validation)
    else:
        inputs = [model_inputs(name, each, seed) for each in sets]
        model = start_model(name, data, cfg, seed)
        labels = model_labels(name, data.labels, train | validation, seed)
        parts = [({k: v[rows] for k, v in inputs[0].items()}, labels[rows]) for rows in (train, validation)]
        history = fit(model, *parts, config_of(name, cfg), state=state, callbacks=callbacks)
        predictions = [model.predict(each, batch_size=1024, verbose=0) for each in inputs]
    own, of_live = (p.astype("float32") for p in [*predictions, predictions[0][:0]][:2])
    return Fitted(own, of_live, history, model)


def write_fitted(folder: Path, name: str, seed: int, stamp: str, fitted: Fitted) -> None:
    """Write one training: the model first, then the arrays whose stamp says that all of it is there."""
    if fitted.model is not None:
        with replacing(folder / f"{name}-{seed}.keras") as part:
            fitted.model.save(part)
    history = {f"history_{column}": fitted.history[column].to_numpy() for column in fitted.history}
    predictions = {"prediction": fitted.prediction, "live_prediction": fitted.live_prediction}
    write_arrays(folder / f"{name}-{seed}.npz", stamp=stamp, **predictions, **history)


def load_trained(cfg: TrainingConfig, name: str, seed: int) -> keras.Model:
    """Load the network that a training left in `cfg.out`."""
    return keras.saving.load_model(cfg.out / "training" / f"{name}-{seed}.keras")


def train_further(name: str, seed: int, data: TrainingData, cfg: TrainingConfig) -> keras.Model:
    """Train one more network as those of a run were, beside them; where it is there already, take it."""
    train_all([(name, seed)], data, cfg)
    return load_trained(cfg, name, seed)


def train_all(wanted: Sequence[tuple[str, int]], data: TrainingData, cfg: TrainingConfig) -> None:
    """Do those trainings (model, seed) that are not done, the longest first, in `cfg.workers` processes.

    Raises:
        RuntimeError: A training failed; the message has its last error and the log's path.
    """
    folder, stamp = cfg.out / "training", fingerprint(data, cfg)
    jobs = [(name, seed) for name, seed in wanted if not is_done(folder, name, seed, stamp)]
    if not jobs:
        return
    task = {
        "config": cfg.as_dict(without=NOT_DECISIVE),
        "data": str(data.folder),
        "live": str(data.live) if data.live else None,
        "stamp": stamp,
        "jobs": sorted(jobs, key=lambda job: -variant_of(job[0]).cost),
    }
    write_json(folder / "task.json", task)
    _run_workers(folder, task["jobs"], stamp, cfg)


def fingerprint(data: TrainingData, cfg: TrainingConfig) -> str:
    """What the trainings depend on beside model and seed, as sha256."""
    folders = [data.folder] + ([data.live] if data.live else [])
    parts = [hashlib.sha256((folder / CLIPS_FILE).read_bytes()).hexdigest() for folder in folders]
    config = cfg.as_dict(without=NOT_DECISIVE)
    text = json.dumps([parts, config, keras.backend.backend(), keras.__version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_done(folder: Path, name: str, seed: int, stamp: str) -> bool:
    """Whether this training is there, whole, and of the same clips and parameters."""
    try:
        return str(read_arrays(folder / f"{name}-{seed}.npz")["stamp"]) == stamp
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _run_workers(folder: Path, jobs: list[tuple[str, int]], stamp: str, cfg: TrainingConfig) -> None:
    """Have worker processes do the jobs of `task.json`; on one pipe they say what is done, or who has failed."""
    n, (read, write) = min(cfg.workers, len(jobs)), os.pipe()
    workers = [_start(folder, k, n, write) for k in range(n)]
    os.close(write)  # the ends that are left are those of the workers
    with open(read, encoding="utf-8") as said, tqdm(total=len(jobs), unit="model", disable=not cfg.progress) as bar:
        try:
            failed = None
            for line in said:
                if line.startswith("failed"):
                    failed = int(line.split()[1])
                    break
                bar.update()
                log.info("trained %s", line.strip())
            else:
                failed = next((k for k, worker in enumerate(workers) if worker.wait()), None)
            if failed is not None:
                workers[failed].wait()  # until its log is whole
                name, seed = next(job for job in jobs[failed::n] if not is_done(folder, *job, stamp))
                path = _log_of(folder, failed)
                reason = (path.read_text(encoding="utf-8").strip().splitlines() or ["the process ended"])[-1]
                raise RuntimeError(f"training {name} with seed {seed} failed: {reason}. All of it is in {path}.")
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


def _log_of(folder: Path, k: int) -> Path:
    return folder / f"worker-{k}.log"


def _start(folder: Path, k: int, n: int, stdout: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "helpers.experiment", str(folder), str(k), str(n)]
    with open(_log_of(folder, k), "wb") as errors:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | ONE_THREAD, stdin=subprocess.DEVNULL, stdout=stdout, stderr=errors
        )


def main(folder: Path, k: int, n: int) -> None:
    """Do every `n`-th training of `task.json` from the `k`-th, and say on standard output what is done.

    Nothing reads it once the process that started this one has ended: the next line ends this one, too.
    """
    try:
        task = read_json(folder / "task.json")
        cfg = TrainingConfig.checked(task["config"])
        chosen = TrainingData(Path(task["data"]), Path(task["live"]) if task["live"] else None, "")
        data, live = rated_clips(chosen), chosen.live_clips
        for name, seed in task["jobs"][k::n]:
            state = folder / f"{name}-{seed}.state.npz"
            board = folder / "tensorboard" / f"{name}-{seed}" if cfg.tensorboard else None
            callbacks = watchers(folder / WATCHED / f"{name}-{seed}", board)
            fitted = train_one(name, seed, data, live, cfg, state=state, callbacks=callbacks)
            write_fitted(folder, name, seed, task["stamp"], fitted)
            state.unlink(missing_ok=True)
            keras.backend.clear_session()
            print(f"{name} with seed {seed}", flush=True)
    except Exception:
        print(f"failed {k}", flush=True)
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
