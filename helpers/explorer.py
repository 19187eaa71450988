"""A small copy of a clip that every browser plays: H.264 or VP9, no sound, key frames close together.

In: a video file of any format that `helpers.video` reads. Out: a `Preview` in memory. Its first picture stands at 0 s,
as that of the clip does everywhere in the workbook, and it is upright.

The clips of a run to be looked at one by one: what was predicted of each, and all that can be seen of one.

In: arrays. Out: a `Gallery`, a small table of all clips, and a `ClipView` of the one that is chosen: its video, face
crops, flow, attention, and what taking its motion away does to each trait. A view is made when it is asked for;
`helpers.explorer` makes both of a finished run.

A finished run as a `Gallery`: every clip's prediction and entropy at once, a clip's view when it is chosen.

In: the folder of a run that 02 to 06 filled, and its videos. Out: a `Gallery`. The run's first seed is the model that
is looked at. Of a clip nothing is held but its view: frames and flow are gone through once.

One clip in a browser: its video, a time axis that follows it, and a chosen stretch of motion close up.

In: a `ClipView`, and a `Look` that says which head, trait and measure of it. Out: a widget; `clip_player.js` plays the
video, draws the time axis and tells which motion token was chosen, Python draws the close-up.

The explorer: choose a clip, see its video with the attention beside it, click a stretch of motion to look closer.

In: a `Gallery`. Out: a widget in JupyterLab, or a figure where nobody can click. A `ClipPlayer` shows the clip; here
are the inputs beside it and what they do. What a callback raises stands in the line below the clip, as no front end
shows it.
"""

import io
import logging
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import anywidget
import av
import ipywidgets as widgets
import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import traitlets
from IPython.display import display
from matplotlib.figure import Figure

from helpers.align import Aligned, read_aligned
from helpers.attention import (
    BATCH,
    attention_entropy,
    effects_of_motion,
    get_attention_weights,
    mean_motion,
    per_motion_token,
    relevance,
)
from helpers.clips import DISPLAY, load_clips
from helpers.config import AttentionConfig, DynamicConfig
from helpers.crops import CROP_PX, Chunk, Job, face_flows
from helpers.evidence import window_spans
from helpers.faces import FaceTrack, crop_at, read_track
from helpers.files import needs, resolve
from helpers.front_end import in_front_end
from helpers.plots import NEUTRAL, TRAIT_COLORS
from helpers.plots import explorer as pictures
from helpers.plots.attention import COOL, WARM
from helpers.store import FeatureFile, read_features, read_manifest
from helpers.training.experiment import load_run
from helpers.training.train import TrainingData, load_trained, rated_clips, split_of
from helpers.training.variants import TOKEN_MODEL
from helpers.video import iter_frames, probe

HEIGHT_PX = 320  # at most; a clip is looked at beside its attention, not for itself
KEY_EVERY = 10  # frames: a click is to show its picture at once
TICK_S = Fraction(1, 1000)
# Encoder, container, media type, options: the first that this PyAV was built with.
KINDS = (
    ("libx264", "mp4", "video/mp4", {"crf": "26", "preset": "veryfast"}),
    ("libvpx-vp9", "webm", "video/webm", {"crf": "34", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
)


@dataclass(frozen=True)
class Preview:
    """A whole video file: its bytes, its media type ("video/mp4"), and how many seconds it lasts."""

    data: bytes
    mime: str
    duration_s: float


def encode_preview(path: str | Path, *, backend: str = "auto") -> Preview:
    """Encode a clip again, small.

    Args:
        path: Video file.
        backend: See `helpers.video.iter_frames`.

    Raises:
        VideoError: See `helpers.video.iter_frames`.
        RuntimeError: PyAV has no encoder whose videos a browser plays.
    """
    encoder, container, mime, options = _kind()
    info = probe(path)
    share = min(1.0, HEIGHT_PX / info.height)
    size = tuple(max(2, 2 * round(share * side / 2)) for side in (info.height, info.width))  # 4:2:0 wants even sides
    file = io.BytesIO()
    with av.open(file, "w", format=container) as video:
        stream = video.add_stream(encoder, rate=Fraction(info.fps).limit_denominator(1001), options=options)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = KEY_EVERY
        stream.codec_context.time_base = TICK_S
        for frame, t_s, _ in iter_frames(path, size=size, backend=backend):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = round(t_s / TICK_S), TICK_S
            video.mux(stream.encode(picture))
        video.mux(stream.encode())
    return Preview(file.getvalue(), mime, info.duration_s)


def _kind() -> tuple[str, str, str, dict[str, str]]:
    for kind in KINDS:
        if kind[0] in av.codecs_available:
            return kind
    wanted = " or ".join(kind[0] for kind in KINDS)
    raise RuntimeError(
        f"PyAV must have the encoder {wanted} to show a clip in a browser, got PyAV {av.__version__} with neither. "
        "Install its wheel, which has both: pip install --force-reinstall av."
    )


ORDERS = ("name", "error, largest first", "error, smallest first", "entropy, highest first", "entropy, lowest first")
NOT_TRAINED_ON = "not trained on"


@dataclass(frozen=True)
class ClipView:
    """All that can be seen of one clip with Ts face tokens, Td motion tokens and k traits.

    Attributes:
        clip: Its key.
        preview: Its video, small.
        crops: Face of each face token, RGB uint8 (Ts, S, S, 3).
        face_t_s: Centre of each face token in seconds, (Ts,).
        t_start_s, t_end_s: Start and end of each motion token in seconds, (Td,).
        speed: Mean speed in each motion token in px per frame, (Td, S, S).
        flow: Its fastest moment, dx and dy in px per frame, (Td, S, S, 2).
        attention: (heads, Ts, Td), rows sum to 1.
        measures: What each motion token does to each trait, by the name of the measure, (Td, k).
        windows: Start and stop in seconds of what was planted, by name.
    """

    clip: str
    preview: Preview
    crops: np.ndarray
    face_t_s: np.ndarray
    t_start_s: np.ndarray
    t_end_s: np.ndarray
    speed: np.ndarray
    flow: np.ndarray
    attention: np.ndarray
    measures: Mapping[str, np.ndarray]
    windows: Mapping[str, tuple[float, float]]

    def head(self, head: int | None) -> np.ndarray:
        """The map of one head, or the mean of all where it is None, (Ts, Td)."""
        return self.attention.mean(axis=0) if head is None else self.attention[head]

    def face_of(self, segment: int) -> int:
        """The face token nearest to the middle of a motion token."""
        middle_s = (self.t_start_s[segment] + self.t_end_s[segment]) / 2
        return int(np.abs(self.face_t_s - middle_s).argmin())

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
        value = {"error": np.abs(self.error(trait)), "entropy": self.entropy}.get(order.split(",")[0])
        if value is None:
            rows = np.argsort(self.clips, kind="stable")
        else:
            descending = order.endswith(("largest first", "highest first"))
            rows = np.argsort(-value if descending else value, kind="stable")  # NaN sorts last either way
        return np.array([row for row in rows if search.strip().lower() in self.clips[row].lower()], int)

    def row_of(self, clip: str) -> int:
        """The row of a key; ValueError where there is none."""
        found = np.flatnonzero(self.clips == clip)
        if not len(found):
            raise ValueError(
                f"clip must be one of this run's {len(self.clips)}, got {clip!r}. Take a key of clips.csv."
            )
        return int(found[0])


CHANGE = "change of the score without this motion"  # the mean motion token in its place
RELEVANCE = "relevance: what this motion brought to the score"


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
    baseline = mean_motion(bank.take(split == "train"))
    paths = load_clips(cfg.out / "clips.csv")["path"]
    return Gallery(
        clips=run.clips,
        targets=tuple(run.targets.tolist()),
        predicted=model.predict(run.inputs(), batch_size=BATCH, verbose=0),
        rated=run.labels,
        entropy=_entropies(model, run),
        part=_parts(run, bank, split, data),
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


def _parts(run: Aligned, bank: Aligned, split: np.ndarray, data: TrainingData) -> np.ndarray:
    """What the training had of each clip of the run, str (N,)."""
    known = {} if data.live else dict(zip(bank.clips.tolist(), split.tolist(), strict=True))
    return np.array([known.get(clip, NOT_TRAINED_ON) for clip in run.clips.tolist()])


@dataclass(frozen=True)
class Reader:
    """Makes the view of a clip from its video and its files of 02 to 04.

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
        faces, motions = one.static_mask[0], one.dynamic_mask[0]  # the rest is padding
        face = _rows(self.out / "static" / f"{clip}.npz", int(faces.sum()), "03_static_extraction")
        motion = _rows(self.out / "dynamic" / f"{clip}.npz", int(motions.sum()), "04_dynamic_extraction")
        track = read_track(needs(self.out / "faces" / f"{clip}.npz", "02_clip_preparation"))
        path = self.data / self.paths.loc[clip]
        speed, flow = self._motion(path, track, motion)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="no clip has more than one motion token")  # its entropy is NaN
            attention = get_attention_weights(self.model, one.inputs())[0]
        return ClipView(
            clip=clip,
            preview=encode_preview(path),
            crops=_crops(path, track, face),
            face_t_s=face.t_s,
            t_start_s=motion.t_start_s,
            t_end_s=motion.t_end_s,
            speed=speed,
            flow=flow,
            attention=attention[:, faces][:, :, motions],
            measures=self._measures(one.inputs(), np.flatnonzero(motions)),
            windows=window_spans(self.data, clip),
        )

    def _measures(self, inputs: dict[str, np.ndarray], tokens: np.ndarray) -> dict[str, np.ndarray]:
        """What each motion token does to each score, two ways, (Td, k) each."""
        return {
            CHANGE: -effects_of_motion(self.model, inputs, tokens[:, None], self.baseline),
            RELEVANCE: per_motion_token(relevance(self.model, inputs, self.baseline))[0][:, tokens].T,
        }

    def _motion(self, path: Path, track: FaceTrack, motion: FeatureFile) -> tuple[np.ndarray, np.ndarray]:
        manifest = read_manifest(self.out / "dynamic", "04_dynamic_extraction")
        how = DynamicConfig.checked(manifest["identity"]["parameters"])
        pieces = face_flows(Job(path, track, how))
        speed, flow = motion_per_token(pieces, motion.t_start_s, motion.t_end_s)
        return speed * how.flow_clip_px, flow * how.flow_clip_px


def _rows(path: Path, n: int, made_by: str) -> FeatureFile:
    rows = read_features(needs(path, made_by)).in_time()
    if len(rows.features) != n:
        raise ValueError(f"{path} must hold {n} valid rows like 05's tokens, got {len(rows.features)}. Run 05 again.")
    return rows


def _crops(path: Path, track: FaceTrack, face: FeatureFile) -> np.ndarray:
    frames = iter_frames(path, indices=face.frame.tolist())
    return np.stack([crop_at(frame, track, t, CROP_PX) for (frame, _, _), t in zip(frames, face.t_s, strict=True)])


def motion_per_token(
    pieces: Iterable[Chunk], t_start_s: np.ndarray, t_end_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean speed within each motion token, and the flow at its fastest moment; flows are gone through once.

    Args:
        pieces: Flows (n, S, S, 2) with the times that they begin at.
        t_start_s, t_end_s: Start and end of each token in seconds, (Td,); they may overlap.

    Returns:
        (Td, S, S) and (Td, S, S, 2), in the unit of the flow; zeros where a token has no flow.
    """
    n, total, fastest = np.zeros(len(t_start_s), int), None, None
    peak = np.full(len(t_start_s), -1.0)
    for piece in pieces:
        for flow, t in zip(piece.values, piece.t_s, strict=True):
            if total is None:
                total = np.zeros((len(n), *flow.shape[:2]), "float32")
                fastest = np.zeros((len(n), *flow.shape), "float32")
            speed = np.linalg.norm(flow, axis=-1)
            for j in np.flatnonzero((t_start_s <= t + 1e-6) & (t < t_end_s - 1e-6)):
                n[j] += 1
                total[j] += speed
                if speed.mean() > peak[j]:
                    peak[j], fastest[j] = speed.mean(), flow
    return total / np.maximum(n, 1)[:, None, None], fastest


SMALLEST = 0.01  # the axis of effects reaches at least so far: small ones are to look small
DPI = 200  # of the close-up, which is shown at half of it: screens are sharp


@dataclass(frozen=True)
class Look:
    """What of a clip is looked at: the number of a head or None for the mean of all, a trait and its column, a measure
    of `ClipView.measures`.
    """

    head: int | None
    trait: str
    column: int
    measure: str

    @property
    def color(self) -> str:
        """The trait's colour."""
        return TRAIT_COLORS.get(self.trait, NEUTRAL)

    @property
    def head_name(self) -> str:
        """ "mean", or "head1" and so on."""
        return "mean" if self.head is None else f"head{self.head + 1}"


class ClipPlayer(anywidget.AnyWidget):
    """What `clip_player.js` shows. All traits are set at once; `seq` then grows by one, and `state` says what is shown.

    `scene`: numbers of the time axis. `video`, `mime`: the clip. `picture`: the close-up as PNG, `described` in words.
    `segment`: the chosen motion token, set from both sides. `message`: the line below.
    """

    _esm = Path(__file__).with_name("clip_player.js")
    _css = Path(__file__).with_name("clip_player.css")
    scene = traitlets.Dict().tag(sync=True)
    video = traitlets.Bytes().tag(sync=True)
    mime = traitlets.Unicode().tag(sync=True)
    picture = traitlets.Bytes().tag(sync=True)
    described = traitlets.Unicode().tag(sync=True)
    segment = traitlets.Int(0).tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)
    state = traitlets.Unicode().tag(sync=True)
    seq = traitlets.Int(0).tag(sync=True)

    def show(self, view: ClipView, look: Look, segment: int, message: str) -> None:
        """Send the browser all that is to be seen, in one piece.

        Args:
            view: The clip.
            look: What of it.
            segment: The motion token that is shown close up.
            message: The line below.
        """
        with self.hold_sync():
            self.segment = segment
            self.video, self.mime = view.preview.data, view.preview.mime
            self.scene = scene_of(view, look)
            self.picture = close_up(view, look, segment)
            self.described = (
                f"{view.clip} from {view.t_start_s[segment]:.2f} to {view.t_end_s[segment]:.2f} s: the face, its "
                "motion, and the attention of each face token to that motion, head by head"
            )
            self.message = message
            self.state = "|".join((view.clip, look.head_name, look.trait, str(segment)))
            self.seq += 1


def scene_of(view: ClipView, look: Look) -> dict[str, Any]:
    """Numbers of the time axis: seconds, attention in [0, 1], values of the measure. The scales are the clip's own,
    alike for all heads and traits.
    """
    rows, values = view.head(look.head), view.measures[look.measure]
    spans = zip(view.windows.items(), (WARM, COOL), strict=False)
    return {
        "clip": view.clip,
        "duration_s": max(view.preview.duration_s, float(view.t_end_s[-1])),
        "start_s": view.t_start_s.tolist(),
        "end_s": view.t_end_s.tolist(),
        "face_s": view.face_t_s.tolist(),
        "rows": rows.tolist(),
        "share": rows.mean(axis=0).tolist(),
        "share_top": float(view.attention.max()),
        "values": values[:, look.column].tolist(),
        "value_range": [min(float(values.min()), -SMALLEST), max(float(values.max()), SMALLEST)],
        "label": f"{DISPLAY.get(look.trait, look.trait)}: {look.measure}",
        "color": look.color,
        "windows": [{"name": n, "start_s": a, "stop_s": b, "color": color} for (n, (a, b)), color in spans],
    }


def close_up(view: ClipView, look: Look, segment: int) -> bytes:
    """A motion token with the face of its time, as PNG."""
    face = view.face_of(segment)
    fig = pictures.plot_segment(
        view.crops[face],
        view.speed[segment],
        view.flow[segment],
        view.attention[:, :, segment],
        view.face_t_s,
        face=face,
        fastest_px=float(view.speed.max()),
        top=float(view.attention.max()),
        head=look.head,
    )
    file = io.BytesIO()
    fig.savefig(file, dpi=DPI)
    plt.close(fig)
    return file.getvalue()


log = logging.getLogger(__name__)

KEPT = 8  # views of clips that are held: 7 MB each for a clip of 5 s


def show(gallery: Gallery, *, clip: str = "", trait: str = "agreeableness") -> Figure | None:
    """Show the explorer and return None; where nobody can click, return the figure of one clip instead.

    Args:
        gallery: The clips.
        clip: Key of the clip to begin with; default the first that is rated.
        trait: The trait to begin with.
    """
    if in_front_end():
        display(Explorer(gallery, clip=clip, trait=trait))
        return None
    return draw_clip(gallery, clip=clip, trait=trait)


def draw_clip(gallery: Gallery, *, clip: str = "", trait: str = "agreeableness") -> Figure:
    """Draw what the explorer shows of a clip when it opens; the arguments are those of `show`."""
    row, column = _start(gallery, clip, trait)
    view = gallery.load(str(gallery.clips[row]))
    measure = next(iter(view.measures))
    segment, look = view.strongest(measure, column), Look(None, trait, column, measure)
    return pictures.plot_clip(
        view.crops,
        view.speed,
        view.flow,
        view.attention,
        view.face_t_s,
        view.t_start_s,
        view.t_end_s,
        view.measures[measure][:, column],
        segment=segment,
        face=view.face_of(segment),
        color=look.color,
        label=textwrap.fill(f"{DISPLAY.get(trait, trait)}: {measure}", 26),
        windows=view.windows,
        title=f"{view.clip}\n{_judged(gallery, row, column)}",
    )


def _start(gallery: Gallery, clip: str, trait: str) -> tuple[int, int]:
    """Row and column to begin with."""
    if trait not in gallery.targets:
        raise ValueError(f"trait must be one of {', '.join(gallery.targets)}, got {trait!r}.")
    rated = ~np.isnan(gallery.rated).all(axis=1)
    return gallery.row_of(clip) if clip else int(rated.argmax()), gallery.targets.index(trait)


def _judged(gallery: Gallery, row: int, column: int) -> str:
    """A clip's score beside its rating, in words."""
    rated, error = gallery.rated[row, column], gallery.error(column)[row]
    said = "not rated" if np.isnan(rated) else f"rated {rated:.2f} (error {_number(error)})"
    name = gallery.targets[column]
    return f"{DISPLAY.get(name, name)} predicted {gallery.predicted[row, column]:.2f}, {said}"


def _answers(method: Callable[["Explorer"], None]) -> Callable[["Explorer", Any], None]:
    """A callback that says in the explorer's own line what went wrong."""

    @wraps(method)
    def answer(self: "Explorer", _change: Any) -> None:
        if self.quiet:
            return
        try:
            method(self)
        except Exception as error:  # whatever it is, it would be lost
            log.debug("a callback of the explorer failed", exc_info=True)
            kept = f" Shown is still {self.view.clip}." if self.view else ""
            self.player.message = f"error: {type(error).__name__}: {error}{kept}"

    return answer


class Explorer(widgets.Box):
    """The list of clips, the choice of head and trait, and the clip that is shown.

    Attributes:
        gallery: What is chosen from.
        view: The clip that is shown; None before the first.
        search, order, clips, head, trait, measure: The inputs.
        player: The clip's own widget.
    """

    def __init__(self, gallery: Gallery, *, clip: str = "", trait: str = "agreeableness") -> None:
        row, column = _start(gallery, clip, trait)
        self.gallery, self.quiet = gallery, False
        self.view: ClipView | None = None
        self._load = lru_cache(maxsize=KEPT)(gallery.load)
        self.player = ClipPlayer()
        self.search = widgets.Text(description="Search", placeholder="part of a clip's key")
        self.order = widgets.Dropdown(options=ORDERS, description="Sort by")
        self.clips = widgets.Select(description="Clip", rows=12)
        self.trait = widgets.Dropdown(
            options=[(DISPLAY.get(name, name), k) for k, name in enumerate(gallery.targets)],
            value=column,
            description="Trait",
        )
        self.head = widgets.Dropdown(options=[("mean of all", None)], description="Head")
        self.measure = widgets.Dropdown(description="Bars")
        super().__init__(self._parts())
        self.add_class("explorer")
        for box, answer in self._answers_of():
            box.observe(answer, "value")
        self.player.observe(self._segment_chosen, "segment")
        self._list(str(gallery.clips[row]))
        self._clip_chosen(None)

    def _parts(self) -> tuple[widgets.Widget, ...]:
        choices = widgets.Box([self.head, self.trait, self.measure])
        choices.add_class("explorer-choices")
        left, right = widgets.VBox([self.search, self.order, self.clips]), widgets.VBox([choices, self.player])
        left.add_class("explorer-list")
        right.add_class("explorer-clip")
        return left, right

    def _answers_of(self) -> Iterator[tuple[widgets.Widget, Callable[[Any], None]]]:
        yield from ((box, self._listed_anew) for box in (self.search, self.order))
        yield self.trait, self._trait_chosen
        yield self.clips, self._clip_chosen
        yield from ((box, self._look_changed) for box in (self.head, self.measure))

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Set inputs without being told of it."""
        self.quiet = True
        try:
            yield
        finally:
            self.quiet = False

    def _list(self, chosen: str | None) -> None:
        """Fill the list of clips; the chosen one stays chosen if it is in it."""
        rows = self.gallery.listing(self.trait.value, self.order.value, self.search.value)
        by_entropy = self.order.value.startswith("entropy")
        values = self.gallery.entropy if by_entropy else self.gallery.error(self.trait.value)
        options = [
            (f"{_number(values[row], signed=not by_entropy)}  {clip}", clip)
            for row, clip in zip(rows, self.gallery.clips[rows].tolist(), strict=True)
        ]
        with self._quietly():
            self.clips.options = options
            self.clips.value = chosen if chosen in (clip for _, clip in options) else None
        shown = "entropy" if by_entropy else f"error of {self.trait.label}"
        self.clips.description = f"{len(rows)} of {len(self.gallery.clips)} clips: {shown}, key"

    @_answers
    def _listed_anew(self) -> None:
        self._list(self.view and self.view.clip)

    @_answers
    def _trait_chosen(self) -> None:
        self._list(self.view and self.view.clip)
        self._draw()

    @_answers
    def _look_changed(self) -> None:
        self._draw()

    @_answers
    def _segment_chosen(self) -> None:
        self._draw()

    @_answers
    def _clip_chosen(self) -> None:
        if self.clips.value is None:
            return
        self.player.message = f"reading {self.clips.value} …"
        view = self._load(self.clips.value)
        self._offer(self.head, [("mean of all", None), *((f"head {h + 1}", h) for h in range(len(view.attention)))])
        self._offer(self.measure, [(name, name) for name in view.measures])
        self.measure.layout.display = None if len(view.measures) > 1 else "none"
        self.view = view
        self._draw(view.strongest(self.measure.value, self.trait.value))

    def _offer(self, box: widgets.Dropdown, options: list[tuple[str, Any]]) -> None:
        """Replace what can be chosen where it differs; the first is chosen then."""
        if list(box.options) != options:
            with self._quietly():
                box.options, box.index = options, 0

    def _draw(self, segment: int | None = None) -> None:
        """Show what the inputs say, of the motion token that is chosen or of another."""
        if self.view is None:  # the first clip could not be shown
            return
        trait = self.trait.value
        look = Look(self.head.value, self.gallery.targets[trait], trait, self.measure.value)
        with self._quietly():
            chosen = self.player.segment if segment is None else segment
            self.player.show(self.view, look, chosen, self._said(chosen))

    def _said(self, segment: int) -> str:
        """The clip's score, and what the chosen motion has to do with it."""
        view, row, trait = self.view, self.gallery.row_of(self.view.clip), self.trait.value
        entropy, share = self.gallery.entropy[row], view.head(self.head.value).mean(axis=0)[segment]
        start_s, end_s = view.t_start_s[segment], view.t_end_s[segment]
        spread = f"attention entropy {entropy:.2f} of uniform"
        if np.isnan(entropy):
            spread = "one motion token, so its attention says nothing"
        return (
            f"{view.clip}: {_judged(self.gallery, row, trait)}; {self.gallery.part[row]}; {spread}. "
            f"Motion from {start_s:.2f} to {end_s:.2f} s: {100 * share:.0f} % of the attention, "
            f"{self.measure.value} {_number(view.measures[self.measure.value][segment, trait], 3)}."
        )


def _number(value: float, digits: int = 2, *, signed: bool = True) -> str:
    """A number with its sign and without a negative zero; a dash as wide where it is unknown."""
    if np.isnan(value):
        return "\u2007" * digits + "\u2013" + "\u2007"  # figure spaces
    return f"{round(float(value), digits) + 0.0:{'+' if signed else ''}.{digits}f}".replace("-", "\u2212")
