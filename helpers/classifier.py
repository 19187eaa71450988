"""The classifier of clips: a masked BiLSTM over frame features, its trainings, the baselines that it has to beat.

Frame features come from a frozen backbone (`helpers.clip_features`). Written below `<out>/classification/`: for each
training `models/<model>-<fold>-<seed>.npz` (the probabilities (n_test, n_classes) of its test clips in every view, and
their rows) and, for networks, `.keras`; of all, `classification.json` and `model/`, the ensemble. A training that is
there is not done again. Every interval is a bootstrap over sources; every difference is paired.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
from keras import layers, ops
from sklearn import metrics
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from helpers.backbones import build_backbone
from helpers.clip_features import Fold, LabelledClips, ViewRows, plan_folds
from helpers.clip_frames import CORRUPTIONS, PLAIN, FrameJob, clip_frames, tta_names, view_names
from helpers.clips import is_synthetic
from helpers.config import ClassificationConfig, TrainingConfig
from helpers.container import VideoError
from helpers.files import code_version, needs, read_json, replacing, write_json
from helpers.forward import Forward, compile_forward
from helpers.model import PACKAGE, load_model
from helpers.pipeline import rows_of_clip
from helpers.statistics import NONE, mean_interval, model_warnings
from helpers.store import read_arrays
from helpers.train import Trainer, computing_in, fingerprint, job_file, train_missing
from helpers.video import backend_name
from helpers.workers import cores

MAJORITY, BAG, BILSTM, AUGMENTED, ENSEMBLE = "majority", "bag_of_frames", "bilstm", "bilstm_augmented", "ensemble"
NOT_DECISIVE = ("data_dir", "out_dir", "workers", "progress")  # for results
DEVIATION_FLOOR = 0.1  # of the mean deviation: a channel that hardly moves must not be blown up by damaged frames
ADAPT_FRAMES = 4096  # that principal components are fitted to, about
BAG_PENALTIES = 10.0 ** np.arange(-4, 1)  # C of the bag's logistic regression
CLIPS_AT_ONCE = 1024  # that the network sees when it predicts


@keras.saving.register_keras_serializable(package=PACKAGE)
class FrameClassifier(keras.Model):
    """Tell the class of a clip from the sequence of its frames' features.

    x = principal components of the features, projected to `units`; h = [forward; backward] last states of an LSTM of
    `units` each way over the clip's frames; p = softmax(W dropout(h) + b).

    The network takes what `reduce` makes of features, once for all epochs: `frames` (B, T, components), `mask` (B, T).
    Thousands of channels of a frozen network are too many for some hundred clips; what the frames differ in most is in
    a few components, which `adapt` finds and no training changes.

    `feature_dim`: width D of a frame's features; `dropout_rate`: share of projected channels and of h, in [0, 1).
    """

    def __init__(self, feature_dim: int, n_classes: int, units: int, dropout_rate: float, components: int, **kwargs):
        super().__init__(**kwargs)
        self.feature_dim, self.n_classes, self.units, self.dropout_rate = feature_dim, n_classes, units, dropout_rate
        self.components, inner = min(components, feature_dim), {"dtype": self.dtype_policy}
        self.reduction = layers.Dense(self.components, trainable=False, dtype="float32", name="reduction")
        self.project = layers.Dense(units, name="project", **inner)
        self.dropout = layers.Dropout(dropout_rate, name="dropout", **inner)
        self.lstm = layers.Bidirectional(layers.LSTM(units, **inner), name="lstm", **inner)
        self.probabilities = layers.Dense(n_classes, activation="softmax", dtype="float32", name="probabilities")
        self.reduction.build((None, feature_dim))
        self.project.build((None, None, self.components))
        self.lstm.build((None, None, units))
        self.probabilities.build((None, 2 * units))
        self.built = True

    def adapt(self, frames: np.ndarray) -> None:
        """Fit the reduction to frames (m, D): they are standardised, and take their first principal components.

        All components are divided by the deviation of the first, so that they keep their proportions.
        """
        mean, deviation = frames.mean(axis=0), frames.std(axis=0)
        deviation = np.maximum(deviation, DEVIATION_FLOOR * deviation.mean() + 1e-12)
        found = min(self.components, *frames.shape)
        pca = PCA(found, svd_solver="randomized", random_state=0).fit((frames - mean) / deviation)
        kernel = np.zeros((self.feature_dim, self.components))
        kernel[:, :found] = pca.components_.T / deviation[:, None] / np.sqrt(pca.explained_variance_[0] + 1e-12)
        self.reduction.set_weights([kernel, -mean @ kernel])

    def reduce(self, clips: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs of the network: components of the clips' frames (n, D), with 0 behind the shorter; one is held."""
        kernel, bias = self.reduction.get_weights()
        parts = [x @ kernel + bias for x in clips]
        frames = keras.utils.pad_sequences(parts, padding="post", dtype="float32")
        mask = keras.utils.pad_sequences([np.ones(len(part)) for part in parts], padding="post", dtype="bool")
        return {"frames": frames, "mask": mask}

    def call(self, inputs: Mapping[str, Any], training=None):
        x = self.dropout(self.project(inputs["frames"]), training=training)  # (B, T, units)
        h = self.lstm(x, mask=ops.cast(inputs["mask"], "bool"), training=training)  # (B, 2 units)
        return self.probabilities(self.dropout(h, training=training))

    def classify(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Probabilities float32 (N, n_classes) of the classes of reduced clips, rows summing to 1."""
        ends = range(CLIPS_AT_ONCE, len(inputs["mask"]), CLIPS_AT_ONCE)
        parts = zip(*(np.split(x, ends) for x in inputs.values()), strict=True)
        return np.concatenate([self.predict_on_batch(dict(zip(inputs, part, strict=True))) for part in parts])

    def get_config(self) -> dict:
        own = ("feature_dim", "n_classes", "units", "dropout_rate", "components")
        return super().get_config() | {name: getattr(self, name) for name in own}


def build_classifier(feature_dim: int, n_classes: int, cfg: ClassificationConfig, seed: int) -> FrameClassifier:
    """Build the classifier as it is before its training with this seed: the same weights at every call. Components,
    softmax and weights are float32 in every `cfg.precision`.
    """
    keras.utils.set_random_seed(seed)
    with computing_in(cfg.precision):
        return FrameClassifier(feature_dim, n_classes, cfg.units, cfg.dropout_rate, cfg.components)


class Part(NamedTuple):
    """Clips of a fold in their views, clip by clip: what a network takes, means over frames (N, D), labels (N,)."""

    inputs: dict[str, np.ndarray]
    means: np.ndarray
    labels: np.ndarray


def fit_bag(train: Part, validation: Part) -> Pipeline:
    """Fit a logistic regression on means of frames, its penalty chosen on validation clips."""

    def loss(bag: Pipeline) -> float:
        return metrics.log_loss(validation.labels, bag.predict_proba(validation.means), labels=bag.classes_)

    models = (LogisticRegression(C=c, class_weight="balanced", max_iter=2000) for c in BAG_PENALTIES)
    return min((make_pipeline(StandardScaler(), model).fit(train.means, train.labels) for model in models), key=loss)


class Job(NamedTuple):
    """One training: the name of the model, the number of the fold, the seed of weights and order."""

    model: str
    fold: int
    seed: int


def plan_jobs(cfg: ClassificationConfig, n_folds: int) -> list[Job]:
    """The trainings of a run, fold by fold; those of the ensemble come first, their seeds follow `cfg.seed`."""
    best, single = (AUGMENTED, [BILSTM, BAG]) if cfg.views else (BILSTM, [BAG])
    models = [(best, cfg.seed + k) for k in range(cfg.n_models)] + [(name, cfg.seed) for name in single]
    return [Job(name, fold, seed) for fold in range(n_folds) for name, seed in models]


def train_all(clips: LabelledClips, cfg: ClassificationConfig, jobs: Sequence[Job]) -> None:
    """Do every training that is not done, in `cfg.workers` processes (0: one per core)."""
    config = cfg.as_dict(without=(*NOT_DECISIVE, "n_models", "batch_size"))
    known, n = fingerprint([clips.manifest["identity"], clips.table.to_csv(), config]), cfg.workers or cores()
    groups = [[jobs[k] for k in part] for part in np.array_split(np.arange(len(jobs)), min(n, len(jobs)))]
    train_missing(make_trainings, (clips, cfg), _folder(cfg), groups, known, workers=n, progress=cfg.progress)


def _folder(cfg: ClassificationConfig) -> Path:
    return cfg.out / "classification" / "models"


def make_trainings(
    context: tuple[LabelledClips, ClassificationConfig], jobs: Sequence[Job]
) -> Iterator[tuple[dict[str, np.ndarray], keras.Model | None]]:
    """Do trainings in a worker; the clips of a fold are read once, each kind of network is compiled once."""
    clips, cfg = context
    shape = clips.manifest["counts"]["feature_dim"], len(clips.classes)
    trainers, tested = defaultdict(lambda: _trainer(shape, cfg)), [PLAIN, *view_names(0, cfg.tta_views)[1]]
    for number, of_fold in groupby(jobs, key=lambda job: job.fold):
        fold, fitted = plan_folds(clips, cfg)[number], build_classifier(*shape, cfg, seed=0)
        augmented, validation, test = read_fold(clips, fold, cfg, fitted)
        plain = keras.tree.map_structure(lambda array: array[:: cfg.views + 1], augmented)
        for name, _, seed in of_fold:
            if name == BAG:
                model, p = None, fit_bag(plain, validation).predict_proba(test.means)
            else:
                trainer = trainers[name]
                model = build_classifier(*shape, cfg, seed)  # the last to set the seed, which the order of batches has
                model.reduction.set_weights(fitted.reduction.get_weights())
                p = _train(trainer, model, augmented if name == AUGMENTED else plain, validation).classify(test.inputs)
            p = p.astype("float32").reshape(len(fold.test), len(tested), -1)
            yield {"test": fold.test} | {f"p_{view}": p[:, k] for k, view in enumerate(tested)}, model


def _trainer(shape: tuple[int, int], cfg: ClassificationConfig) -> Trainer:
    how = {name: getattr(cfg, name) for name in ("epochs", "learning_rate", "patience")}
    training = TrainingConfig(batch_size=cfg.clips_per_batch, weight_decay=0.0, schedule="cosine", **how)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=cfg.label_smoothing)
    return Trainer(build_classifier(*shape, cfg, seed=0), training, loss)


def read_fold(
    clips: LabelledClips, fold: Fold, cfg: ClassificationConfig, network: FrameClassifier
) -> tuple[Part, Part, Part]:
    """Fit a network's reduction to training clips, and read and reduce the clips for training, validation and test.

    Components are those of the training clips in all of their views; the features of one clip are held at a time.
    """
    training, testing = ([PLAIN, *views] for views in view_names(cfg.views, cfg.tta_views))

    def frames(rows: np.ndarray, views: list[str], means: list[np.ndarray]) -> Iterator[np.ndarray]:
        for key in clips.table.index[rows]:
            for features, _, valid in clips.read(key, views):
                means.append(features[valid].mean(axis=0))
                yield features[valid]

    n = max(1, ADAPT_FRAMES // (len(fold.train) * len(training)))
    spread = (x[np.linspace(0, len(x) - 1, min(len(x), n)).astype(int)] for x in frames(fold.train, training, []))
    network.adapt(np.concatenate(list(spread)))
    labels, parts = clips.table["label"].to_numpy(), []
    for rows, views in zip(fold, (training, [PLAIN], testing), strict=True):
        inputs = network.reduce(frames(rows, views, means := []))
        parts.append(Part(inputs, np.stack(means), np.repeat(labels[rows], len(views))))
    return tuple(parts)


def _train(trainer: Trainer, start: FrameClassifier, train: Part, validation: Part) -> FrameClassifier:
    """Train from `start`, which ends as trained; returns the network that is compiled. Classes count alike."""
    one_hot = np.eye(start.n_classes, dtype="float32")
    weights = compute_sample_weight("balanced", train.labels).astype("float32")
    known = validation.inputs, one_hot[validation.labels]
    trainer.fit(start, (train.inputs, one_hot[train.labels], weights), known)
    return trainer.model


def evaluate_all(clips: LabelledClips, cfg: ClassificationConfig) -> dict[str, Any]:
    """Train what is not trained, score every model on clips that it did not see, and write results and ensemble.

    Returns what `classification.json` holds: `models` (see `score_models`), `best` and `members` (its trainings),
    `gains`, `per_class`, `confusion`, `classes`, `split`, `config`.
    """
    folds = plan_folds(clips, cfg)
    jobs = plan_jobs(cfg, len(folds))
    train_all(clips, cfg, jobs)
    tested = clips.table.iloc[np.concatenate([fold.test for fold in folds])]
    p, truth, sources = probabilities(clips.table, folds, cfg), tested["label"].to_numpy(), tested["source"].to_numpy()
    right = pd.DataFrame(
        {(model, view): (x.argmax(1) == truth) * 1.0 for model, of in p.items() for view, x in of.items()}
    )
    results = {
        "models": score_models(right, sources),
        "gains": gains(right, sources),
        "best": ENSEMBLE,
        "members": [job_file(_folder(cfg), job).stem for job in jobs if job.model == jobs[0].model],
        "classes": clips.classes,
        "split": {"by": cfg.split} | _facts(clips.table, tested, folds),
        "config": cfg.as_dict(without=NOT_DECISIVE),
    } | _by_class(truth, p[ENSEMBLE][PLAIN].argmax(axis=1), clips.classes)
    _keep_ensemble(cfg, results)
    write_json(cfg.out / "classification" / "classification.json", results)
    return results


def _facts(table: pd.DataFrame, tested: pd.DataFrame, folds: Sequence[Fold]) -> dict[str, int]:
    """How many clips and sources there are, are tested, and leak."""
    source = table["source"].to_numpy()
    shared = [int(np.isin(source[fold.test], source[fold.train]).sum()) for fold in folds]
    return {
        "folds": len(folds),
        "test_clips_sharing_a_source_with_train": max(shared),
        "clips": len(table),
        "sources": table["source"].nunique(),
        "test_clips": len(tested),
        "test_sources": tested["source"].nunique(),
    }


def _by_class(truth: np.ndarray, predicted: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """`per_class`: precision, recall, f1 and clips, by class; `confusion`: counts, rows are the true classes."""
    look = {"labels": range(len(classes)), "target_names": classes, "zero_division": 0.0}
    report = metrics.classification_report(truth, predicted, output_dict=True, **look)
    per_class = pd.DataFrame(report)[classes].rename({"f1-score": "f1", "support": "clips"})
    return {"per_class": per_class.to_dict(), "confusion": metrics.confusion_matrix(truth, predicted).tolist()}


def _keep_ensemble(cfg: ClassificationConfig, results: dict[str, Any]) -> None:
    """Write `model/`: the best model's checkpoints of all folds and seeds, and `card.json`."""
    folder = cfg.out / "classification" / "model"
    names = [f"{member}.keras" for member in results["members"]]
    for name in names:
        with replacing(folder / name) as part:
            shutil.copyfile(_folder(cfg) / name, part)
    card = {name: results[name] for name in ("classes", "split", "config")}
    card |= {"checkpoints": names, "metrics": results["models"], "tta_views": cfg.tta_views, "weights": cfg.weights}
    write_json(folder / "card.json", card | {"synthetic": is_synthetic(cfg.data), "code_version": code_version()})


def probabilities(
    table: pd.DataFrame, folds: Sequence[Fold], cfg: ClassificationConfig
) -> dict[str, dict[str, np.ndarray]]:
    """Probabilities (n_test, n_classes) of the test clips, fold by fold: by model, from the majority to the ensemble,
    and by view, plain and corrupted.
    """
    shown, jobs = [PLAIN, *CORRUPTIONS], plan_jobs(cfg, 1)
    best = jobs[0].model

    def gathered(model: str, seed: int) -> dict[str, np.ndarray]:
        files = [read_arrays(job_file(_folder(cfg), Job(model, fold, seed))) for fold in range(len(folds))]
        return {name[2:]: np.concatenate([file[name] for file in files]) for name in files[0] if name[:2] == "p_"}

    def averaged(p: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {view: np.mean([p[name] for name in (view, *tta_names(view, cfg.tta_views))], axis=0) for view in shown}

    n_classes = table["label"].max() + 1
    counts = [np.bincount(table["label"].iloc[fold.train], minlength=n_classes) for fold in folds]
    majority = np.concatenate([[n / n.sum()] * len(fold.test) for n, fold in zip(counts, folds, strict=True)])
    single = {name: gathered(name, cfg.seed) for name in (BAG, BILSTM, best)}
    members = [averaged(gathered(best, job.seed)) for job in jobs if job.model == best]
    p = {MAJORITY: dict.fromkeys(shown, majority)}
    p |= {name: {view: of[view] for view in shown} for name, of in single.items()}
    if cfg.tta_views:
        p[f"{best}_tta"] = members[0]
    return p | {ENSEMBLE: {view: np.mean([member[view] for member in members], axis=0) for view in shown}}


def score_models(right: pd.DataFrame, sources: np.ndarray) -> dict[str, dict[str, Any]]:
    """Accuracy of every model with its interval and its difference to the baselines, paired.

    `right`: whether it is right, 0.0 or 1.0, by clip (rows), and by model and view (columns); `sources` (N,).

    Returns:
        By model: `accuracy`, `interval`, `minus_majority` and `minus_bag_of_frames` ([low, high] of 95 %),
        `accuracy_corrupted` (mean over corruptions), `n_clips`.
    """
    scores = {}
    for name in right.columns.unique(0):
        value, ends = mean_interval([right[name][PLAIN].to_numpy()], [sources]).values()
        scores[name] = {"accuracy": value, "interval": ends, "n_clips": len(right)}
        for base in (MAJORITY, BAG):
            gain = (right[name][PLAIN] - right[base][PLAIN]).to_numpy()
            scores[name][f"minus_{base}"] = mean_interval([gain], [sources])["interval"]
        scores[name]["accuracy_corrupted"] = float(right[name].drop(columns=PLAIN).mean().mean())
    return scores


def gains(right: pd.DataFrame, sources: np.ndarray) -> dict[str, dict[str, Any]]:
    """What each step adds to the one before it: augmentation, averaging over views, the ensemble; see `score_models`.

    By "a - b": `clean` and `corrupted` (all corruptions together), each with the difference of accuracies as `value`
    and its `interval`, paired over the same clips.
    """
    steps: dict[str, dict[str, Any]] = {}
    for before, after in pairwise(name for name in right.columns.unique(0) if name not in (MAJORITY, BAG)):
        gain = right[after] - right[before]
        for kind, values in {"clean": gain[PLAIN], "corrupted": gain.drop(columns=PLAIN).mean(axis=1)}.items():
            steps.setdefault(f"{after} - {before}", {})[kind] = mean_interval([values.to_numpy()], [sources])
    return steps


def as_table(models: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row per model: accuracy and its interval, those of the differences to both baselines, accuracy corrupted."""
    table = pd.DataFrame.from_dict(models, orient="index").drop(columns="n_clips").rename_axis("model")
    return table.map(lambda value: NONE if value is None else np.round(value, 3).tolist())


class ClipClassifier(NamedTuple):
    """An ensemble of checkpoints and the backbone before them, whose input has `px` pixels; `warnings` weaken it."""

    members: Sequence[FrameClassifier]
    classes: Sequence[str]
    cfg: ClassificationConfig
    px: int
    forward: Forward
    warnings: Sequence[str]


def load_clip_classifier(folder: str | Path) -> ClipClassifier:
    """Load the classifier in `classification/model/` of a run.

    FileNotFoundError if there is none; ValueError for a model of traits, or a checkpoint of another width, which is not
    loaded then.
    """
    folder = Path(folder)
    card = read_json(needs(folder / "card.json", "08_clip_classification"))
    if "classes" not in card:
        raise ValueError(f"{folder} must be a model of classes, got one of traits. Name a run's classification/model.")
    cfg = ClassificationConfig.checked(card["config"])
    backbone = build_backbone(cfg.backbone, cfg.weights, input_px=cfg.input_px)
    members = [load_model(folder / name, feature_dim=backbone.feature_dim) for name in card["checkpoints"]]
    forward = compile_forward(backbone.model, cfg.precision, backbone.prepare)
    warnings = model_warnings([cfg.weights], synthetic=card["synthetic"])
    return ClipClassifier(members, card["classes"], cfg, backbone.input_px, forward, warnings)


def classify_clip(video: str | Path, classifier: ClipClassifier) -> dict[str, float]:
    """Probability of each class: the mean over checkpoints and over the views that the run tested with.

    What is random in a view depends on the name of the video, in the run on its key: of a clip of the run, the
    probabilities differ a little from those that it was tested with. VideoError where the video cannot be used.
    """
    video, cfg = Path(video), classifier.cfg
    views = (PLAIN, *tta_names(PLAIN, cfg.tta_views))
    job = FrameJob(video, -1, video.stem, views, cfg, backend_name(), classifier.px)
    rows = rows_of_clip(ViewRows(cfg.scales), clip_frames(job), classifier.forward, cfg.batch_size)
    clips = [rows.features[(rows.view == view) & rows.valid] for view in views]
    if not all(map(len, clips)):
        raise VideoError(f"{video.name}: the network gave no finite features of any frame. Leave it out.")
    p = np.mean([member.classify(member.reduce(clips)) for member in classifier.members], axis=(0, 1))
    return dict(zip(classifier.classes, p.astype(float).tolist(), strict=True))
