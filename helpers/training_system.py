"""Training from plain arrays whose rows belong together, and scores of stored faces and flow.

In: `static_features.npy` (N, D) or (N, T, D), `dynamic_features.npy` likewise, `labels.npy` (N, k), and perhaps a file
that says whose the rows are. Out: a folder per experiment with the JSON of the callbacks, `analysis.json` and
`predictions.csv`; the model with its card; scores as `.npy`.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.align import Aligned, align_streams, read_reduction
from helpers.callbacks import read_logs, watchers
from helpers.clips import TRAITS
from helpers.config import DynamicConfig, StaticConfig, TrainingConfig
from helpers.experiment import LICENCE, Job, card_of, prediction_rows, split_of, summarise
from helpers.extract import extract_dynamic, extract_static, open_tree
from helpers.files import FolderLock, differences, file_sha256, replacing, resolve, write_json
from helpers.model import clips_at_once, load_model, save_model
from helpers.names import match_clips
from helpers.score import check_weights, read_card
from helpers.splits import source_of
from helpers.store import STREAMS
from helpers.train import Trainer, fingerprint
from helpers.variants import TOKEN_MODEL, constant, start_model

log = logging.getLogger(__name__)

# Adam at 0.001, halved on a plateau, stopped early: how the source project trains
SOURCE_CONFIG = TrainingConfig(seeds=[0], learning_rate=1e-3, weight_decay=0.0, schedule="plateau", patience=10)
STATE = "training.state.npz"


class TrainingSystem:
    """One experiment: features and labels that belong together by row, their split, and what is trained on it.

    Paths: see `read_arrays_by_row`; without ids sources are unknown, rows are split at random, and that is said. The
    folder of results is `experiment_name`, below `results/` unless it is a path with folders. The first seed of
    `config` decides split and start.
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
        named, seed = Path(experiment_name), config.seeds[0]
        self.folder = resolve(named if len(named.parts) > 1 else Path("results") / named)
        if any((self.folder / name).exists() for name in ("run.json", "clips.csv", "aligned")):
            raise ValueError(f"{self.folder} holds a run, whose files this would replace. Name another.")
        self.config = replace(config, seeds=[seed], models="constant", out_dir=str(self.folder))
        if self.order_trusted:
            self.config = replace(self.config, split="random")
        if self.config.split == "random":
            log.warning("rows are split at random: clips of one source may lie on both sides, and results flatter")
        self.seed, self.split = seed, split_of(self.data, self.config, seed)

    def train_model(
        self, model: keras.Model | None = None, batch_size: int = 32, epochs: int = 50
    ) -> tuple[keras.Model, pd.DataFrame]:
        """Train a network, by default the token model, for so many epochs at most; started again after a kill, go on.

        Returns the network as of its best validation epoch, and one row per epoch: epoch, loss, val_loss (mean squared
        errors). Layers that are not trainable stay as they are.
        """
        model, parts = model or start_model(TOKEN_MODEL, self.data, self.config, self.seed), []
        for name in ("train", "validation"):
            rows = (self.split == name) & self.data.rated
            if not rows.any():
                raise ValueError(f"labels must hold rated rows for {name}, got none of {len(rows)}. Add ratings.")
            parts.append((self._inputs(rows), self.data.labels[rows]))
        keras.utils.set_random_seed(self.seed)
        cfg = replace(self.config, batch_size=batch_size, epochs=epochs)
        known = fingerprint(cfg.as_dict(), [*model.get_weights(), *keras.tree.flatten(parts)])
        callbacks = watchers(self.folder, self.folder / "tensorboard" if cfg.tensorboard else None)
        how = {"state": self.folder / STATE, "known": known, "callbacks": callbacks}
        return model, Trainer(model, cfg).fit(model, *parts, **how)

    def _inputs(self, rows: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
        """What the network takes: sequences, or vectors where rows are such."""
        taken = {name: getattr(self.data, f"{name}_features")[rows] for name in STREAMS}
        return {name: array[:, 0] if array.shape[1] == 1 else array for name, array in taken.items()}

    def _predict(self, model: keras.Model) -> np.ndarray:
        inputs = self._inputs()
        return model.predict(inputs, batch_size=clips_at_once(inputs), verbose=0).astype("float32")

    def analyze_results(self, model: keras.Model, history: pd.DataFrame) -> dict[str, Any]:
        """Score the test rows beside the constant predictor; write `analysis.json` and `predictions.csv`.

        Returns what `experiment.summarise` does, and `verdict`, `epochs`, `best_epoch`, `time` (see `analyse_time`).
        """
        held_out, shown = np.isin(self.split, ("validation", "test")), []
        (answered,) = constant([self.data], self.split == "train", self.split == "validation")
        said = {"constant": answered, TOKEN_MODEL: self._predict(model)}
        for name, prediction in said.items():
            clips = self.split[held_out], self.data.take(held_out), prediction[held_out]
            shown.append(prediction_rows(Job(name, self.seed), *clips))
        table, logs = pd.concat(shown, ignore_index=True), read_logs(self.folder)
        found = summarise(table, self.data, self.config)
        if self.order_trusted:
            found["split"]["test_clips_sharing_a_source_with_train"] = None
        found |= {"verdict": found["comparisons"][0]["verdict"], "time": logs["analysis"]}
        found |= {"epochs": len(history), "best_epoch": int(history["val_loss"].idxmin())}
        write_json(self.folder / "analysis.json", found)
        with replacing(self.folder / "predictions.csv") as part:
            table.to_csv(part, index=False, float_format="%.6f")
        return found

    def save(self, model: keras.Model, path: str | Path, found: dict[str, Any]) -> dict[str, Any]:
        """Write a trained model as `.keras`, and beside it its card, returned; `found`: of `analyze_results`."""
        hashes = {path.name: file_sha256(path) for path in self.paths}
        card = card_of(Job(TOKEN_MODEL, self.seed), found, self.data, self.split, self._predict(model)) | {
            "metrics": found["models"][TOKEN_MODEL],
            "verdict": found["verdict"],
            "data": {"sha256": hashes, "rows": len(self.data), "order_trusted": self.order_trusted},
            "licence": f"{LICENCE}: look there before passing the model on",
        }
        card = save_model(model, checked_output(path), card)
        (self.folder / STATE).unlink(missing_ok=True)
        return card


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
    with FolderLock(system.folder):
        model, history = system.train_model(batch_size=batch_size, epochs=epochs)
        system.save(model, output, system.analyze_results(model, history))
    return model, history


def read_arrays_by_row(
    static_features: str | Path, dynamic_features: str | Path, labels: str | Path, ids: str | Path | None = None
) -> Aligned:
    """Read `.npy` files whose rows belong together by position as the clips that 05 aligns.

    `labels`: ratings in [0, 1], NaN where one is missing; columns are the five traits, or `target_1` and so on where it
    is another number. `ids`: clip of each row, a text file with a key per line, or a CSV with a column `clip`; without
    it the order is trusted, with a warning.
    """
    read = {path: _load(path) for path in (static_features, dynamic_features)} | {labels: _load(labels, (2,), "fiu")}
    n_rows, n_targets = read[labels].shape
    if ids is None:
        names = [str(row) for row in range(n_rows)]
        log.warning("%s: order trusted: nothing ties a row to its clip, and leakage cannot be known", labels)
    else:
        read[ids] = names = _read_ids(Path(ids))
    if len({len(rows) for rows in read.values()}) > 1:
        got = ", ".join(f"{len(rows)} in {Path(path).name}" for path, rows in read.items())
        raise ValueError(
            f"rows must belong together one by one, got {got}. Cut nothing to length: align by clip "
            "(`python -m helpers features`, 05)."
        )
    arrays: dict[str, np.ndarray] = {}
    for stream, path in zip(STREAMS, (static_features, dynamic_features), strict=True):
        array = read[path].reshape(n_rows, -1, read[path].shape[-1])  # (N, T, D)
        arrays |= {f"{stream}_features": array, f"{stream}_mask": np.ones(array.shape[:2], bool)}
        arrays[f"{stream}_t_s"] = np.tile(np.arange(array.shape[1], dtype="float32"), (n_rows, 1))
    return Aligned(
        **arrays,
        labels=read[labels],
        clips=np.array(names if len(set(names)) == n_rows else [f"{name}#{row}" for row, name in enumerate(names)]),
        sources=np.array([source_of(name) for name in names]),
        splits=np.full(n_rows, ""),
        targets=np.array(TRAITS if n_targets == len(TRAITS) else [f"target_{k + 1}" for k in range(n_targets)]),
    )


def _load(path: str | Path, dimensions: tuple[int, ...] = (2, 3), kinds: str = "f") -> np.ndarray:
    """A `.npy` file as float32; any other file is refused."""
    try:
        array = np.array(np.lib.format.open_memmap(path, mode="r"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a plain array ({error}). Name a `.npy` file.") from None
    if array.ndim not in dimensions or array.dtype.kind not in kinds:
        must = "floats (N, D) or (N, T, D)" if kinds == "f" else "numbers (N, targets)"
        raise ValueError(f"{path} must hold {must}, got {array.dtype} {array.shape}.")
    return array.astype("float32", copy=False)


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


def predict_trees(
    model_dir: str | Path,
    face_dir: str | Path,
    flow_dir: str | Path,
    output: str | Path,
    *,
    faces_fps: float | None = None,
    flow_fps: float | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Make the features of both trees with the networks that a run's model was trained behind, and score them.

    `faces_fps`, `flow_fps`: see `helpers.precomputed`; default: as in a training on trees. `<name>.npy` holds the
    scores, float32 (N, k); `<name>_ids.txt` the clip of each row; `<name>.json` the rest, and why clips are left out
    that are in one tree only or have no row that can be used; `<name>/` the features, which another call does not make
    again. Returns the scores, index clip in the natural order of the names, a column per target.
    """
    output, folder = checked_output(output, ".npy"), Path(model_dir)
    card = read_card(folder, of_videos=False)
    model, trained = load_model(folder), card["extractors"]
    own = {"out_dir": str(output.with_suffix("")), "progress": progress}
    static = StaticConfig.checked(_parameters(trained["static"], "faces", face_dir, faces_fps) | own)
    dynamic = DynamicConfig.checked(_parameters(trained["dynamic"], "flow", flow_dir, flow_fps) | own)
    clips, left_out = clips_of_trees(static, dynamic)
    made = {"dynamic": extract_dynamic(clips, dynamic), "static": extract_static(clips, static)}
    odd = _compare_with_training(made, card)
    reduction = read_reduction(folder / "reduction.npz")
    aligned = align_streams(clips, static.out / "static", dynamic.out / "dynamic", reduction, targets=())
    failed = {e["clip"]: f"{name}: {e['reason']}" for name, manifest in made.items() for e in manifest["failed"]}
    for key in clips.index.difference(aligned.clips, sort=False):
        left_out[key] = failed.get(key, "it has no row that can be used")
    inputs = aligned.inputs()
    scores = model.predict(inputs, batch_size=clips_at_once(inputs), verbose=0).astype("float32")
    about = {"model": str(folder), "targets": card["targets"], "clips": len(aligned), "left_out": left_out}
    write_json(output.with_suffix(".json"), about | {"trained_on_other_input": odd})
    with replacing(output.with_name(f"{output.stem}_ids.txt")) as part:
        part.write_text("".join(f"{clip}\n" for clip in aligned.clips), encoding="utf-8")
    with replacing(output) as part:
        np.save(part, scores)
    return pd.DataFrame(scores, columns=card["targets"], index=pd.Index(aligned.clips, name="clip"))


def _compare_with_training(made: dict[str, Any], card: dict[str, Any]) -> list[str]:
    """How the input of these manifests differs from a model's; ValueError where the networks have other weights."""
    trained = card["extractors"]
    for name, manifest in made.items():
        check_weights(name, manifest["identity"]["weights"]["sha256"], card)
    ours = {name: _view(manifest["identity"]) for name, manifest in made.items()}
    odd = differences(ours, {name: _view(trained[name]) for name in made})
    for line in odd:
        log.warning("the model was trained on other input: %s", line)
    return odd


def _parameters(trained: dict[str, Any], kind: str, folder: str | Path, fps: float | None) -> dict[str, Any]:
    """The parameters that a stream of the model was made with, for another tree of faces or flow."""
    fps = fps or trained.get("stored", {}).get("fps")
    own = {f"{kind}_dir": str(Path(folder).resolve())} | ({f"{kind}_fps": float(fps)} if fps else {})
    return trained["parameters"] | own


def _view(identity: dict[str, Any]) -> dict[str, Any]:
    """What a stream was made of, but for its folder."""
    stored = identity.get("stored", {"cut_from": "videos"})
    return {name: value for name, value in stored.items() if name not in ("faces", "flow")}


def clips_of_trees(static: StaticConfig, dynamic: DynamicConfig) -> tuple[pd.DataFrame, dict[str, str]]:
    """The clips of both trees as a table that extraction takes, and why others are left out."""
    faces, flow = open_tree(static), open_tree(dynamic)
    named, refused = match_clips(flow.clips, faces.clips)
    keys = [key for key in faces.clips if key in named]
    left_out = {key: f"it has no flow in {flow.folder.name}" for key in faces.clips if key not in named}
    left_out |= {name: f"its flow fits no faces: {reason}" for name, reason in refused.items()}
    if not keys:
        name, reason = next(iter(left_out.items()))
        raise ValueError(
            f"{faces.folder} and {flow.folder} must hold clips of the same names, got {len(faces.clips)} and "
            f"{len(flow.clips)} and none in both; {name}: {reason}. Call their folders alike."
        )
    return pd.DataFrame({"path": keys, "source": keys, "split": ""}, index=pd.Index(keys, name="key")), left_out
