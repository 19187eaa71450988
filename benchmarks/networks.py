"""What the benchmarks of both networks share: the ways everybody knows, and what their speeds are told by.

In: a network and functions that take so many units of work. Out: seconds per unit, ratios, cosines.
"""

import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from benchmarks.alternation import alternate, ratio
from helpers.forward import Forward
from helpers.pipeline import AT_ONCE

PRECISIONS = ("float32", "bfloat16")
PLAIN = "tf.function float32"
TOGETHER = "forward, two at once"
LIMIT_S = 300.0  # no round begins later

Ways = dict[str, tuple[Callable[[], Any], int]]  # what to call, and how many units it takes


def plain_ways(model: keras.Model, x: np.ndarray, n_calls: int) -> Ways:
    """A plain `tf.function` of the inference pass, the way everybody knows; nothing on another backend."""
    if keras.backend.backend() != "tensorflow":
        return {}
    import tensorflow as tf

    function = tf.function(lambda batch: model(batch, training=False))
    return {PLAIN: (lambda: [function(x).numpy() for _ in range(n_calls)], n_calls * len(x))}


def forward_ways(forwards: dict[str, Forward], x: np.ndarray, n_calls: int, few: int) -> Ways:
    """Compiled passes alone, by precision: one after the other, and fewer of them two at once, as in the engine."""
    ways: Ways = {}
    for precision, forward in forwards.items():
        ways[f"forward {precision}"] = (lambda f=forward: [f(x) for _ in range(n_calls)]), n_calls * len(x)
        ways[f"{TOGETHER} {precision}"] = (lambda f=forward: _at_once(f, x, few)), few * len(x)
    return ways


def _at_once(forward: Forward, x: np.ndarray, n_calls: int) -> None:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(forward, [x] * n_calls))


def worst_cosine(y: np.ndarray, reference: np.ndarray, n_rows: int) -> float:
    """The smallest cosine between rows (n_rows, C), each the mean of its part of an activation (..., C)."""
    a, b = (part.astype(np.float64).reshape(n_rows, -1, part.shape[-1]).mean(1) for part in (y, reference))
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def seconds_per_unit(ways: Ways, rounds: int) -> dict[str, list[float]]:
    """Run every way once to compile it and to fill the cache of files, then in alternation."""
    for run, _ in ways.values():
        run()
    seconds = alternate({way: run for way, (run, _) in ways.items()}, rounds, limit_s=LIMIT_S)
    return {way: [value / ways[way][1] for value in values] for way, values in seconds.items()}


def rows_of(ways: Ways, per_unit: dict[str, list[float]], unit: str) -> list[dict[str, Any]]:
    """A row per way: its units and their speed, and for those with a limit ("stage" has "forward") the ratio to it."""
    rows = []
    for way, values in per_unit.items():
        row = {"way": way, unit: ways[way][1], "per_s": 1 / statistics.median(values), "s_per_unit": values}
        limit = f"forward {way.split()[-1]}"
        rows.append(row | ({"to_forward": ratio(per_unit[limit], values)} if limit in per_unit else {}))
    return rows


def ratios(per_unit: dict[str, list[float]]) -> dict[str, float]:
    """How near the stages are to their networks alone, and those to a plain `tf.function` in float32."""
    found = {}
    for precision, suffix in zip(PRECISIONS, ("", "_bf16"), strict=True):
        stage = per_unit[f"stage {precision}"]
        found[f"ratio_pipeline_to_forward{suffix}"] = ratio(per_unit[f"forward {precision}"], stage)
        found[f"ratio_pipeline_to_two_forwards{suffix}"] = ratio(per_unit[f"{TOGETHER} {precision}"], stage)
    if PLAIN in per_unit:
        found["ratio_float32_to_tf_function_float32"] = ratio(per_unit[PLAIN], per_unit["forward float32"])
        found["ratio_bf16_to_tf_function_float32"] = ratio(per_unit[PLAIN], per_unit["forward bfloat16"])
    return found


def tell(headline: dict[str, float]) -> None:
    """Print the headline figures, as they stand in the JSON."""
    for name, value in headline.items():
        print(f"{name:40} {value:.6f}" if name.startswith("cosine") else f"{name:40} {value:.3f}")
