"""The classifier of clips: a masked BiLSTM over frame features, the bag of frames that it has to beat, and an ensemble.

Frame features come from a frozen backbone; nothing here looks at pixels but `classify_clip`, and nothing trains the
backbone. A clip is features float32 (n, D) of its n frames, in order.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from helpers.backbones import Backbone, build_backbone
from helpers.clip_features import ViewRows
from helpers.clip_frames import PLAIN, FrameJob, clip_frames, tta_names
from helpers.config import ClassificationConfig
from helpers.container import VideoError
from helpers.files import needs, read_json
from helpers.forward import Forward, compile_forward
from helpers.model import PACKAGE, load_model
from helpers.pipeline import rows_of_clip
from helpers.statistics import model_warnings
from helpers.train import computing_in
from helpers.video import backend_name

DEVIATION_FLOOR = 0.1  # of the mean deviation: a channel that hardly moves must not be blown up by damaged frames
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

    Args:
        feature_dim: Width D of a frame's features.
        n_classes: Classes, at least 2.
        units: Width of the projection and of the LSTM in each direction.
        dropout_rate: Share of projected channels and of h that is dropped in training, in [0, 1).
        components: Principal components that are kept, at most D.
    """

    def __init__(
        self,
        feature_dim: int,
        n_classes: int,
        units: int = 64,
        dropout_rate: float = 0.3,
        components: int = 32,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}. Add folders of further classes.")
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
        lengths = np.array([len(part) for part in parts])
        mask = np.arange(lengths.max()) < lengths[:, None]
        frames = np.zeros((*mask.shape, self.components), np.float32)
        frames[mask] = np.concatenate(parts)
        return {"frames": frames, "mask": mask}

    def call(self, inputs: Mapping[str, Any], training=None):
        x = self.dropout(self.project(inputs["frames"]), training=training)  # (B, T, units)
        h = self.lstm(x, mask=ops.cast(inputs["mask"], "bool"), training=training)  # (B, 2 units)
        return self.probabilities(self.dropout(h, training=training))

    def classify(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Probabilities float32 (N, n_classes) of the classes of reduced clips, rows summing to 1."""
        parts = [
            {name: x[k : k + CLIPS_AT_ONCE] for name, x in inputs.items()}
            for k in range(0, len(inputs["mask"]), CLIPS_AT_ONCE)
        ]
        return np.concatenate([self.predict_on_batch(part) for part in parts])  # `predict` traces anew at every call

    def get_config(self) -> dict:
        own = ("feature_dim", "n_classes", "units", "dropout_rate", "components")
        return super().get_config() | {name: getattr(self, name) for name in own}


def build_classifier(feature_dim: int, n_classes: int, cfg: ClassificationConfig, seed: int) -> FrameClassifier:
    """Build the classifier as it is before its training with this seed: the same weights at every call.

    It computes in `cfg.precision`, but for the principal components and the softmax, which are float32 as the weights.
    """
    keras.utils.set_random_seed(seed)
    with computing_in(cfg.precision):
        return FrameClassifier(feature_dim, n_classes, cfg.units, cfg.dropout_rate, cfg.components)


def fit_bag(
    x: np.ndarray, labels: np.ndarray, x_validation: np.ndarray, truth: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a logistic regression on means of frames (N, D), its penalty chosen on validation clips; what predicts."""
    bags = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, class_weight="balanced", max_iter=2000)).fit(x, labels)
        for c in BAG_PENALTIES
    ]
    return min(
        bags, key=lambda bag: log_loss(truth, bag.predict_proba(x_validation), labels=bag.classes_)
    ).predict_proba


@dataclass(frozen=True)
class ClipClassifier:
    """An ensemble of checkpoints and the backbone before them: load it once, classify many videos.

    `warnings` say what weakens everything that it says.
    """

    members: Sequence[FrameClassifier]
    classes: Sequence[str]
    cfg: ClassificationConfig
    backbone: Backbone
    forward: Forward
    warnings: Sequence[str]


def load_clip_classifier(folder: str | Path) -> ClipClassifier:
    """Load the classifier in `classification/model/` of a run.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A model of traits, or a checkpoint for features of another width, which is not loaded then.
    """
    folder = Path(folder)
    card = read_json(needs(folder / "card.json", "08_clip_classification"))
    if "classes" not in card:
        raise ValueError(f"{folder} must be a model of classes, got one of traits. Name a run's classification/model.")
    cfg = ClassificationConfig.checked(card["config"])
    backbone = build_backbone(cfg.backbone, cfg.weights, input_px=cfg.input_px)
    members = [load_model(folder / name, feature_dim=backbone.feature_dim) for name in card["checkpoints"]]
    forward = compile_forward(backbone.model, cfg.precision, backbone.prepare)
    warnings = model_warnings([cfg.weights], synthetic=card["drawn"])
    return ClipClassifier(members, card["classes"], cfg, backbone, forward, warnings)


def classify_clip(video: str | Path, classifier: ClipClassifier) -> dict[str, float]:
    """Probability of each class: the mean over checkpoints and over the views that the run tested with.

    Raises:
        VideoError: The video cannot be used.
    """
    video, cfg = Path(video), classifier.cfg
    views = (PLAIN, *tta_names(PLAIN, cfg.tta_views))
    job = FrameJob(video, -1, video.stem, views, cfg, backend_name(), classifier.backbone.input_px)
    rows = rows_of_clip(ViewRows(cfg.scales), clip_frames(job), classifier.forward, cfg.batch_size)
    clips = [rows.features[(rows.view == view) & rows.valid] for view in views]
    if not all(map(len, clips)):
        raise VideoError(f"{video.name}: the network gave no finite features of any frame. Leave it out.")
    p = np.mean([member.classify(member.reduce(clips)) for member in classifier.members], axis=(0, 1))
    return dict(zip(classifier.classes, p.astype(float).tolist(), strict=True))
