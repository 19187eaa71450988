"""How much faster does `helpers.train.fit` train the cross-attention model than Keras' `fit` at its defaults?

Synthetic clips of 9 face and 9 motion tokens with random ratings, the same seed, optimizer and batches both ways. A
training of one epoch is mostly tracing: it is `start_s`, and what a longer one takes beyond it gives the speed. Ratio
to Keras' `fit`, more is faster; the best validation loss shows that both do the same work.

    python -m benchmarks.training [--widths 64/32 512/256] [--json FILE]
"""

import logging
import statistics
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from benchmarks.alternation import alternate, minus, options_of, ratio, report
from helpers import train
from helpers.config import TrainingConfig
from helpers.model import CompletePersonalityModel

PEER = "keras fit"
N_TOKENS, TOKEN_S = 9, 8 / 15  # of the sample clips: 8 frames at 15 per second
N_VALIDATION = 75  # as many of the bank's 1,000 clips are validation clips
LIMIT_S = 200.0  # for each pair of widths: no round begins later
COLUMNS = {
    "widths": "{}", "parameters": "{:,}", "way": "{}", "start_s": "{:.1f}", "samples_per_s": "{:.0f}",
    "ratio": "{:.2f}", "val_loss": "{:.4f}",
}  # fmt: skip

Part = tuple[dict[str, np.ndarray], np.ndarray]


def synthetic_clips(n: int, widths: tuple[int, int]) -> Part:
    """Return the inputs of n clips, tokens (n, 9, width) of both streams with times and masks, and ratings (n, 5)."""
    rng = np.random.default_rng(n)
    inputs = {}
    for name, width in zip(("static", "dynamic"), widths, strict=True):
        inputs[name] = rng.standard_normal((n, N_TOKENS, width), np.float32)
        inputs[f"{name}_t_s"] = np.tile(np.arange(N_TOKENS, dtype=np.float32) * np.float32(TOKEN_S), (n, 1))
        inputs[f"{name}_mask"] = np.ones((n, N_TOKENS), bool)
    return inputs, rng.random((n, 5), np.float32)


def keras_fit(model: keras.Model, training: Part, validation: Part, cfg: TrainingConfig) -> list[float]:
    """Train as `helpers.train.fit` does, but leave to Keras' defaults how; returns the validation losses."""
    steps = -(-len(training[1]) // cfg.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(cfg.learning_rate, cfg.epochs * steps, train.FINAL_RATE)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=cfg.weight_decay, clipnorm=1.0), loss="mse")
    settings = {"epochs": cfg.epochs, "batch_size": cfg.batch_size, "verbose": 0}
    return model.fit(*training, **settings, validation_data=validation).history["val_loss"]


def ours(model: keras.Model, training: Part, validation: Part, cfg: TrainingConfig) -> list[float]:
    """Train as notebook 06 does; returns the validation losses."""
    return list(train.fit(model, training, validation, cfg)["val_loss"])


WAYS: dict[str, Callable[..., list[float]]] = {PEER: keras_fit, "helpers.train.fit": ours}


def measure(widths: tuple[int, int], options: Namespace) -> list[dict[str, Any]]:
    """Return one row per way of training on streams of these widths."""
    parts = synthetic_clips(options.clips, widths), synthetic_clips(N_VALIDATION, widths)
    best, parameters = {}, 0

    def run(way: str, epochs: int) -> None:
        nonlocal parameters
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        model = CompletePersonalityModel(*widths)
        parameters = model.count_params()
        best[way, epochs] = min(WAYS[way](model, *parts, TrainingConfig(epochs=epochs, batch_size=options.batch)))

    lengths = (1, 1 + options.epochs)
    ways = {(way, epochs): partial(run, way, epochs) for way in WAYS for epochs in lengths}
    seconds = alternate(ways, options.rounds, limit_s=LIMIT_S)
    beyond = {way: minus(seconds[way, lengths[1]], seconds[way, 1]) for way in WAYS}
    return [
        {
            "widths": "/".join(map(str, widths)),
            "parameters": parameters,
            "way": way,
            "start_s": statistics.median(seconds[way, 1]),
            "samples_per_s": options.clips * options.epochs / statistics.median(beyond[way]),
            "ratio": ratio(beyond[PEER], beyond[way]),
            "val_loss": best[way, lengths[1]],
            "seconds": {f"{epochs} epochs": seconds[way, epochs] for epochs in lengths},
        }
        for way in WAYS
    ]


def pair(text: str) -> tuple[int, int]:
    """Read "64/32"."""
    static, dynamic = map(int, text.split("/"))
    return static, dynamic


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options_of(__doc__)
    parser.add_argument("--widths", nargs="+", type=pair, default=[(64, 32), (512, 256)], metavar="STATIC/DYNAMIC")
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args(argv)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it minds that every training is traced anew
    report([row for widths in options.widths for row in measure(widths, options)], COLUMNS, options)


if __name__ == "__main__":
    main()
