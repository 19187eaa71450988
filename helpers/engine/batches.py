"""Batches of one fixed shape, filled with the samples of many clips, and the network that runs over them.

In: samples, arrays of any shape, one after the other. Out: to whoever gave a sample, what the network says about it.
Two batches are in the network at a time, in threads of their own, while the next one is filled: cores that one of them
leaves idle at the end of a layer the other uses. No result depends on what else is in its batch.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from threading import Lock, Semaphore

import numpy as np

from helpers.engine.clock import BusyTime
from helpers.engine.placement import device_scope
from helpers.forward import Forward, NetworkError

log = logging.getLogger(__name__)

AT_ONCE = 2  # batches in the network, where memory suffices for both
BEGUN = AT_ONCE + 1  # batches on their way: one more waits for it
WAITING_BYTES = 256 * 2**20  # of samples in unfilled batches; there are several where clips differ in length

Receive = Callable[[np.ndarray | NetworkError], None]
Kind = tuple[tuple[int, ...], np.dtype]  # of a sample: what makes it fit into a batch


@dataclass
class _Batch:
    """A batch that is being filled: `x (room, ...)`, so many rows per sample, and who gave the samples so far."""

    x: np.ndarray
    n_rows: int
    receivers: list[Receive] = field(default_factory=list)


class Batches:
    """Runs a network over samples; used as `with`, which waits for the batch that is running.

    All batches of a kind have the size of the first, so that nothing is compiled twice, and no more is computed where
    there are too few samples to fill it. When memory does not suffice for a batch, half of it is tried, and kept
    to from then on; a single sample, with no other batch beside it. A sample that the network fails on is found by
    running the samples of its batch one by one.

    Attributes:
        batch_size: Rows at once; less than it was after memory has run out.
        network_s: Seconds that the network has worked, on one batch or on two.
    """

    def __init__(
        self,
        forward: Forward,
        batch_size: int,
        *,
        compare: Callable[[np.ndarray, np.ndarray], None] | None = None,
        device: str = "",
    ) -> None:
        """
        Args:
            forward: Compiled network, (B, ...) to (B, ...).
            batch_size: Rows at once. A sample that makes more rows than that is a batch by itself.
            compare: Is shown input and output of every batch, without what fills it up.
            device: What `helpers.engine.placement.use_device` gave; empty leaves the choice to the backend.
        """
        self.batch_size, self._busy = batch_size, BusyTime()
        self._forward, self._compare, self._device = forward, compare, device
        self._filling: dict[Kind, _Batch] = {}
        self._waiting_bytes = 0
        self._running: deque[tuple[Future, list[Receive]]] = deque()
        self._threads = ThreadPoolExecutor(AT_ONCE, "network")
        self._turns, self._waits_for_all = Semaphore(AT_ONCE), Lock()
        self._sizes: dict[Kind, int] = {}  # samples in a batch of each kind, known with its first

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    @property
    def network_s(self) -> float:
        return self._busy.seconds

    def add(self, sample: np.ndarray, receive: Receive, n_rows: int = 1) -> None:
        """Put a sample into the next batch of its shape.

        Args:
            sample: What the network takes, without the axis of the batch; not to be changed afterwards.
            receive: Gets the network's output for it, or why it failed: in this thread, in a later call.
            n_rows: Rows of features that come of it; the same for all samples of a shape.

        Raises:
            MemoryError: not even one sample fits. Whatever else the network raised comes out here, too.
        """
        kind = (sample.shape, sample.dtype)
        batch = self._filling.get(kind)
        if batch is None:
            room = self._sizes.get(kind) or max(1, self.batch_size // n_rows)
            x = sample[None] if room == 1 else np.empty((room, *sample.shape), sample.dtype)
            batch = self._filling[kind] = _Batch(x, n_rows)
        if len(batch.x) > 1:
            batch.x[len(batch.receivers)] = sample
        batch.receivers.append(receive)
        self._waiting_bytes += sample.nbytes
        if len(batch.receivers) == len(batch.x):
            self._start(kind)
        elif self._waiting_bytes > WAITING_BYTES:
            self._start(next(iter(self._filling)))

    def finish(self) -> None:
        """Run what is left in unfilled batches, and deliver everything."""
        while self._filling:
            self._start(next(iter(self._filling)))
        while self._running:
            self._deliver()

    def _start(self, kind: Kind) -> None:
        batch = self._filling.pop(kind)
        batch.x = batch.x[: self._sizes.setdefault(kind, len(batch.receivers))]
        self._waiting_bytes -= batch.x[: len(batch.receivers)].nbytes
        while self._running and (len(self._running) >= BEGUN or self._running[0][0].done()):
            self._deliver()
        self._running.append((self._threads.submit(self._run_on_device, batch), batch.receivers))

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
        samples = batch.x[: len(batch.receivers)]
        room = min(len(batch.x), max(1, self.batch_size // batch.n_rows))  # less, if memory has run out since
        while len(outputs) < len(samples):
            try:
                outputs += self._outputs(samples[len(outputs) :][:room], room)
            except MemoryError as error:
                if room == 1:
                    raise MemoryError(f"{error} Not even one at a time fits into memory.") from None
                room //= 2
                self.batch_size = min(self.batch_size, room * batch.n_rows)
                log.warning("%s Going on with %d at a time, here and in what follows.", error, room)
        return outputs

    def _outputs(self, samples: np.ndarray, room: int) -> list[np.ndarray | NetworkError]:
        """The network's outputs, always of `room` samples, so that it meets one shape only: zeros fill it up."""
        x = samples
        if len(samples) < room:
            x = np.zeros((room, *samples.shape[1:]), samples.dtype)
            x[: len(samples)] = samples
        try:
            y = self._forwarded(x)[: len(samples)]
        except NetworkError as error:
            if len(samples) > 1:
                return [output for place in range(len(samples)) for output in self._outputs(samples[[place]], room)]
            log.warning("%s", error)
            return [error]
        if self._compare:
            self._compare(samples, y)
        return list(y)

    def _forwarded(self, x: np.ndarray) -> np.ndarray:
        """What the network makes of a batch; where memory has no room for one sample, without others beside it."""
        try:
            with self._turns, self._busy:
                return self._forward(x)
        except MemoryError:
            if len(x) > 1:
                raise
        with ExitStack() as turns, self._waits_for_all:
            for _ in range(AT_ONCE):
                turns.enter_context(self._turns)
            with self._busy:
                return self._forward(x)


def run_batches(
    forward: Forward,
    samples: Iterable[np.ndarray],
    batch_size: int,
    kept: Callable[[np.ndarray], np.ndarray] = lambda output: output,
) -> list[np.ndarray]:
    """What is `kept` of the network's output for every sample, in their order; NetworkError if it fails on one.

    Args:
        forward, batch_size: See `Batches`.
        samples: What the network takes, without the axis of the batch.
        kept: Is applied to an output as it arrives; memory holds what it returns.
    """
    outputs: dict[int, np.ndarray | NetworkError] = {}

    def receive(place: int, output: np.ndarray | NetworkError) -> None:
        outputs[place] = output if isinstance(output, NetworkError) else kept(output)

    with Batches(forward, batch_size) as batches:
        for place, sample in enumerate(samples):
            batches.add(sample, partial(receive, place))
        batches.finish()
    for output in outputs.values():
        if isinstance(output, NetworkError):
            raise output
    return [outputs[place] for place in range(len(outputs))]
