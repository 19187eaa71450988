"""All models with all seeds: the clips, one training each, the worker processes that do it, predictions as files.

In: `Aligned` clips with ratings and `TrainingConfig`. Out: below `training/` for each model and seed an `.npz` and a
`.keras` called `<model>-<seed>`. As a program (`python -m helpers.experiment FOLDER`) it reads lines "model seed stamp"
and does one training each. Every choice is made on the validation clips. Workers have one thread each, so the figures
depend neither on their number nor on what was done before.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.align import CLIPS_FILE, Aligned, bank_differences, read_aligned, read_reduction
from helpers.config import TrainingConfig
from helpers.files import ROOT, needs, read_json, replacing, write_json
from helpers.live import EVERY_S, TrainingLines, watch_trainings
from helpers.splits import SPLITS, split_clips
from helpers.store import read_arrays, read_manifest, write_arrays
from helpers.train import KEEP_EVERY_S, EpochLines, computing_in, fit, tensorboard, watchers
from helpers.variants import BASELINES, config_of, model_inputs, model_labels, start_model, variant_of
from helpers.workers import ONE_THREAD

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
        state, callbacks: See `helpers.train.fit`.
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


Job = tuple[str, int, str]  # model, seed, stamp


def train_further(name: str, seed: int, data: TrainingData, cfg: TrainingConfig) -> keras.Model:
    """Train one more network as those of a run were, beside them; where it is there already, take it."""
    train_missing(data, cfg, [(name, seed)])
    return load_trained(cfg, name, seed)


def train_missing(data: TrainingData, cfg: TrainingConfig, wanted: list[tuple[str, int]]) -> None:
    """Do those trainings (model, seed) that are not done."""
    folder = cfg.out / "training"
    task = {
        "config": cfg.as_dict(without=NOT_DECISIVE),
        "data": str(data.folder),
        "live": str(data.live) if data.live else None,
    }
    write_json(folder / "task.json", task)
    stamp = _stamp(data, cfg)
    _run_jobs(folder, [(*one, stamp) for one in wanted if not _done(folder, *one, stamp)], cfg)


def load_run(out: Path, bank: Path) -> tuple[TrainingData, TrainingConfig]:
    """Return what a run was trained on and how. FileNotFoundError names the notebook that is missing.

    Args:
        out: Folder of the run.
        bank: Aligned folder of the token bank; it may be missing.
    """
    training = read_json(needs(out / "training" / "training.json", "06_training"))
    own = {"seeds": training["seeds"], "models": ",".join(training["models"]), "out_dir": str(out)}
    cfg = TrainingConfig.checked(training["config"] | own)
    return choose_data(bank, out / "aligned"), cfg


def check_unseen(data: TrainingData, bank: Aligned, cfg: TrainingConfig) -> None:
    """Raise ValueError when the reduction was fitted on clips that are to be held out."""
    fitted_on = read_reduction(data.folder / "reduction.npz").fitted_on
    for seed in cfg.seeds:
        seen = np.isin(bank.clips[np.isin(split_of(bank, cfg, seed), ("validation", "test"))], fitted_on).sum()
        if seen:
            raise ValueError(
                f"seeds must hold out clips that the reduction was not fitted on, got {seen} that it was fitted on "
                f"with seed {seed}. Train with the split, shares and seed of 05_alignment alone, or take its reduction "
                "'groups', which fits nothing."
            )


def check_rated(bank: Aligned, cfg: TrainingConfig) -> None:
    """Raise ValueError when a target has no rating in a part of a split."""
    for seed in cfg.seeds:
        split = split_of(bank, cfg, seed)
        for part in SPLITS:
            unrated = np.isnan(bank.labels[split == part]).all(0)
            if unrated.any():
                clips = int((split == part).sum())
                raise ValueError(
                    f"{bank.targets[unrated.argmax()]} must be rated in every part of the split, got no rating in the "
                    f"{clips} {part} clips of seed {seed}. Leave the target out, or rate more clips."
                )


def _stamp(data: TrainingData, cfg: TrainingConfig) -> str:
    """What the trainings depend on beside model and seed, as sha256."""
    folders = [data.folder] + ([data.live] if data.live else [])
    parts = [hashlib.sha256((folder / CLIPS_FILE).read_bytes()).hexdigest() for folder in folders]
    config = cfg.as_dict(without=NOT_DECISIVE)
    text = json.dumps([parts, config, keras.backend.backend(), keras.__version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _done(folder: Path, name: str, seed: int, stamp: str) -> bool:
    try:
        return str(read_arrays(folder / f"{name}-{seed}.npz")["stamp"]) == stamp
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _run_jobs(folder: Path, jobs: list[Job], cfg: TrainingConfig) -> None:
    """Hand the trainings out to worker processes, the longest first."""
    waiting = deque(sorted(jobs, key=lambda job: -variant_of(job[0]).cost))
    n = min(cfg.workers, len(jobs))
    if not n:
        return
    workers, seen = [_start(folder, k) for k in range(n)], watch_trainings(len(jobs))
    with tqdm(total=len(jobs), unit="model", disable=not cfg.progress) as bar, ThreadPoolExecutor(n) as pool:
        try:
            logs = [folder / f"worker-{k}.log" for k in range(n)]
            running = [pool.submit(_serve, *pair, waiting, bar, seen) for pair in zip(workers, logs, strict=True)]
            while wait(running, EVERY_S).not_done:
                seen.show()
            for each in running:
                each.result()
            seen.end()
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()


def _start(folder: Path, k: int) -> subprocess.Popen:
    with open(folder / f"worker-{k}.log", "w", encoding="utf-8") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "helpers.experiment", str(folder)],
            cwd=ROOT,
            env=os.environ | ONE_THREAD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def _serve(worker: subprocess.Popen, errors: Path, waiting: deque[Job], bar: tqdm, seen: TrainingLines) -> None:
    """Give one worker a training after the other until none is left."""
    while True:
        try:
            name, seed, stamp = waiting.popleft()
        except IndexError:
            return
        try:
            worker.stdin.write(f"{name} {seed} {stamp}\n")
            worker.stdin.flush()
            while (answer := worker.stdout.readline()).count(" ") == 2:
                epoch, *losses = answer.split()
                seen.add(name, seed, int(epoch), *map(float, losses))
        except BrokenPipeError:
            answer = ""
        if answer != "done\n":
            waiting.clear()
            lines = errors.read_text(encoding="utf-8").strip().splitlines()
            reason = lines[-1] if lines else "the process ended"
            raise RuntimeError(f"training {name} with seed {seed} failed: {reason}. All of it is in {errors}.")
        bar.update()
        seen.finish(name, seed)
        log.info("trained %s with seed %d", name, seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
