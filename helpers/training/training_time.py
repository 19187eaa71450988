"""Where the time of a training went, and what follows from that.

In: the JSON of `helpers.training.callbacks`. Out: seconds and shares of start (tracing and compiling), steps,
validation and the rest, and recommendations, each with the measured number that it rests on.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.files import needs, read_json, write_json
from helpers.training.callbacks import METRICS_FILE, TIMES_FILE

MUCH = {"start": 0.2, "validation": 0.2, "other": 0.15}  # shares from which a part is worth changing something
UNEVEN = 2.0  # slowest twentieth of the executions over the median: something else uses the machine
WASTED = 0.25  # share of the epochs after the best one, from which patience is recommended


def analyse_time(times: dict[str, Any], metrics: dict[str, Any] | None = None) -> dict[str, Any]:
    """Share out the time of a training and say what would shorten it.

    The first execution and the first validation include tracing: what they take beyond the median of the later ones is
    the start. With a single one of a kind, nothing can be told apart and its time stays where it was measured.

    Args:
        times: What `TimeTrackingCallback` wrote.
        metrics: What `PerformanceMonitorCallback` wrote, to judge how many epochs were worth it.

    Returns:
        `seconds` and `share` of start, steps, validation and other, `total_s`, `epoch_s` and
        `step_ms` (medians without the start), `recommendations` (sentences).

    Raises:
        ValueError: No epoch was finished.
    """
    epochs, executions = pd.DataFrame(times["epoch"]), pd.DataFrame(times["execution"])
    if epochs.empty:
        raise ValueError("times must hold a finished epoch, got none. Train for one at least.")
    per_step = executions["seconds"] / executions["steps"]
    usual = per_step[1:].median() if len(per_step) > 1 else per_step.iloc[0]
    steps_start = max(executions["seconds"].iloc[0] - usual * executions["steps"].iloc[0], 0.0)
    validation_start = _beyond_the_usual(epochs["validation_s"])
    seconds = {
        "start": steps_start + validation_start,
        "steps": epochs["steps_s"].sum() - steps_start,
        "validation": epochs["validation_s"].sum() - validation_start,
        "other": epochs["other_s"].sum(),
    }
    seconds = {name: float(value) for name, value in seconds.items()}
    total = sum(seconds.values())
    found = {
        "seconds": seconds,
        "share": {name: value / total for name, value in seconds.items()},
        "total_s": total,
        "epoch_s": float(epochs["seconds"][1:].median() if len(epochs) > 1 else epochs["seconds"].iloc[0]),
        "step_ms": float(usual * 1000),
        "uneven": float(per_step[1:].quantile(0.95) / usual) if len(per_step) > 1 else 1.0,
        "epochs": len(epochs),
    }
    return found | {"recommendations": recommend(found, metrics)}


def _beyond_the_usual(seconds: pd.Series) -> float:
    return max(float(seconds.iloc[0] - seconds[1:].median()), 0.0) if len(seconds) > 1 else 0.0


def recommend(found: dict[str, Any], metrics: dict[str, Any] | None = None) -> list[str]:
    """Sentences that follow from the shares of `analyse_time`; at least one."""
    share, seconds = found["share"], found["seconds"]
    said = []
    if share["start"] > MUCH["start"]:
        said.append(
            f"Starting takes {share['start']:.0%} ({seconds['start']:.1f} s, once per training): a longer training "
            f"costs only {found['epoch_s']:.2f} s per epoch more, and a faster step would hardly be felt."
        )
    if share["validation"] > MUCH["validation"]:
        said.append(
            f"Validation takes {share['validation']:.0%} ({seconds['validation']:.1f} s): a smaller validation_share "
            "or larger validation batches would shorten it."
        )
    if share["other"] > MUCH["other"]:
        said.append(
            f"Callbacks, files and waiting for batches take {share['other']:.0%} ({seconds['other']:.1f} s): "
            "leave TensorBoard or other callbacks out, or write to a local disk."
        )
    if found["uneven"] > UNEVEN:
        said.append(
            f"The slowest twentieth of the executions takes {found['uneven']:.1f} times the median: something else "
            "uses this machine; fewer workers at a time would make each steadier."
        )
    said += _wasted_epochs(found, metrics)
    if not said or max(share, key=share.get) == "steps":
        said.append(
            f"Steps take {share['steps']:.0%} at {found['step_ms']:.1f} ms each: only larger batches, a smaller "
            "network, another backend or a faster device shorten the training itself."
        )
    return said


def _wasted_epochs(found: dict[str, Any], metrics: dict[str, Any] | None) -> list[str]:
    losses = [entry["val_loss"] for entry in (metrics or {}).get("epoch", []) if "val_loss" in entry]
    if not losses:
        return []
    after = len(losses) - 1 - int(np.argmin(losses))
    if after / len(losses) <= WASTED:
        return []
    return [
        f"The best of {len(losses)} epochs was number {len(losses) - after}: the {after} after it took about "
        f"{after * found['epoch_s']:.1f} s and changed nothing; patience would end such a training earlier."
    ]


def write_time_analysis(folder: str | Path) -> dict[str, Any]:
    """Analyse an experiment's folder; write and return `training_time_analysis/training_time_analysis.json`."""
    folder = Path(folder)
    times = read_json(needs(folder / TIMES_FILE, "a training with `helpers.training.callbacks.watchers`"))
    metrics = read_json(folder / METRICS_FILE) if (folder / METRICS_FILE).exists() else None
    found = analyse_time(times, metrics)
    write_json(folder / "training_time_analysis" / "training_time_analysis.json", found)
    return found
