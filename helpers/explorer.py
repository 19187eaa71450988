"""The explorer: choose a clip, see its video with the attention beside it, click a stretch of motion to look closer.

In: a `Gallery`. Out: a widget in JupyterLab, or a figure where nobody can click. `clip_player.js` plays the video,
draws the time axis and tells which motion token was chosen; Python draws the close-up. What a callback raises stands in
the line below the clip, as no front end shows it.
"""

import io
import logging
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import traitlets
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from helpers.gallery import ORDERS, ClipView, Gallery, in_digits
from helpers.plots import NEUTRAL, TRAIT_COLORS, name_of
from helpers.plots import attention as pictures
from helpers.plots.attention import COOL, WARM

log = logging.getLogger(__name__)

SMALLEST = 0.01  # the axis of effects reaches at least so far: small ones are to look small
DPI = 200  # of the close-up, which is shown at half of it: screens are sharp
KEPT = 8  # views of clips that are held: 7 MB each for a clip of 5 s


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


def scene_of(view: ClipView, head: int | None, measure: str, column: int, target: str) -> dict[str, Any]:
    """Numbers of the time axis: seconds, attention in [0, 1], values of the measure for the target in that column.

    The scales are the clip's own, alike for all heads and traits; `head` None is the mean of all.
    """
    rows, values = view.head(head), view.measures[measure]
    spans = zip(view.windows.items(), (WARM, COOL), strict=False)
    return {
        "clip": view.clip,
        "duration_s": max(view.preview.duration_s if view.preview else 0.0, float(view.t_end_s[-1])),
        "start_s": view.t_start_s.tolist(),
        "end_s": view.t_end_s.tolist(),
        "face_s": view.face_t_s.tolist(),
        "rows": rows.tolist(),
        "share": rows.mean(axis=0).tolist(),
        "share_top": float(view.attention.max()),
        "values": values[:, column].tolist(),
        "value_range": [min(float(values.min()), -SMALLEST), max(float(values.max()), SMALLEST)],
        "label": f"{name_of(target)}: {measure}",
        "color": TRAIT_COLORS.get(target, NEUTRAL),
        "windows": [{"name": n, "start_s": a, "stop_s": b, "color": color} for (n, (a, b)), color in spans],
    }


def close_up(view: ClipView, head: int | None, segment: int) -> bytes:
    """A motion token with the face of its time, as PNG."""
    fig, file = pictures.plot_segment(view, segment, head=head), io.BytesIO()
    fig.savefig(file, dpi=DPI)
    plt.close(fig)
    return file.getvalue()


def in_front_end() -> bool:
    """Whether the running cell was sent by JupyterLab, Notebook or VS Code, so that widgets are seen.

    They name the cell in their request; papermill, nbval and nbconvert do not, whatever started them.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and "cellId" in kernel.get_parent("shell").get("metadata", {})


def show(gallery: Gallery, *, clip: str = "", trait: str = "agreeableness") -> Figure | None:
    """Show the explorer and return None; where nobody can click, return the figure of one clip as it opens instead.

    Args:
        gallery: The clips.
        clip: Key of the clip to begin with; default the first that is rated.
        trait: The trait to begin with.
    """
    if in_front_end():
        display(Explorer(gallery, clip=clip, trait=trait))
        return None
    row, column = gallery.start(clip, trait)
    view = gallery.load(str(gallery.clips[row]))
    measure = next(iter(view.measures))
    return pictures.plot_clip(
        view,
        view.strongest(measure, column),
        view.measures[measure][:, column],
        color=TRAIT_COLORS.get(trait, NEUTRAL),
        label=textwrap.fill(f"{name_of(trait)}: {measure}", 26),
        title=f"{view.clip}\n{gallery.judged(row, column)}",
    )


class Explorer(widgets.Box):
    """The list of clips, the choice of head and trait, and the clip that is shown.

    Attributes:
        gallery: What is chosen from.
        view: The clip that is shown; None before the first.
        search, order, clips, head, trait, measure: The inputs.
        player: The clip's own widget.
    """

    def __init__(self, gallery: Gallery, *, clip: str = "", trait: str = "agreeableness") -> None:
        row, column = gallery.start(clip, trait)
        self.gallery, self.quiet = gallery, False
        self.view: ClipView | None = None
        self._load = lru_cache(maxsize=KEPT)(gallery.load)
        self.player = ClipPlayer()
        self.search = widgets.Text(description="Search", placeholder="part of a clip's key")
        self.order = widgets.Dropdown(options=ORDERS, description="Sort by")
        self.clips = widgets.Select(description="Clip", rows=12)
        traits = [(name_of(name), k) for k, name in enumerate(gallery.targets)]
        self.trait = widgets.Dropdown(options=traits, value=column, description="Trait")
        self.head = widgets.Dropdown(options=[("mean of all", None)], description="Head")
        self.measure = widgets.Dropdown(description="Bars")
        choices = widgets.Box([self.head, self.trait, self.measure]).add_class("explorer-choices")
        left = widgets.VBox([self.search, self.order, self.clips]).add_class("explorer-list")
        super().__init__([left, widgets.VBox([choices, self.player]).add_class("explorer-clip")])
        self.add_class("explorer")
        for box in (self.search, self.order, self.clips, self.trait, self.head, self.measure):
            box.observe(self._answer, "value")
        self.player.observe(self._answer, "segment")
        self._list(str(gallery.clips[row]))
        self._answer({"owner": self.clips})

    def _answer(self, change: dict[str, Any]) -> None:
        """Follow one input; what goes wrong is said in the explorer's own line."""
        if self.quiet:
            return
        box = change["owner"]
        try:
            if box in (self.search, self.order, self.trait):
                self._list(self.view and self.view.clip)
            if box is self.clips:
                self._open()
            elif box not in (self.search, self.order):
                self._draw()
        except Exception as error:  # whatever it is, it would be lost
            log.debug("a callback of the explorer failed", exc_info=True)
            kept = f" Shown is still {self.view.clip}." if self.view else ""
            self.player.message = f"error: {type(error).__name__}: {error}{kept}"

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
        keys = self.gallery.clips[rows].tolist()
        with self._quietly():
            self.clips.options = [
                (f"{in_digits(values[row], signed=not by_entropy)}  {key}", key)
                for row, key in zip(rows, keys, strict=True)
            ]
            self.clips.value = chosen if chosen in keys else None
        shown = "entropy" if by_entropy else f"error of {self.trait.label}"
        self.clips.description = f"{len(rows)} of {len(self.gallery.clips)} clips: {shown}, key"

    def _open(self) -> None:
        """Show the clip that is chosen, at its strongest motion."""
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
        """Send the browser, in one piece, what the inputs say, of the motion token that is chosen or of another."""
        if self.view is None:  # the first clip could not be shown
            return
        view, player, head, column = self.view, self.player, self.head.value, self.trait.value
        target, segment = self.gallery.targets[column], player.segment if segment is None else segment
        with self._quietly(), player.hold_sync():
            player.segment = segment
            player.video, player.mime = (view.preview.data, view.preview.mime) if view.preview else (b"", "")
            player.scene = scene_of(view, head, self.measure.value, column, target)
            player.picture = close_up(view, head, segment)
            player.described = (
                f"{view.clip} from {view.t_start_s[segment]:.2f} to {view.t_end_s[segment]:.2f} s: the face, its "
                "motion, and the attention of each face token to that motion, head by head"
            )
            player.message = self._said(segment)
            of_head = "mean" if head is None else f"head{head + 1}"
            player.state = "|".join((view.clip, of_head, target, str(segment)))
            player.seq += 1

    def _said(self, segment: int) -> str:
        """The clip's score, and what the chosen motion has to do with it."""
        view, row, trait = self.view, self.gallery.row_of(self.view.clip), self.trait.value
        entropy, share = self.gallery.entropy[row], view.head(self.head.value).mean(axis=0)[segment]
        spread = f"attention entropy {entropy:.2f} of uniform"
        if np.isnan(entropy):
            spread = "one motion token, so its attention says nothing"
        return (
            f"{view.clip}: {self.gallery.judged(row, trait)}; {self.gallery.part[row]}; {spread}. "
            f"Motion from {view.t_start_s[segment]:.2f} to {view.t_end_s[segment]:.2f} s: "
            f"{100 * share:.0f} % of the attention, "
            f"{self.measure.value} {in_digits(view.measures[self.measure.value][segment, trait], 3)}."
            + (f" {view.absent.capitalize()}." if view.absent else "")
        )
