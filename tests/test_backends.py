"""The compiled forward pass: the model's numbers, compiled once, whose fault a failure is; and on another backend."""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import backend_run
import keras
import numpy as np
import pytest
import tensorflow as tf
import toy_tokens
from keras import layers

from helpers.clips import read_clips
from helpers.config import PreparationConfig
from helpers.faces import prepare_clips
from helpers.files import ROOT
from helpers.forward import PRECISIONS, NetworkError, compile_forward, failure_of, in_half
from helpers.store import read_arrays

# What TensorFlow says out of a frozen graph, and Keras out of a layer.
FROM_A_GRAPH = "Graph execution error:\n\nDetected at node 'a/Pad':\nOOM when allocating 4 bytes\n"
FROM_A_LAYER = "Exception when calling Pad.call().\n\n\x1b[1mcan't allocate memory: 4 bytes\x1b[0m\n\n  • x=1"
needs_jax = pytest.mark.skipif(
    find_spec("jax") is None, reason="JAX is not installed: pip install -e '.[jax]' brings it, or requirements.lock"
)


@pytest.fixture(scope="module", params=[2, 3])
def network(request):
    """(model of any spatial size, dimensions): convolutions, batch norm off its initial values, pooling, dense."""
    dims = request.param
    inputs = x = keras.Input((*(None,) * dims, 3))
    for filters in (16, 32, 32):
        x = getattr(layers, f"Conv{dims}D")(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(scale=False)(x))
    model = keras.Model(inputs, layers.Dense(11)(getattr(layers, f"GlobalAveragePooling{dims}D")()(x)))
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name == "moving_variance":
            variable.assign(rng.uniform(0.3, 0.8, variable.shape))
        elif len(variable.shape) == 1:
            variable.assign(rng.normal(0, 0.2, variable.shape))
    return model, dims


def test_a_pass_gives_the_models_numbers_of_any_shape_in_every_precision_and_changes_no_setting(network):
    model, dims = network
    options, random, forward = tf.config.optimizer.get_experimental_options(), np.random.default_rng(0), {}
    for precision in PRECISIONS:
        forward[precision] = compile_forward(model, precision), compile_forward(in_half(model, precision))
    for n, size in ((5, 17), (2, 17), (3, 22)):
        x = random.uniform(-1, 1, (n, *(size,) * dims, 3)).astype(np.float32)
        theirs = np.asarray(model(x, training=False))
        for precision, ways in forward.items():
            for ours in (way(x) for way in ways):  # half by a rewrite, or by Keras' policy
                assert ours.dtype == np.float32
                cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
                assert cosine.min() > 0.999
                far = np.abs(ours - theirs).max() / np.abs(theirs).max()
                assert far <= 1e-4 if precision == "float32" else far > 0
    assert tf.config.optimizer.get_experimental_options() == options
    assert keras.config.dtype_policy().name == "float32"
    shown = random.integers(0, 256, (5, *(17,) * dims, 3), dtype=np.uint8)
    ours = compile_forward(model, "float32", lambda x: keras.ops.flip(keras.ops.cast(x, "float32"), -1) / 255)(shown)
    theirs = forward["float32"][0](shown[..., ::-1] / np.float32(255))
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


class Traced(layers.Layer):
    """Twice its input, and how often it was called."""

    n_calls = 0

    def call(self, x):
        self.n_calls += 1
        return 2 * x


def test_several_threads_with_clips_of_any_length_share_one_graph():
    traced, clip = Traced(), keras.Input((None, None, None, 2))
    x = layers.Conv3D(3, 3, padding="same")(traced(clip))
    model = keras.Model(clip, layers.GlobalAveragePooling3D()(x))
    forward = compile_forward(model)
    shown = [np.random.default_rng(n).random((2, n, 7, 7, 2), np.float32) for n in (5, 8, 13, 5, 8, 13)]
    theirs, before = [model(x) for x in shown], traced.n_calls
    with ThreadPoolExecutor(4) as threads:
        np.testing.assert_allclose(list(threads.map(forward, shown)), theirs, rtol=1e-4, atol=1e-6)
    assert traced.n_calls == before + 1


def test_float16_pools_volumes_and_ends_at_65504():
    inputs = keras.Input((6, 6, 6, 1))
    x = layers.Conv3D(1, 1, kernel_initializer="ones")(inputs)
    x = layers.AveragePooling3D(3, 1)(layers.MaxPooling3D(2, 1)(x))
    model = keras.Model(inputs, layers.Conv3D(1, 1, kernel_initializer="ones")(x))
    x = np.full((2, 6, 6, 6, 1), 2.0, np.float32)
    x[1] = 70_000
    whole, half = compile_forward(model)(x), compile_forward(model, "float16")(x)
    assert (whole[1] == 70_000).all()
    assert (half[0] == 2).all()
    assert not np.isfinite(half[1]).any()


OP = {kind: getattr(tf.errors, f"{kind}Error") for kind in ("InvalidArgument", "ResourceExhausted", "Internal")}


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OP["InvalidArgument"](None, None, "bad shape\nmore"), NetworkError, r"\(2, 3\): bad shape$"),
        (OP["ResourceExhausted"](None, None, FROM_A_GRAPH), MemoryError, r"\(2, 3\): OOM when allocating 4 bytes"),
        (OP["ResourceExhausted"](None, None, "unable to allocate output tensor"), MemoryError, "unable"),
        (OP["Internal"](None, None, "Dst tensor is not initialized."), MemoryError, "Dst tensor"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), MemoryError, "ALLOC_FAILED"),
        (RuntimeError(FROM_A_LAYER), MemoryError, r"\(2, 3\): can't allocate memory: 4 bytes"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError, "allocate 2 GiB"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes"), MemoryError, "3 bytes"),
        (RuntimeError(""), NetworkError, "no message"),
    ],
)
def test_what_goes_wrong_in_the_backend_is_told_apart(error, raised, message):
    with pytest.raises(raised, match=message):
        raise failure_of(error, (2, 3))


@needs_jax
def test_jax_gives_what_tensorflow_gives_and_learns_and_its_want_of_memory_is_a_memory_error(tmp_path):
    """Of one clip whose face is found, and one model; JAX in a process of its own."""
    ours, other = tmp_path / "ours", tmp_path / "other"
    table = read_clips(ROOT / "data_sample")
    table = table[table.index.str.startswith("training")].iloc[[0]]
    prepare_clips(table, PreparationConfig(data_dir=str(ROOT / "data_sample"), out_dir=str(ours), workers=1))
    table.to_csv(ours / "clips.csv")
    backend_run.filled(toy_tokens.network(width=16)).save(ours / "model.keras")
    shutil.copytree(ours, other)
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, Path(backend_run.__file__), other]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    jax, tensorflow = read_arrays(other / "outputs.npz"), backend_run.outputs(ours)
    assert len(tensorflow) == 7
    for name, theirs in tensorflow.items():
        assert jax[name].shape == theirs.shape
        assert np.abs(theirs).max() > 0
        assert np.abs(jax[name] - theirs).max() <= 1e-4 * np.abs(theirs).max(), name
    assert jax["compiled"]  # otherwise a step of the BiLSTM takes a second
    for name in ("losses", "class_losses"):
        assert jax[name][-1] < 0.5 * jax[name][0]
    kind, said = jax["error"]
    assert kind == "MemoryError"
    assert re.search(r"an input of \(1, 3, 3, 1\): RESOURCE_EXHAUSTED: .*allocating \d{15} bytes\.$", said)


@needs_jax
@pytest.mark.parametrize("imports", ["jax, helpers", "helpers, jax"])
def test_float32_is_not_rounded_to_tf32(imports):
    code = f"import os, {imports}; x = jax.numpy.ones((2, 2)); print(jax.jit(jax.numpy.matmul).lower(x, x).as_text())"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_DEFAULT_MATMUL_PRECISION", None)
    command = [sys.executable, "-c", f"{code}; print(os.environ['NVIDIA_TF32_OVERRIDE'])"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "precision = [HIGHEST, HIGHEST]" in done.stdout
    assert done.stdout.endswith("0\n")
