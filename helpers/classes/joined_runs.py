"""Several runs of clip classification as one ensemble: what the mean of their probabilities is worth.

In: the folders of runs that were trained on the same clips, classes and folds with other features, such as those of
two backbones (`classification/classification.json` and `predictions.csv`). Out: results of the form that
`helpers.classes.classification` has for one run. Nothing is trained, and no features are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.classes.classification import MAJORITY, Probabilities, calibration_error, gain, per_class, score_models
from helpers.classes.clip_training import BAG
from helpers.classes.views import PLAIN
from helpers.files import needs, read_json

JOINED = "joined"
MADE_OF = ("backbone", "weights", "input_px", "n_frames", "precision")


@dataclass(frozen=True)
class RunPredictions:
    """What one run says of its N test clips.

    Attributes:
        name: The folder, as it was given.
        results: Its `classification.json`.
        clips: Index clip, sorted; columns source, fold, truth.
        p: Probabilities (N, n_classes) of the majority, the bag of frames and the run's best row, by variant.
    """

    name: str
    results: dict[str, Any]
    clips: pd.DataFrame
    p: Probabilities

    @property
    def best(self) -> str:
        return self.results["best"]


def read_predictions(run: str | Path) -> RunPredictions:
    """Read the predictions of a run.

    Raises:
        FileNotFoundError: It is not trained.
        ValueError: Its predictions are of an older version, without folds.
    """
    folder = Path(run) / "classification"
    results = read_json(needs(folder / "classification.json", "classify train"))
    path = needs(folder / "predictions.csv", "classify train")
    table = pd.read_csv(path, dtype={"clip": str, "source": str, "truth": str}, keep_default_na=False)
    columns = [f"p_{name}" for name in results["classes"]]
    absent = sorted({"fold", *columns}.difference(table.columns))
    if absent:
        raise ValueError(f"{path} must have a column {absent[0]}. Run classify train again: it writes one.")
    table = table[table["model"].isin((MAJORITY, BAG, results["best"]))].sort_values("clip", kind="stable")
    p: dict[str, dict[str, np.ndarray]] = {}
    for (model, variant), part in table.groupby(["model", "variant"]):
        p.setdefault(model, {})[variant] = part[columns].to_numpy("float64")
    plain = table[(table["model"] == MAJORITY) & (table["variant"] == PLAIN)]
    return RunPredictions(str(run), results, plain.set_index("clip")[["source", "fold", "truth"]], p)


def join_runs(runs: Sequence[str | Path]) -> dict[str, Any]:
    """Average the best rows of several runs, each as much as the others, and score the average beside them.

    In every run a clip was tested by models that had not seen it, and so it is by the average. The bag of frames of the
    table is the average of the runs' bags.

    Args:
        runs: Folders, at least two.

    Returns:
        `models` (see `score_models`; in the `order` majority, bag of frames, the runs by their folders, "joined"),
        `gains` of the average over each run, paired, `per_class` and `calibration` of the average, `runs` (what each
        was made with), `classes`, `split`, `best`.

    Raises:
        ValueError: Runs of other classes, clips or folds, or one run twice.
    """
    read = [read_predictions(run) for run in runs]
    if len({Path(run).resolve() for run in runs}) < max(2, len(runs)):
        raise ValueError(f"runs to join must be two different ones at least, got {', '.join(map(str, runs))}.")
    for other in read[1:]:
        _check_alike(read[0], other)
    p = {MAJORITY: read[0].p[MAJORITY], BAG: _mean([run.p[BAG] for run in read])}
    p |= {run.name: run.p[run.best] for run in read}
    p[JOINED] = _mean([run.p[run.best] for run in read])
    common = list(p[JOINED])  # a run may have been tested without damaged copies
    p = {name: {variant: by_variant[variant] for variant in common} for name, by_variant in p.items()}
    classes, sources = tuple(read[0].results["classes"]), read[0].clips["source"].to_numpy()
    truth = np.array([classes.index(name) for name in read[0].clips["truth"]])
    return {
        "models": score_models(p, truth, sources),
        "order": list(p),
        "gains": {f"{JOINED} - {run.name}": gain(p[JOINED], p[run.name], truth, sources) for run in read},
        "per_class": per_class(p[JOINED][PLAIN], truth, classes).to_dict("index"),
        "calibration": {name: calibration_error(by_variant[PLAIN], truth) for name, by_variant in p.items()},
        "runs": {run.name: {k: run.results["config"][k] for k in MADE_OF} | {"row": run.best} for run in read},
        "classes": list(classes),
        "split": read[0].results["split"],
        "best": JOINED,
    }


def _mean(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean of several models' probabilities by variant, of the variants that all have."""
    common = reduce(lambda names, part: [name for name in names if name in part], parts, sorted(parts[0]))
    return {name: np.mean([part[name] for part in parts], axis=0) for name in common}


def _check_alike(first: RunPredictions, other: RunPredictions) -> None:
    """Raise ValueError where two runs are not of the same classes, clips and folds, and say in how many they differ."""
    said = f"runs to join must be of the same %s, {first.name} and {other.name} %s. %s"
    ours, theirs = first.results["classes"], other.results["classes"]
    if ours != theirs:
        n = len(set(ours) ^ set(theirs))
        raise ValueError(said % ("classes", f"differ in {n} of {len({*ours, *theirs})}", "Leave one of them out."))
    apart = first.clips.index.symmetric_difference(other.clips.index)
    if len(apart):
        counts = f"have {len(first.clips)} and {len(other.clips)} test clips, {len(apart)} of them in one run only"
        raise ValueError(said % ("clips", counts, f"See what was left out, such as {apart[0]}."))
    for column, name in (("truth", "labels"), ("source", "sources"), ("fold", "folds")):
        n = int((first.clips[column] != other.clips[column]).sum())
        if n:
            counts = f"differ in {n} of {len(first.clips)} clips"
            raise ValueError(said % (name, counts, "Train them with the same data, split, folds and seed."))
