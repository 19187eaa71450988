"""The explorer: choose a clip, see its video with the attention beside it, click a stretch of motion to look closer.

In: a `Gallery`. Out: a widget in JupyterLab, or a figure where nobody can click. A `ClipPlayer` shows the clip; here
are the inputs beside it and what they do. What a callback raises stands in the line below the clip, as no front end
shows it.
"""

import logging
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any

import ipywidgets as widgets
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure

from helpers.clips import DISPLAY
from helpers.explorer.clip_player import ClipPlayer, Look
from helpers.explorer.gallery import ORDERS, ClipView, Gallery
from helpers.front_end import in_front_end
from helpers.plots import explorer as pictures

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
