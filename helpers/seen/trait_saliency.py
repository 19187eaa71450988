"""Where in the face a trained model's score comes from: the whole chain from the picture to the score of a trait.

In: a `Scorer`, which holds the model, its reduction and the backbone, and a video. Out: Grad-CAM maps of the faces that
the model was shown, for its score of one trait. A map says what this score follows, in this model, for this video; it
says nothing about a person. It is a hint, not evidence: behind a random backbone the strongest place of a face's map
lay on the planted cue in 19 % of faces for openness (chance 4 %) and in 7 % for conscientiousness (chance 6 %;
`benchmarks.pointing`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from helpers.engine.crops import Job, face_crops
from helpers.gradients import gradient_of
from helpers.reduction import ChannelGroups, Pca
from helpers.score import Scorer, tokens_of_video
from helpers.seen.activations import layer_table, stages_of
from helpers.seen.saliency import Saliency, direction_target, grad_cam


@dataclass(frozen=True)
class FaceSaliency:
    """What the score of one video follows in its faces.

    Attributes:
        faces: What the backbone was shown, RGB uint8 (n, S, S, 3).
        t_s: Centre of each face token in seconds, (n,).
        saliency: A map per face; `value` is each face's part of the score up to a constant.
        score: The model's own, linear output.
    """

    faces: np.ndarray
    t_s: np.ndarray
    saliency: Saliency
    score: float


def score_slopes(
    model: keras.Model, inputs: Mapping[str, np.ndarray], column: int, reduction: ChannelGroups | Pca, stream: str
) -> tuple[float, np.ndarray]:
    """How a clip's score changes with every feature of every row of one stream, before the reduction.

    Args:
        model: Trained model.
        inputs: Of one clip, as for the model: tokens (1, T, D) of both streams, with times and masks.
        column: Of the prediction.
        reduction: That which made the stream's tokens of rows (n, n_in).
        stream: "static" or "dynamic".

    Returns:
        The score, and its slopes float32 (T, n_in); all other tokens are held as they are.
    """

    def score(tokens: keras.KerasTensor) -> keras.KerasTensor:
        return model({**inputs, stream: tokens}, training=False)[0, column]

    value, slopes = gradient_of(score, inputs[stream])
    origin = np.zeros((1, reduction.n_in), np.float32)
    linear = reduction.transform(np.eye(reduction.n_in, dtype=np.float32)) - reduction.transform(origin)
    return value, slopes[0] @ linear.T  # (T, n_out) @ (n_out, n_in)


def face_saliency(video: str | Path, scorer: Scorer, trait: str, *, layer: str = "") -> FaceSaliency:
    """Explain the score of one video by places in its faces.

    Args:
        video: A file.
        scorer: From `load_scorer`.
        trait: A target of the model.
        layer: Of the backbone; empty: the end of the last stage but one, which is less coarse than the last.

    Raises:
        ValueError: The model has no such target.
        VideoError, NoFaceError, TooShortError: The video cannot be used; the message says why.
    """
    targets = scorer.card["targets"]
    if trait not in targets:
        raise ValueError(f"trait must be one of {', '.join(targets)}, got {trait!r}. Choose a target of the model.")
    track, tokens = tokens_of_video(video, scorer)
    inputs = {name: rows.features[None] for name, rows in tokens.items()}
    inputs |= {f"{name}_t_s": rows.t_s[None].astype("float32") for name, rows in tokens.items()}
    score, slopes = score_slopes(scorer.model, inputs, targets.index(trait), scorer.reduction.static, "static")
    side = scorer.backbone.input_px
    pieces = list(face_crops(Job(Path(video), track, scorer.static, scorer.preparation.backend, side)))
    faces, frame = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("values", "frame"))
    faces = faces[np.isin(frame, tokens["static"].frame)]
    network = scorer.backbone.model
    layer = layer or stages_of(network, layer_table(network, faces.shape[1:]))[-2]
    seen = grad_cam(network, scorer.backbone.preprocess(faces), layer, direction_target(slopes))
    return FaceSaliency(faces, tokens["static"].t_s, seen, score)
