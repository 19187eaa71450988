"""Does Grad-CAM, through a trained model, find what was planted in a face?

Openness is the colour of a head band and conscientiousness that of a scarf. Each test clip is drawn twice more, with
the lowest and the highest value of one trait: the pixels that differ are the place of its cue. Compared are the share
of a map that lies there and how often the strongest place of a face does, with the share of the picture that the cue
covers, which is what chance would give. The peer is the other trait's cue, which the map should not find.

    python -m benchmarks.pointing --model results/demo/model [--clips 6] [--json FILE]
"""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pandas as pd

from benchmarks.alternation import options_of, report
from data_sample.make.sample import draw_clip
from helpers.align import ChannelGroups, Pca
from helpers.clips import TRAITS
from helpers.faces import track_clip
from helpers.files import ROOT
from helpers.rows import Job, face_crops
from helpers.saliency import grad_cam, gradient_of, layer_table, stages_of
from helpers.score import Scorer, load_scorer, tokens_of_video
from helpers.tracks import FaceTrack, crop_at

DATA = ROOT / "data_sample"
CUES = {"openness": "band", "conscientiousness": "scarf"}
COLUMNS = {
    **{"trait": "{}", "layer": "{}", "cue": "{}", "faces": "{}", "chance": "{:.3f}", "mass": "{:.3f}"},
    **{"strongest": "{:.3f}"},
}
DIFFERENT = 30  # grey levels, of 255


@dataclass(frozen=True)
class FaceSaliency:
    """What the score of one video follows in its faces.

    Attributes:
        faces: What the backbone was shown, RGB uint8 (n, S, S, 3).
        t_s: Centre of each face token in seconds, (n,).
        layer: Of the backbone, that the maps are of.
        maps: Where the score comes from in each face, float32 (n, H', W'); below 0 what lowers it.
    """

    faces: np.ndarray
    t_s: np.ndarray
    layer: str
    maps: np.ndarray


def score_slopes(
    model: keras.Model, inputs: Mapping[str, np.ndarray], column: int, reduction: ChannelGroups | Pca, stream: str
) -> np.ndarray:
    """How a clip's score changes with every feature of every row of one stream, before the reduction.

    Args:
        model: Trained model.
        inputs: Of one clip, as for the model: tokens (1, T, D) of both streams, with times and masks.
        column: Of the prediction.
        reduction: That which made the stream's tokens of rows (n, n_in).
        stream: "static" or "dynamic".

    Returns:
        float32 (T, n_in); all other tokens are held as they are.
    """

    def score(tokens: keras.KerasTensor) -> keras.KerasTensor:
        return model({**inputs, stream: tokens}, training=False)[0, column]

    _, slopes = gradient_of(score, inputs[stream])
    origin = np.zeros((1, reduction.n_in), np.float32)
    linear = reduction.transform(np.eye(reduction.n_in, dtype=np.float32)) - reduction.transform(origin)
    return slopes[0] @ linear.T  # (T, n_out) @ (n_out, n_in)


def face_saliency(video: str | Path, scorer: Scorer, trait: str, *, layer: str = "") -> FaceSaliency:
    """Explain the score of one video by places in its faces.

    Args:
        video: A file.
        scorer: From `load_scorer`.
        trait: A target of the model.
        layer: Of the backbone; empty: the end of the last stage but one, which is less coarse than the last.

    Raises:
        ValueError: The model has no such target.
        VideoError, NoFaceError, ClipError: The video cannot be used; the message says why.
    """
    targets = scorer.card["targets"]
    if trait not in targets:
        raise ValueError(f"trait must be one of {', '.join(targets)}, got {trait!r}. Choose a target of the model.")
    track, tokens = tokens_of_video(video, scorer)
    inputs = {name: rows.features[None] for name, rows in tokens.items()}
    inputs |= {f"{name}_t_s": rows.t_s[None].astype("float32") for name, rows in tokens.items()}
    slopes = score_slopes(scorer.model, inputs, targets.index(trait), scorer.reduction.static, "static")
    side = scorer.backbone.input_px
    pieces = list(face_crops(Job(Path(video), track, scorer.static, scorer.preparation.backend, side)))
    faces, frame = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("values", "frame"))
    faces = faces[np.isin(frame, tokens["static"].frame)]
    network = scorer.backbone.model
    layer = layer or stages_of(network, layer_table(network, faces.shape[1:]))[-2]
    maps = grad_cam(network, scorer.backbone.preprocess(faces), layer, slopes)
    return FaceSaliency(faces, tokens["static"].t_s, layer, maps)


def planted_places(truth: pd.Series, trait: str, track: FaceTrack, t_s: np.ndarray, side_px: int) -> np.ndarray:
    """Where a trait's cue is in a clip's faces: bool (n, side_px, side_px).

    Args:
        truth: Row of `truth.csv`.
        trait: A key of `CUES`.
        track: The face of the clip.
        t_s: Start of each face's frame in seconds, (n,).
        side_px: Side of the faces.
    """
    latents = {name: truth[name] for name in TRAITS}
    seeds = int(truth["source_seed"]), int(truth["clip_seed"])
    low, high = (draw_clip(*seeds, latents=latents | {trait: value}).frames for value in (0.0, 1.0))
    places = []
    for t in t_s:
        k = round(t * truth["fps"])
        differs = np.abs(low[k].astype(int) - high[k]).max(axis=-1) > DIFFERENT
        as_rgb = np.repeat(255 * differs[..., None].astype(np.uint8), 3, axis=-1)
        places.append(crop_at(as_rgb, track, side_px)[..., 0] > 127)
    return np.stack(places)


def pointing(signed: np.ndarray, places: np.ndarray) -> dict[str, float]:
    """How much of the maps (n, H', W') lies in places bool (n, S, S), and what chance would give."""
    side = places.shape[1]
    maps = np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_LINEAR) for one in np.abs(signed)])
    strongest = maps.reshape(len(maps), -1).argmax(axis=1)
    return {
        "chance": float(places.mean()),
        "mass": float(maps[places].sum() / max(maps.sum(), 1e-30)),
        "strongest": float(places.reshape(len(maps), -1)[np.arange(len(maps)), strongest].mean()),
    }


def of_clip(key: str, options: Namespace, scorer: Any, truth: pd.Series) -> list[dict[str, Any]]:
    """Rows of one clip: each trait's map against each trait's cue."""
    video, rows = DATA / f"{key}.mp4", []
    track = track_clip(video, scorer.preparation)
    seen = {trait: face_saliency(video, scorer, trait, layer=options.layer) for trait in CUES}
    half_s = 0.5 / track.fps  # a token's time is the middle of its frame
    for of, cue in CUES.items():
        places = planted_places(truth, of, track, seen[of].t_s - half_s, scorer.backbone.input_px)
        for trait, maps in seen.items():
            found = pointing(maps.maps, places)
            rows.append({"trait": trait, "layer": maps.layer, "cue": cue, "faces": len(places), **found})
    return rows


def measure(options: Namespace) -> list[dict[str, Any]]:
    """A row per trait and cue, means over the faces of the clips."""
    scorer = load_scorer(options.model)
    truth = pd.read_csv(DATA / "truth.csv", index_col="key")
    keys = truth.index[truth["split"] == "test"][: options.clips]
    rows = pd.DataFrame([row for key in keys for row in of_clip(key, options, scorer, truth.loc[key])])
    figures = ["chance", "mass", "strongest"]
    weighted = rows.assign(**{name: rows[name] * rows["faces"] for name in figures})
    sums = weighted.groupby(["trait", "layer", "cue"], sort=False)[["faces", *figures]].sum()
    sums[figures] = sums[figures].div(sums["faces"], axis=0)
    return sums.reset_index().to_dict("records")


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options_of(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model/ of a run on data_sample")
    parser.add_argument("--clips", type=int, default=6, help="test clips (default: 6)")
    parser.add_argument("--layer", default="", help="of the backbone (default: the last stage but one)")
    options = parser.parse_args(argv)
    report(measure(options), COLUMNS, options)


if __name__ == "__main__":
    main()
