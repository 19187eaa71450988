"""Scores videos with a trained model: five traits with intervals, beside the constant predictor.

The `card.json` in the `model/` folder of a run says how clips were prepared for training; videos are prepared alike.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from helpers.align import Reduction, read_reduction
from helpers.attention import get_attention_weights, occlusion
from helpers.backbones import Backbone, build_backbone
from helpers.clips import TRAITS, as_line, name_of, take_inventory
from helpers.config import DynamicConfig, PreparationConfig, StaticConfig
from helpers.container import VideoError
from helpers.faces import track_clip
from helpers.feature_quality import TrainingTokens, read_training_tokens
from helpers.files import needs, read_json, replacing, write_json
from helpers.forward import Forward, compile_forward
from helpers.i3d import build_motion_network
from helpers.model import load_model
from helpers.names import natural_order
from helpers.pipeline import rows_of_clip
from helpers.rows import DynamicRows, Job, StaticRows, face_crops, face_flows
from helpers.store import FeatureFile, reason_of
from helpers.tracking import chosen_detector
from helpers.tracks import TRACKER, FaceTrack, NoFaceError, crop_at
from helpers.video import iter_frames, probe

log = logging.getLogger(__name__)

N_FACES, FACE_PX = 8, 96  # pictures of the face along the time axis of a video
WORDS = {"static": "face", "dynamic": "motion"}
MOST_PARTS = 48  # that a clip is shown in: beyond, neighbouring motion tokens go together
LOW_COVERAGE, MUCH_LONGER = 0.7, 1.5  # a score below the one, or so often the longest training clip, has a warning
SHOWN = 50  # videos with figures of their own: more make a page too large for a phone
WRITE_EVERY_S = 30
VALUES = ("score", "low", "high", "constant")


@dataclass(frozen=True)
class Scorer:
    """A trained model and the networks it was trained behind: load it once, score many videos."""

    model: keras.Model
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

    By target: `score`; `low` and `high` of the 90 % interval (split conformal, from validation clips); `constant`, what
    the constant predictor gives; `effects`, how far the motion of each of `parts_s` (start and end in seconds) moves
    the score. By motion token: `motion_t_s` in seconds, `motion_share` of the attention (mean over heads and face
    tokens, sum 1). `face_coverage`: share of the looked-at frames that show the face. `out_of_distribution`: by stream,
    see `TrainingTokens.describe`. `faces`: RGB uint8 (96, 96, 3), evenly spread over the clip. `warnings`: what weakens
    the score; `remarks`: what is odd about picture or faces and was done about it.
    """

    video: str
    score: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    constant: dict[str, float]
    motion_t_s: list[float]
    motion_share: list[float]
    face_coverage: float
    warnings: list[str]
    duration_s: float
    parts_s: list[tuple[float, float]]
    effects: dict[str, list[float]]
    out_of_distribution: dict[str, dict[str, Any]]
    faces: list[np.ndarray] = field(repr=False, default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Unusable:
    """A video that could not be scored, and why."""

    video: str
    failed: str


def read_card(model_dir: str | Path, *, of_videos: bool = True) -> dict[str, Any]:
    """The `card.json` of `results/<run>/model`; FileNotFoundError where it is no model folder, ValueError where its
    features were made elsewhere or, with `of_videos`, not of videos.
    """
    folder = Path(model_dir)
    if (folder / "model" / "card.json").exists():
        raise FileNotFoundError(f"{folder} is a run, not a model. Name its folder {folder / 'model'}.")
    card = read_json(needs(folder / "card.json", "06_training"))
    if not isinstance(card, dict) or not {"extractors", "warnings"} <= set(card):
        raise ValueError(
            f"{folder / 'card.json'} must be the card of a run's model, of this version. Name a run's model/, or run "
            "06_training again."
        )
    for name, how in card["extractors"].items():
        if how["weights"]["name"] == "external" or (of_videos and "stored" in how):
            raise ValueError(
                f"{folder} cannot score: its {name} features were made elsewhere, or of stored faces or flow. "
                f"Train on features that 03 and 04 made{' of videos' if of_videos else ''}."
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


def load_scorer(model_dir: str | Path) -> Scorer:
    """Load a model folder and build the networks its card names.

    FileNotFoundError where it is none, or published weights or the detector's file are missing; ValueError where the
    networks built here, or those the reduction was made behind, are not those of the card.
    """
    folder, card = Path(model_dir), read_card(model_dir)
    model, reduction = load_model(folder), read_reduction(needs(folder / "reduction.npz", "06_training"))
    of_face, of_motion = card["extractors"]["static"], card["extractors"]["dynamic"]
    static, dynamic = StaticConfig.checked(of_face["parameters"]), DynamicConfig.checked(of_motion["parameters"])
    preparation = PreparationConfig.checked(of_face["preparation"]["parameters"])
    if (tracker := of_face["preparation"]["track"]) != TRACKER:
        raise ValueError(f"{folder} was trained on faces of tracker {tracker}, here it is {TRACKER}. Train it anew.")
    chosen_detector(preparation.detector)
    backbone = build_backbone(static.backbone, static.weights)
    network, weights = build_motion_network(dynamic.weights, dynamic.endpoint)
    check_weights("static", backbone.weights.sha256, card)
    check_weights("dynamic", weights.sha256, card)
    reduction.check(card["extractors"])
    training = read_training_tokens(needs(folder / "training_tokens.npz", "06_training"))
    face_forward = compile_forward(backbone.model, static.precision, backbone.prepare)
    motion_forward = compile_forward(network, dynamic.precision)
    configs = preparation, static, dynamic
    return Scorer(model, card, training, reduction, *configs, backbone, face_forward, motion_forward)


def score_clip(video: str | Path, scorer: Scorer, *, name: str = "", faces: int = N_FACES) -> ClipScore:
    """Score one video, called `name` (its file's), with so many pictures of its face; VideoError, NoFaceError or
    ClipError, which say why, where it cannot be used.
    """
    track, tokens = tokens_of_video(video, scorer)
    inputs = {stream: rows.features[None] for stream, rows in tokens.items()}
    inputs |= {f"{stream}_t_s": rows.t_s[None].astype("float32") for stream, rows in tokens.items()}
    raw = keras.ops.convert_to_numpy(scorer.model(inputs, training=False))[0].astype(float)
    known = {stream: of.describe(tokens[stream].features) for stream, of in scorer.training.items()}
    frames = iter_frames(video, n_frames=faces, backend=scorer.preparation.backend) if faces else ()
    card = scorer.card
    return ClipScore(
        video=name or Path(video).name,
        **_values(raw, card).to_dict(),
        face_coverage=track.coverage,
        warnings=card["warnings"] + clip_warnings(track, raw, card, known, len(tokens["dynamic"].frame)),
        duration_s=round(track.n_frames / track.fps, 3),
        out_of_distribution=known,
        remarks=clip_remarks(video, track),
        **_over_time(inputs, tokens["dynamic"], scorer),
        faces=[crop_at(frame, track, FACE_PX) for frame, *_ in frames],
    )


def _values(raw: np.ndarray, card: dict[str, Any]) -> pd.DataFrame:
    """The columns `VALUES` of a model's output (k,), index target."""
    half = pd.Series(card["interval_half_width"])[card["targets"]].to_numpy()
    values = pd.DataFrame({"score": raw, "low": raw - half, "high": raw + half}, card["targets"])
    return values.clip(0, 1).assign(constant=pd.Series(card["constant"]))  # the scale of the ratings


def tokens_of_video(video: str | Path, scorer: Scorer) -> tuple[FaceTrack, dict[str, FeatureFile]]:
    """The face track and the reduced valid rows of both streams, exactly as 02 to 05 make them."""
    backend, size_px = scorer.preparation.backend, scorer.backbone.input_px
    track = track_clip(video, scorer.preparation)
    crops = face_crops(Job(Path(video), track, scorer.static, backend, size_px))
    flows = face_flows(Job(Path(video), track, scorer.dynamic, backend))
    static, dynamic = StaticRows(track), DynamicRows(track, scorer.dynamic)
    tokens = {
        "static": rows_of_clip(static, crops, scorer.face_forward, scorer.static.batch_size).in_time(),
        "dynamic": rows_of_clip(dynamic, flows, scorer.motion_forward, scorer.dynamic.batch_size).in_time(),
    }
    for name, rows in tokens.items():
        if not len(rows.valid):
            raise NoFaceError(f"the face is lost wherever a {name} row would lie. Take another clip.")
        tokens[name] = replace(rows, features=getattr(scorer.reduction, name).transform(rows.features))
    return track, tokens


def _over_time(inputs: dict[str, np.ndarray], motion: FeatureFile, scorer: Scorer) -> dict[str, Any]:
    """`motion_t_s`, `motion_share`, `parts_s` and `effects` of a clip."""
    share = get_attention_weights(scorer.model, inputs)[0].mean(axis=(0, 1))
    parts = np.array_split(np.arange(len(share)), min(len(share), MOST_PARTS))
    moved = occlusion(scorer.model, inputs, scorer.training["dynamic"].mean, parts)[0]  # (parts, targets)
    ends = [(motion.t_start_s[part[0]], motion.t_end_s[part[-1]]) for part in parts]
    return {
        "motion_t_s": [round(float(t), 3) for t in motion.t_s],
        "motion_share": [float(s) for s in share],
        "parts_s": [(round(float(start), 3), round(float(end), 3)) for start, end in ends],
        "effects": dict(zip(scorer.card["targets"], moved.T.astype(float).tolist(), strict=True)),
    }


def clip_warnings(
    track: FaceTrack, raw: np.ndarray, card: dict[str, Any], unlike: dict[str, dict[str, Any]], n_motion: int
) -> list[str]:
    """What weakens the scores of one video beside the `warnings` of the card, the heaviest first.

    `raw (k,)` is the model's output before it is cut to [0, 1], `n_motion` the number of motion tokens.
    """
    seconds, longest_s = track.n_frames / track.fps, card.get("training_length_s", np.inf)
    found = {
        f"the {WORDS[stream]} is unlike the training clips: {of['distance']:.1f} times as far from their mean as they "
        f"are, the farthest of {of['held_out_clips']} held-out clips {of['farthest_held_out']:.1f} times; the interval "
        "does not hold for such a clip": of["unlike"]
        for stream, of in unlike.items()
    } | {
        f"the video is {seconds:.0f} s long, the training clips at most {longest_s:.0f} s: the model has never "
        "attended over so long a time; cut the video into such pieces": seconds > MUCH_LONGER * longest_s,
        f"the face was found in only {track.coverage:.0%} of the looked-at frames": track.coverage < LOW_COVERAGE,
        f"up to {track.n_faces_max} faces in one frame; why this one was scored: {track.reason}": track.n_faces_max > 1,
        "the video is so short that it has one stretch of motion: attention has nothing to choose from": n_motion == 1,
        "a score was cut to [0, 1]": bool(np.any((raw < 0) | (raw > 1))),
    }
    return [text for text, holds in found.items() if holds]


def clip_remarks(video: str | Path, track: FaceTrack) -> list[str]:
    """What is odd about a video's file, its pictures (also those after the first) and its faces, each once."""
    of_track = [*track.decoder.split("; ")[1:], *track.remarks.split("; ")]
    return list(dict.fromkeys(filter(None, [*probe(video).remarks, *of_track])))


def as_text(score: ClipScore) -> str:
    """The score as lines of text, each trait beside the constant."""
    named = dict(zip(VALUES, ("score", "from", "to (90 %)", "constant"), strict=True))
    table = as_table([score]).set_index("target")[list(VALUES)].rename(columns=named).rename_axis(None)
    table = table.loc[sorted(table.index, key=[*TRAITS, *table.index].index)].rename(index=name_of)
    lines = [score.video, table.to_string(float_format="{:.2f}".format)]
    return "\n".join([*lines, *(f"  note: {t}" for t in score.warnings), *(f"  remark: {t}" for t in score.remarks)])


def named_videos(paths: Iterable[str | Path]) -> list[tuple[str, Path]]:
    """Each video with its name: that of its file, or its path below the folder that was named; where a name occurs
    twice, the whole path.

    A folder without videos, or a path to nothing, stays in the list; what else a folder holds is logged by kind.
    """
    found = []
    for path in map(Path, paths):
        clips, left_out = take_inventory(path) if path.is_dir() else ({}, ())
        if len(left_out):
            log.info("%s: %s", path, as_line(len(clips), left_out))
        found += [(name, path / name) for name in sorted(clips.values(), key=natural_order)] or [(path.name, path)]
    twice = pd.Series([name for name, _ in found]).duplicated(keep=False)
    return [(path.as_posix() if again else name, path) for (name, path), again in zip(found, twice, strict=True)]


def each_video(paths: Iterable[str | Path], use: Callable[[Path, str], Any]) -> Iterator[tuple[Path, Any]]:
    """Each of `named_videos` with what `use(path, name)` returns, or an `Unusable` where it cannot be used."""
    for name, path in named_videos(paths):
        try:
            if path.is_dir():
                raise VideoError(f"{path.name}: this folder holds no videos. Check the path")
            result = use(path, name)
        except BaseException as error:
            result = Unusable(name, reason_of(error, path.name))
        yield path, result


def example(folder: Path, out: Path) -> Path:
    """The video of a folder to begin with: the first that the run in `out` held out and has a rating of, else the
    first; the folder itself where it holds none.
    """
    keys, held_out = sorted(clips := take_inventory(folder)[0], key=natural_order), set()
    if (out / "predictions.csv").exists():
        rows = pd.read_csv(out / "predictions.csv", usecols=["split", "clip", "truth"]).dropna()
        held_out = set(rows.loc[rows["split"].isin(["test", "live"]), "clip"])
    first = next((key for key in keys if key in held_out), keys[0] if keys else None)
    return folder / clips[first] if first else folder


def score_all(
    paths: Iterable[str | Path],
    scorer: Scorer,
    *,
    faces: int = N_FACES,
    json: Path | None = None,
    csv: Path | None = None,
    report: Callable[[ClipScore | Unusable], None] = lambda result: None,
) -> list[ClipScore | Unusable]:
    """Score the videos of `named_videos`; `report` each. A video that cannot be used is an `Unusable`.

    Written every `WRITE_EVERY_S` seconds and at the end, also when interrupted: as JSON a record of every video,
    without the faces, as CSV what `as_table` returns.
    """
    results: list[ClipScore | Unusable] = []
    written_s = time.monotonic()
    try:
        for _, result in each_video(paths, lambda path, name: score_clip(path, scorer, name=name, faces=faces)):
            results.append(result)
            report(result)
            if time.monotonic() > written_s + WRITE_EVERY_S:
                _write(results, json, csv)
                written_s = time.monotonic()
    finally:
        _write(results, json, csv)
    return results


def _write(results: Sequence[ClipScore | Unusable], json: Path | None, csv: Path | None) -> None:
    if json:
        write_json(json, [{k: v for k, v in vars(result).items() if k != "faces"} for result in results])
    if csv:
        with replacing(csv) as part:
            as_table(results).to_csv(part, index=False, float_format="%.6g")


def as_table(results: Sequence[ClipScore | Unusable]) -> pd.DataFrame:
    """One row per video and target, as `score.csv` has them.

    Columns `video`, `target`, those of `VALUES`, `face_coverage`, `duration_s`, `warnings` and `remarks` (with "; "
    between them), `failed` (the reason; such a video has one row, without target and numbers).
    """
    rows = []
    for of in map(vars, results):
        texts = {name: "; ".join(of[name]) for name in ("warnings", "remarks") if name in of}
        for target in of.get("score", [None]):
            rows.append(of | texts | {"target": target} | {name: of[name][target] for name in VALUES if target})
    columns = ["video", "target", *VALUES, "face_coverage", "duration_s", "warnings", "remarks", "failed"]
    return pd.DataFrame(rows, columns=columns)
