"""Batches of one fixed shape, filled with the samples of many clips, and the network that runs over them.

In: samples, arrays of any shape, one after the other. Out: to whoever gave a sample, what the network says about it.
The network runs in a thread of its own while the next batch is filled; no result depends on what else is in its batch.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from helpers.engine.placement import device_scope
from helpers.forward import Forward, NetworkError

log = logging.getLogger(__name__)

BEGUN = 2  # batches on their way: one in the network, one that waits for it
WAITING_BYTES = 256 * 2**20  # of samples in unfilled batches; there are several where clips differ in length

Receive = Callable[[np.ndarray | NetworkError], None]


@dataclass
class _Batch:
    """A batch that is being filled, with room for so many samples of so many rows each."""

    room: int
    n_rows: int
    samples: list[np.ndarray] = field(default_factory=list)
    receivers: list[Receive] = field(default_factory=list)


class Batches:
    """Runs a network over samples; used as `with`, which waits for the batch that is running.

    When memory does not suffice for a batch, half of it is tried, and kept to from then on. A sample that the network
    fails on is found by running the samples of its batch one by one.

    Attributes:
        batch_size: Rows at once; less than it was after memory has run out.
        network_s: Seconds that the network has worked.
    """

    def __init__(
        self,
        forward: Forward,
        batch_size: int,
        *,
        prepare: Callable[[np.ndarray], np.ndarray] | None = None,
        compare: Callable[[np.ndarray, np.ndarray], None] | None = None,
        device: str = "",
    ) -> None:
        """
        Args:
            forward: Compiled network, (B, ...) to (B, ...).
            batch_size: Rows at once. A sample that makes more rows than that is a batch by itself.
            prepare: What a batch goes through before the network, such as `Backbone.preprocess`.
            compare: Is shown input and output of every batch, without what fills it up.
            device: What `helpers.engine.placement.use_device` gave; empty leaves the choice to the backend.
        """
        self.batch_size, self.network_s = batch_size, 0.0
        self._forward, self._prepare, self._compare, self._device = forward, prepare, compare, device
        self._filling: dict[tuple[int, ...], _Batch] = {}
        self._waiting_bytes = 0
        self._running: deque[tuple[Future, list[Receive]]] = deque()
        self._thread = ThreadPoolExecutor(1, "network")

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def add(self, sample: np.ndarray, receive: Receive, n_rows: int = 1) -> None:
        """Put a sample into the next batch of its shape.

        Args:
            sample: What the network takes, without the axis of the batch; not to be changed afterwards.
            receive: Gets the network's output for it, or why it failed: in this thread, in a later call.
            n_rows: Rows of features that come of it; the same for all samples of a shape.

        Raises:
            MemoryError: not even one sample fits. Whatever else the network raised comes out here, too.
        """
        batch = self._filling.setdefault(sample.shape, _Batch(max(1, self.batch_size // n_rows), n_rows))
        batch.samples.append(sample)
        batch.receivers.append(receive)
        self._waiting_bytes += sample.nbytes
        if len(batch.samples) >= batch.room:
            self._start(sample.shape)
        elif self._waiting_bytes > WAITING_BYTES:
            self._start(next(iter(self._filling)))

    def finish(self) -> None:
        """Run what is left in unfilled batches, and deliver everything."""
        while self._filling:
            self._start(next(iter(self._filling)))
        while self._running:
            self._deliver()

    def _start(self, shape: tuple[int, ...]) -> None:
        batch = self._filling.pop(shape)
        self._waiting_bytes -= sum(sample.nbytes for sample in batch.samples)
        while len(self._running) >= BEGUN:
            self._deliver()
        self._running.append((self._thread.submit(self._run_on_device, batch), batch.receivers))

    def _deliver(self) -> None:
        future, receivers = self._running.popleft()
        for output, receive in zip(future.result(), receivers, strict=True):
            receive(output)

    def _run_on_device(self, batch: _Batch) -> list[np.ndarray | NetworkError]:
        with device_scope(self._device):  # which holds for one thread only
            return self._run(batch)

    def _run(self, batch: _Batch) -> list[np.ndarray | NetworkError]:
        """What the network says about every sample; where memory does not suffice, of half as many at a time."""
        outputs: list[np.ndarray | NetworkError] = []
        room = min(batch.room, max(1, self.batch_size // batch.n_rows))  # less by now, if memory has run out since
        while len(outputs) < len(batch.samples):
            part = batch.samples[len(outputs) :][:room]
            try:
                outputs += self._outputs(part, room)
            except MemoryError as error:
                if room == 1:
                    raise MemoryError(f"{error} Not even one at a time fits into memory.") from None
                room //= 2
                self.batch_size = room * batch.n_rows
                log.warning("%s Going on with %d at a time, here and in what follows.", error, room)
        return outputs

    def _outputs(self, samples: list[np.ndarray], room: int) -> list[np.ndarray | NetworkError]:
        """The network's outputs, always of `room` samples, so that it meets one shape only: zeros fill it up."""
        x = np.zeros((room, *samples[0].shape), samples[0].dtype)
        np.stack(samples, out=x[: len(samples)])
        if self._prepare:
            x = self._prepare(x)
        started_s = time.perf_counter()
        try:
            y = self._forward(x)[: len(samples)]
        except NetworkError as error:
            if len(samples) > 1:
                return [output for sample in samples for output in self._outputs([sample], room)]
            log.warning("%s", error)
            return [error]
        finally:
            self.network_s += time.perf_counter() - started_s
        if self._compare:
            self._compare(x[: len(samples)], y)
        return list(y)


def run_batches(
    forward: Forward,
    samples: Iterable[np.ndarray],
    batch_size: int,
    prepare: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[np.ndarray]:
    """The network's output for every sample, in their order; see `Batches`. NetworkError if it fails on one."""
    outputs: dict[int, np.ndarray | NetworkError] = {}
    with Batches(forward, batch_size, prepare=prepare) as batches:
        for place, sample in enumerate(samples):
            batches.add(sample, partial(outputs.__setitem__, place))
        batches.finish()
    for output in outputs.values():
        if isinstance(output, NetworkError):
            raise output
    return [outputs[place] for place in range(len(outputs))]
