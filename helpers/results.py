"""What the trainings came to: predictions as a table, metrics over seeds, comparisons, and the model kept for scoring.

In: `TrainingData`, `TrainingConfig` and the files that the trainings left. Out: `predictions.csv`,
`training/training.json`, `training/history.csv`; data frames, the `models`, `split` and `live` of `summary.json`,
`models.csv`, and the self-contained folder `model/`.
"""

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.align import Aligned
from helpers.callbacks import read_logs, write_time_analysis
from helpers.clips import load_clips
from helpers.config import TrainingConfig
from helpers.experiment import (
    NOT_DECISIVE,
    WATCHED,
    Job,
    TrainingData,
    check_splits,
    rated_clips,
    split_of,
    train_all,
    trained_file,
)
from helpers.files import code_version, read_json, replacing, write_json
from helpers.metrics import LETTER_OF, as_summary, clip_lengths, conformal_quantile, each_number, score_table
from helpers.out_of_distribution import learn_training_tokens, write_training_tokens
from helpers.report import verdicts
from helpers.statistics import caveats, comparisons, group_errors, number
from helpers.store import STREAMS, read_arrays
from helpers.variants import (
    ABLATIONS,
    SHUFFLED_MODEL,
    TOKEN_MODEL,
    VARIANTS,
    chosen_models,
    compare_architectures,
    own_architectures,
    variant_of,
)

log = logging.getLogger(__name__)

LICENCE = "that of the data and of the weights behind the features"
LEVELS = np.linspace(0, 1, 101)  # quantiles of the training ratings that a score is placed in


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
    check_splits(data, bank, cfg)
    train_all([Job(name, seed) for name in chosen_models(cfg.models) for seed in cfg.seeds], data, cfg)
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


def gather_predictions(data: TrainingData, cfg: TrainingConfig) -> pd.DataFrame:
    """Read the predictions of every training for validation, test and live clips.

    Returns:
        Columns model, seed, split ("validation", "test", "live"), clip, source, trait, truth, prediction.
    """
    bank, live, parts = rated_clips(data), data.live_clips, []
    for seed in cfg.seeds:
        split = split_of(bank, cfg, seed)
        held_out = np.flatnonzero(np.isin(split, ("validation", "test")))
        for name in chosen_models(cfg.models):
            arrays = _arrays_of(cfg, name, seed)
            parts.append(_long(name, seed, split[held_out], bank.take(held_out), arrays["prediction"][held_out]))
            if live is not None:
                parts.append(_long(name, seed, np.full(len(live), "live"), live, arrays["live_prediction"]))
    return pd.concat(parts, ignore_index=True)


def _arrays_of(cfg: TrainingConfig, name: str, seed: int) -> dict[str, np.ndarray]:
    return read_arrays(trained_file(cfg.out / "training", Job(name, seed)))


def _long(name: str, seed: int, split: np.ndarray, clips: Aligned, prediction: np.ndarray) -> pd.DataFrame:
    k = len(clips.targets)
    columns = {"split": np.repeat(split, k), "clip": np.repeat(clips.clips, k), "source": np.repeat(clips.sources, k)}
    columns |= {"trait": np.tile(clips.targets, len(clips)), "truth": clips.labels.ravel()}
    return pd.DataFrame({"model": name, "seed": seed} | columns | {"prediction": prediction.ravel()})


def gather_history(cfg: TrainingConfig) -> pd.DataFrame:
    """Read the losses of every network: columns model, seed, epoch, loss, val_loss (mean squared errors)."""
    parts = []
    for name in chosen_models(cfg.models):
        for seed in cfg.seeds:
            arrays = _arrays_of(cfg, name, seed)
            columns = {k.removeprefix("history_"): v for k, v in arrays.items() if k.startswith("history_")}
            parts.append(pd.DataFrame({"model": name, "seed": seed} | columns) if columns else pd.DataFrame())
    return pd.concat(parts, ignore_index=True)


def summarise(predictions: pd.DataFrame, bank: Aligned, cfg: TrainingConfig) -> dict[str, Any]:
    """Score the predictions.

    Returns:
        `targets` (in their order, traits by their letters); `models` on the test clips; `live`, the token model on the
        run's own, and in it the `constant`;
        `about` (what each model is, in words); `comparisons` (every model with the constant, the token model with
        every other); `split`, `ratings`, `seeds`, `config`; `ceiling` (what agreement of the raters leaves to reach:
        `r2` and `pearson` by target, where the run's own clips are trained on and 01 found several raters); `groups`
        (errors of the token model on this run's held-out clips by the `group` of `ratings.csv`).
    """
    splits = {seed: split_of(bank, cfg, seed) for seed in cfg.seeds}
    constants = {seed: np.nanmean(bank.labels[split == "train"], 0) for seed, split in splits.items()}
    targets = list(bank.targets)
    names = chosen_models(cfg.models)
    models = {name: _over_seeds(predictions, name, "test", constants, targets) for name in names}
    live = {}
    if (predictions["split"] == "live").any():
        live = _over_seeds(predictions, TOKEN_MODEL, "live", constants, targets)
        live["constant"] = _over_seeds(predictions, "constant", "live", constants, targets)
        rated = predictions["truth"].notna() & (predictions["split"] == "live")
        live["clips"] = int(predictions.loc[rated, "clip"].nunique())
    return {
        "targets": [target for target in models["constant"]["r2"] if target != "mean"],
        "models": models,
        "about": {name: variant_of(name).says for name in names},
        "comparisons": comparisons(predictions, names, TOKEN_MODEL),
        "live": live,
        "split": {"by": cfg.split} | _split_counts(bank, splits),
        "ratings": _ratings_given(bank),
        "ceiling": _ceiling(cfg) if (predictions["split"] != "live").all() else None,
        "groups": _groups(predictions, cfg),
        "seeds": cfg.seeds,
        "config": cfg.as_dict(without=NOT_DECISIVE),
    }


def _over_seeds(
    predictions: pd.DataFrame, name: str, split: str, constants: dict[int, np.ndarray], targets: list[str]
) -> dict[str, Any]:
    """Means over seeds of the metrics of one model on one split, and each seed's r2 and mean_accuracy."""
    rows = predictions[(predictions["model"] == name) & (predictions["split"] == split)]
    per_seed = []
    for seed, constant in constants.items():
        wide = rows[rows["seed"] == seed].pivot(index="clip", columns="trait", values=["truth", "prediction"])
        table = score_table(
            wide["truth"][targets].to_numpy(), wide["prediction"][targets].to_numpy(), constant, targets
        )
        per_seed.append(as_summary(table))
    seeds = [{"r2": s["r2"], "mean_accuracy": s["mean_accuracy"]} for s in per_seed]
    return each_number(per_seed, np.mean) | {"seeds": seeds}


def watched(
    cfg: TrainingConfig, results: dict[str, Any], name: str, seed: int
) -> tuple[dict[str, dict[str, list[dict[str, Any]]]], dict[str, Any]]:
    """Read what was watched while one model was trained, and analyse where its time went.

    Returns:
        The logs (see `helpers.callbacks.read_logs`), and `metrics` of the model and of the `constant` (means
        over seeds), `verdict`, `time` (see `helpers.callbacks.analyse_time`): what a dashboard shows.
    """
    folder = cfg.out / "training" / WATCHED / f"{name}-{seed}"
    verdicts = {each["a"]: each["verdict"] for each in results["comparisons"] if each["b"] == "constant"}
    models = results["models"]
    shown = {"metrics": models[name], "constant": models["constant"], "verdict": verdicts[name]}
    return read_logs(folder), shown | {"time": write_time_analysis(folder)}


def as_table(results: dict[str, Any]) -> pd.DataFrame:
    """R² per trait, its mean, 1-MAE and CCC of every model on the test clips; last: the run's clips, the ceiling."""
    rows = dict(results["models"])
    if results["live"]:
        own = f"{results['live']['clips']} clips of this run"
        rows |= {f"constant, {own}": results["live"]["constant"], f"{TOKEN_MODEL}, {own}": results["live"]}
    columns = {name: _row(row) for name, row in rows.items()}
    if results["ceiling"]:
        columns["a perfect model, as far as the raters agree"] = results["ceiling"]["r2"]
    return pd.DataFrame(columns).T.astype(float)


def _row(metrics: dict[str, Any]) -> dict[str, float]:
    return metrics["r2"] | {"1-MAE": metrics["mean_accuracy"], "CCC": metrics["ccc"]["mean"]}


def _split_counts(bank: Aligned, splits: dict[int, np.ndarray]) -> dict[str, int]:
    """Clips per part for the first seed, and the most test clips of a seed that share a source with train."""
    first = next(iter(splits.values()))
    counts = {part: int((first == part).sum()) for part in ("train", "validation", "test")}
    sources = bank.sources
    sharing = max(np.isin(sources[s == "test"], sources[s == "train"]).sum() for s in splits.values())
    return counts | {"test_clips_sharing_a_source_with_train": int(sharing)}


def _ratings_given(bank: Aligned) -> dict[str, Any]:
    """How many clips each target is rated for, and the first rating that is missing."""
    rated = ~np.isnan(bank.labels)
    first = next((f"{bank.targets[column]} of {bank.clips[clip]}" for clip, column in np.argwhere(~rated)), None)
    return {"clips": len(bank), "rated": _by_target(bank, rated.sum(0)), "first_missing": first}


def _ceiling(cfg: TrainingConfig) -> dict[str, dict[str, float]] | None:
    path = cfg.out / "analysis.json"
    agreement = read_json(path)["reliability"] if path.exists() else None
    if agreement is None:
        return None
    return {
        name: {LETTER_OF.get(target, target): row[f"max_{name}"] for target, row in agreement.items()}
        for name in ("r2", "pearson")
    }


def _groups(predictions: pd.DataFrame, cfg: TrainingConfig) -> dict[str, Any]:
    path = cfg.out / "clips.csv"
    clips = load_clips(path) if path.exists() else pd.DataFrame()
    if "group" not in clips:
        return {}
    of_run = "live" if (predictions["split"] == "live").any() else "test"
    rows = predictions[(predictions["model"] == TOKEN_MODEL) & (predictions["split"] == of_run)]
    return group_errors(rows, clips["group"])


def leak_warning(split: dict[str, Any]) -> str | None:
    """Say that a split leaks, from `split` of `training.json`; None where it does not."""
    sharing = split["test_clips_sharing_a_source_with_train"]
    if not sharing:
        return None
    return (
        f"this split leaks: {sharing} of {split['test']} test clips come from a source that was trained on, so that "
        "every score here is too high. The row same_video shows what the sources alone give away. Use split: source."
    )


def keep_model(data: TrainingData, cfg: TrainingConfig, results: dict[str, Any]) -> dict[str, Any]:
    """Write `model/`: the token model of the first seed, its reduction, `familiar.npz` (how unlike a clip is to the
    training clips) and `card.json`, all that scoring needs.

    Returns:
        The card: `targets`, `constant` and `interval_half_width` (90 %, split conformal on the validation clips) and
        `training_quantiles` (at 0, 0.01, ..., 1) per target, `training_length_s` (time of the last token of the longest
        training clip), `drawn` (whether its clips were drawn, with a planted truth), `metrics`, `verdicts`, `split`,
        `ceiling`, `groups`, `caveats` and `licence` (sentences), `extractors`, `weights`, `data`, and so on.
    """
    folder, name = cfg.out / "model", f"{TOKEN_MODEL}-{cfg.seeds[0]}"
    bank = rated_clips(data)
    split = split_of(bank, cfg, cfg.seeds[0])
    train, validation = bank.take(split == "train"), bank.take(split == "validation")
    residuals = validation.labels - _arrays_of(cfg, TOKEN_MODEL, cfg.seeds[0])["prediction"][split == "validation"]
    card = _known_of_clips(train, residuals) | _known_of_data(data) | {
        "model": TOKEN_MODEL,
        "seed": cfg.seeds[0],
        "metrics": results["models"][TOKEN_MODEL]["seeds"][0],
        "verdicts": [c["verdict"] for c in results["comparisons"] if c["a"] == TOKEN_MODEL],
        "caveats": caveats(results["groups"]),
        "code_version": code_version(),
    } | {name: results[name] for name in ("split", "ceiling", "groups", "config")}  # fmt: skip
    _copy(cfg.out / "training" / f"{name}.keras", folder / "model.keras")
    _copy(data.folder / "reduction.npz", folder / "reduction.npz")
    write_training_tokens(folder / "familiar.npz", learn_training_tokens(train, validation))
    write_json(folder / "card.json", card)
    return card


def _known_of_clips(train: Aligned, residuals: np.ndarray) -> dict[str, Any]:
    """What a card says of its training clips, and how far a score of theirs is to be believed."""
    # at most 1, the whole range of ratings: with few validation clips no finite width has the coverage
    width = np.minimum(conformal_quantile(residuals, 0.9), 1.0)
    return {
        "targets": list(train.targets),
        "constant": _by_target(train, np.nanmean(train.labels, 0).astype(float)),
        "interval_half_width": _by_target(train, width),
        "training_quantiles": _by_target(train, np.nanquantile(train.labels, LEVELS, axis=0).T.astype(float)),
        "training_clips": len(train),
        "training_length_s": float(clip_lengths(train).max()),
        "synthetic_labels": train.synthetic,
    }


def _known_of_data(data: TrainingData) -> dict[str, Any]:
    """What a card says of the data and of the networks behind its features."""
    identity = data.manifest["identity"]
    licences = [f"{name}: {identity[name].get('weights', {}).get('licence', 'unknown')}" for name in STREAMS]
    return {
        "data": data.statement,
        "drawn": (data.folder / "truth.csv").exists(),
        "extractors": {name: identity[name] for name in STREAMS},
        "weights": identity["static"]["parameters"]["weights"],
        "reduction": identity["reduction"],
        "licence": f"{LICENCE} ({', '.join(licences)}): look there before passing the model on",
    }


def _copy(source: Path, to: Path) -> None:
    with replacing(to) as part:
        shutil.copyfile(source, part)


def _by_target(clips: Aligned, values: np.ndarray) -> dict[str, Any]:
    return dict(zip(map(str, clips.targets), values.tolist(), strict=True))


def compare_models_of(folder: str | Path, cfg: TrainingConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train the models that `cfg.models` names on the clips of a folder, and write the table below `cfg.out`.

    Returns:
        The table as `table_of` makes it, with the columns of `compare_architectures`; and what
        `training.json` holds.
    """
    folder = Path(folder).resolve()
    data = TrainingData(folder, None, f"the clips of {folder.name}")
    found = run_table(data, cfg)
    networks = own_architectures(rated_clips(data), cfg, list(found["models"]))
    table = table_of(found).join(compare_architectures(networks))
    with replacing(cfg.out / "models.csv") as part:
        table.to_csv(part, float_format="%.6g")
    return table, found


def table_of(found: dict[str, Any]) -> pd.DataFrame:
    """Lay out `training.json` as one row per model.

    Returns:
        Index `model`; R² per target and their `mean`; `1-MAE`, `CCC`, `skill`; `over_constant`, `over_constant_low`,
        `over_constant_high`: mean R² minus the constant's, with the ends of its interval; `under_token`,
        `under_token_low`, `under_token_high`: the token model's mean R² minus the row's; `what`.
    """
    # a JSON file has the models by alphabet
    named = {name: found["models"][name] for name in VARIANTS | ABLATIONS if name in found["models"]}
    rows = {name: _row(metrics) | {"skill": metrics["skill"]["mean"]} for name, metrics in named.items()}
    for comparison in found["comparisons"]:
        ends = {"": comparison["difference"], "_low": comparison["low"], "_high": comparison["high"]}
        if comparison["b"] == "constant":
            rows[comparison["a"]] |= {f"over_constant{end}": value for end, value in ends.items()}
        elif comparison["a"] == TOKEN_MODEL:
            rows[comparison["b"]] |= {f"under_token{end}": value for end, value in ends.items()}
    ends = [f"{side}{end}" for side in ("over_constant", "under_token") for end in ("", "_low", "_high")]
    table = pd.DataFrame.from_dict(rows, "index", dtype=float).rename_axis("model")
    table = table.reindex(columns=[*found["targets"], "mean", "1-MAE", "CCC", "skill", *ends])
    return table.assign(what=[variant_of(name).says for name in table.index])


def telling(found: dict[str, Any]) -> list[str]:
    """The few sentences of `training.json` that matter: what `report.verdicts` says, and what time and order are worth.

    The token model against the constant, against one token per stream, against its shuffled control, against its
    strongest rival; what is no better than a constant; groups that it serves otherwise.
    """
    pairs = {each["b"]: each["verdict"] for each in found["comparisons"] if each["a"] == TOKEN_MODEL}
    over_constant, *more = verdicts(found)
    controls = [pairs[name] for name in ("one_token_cross_attention", SHUFFLED_MODEL) if name in pairs]
    return list(dict.fromkeys([over_constant, *controls, *more]))  # a control may be the strongest rival


def as_text(table: pd.DataFrame) -> str:
    """The table for a terminal: R² per target, 1-MAE, and both differences with their intervals."""
    targets = list(table.columns[: list(table.columns).index("1-MAE")])
    shown = table[[*targets, "1-MAE"]].map(number)
    shown["1-MAE"] = table["1-MAE"].map(partial(number, digits=3))
    for column, title in (("over_constant", "over the constant"), ("under_token", "token model over it")):
        ends = table[[column, f"{column}_low", f"{column}_high"]].itertuples(index=False)
        signed = partial(number, sign=True)
        shown[title] = ["" if pd.isna(d) else f"{signed(d)} [{signed(low)}, {signed(high)}]" for d, low, high in ends]
    return shown.rename_axis("test R²").to_string()


def sizes_as_text(table: pd.DataFrame) -> str:
    """How the networks of the table differ in size, for a terminal."""
    sizes = table[["parameters", "trainable", "layers"]].dropna().astype(int)
    return sizes.assign(Mflop=(table["flops"] / 1e6).map("{:.2f}".format)).to_string()
