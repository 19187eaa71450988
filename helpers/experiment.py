"""All models with all seeds: trained as far as they are not, scored, compared; and the model that is kept for scoring.

In: `Aligned` clips with ratings and `TrainingConfig`. Out: in `training/` `<model>-<seed>.npz` and `.keras`,
`history.csv`, `training.json`; `predictions.csv`; the self-contained folder `model/`. Every choice is made on the
validation clips.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd

from helpers import statistics, variants
from helpers.align import CLIPS_FILE, Aligned, bank_differences, read_aligned, read_reduction
from helpers.callbacks import read_logs, watchers
from helpers.clips import is_synthetic, letter_of, load_clips
from helpers.config import TrainingConfig
from helpers.feature_quality import write_training_tokens
from helpers.files import code_version, file_sha256, needs, read_json, replacing, resolve, write_json
from helpers.model import clips_at_once
from helpers.splits import SPLITS, split_clips, training_splits
from helpers.store import STREAMS, read_arrays, read_manifest
from helpers.train import Trainer, fingerprint, job_file, train_missing
from helpers.variants import TOKEN_MODEL

log = logging.getLogger(__name__)

LICENCE = "that of the data and of the weights behind the features"
WATCHED = "watched"  # below training/: what the callbacks of each training wrote
NOT_DECISIVE = ("bank_dir", "out_dir", "seeds", "models", "workers", "progress")  # change no single training


class Job(NamedTuple):
    """One training: the name of the model, and the seed of its split, its start and its order of batches."""

    model: str
    seed: int


@dataclass(frozen=True)
class TrainingData:
    """Which clips are trained on, and which are only scored.

    `folder`: aligned folder of the clips for training and test; `live`: that of the run's own clips, scored with the
    trained models, None where they are the same; `statement`: one line that says so.
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
    """Take the token bank when the run's clips are synthetic as its own, and both were made alike and have the same
    targets; otherwise the clips at hand, and say why. Both are aligned folders; the bank may be missing.
    """
    ours, analysis = read_manifest(run, "05_alignment"), run.parent / "analysis.json"
    if not (bank / "manifest.json").exists():
        reason = "there is no token bank"
    elif not (analysis.exists() and read_json(analysis).get("synthetic")):
        reason = "those of the token bank are synthetic"
    elif found := bank_differences(read_json(bank / "manifest.json"), ours):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        reason = f"the token bank differs: {'; '.join(found[:3])}{more}"
    elif (targets := _targets(bank)) != _targets(run):
        reason = f"the token bank is rated for {', '.join(targets)}, in this order"
    else:
        return TrainingData(bank, run, "the token bank, made as the tokens of this run")
    return TrainingData(run, None, f"the clips of this run; {reason}")


def _targets(folder: Path) -> list[str]:
    return read_arrays(folder / CLIPS_FILE, ["targets"])["targets"].tolist()


def load_run(out: Path) -> tuple[TrainingData, TrainingConfig]:
    """What the run in `out` was trained on and how; ValueError where its clips changed since."""
    training = read_json(needs(out / "training" / "training.json", "06_training"))
    own = {name: training[name] for name in ("seeds", "bank_dir") if name in training}
    own |= {"models": ",".join(training["models"]), "out_dir": str(out)}
    cfg = TrainingConfig.checked(training["config"] | own)
    data = choose_data(resolve(cfg.bank_dir), out / "aligned")
    if training["clips_sha256"] != clips_sha256(data):
        raise ValueError(f"06 must be trained on {data.statement}, which changed since. Run 06_training again.")
    return data, cfg


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
    """Raise ValueError when the reduction was fitted on held-out clips, or 06 cannot train: see `training_splits`."""
    fitted_on = read_reduction(data.folder / "reduction.npz").fitted_on
    about = {"source": bank.sources, "split": bank.splits} | dict(zip(bank.targets, bank.labels.T, strict=True))
    for seed, split in training_splits(pd.DataFrame(about, bank.clips), bank.targets, cfg).items():
        if np.isin(bank.clips[split != "train"], fitted_on).any():
            raise ValueError(
                f"seeds must hold out clips that the reduction was not fitted on, got such with seed {seed}. "
                "Train with the split, shares and seed of 05_alignment alone, or take its reduction 'groups', which "
                "fits nothing."
            )


def run_table(data: TrainingData, cfg: TrainingConfig, further: Sequence[Job] = ()) -> dict[str, Any]:
    """Train every model with every seed, score each once on its test clips, and write the results below `cfg.out`.

    Trainings that are there of the same data and parameters are not done again. `further` ones, which are in no table,
    are done beside them. ValueError where there are too few rated clips or sources; RuntimeError: see `train_missing`.

    Returns what `training.json` holds: what `summarise` does, `data` (the statement), `bank_dir`, `clips_sha256` and
    `synthetic_labels`.
    """
    bank, live, folder = rated_clips(data), data.live_clips, cfg.out / "training"
    check_splits(data, bank, cfg)
    (folder / "training.json").unlink(missing_ok=True)  # it must not vouch for networks that are being replaced
    jobs = [Job(name, seed) for name in variants.chosen_models(cfg.models) for seed in cfg.seeds]
    train_all([*jobs, *further], data, cfg)
    predictions = gather_predictions(bank, live, cfg)
    with replacing(cfg.out / "predictions.csv") as part:
        predictions.to_csv(part, index=False, float_format="%.6f")
    with replacing(folder / "history.csv") as part:
        _histories(folder, jobs).to_csv(part, index=False, float_format="%.6g")
    results = summarise(predictions, bank, cfg)
    results |= {"data": data.statement, "bank_dir": cfg.bank_dir, "clips_sha256": clips_sha256(data)}
    results |= {"synthetic_labels": bank.synthetic or bool(live and live.synthetic)}
    if results["split"]["warning"]:
        log.warning("%s", results["split"]["warning"])
    write_json(folder / "training.json", results)
    return results


def train_all(wanted: Sequence[Job], data: TrainingData, cfg: TrainingConfig) -> None:
    """Do those trainings that are not done, all seeds of a model in one process: see `train_missing`."""
    kinds = {job.model: variants.variant_of(job.model) for job in wanted}
    takes = {name: (of.build is not None, of.inputs in ("tokens", "shuffled")) for name, of in kinds.items()}
    names = sorted(takes, key=takes.get, reverse=True)
    groups = [[job for job in wanted if job.model == name] for name in names]
    known = fingerprint([clips_sha256(data), cfg.as_dict(without=NOT_DECISIVE)])
    options = {"workers": cfg.workers, "progress": cfg.progress}
    train_missing(make_trainings, (data, cfg, known), cfg.out / "training", groups, known, **options)


def make_trainings(
    context: tuple[TrainingData, TrainingConfig, str], jobs: Sequence[Job]
) -> Iterator[tuple[dict[str, np.ndarray], keras.Model | None]]:
    """Do the trainings of one model, one after another: what `train_missing` runs in a worker."""
    places, cfg, known = context
    data, live, folder, name = rated_clips(places), places.live_clips, cfg.out / "training", jobs[0].model
    trainer = Trainer(variants.start_model(name, data, cfg, 0), cfg) if variants.variant_of(name).build else None
    for job in jobs:
        board = job_file(folder / "tensorboard", job, "") if cfg.tensorboard else None
        how = {"state": job_file(folder, job, ".state.npz"), "known": known}
        how["callbacks"] = watchers(job_file(folder / WATCHED, job, ""), board)
        yield train_one(job, data, live, cfg, trainer, **how)
    keras.backend.clear_session()


def train_one(
    job: Job, data: Aligned, live: Aligned | None, cfg: TrainingConfig, trainer: Trainer | None = None, **how: Any
) -> tuple[dict[str, np.ndarray], keras.Model | None]:
    """Train one model with one seed on the rated clips `data`; `live`: further clips to score, or None.

    `trainer`: of a network, may have trained it with other seeds; `how`: see `helpers.train.Trainer.fit`. Returns
    `prediction`, `live_prediction`, float32 (N, k) for all clips, and for the further ones; and the network.
    """
    name, seed = job
    split = split_of(data, cfg, seed)
    train, validation = split == "train", split == "validation"
    sets, model = [data] if live is None else [data, live], None
    if predict := variants.variant_of(name).predict:
        predictions = predict(sets, train, validation)
    else:
        inputs = [variants.model_inputs(name, each, seed) for each in sets]
        labels = variants.model_labels(name, data.labels, train | validation, seed)
        model = variants.start_model(name, data, cfg, seed)
        parts = [({k: v[rows] for k, v in inputs[0].items()}, labels[rows]) for rows in (train, validation)]
        trainer.fit(model, *parts, **how)
        predictions = [trainer.model.predict(each, batch_size=clips_at_once(each), verbose=0) for each in inputs]
    own, of_live = (p.astype("float32") for p in [*predictions, predictions[0][:0]][:2])
    return {"prediction": own, "live_prediction": of_live}, model


def load_trained(cfg: TrainingConfig, name: str, seed: int) -> keras.Model:
    """Load the network that a training left in `cfg.out`."""
    return keras.saving.load_model(job_file(cfg.out / "training", Job(name, seed), ".keras"))


def gather_predictions(bank: Aligned, live: Aligned | None, cfg: TrainingConfig) -> pd.DataFrame:
    """The predictions of every training for validation, test and live clips: the columns of `prediction_rows`."""
    parts = []
    for seed in cfg.seeds:
        split = split_of(bank, cfg, seed)
        held_out = np.isin(split, ("validation", "test"))
        for job in (Job(name, seed) for name in variants.chosen_models(cfg.models)):
            arrays = _arrays_of(cfg, job)
            parts.append(prediction_rows(job, split[held_out], bank.take(held_out), arrays["prediction"][held_out]))
            if live is not None:
                parts.append(prediction_rows(job, np.full(len(live), "live"), live, arrays["live_prediction"]))
    return pd.concat(parts, ignore_index=True)


def prediction_rows(job: Job, split: np.ndarray, clips: Aligned, prediction: np.ndarray) -> pd.DataFrame:
    """One row per clip and target: columns model, seed, split, clip, source, trait, truth, prediction."""
    k = len(clips.targets)
    columns = {"split": np.repeat(split, k), "clip": np.repeat(clips.clips, k), "source": np.repeat(clips.sources, k)}
    columns |= {"trait": np.tile(clips.targets, len(clips)), "truth": clips.labels.ravel()}
    return pd.DataFrame(job._asdict() | columns | {"prediction": prediction.ravel()})


def _arrays_of(cfg: TrainingConfig, job: Job) -> dict[str, np.ndarray]:
    return read_arrays(job_file(cfg.out / "training", job))


def _histories(folder: Path, jobs: Sequence[Job]) -> pd.DataFrame:
    """Losses of the networks by epoch: columns model, seed, epoch, loss, val_loss."""
    logs = {job: read_logs(job_file(folder / WATCHED, job, "")) for job in jobs if variants.variant_of(job.model).build}
    return pd.DataFrame([job._asdict() | row for job, found in logs.items() for row in found["metrics"]["epoch"]])


def summarise(predictions: pd.DataFrame, bank: Aligned, cfg: TrainingConfig) -> dict[str, Any]:
    """Score the predictions.

    Returns:
        `targets` (traits by their letters); `models` on the test clips (means over seeds of r2, ccc, pearson, mae,
        skill per trait, mean_accuracy, and `seeds`); `live`, the token model on the run's own clips, and in it the
        `constant`; `about` (models in words); `comparisons` (every model with the constant, the token model with every
        other); `split`, `seeds`, `config`; `ceiling` (what agreement of the raters leaves to reach, `r2` and `pearson`
        by target, where the run's own clips are trained on); `groups` (errors by the `group` of `ratings.csv`).
    """
    splits = {seed: split_of(bank, cfg, seed) for seed in cfg.seeds}
    names, has_live = variants.chosen_models(cfg.models), (predictions["split"] == "live").any()
    models = {name: _over_seeds(predictions, name, "test", bank, splits) for name in names}
    live = {}
    if has_live:
        live = _over_seeds(predictions, TOKEN_MODEL, "live", bank, splits)
        live["constant"] = _over_seeds(predictions, "constant", "live", bank, splits)
        rated = predictions["truth"].notna() & (predictions["split"] == "live")
        live["clips"] = int(predictions.loc[rated, "clip"].nunique())
    return {
        "targets": list(map(letter_of, bank.targets)),
        "models": models,
        "about": {name: variants.variant_of(name).says for name in names},
        "comparisons": statistics.comparisons(predictions, names, TOKEN_MODEL),
        "live": live,
        "split": _split_facts(bank, cfg.split, list(splits.values())),
        "ceiling": None if has_live else _ceiling(cfg),
        "groups": _groups(predictions, cfg, "live" if has_live else "test"),
        "seeds": cfg.seeds,
        "config": cfg.as_dict(without=NOT_DECISIVE),
    }


def _over_seeds(
    predictions: pd.DataFrame, name: str, split: str, bank: Aligned, splits: dict[int, np.ndarray]
) -> dict[str, Any]:
    """Means over seeds of the metrics of one model on one split, and each seed's r2 and mean_accuracy."""
    rows = predictions[(predictions["model"] == name) & (predictions["split"] == split)]
    targets, tables = list(bank.targets), []
    for seed, parts in splits.items():
        wide = rows[rows["seed"] == seed].pivot(index="clip", columns="trait", values=["truth", "prediction"])
        truth, prediction = (wide[side][targets].to_numpy() for side in ("truth", "prediction"))
        tables.append(statistics.score_table(truth, prediction, np.nanmean(bank.labels[parts == "train"], 0), targets))
    seeds = [{name: of[name] for name in ("r2", "mean_accuracy")} for of in map(statistics.as_summary, tables)]
    return statistics.as_summary(sum(tables) / len(tables)) | {"seeds": seeds}


def _split_facts(clips: Aligned, kind: str, splits: Sequence[np.ndarray]) -> dict[str, Any]:
    """Clips per part for the first seed; the most test clips of a seed that share a source with train; a warning."""
    sources = clips.sources
    counts = {part: int((splits[0] == part).sum()) for part in SPLITS}
    sharing = int(max(np.isin(sources[s == "test"], sources[s == "train"]).sum() for s in splits))
    warning = (
        f"this split leaks: {sharing} of {counts['test']} test clips come from a source that was trained on, so that "
        "every score here is too high. The row same_video shows what the sources alone give away. Use split: source."
    )
    leak = {"test_clips_sharing_a_source_with_train": sharing, "warning": warning if sharing else None}
    return {"by": kind} | counts | leak


def _ceiling(cfg: TrainingConfig) -> dict[str, dict[str, float]] | None:
    path = cfg.out / "analysis.json"
    agreement = read_json(path).get("reliability") if path.exists() else None
    return agreement and {
        name: {letter_of(target): row[f"max_{name}"] for target, row in agreement.items()} for name in ("r2", "pearson")
    }


def _groups(predictions: pd.DataFrame, cfg: TrainingConfig, split: str) -> dict[str, Any]:
    path = cfg.out / "clips.csv"
    clips = load_clips(path) if path.exists() else pd.DataFrame()
    if "group" not in clips:
        return {}
    rows = predictions[(predictions["model"] == TOKEN_MODEL) & (predictions["split"] == split)]
    return statistics.group_errors(rows, clips["group"])


def keep_model(data: TrainingData, cfg: TrainingConfig, results: dict[str, Any]) -> dict[str, Any]:
    """Write `model/`: the token model of the first seed, its reduction, `training_tokens.npz` (how unlike a clip is
    to the training clips) and `card.json`, all that scoring needs.

    Returns the card: see `card_of`; and `data`, `synthetic` (whether its clips are synthetic), `extractors`, `weights`,
    `reduction`, `licence`, `warnings` (sentences, of every score) and `code_version`.
    """
    job, folder, bank = Job(TOKEN_MODEL, cfg.seeds[0]), cfg.out / "model", rated_clips(data)
    split, identity, synthetic = split_of(bank, cfg, job.seed), data.manifest["identity"], is_synthetic(data.folder)
    weights = {name: identity[name].get("weights", {}) for name in STREAMS}
    licences = ", ".join(f"{name}: {of.get('licence', 'unknown')}" for name, of in weights.items())
    about = {"synthetic": synthetic, "invented": bank.synthetic, "split": results["split"]["warning"]}
    card = card_of(job, results, bank, split, _arrays_of(cfg, job)["prediction"]) | {
        "data": data.statement,
        "synthetic": synthetic,
        "extractors": {name: identity[name] for name in STREAMS},
        "weights": identity["static"]["parameters"]["weights"],
        "reduction": identity["reduction"],
        "licence": f"{LICENCE} ({licences}): look there before passing the model on",
        "warnings": statistics.model_warnings([of.get("name") for of in weights.values()], **about),
        "code_version": code_version(),
    }
    trained = job_file(cfg.out / "training", job, ".keras")
    for source, name in ((trained, "model.keras"), (data.folder / "reduction.npz", "reduction.npz")):
        with replacing(folder / name) as part:
            shutil.copyfile(source, part)
    write_training_tokens(folder / "training_tokens.npz", bank.take(split == "train"), bank.take(split == "validation"))
    write_json(folder / "card.json", card)
    return card


def card_of(
    job: Job, results: dict[str, Any], clips: Aligned, split: np.ndarray, prediction: np.ndarray
) -> dict[str, Any]:
    """What is to be known about a model with these `results` of `summarise` and predictions (N, k) of all clips.

    Returns:
        `model`, `seed`, `targets`, `constant` and `interval_half_width` (90 %, split conformal on the validation clips)
        per target, `training_clips`, `training_length_s` (time of the last token of the longest), `synthetic_labels`,
        `metrics`, `verdicts`, `split`, `ceiling`, `groups`, `config` and `caveats` (sentences).
    """
    train, held_out = clips.take(split == "train"), split == "validation"
    # at most 1, the whole range of ratings: with few validation clips no finite width has the coverage
    width = np.minimum(statistics.conformal_quantile((clips.labels - prediction)[held_out], 0.9), 1.0)
    targets = list(map(str, clips.targets))
    return job._asdict() | {
        "targets": targets,
        "constant": dict(zip(targets, np.nanmean(train.labels, 0).astype(float).tolist(), strict=True)),
        "interval_half_width": dict(zip(targets, width.tolist(), strict=True)),
        "training_clips": len(train),
        "training_length_s": float(max(train.static_t_s.max(), train.dynamic_t_s.max())),
        "synthetic_labels": clips.synthetic,
        "metrics": results["models"][TOKEN_MODEL]["seeds"][0],
        "verdicts": [c["verdict"] for c in results["comparisons"] if c["a"] == TOKEN_MODEL],
        "caveats": list(statistics.CAVEATS),
        **{name: results[name] for name in ("split", "ceiling", "groups", "config")},
    }
