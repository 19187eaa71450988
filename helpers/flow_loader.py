"""Stored flow of many clips as batches of equal length and size, for networks of one's own.

In: a folder of stored flow (`helpers.precomputed.FlowTree`). Out: `FlowBatch`es; one clip is held at full size at a
time.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from helpers.precomputed import FlowTree, Values


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
