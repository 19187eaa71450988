"""All classifiers of all folds and seeds: what has to be trained still, the processes that do it, the files they leave.

In: feature files (`helpers.clip_variants`) and `ClassificationConfig`. Out, below
`<out>/classification/models/`: for each training `<model>-<fold>-<seed>.npz` (the probabilities (n_test, n_classes) of
its test clips in every variant, the history, the rows) and, for networks, `.keras`. Processes have one thread each, so
that the figures depend neither on their number nor on what was done before; a training that is there is not done again.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from helpers.clip_variants import ClipVariants, Fold, feature_files, plan_folds, read_variants
from helpers.config import ClassificationConfig
from helpers.files import file_sha256, read_json, replacing, write_json
from helpers.store import read_arrays, write_arrays
from helpers.views import PLAIN
from helpers.workers import ONE_THREAD, ClipPool, cores

log = logging.getLogger(__name__)

BAG, PLAIN_MODEL, AUGMENTED = "bag_of_frames", "bilstm", "bilstm_augmented"
TRAINING_PARAMETERS = (
    "split",
    "seed",
    "folds",
    "components",
    "units",
    "dropout_rate",
    "learning_rate",
    "label_smoothing",
    "clips_per_batch",
    "epochs",
    "patience",
    "precision",
)
PATIENCE_S = 24 * 3600.0  # that a training may take


@dataclass(frozen=True)
class Job:
    """One training: the name of the model, the number of the fold, the seed of weights and order."""

    model: str
    fold: int
    seed: int

    @property
    def stem(self) -> str:
        return f"{self.model}-{self.fold}-{self.seed}"


def models_folder(cfg: ClassificationConfig) -> Path:
    return cfg.out / "classification" / "models"


def plan_jobs(variants: ClipVariants, cfg: ClassificationConfig) -> list[Job]:
    """The trainings of a run, the longest first; the seeds of an ensemble follow `cfg.seed`."""
    n_folds = len(plan_folds(variants, cfg))
    best = AUGMENTED if variants.views else PLAIN_MODEL
    members = [Job(best, fold, cfg.seed + i) for i in range(cfg.n_models) for fold in range(n_folds)]
    single = [PLAIN_MODEL, BAG] if variants.views else [BAG]
    return members + [Job(name, fold, cfg.seed) for name in single for fold in range(n_folds)]


def train_all(variants: ClipVariants, cfg: ClassificationConfig) -> list[Job]:
    """Do every training of a run that is not done, and return all of them.

    Args:
        variants: What `read_variants` gave for `cfg.features`.
        cfg: Parameters; `workers` processes, 0: one per core.

    Raises:
        ValueError: Too few sources for the folds, or a class that is missing in a training part.
    """
    folder, jobs, stamp = models_folder(cfg), plan_jobs(variants, cfg), training_stamp(cfg)
    write_json(folder / "task.json", {"config": cfg.as_dict(without=("workers", "progress")), "stamp": stamp})
    left = [job for job in jobs if not is_done(folder, job, stamp)]
    if not left:
        return jobs
    workers = min(cfg.workers or cores(), len(left))
    with (
        tqdm(total=len(left), unit="training", disable=not cfg.progress) as bar,
        ClipPool(serve_training, workers=workers, ahead_clips=len(left), patience_s=PATIENCE_S) as pool,
    ):
        for job, answers in pool.run((job, (str(folder), job)) for job in left):
            for seconds in answers:
                log.info("trained %s of fold %d with seed %d in %.1f s", job.model, job.fold, job.seed, seconds)
            bar.update()
    return jobs


def training_stamp(cfg: ClassificationConfig) -> str:
    """What the trainings depend on beside model, fold and seed, as sha256."""
    files = feature_files(cfg.features, multi_scale=cfg.multi_scale)
    parts = {"/".join(names): file_sha256(path) for names, path in files.items()}
    config = {name: getattr(cfg, name) for name in TRAINING_PARAMETERS}
    text = json.dumps([parts, config, os.environ.get("KERAS_BACKEND", "")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_done(folder: Path, job: Job, stamp: str) -> bool:
    """Whether this training is there, whole, and made from the same features and parameters."""
    try:
        return str(read_arrays(folder / f"{job.stem}.npz", ["stamp"])["stamp"]) == stamp
    except (FileNotFoundError, ValueError):
        return False


def serve_training(task: tuple[str, Job]) -> Iterator[float]:
    """Do one training in a worker process: yields the seconds that it took."""
    os.environ.update(ONE_THREAD)  # before TensorFlow is imported
    from helpers.crops import Clock

    clock = Clock()
    with clock("training"):
        folder, job = task
        trainer = _trainer(folder)
        trainer.train(job)
    yield clock.read()["training"]


@lru_cache(maxsize=1)
def _trainer(folder: str) -> "FoldTrainer":
    task = read_json(Path(folder) / "task.json")
    cfg = ClassificationConfig.checked(task["config"])
    return FoldTrainer(read_variants(cfg.features, multi_scale=cfg.multi_scale), cfg, task["stamp"])


class FoldTrainer:
    """Trains classifiers on folds of the same clips and writes what they say of the test clips.

    Args:
        variants: All clips.
        cfg: Parameters.
        stamp: Written with every training, see `training_stamp`.
    """

    def __init__(self, variants: ClipVariants, cfg: ClassificationConfig, stamp: str):
        from helpers.classifier import Trainee  # imports TensorFlow

        self.variants, self.cfg, self.stamp = variants, cfg, stamp
        self.folds = plan_folds(variants, cfg)
        self._trainee = Trainee(variants.feature_dim, len(variants.classes), cfg)

    def train(self, job: Job) -> None:
        """Train one model on one fold and write it: the network first, then the stamped arrays."""
        fold, history = self.folds[job.fold], pd.DataFrame()
        if job.model == BAG:
            p = self._bag(fold)
        else:
            from helpers.classifier import predict_classes

            train = self.variants.training(fold.train, augmented=job.model == AUGMENTED)
            validation = self.variants.training(fold.validation, augmented=False)
            history = self._trainee.fit(train, validation, job.seed)
            model = self._trainee.model
            with replacing(models_folder(self.cfg) / f"{job.stem}.keras") as part:
                model.save(part)
            p = {name: predict_classes(model, self.variants.inputs(name, fold.test)) for name in self._test_variants()}
        arrays: dict[str, Any] = {f"p_{name}": values.astype("float32") for name, values in p.items()}
        arrays |= {f"history_{column}": history[column].to_numpy() for column in history}
        path = models_folder(self.cfg) / f"{job.stem}.npz"
        write_arrays(path, stamp=self.stamp, test=fold.test, **arrays)

    def _bag(self, fold: Fold) -> dict[str, np.ndarray]:
        from helpers.classifier import fit_bag, frame_means

        def means(name: str, rows: np.ndarray) -> np.ndarray:
            inputs = self.variants.inputs(name, rows)
            return frame_means(inputs["features"], inputs["mask"])

        labels = self.variants.labels
        parts = [(means(PLAIN, rows), labels[rows]) for rows in (fold.train, fold.validation)]
        bag = fit_bag(*parts, len(self.variants.classes))
        return {name: bag.predict_proba(means(name, fold.test)) for name in self._test_variants()}

    def _test_variants(self) -> list[str]:
        return [name for name in self.variants.features if name not in self.variants.views]


def gather_probabilities(variants: ClipVariants, cfg: ClassificationConfig, model: str, seed: int) -> dict[str, Any]:
    """Put the test probabilities of all folds of one model and seed together.

    Returns:
        By variant, float32 (N, n_classes); NaN for clips that no fold tests.
    """
    found: dict[str, np.ndarray] = {}
    for fold in range(len(plan_folds(variants, cfg))):
        arrays = read_arrays(models_folder(cfg) / f"{Job(model, fold, seed).stem}.npz")
        for name, values in arrays.items():
            if name.startswith("p_"):
                shape = len(variants.keys), len(variants.classes)
                found.setdefault(name.removeprefix("p_"), np.full(shape, np.nan, "float32"))[arrays["test"]] = values
    return found


def gather_history(cfg: ClassificationConfig, jobs: list[Job]) -> pd.DataFrame:
    """Columns model, fold, seed, epoch, loss, val_loss, val_accuracy of all networks."""
    parts = []
    for job in jobs:
        if job.model != BAG:
            arrays = read_arrays(models_folder(cfg) / f"{job.stem}.npz")
            columns = {k.removeprefix("history_"): v for k, v in arrays.items() if k.startswith("history_")}
            parts.append(pd.DataFrame({"model": job.model, "fold": job.fold, "seed": job.seed} | columns))
    return pd.concat(parts, ignore_index=True)
