"""What the trainings came to: predictions as a table, metrics over seeds, comparisons, and the model kept for scoring.

In: `TrainingData`, `TrainingConfig` and the files that the trainings left. Out: `predictions.csv`,
`training/training.json`, `training/history.csv`; the `models`, `split` and `live` of `summary.json`; and the
self-contained folder `model/`.
"""

import logging
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from helpers.align import Aligned
from helpers.clips import is_synthetic, letter_of, load_clips
from helpers.config import TrainingConfig
from helpers.experiment import (
    NOT_DECISIVE,
    Job,
    TrainingData,
    check_splits,
    clips_sha256,
    rated_clips,
    split_of,
    train_all,
)
from helpers.files import code_version, read_json, replacing, write_json
from helpers.metrics import as_summary, conformal_quantile, each_number, score_table
from helpers.out_of_distribution import learn_training_tokens, write_training_tokens
from helpers.splits import SPLITS
from helpers.statistics import CAVEATS, comparisons, group_errors
from helpers.store import STREAMS, read_arrays
from helpers.train import job_file
from helpers.variants import TOKEN_MODEL, chosen_models, variant_of

log = logging.getLogger(__name__)

LICENCE = "that of the data and of the weights behind the features"
LEVELS = np.linspace(0, 1, 101)  # quantiles of the training ratings that a score is placed in


def run_table(data: TrainingData, cfg: TrainingConfig, further: Sequence[Job] = ()) -> dict[str, Any]:
    """Train every model with every seed, score each once on its test clips, and write the results below `cfg.out`.

    Trainings that are there from an earlier call with the same data and parameters are not done again. `further` ones,
    which are in no table, are done beside them.

    Returns:
        What `training.json` holds: what `summarise` returns, `data` (the statement), `clips_sha256` and
        `synthetic_labels`.

    Raises:
        ValueError: Too few rated clips or sources for the split.
        RuntimeError: A training failed; the message names it and its reason.
    """
    bank, live, folder = rated_clips(data), data.live_clips, cfg.out / "training"
    check_splits(data, bank, cfg)
    jobs = [Job(name, seed) for name in chosen_models(cfg.models) for seed in cfg.seeds]
    train_all([*jobs, *further], data, cfg)
    predictions = gather_predictions(data, cfg)
    with replacing(cfg.out / "predictions.csv") as part:
        predictions.to_csv(part, index=False, float_format="%.6f")
    with replacing(folder / "history.csv") as part:
        pd.concat([_history(cfg, job) for job in jobs]).to_csv(part, index=False, float_format="%.6g")
    results = summarise(predictions, bank, cfg)
    results |= {"data": data.statement, "clips_sha256": clips_sha256(data)}
    results |= {"synthetic_labels": bank.synthetic or bool(live and live.synthetic)}
    if results["split"]["warning"]:
        log.warning("%s", results["split"]["warning"])
    write_json(folder / "training.json", results)
    return results


def gather_predictions(data: TrainingData, cfg: TrainingConfig) -> pd.DataFrame:
    """Read the predictions of every training for validation, test and live clips: the columns of `prediction_rows`."""
    bank, live, parts = rated_clips(data), data.live_clips, []
    for seed in cfg.seeds:
        split = split_of(bank, cfg, seed)
        held_out = np.isin(split, ("validation", "test"))
        for job in (Job(name, seed) for name in chosen_models(cfg.models)):
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


def _history(cfg: TrainingConfig, job: Job) -> pd.DataFrame:
    """Losses of a network by epoch; no rows for a baseline."""
    columns = {k.removeprefix("history_"): v for k, v in _arrays_of(cfg, job).items() if k.startswith("history_")}
    return pd.DataFrame(job._asdict() | columns) if columns else pd.DataFrame()


def summarise(predictions: pd.DataFrame, bank: Aligned, cfg: TrainingConfig) -> dict[str, Any]:
    """Score the predictions.

    Returns:
        `targets` (in their order, traits by their letters); `models` on the test clips (means over seeds of r2, ccc,
        pearson, mae, skill per trait, mean_accuracy, and `seeds`); `live`, the token model on the run's own clips, and
        in it the `constant`; `about` (what each model is, in words); `comparisons` (every model with the constant, the
        token model with every other); `split`, `ratings`, `seeds`, `config`; `ceiling` (what agreement of the raters
        leaves to reach: `r2` and `pearson` by target, where the run's own clips are trained on and 01 found several
        raters); `groups` (errors of the token model on this run's held-out clips by the `group` of `ratings.csv`).
    """
    splits = {seed: split_of(bank, cfg, seed) for seed in cfg.seeds}
    names, has_live = chosen_models(cfg.models), (predictions["split"] == "live").any()
    models = {name: _over_seeds(predictions, name, "test", bank, splits) for name in names}
    live = {}
    if has_live:
        live = _over_seeds(predictions, TOKEN_MODEL, "live", bank, splits)
        live["constant"] = _over_seeds(predictions, "constant", "live", bank, splits)
        rated = predictions["truth"].notna() & (predictions["split"] == "live")
        live["clips"] = int(predictions.loc[rated, "clip"].nunique())
    return {
        "targets": [target for target in models["constant"]["r2"] if target != "mean"],
        "models": models,
        "about": {name: variant_of(name).says for name in names},
        "comparisons": comparisons(predictions, names, TOKEN_MODEL),
        "live": live,
        "split": split_facts(bank, cfg.split, splits.values()),
        "ratings": _ratings_given(bank),
        "ceiling": None if has_live else _ceiling(cfg),
        "groups": _groups(predictions, cfg, "live" if has_live else "test"),
        "seeds": cfg.seeds,
        "config": cfg.as_dict(without=NOT_DECISIVE),
    }


def _over_seeds(
    predictions: pd.DataFrame, name: str, split: str, bank: Aligned, splits: dict[int, np.ndarray]
) -> dict[str, Any]:
    """Means over seeds of the metrics of one model on one split, and each seed's r2 and mean_accuracy."""
    rows, targets = predictions[(predictions["model"] == name) & (predictions["split"] == split)], list(bank.targets)
    per_seed = []
    for seed, parts in splits.items():
        wide = rows[rows["seed"] == seed].pivot(index="clip", columns="trait", values=["truth", "prediction"])
        truth, prediction = (wide[side][targets].to_numpy() for side in ("truth", "prediction"))
        constant = np.nanmean(bank.labels[parts == "train"], 0)
        per_seed.append(as_summary(score_table(truth, prediction, constant, targets)))
    seeds = [{"r2": s["r2"], "mean_accuracy": s["mean_accuracy"]} for s in per_seed]
    return each_number(per_seed, np.mean) | {"seeds": seeds}


def split_facts(clips: Aligned, kind: str, splits: Iterable[np.ndarray]) -> dict[str, Any]:
    """Clips per part for the first seed, the most test clips of a seed that share a source with train, and a warning
    where there are such."""
    splits, sources = list(splits), clips.sources
    counts = {part: int((splits[0] == part).sum()) for part in SPLITS}
    sharing = int(max(np.isin(sources[s == "test"], sources[s == "train"]).sum() for s in splits))
    warning = (
        f"this split leaks: {sharing} of {counts['test']} test clips come from a source that was trained on, so that "
        "every score here is too high. The row same_video shows what the sources alone give away. Use split: source."
    )
    leak = {"test_clips_sharing_a_source_with_train": sharing, "warning": warning if sharing else None}
    return {"by": kind} | counts | leak


def _ratings_given(bank: Aligned) -> dict[str, Any]:
    """How many clips each target is rated for, and the first rating that is missing."""
    rated = ~np.isnan(bank.labels)
    first = next((f"{bank.targets[column]} of {bank.clips[clip]}" for clip, column in np.argwhere(~rated)), None)
    return {"clips": len(bank), "rated": _by_target(bank, rated.sum(0)), "first_missing": first}


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
    return group_errors(rows, clips["group"])


def keep_model(data: TrainingData, cfg: TrainingConfig, results: dict[str, Any]) -> dict[str, Any]:
    """Write `model/`: the token model of the first seed, its reduction, `familiar.npz` (how unlike a clip is to the
    training clips) and `card.json`, all that scoring needs.

    Returns:
        The card: `targets`, `constant` and `interval_half_width` (90 %, split conformal on the validation clips) and
        `training_quantiles` (at 0, 0.01, ..., 1) per target, `training_length_s` (time of the last token of the longest
        training clip), `drawn` (whether its clips are synthetic, with a planted truth), `metrics`, `verdicts`, `split`,
        `ceiling`, `groups`, `caveats` and `licence` (sentences), `extractors`, `weights`, `data`, and so on.
    """
    job, folder, bank = Job(TOKEN_MODEL, cfg.seeds[0]), cfg.out / "model", rated_clips(data)
    split = split_of(bank, cfg, job.seed)
    train, validation = bank.take(split == "train"), bank.take(split == "validation")
    residuals = validation.labels - _arrays_of(cfg, job)["prediction"][split == "validation"]
    card = _known_of_clips(train, residuals) | _known_of_data(data) | job._asdict()
    card |= {
        "metrics": results["models"][TOKEN_MODEL]["seeds"][0],
        "verdicts": [c["verdict"] for c in results["comparisons"] if c["a"] == TOKEN_MODEL],
        "caveats": list(CAVEATS),
        "code_version": code_version(),
    }
    card |= {name: results[name] for name in ("split", "ceiling", "groups", "config")}
    trained = job_file(cfg.out / "training", job, ".keras")
    for source, name in ((trained, "model.keras"), (data.folder / "reduction.npz", "reduction.npz")):
        with replacing(folder / name) as part:
            shutil.copyfile(source, part)
    write_training_tokens(folder / "familiar.npz", learn_training_tokens(train, validation))
    write_json(folder / "card.json", card)
    return card


def _known_of_clips(train: Aligned, residuals: np.ndarray) -> dict[str, Any]:
    # at most 1, the whole range of ratings: with few validation clips no finite width has the coverage
    width = np.minimum(conformal_quantile(residuals, 0.9), 1.0)
    return {
        "targets": list(train.targets),
        "constant": _by_target(train, np.nanmean(train.labels, 0).astype(float)),
        "interval_half_width": _by_target(train, width),
        "training_quantiles": _by_target(train, np.nanquantile(train.labels, LEVELS, axis=0).T.astype(float)),
        "training_clips": len(train),
        "training_length_s": float(max(train.static_t_s.max(), train.dynamic_t_s.max())),
        "synthetic_labels": train.synthetic,
    }


def _known_of_data(data: TrainingData) -> dict[str, Any]:
    identity = data.manifest["identity"]
    licences = [f"{name}: {identity[name].get('weights', {}).get('licence', 'unknown')}" for name in STREAMS]
    return {
        "data": data.statement,
        "drawn": is_synthetic(data.folder),
        "extractors": {name: identity[name] for name in STREAMS},
        "weights": identity["static"]["parameters"]["weights"],
        "reduction": identity["reduction"],
        "licence": f"{LICENCE} ({', '.join(licences)}): look there before passing the model on",
    }


def _by_target(clips: Aligned, values: np.ndarray) -> dict[str, Any]:
    return dict(zip(map(str, clips.targets), values.tolist(), strict=True))
