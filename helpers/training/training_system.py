"""Training from plain arrays in one call: data, split, network, watching, results, and the model with its card.

In: `.npy` files of features and labels (`helpers.training.arrays`). Out: a folder per experiment with the state of a
training that runs, `helpers.training.callbacks`'s JSON, `analysis.json`, `predictions.csv` and figures; and the model.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from helpers import plots
from helpers.config import TrainingConfig
from helpers.files import file_sha256, read_json, replacing, resolve, write_json
from helpers.metrics import as_summary, score_table
from helpers.model import CompletePersonalityModel
from helpers.plots import training as figures
from helpers.splits import split_clips
from helpers.statistics import Paired, caveats, compare_sets
from helpers.training.arrays import RowArrays, form_of, read_arrays_by_row, read_features_by_row
from helpers.training.callbacks import read_logs, tensorboard, watchers
from helpers.training.fitting import computing_in, fit
from helpers.training.live import watch_live
from helpers.training.networks import freeze_parts
from helpers.training.results import LICENCE
from helpers.training.serializer import card_beside, load_model, model_card
from helpers.training.training_time import write_time_analysis

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
        self.data: RowArrays = read_arrays_by_row(*self.paths, ids=ids_path)
        named = Path(experiment_name)
        self.folder = resolve(named if len(named.parts) > 1 else Path("results") / named)
        self.config, self.seed = config, config.seeds[0]
        self.kind = "random" if self.data.order_trusted else config.split
        if self.kind == "random":
            log.warning("rows are split at random: clips of one source may lie on both sides, and results flatter")
        shares = config.validation_share, config.test_share
        sources = self.data.sources
        keys, official = np.arange(len(sources)).astype(str), np.full(len(sources), "")
        self.split = split_clips(keys, sources, official, self.kind, self.seed, *shares)

    def build_model(self) -> CompletePersonalityModel:
        """The network for the widths of these features, as it is before its training with this seed."""
        cfg = self.config
        keras.utils.set_random_seed(self.seed)
        with computing_in(cfg.precision):
            model = CompletePersonalityModel(
                *self.data.widths, cfg.fusion_dim, cfg.num_heads, cfg.dropout_rate, len(self.data.targets)
            )
        freeze_parts(model, cfg.frozen)
        return model

    def train_model(
        self, model: keras.Model | None = None, batch_size: int = 32, epochs: int = 50
    ) -> tuple[keras.Model, pd.DataFrame]:
        """Train a network and restore its best validation epoch; started again after a kill, go on.

        Args:
            model: Layers that are not trainable stay as they are; default: `build_model()`.
            batch_size: Rows per step.
            epochs: At most; fewer where `config.patience` ends them.

        Returns:
            The network, and one row per epoch: epoch, loss, val_loss (mean squared errors), learning_rate.
        """
        model = self.build_model() if model is None else model
        keras.utils.set_random_seed(self.seed)
        cfg = replace(self.config, batch_size=batch_size, epochs=epochs)
        parts = [self._part(name) for name in ("train", "validation")]
        more = [watch_live(), *([tensorboard(self.folder / "tensorboard")] if cfg.tensorboard else [])]
        history = fit(model, *parts, cfg, state=self.folder / STATE, callbacks=[*watchers(self.folder), *more])
        return model, history

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
        prediction = model.predict(self.data.inputs(test), batch_size=1024, verbose=0).astype("float32")
        return Paired(truth, prediction, np.tile(mean, (len(truth), 1)), np.asarray(self.data.sources[test]))

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
        files = {p.name: file_sha256(p) for p in self.paths}
        card = model_card(
            model,
            data={"sha256": files, "rows": len(self.data.labels), "order_trusted": self.data.order_trusted},
            split=found["split"],
            seed=self.seed,
            metrics=found["metrics"],
            weights={p.name: _provenance(p) for p in self.paths[:2]},
            licence=f"{LICENCE}: look there before passing the model on",
            caveats=caveats({}),
            targets=list(self.data.targets),
            forms=self.data.forms,
            verdict=found["verdict"],
        )
        with replacing(path) as part:
            model.save(part)
        write_json(path.with_suffix(".card.json"), card)
        (self.folder / STATE).unlink(missing_ok=True)
        return card

    def _part(self, name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rated = ~np.isnan(self.data.labels).all(1)
        rows = np.flatnonzero((self.split == name) & rated)
        if not len(rows):
            raise ValueError(f"labels must hold rated rows for {name}, got none of {len(rated)}. Add ratings.")
        return self.data.inputs(rows), self.data.labels[rows]

    def _split_facts(self) -> dict[str, Any]:
        sources = self.data.sources
        sharing = np.isin(sources[self.split == "test"], sources[self.split == "train"]).sum()
        counts = {part: int((self.split == part).sum()) for part in ("train", "validation", "test")}
        unknown = self.data.order_trusted
        return {"by": self.kind} | counts | {"test_rows_sharing_a_source_with_train": None if unknown else int(sharing)}

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

    Several seeds: `helpers.training.training_seeds.train_with_seeds`.

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
    output = checked_npy(output)
    static, dynamic = read_features_by_row(static_features_path, dynamic_features_path)
    model = load_model(model_path, widths=(static.shape[-1], dynamic.shape[-1]))
    _check_forms(model_path, {"static": static, "dynamic": dynamic})
    inputs = {"static": np.asarray(static, "float32"), "dynamic": np.asarray(dynamic, "float32")}
    scores = model.predict(inputs, batch_size=1024, verbose=0).astype("float32")
    with replacing(output) as part:
        np.save(part, scores)
    return scores


def _check_forms(model_path: str | Path, features: dict[str, np.ndarray]) -> None:
    """Raise ValueError where rows are vectors and the model saw sequences, or the reverse: it never learned such."""
    card = card_beside(model_path)
    of_06 = dict.fromkeys(features, "sequence") if "extractors" in card else None
    trained = card.get("forms", of_06)
    if trained is None:
        log.warning("%s: no card says whether it saw vectors or sequences; it can score only what it saw", model_path)
        return
    for name, array in features.items():
        if form_of(array) != trained[name]:
            raise ValueError(
                f"{name}_features must hold a {trained[name]} per row, as {model_path} was trained on, "
                f"got {form_of(array)}s, {array.shape}. Pass such, or train a model on these."
            )


def checked_output(path: str | Path) -> Path:
    """An absolute path that ends in `.keras`; ValueError says what became of `.h5`."""
    path = Path(path).expanduser().absolute()
    if path.suffix != ".keras":
        raise ValueError(
            f"output must end in .keras, got {path.name}. Keras' old .h5 cannot hold this network; it is only read."
        )
    return path


def checked_npy(path: str | Path) -> Path:
    """An absolute path that ends in `.npy`."""
    path = Path(path).expanduser().absolute()
    if path.suffix != ".npy":
        raise ValueError(f"output must end in .npy, got {path.name}.")
    return path


def _provenance(features: Path) -> Any:
    """What a file of features says about the weights behind it, in the JSON that `large` writes beside it."""
    beside = features.with_suffix(".json")
    if not beside.exists():
        return "unknown: nothing lies beside the features that says so"
    return read_json(beside).get("identity", {}).get("weights", "not said")
