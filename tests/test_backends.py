"""The same extraction and the same model on another Keras backend, which runs in a process of its own."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import backend_run
import numpy as np
import pytest

from helpers.clips import read_clips
from helpers.config import PreparationConfig
from helpers.faces import prepare_clips
from helpers.files import ROOT
from helpers.model import CompletePersonalityModel
from helpers.store import read_arrays

pytestmark = pytest.mark.skipif(
    find_spec("jax") is None, reason="JAX is not installed: pip install -e '.[jax]' brings it, or requirements.lock"
)


@pytest.fixture(scope="module")
def tensorflow(tmp_path_factory):
    """The folder of a clip whose face is found, and what TensorFlow makes of it."""
    folder = tmp_path_factory.mktemp("tensorflow")
    clips = read_clips(ROOT / "data_sample")
    clips = clips[clips.index.str.startswith("training")].iloc[[0]]
    clips.to_csv(folder / "clips.csv")
    prepare_clips(clips, PreparationConfig(data_dir=str(ROOT / "data_sample"), out_dir=str(folder), workers=1))
    backend_run.filled(CompletePersonalityModel(11, 13, 16, 2)).save(folder / "model.keras")
    start = tmp_path_factory.mktemp("start") / "run"
    shutil.copytree(folder, start)
    return start, backend_run.outputs(folder)


@pytest.fixture(scope="module")
def jax(tensorflow, tmp_path_factory):
    """What JAX makes of the same."""
    folder = tmp_path_factory.mktemp("jax") / "run"
    shutil.copytree(tensorflow[0], folder)
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, Path(backend_run.__file__), folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return read_arrays(folder / "outputs.npz")


def test_jax_gives_the_rows_scores_and_gradients_that_tensorflow_gives(tensorflow, jax):
    assert len(tensorflow[1]) == 7
    for name, theirs in tensorflow[1].items():
        assert jax[name].shape == theirs.shape
        assert np.abs(theirs).max() > 0
        assert np.abs(jax[name] - theirs).max() <= 1e-4 * np.abs(theirs).max(), name


def test_networks_learn_on_jax_and_want_of_memory_is_a_memory_error(jax):
    assert jax["losses"][-1] < 0.5 * jax["losses"][0]
    assert jax["compiled"]  # otherwise a step of the BiLSTM takes a second
    assert jax["class_losses"][-1] < 0.5 * jax["class_losses"][0]
    kind, said = jax["error"]
    assert kind == "MemoryError"
    assert re.search(r"an input of \(1, 3, 3, 1\): RESOURCE_EXHAUSTED: .*allocating \d{15} bytes\.$", said)


@pytest.mark.parametrize("imports", ["jax, helpers", "helpers, jax"])
def test_float32_is_not_rounded_to_tf32(imports):
    code = f"import os, {imports}; x = jax.numpy.ones((2, 2)); print(jax.jit(jax.numpy.matmul).lower(x, x).as_text())"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_DEFAULT_MATMUL_PRECISION", None)
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(os.environ['NVIDIA_TF32_OVERRIDE'])"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "precision = [HIGHEST, HIGHEST]" in done.stdout
    assert done.stdout.endswith("0\n")
