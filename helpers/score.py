"""Scores a video with a trained model: five traits with intervals, beside the constant predictor.

In: a video file and the `model/` folder of a run. Out: a `ClipScore`. Everything the networks need to know stands in
the folder's `card.json`, so the video is looked at exactly as the training clips were.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from helpers.align import Reduction, read_reduction
from helpers.attention import effects_of_motion, get_attention_weights
from helpers.backbones import Backbone, build_backbone
from helpers.clips import DISPLAY, find_clips
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.crops import Job, face_crops, face_flows
from helpers.detectors import require_detector
from helpers.faces import FaceTrack, NoFaceError, crop_at, track_clip
from helpers.files import needs, read_json
from helpers.forward import Forward, compile_forward
from helpers.i3d import build_motion_network
from helpers.out_of_distribution import Known, read_familiar
from helpers.pipeline import CLIP_ERRORS, rows_of_clip
from helpers.rows import DynamicRows, StaticRows
from helpers.store import STREAMS, FeatureFile
from helpers.video import iter_frames

N_FACES = 8  # pictures of the face along the time axis of a video
MOST_PARTS = 48  # that a clip is shown in: beyond, neighbouring motion tokens go together
FACE_PX = 96
JPEG_QUALITY = 85
LOW_COVERAGE = 0.7  # below it a score comes with a warning
MUCH_LONGER = 1.5  # than the longest training clip: said too
SHOWN_AS = {"static": "face", "dynamic": "motion"}


@dataclass(frozen=True)
class Scorer:
    """A trained model and the networks it was trained behind: load it once, score many videos."""

    model: keras.Model
    folder: Path
    card: dict[str, Any]
    familiar: dict[str, Known]
    reduction: Reduction
    preparation: PreparationConfig
    static: StaticConfig
    dynamic: DynamicConfig
    backbone: Backbone
    face_forward: Forward
    motion_forward: Forward


@dataclass(frozen=True)
class ClipScore:
    """The scores of one video, in [0, 1], and what stands behind them.

    Attributes:
        video: Its name; below the folder that was named, if one was.
        score, low, high: By target; `low` and `high` bound the 90 % interval (split conformal, from validation clips).
        constant: What a predictor without eyes would say, by target.
        share_below: Share of the training ratings below the score, by target.
        motion_t_s, motion_share: Attention per motion token (mean over heads and face tokens, sums to 1) at so many
            seconds.
        face_coverage: Share of the looked-at frames that show the face.
        warnings: Sentences.
        duration_s: Length of the video.
        parts_s: Start and end in seconds of the parts that `effects` is about.
        effects: By target, how far each part's motion moves the score (`helpers.attention.effects_of_motion`);
            {} where the model folder does not hold the usual motion, as those made earlier do not.
        familiarity: By stream, how far the tokens lie from the training clips
            (`helpers.out_of_distribution.Known.describe`); {} likewise.
        faces_t_s, faces: Some faces of the video as JPEG files, and their times in seconds.
    """

    video: str
    score: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    constant: dict[str, float]
    share_below: dict[str, float]
    motion_t_s: list[float]
    motion_share: list[float]
    face_coverage: float
    warnings: list[str]
    duration_s: float
    parts_s: list[tuple[float, float]]
    effects: dict[str, list[float]]
    familiarity: dict[str, dict[str, Any]]
    faces_t_s: list[float]
    faces: list[bytes] = field(repr=False)


def load_scorer(model_dir: str | Path) -> Scorer:
    """Load a model folder and build the networks its card names.

    Raises:
        FileNotFoundError: The folder is not a model folder, or pretrained weights or the detector's file are missing.
        ValueError: The networks built here, or those the reduction was made behind, are not those of the card.
    """
    folder = Path(model_dir)
    if (folder / "model" / "card.json").exists():
        raise FileNotFoundError(f"{folder} is a run, not a model. Name its folder {folder / 'model'}.")
    card = read_json(needs(folder / "card.json", "06_training"))
    model = keras.saving.load_model(needs(folder / "model.keras", "06_training"))
    reduction = read_reduction(needs(folder / "reduction.npz", "06_training"))
    extractors = card["extractors"]
    foreign = [name for name, how in extractors.items() if how["weights"]["name"] == "elsewhere"]
    foreign += [name for name, how in extractors.items() if "stored" in how]
    if foreign:
        raise ValueError(
            f"{folder} must be a model of features made of videos here to score one, its {foreign[0]} features were "
            "made elsewhere, or of stored faces or flow. Train on features that 03 and 04 made of videos."
        )
    static = StaticConfig.checked(extractors["static"]["parameters"])
    dynamic = DynamicConfig.checked(extractors["dynamic"]["parameters"])
    preparation = PreparationConfig.checked(extractors["static"]["preparation"]["parameters"])
    require_detector(preparation.detector)
    backbone = build_backbone(static.backbone, static.weights)
    network, weights = build_motion_network(dynamic.weights, dynamic.endpoint)
    for name, built in (("static", backbone.weights), ("dynamic", weights)):
        trained = extractors[name]["weights"]["sha256"]
        if built.sha256 != trained:
            raise ValueError(
                f"the {name} network must have the weights that the model was trained behind (sha256 {trained[:12]}…), "
                f"got {built.sha256[:12]}…. Put the same weights into the weights folder."
            )
    reduction.check(extractors)
    return Scorer(
        model,
        folder,
        card,
        read_familiar(folder / "familiar.npz"),
        reduction,
        preparation,
        static,
        dynamic,
        backbone,
        compile_forward(backbone.model, static.precision, backbone.prepare),
        compile_forward(network, dynamic.precision),
    )


def score_clip(video: str | Path, scorer: Scorer, *, name: str = "", faces: int = N_FACES) -> ClipScore:
    """Score one video.

    Args:
        video: Its file.
        scorer: See `load_scorer`.
        name: What it is called; by default its file's name.
        faces: How many pictures of the face are taken along.

    Raises:
        VideoError, NoFaceError, TooShortError: The video cannot be used; the message says why.
    """
    track, tokens = tokens_of_video(video, scorer)
    inputs = {stream: rows.features[None] for stream, rows in tokens.items()}
    inputs |= {f"{stream}_t_s": rows.t_s[None].astype("float32") for stream, rows in tokens.items()}
    raw = keras.ops.convert_to_numpy(scorer.model(inputs, training=False))[0].astype(float)
    card, targets = scorer.card, scorer.card["targets"]
    half = np.array([card["interval_half_width"][t] for t in targets])
    known = {stream: of.describe(tokens[stream].features) for stream, of in scorer.familiar.items()}
    return ClipScore(
        video=name or Path(video).name,
        score=_by_target(targets, raw),
        low=_by_target(targets, raw - half),
        high=_by_target(targets, raw + half),
        constant=card["constant"],
        share_below={t: _share_below(card["training_quantiles"][t], raw[i]) for i, t in enumerate(targets)},
        face_coverage=track.coverage,
        warnings=caveats(track, raw, card, known, len(tokens["dynamic"].frame)),
        duration_s=round(track.n_frames / track.fps, 3),
        familiarity=known,
        **_looked_at(inputs, tokens["dynamic"], scorer),
        **_faces(video, track, tokens["static"].t_s, scorer, faces),
    )


def _looked_at(inputs: dict[str, np.ndarray], motion: FeatureFile, scorer: Scorer) -> dict[str, Any]:
    """`motion_t_s`, `motion_share`, `parts_s` and `effects` of a clip."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no clip has more than one motion token")  # `caveats` says it
        share = get_attention_weights(scorer.model, inputs)[0].mean(axis=(0, 1))
    parts, effects = clip_parts(motion), {}
    if scorer.familiar:
        moved = effects_of_motion(scorer.model, inputs, parts.tokens, scorer.familiar["dynamic"].mean)
        effects = {target: moved[:, i].astype(float).tolist() for i, target in enumerate(scorer.card["targets"])}
    return {
        "motion_t_s": [round(float(t), 3) for t in motion.t_s],
        "motion_share": [float(s) for s in share],
        "parts_s": [(round(float(a), 3), round(float(b), 3)) for a, b in zip(parts.start_s, parts.end_s, strict=True)],
        "effects": effects,
    }


def _faces(video: str | Path, track: FaceTrack, t_s: np.ndarray, scorer: Scorer, n: int) -> dict[str, list[Any]]:
    """`faces_t_s` and `faces`, of the face tokens at `t_s` (m,)."""
    times = spread_times(t_s, track.n_frames / track.fps, n)
    pictures = face_pictures(video, track, times, backend=scorer.preparation.backend) if n else []
    return {"faces_t_s": [round(float(t), 3) for t in times], "faces": pictures}


def first_usable(path: str | Path, scorer: Scorer) -> tuple[Path, ClipScore]:
    """Score a video, or the first one in a folder that can be scored.

    Raises:
        ValueError: No video of the folder can be used; the message has the first reason.
    """
    path = Path(path)
    if not path.is_dir():
        return path, score_clip(path, scorer)
    reasons = []
    for video in (path / below for below in find_clips(path)["path"]):
        try:
            return video, score_clip(video, scorer)
        except CLIP_ERRORS as error:
            reasons.append(f"{video.name}: {error}")
    raise ValueError(f"{path} must hold a video that can be scored, got {len(reasons)} that cannot: {reasons[0]}")


def tokens_of_video(video: str | Path, scorer: Scorer) -> tuple[FaceTrack, dict[str, FeatureFile]]:
    """The face track and the reduced valid rows of both streams, exactly as 02 to 05 make them."""
    backend, size_px = scorer.preparation.backend, scorer.backbone.input_px
    track = track_clip(video, scorer.preparation)
    crops = face_crops(Job(Path(video), track, scorer.static, backend, size_px))
    flows = face_flows(Job(Path(video), track, scorer.dynamic, backend))
    faces, motion = StaticRows(track), DynamicRows(track, scorer.dynamic)
    static, dynamic = scorer.static, scorer.dynamic
    rows = {
        "static": rows_of_clip(faces, crops, scorer.face_forward, static.batch_size).in_time(),
        "dynamic": rows_of_clip(motion, flows, scorer.motion_forward, dynamic.batch_size).in_time(),
    }
    for name in STREAMS:
        if not len(rows[name].valid):
            raise NoFaceError(
                f"{Path(video).name}: the face is lost wherever a {name} row would lie. Take another clip."
            )
    reduced = {name: getattr(scorer.reduction, name).transform(rows[name].features) for name in STREAMS}
    return track, {name: FeatureFile(reduced[name], *_times(rows[name])) for name in STREAMS}


def _times(rows: FeatureFile) -> tuple[np.ndarray, ...]:
    return rows.t_start_s, rows.t_end_s, rows.frame, rows.valid


def _by_target(targets: list[str], values: np.ndarray) -> dict[str, float]:
    """Values clipped to [0, 1], where ratings lie; the model's own output is linear."""
    return {target: float(np.clip(value, 0, 1)) for target, value in zip(targets, values, strict=True)}


def _share_below(quantiles: list[float], value: float) -> float:
    """Share of the training ratings below a value, from their quantiles at 0, 1/n, …, 1."""
    return float(np.interp(value, quantiles, np.linspace(0, 1, len(quantiles))))


def as_dict(score: ClipScore) -> dict[str, Any]:
    """The score as plain types, for JSON, without the pictures."""
    return {key: value for key, value in asdict(score).items() if key != "faces"}


def as_text(score: ClipScore) -> str:
    """The score as lines of text, each trait beside the constant."""
    lines = [score.video, f"  {'apparent trait':24} score  90 % interval   constant  ratings below"]
    for target in score.score:
        lines.append(
            f"  {DISPLAY.get(target, target):24} {score.score[target]:.2f}   {score.low[target]:.2f} to "
            f"{score.high[target]:.2f}    {score.constant[target]:.2f}      {score.share_below[target]:4.0%}"
        )
    return "\n".join(lines + [f"  note: {text}" for text in score.warnings])


def caveats(
    track: FaceTrack, raw: np.ndarray, card: dict[str, Any], familiarity: dict[str, dict[str, Any]], n_motion: int
) -> list[str]:
    """List what weakens the scores of one video, the heaviest first.

    Args:
        track: Its face.
        raw: The model's output before it is cut to [0, 1], (k,).
        card: See `helpers.training.results.keep_model`; cards that were made earlier lack some entries.
        familiarity: By stream, see `helpers.out_of_distribution.Known.describe`; {} where nothing is known.
        n_motion: Number of motion tokens.
    """
    found = of_model(card)
    found += [_unlike(SHOWN_AS[name], of) for name, of in familiarity.items() if of["unlike"]]
    if not familiarity:
        found.append("how unlike the video is to the training clips is not known: the model folder is an older one")
    longest_s = card.get("training_length_s", np.inf)
    if track.n_frames / track.fps > MUCH_LONGER * longest_s:
        found.append(
            f"the video is {track.n_frames / track.fps:.0f} s long, the training clips at most {longest_s:.0f} s: the "
            "model has never attended over so long a time; cut the video into such pieces"
        )
    if track.coverage < LOW_COVERAGE:
        found.append(f"the face was found in only {track.coverage:.0%} of the looked-at frames")
    if track.n_faces_max > 1:
        found.append(f"up to {track.n_faces_max} faces in one frame: the largest one that stays was scored")
    if n_motion == 1:
        found.append("the video is so short that it has one stretch of motion: attention has nothing to choose from")
    if np.any((raw < 0) | (raw > 1)):
        found.append("a score was cut to [0, 1]")
    return found


def of_model(card: dict[str, Any]) -> list[str]:
    """What weakens every score of a model."""
    found = []
    if "random" in [card["extractors"][name]["weights"]["name"] for name in STREAMS]:
        found.append("the networks have random weights: these scores say nothing about a person")
    if card.get("drawn"):
        found.append("the model was trained on drawn clips: what it learned is about drawings, not about people")
    if card.get("synthetic_labels"):
        found.append("the ratings of the training clips were invented: no score of this model means anything")
    if card.get("split", {}).get("warning"):
        found.append(f"the model's own scores are too high: {card['split']['warning']}")
    return found


def _unlike(what: str, of: dict[str, Any]) -> str:
    return (
        f"the {what} is unlike the training clips: {of['distance']:.1f} times as far from their mean as they are, "
        f"the farthest of {of['held_out_clips']} held-out clips {of['farthest_held_out']:.1f} times; "
        "the interval does not hold for such a clip"
    )


@dataclass(frozen=True)
class Parts:
    """A clip in n parts of neighbouring motion tokens.

    Attributes:
        start_s, end_s: Of each part in seconds, (n,).
        tokens: Indices of the motion tokens of each part.
    """

    start_s: np.ndarray
    end_s: np.ndarray
    tokens: list[np.ndarray]


def clip_parts(motion: FeatureFile) -> Parts:
    """Divide a clip's motion tokens into parts of neighbours: one token each, or more beyond `MOST_PARTS`."""
    tokens = np.array_split(np.arange(len(motion.frame)), min(len(motion.frame), MOST_PARTS))
    start_s = np.array([motion.t_start_s[part[0]] for part in tokens])
    return Parts(start_s, np.array([motion.t_end_s[part[-1]] for part in tokens]), tokens)


def face_pictures(path: str | Path, track: FaceTrack, t_s: Sequence[float], *, backend: str = "auto") -> list[bytes]:
    """Cut the face out at some times in seconds, increasing: JPEG files `FACE_PX` wide."""
    samples = track.sample_at(np.asarray(t_s))
    pictures = []
    for frame, t, _ in iter_frames(path, fps=track.fps, indices=samples.tolist(), backend=backend):
        crop = cv2.cvtColor(crop_at(frame, track, t, FACE_PX), cv2.COLOR_RGB2BGR)
        pictures.append(cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())
    return pictures


def spread_times(t_s: np.ndarray, duration_s: float, n: int) -> np.ndarray:
    """Choose times for n equal places on a time axis: of each place the one nearest to its middle.

    Args:
        t_s: Times in seconds to choose from, increasing, (m,).
        duration_s: Length of the axis.
        n: Number of places.

    Returns:
        (n,), increasing; repeats where there are fewer times than places.
    """
    middles = (np.arange(n) + 0.5) * duration_s / n
    return np.asarray(t_s)[np.abs(np.asarray(t_s)[:, None] - middles).argmin(axis=0)]


def decoded(pictures: Sequence[bytes]) -> list[np.ndarray]:
    """JPEG files as RGB uint8 (S, S, 3) each."""
    return [
        cv2.cvtColor(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        for picture in pictures
    ]
