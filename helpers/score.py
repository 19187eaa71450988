"""Scores a video with a trained model: five traits with intervals, beside the constant predictor.

In: a video file and the `model/` folder of a run, whose `card.json` says how clips were prepared for training. Out: a
`ClipScore`, and the same as text.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from helpers.attention import get_attention_weights, occlusion
from helpers.backbones import Backbone, build_backbone
from helpers.clips import DISPLAY
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.crops import Job, face_crops, face_flows
from helpers.detectors import require_detector
from helpers.faces import track_clip
from helpers.files import needs, read_json
from helpers.forward import Forward, compile_forward
from helpers.i3d import build_motion_network
from helpers.model import CompletePersonalityModel  # noqa: F401  registers the layers that a saved model is made of
from helpers.out_of_distribution import TrainingTokens, read_training_tokens
from helpers.pipeline import rows_of_clip
from helpers.probe import probe
from helpers.reduction import Reduction, read_reduction
from helpers.rows import DynamicRows, StaticRows
from helpers.store import STREAMS, FeatureFile
from helpers.tracks import FaceTrack, NoFaceError, crop_at
from helpers.video import iter_frames

N_FACES, FACE_PX = 8, 96  # pictures of the face along the time axis of a video
WORDS = {"static": "face", "dynamic": "motion"}
MOST_PARTS = 48  # that a clip is shown in: beyond, neighbouring motion tokens go together
LOW_COVERAGE, MUCH_LONGER = 0.7, 1.5  # a score below the one, or so often the longest training clip, has a warning


@dataclass(frozen=True)
class Scorer:
    """A trained model and the networks it was trained behind: load it once, score many videos."""

    model: keras.Model
    folder: Path
    card: dict[str, Any]
    training: dict[str, TrainingTokens]
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
        constant: What the constant predictor gives, by target.
        share_below: Share of the training ratings below the score, by target.
        motion_t_s, motion_share: Attention per motion token (mean over heads and face tokens, sums to 1) at so many
            seconds.
        face_coverage: Share of the looked-at frames that show the face.
        warnings: Sentences.
        duration_s: Length of the video.
        parts_s: Start and end in seconds of the parts that `effects` is about.
        effects: By target, how far each part's motion moves the score (minus `helpers.attention.occlusion`);
            {} where the model folder does not hold the usual motion, as those made earlier do not.
        familiarity: By stream, how far the tokens lie from the training clips
            (`helpers.out_of_distribution.TrainingTokens.describe`); {} likewise.
        faces_t_s, faces: Some faces of the video, RGB uint8 (96, 96, 3), and their times in seconds.
        remarks: What is odd about the picture or the faces and what was done about it, in words; [] for most videos.
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
    faces: list[np.ndarray] = field(repr=False, default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def unlike(self) -> bool:
        """Whether the clip is unlike the training clips, so that its intervals do not hold."""
        return any(of["unlike"] for of in self.familiarity.values())


def read_card(model_dir: str | Path, *, of_videos: bool = True) -> dict[str, Any]:
    """The `card.json` of a model folder.

    Args:
        model_dir: `results/<run>/model`.
        of_videos: Refuse a model of features that were not made of videos.

    Raises:
        FileNotFoundError: The folder is not a model folder.
        ValueError: The model's features were made elsewhere, so nothing can be scored here.
    """
    folder = Path(model_dir)
    if (folder / "model" / "card.json").exists():
        raise FileNotFoundError(f"{folder} is a run, not a model. Name its folder {folder / 'model'}.")
    card = read_json(needs(folder / "card.json", "06_training"))
    if not isinstance(card, dict) or "extractors" not in card:
        raise ValueError(f"{folder / 'card.json'} must be the card of a model, got another file. Name a run's model/.")
    for name, how in card["extractors"].items():
        if how["weights"]["name"] == "elsewhere" or (of_videos and "stored" in how):
            stored = ", or of stored faces or flow" if of_videos else ""
            raise ValueError(
                f"{folder} must be a model of features made here to score with it, its {name} features were made "
                f"elsewhere{stored}. Train on features that 03 and 04 made{' of videos' if of_videos else ''}."
            )
    return card


def check_weights(stream: str, ours: str, card: dict[str, Any]) -> None:
    """Raise ValueError where a network has other weights (sha256) than the one that the model was trained behind."""
    trained = card["extractors"][stream]["weights"]["sha256"]
    if ours != trained:
        raise ValueError(
            f"the {stream} network must have the weights that the model was trained behind (sha256 {trained[:12]}…), "
            f"got {ours[:12]}…. Put the same weights into the weights folder."
        )


def load_model(model_dir: str | Path) -> tuple[keras.Model, Reduction]:
    """The network of a model folder, and the reduction of the features it takes."""
    folder = Path(model_dir)
    model = keras.saving.load_model(needs(folder / "model.keras", "06_training"))
    return model, read_reduction(needs(folder / "reduction.npz", "06_training"))


def load_scorer(model_dir: str | Path) -> Scorer:
    """Load a model folder and build the networks its card names.

    Raises:
        FileNotFoundError: The folder is not a model folder, or pretrained weights or the detector's file are missing.
        ValueError: The networks built here, or those the reduction was made behind, are not those of the card.
    """
    folder, card = Path(model_dir), read_card(model_dir)
    model, reduction = load_model(folder)
    extractors = card["extractors"]
    static = StaticConfig.checked(extractors["static"]["parameters"])
    dynamic = DynamicConfig.checked(extractors["dynamic"]["parameters"])
    preparation = PreparationConfig.checked(extractors["static"]["preparation"]["parameters"])
    require_detector(preparation.detector)
    backbone = build_backbone(static.backbone, static.weights)
    network, weights = build_motion_network(dynamic.weights, dynamic.endpoint)
    check_weights("static", backbone.weights.sha256, card)
    check_weights("dynamic", weights.sha256, card)
    reduction.check(extractors)
    return Scorer(
        model=model,
        folder=folder,
        card=card,
        training=read_training_tokens(folder / "familiar.npz"),
        reduction=reduction,
        preparation=preparation,
        static=static,
        dynamic=dynamic,
        backbone=backbone,
        face_forward=compile_forward(backbone.model, static.precision, backbone.prepare),
        motion_forward=compile_forward(network, dynamic.precision),
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
    known = {stream: of.describe(tokens[stream].features) for stream, of in scorer.training.items()}
    return ClipScore(
        video=name or Path(video).name,
        score=_by_target(targets, raw),
        low=_by_target(targets, raw - half),
        high=_by_target(targets, raw + half),
        constant=card["constant"],
        share_below={t: float(np.interp(raw[i], *_ratings(card, t))) for i, t in enumerate(targets)},
        face_coverage=track.coverage,
        warnings=clip_warnings(track, raw, card, known, len(tokens["dynamic"].frame)),
        duration_s=round(track.n_frames / track.fps, 3),
        familiarity=known,
        remarks=clip_remarks(video, track),
        **_over_time(inputs, tokens["dynamic"], scorer),
        **_faces(video, track, tokens["static"].t_s, faces, scorer.preparation.backend),
    )


def tokens_of_video(video: str | Path, scorer: Scorer) -> tuple[FaceTrack, dict[str, FeatureFile]]:
    """The face track and the reduced valid rows of both streams, exactly as 02 to 05 make them."""
    backend, size_px = scorer.preparation.backend, scorer.backbone.input_px
    track = track_clip(video, scorer.preparation)
    crops = face_crops(Job(Path(video), track, scorer.static, backend, size_px))
    flows = face_flows(Job(Path(video), track, scorer.dynamic, backend))
    static, dynamic = StaticRows(track), DynamicRows(track, scorer.dynamic)
    rows = {
        "static": rows_of_clip(static, crops, scorer.face_forward, scorer.static.batch_size).in_time(),
        "dynamic": rows_of_clip(dynamic, flows, scorer.motion_forward, scorer.dynamic.batch_size).in_time(),
    }
    for name, of in rows.items():
        if not len(of.valid):
            raise NoFaceError(
                f"{Path(video).name}: the face is lost wherever a {name} row would lie. Take another clip."
            )
    return track, {
        name: replace(of, features=getattr(scorer.reduction, name).transform(of.features)) for name, of in rows.items()
    }


def _over_time(inputs: dict[str, np.ndarray], motion: FeatureFile, scorer: Scorer) -> dict[str, Any]:
    """`motion_t_s`, `motion_share`, `parts_s` and `effects` of a clip."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no clip has more than one motion token")  # `clip_warnings` says it
        share = get_attention_weights(scorer.model, inputs)[0].mean(axis=(0, 1))
    parts, effects = np.array_split(np.arange(len(share)), min(len(share), MOST_PARTS)), {}
    if scorer.training:
        moved = -occlusion(scorer.model, inputs, scorer.training["dynamic"].mean, parts)[0]
        effects = {target: moved[:, i].astype(float).tolist() for i, target in enumerate(scorer.card["targets"])}
    ends = [(motion.t_start_s[part[0]], motion.t_end_s[part[-1]]) for part in parts]
    return {
        "motion_t_s": [round(float(t), 3) for t in motion.t_s],
        "motion_share": [float(s) for s in share],
        "parts_s": [(round(float(start), 3), round(float(end), 3)) for start, end in ends],
        "effects": effects,
    }


def _faces(video: str | Path, track: FaceTrack, t_s: np.ndarray, n: int, backend: str) -> dict[str, list]:
    """`faces_t_s` and `faces` of a clip: at the token times (m,) nearest to the middles of n equal stretches."""
    middles = (np.arange(n) + 0.5) * track.n_frames / track.fps / max(n, 1)
    chosen = t_s[np.abs(t_s[:, None] - middles).argmin(axis=0)]
    frames = iter_frames(video, fps=track.fps, indices=track.sample_at(chosen).tolist(), backend=backend) if n else ()
    faces = [crop_at(frame, track, t, FACE_PX) for frame, t, _ in frames]
    return {"faces_t_s": [round(float(t), 3) for t in chosen], "faces": faces}


def _by_target(targets: list[str], values: np.ndarray) -> dict[str, float]:
    """Values cut to [0, 1], where ratings lie; the model's own output is linear."""
    return {target: float(np.clip(value, 0, 1)) for target, value in zip(targets, values, strict=True)}


def _ratings(card: dict[str, Any], target: str) -> tuple[Sequence[float], np.ndarray]:
    """Quantiles of the training ratings, and their orders 0, 1/n, …, 1."""
    quantiles = card["training_quantiles"][target]
    return quantiles, np.linspace(0, 1, len(quantiles))


def training_shares(card: dict[str, Any], bins: int = 20) -> dict[str, np.ndarray]:
    """Share of the training ratings in equal parts of [0, 1], by target: (bins,), sum 1."""
    edges = np.linspace(0, 1, bins + 1)
    below = {target: np.interp(edges, *_ratings(card, target)) for target in card["targets"]}
    return {target: np.diff(np.concatenate([[0], shares[1:-1], [1]])) for target, shares in below.items()}


def clip_warnings(
    track: FaceTrack, raw: np.ndarray, card: dict[str, Any], familiarity: dict[str, dict[str, Any]], n_motion: int
) -> list[str]:
    """List what weakens the scores of one video, the heaviest first.

    Args:
        track: Its face.
        raw: The model's output before it is cut to [0, 1], (k,).
        card: See `helpers.results.keep_model`; cards that were made earlier lack some entries.
        familiarity: By stream, see `TrainingTokens.describe`; {} where nothing is known.
        n_motion: Number of motion tokens.
    """
    seconds, longest_s = track.n_frames / track.fps, card.get("training_length_s", np.inf)
    found = {
        "how unlike the video is to the training clips is not known: the model folder is an older one": not familiarity,
        f"the video is {seconds:.0f} s long, the training clips at most {longest_s:.0f} s: the model has never "
        "attended over so long a time; cut the video into such pieces": seconds > MUCH_LONGER * longest_s,
        f"the face was found in only {track.coverage:.0%} of the looked-at frames": track.coverage < LOW_COVERAGE,
        f"up to {track.n_faces_max} faces in one frame; why this one was scored: {track.reason}": track.n_faces_max > 1,
        "the video is so short that it has one stretch of motion: attention has nothing to choose from": n_motion == 1,
        "a score was cut to [0, 1]": bool(np.any((raw < 0) | (raw > 1))),
    }
    unlike = [
        f"the {what} is unlike the training clips: {of['distance']:.1f} times as far from their mean as they are, "
        f"the farthest of {of['held_out_clips']} held-out clips {of['farthest_held_out']:.1f} times; "
        "the interval does not hold for such a clip"
        for what, of in ((WORDS[stream], of) for stream, of in familiarity.items() if of["unlike"])
    ]
    return model_warnings(card) + unlike + [text for text, holds in found.items() if holds]


def clip_remarks(video: str | Path, track: FaceTrack) -> list[str]:
    """What is odd about a video's file, its pictures (also those after the first) and its faces, each once."""
    of_track = "; ".join([*track.decoder.split("; ")[1:], getattr(track, "remarks", "")])
    return list(dict.fromkeys(filter(None, [*probe(video).remarks, *of_track.split("; ")])))


def model_warnings(card: dict[str, Any]) -> list[str]:
    """What weakens every score of a model."""
    split = card.get("split", {}).get("warning")
    random = "random" in [card["extractors"][name]["weights"]["name"] for name in STREAMS]
    invented = card.get("synthetic_labels")
    found = {
        "the networks have random weights: these scores say nothing about a person": random,
        "the model was trained on drawn clips: what it learned is about drawings, not about people": card.get("drawn"),
        "the ratings of the training clips were invented: no score of this model means anything": invented,
        f"the model's own scores are too high: {split}": split,
    }
    return [text for text, holds in found.items() if holds]


def as_text(score: ClipScore) -> str:
    """The score as lines of text, each trait beside the constant."""
    lines = [score.video, f"  {'apparent trait':24} score  90 % interval   constant  ratings below"]
    for target in score.score:
        lines.append(
            f"  {DISPLAY.get(target, target):24} {score.score[target]:.2f}   {score.low[target]:.2f} to "
            f"{score.high[target]:.2f}    {score.constant[target]:.2f}      {score.share_below[target]:4.0%}"
        )
    lines += [f"  note: {text}" for text in score.warnings] + [f"  remark: {text}" for text in score.remarks]
    return "\n".join(lines)
