"""All models with all seeds: what has to be trained still, the worker processes that do it, the results as files.

In: `TrainingData` and `TrainingConfig`. Out: `training/training.json`, `training/history.csv` and `predictions.csv`.
Workers have one thread each, so the figures depend neither on their number nor on what was done before.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm.auto import tqdm

from helpers.align import CLIPS_FILE, Aligned, read_reduction
from helpers.config import TrainingConfig
from helpers.files import ROOT, needs, read_json, replacing, write_json
from helpers.splits import SPLITS
from helpers.store import read_arrays
from helpers.training.live import EVERY_S, TrainingLines, watch_trainings
from helpers.training.results import gather_history, gather_predictions, leak_warning, summarise
from helpers.training.train import NOT_DECISIVE, TrainingData, choose_data, load_trained, rated_clips, split_of
from helpers.training.variants import chosen_models, variant_of
from helpers.workers import ONE_THREAD

log = logging.getLogger(__name__)

Job = tuple[str, int, str]  # model, seed, stamp


def run_table(data: TrainingData, cfg: TrainingConfig) -> dict[str, Any]:
    """Train every model with every seed, score each once on its test clips, and write the results below `cfg.out`.

    Trainings that are there from an earlier call with the same data and parameters are not done again.

    Returns:
        What `training.json` holds: `models` (per model the means over seeds of r2, ccc, pearson, mae, skill per trait,
        mean_accuracy, and `seeds`), `comparisons`, `split`, `live`, `ratings`, `data`, `seeds`, `config`,
        `synthetic_labels`.

    Raises:
        ValueError: Too few rated clips or sources for the split.
        RuntimeError: A training failed; the message has its last error and the log's path.
    """
    folder = cfg.out / "training"
    bank = rated_clips(data)
    _check_unseen(data, bank, cfg)
    _check_rated(bank, cfg)
    _train(data, cfg, [(name, seed) for name in chosen_models(cfg.models) for seed in cfg.seeds])
    predictions = gather_predictions(data, cfg)
    with replacing(cfg.out / "predictions.csv") as part:
        predictions.to_csv(part, index=False, float_format="%.6f")
    with replacing(folder / "history.csv") as part:
        gather_history(cfg).to_csv(part, index=False, float_format="%.6g")
    results = summarise(predictions, bank, cfg) | {
        "data": data.statement,
        "synthetic_labels": bank.synthetic or bool(data.live and data.live_clips.synthetic),
    }
    results["split"]["warning"] = leak_warning(results["split"])
    if results["split"]["warning"]:
        log.warning("%s", results["split"]["warning"])
    write_json(folder / "training.json", results)
    return results


def train_further(name: str, seed: int, data: TrainingData, cfg: TrainingConfig) -> keras.Model:
    """Train one more network as those of a run were, beside them; where it is there already, take it."""
    _train(data, cfg, [(name, seed)])
    return load_trained(cfg, name, seed)


def _train(data: TrainingData, cfg: TrainingConfig, wanted: list[tuple[str, int]]) -> None:
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


def _check_unseen(data: TrainingData, bank: Aligned, cfg: TrainingConfig) -> None:
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


def _check_rated(bank: Aligned, cfg: TrainingConfig) -> None:
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
            [sys.executable, "-m", "helpers.training.train", str(folder)],
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
