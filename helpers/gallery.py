"""The clips of a run to be looked at one by one: what was predicted of each, and all that can be seen of one.

In: the folder of a run that 02 to 06 filled, and its videos. Out: a `Gallery`, every clip's prediction and entropy at
once, and a `ClipView` of a clip when it is chosen: its video as browsers play it, face crops, flow, attention, and what
taking its motion away does to each trait. The run's first seed is the model that is looked at.
"""

import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import keras
import numpy as np
import pandas as pd

from helpers.align import Aligned, read_aligned
from helpers.attention import BATCH, attention_entropy, get_attention_weights, mean_motion, occlusion, relevance
from helpers.clips import DISPLAY, load_clips
from helpers.config import AttentionConfig, DynamicConfig
from helpers.container import VideoError
from helpers.crops import CROP_PX, Chunk, Job, face_flows
from helpers.evidence import window_spans
from helpers.experiment import load_run, load_trained, rated_clips, split_of
from helpers.files import needs, resolve
from helpers.probe import probe
from helpers.store import STREAMS, FeatureFile, read_features, read_manifest
from helpers.tracks import FaceTrack, crop_at, read_track
from helpers.variants import TOKEN_MODEL
from helpers.video import iter_frames

HEIGHT_PX = 320  # of the video, at most: a clip is looked at beside its attention, not for itself
KEY_EVERY = 10  # frames: a click is to show its picture at once
TICK_S = Fraction(1, 1000)
# Encoder, container, media type, options: the first that this PyAV was built with, and that browsers play.
KINDS = (
    ("libx264", "mp4", "video/mp4", {"crf": "26", "preset": "veryfast"}),
    ("libvpx-vp9", "webm", "video/webm", {"crf": "34", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
)
ORDERS = ("name", "error, largest first", "error, smallest first", "entropy, highest first", "entropy, lowest first")
NOT_TRAINED_ON = "not trained on"
CHANGE = "change of the score without this motion"  # the mean motion token in its place
RELEVANCE = "relevance: what this motion brought to the score"


@dataclass(frozen=True)
class Preview:
    """A whole video file: its bytes, its media type ("video/mp4"), and how many seconds it lasts."""

    data: bytes
    mime: str
    duration_s: float


def encode_preview(path: str | Path) -> Preview:
    """Encode a clip again: small, upright, without sound, its first picture at 0 s.

    Raises:
        VideoError: See `helpers.video.iter_frames`.
        ValueError: PyAV has no encoder whose videos a browser plays; its wheels have.
    """
    encoder, container, mime, options = next((kind for kind in KINDS if kind[0] in av.codecs_available), KINDS[0])
    info, file = probe(path), io.BytesIO()
    share = min(1.0, HEIGHT_PX / info.height)
    size = tuple(max(2, 2 * round(share * side / 2)) for side in (info.height, info.width))  # 4:2:0 wants even sides
    with av.open(file, "w", format=container) as video:
        stream = video.add_stream(encoder, rate=Fraction(info.fps).limit_denominator(1001), options=options)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.time_base = KEY_EVERY, TICK_S
        for frame, t_s, _ in iter_frames(path, size=size):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = round(t_s / TICK_S), TICK_S
            video.mux(stream.encode(picture))
        video.mux(stream.encode())
    return Preview(file.getvalue(), mime, info.duration_s)


@dataclass(frozen=True)
class ClipView:
    """All that can be seen of one clip with Ts face tokens, Td motion tokens and k traits.

    Attributes:
        clip: Its key.
        preview: Its video, small; None where no features were made of it here and it cannot be read.
        crops: Face of each face token, RGB uint8 (Ts, S, S, 3); None where 02 was not run.
        face_t_s: Centre of each face token in seconds, (Ts,).
        t_start_s, t_end_s: Start and end of each motion token in seconds, (Td,).
        speed: Mean speed in each motion token in px per frame, (Td, S, S); None where 04 did not see the video.
        flow: Its fastest moment, dx and dy in px per frame, (Td, S, S, 2); None as `speed`.
        attention: (heads, Ts, Td), rows sum to 1.
        measures: What each motion token does to each trait, by the name of the measure, (Td, k).
        windows: Start and stop in seconds of what was planted, by name.
    """

    clip: str
    preview: Preview | None
    crops: np.ndarray | None
    face_t_s: np.ndarray
    t_start_s: np.ndarray
    t_end_s: np.ndarray
    speed: np.ndarray | None
    flow: np.ndarray | None
    attention: np.ndarray
    measures: Mapping[str, np.ndarray]
    windows: Mapping[str, tuple[float, float]]

    @property
    def absent(self) -> str:
        """What cannot be shown of the clip, in words; "" where all can."""
        parts = {"its video": self.preview, "pictures of its faces": self.crops, "its motion": self.speed}
        gone = [name for name, part in parts.items() if part is None]
        return f"not shown: {', '.join(gone)}, as the features were not made of this video here" if gone else ""

    @property
    def motion_t_s(self) -> np.ndarray:
        """Centre of each motion token in seconds, (Td,)."""
        return (self.t_start_s + self.t_end_s) / 2

    def head(self, head: int | None) -> np.ndarray:
        """The map of one head, or the mean of all where it is None, (Ts, Td)."""
        return self.attention.mean(axis=0) if head is None else self.attention[head]

    def face_of(self, segment: int) -> int:
        """The face token nearest to the middle of a motion token."""
        return int(np.abs(self.face_t_s - self.motion_t_s[segment]).argmin())

    def strongest(self, measure: str, trait: int) -> int:
        """The motion token with the largest value of a measure, in either direction."""
        return int(np.abs(self.measures[measure][:, trait]).argmax())


@dataclass(frozen=True)
class Gallery:
    """N clips and how to see each of them; k traits, H heads.

    Attributes:
        clips: Keys, str (N,).
        targets: Names of the traits, (k,).
        predicted, rated: (N, k) in [0, 1]; rated is NaN where there is no rating.
        entropy: Of a clip's attention against uniform rows, mean over heads, (N,); NaN with one motion token.
        part: What the model had of each clip: "train", "validation", "test" or `NOT_TRAINED_ON`, str (N,).
        load: Makes the view of the clip with a key.
    """

    clips: np.ndarray
    targets: tuple[str, ...]
    predicted: np.ndarray
    rated: np.ndarray
    entropy: np.ndarray
    part: np.ndarray
    load: Callable[[str], ClipView]

    def error(self, trait: int) -> np.ndarray:
        """Predicted minus rated, (N,); NaN where unrated."""
        return self.predicted[:, trait] - self.rated[:, trait]

    def listing(self, trait: int, order: str = ORDERS[0], search: str = "") -> np.ndarray:
        """Rows of the clips whose key holds `search` in either case, in one of `ORDERS`; what is unknown comes last."""
        if order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(map(repr, ORDERS))}, got {order!r}.")
        values = {"name": self.clips, "error": np.abs(self.error(trait)), "entropy": self.entropy}
        value = values[order.split(",")[0]]
        descending = order.endswith(("largest first", "highest first"))
        rows = np.argsort(-value if descending else value, kind="stable")  # NaN sorts last either way
        return np.array([row for row in rows if search.strip().lower() in self.clips[row].lower()], int)

    def row_of(self, clip: str) -> int:
        """The row of a key; ValueError where there is none."""
        found = np.flatnonzero(self.clips == clip)
        if not len(found):
            must = f"clip must be one of this run's {len(self.clips)}"
            raise ValueError(f"{must}, got {clip!r}. Take a key of clips.csv.")
        return int(found[0])

    def start(self, clip: str, trait: str) -> tuple[int, int]:
        """Row and column to begin with: of these, or of the first clip that is rated."""
        if trait not in self.targets:
            raise ValueError(f"trait must be one of {', '.join(self.targets)}, got {trait!r}.")
        rated = ~np.isnan(self.rated).all(axis=1)
        return self.row_of(clip) if clip else int(rated.argmax()), self.targets.index(trait)

    def judged(self, row: int, column: int) -> str:
        """A clip's score beside its rating, in words."""
        rated, error = self.rated[row, column], self.error(column)[row]
        said = "not rated" if np.isnan(rated) else f"rated {rated:.2f} (error {in_digits(error)})"
        name = self.targets[column]
        return f"{DISPLAY.get(name, name)} predicted {self.predicted[row, column]:.2f}, {said}"


def open_gallery(cfg: AttentionConfig) -> Gallery:
    """The clips of a finished run that have both streams.

    Args:
        cfg: Of 07: the run's folder, the videos, the token bank.

    Raises:
        FileNotFoundError: The run is not finished; the message names the notebook that is missing.
    """
    data, trained = load_run(cfg.out, resolve(cfg.bank_dir))
    seed = trained.seeds[0]
    model = load_trained(trained, TOKEN_MODEL, seed)
    bank, run = rated_clips(data), read_aligned(cfg.out / "aligned")
    split = split_of(bank, trained, seed)
    known = {} if data.live else dict(zip(bank.clips.tolist(), split.tolist(), strict=True))
    paths, baseline = load_clips(cfg.out / "clips.csv")["path"], mean_motion(bank.take(split == "train"))
    return Gallery(
        clips=run.clips,
        targets=tuple(run.targets.tolist()),
        predicted=model.predict(run.inputs(), batch_size=BATCH, verbose=0),
        rated=run.labels,
        entropy=_entropies(model, run),
        part=np.array([known.get(clip, NOT_TRAINED_ON) for clip in run.clips.tolist()]),
        load=Reader(cfg.out, cfg.data, paths, run, model, baseline),
    )


def _entropies(model: keras.Model, run: Aligned) -> np.ndarray:
    """Mean over heads of each clip's entropy, (N,); the maps of all clips are never held at once."""
    entropies = []
    for i in range(0, len(run), BATCH):
        some = run.take(np.arange(i, min(i + BATCH, len(run))))
        weights = get_attention_weights(model, some.inputs())
        entropies.append(attention_entropy(weights, some.static_mask, some.dynamic_mask).mean(axis=1))
    return np.concatenate(entropies)


@dataclass(frozen=True)
class Reader:
    """Makes the view of a clip from its video and its files of 02 to 04; nothing else of the clip is held.

    `out`: the run's folder. `data`: the videos' folder, `paths` below it by key. `run`: the tokens of all clips.
    `baseline`: what a motion token is replaced by to see its effect, (D,).
    """

    out: Path
    data: Path
    paths: pd.Series
    run: Aligned
    model: keras.Model
    baseline: np.ndarray

    def __call__(self, clip: str) -> ClipView:
        """Make the view of the clip with this key.

        Raises:
            FileNotFoundError: The video, or a file of 02 to 04; the message names it.
            ValueError: The rows of 03 or 04 are not those that the tokens were made of.
            VideoError: The video cannot be decoded.
        """
        one = self.run.take(self.run.clips == clip)
        inputs = one.inputs()
        faces, motions = one.static_mask[0], one.dynamic_mask[0]  # the rest is padding
        face = _rows(self.out / "static" / f"{clip}.npz", int(faces.sum()), "03_static_extraction")
        motion = _rows(self.out / "dynamic" / f"{clip}.npz", int(motions.sum()), "04_dynamic_extraction")
        path = self.data / self.paths.loc[clip]
        static_here, dynamic_here = map(self._made_here, STREAMS)
        prepared, needed = self.out / "faces" / f"{clip}.npz", static_here or dynamic_here
        track = read_track(needs(prepared, "02_clip_preparation")) if needed or prepared.exists() else None
        speed, flow = self._motion(path, track, motion) if dynamic_here else (None, None)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="no clip has more than one motion token")  # its entropy is NaN
            attention = get_attention_weights(self.model, inputs)[0]
        return ClipView(
            clip=clip,
            preview=_preview(path, needed),
            crops=None if track is None else _crops(path, track, face),
            face_t_s=face.t_s,
            **_spans(motion),
            speed=speed,
            flow=flow,
            attention=attention[:, faces][:, :, motions],
            measures={
                CHANGE: occlusion(self.model, inputs, self.baseline)[0][motions],
                RELEVANCE: relevance(self.model, inputs, self.baseline).sum(2)[0][:, motions].T,
            },
            windows=window_spans(self.data, clip),
        )

    def _made_here(self, stream: str) -> bool:
        """Whether the features of a stream were made of the videos, and not of stored pictures or by others."""
        return not {"elsewhere", "stored"} & read_manifest(self.out / stream, STREAMS[stream])["identity"].keys()

    def _motion(self, path: Path, track: FaceTrack, motion: FeatureFile) -> tuple[np.ndarray, np.ndarray]:
        manifest = read_manifest(self.out / "dynamic", "04_dynamic_extraction")
        how = DynamicConfig.checked(manifest["identity"]["parameters"])
        speed, flow = motion_per_token(face_flows(Job(path, track, how)), motion.t_start_s, motion.t_end_s)
        return speed * how.flow_clip_px, flow * how.flow_clip_px


def _preview(path: Path, needed: bool) -> Preview | None:
    try:
        return encode_preview(path)
    except VideoError:
        if needed:
            raise
        return None


def _crops(path: Path, track: FaceTrack, face: FeatureFile) -> np.ndarray:
    """The face of each row (n, S, S, 3); rows that know no frame take the one on screen at their time."""
    number = face.frame if (face.frame >= 0).all() else track.frame[track.sample_at(face.t_s)]
    wanted, first, of_row = np.unique(number, return_index=True, return_inverse=True)
    frames = zip(iter_frames(path, indices=wanted.tolist()), face.t_s[first], strict=True)
    return np.stack([crop_at(frame, track, t, CROP_PX) for (frame, _, _), t in frames])[of_row]


def _spans(motion: FeatureFile) -> dict[str, np.ndarray]:
    """Start and end of each motion token; one that was taken for a moment reaches half of the way to the next."""
    half_s = float(np.median(np.diff(motion.t_s))) / 2 if len(motion.t_s) > 1 else 0.25
    more_s = np.where(motion.t_end_s > motion.t_start_s, 0.0, half_s)
    return {"t_start_s": motion.t_start_s - more_s, "t_end_s": motion.t_end_s + more_s}


def _rows(path: Path, n: int, made_by: str) -> FeatureFile:
    rows = read_features(needs(path, made_by)).in_time()
    if len(rows.features) != n:
        raise ValueError(f"{path} must hold {n} valid rows like 05's tokens, got {len(rows.features)}. Run 05 again.")
    return rows


def motion_per_token(
    chunks: Iterable[Chunk], t_start_s: np.ndarray, t_end_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean speed within each motion token, and the flow at its fastest moment; flows are gone through once.

    Args:
        chunks: Flows (n, S, S, 2) with the times that they begin at.
        t_start_s, t_end_s: Start and end of each token in seconds, (Td,); they may overlap.

    Returns:
        (Td, S, S) and (Td, S, S, 2), in the unit of the flow; zeros where a token has no flow.
    """
    n, total, fastest = np.zeros(len(t_start_s), int), None, None
    peak = np.full(len(t_start_s), -1.0)
    for flow, t in ((flow, t) for chunk in chunks for flow, t in zip(chunk.values, chunk.t_s, strict=True)):
        if total is None:
            total, fastest = (np.zeros((len(n), *shape), "float32") for shape in (flow.shape[:2], flow.shape))
        speed = np.linalg.norm(flow, axis=-1)
        for j in np.flatnonzero((t_start_s <= t + 1e-6) & (t < t_end_s - 1e-6)):
            n[j] += 1
            total[j] += speed
            if speed.mean() > peak[j]:
                peak[j], fastest[j] = speed.mean(), flow
    return total / np.maximum(n, 1)[:, None, None], fastest


def in_digits(value: float, digits: int = 2, *, signed: bool = True) -> str:
    """A number with its sign and without a negative zero; a dash as wide where it is unknown."""
    if np.isnan(value):
        return "\u2007" * digits + "\u2013" + "\u2007"  # figure spaces
    return f"{round(float(value), digits) + 0.0:{'+' if signed else ''}.{digits}f}".replace("-", "\u2212")
