"""Stored flow for networks of one's own: a file per clip is written, and many are read as batches of equal size.

In: flow in pixels per frame, or a folder of stored flow (`helpers.precomputed.FlowTree`). Out: files that
`helpers.flow.read_flow` reads; `FlowBatch`es, with one clip at full size at a time.
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
        flow: (n, H, W, 2), n >= 1, pixels per frame, finite.
        t_s: Seconds of each field's first frame, ascending, (n,).
        fps: Frames per second between which the flow is.
        method: One of `METHODS`, or another name for flow that was not computed here.
        clip_px: Largest component kept, at most 511.98. 20 px is what I3D was trained on.
    """
    flow, t_s = checked_flow(flow), np.asarray(t_s, np.float64)
    if t_s.shape != (len(flow),) or np.any(np.diff(t_s) <= 0):
        raise ValueError(f"t_s must ascend and have shape ({len(flow)},) like flow, got {t_s.shape}.")
    if not (fps > 0 and method):
        raise ValueError(f"fps must be above 0 and method a name, got {fps} and {method!r}. Say what the flow is.")
    if not 0 < clip_px <= MOST_PX:
        raise ValueError(f"clip_px must be above 0 and at most {MOST_PX:g}, got {clip_px}.")
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


def checked_flow(flow: np.ndarray) -> np.ndarray:
    """Flow as float32, or a ValueError: not (n, H, W, 2), not decimal numbers, not finite."""
    flow = np.asarray(flow)
    if flow.ndim != 4 or flow.shape[-1] != 2 or 0 in flow.shape:
        raise ValueError(f"flow must have shape (n, H, W, 2), n at least 1, got {flow.shape}. Put (dx, dy) last.")
    if flow.dtype.kind != "f":
        raise ValueError(f"flow must be decimal numbers in pixels, got {flow.dtype}. Pictures are no flow.")
    if len(bad := np.argwhere(~np.isfinite(flow))):
        raise ValueError(f"flow must be finite, got NaN or infinity in field {bad[0, 0]}. Compute it again.")
    return flow.astype(np.float32, copy=False)


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
            Flow float32 (T, size_px, size_px, 2), u and v scaled with the fields; `clip_px`: see `StoredClip`. And by
            place the reason of every field that cannot be used: zeros.
        """
        if name not in self.clips:
            few = ", ".join(list(self.clips)[:3])
            raise ValueError(f"name must be one of the {len(self.clips)} clips ({few}, ...), got {name!r}. See clips.")
        job = self.job(name, size_px or self.side_px, clip_px)
        return job.open(job)(slice(0, len(job.t_s)))

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

        Args:
            names, batch_size: Which clips, and how many in a batch.
            length: Fields per clip; a longer one keeps its start, a shorter one gets no motion behind.
            size_px, clip_px: See `load`.
            repeat_single: Repeat the field of a clip that has one only, as the source project did for all: a motion
                that nobody made, so it is off.
        """
        if batch_size < 1 or length < 1:
            raise ValueError(f"batch_size and length must be at least 1, got {batch_size} and {length}.")
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
