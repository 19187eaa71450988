"""Stored flow for networks of one's own: a file per clip is written, and many are read as batches of equal size.

In: flow in pixels per frame, or a folder of stored flow (`helpers.precomputed.FlowTree`). Out: files that
`helpers.flow.read_flow` reads; batches, with one clip at full size at a time.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers.flow import MOST_PX, STEP_PX
from helpers.precomputed import FlowTree, Values
from helpers.store import write_arrays


def write_flow(
    path: str | Path, flow: np.ndarray, t_s: np.ndarray, fps: float, method: str, clip_px: float = 20.0
) -> None:
    """Write the flow of one clip, cut to +-clip_px and rounded to whole steps; atomic, no pickle.

    Args:
        path: The npz file.
        flow: Decimal numbers (n, H, W, 2), n >= 1, pixels per frame, finite.
        t_s: Seconds of each field's first frame, ascending, (n,).
        fps: Frames per second between which the flow is.
        method: One of `METHODS`, or another name for flow that was not computed here.
        clip_px: Largest component kept, at most 511.98. 20 px is what I3D was trained on.
    """
    flow, t_s = np.asarray(flow), np.asarray(t_s, np.float64)
    right = {
        "flow must be decimal numbers (n, H, W, 2)": flow.dtype.kind == "f"
        and flow.shape[3:] == (2,)
        and flow.size > 0,
        "flow must be finite": np.isfinite(flow).all(),
        "t_s must ascend, one for each field of flow": t_s.shape == flow.shape[:1] and np.all(np.diff(t_s) > 0),
        f"fps and clip_px must be above 0, clip_px at most {MOST_PX:g}": fps > 0 and 0 < clip_px <= MOST_PX,
    }
    for rule, holds in right.items():
        if not holds:
            got = f"{flow.dtype} {flow.shape}, {t_s.shape}, fps {fps}, clip_px {clip_px}"
            raise ValueError(f"{rule}, got {got}. Compute the flow again.")
    flow = flow.astype(np.float32, copy=False)
    codes = np.round(np.moveaxis(np.clip(flow, -clip_px, clip_px), -1, 1) / STEP_PX).astype(np.int16)
    write_arrays(
        path,
        codes=np.diff(codes, axis=2, prepend=np.int16(0)),  # 16-bit numbers wrap around, and back
        t_s=t_s,
        fps=float(fps),
        method=method,
        clip_px=float(clip_px),
        quantum_px=STEP_PX,
        clamped_share=float((np.abs(flow) > clip_px).mean()),
    )


class FlowBatch(NamedTuple):
    """`flow (B, T, S, S, 2) float32` in [-1, 1]; `mask (B, T) bool`, False where a field is padding or cannot be used;
    `keys`, B of them.
    """

    flow: np.ndarray
    mask: np.ndarray
    keys: tuple[str, ...]


class OpticalFlowSequenceLoader(FlowTree):
    """A folder of stored flow whose clips are read whole."""

    def load(self, name: str, size_px: int | None = None, clip_px: float | None = None) -> Values:
        """Read the whole flow of one of `clips`.

        Returns:
            Flow float32 (T, size_px, size_px, 2), u and v scaled with the fields, in pixels, or cut to +-`clip_px` and
            divided by it. And by place the reason of every field that cannot be used: zeros.
        """
        if name not in self.clips:
            raise ValueError(f"name must be one of the {len(self.clips)} clips, got {name!r}. See clips.")
        fields, reasons, n = [], {}, 0
        for values, unusable in self.job(name, size_px or self.side_px, clip_px).read():
            fields.append(values)
            reasons |= {n + place: reason for place, reason in unusable.items()}
            n += len(values)
        return np.concatenate(fields), reasons

    def batches(
        self,
        names: Sequence[str],
        *,
        batch_size: int,
        length: int,
        size_px: int,
        clip_px: float = 20.0,
        repeat_single: bool = False,
    ) -> Iterator[FlowBatch]:
        """Yield batches of some of the `clips` in the given order; the last one may hold fewer.

        `length`: fields per clip; a longer one keeps its start, a shorter one gets no motion behind. `repeat_single`:
        repeat the field of a clip that has one only, as the source project did for all: a motion that nobody made.
        """
        for start in range(0, len(names), batch_size):
            chosen = tuple(names[start : start + batch_size])
            flow = np.zeros((len(chosen), length, size_px, size_px, 2), np.float32)
            mask = np.zeros((len(chosen), length), bool)
            for i, name in enumerate(chosen):
                fields, reasons = self.load(name, size_px, clip_px)
                if repeat_single and len(fields) == 1 and not reasons:
                    fields = np.repeat(fields, length, axis=0)
                n = min(length, len(fields))
                flow[i, :n] = fields[:length]
                mask[i, :n] = [place not in reasons for place in range(n)]
            yield FlowBatch(flow, mask, chosen)
