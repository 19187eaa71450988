"""Training from plain arrays in one call: `.npy` files whose rows belong together become the clips that 05 aligns.

In: `static_features.npy` (N, D) or (N, T, D), `dynamic_features.npy` likewise, `labels.npy` (N, k), and perhaps a file
that says whose the rows are. Out: a folder per experiment with the JSON of the callbacks, `analysis.json`,
`predictions.csv` and figures; the model with its card.
"""

import logging
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from helpers import plots
from helpers.align import Aligned
from helpers.callbacks import read_logs, watchers
from helpers.clips import TRAITS
from helpers.config import TrainingConfig
from helpers.experiment import Job, split_of
from helpers.files import file_sha256, read_json, replacing, resolve, write_json
from helpers.metrics import as_summary, score_table
from helpers.plots import training as figures
from helpers.ratings import read_positional
from helpers.results import LICENCE, prediction_rows, split_facts
from helpers.serializer import card_beside, load_model, model_card
from helpers.splits import source_of
from helpers.statistics import CAVEATS, compare_models
from helpers.store import STREAMS
from helpers.train import Trainer
from helpers.variants import TOKEN_MODEL, start_model

log = logging.getLogger(__name__)

# Adam at 0.001, halved on a plateau, stopped early: how the source project trains
SOURCE_CONFIG = TrainingConfig(seeds=[0], learning_rate=1e-3, weight_decay=0.0, schedule="plateau", patience=10)
STATE = "training.state.npz"


class TrainingSystem:
    """One experiment: features and labels that belong together by row, their split, and what is trained on it.

    Args:
        static_features_path, dynamic_features_path, labels_path, ids_path: See `read_arrays_by_row`. Without ids
            sources are unknown, rows are split at random, and that is said.
        experiment_name: Folder of the results, below `results/` unless it is a path with folders.
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
        self.config = replace(config, split="random") if self.order_trusted else config
        self.job = Job(TOKEN_MODEL, config.seeds[0])
        if self.config.split == "random":
            log.warning("rows are split at random: clips of one source may lie on both sides, and results flatter")
        self.split = split_of(self.data, self.config, self.job.seed)

    def train_model(
        self, model: keras.Model | None = None, batch_size: int = 32, epochs: int = 50
    ) -> tuple[keras.Model, pd.DataFrame]:
        """Train a network and restore its best validation epoch; started again after a kill, go on.

        Args:
            model: Default: the token model. Layers that are not trainable stay as they are.
            epochs: At most; fewer where `config.patience` ends them.

        Returns:
            The network, and one row per epoch: epoch, loss, val_loss (mean squared errors).
        """
        model, parts = model or start_model(TOKEN_MODEL, self.data, self.config, self.job.seed), []
        for name in ("train", "validation"):
            rows = (self.split == name) & self.data.rated
            if not rows.any():
                raise ValueError(f"labels must hold rated rows for {name}, got none of {len(rows)}. Add ratings.")
            parts.append((self._inputs(rows), self.data.labels[rows]))
        keras.utils.set_random_seed(self.job.seed)
        cfg = replace(self.config, batch_size=batch_size, epochs=epochs)
        callbacks = watchers(self.folder, self.folder / "tensorboard" if cfg.tensorboard else None)
        return model, Trainer(model, cfg).fit(model, *parts, state=self.folder / STATE, callbacks=callbacks)

    def _inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What the network takes: sequences, or vectors where rows are such."""
        taken = {name: getattr(self.data, f"{name}_features")[rows] for name in STREAMS}
        return {name: array if form_of(array) == "sequence" else array[:, 0] for name, array in taken.items()}

    def analyze_results(self, model: keras.Model, history: pd.DataFrame) -> dict[str, Any]:
        """Score the test rows beside the constant predictor; write `analysis.json`, `predictions.csv`, figures.

        Returns:
            `metrics` and `constant` (see `as_summary`), `over_constant` (difference of mean accuracy and its 95 %
            interval by source, see `compare_models`), `verdict`, `split`, `epochs`, `best_epoch`, `time` (see
            `analyse_time`).
        """
        test = self.data.take(self.split == "test")
        mean = np.nanmean(self.data.labels[self.split == "train"], axis=0)
        prediction = model.predict(self._inputs(self.split == "test"), batch_size=1024, verbose=0).astype("float32")
        said = {TOKEN_MODEL: prediction, "constant": np.tile(mean, (len(test), 1))}
        scores = {name: as_summary(score_table(test.labels, p, mean, list(test.targets))) for name, p in said.items()}
        split = np.full(len(test), "test")
        rows = [prediction_rows(Job(name, self.job.seed), split, test, p) for name, p in said.items()]
        table, logs = pd.concat(rows, ignore_index=True), read_logs(self.folder)
        found = {"metrics": scores[TOKEN_MODEL], "constant": scores["constant"]}
        found["over_constant"] = compare_models(table, TOKEN_MODEL, "constant", "mean_accuracy")
        found |= {"verdict": found["over_constant"]["verdict"], "split": self._split_facts(), "time": logs["analysis"]}
        found |= {"epochs": len(history), "best_epoch": int(history["val_loss"].idxmin())}
        write_json(self.folder / "analysis.json", found)
        with replacing(self.folder / "predictions.csv") as part:
            table.to_csv(part, index=False, float_format="%.6f")
        with plt.rc_context():
            plots.use_style()
            plots.save(figures.plot_dashboard(logs, title=found["verdict"]), self.folder, "training_dashboard")
            plt.close("all")
        return found

    def _split_facts(self) -> dict[str, Any]:
        facts = split_facts(self.data, self.config.split, [self.split])
        sharing = facts.pop("test_clips_sharing_a_source_with_train")
        return facts | {"test_rows_sharing_a_source_with_train": None if self.order_trusted else sharing}

    def save(self, model: keras.Model, path: str | Path, found: dict[str, Any]) -> dict[str, Any]:
        """Write a trained model as `.keras`, and beside it its card, returned; `found`: of `analyze_results`."""
        path = checked_output(path)
        hashes = {p.name: file_sha256(p) for p in self.paths}
        known = {name: found[name] for name in ("split", "metrics", "verdict")} | {
            "data": {"sha256": hashes, "rows": len(self.data), "order_trusted": self.order_trusted},
            "seed": self.job.seed,
            "weights": {p.name: _weights_behind(p) for p in self.paths[:2]},
            "licence": f"{LICENCE}: look there before passing the model on",
            "caveats": list(CAVEATS),
            "targets": list(self.data.targets),
            "forms": {name: form_of(getattr(self.data, f"{name}_features")) for name in STREAMS},
        }
        card = model_card(model, known)
        with replacing(path) as part:
            model.save(part)
        write_json(path.with_suffix(".card.json"), card)
        (self.folder / STATE).unlink(missing_ok=True)
        return card


def _weights_behind(features: Path) -> Any:
    """What the JSON says that `large` writes beside a file of features."""
    beside = features.with_suffix(".json")
    if not beside.exists():
        return "unknown: nothing lies beside the features that says so"
    return read_json(beside).get("identity", {}).get("weights", "not said")


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
    """Train, analyse and save in one call; the network and its history. Arguments: see `TrainingSystem`.

    The model is `output_path`, `<name>.keras`; its card and the folder `<name>/` of the experiment lie beside it.
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
        static_features_path, dynamic_features_path: Reduced as in the training, and vectors or sequences as there.
    """
    output = checked_output(output, ".npy")
    inputs = _read_features(static_features_path, dynamic_features_path)
    model = load_model(model_path, widths=tuple(array.shape[-1] for array in inputs.values()))
    card = card_beside(model_path)
    trained = card.get("forms", dict.fromkeys(STREAMS, "sequence") if "extractors" in card else {})  # of 06
    if not trained:
        log.warning("%s: no card says whether it saw vectors or sequences; it can score only what it saw", model_path)
    for name, array in inputs.items():
        if (got := form_of(array)) != trained.get(name, got):  # it never learned such
            raise ValueError(
                f"{name}_features must hold a {trained[name]} per row, as {model_path} was trained on, "
                f"got {got}s, {array.shape}. Pass such, or train a model on these."
            )
    scores = model.predict(inputs, batch_size=1024, verbose=0).astype("float32")
    with replacing(output) as part:
        np.save(part, scores)
    return scores


def read_arrays_by_row(
    static_features: str | Path, dynamic_features: str | Path, labels: str | Path, ids: str | Path | None = None
) -> Aligned:
    """Read files whose rows belong together by position as the clips that 05 aligns.

    Args:
        static_features, dynamic_features, labels: `.npy` files; columns of labels are the five traits, or `target_1`
            and so on where it is another number.
        ids: Clip of each row: a text file with a key per line, or a CSV with a column `clip`. Without it the order is
            trusted, with a warning.
    """
    features = _read_features(static_features, dynamic_features)
    n_columns = _load(labels).shape[-1]
    targets = TRAITS if n_columns == len(TRAITS) else [f"target_{k + 1}" for k in range(n_columns)]
    clips = names = None if ids is None else _read_ids(Path(ids))
    if clips and len(set(clips)) < len(clips):  # rows may share a clip
        names = [f"{clip}#{row}" for row, clip in enumerate(clips)]
    ratings = read_positional(labels, names, targets)
    _check_rows(labels, ratings, static_features, features["static"])
    known = {}
    for name, array in features.items():
        array = array[:, None] if array.ndim == 2 else array  # (N, T, D)
        known |= {f"{name}_features": array, f"{name}_mask": np.ones(array.shape[:2], bool)}
        known[f"{name}_t_s"] = np.tile(np.arange(array.shape[1], dtype="float32"), (len(array), 1))
    known |= {"clips": ratings.index.to_numpy(str), "splits": np.full(len(ratings), ""), "targets": np.array(targets)}
    sources = np.array([source_of(clip) for clip in clips or ratings.index])
    return Aligned(**known, sources=sources, labels=ratings.to_numpy("float32"))


def _read_features(static_features: str | Path, dynamic_features: str | Path) -> dict[str, np.ndarray]:
    """Both files of features, float32 (N, D) or (N, T, D), by stream."""
    read = {}
    for name, path in zip(STREAMS, (static_features, dynamic_features), strict=True):
        array = _load(path)
        if array.ndim not in (2, 3) or array.dtype.kind != "f":
            raise ValueError(f"{path} must hold floats of shape (N, D) or (N, T, D), got {array.dtype} {array.shape}.")
        read[name] = array.astype("float32", copy=False)
    _check_rows(static_features, read["static"], dynamic_features, read["dynamic"])
    return read


def form_of(features: np.ndarray) -> str:
    """Whether each row of (N, D) or (N, T, D) is a "vector" or a "sequence"; one vector in time is no sequence."""
    return "sequence" if features.ndim == 3 and features.shape[1] > 1 else "vector"


def _load(path: str | Path) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a plain array ({error}). Name a `.npy` file.") from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise ValueError(f"{path} must hold one plain array, got an archive. Name a `.npy` file: np.save writes one.")
    if not found.ndim:
        raise ValueError(f"{path} must hold rows, got one number. Name another file.")
    return found


def _check_rows(one: str | Path, rows: Any, other: str | Path, others: Any) -> None:
    if len(rows) != len(others):
        raise ValueError(
            f"rows must belong together one by one, got {len(rows)} in {Path(one).name} and {len(others)} in "
            f"{Path(other).name}. Cut neither to length: align them by clip (`python -m helpers features`, 05)."
        )


def _read_ids(path: Path) -> list[str]:
    if path.suffix.lower() != ".csv":
        return path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if "clip" not in table:
        raise ValueError(f"{path.name} must have a column clip, got {', '.join(table)}. Name its column so.")
    return table["clip"].tolist()


def checked_output(path: str | Path, suffix: str = ".keras") -> Path:
    """An absolute path that ends so; ValueError for another."""
    path = Path(path).expanduser().absolute()
    if path.suffix != suffix:
        raise ValueError(f"output must end in {suffix}, got {path.name}. Name another file.")
    return path
