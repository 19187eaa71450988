"""Training from plain arrays in one call: data, split, network, watching, results, and the model with its card.

In: `.npy` files as `helpers.arrays` reads them. Out: a folder per experiment with the state of a training that runs,
the JSON of the callbacks, `analysis.json`, `predictions.csv` and figures; and the model. With several seeds a folder
`seed-<k>/` each, and `seeds.json`.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from helpers import plots
from helpers.arrays import checked_output, form_of, read_arrays_by_row, read_features_by_row
from helpers.callbacks import read_logs, watchers, write_time_analysis
from helpers.config import TrainingConfig
from helpers.files import file_sha256, read_json, replacing, resolve, write_json
from helpers.metrics import as_summary, each_number, score_table
from helpers.plots import training as figures
from helpers.results import LICENCE
from helpers.serializer import card_beside, load_model, model_card
from helpers.splits import SPLITS, split_clips
from helpers.statistics import Paired, caveats, compare_sets, number
from helpers.store import STREAMS
from helpers.train import fit
from helpers.variants import TOKEN_MODEL, start_model

log = logging.getLogger(__name__)

# Adam at 0.001, halved on a plateau, stopped early: how the source project trains
SOURCE_CONFIG = TrainingConfig(learning_rate=1e-3, weight_decay=0.0, schedule="plateau", patience=10)
DRAWS = 500  # of the bootstrap
OVER_CONSTANT = "the model", "constant", "mean_accuracy"
STATE = "training.state.npz"


class TrainingSystem:
    """One experiment: features and labels that belong together by row, their split, and what was trained on it.

    Rows with ids are split by source. Without ids sources are unknown, rows are split at random, and that is said.

    Args:
        static_features_path, dynamic_features_path, labels_path: See `read_arrays_by_row`.
        experiment_name: Folder of the results, below `results/` unless it is a path with folders.
        ids_path: Clip of each row.
        config: Parameters of the training; its first seed decides split and start.
    """

    def __init__(
        self,
        static_features_path: str | Path,
        dynamic_features_path: str | Path,
        labels_path: str | Path,
        experiment_name: str | Path,
        *,
        ids_path: str | Path | None = None,
        config: TrainingConfig = SOURCE_CONFIG,
    ):
        self.paths = [Path(path) for path in (static_features_path, dynamic_features_path, labels_path)]
        self.data, self.order_trusted = read_arrays_by_row(*self.paths, ids_path), ids_path is None
        named = Path(experiment_name)
        self.folder = resolve(named if len(named.parts) > 1 else Path("results") / named)
        self.config, self.seed = config, config.seeds[0]
        self.kind = "random" if self.order_trusted else config.split
        if self.kind == "random":
            log.warning("rows are split at random: clips of one source may lie on both sides, and results flatter")
        shares = config.validation_share, config.test_share
        keys = np.arange(len(self.data)).astype(str)
        self.split = split_clips(keys, self.data.sources, self.data.splits, self.kind, self.seed, *shares)

    def build_model(self) -> keras.Model:
        """The network for the widths of these features, as it is before its training with this seed."""
        return start_model(TOKEN_MODEL, self.data, self.config, self.seed)

    def train_model(
        self, model: keras.Model | None = None, batch_size: int = 32, epochs: int = 50
    ) -> tuple[keras.Model, pd.DataFrame]:
        """Train a network and restore its best validation epoch; started again after a kill, go on.

        Args:
            model: Layers that are not trainable stay as they are; default: `build_model()`.
            batch_size: Rows per step.
            epochs: At most; fewer where `config.patience` ends them.

        Returns:
            The network, and one row per epoch: epoch, loss, val_loss (mean squared errors).
        """
        model = self.build_model() if model is None else model
        keras.utils.set_random_seed(self.seed)
        cfg = replace(self.config, batch_size=batch_size, epochs=epochs)
        parts = []
        for name in ("train", "validation"):
            rows = (self.split == name) & self.data.rated
            if not rows.any():
                raise ValueError(f"labels must hold rated rows for {name}, got none of {len(rows)}. Add ratings.")
            parts.append((self._inputs(rows), self.data.labels[rows]))
        callbacks = watchers(self.folder, self.folder / "tensorboard" if cfg.tensorboard else None)
        return model, fit(model, *parts, cfg, state=self.folder / STATE, callbacks=callbacks)

    def _inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What the network takes: sequences, or vectors where rows are such."""
        taken = {name: getattr(self.data, f"{name}_features")[rows] for name in STREAMS}
        return {name: array if form_of(array) == "sequence" else array[:, 0] for name, array in taken.items()}

    def analyze_results(self, model: keras.Model, history: pd.DataFrame) -> dict[str, Any]:
        """Score the test rows beside the constant predictor; write `analysis.json`, `predictions.csv`, figures.

        Returns:
            `metrics` and `constant` (see `as_summary`), `over_constant` (difference of mean accuracy and its 95 %
            interval by source, see `compare_sets`), `verdict`, `split`, `epochs`, `best_epoch`, `time` (see
            `analyse_time`).
        """
        pair, targets = self.test_pair(model), list(self.data.targets)
        mean = pair.b[0]
        over_constant = compare_sets([pair], targets, *OVER_CONSTANT, n=DRAWS)
        found = {
            "metrics": as_summary(score_table(pair.truth, pair.a, mean, targets)),
            "constant": as_summary(score_table(pair.truth, pair.b, mean, targets)),
            "over_constant": over_constant,
            "verdict": over_constant["verdict"],
            "split": self._split_facts(),
            "epochs": len(history),
            "best_epoch": int(history["val_loss"].idxmin()),
            "time": write_time_analysis(self.folder),
        }
        write_json(self.folder / "analysis.json", found)
        table = pd.DataFrame(pair.a, columns=targets).assign(clip=self.data.clips[self.split == "test"])
        with replacing(self.folder / "predictions.csv") as part:
            table.to_csv(part, index_label="row_of_test", float_format="%.6f")
        self._draw(found)
        return found

    def test_pair(self, model: keras.Model) -> Paired:
        """The test rows as the model and the constant predictor score them."""
        test = self.split == "test"
        truth, mean = self.data.labels[test], np.nanmean(self.data.labels[self.split == "train"], axis=0)
        prediction = model.predict(self._inputs(test), batch_size=1024, verbose=0).astype("float32")
        return Paired(truth, prediction, np.tile(mean, (len(truth), 1)), self.data.sources[test])

    def save(self, model: keras.Model, path: str | Path, found: dict[str, Any]) -> dict[str, Any]:
        """Write the model as `.keras` with its card beside it; then the state of the training is not needed any more.

        Args:
            model: Trained by `train_model`.
            path: Ends in `.keras`.
            found: What `analyze_results` returned.

        Returns:
            The card.
        """
        path = checked_output(path)
        card = model_card(
            model,
            data={
                "sha256": {p.name: file_sha256(p) for p in self.paths},
                "rows": len(self.data),
                "order_trusted": self.order_trusted,
            },
            split=found["split"],
            seed=self.seed,
            metrics=found["metrics"],
            weights={p.name: _provenance(p) for p in self.paths[:2]},
            licence=f"{LICENCE}: look there before passing the model on",
            caveats=caveats({}),
            targets=list(self.data.targets),
            forms={name: form_of(getattr(self.data, f"{name}_features")) for name in STREAMS},
            verdict=found["verdict"],
        )
        with replacing(path) as part:
            model.save(part)
        write_json(path.with_suffix(".card.json"), card)
        (self.folder / STATE).unlink(missing_ok=True)
        return card

    def _split_facts(self) -> dict[str, Any]:
        sources = self.data.sources
        sharing = np.isin(sources[self.split == "test"], sources[self.split == "train"]).sum()
        known = {part: int((self.split == part).sum()) for part in SPLITS}
        known["test_rows_sharing_a_source_with_train"] = None if self.order_trusted else int(sharing)
        return {"by": self.kind} | known

    def _draw(self, found: dict[str, Any]) -> None:
        logs = read_logs(self.folder)
        with plt.rc_context():
            plots.use_style()
            for name, figure in (
                ("training_dashboard", figures.plot_dashboard(logs, found)),
                ("training_time", figures.plot_time_dashboard(logs["times"], found["time"])),
            ):
                plots.save(figure, self.folder, name)
                plt.close(figure)


def train_personality_model(
    static_features_path: str | Path,
    dynamic_features_path: str | Path,
    labels_path: str | Path,
    output_path: str | Path,
    epochs: int = 50,
    batch_size: int = 32,
    *,
    ids_path: str | Path | None = None,
    config: TrainingConfig = SOURCE_CONFIG,
) -> tuple[keras.Model, pd.DataFrame]:
    """Train, analyse and save in one call, with the first seed of `config`.

    Several seeds: `helpers.training_system.train_with_seeds`.

    Args:
        static_features_path, dynamic_features_path, labels_path, ids_path, config: See `TrainingSystem`.
        output_path: The model, `<name>.keras`; its card and the folder `<name>/` of the experiment lie beside it.
        epochs, batch_size: See `TrainingSystem.train_model`.

    Returns:
        The network and its history.
    """
    output = checked_output(output_path)
    paths = static_features_path, dynamic_features_path, labels_path
    system = TrainingSystem(*paths, output.with_suffix(""), ids_path=ids_path, config=config)
    model, history = system.train_model(batch_size=batch_size, epochs=epochs)
    system.save(model, output, system.analyze_results(model, history))
    return model, history


def predict_features(
    model_path: str | Path, static_features_path: str | Path, dynamic_features_path: str | Path, output: str | Path
) -> np.ndarray:
    """Score rows of features with a saved model and write the scores, float32 (N, k), as `.npy`; returns them.

    Args:
        model_path: The `.keras` file, or a model folder.
        static_features_path, dynamic_features_path: See `read_features_by_row`; reduced as in the training.
        output: The `.npy` file.

    Raises:
        ValueError: Vectors for a model of sequences, or the reverse; other widths.
    """
    output = checked_output(output, ".npy")
    static, dynamic = read_features_by_row(static_features_path, dynamic_features_path)
    model = load_model(model_path, widths=(static.shape[-1], dynamic.shape[-1]))
    inputs = {"static": static, "dynamic": dynamic}
    _check_forms(model_path, inputs)
    scores = model.predict(inputs, batch_size=1024, verbose=0).astype("float32")
    with replacing(output) as part:
        np.save(part, scores)
    return scores


def _check_forms(model_path: str | Path, features: dict[str, np.ndarray]) -> None:
    """Raise ValueError where rows are vectors and the model saw sequences, or the reverse: it never learned such."""
    card = card_beside(model_path)
    trained = card.get("forms", dict.fromkeys(features, "sequence") if "extractors" in card else {})  # of 06
    if not trained:
        log.warning("%s: no card says whether it saw vectors or sequences; it can score only what it saw", model_path)
    for name, array in features.items() if trained else ():
        if (got := form_of(array)) != trained[name]:
            raise ValueError(
                f"{name}_features must hold a {trained[name]} per row, as {model_path} was trained on, "
                f"got {got}s, {array.shape}. Pass such, or train a model on these."
            )


def _provenance(features: Path) -> Any:
    """What a file of features says about the weights behind it, in the JSON that `large` writes beside it."""
    beside = features.with_suffix(".json")
    if not beside.exists():
        return "unknown: nothing lies beside the features that says so"
    return read_json(beside).get("identity", {}).get("weights", "not said")


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
    done = []
    for seed in seeds:
        one = replace(config, seeds=[seed])
        system = TrainingSystem(*paths, folder / f"seed-{seed}", ids_path=ids_path, config=one)
        model, history = system.train_model(batch_size=batch_size, epochs=epochs)
        done.append((system, model, history.assign(seed=seed), system.analyze_results(model, history)))
    for system, model, _, found in done:  # now their states are not needed any more
        system.save(model, system.folder / "model.keras", found)
    systems, models, histories, found = zip(*done, strict=True)
    pairs = [system.test_pair(model) for system, model in zip(systems, models, strict=True)]
    agreed = summarise_seeds(seeds, found, compare_sets(pairs, systems[0].data.targets, *OVER_CONSTANT))
    write_json(folder / "seeds.json", agreed)
    _keep_first(folder / f"seed-{seeds[0]}", output, agreed)
    return models[0], pd.concat(histories, ignore_index=True), agreed


def summarise_seeds(
    seeds: Sequence[int], found: Sequence[dict[str, Any]], over_constant: dict[str, Any]
) -> dict[str, Any]:
    """Put what `analyze_results` found with each seed together; see `train_with_seeds`."""
    metrics = [each["metrics"] for each in found]
    best = [each["best_epoch"] for each in found]
    return {
        "seeds": list(seeds),
        "mean": each_number(metrics, np.mean),
        "sd": each_number(metrics, lambda values: np.std(values, ddof=1)),
        "each": [
            {"seed": seed, "mean_accuracy": m["mean_accuracy"], "r2": m["r2"]["mean"], "best_epoch": epoch}
            for seed, m, epoch in zip(seeds, metrics, best, strict=True)
        ],
        "over_constant": over_constant,
        "verdict": over_constant["verdict"],
    }


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
        f"seed {row['seed']}: mean accuracy {number(row['mean_accuracy'], 3)}, R² {number(row['r2'])}, "
        f"epoch {row['best_epoch'] + 1} kept"
        for row in agreed["each"]
    ]
    (accuracy, r2), (accuracy_sd, r2_sd) = (
        (m["mean_accuracy"], m["r2"]["mean"]) for m in (agreed["mean"], agreed["sd"])
    )
    spread = f"mean accuracy {number(accuracy, 3)} ± {number(accuracy_sd, 3)}, R² {number(r2)} ± {number(r2_sd)}"
    return "\n".join([*lines, f"mean ± sd of {len(lines)} seeds: {spread}", agreed["verdict"]])
