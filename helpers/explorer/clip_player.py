"""One clip in a browser: its video, a time axis that follows it, and a chosen stretch of motion close up.

In: a `ClipView`, and a `Look` that says which head, trait and measure of it. Out: a widget; `clip_player.js` plays the
video, draws the time axis and tells which motion token was chosen, Python draws the close-up.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
import matplotlib.pyplot as plt
import traitlets

from helpers.clips import DISPLAY
from helpers.explorer.gallery import ClipView
from helpers.plots import NEUTRAL, TRAIT_COLORS
from helpers.plots import explorer as pictures
from helpers.plots.attention import COOL, WARM

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

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
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
