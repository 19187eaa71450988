"""One training from plain arrays with several seeds: each with its own split and its own start, and what they agree on.

In: as `helpers.training.training_system`. Out: `<name>/seed-<k>/` for each seed, an experiment's folder with its model;
`<name>/seeds.json`, means and spreads over them; and the first seed's model with its card, `<name>.keras`.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.config import TrainingConfig
from helpers.files import read_json, replacing, write_json
from helpers.statistics import compare_sets
from helpers.training.training_system import OVER_CONSTANT, SOURCE_CONFIG, TrainingSystem, checked_output

SEEDS_FILE = "seeds.json"


def train_with_seeds(
    static_features_path: str | Path,
    dynamic_features_path: str | Path,
    labels_path: str | Path,
    output_path: str | Path,
    epochs: int = 50,
    batch_size: int = 32,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    ids_path: str | Path | None = None,
    config: TrainingConfig = SOURCE_CONFIG,
) -> tuple[keras.Model, pd.DataFrame, dict[str, Any]]:
    """Train, analyse and save once per seed, and say what the seeds agree on.

    Args:
        static_features_path, dynamic_features_path, labels_path, output_path, epochs, batch_size, ids_path, config:
            See `train_personality_model`; the seeds of `config` are not looked at.
        seeds: At least two different ones.

    Returns:
        The first seed's network; the history of all, with a column `seed`; and what `seeds.json` holds: `seeds`,
        `mean` and `sd` of the metrics over seeds (as `analyze_results` has them; `sd` with n - 1), `each` (per seed
        mean_accuracy, mean R², kept epoch), `over_constant` of all test sets together, and its `verdict`.
    """
    if len(set(seeds)) != len(seeds) or len(seeds) < 2:
        raise ValueError(f"seeds must be at least two different ones, got {list(seeds)}. Correct them.")
    output = checked_output(output_path)
    folder, paths = output.with_suffix(""), (static_features_path, dynamic_features_path, labels_path)
    systems, models, histories, found, pairs = [], [], [], [], []
    for seed in seeds:
        one = replace(config, seeds=[seed])
        system = TrainingSystem(*paths, folder / f"seed-{seed}", ids_path=ids_path, config=one)
        model, history = system.train_model(batch_size=batch_size, epochs=epochs)
        found.append(system.analyze_results(model, history))
        pairs.append(system.test_pair(model))
        systems.append(system)
        models.append(model)
        histories.append(history.assign(seed=seed))
    for system, model, each in zip(systems, models, found, strict=True):  # now their states are not needed any more
        system.save(model, system.folder / "model.keras", each)
    agreed = summarise_seeds(seeds, found, compare_sets(pairs, system.data.targets, *OVER_CONSTANT))
    write_json(folder / SEEDS_FILE, agreed)
    _keep_first(folder / f"seed-{seeds[0]}", output, agreed)
    return models[0], pd.concat(histories, ignore_index=True), agreed


def summarise_seeds(
    seeds: Sequence[int], found: Sequence[dict[str, Any]], over_constant: dict[str, Any]
) -> dict[str, Any]:
    """Put what `analyze_results` found with each seed together; see `train_with_seeds`."""
    metrics = [each["metrics"] for each in found]
    rows = [
        {
            "seed": seed,
            "mean_accuracy": each["metrics"]["mean_accuracy"],
            "r2": each["metrics"]["r2"]["mean"],
            "best_epoch": each["best_epoch"],
        }
        for seed, each in zip(seeds, found, strict=True)
    ]
    return {
        "seeds": list(seeds),
        "mean": _each_number(metrics, np.mean),
        "sd": _each_number(metrics, lambda values: np.std(values, ddof=1)),
        "each": rows,
        "over_constant": over_constant,
        "verdict": over_constant["verdict"],
    }


def _each_number(items: Sequence[Any], reduce: Callable[[Sequence[float]], float]) -> Any:
    """Reduce the numbers at the same place in dictionaries; None where one is missing."""
    if isinstance(items[0], dict):
        return {key: _each_number([item[key] for item in items], reduce) for key in items[0]}
    return None if None in items else float(reduce(items))


def _keep_first(folder: Path, output: Path, agreed: dict[str, Any]) -> None:
    """Copy the first seed's model to `output`; its card says what all seeds came to."""
    card = read_json(folder / "model.card.json")
    with replacing(output) as part:
        shutil.copyfile(folder / "model.keras", part)
    over_seeds = {name: agreed[name] for name in ("seeds", "mean", "sd", "verdict")}
    write_json(output.with_suffix(".card.json"), card | {"over_seeds": over_seeds})


def as_text(agreed: dict[str, Any]) -> str:
    """`seeds.json` for a terminal: a line per seed, mean and spread, the verdict."""
    lines = [
        f"seed {row['seed']}: mean accuracy {row['mean_accuracy']:.3f}, R² {_shown(row['r2'])}, "
        f"epoch {row['best_epoch'] + 1} kept"
        for row in agreed["each"]
    ]
    mean, sd = agreed["mean"], agreed["sd"]
    lines.append(
        f"mean ± sd of {len(lines)} seeds: mean accuracy {mean['mean_accuracy']:.3f} ± {sd['mean_accuracy']:.3f}, "
        f"R² {_shown(mean['r2']['mean'])} ± {_shown(sd['r2']['mean'])}"
    )
    return "\n".join([*lines, agreed["verdict"]])


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
