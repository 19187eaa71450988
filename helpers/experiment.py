"""All models with all seeds: the clips, one training each in worker processes, predictions as files.

In: `Aligned` clips with ratings and `TrainingConfig`. Out: below `training/` for each model and seed an `.npz` and a
`.keras` called `<model>-<seed>`. Every choice is made on the validation clips.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd

from helpers.align import CLIPS_FILE, Aligned, bank_differences, read_aligned, read_reduction
from helpers.callbacks import watchers
from helpers.config import TrainingConfig
from helpers.files import file_sha256, needs, read_json
from helpers.splits import split_clips, training_splits
from helpers.store import read_manifest
from helpers.train import Trainer, fingerprint, job_file, train_missing
from helpers.variants import BASELINES, model_inputs, model_labels, start_model, variant_of

WATCHED = "watched"  # below training/: what the callbacks of each training wrote
# parameters that change no single training
NOT_DECISIVE = ("bank_dir", "out_dir", "seeds", "models", "workers", "progress")


class Job(NamedTuple):
    """One training: the name of the model, and the seed of its split, its start and its order of batches."""

    model: str
    seed: int


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
    at hand, and say why. Both are aligned folders; the bank may be missing.
    """
    ours, analysis = read_manifest(run, "05_alignment"), run.parent / "analysis.json"
    if not (bank / "manifest.json").exists():
        reason = "there is no token bank"
    elif not (analysis.exists() and read_json(analysis).get("drawn")):
        reason = "those of the token bank are synthetic"
    elif found := bank_differences(read_json(bank / "manifest.json"), ours):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        reason = f"the token bank differs: {'; '.join(found[:3])}{more}"
    else:
        return TrainingData(bank, run, "the token bank, made as the tokens of this run")
    return TrainingData(run, None, f"the clips of this run; {reason}")


def load_run(out: Path, bank: Path) -> tuple[TrainingData, TrainingConfig]:
    """What the run in `out` was trained on and how; `bank`: aligned folder of the token bank, which may be missing."""
    training = read_json(needs(out / "training" / "training.json", "06_training"))
    own = {"seeds": training["seeds"], "models": ",".join(training["models"]), "out_dir": str(out)}
    data = choose_data(bank, out / "aligned")
    if training.get("clips_sha256", now := clips_sha256(data)) != now:
        raise ValueError(f"06 must be trained on {data.statement}, which changed since. Run 06_training again.")
    return data, TrainingConfig.checked(training["config"] | own)


def clips_sha256(data: TrainingData) -> list[str]:
    """Of the files of aligned clips that are trained on and scored."""
    folders = [data.folder] + ([data.live] if data.live else [])
    return [file_sha256(folder / CLIPS_FILE) for folder in folders]


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
    return split_clips(aligned.clips, aligned.sources, aligned.splits, cfg.split, seed, *shares)


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


def train_one(
    job: Job, data: Aligned, live: Aligned | None, cfg: TrainingConfig, *, trainer: Trainer | None = None, **how: Any
) -> tuple[dict[str, np.ndarray], keras.Model | None]:
    """Train one model with one seed.

    Args:
        job: Name of a baseline or of a network, and any seed from 0.
        data: Rated clips to train on and to test.
        live: Further clips to score, or None.
        cfg: Parameters of the training.
        trainer: See `trainer_of`; where other seeds of the model are trained as well.
        how: See `helpers.train.Trainer.fit`.

    Returns:
        `prediction`, `live_prediction`: float32 (N, k) for all clips, and for the run's own; of a network also
        `history_epoch`, `history_loss`, `history_val_loss`; and the network.
    """
    name, seed = job
    split = split_of(data, cfg, seed)
    train, validation = split == "train", split == "validation"
    sets, history, model = [data] if live is None else [data, live], {}, None
    if name in BASELINES:
        predictions = BASELINES[name](sets, train, validation)
    else:
        trainer = trainer or trainer_of(name, data, cfg)
        inputs = [model_inputs(name, each, seed) for each in sets]
        labels = model_labels(name, data.labels, train | validation, seed)
        model = start_model(name, data, cfg, seed)
        parts = [({k: v[rows] for k, v in inputs[0].items()}, labels[rows]) for rows in (train, validation)]
        history = trainer.fit(model, *parts, **how).add_prefix("history_").to_dict("series")
        predictions = [trainer.model.predict(each, batch_size=1024, verbose=0) for each in inputs]
    own, of_live = (p.astype("float32") for p in [*predictions, predictions[0][:0]][:2])
    return {"prediction": own, "live_prediction": of_live} | {k: v.to_numpy() for k, v in history.items()}, model


def trainer_of(name: str, data: Aligned, cfg: TrainingConfig) -> Trainer:
    """What trains the network of this name with any seed."""
    return Trainer(start_model(name, data, cfg, 0), cfg)


def load_trained(cfg: TrainingConfig, name: str, seed: int) -> keras.Model:
    """Load the network that a training left in `cfg.out`."""
    return keras.saving.load_model(job_file(cfg.out / "training", Job(name, seed), ".keras"))


def train_further(name: str, seed: int, data: TrainingData, cfg: TrainingConfig) -> keras.Model:
    """Train one more network as those of a run were, beside them; where it is there already, take it."""
    train_all([Job(name, seed)], data, cfg)
    return load_trained(cfg, name, seed)


def train_all(wanted: Sequence[Job], data: TrainingData, cfg: TrainingConfig) -> None:
    """Do those trainings that are not done, all seeds of a model in one of `cfg.workers` processes, longest first.

    Raises:
        RuntimeError: A training failed; the message names it and its reason.
    """
    names = sorted(dict.fromkeys(job.model for job in wanted), key=_length, reverse=True)
    groups = [[job for job in wanted if job.model == name] for name in names]
    known = fingerprint([clips_sha256(data), cfg.as_dict(without=NOT_DECISIVE)])
    options = {"workers": cfg.workers, "progress": cfg.progress}
    train_missing(make_trainings, (data, cfg, known), cfg.out / "training", groups, known, **options)


def _length(name: str) -> tuple[bool, bool]:
    """Orders models by what a training takes: networks over tokens, other networks, baselines."""
    return variant_of(name).inputs in ("tokens", "shuffled"), name not in BASELINES


def make_trainings(
    context: tuple[TrainingData, TrainingConfig, str], jobs: Sequence[Job]
) -> Iterator[tuple[dict[str, np.ndarray], keras.Model | None]]:
    """Do the trainings of one model, one after another: what `train_missing` runs in a worker."""
    places, cfg, known = context
    data, live = _read_clips(places, known)
    folder, name = cfg.out / "training", jobs[0].model
    trainer = None if name in BASELINES else trainer_of(name, data, cfg)
    for job in jobs:
        board = job_file(folder / "tensorboard", job, "") if cfg.tensorboard else None
        how = {"state": job_file(folder, job, ".state.npz"), "known": known}
        how["callbacks"] = watchers(job_file(folder / WATCHED, job, ""), board)
        yield train_one(job, data, live, cfg, trainer=trainer, **how)
    keras.backend.clear_session()


@lru_cache(maxsize=1)
def _read_clips(data: TrainingData, known: str) -> tuple[Aligned, Aligned | None]:
    """Once per worker and fingerprint `known`."""
    return rated_clips(data), data.live_clips
