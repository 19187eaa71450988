"""How far a network's rows in bfloat16 or float16 lie from its rows in float32, on the inputs it is really shown.

In: a model and the first batch that went through it. Out: a `Deviation` for the manifest. The numbers are
those of this machine, backend and data.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any

import keras
import numpy as np

from helpers.forward import NetworkError, Prepare, compile_forward

log = logging.getLogger(__name__)

KEY = "deviation_from_float32"  # in `made_with` of a stage's manifest


@dataclass(frozen=True)
class Deviation:
    """What a precision costs, over `rows` rows that are finite in both; `not_finite` more are so in float32 only.

    `smallest_cosine` is that of the worst row, in [-1, 1]; `largest_difference` is a share of the largest value.
    Both are None where no row could be compared.
    """

    rows: int
    not_finite: int
    smallest_cosine: float | None
    largest_difference: float | None


def deviation(ours: np.ndarray, reference: np.ndarray) -> Deviation:
    """Compare a network's output with that in float32.

    Args:
        ours: Float (n, …, C).
        reference: The same in float32. Height and width are averaged, as rows of features are; the steps of time that
            a row is made of are compared one by one, so a row deviates at most so much.
    """
    if ours.shape != reference.shape:
        raise ValueError(f"ours must have the shape of reference, {reference.shape}, got {ours.shape}. Pass one input.")
    a, b = (_rows(part) for part in (ours, reference))
    usable = np.isfinite(b).all(1)
    finite = usable & np.isfinite(a).all(1)
    lost = int((usable & ~finite).sum())
    a, b = a[finite], b[finite]
    if not len(a):
        return Deviation(0, lost, None, None)
    dots, norms = (a * b).sum(1), np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.where(norms > 0, dots / np.maximum(norms, np.finfo(float).tiny), (a == b).all(1))
    largest = np.abs(a - b).max() / max(np.abs(b).max(), np.finfo(float).tiny)
    return Deviation(len(a), lost, float(min(cosine.min(), 1.0)), float(largest))


def _rows(values: np.ndarray) -> np.ndarray:
    """Float64 (n, C) of an activation (B, C), (B, T, C), (B, H, W, C) or (B, T, H, W, C)."""
    values = values.astype(np.float64)
    if values.ndim > 3:
        values = values.mean(axis=(-3, -2))
    return values.reshape(-1, values.shape[-1])


def comparison(
    model: keras.Model, precision: str, found: dict[str, Any], prepare: Prepare | None = None
) -> Callable[[np.ndarray, np.ndarray], None] | None:
    """What is shown input and output of every batch, and measures with the first what the precision costs.

    Args:
        model: The network.
        precision: One of `helpers.forward.PRECISIONS`; with float32 there is nothing to measure: None.
        found: Gets `KEY`: a `Deviation` as a dict, or {"not_measured": reason}.
        prepare: As for `compile_forward`.
    """
    if precision == "float32":
        return None

    first = Lock()  # two batches may come at once; never released

    def look(x: np.ndarray, y: np.ndarray) -> None:
        if first.acquire(blocking=False):
            found[KEY] = _measured(lambda: compile_forward(model, prepare=prepare)(x), y)
            log.info("%s: %s", precision, in_words(found[KEY]))

    return look


def _measured(reference: Callable[[], np.ndarray], y: np.ndarray) -> dict[str, Any]:
    try:
        return asdict(deviation(y, reference()))
    except (NetworkError, MemoryError) as error:  # the run goes on: its own rows were made
        return {"not_measured": str(error)}


def in_words(found: dict[str, Any]) -> str:
    """Say in one line what `comparison` has found."""
    if "not_measured" in found:
        return f"deviation from float32 not measured: {found['not_measured']}"
    lost = f", {found['not_finite']} rows are not finite" if found["not_finite"] else ""
    if not found["rows"]:
        return f"deviation from float32: no row could be compared{lost}"
    return (
        f"deviation from float32 over {found['rows']} rows: cosine at least {found['smallest_cosine']:.6f}, "
        f"largest difference {found['largest_difference']:.2g} of the largest value{lost}"
    )
