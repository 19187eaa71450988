"""How much faster does our `Trainer` (`helpers.train`) train the model than Keras' at its defaults?

As many samples as the source project had, 82,290 of one face vector and one motion vector each, with drawn ratings; the
same seed, batch size, optimizer and learning rates both ways, the order of batches apart. The first epoch is mostly
tracing: what it takes beyond the others is `start_s`, and the others give the speed. `ratio_to_default_fit` compares
the epochs of one round; the training losses at the end show that both do the same work. Where JAX is installed, both
ways run on it as well, in a process of its own.

    python -m benchmarks.training [--samples 82290] [--widths 512/256] [--json FILE]
"""

import importlib.util
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.alternation import options_of, report, within
from helpers.config import TrainingConfig
from helpers.files import ROOT, read_json
from helpers.model import CompletePersonalityModel
from helpers.train import FINAL_RATE, MAX_NORM, Part, Trainer

PEER, OURS = "keras fit", "helpers.train.Trainer"
SAMPLES = 82_290  # faces of the source project
N_VALIDATION = 500
SIGNAL = 0.03  # of a rating's spread that one channel explains: something to learn
LIMIT_S = 200.0  # no round begins later
COLUMNS = {
    "backend": "{}", "way": "{}", "start_s": "{:.1f}", "samples_per_s": "{:.0f}", "ratio": "{:.2f}", "loss": "{:.5f}",
}  # fmt: skip


class EpochTimer(keras.callbacks.Callback):
    """Seconds of each epoch, validation included."""

    def on_train_begin(self, logs=None):
        self.seconds, self._last = [], time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def synthetic_samples(n: int, widths: tuple[int, int], seed: int) -> Part:
    """Return n samples, one vector of each stream, and ratings (n, 5) that depend on one channel of each."""
    rng = np.random.default_rng(seed)
    static, dynamic = (rng.standard_normal((n, width), np.float32) for width in widths)
    noise = rng.standard_normal((n, 5), np.float32)
    ratings = 0.5 + 0.1 * noise + SIGNAL * (static[:, :1] + dynamic[:, :1])
    return {"static": static, "dynamic": dynamic}, ratings.astype("float32")


def keras_fit(model: keras.Model, training: Part, validation: Part, cfg: TrainingConfig, timer: EpochTimer) -> float:
    """Train as our `fit` does, but leave to Keras' defaults how; returns the last training loss."""
    steps = -(-len(training[1]) // cfg.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(cfg.learning_rate, cfg.epochs * steps, FINAL_RATE)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=cfg.weight_decay, clipnorm=MAX_NORM), loss="mse")
    settings = {"epochs": cfg.epochs, "batch_size": cfg.batch_size, "verbose": 0, "callbacks": [timer]}
    return model.fit(*training, **settings, validation_data=validation).history["loss"][-1]


def ours(model: keras.Model, training: Part, validation: Part, cfg: TrainingConfig, timer: EpochTimer) -> float:
    """Train as notebook 06 and the command line do; returns the last training loss."""
    return float(Trainer(model, cfg).fit(model, training, validation, callbacks=[timer])["loss"].iloc[-1])


WAYS: dict[str, Callable[..., float]] = {PEER: keras_fit, OURS: ours}


def measure(options: Namespace) -> list[dict[str, Any]]:
    """Return one row per way of training on this backend; the ways take turns, in turning order."""
    parts = [synthetic_samples(n, options.widths, n) for n in (options.samples, N_VALIDATION)]
    cfg = TrainingConfig(epochs=1 + options.epochs, batch_size=options.batch, learning_rate=1e-3)
    seconds: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    losses = {}
    for number in within(LIMIT_S, range(options.rounds)):
        for way in list(WAYS)[:: -1 if number % 2 else 1]:
            keras.backend.clear_session()
            keras.utils.set_random_seed(0)
            timer = EpochTimer()
            losses[way] = WAYS[way](CompletePersonalityModel(*options.widths), *parts, cfg, timer)
            seconds[way].append(timer.seconds)
    return [_row(way, seconds, losses[way], options.samples) for way in WAYS]


def _row(way: str, seconds: dict[str, list[list[float]]], loss: float, n_samples: int) -> dict[str, Any]:
    later = {name: [statistics.median(epochs[1:]) for epochs in rounds] for name, rounds in seconds.items()}
    starts = [epochs[0] - usual for epochs, usual in zip(seconds[way], later[way], strict=True)]
    return {
        "backend": keras.backend.backend(),
        "way": way,
        "start_s": statistics.median(starts),
        "samples_per_s": n_samples / statistics.median(later[way]),
        "ratio": statistics.median(a / b for a, b in zip(later[PEER], later[way], strict=True)),
        "loss": loss,
        "seconds": seconds[way],
    }


def on_jax(options: Namespace) -> list[dict[str, Any]]:
    """Return the rows of both ways on JAX, measured by this program in another process; none where it is missing."""
    if importlib.util.find_spec("jax") is None:
        print("JAX is not installed: pip install 'jax>=0.4.34' shows its figures as well")
        return []
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "jax.json"
        widths = "/".join(map(str, options.widths))
        numbers = {name: getattr(options, name) for name in ("samples", "batch", "epochs")}
        arguments = [f"--{name}={value}" for name, value in numbers.items()]
        command = [sys.executable, "-m", "benchmarks.training", *arguments, "--rounds=1", f"--widths={widths}"]
        environment = os.environ | {"KERAS_BACKEND": "jax"}
        subprocess.run([*command, "--json", str(file)], cwd=ROOT, env=environment, check=True, capture_output=True)
        return read_json(file)["rows"]


def pair(text: str) -> tuple[int, int]:
    """Read "512/256"."""
    static, dynamic = map(int, text.split("/"))
    return static, dynamic


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = options_of(__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--widths", type=pair, default=(512, 256), metavar="STATIC/DYNAMIC")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2, help="after the first")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(argv)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it minds that every training is traced anew
    rows = measure(options)
    peer, our = rows
    if keras.backend.backend() == "tensorflow":
        rows += [row | {"ratio": row["samples_per_s"] / peer["samples_per_s"]} for row in on_jax(options)]
    more = {"ratio_to_default_fit": our["ratio"], "loss_difference": our["loss"] / peer["loss"] - 1}
    report(rows, COLUMNS, options, **more)
    print(f"ratio_to_default_fit {our['ratio']:.2f}, final training loss {more['loss_difference']:+.1%}")


if __name__ == "__main__":
    main()
