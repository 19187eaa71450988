"""The clips of a run to be looked at one by one: what was predicted of each, and all that can be seen of one.

In: arrays. Out: a `Gallery`, a small table of all clips, and a `ClipView` of the one that is chosen: its video, face
crops, flow, attention, and what taking its motion away does to each trait. A view is made when it is asked for;
`helpers.explorer.clip_views` makes both of a finished run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from helpers.explorer.preview import Preview

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
