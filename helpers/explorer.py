"""The explorer of 07: choose a clip, see its video with the attention beside it, click a stretch of motion.

A `Gallery` holds the clips of a finished run, and makes the `ClipView` of one. The `Explorer` shows it in JupyterLab:
`clip_player.js` keeps video and time axis in step and tells which motion was clicked, Python draws it close up. What a
callback raises stands in the line below the clip, as no front end shows it. The run's first seed is the model.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import anywidget
import av
import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import traitlets
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from helpers.align import read_aligned
from helpers.attention import get_attention_weights, mean_motion, occlusion, window_spans
from helpers.clips import load_clips, name_of
from helpers.config import AttentionConfig, DynamicConfig
from helpers.container import VideoError
from helpers.experiment import load_run, load_trained, rated_clips, split_of
from helpers.files import needs
from helpers.model import clips_at_once
from helpers.plots import NEUTRAL, TRAIT_COLORS, step_of
from helpers.plots import attention as pictures
from helpers.rows import CROP_PX, Chunk, Job, face_flows
from helpers.statistics import number
from helpers.store import STREAMS, FeatureFile, read_features, read_manifest
from helpers.tracks import FaceTrack, crop_at, read_track
from helpers.variants import TOKEN_MODEL
from helpers.video import iter_frames, probe

HEIGHT_PX = 320  # of the video, at most: a clip is looked at beside its attention, not for itself
TICK_S = Fraction(1, 1000)
DPI = 200  # of the close-up, which is shown at half of it: screens are sharp
KEPT = 8  # views of clips that are held: 7 MB each for a clip of 5 s
SMALLEST = 0.01  # the axis of effects reaches at least so far: small ones are to look small
EFFECT = "effect of this motion on the score"  # with it, minus with the mean motion token in its place


@dataclass(frozen=True)
class ClipView:
    """All that can be seen of one clip with Ts face tokens, Td motion tokens and k traits; times are in seconds."""

    clip: str
    video: bytes  # MP4, small; b"" where no features were made of it here and it cannot be read
    duration_s: float  # of the video
    crops: np.ndarray | None  # face of each face token, RGB uint8 (Ts, S, S, 3); None without video or 02
    face_t_s: np.ndarray  # centre of each face token, (Ts,)
    t_start_s: np.ndarray  # of each motion token, (Td,)
    t_end_s: np.ndarray
    speed: np.ndarray | None  # mean px per frame in each motion token, (Td, S, S); None where 04 did not see the video
    flow: np.ndarray | None  # dx, dy in px per frame at its fastest moment, (Td, S, S, 2)
    attention: np.ndarray  # (heads, Ts, Td), rows sum to 1
    effects: np.ndarray  # what each motion token does to each trait: score with it minus without, (Td, k)
    windows: Mapping[str, tuple[float, float]]  # start and stop of what was planted, by name

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

    def strongest(self, trait: int) -> int:
        """The motion token with the largest effect on a trait, in either direction."""
        return int(np.abs(self.effects[:, trait]).argmax())


class Gallery:
    """The N clips of a finished run that have both streams, and its model; k traits.

    `clips`: keys, str (N,). `targets`: names of the traits. `predicted`, `rated`: (N, k) in [0, 1], NaN where unrated.
    """

    def __init__(self, cfg: AttentionConfig) -> None:
        """Read a run, by the parameters of 07; FileNotFoundError, naming the notebook, where it is not finished."""
        data, trained = load_run(cfg.out)
        seed, bank = trained.seeds[0], rated_clips(data)
        self.out, self.data, self.run = cfg.out, cfg.data, read_aligned(cfg.out / "aligned")
        self.paths = load_clips(cfg.out / "clips.csv")["path"]
        self.model = load_trained(trained, TOKEN_MODEL, seed)
        self.baseline = mean_motion(bank.take(split_of(bank, trained, seed) == "train"))
        self.clips, self.targets, self.rated = self.run.clips, tuple(self.run.targets.tolist()), self.run.labels
        self.predicted = self.model.predict(self.run.inputs(), batch_size=clips_at_once(self.run.inputs()), verbose=0)

    def start(self, clip: str, trait: str) -> tuple[int, int]:
        """Row and column of these, by default of the first rated clip; ValueError where there is none."""
        if trait not in self.targets:
            raise ValueError(f"trait must be one of {', '.join(self.targets)}, got {trait!r}.")
        if clip and clip not in self.clips:
            raise ValueError(f"clip must be a key of this run's clips.csv, got {clip!r}.")
        rows = self.clips == clip if clip else ~np.isnan(self.rated).all(axis=1)
        return int(rows.argmax()), self.targets.index(trait)

    def judged(self, clip: str, column: int) -> str:
        """A clip's score beside its rating, in words."""
        (predicted,), (rated,) = (of[self.clips == clip, column] for of in (self.predicted, self.rated))
        error = "not rated" if np.isnan(rated) else f"rated {rated:.2f} (error {number(predicted - rated, sign=True)})"
        return f"{name_of(self.targets[column])} predicted {predicted:.2f}, {error}"

    def load(self, clip: str) -> ClipView:
        """Make the view of a clip of its video and its files of 02 to 04; FileNotFoundError, ValueError and VideoError
        name one that is missing, not that of the tokens, or broken.
        """
        one = self.run.take(self.clips == clip)
        faces, motions = one.static_mask[0], one.dynamic_mask[0]
        face, motion = _rows(self.out, "static", clip, faces.sum()), _rows(self.out, "dynamic", clip, motions.sum())
        identity = {name: read_manifest(self.out / name, by)["identity"] for name, by in STREAMS.items()}
        of_videos = [name for name, how in identity.items() if not {"external", "stored"} & how.keys()]
        path, prepared = self.data / self.paths.loc[clip], self.out / "faces" / f"{clip}.npz"
        track = read_track(needs(prepared, "02_clip_preparation")) if of_videos or prepared.exists() else None
        video, duration_s = _preview_if_readable(path, needed=bool(of_videos))
        t_start_s, t_end_s = _ends(motion)
        speed = flow = None
        if "dynamic" in of_videos:
            how = DynamicConfig.checked(identity["dynamic"]["parameters"])
            moved = motion_per_token(face_flows(Job(path, track, how)), motion.t_start_s, motion.t_end_s)
            speed, flow = (of * how.flow_clip_px for of in moved)
        return ClipView(
            clip=clip,
            video=video,
            duration_s=duration_s,
            crops=_crops(path, track, face) if track and video else None,
            face_t_s=face.t_s,
            t_start_s=t_start_s,
            t_end_s=t_end_s,
            speed=speed,
            flow=flow,
            attention=get_attention_weights(self.model, one.inputs())[0][:, faces][:, :, motions],
            effects=occlusion(self.model, one.inputs(), self.baseline)[0][motions],
            windows=window_spans(self.data, clip),
        )


def _preview_if_readable(path: Path, needed: bool) -> tuple[bytes, float]:
    try:
        return encode_preview(path)
    except VideoError:
        if needed:
            raise
        return b"", 0.0


def _ends(motion: FeatureFile) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of each motion token; one that was taken for a moment reaches half of the way to the next."""
    more_s = np.where(motion.t_end_s > motion.t_start_s, 0.0, step_of(motion.t_s) / 2)
    return motion.t_start_s - more_s, motion.t_end_s + more_s


def encode_preview(path: str | Path) -> tuple[bytes, float]:
    """Encode a clip again as MP4: small, upright, without sound, its first picture at 0 s; its bytes and seconds."""
    info, file = probe(path), io.BytesIO()
    share = min(1.0, HEIGHT_PX / info.height)
    size = tuple(max(2, 2 * round(share * side / 2)) for side in (info.height, info.width))  # 4:2:0 wants even sides
    with av.open(file, "w", format="mp4") as video:
        rate = Fraction(info.fps).limit_denominator(1001)
        stream = video.add_stream("libx264", rate=rate, options={"crf": "26", "preset": "veryfast"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.time_base = 10, TICK_S  # a click shows its picture at once
        for frame, t_s, *_ in iter_frames(path, size=size):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = round(t_s / TICK_S), TICK_S
            video.mux(stream.encode(picture))
        video.mux(stream.encode())
    return file.getvalue(), info.duration_s


def _crops(path: Path, track: FaceTrack, face: FeatureFile) -> np.ndarray:
    """The face of each row (n, S, S, 3); rows that know no frame take the one on screen at their time."""
    number = face.frame if (face.frame >= 0).all() else track.frame[track.sample_at(face.t_s)]
    wanted, of_row = np.unique(number, return_inverse=True)
    frames = iter_frames(path, indices=wanted.tolist())
    return np.stack([crop_at(frame, track, CROP_PX) for frame, *_ in frames])[of_row]


def _rows(out: Path, stream: str, clip: str, n: int) -> FeatureFile:
    path = out / stream / f"{clip}.npz"
    rows = read_features(needs(path, STREAMS[stream])).in_time()
    if len(rows.features) != n:
        raise ValueError(f"{path} must hold {n} valid rows like 05's tokens, got {len(rows.features)}. Run 05 again.")
    return rows


def motion_per_token(
    chunks: Iterable[Chunk], t_start_s: np.ndarray, t_end_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean speed within each motion token, (Td, S, S), and the flow at its fastest moment, (Td, S, S, 2).

    Flows (n, S, S, 2) are gone through once; tokens, (Td,) in seconds, may overlap; one without flow has zeros.
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


class ClipPlayer(anywidget.AnyWidget):
    """What `clip_player.js` shows. All traits are set at once; `state` says what is shown.

    `scene`: numbers of the time axis. `picture`: the close-up as PNG. `segment`: the chosen token, set from both sides.
    """

    _esm = Path(__file__).with_name("clip_player.js")
    _css = Path(__file__).with_name("clip_player.css")
    scene = traitlets.Dict().tag(sync=True)
    video = traitlets.Bytes().tag(sync=True)
    picture = traitlets.Bytes().tag(sync=True)
    segment = traitlets.Int(0).tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)
    state = traitlets.Unicode().tag(sync=True)


def scene_of(view: ClipView, head: int | None, column: int, target: str) -> dict[str, Any]:
    """Numbers of the time axis, on the clip's own scales: those of a target in its column, of a head (None: of all)."""
    rows = view.head(head)
    spans = zip(view.windows.items(), pictures.WINDOW_COLORS, strict=False)
    return {
        "clip": view.clip,
        "duration_s": max(view.duration_s, float(view.t_end_s[-1])),
        "start_s": view.t_start_s.tolist(),
        "end_s": view.t_end_s.tolist(),
        "face_s": view.face_t_s.tolist(),
        "rows": rows.tolist(),
        "share": rows.mean(axis=0).tolist(),
        "share_top": float(view.attention.max()),
        "values": view.effects[:, column].tolist(),
        "value_range": [min(float(view.effects.min()), -SMALLEST), max(float(view.effects.max()), SMALLEST)],
        "label": f"{name_of(target)}: {EFFECT}",
        "color": TRAIT_COLORS.get(target, NEUTRAL),
        "windows": [{"name": n, "start_s": a, "stop_s": b, "color": color} for (n, (a, b)), color in spans],
    }


def in_front_end() -> bool:
    """Whether the running cell was sent by JupyterLab, Notebook or VS Code, so that widgets are seen: these name the
    cell in their request; papermill, nbval and nbconvert do not, whatever started them.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and "cellId" in kernel.get_parent("shell").get("metadata", {})


def show(gallery: Gallery, *, clip: str = "", trait: str = "agreeableness") -> Figure | None:
    """Show the explorer, at a clip (default: the first that is rated) and a trait; where nobody can click, return a
    figure of the clip's strongest motion instead.
    """
    if in_front_end():
        display(Explorer(gallery, clip=clip, trait=trait))
        return None
    row, column = gallery.start(clip, trait)
    view = gallery.load(clip := str(gallery.clips[row]))
    return pictures.plot_segment(view, view.strongest(column), title=f"{clip}\n{gallery.judged(clip, column)}")


class Explorer(widgets.Box):
    """The list of clips by name, the choice of head and trait, and the clip that is shown, each an attribute."""

    def __init__(self, gallery: Gallery, *, clip: str = "", trait: str = "agreeableness") -> None:
        row, column = gallery.start(clip, trait)
        self.gallery, self.busy = gallery, False
        self.view: ClipView | None = None
        self._load = lru_cache(maxsize=KEPT)(gallery.load)
        self.player = ClipPlayer()
        self.clips = widgets.Select(
            options=sorted(gallery.clips.tolist()), value=str(gallery.clips[row]), description="Clip", rows=12
        ).add_class("explorer-list")
        traits = [(name_of(name), k) for k, name in enumerate(gallery.targets)]
        self.trait = widgets.Dropdown(options=traits, value=column, description="Trait")
        n_heads = int(gallery.model.get_config()["num_heads"])
        heads = [("mean of all", None), *((f"head {h + 1}", h) for h in range(n_heads))]
        self.head = widgets.Dropdown(options=heads, description="Head")
        choices = widgets.Box([self.head, self.trait]).add_class("explorer-choices")
        super().__init__([self.clips, widgets.VBox([choices, self.player]).add_class("explorer-clip")])
        self.add_class("explorer")
        for box in (self.clips, self.trait, self.head):
            box.observe(self._answer, "value")
        self.player.observe(self._answer, "segment")
        self._answer({"owner": self.clips})

    def _answer(self, change: dict[str, Any]) -> None:
        """Follow one input, passing over what that changes; what goes wrong is said in the explorer's own line."""
        if self.busy:
            return
        self.busy, box = True, change["owner"]
        try:
            if box is self.clips:
                self.player.message = f"reading {self.clips.value} …"
                self.view = self._load(self.clips.value)
                self._draw(self.view.strongest(self.trait.value))
            elif self.view:
                self._draw(self.player.segment)
        except Exception as error:  # whatever it is, it would be lost
            kept = f" Shown is still {self.view.clip}." if self.view else ""
            self.player.message = f"error: {type(error).__name__}: {error}{kept}"
        finally:
            self.busy = False

    def _draw(self, segment: int) -> None:
        """Send the browser, in one piece, what the inputs say of a motion token."""
        view, player, head, column = self.view, self.player, self.head.value, self.trait.value
        target = self.gallery.targets[column]
        fig, file = pictures.plot_segment(view, segment, head=head), io.BytesIO()
        fig.savefig(file, dpi=DPI)
        plt.close(fig)
        with player.hold_sync():
            player.segment, player.video, player.picture = segment, view.video, file.getvalue()
            player.scene = scene_of(view, head, column, target)
            player.message = (
                f"{view.clip}: {self.gallery.judged(view.clip, column)}. Motion from {view.t_start_s[segment]:.2f} to "
                f"{view.t_end_s[segment]:.2f} s: {view.head(head).mean(axis=0)[segment]:.0%} of the attention, "
                f"{EFFECT} {number(view.effects[segment, column], 3, True)}."
                f"{'' if view.video else ' Its video cannot be read here.'}"
            )
            of_head = "mean" if head is None else f"head{head + 1}"
            player.state = "|".join((view.clip, of_head, target, str(segment)))
