"""The classifier of clips: a masked BiLSTM over frame features, the bag of frames that it has to beat, and an ensemble.

Frame features come from a frozen backbone; nothing here looks at pixels but `classify_clip`, and nothing trains the
backbone. Features are float32 (B, T, D) with a mask (B, T), labels int (B,).
"""

from collections.abc import Callable, Mapping, Sequence
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
from helpers.clip_features import FrameRows, average_scales
from helpers.clip_frames import PLAIN, FrameJob, clip_frames, tta_names
from helpers.config import ClassificationConfig
from helpers.container import VideoError
from helpers.files import needs, read_json
from helpers.forward import Forward, compile_forward
from helpers.model import PACKAGE
from helpers.pipeline import rows_of_clip
from helpers.serializer import load_model
from helpers.statistics import model_warnings
from helpers.train import computing_in
from helpers.video import backend_name

DEVIATION_FLOOR = 0.1  # of the mean deviation: a channel that hardly moves must not be blown up by damaged frames
BAG_PENALTIES = 10.0 ** np.arange(-4, 1)  # C of the bag's logistic regression
ADAPT_FRAMES = 4096  # that principal components are fitted to at most

Frames = tuple[np.ndarray, np.ndarray]  # features (N, T, D) and mask (N, T)


@keras.saving.register_keras_serializable(package=PACKAGE)
class FrameReduction(layers.Layer):
    """What standardises frames and takes their first principal components: z = (x - mean) kernel.

    Mean and kernel are weights that `adapt` sets and that no training changes. Thousands of channels of a frozen
    network are too many for some hundred clips; what the frames differ in most is in a few components. All are divided
    by the deviation of the first, so that they keep their proportions.
    """

    def __init__(self, components: int, **kwargs):
        super().__init__(**kwargs)
        self.components = components

    def build(self, shape):
        self.mean = self.add_weight(shape=shape[-1:], initializer="zeros", trainable=False, name="mean")
        shape = (shape[-1], self.components)
        self.kernel = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="kernel")
        self.built = True

    def adapt(self, parts: Sequence[Frames]) -> None:
        """Fit mean and kernel to frames that the masks keep, at most `ADAPT_FRAMES`, evenly from all parts."""
        n = ADAPT_FRAMES // len(parts)
        kept = [np.argwhere(mask) for _, mask in parts]
        kept = [places[np.linspace(0, len(places) - 1, min(len(places), n)).astype(int)] for places in kept]
        frames = np.concatenate([x[tuple(places.T)] for (x, _), places in zip(parts, kept, strict=True)])
        mean, deviation = frames.mean(axis=0), frames.std(axis=0)
        deviation = np.maximum(deviation, DEVIATION_FLOOR * deviation.mean() + 1e-12)
        found = min(self.components, *frames.shape)
        pca = PCA(found, svd_solver="randomized", random_state=0).fit((frames - mean) / deviation)
        kernel = np.zeros(self.kernel.shape)
        kernel[:, :found] = pca.components_.T / deviation[:, None] / np.sqrt(pca.explained_variance_[0] + 1e-12)
        self.set_weights([mean, kernel])

    def get_config(self) -> dict:
        return super().get_config() | {"components": self.components}


@keras.saving.register_keras_serializable(package=PACKAGE)
class FrameClassifier(keras.Model):
    """Tell the class of a clip from the sequence of its frames' features.

    x = principal components of the features, projected to `units`; h = [forward; backward] last states of an LSTM of
    `units` each way over the frames that the mask keeps; p = softmax(W dropout(h) + b).

    The network takes what `reduce` makes of features, once for all epochs: `frames` (B, T, components), `mask` (B, T).

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
        self.components, inner = components, {"dtype": self.dtype_policy}
        self.reduction = FrameReduction(min(components, feature_dim), dtype="float32", name="reduction")
        self.project = layers.Dense(units, name="project", **inner)
        self.dropout = layers.Dropout(dropout_rate, name="dropout", **inner)
        self.lstm = layers.Bidirectional(layers.LSTM(units, **inner), name="lstm", **inner)
        self.probabilities = layers.Dense(n_classes, activation="softmax", dtype="float32", name="probabilities")
        self.reduction.build((None, None, feature_dim))
        self.project.build((None, None, self.reduction.components))
        self.lstm.build((None, None, units))
        self.probabilities.build((None, 2 * units))
        self.built = True

    def reduce(self, features: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs of the network: components of the frames that the mask keeps, moved to the front in order; else 0.

        Gaps in the mask are no frames at all, and the fused LSTM of GPUs takes no other mask. A clip needs one frame.
        """
        order = np.argsort(~mask, axis=1, kind="stable")
        mean, kernel = self.reduction.get_weights()
        frames = np.stack([(x - mean) @ kernel for x in features]) * mask[..., None]
        return {
            "frames": np.take_along_axis(frames, order[..., None], 1).astype("float32"),
            "mask": np.take_along_axis(mask, order, 1),
        }

    def call(self, inputs: Mapping[str, Any], training=None):
        x = self.dropout(self.project(inputs["frames"]), training=training)  # (B, T, units)
        h = self.lstm(x, mask=ops.cast(inputs["mask"], "bool"), training=training)  # (B, 2 units)
        return self.probabilities(self.dropout(h, training=training))

    def classify(self, features: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Probabilities float32 (N, n_classes) of the classes of clips (N, T, D), rows summing to 1."""
        return self.predict(self.reduce(features, mask), batch_size=256, verbose=0)

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


def frame_means(features: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over the frames that the mask keeps, float64 (N, D): a clip as a bag of frames, its order forgotten."""
    return np.stack([x[kept].mean(axis=0, dtype="float64") for x, kept in zip(features, mask, strict=True)])


def fit_bag(train: Frames, labels: np.ndarray, validation: Frames, truth: np.ndarray) -> Callable[..., np.ndarray]:
    """Fit a logistic regression on frame means, its penalty chosen on validation clips; returns what predicts."""
    x, x_validation = frame_means(*train), frame_means(*validation)
    bags = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, class_weight="balanced", max_iter=2000)).fit(x, labels)
        for c in BAG_PENALTIES
    ]
    best = min(bags, key=lambda bag: log_loss(truth, bag.predict_proba(x_validation), labels=bag.classes_))
    return lambda features, mask: best.predict_proba(frame_means(features, mask))


@dataclass(frozen=True)
class ClipClassifier:
    """An ensemble of checkpoints and the backbone before them: load it once, classify many videos."""

    members: Sequence[FrameClassifier]
    card: dict[str, Any]
    cfg: ClassificationConfig
    backbone: Backbone
    forward: Forward


def load_clip_classifier(folder: str | Path) -> ClipClassifier:
    """Load the classifier in `classification/model/` of a run.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A model of traits, or a checkpoint for features of another width.
    """
    card = read_json(needs(Path(folder) / "card.json", "08_clip_classification"))
    if "classes" not in card:
        raise ValueError(
            f"{folder} must be a model of classes, got one of traits. Name the folder classification/model of a run."
        )
    cfg = ClassificationConfig.checked(card["config"] | {"tta_views": card["tta_views"]})
    backbone = build_backbone(cfg.backbone, cfg.weights, input_px=cfg.input_px)
    members = [load_model(Path(folder) / name, feature_dim=backbone.feature_dim) for name in card["checkpoints"]]
    forward = compile_forward(backbone.model, cfg.precision, backbone.prepare)
    return ClipClassifier(members, card, cfg, backbone, forward)


def warnings_of(classifier: ClipClassifier) -> list[str]:
    """What weakens everything that a classifier says: sentences."""
    return model_warnings([classifier.cfg.weights], synthetic=classifier.card.get("drawn", False))


def classify_clip(video: str | Path, classifier: ClipClassifier) -> dict[str, float]:
    """Probability of each class: the mean over checkpoints and over the views that the run tested with.

    Raises:
        VideoError: The video cannot be used.
    """
    video, cfg = Path(video), classifier.cfg
    views = (PLAIN, *tta_names(PLAIN, cfg.tta_views))
    job = FrameJob(video, -1, video.stem, views, cfg, backend_name(), classifier.backbone.input_px)
    rows = rows_of_clip(FrameRows(), clip_frames(job), classifier.forward, cfg.batch_size)
    p = []
    for view in views:
        own = rows.views == view
        features, _, valid = average_scales((rows.features[own], rows.t_start_s[own], rows.valid[own]), cfg.scales)
        if not valid.any():
            raise VideoError(f"{video.name}: the network gave no finite features of any frame. Leave it out.")
        p += [member.classify(features[None], valid[None])[0] for member in classifier.members]
    return dict(zip(classifier.card["classes"], np.mean(p, axis=0).astype(float).tolist(), strict=True))
