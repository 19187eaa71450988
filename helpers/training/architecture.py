"""How models differ as networks: parameters, layers, floating-point operations, the tree of their parts.

In: Keras models with an example of their inputs, ours or anyone's. Out: tables and text.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops

from helpers.align import Aligned
from helpers.config import TrainingConfig
from helpers.training.variants import VARIANTS, model_inputs, start_model, variant_of


def compare_architectures(models: Mapping[str, tuple[keras.Model, Any]]) -> pd.DataFrame:
    """Compare networks.

    Args:
        models: By name, a model and inputs it takes (arrays with a leading axis of clips, in whatever structure).

    Returns:
        Index model; `parameters`, `trainable`, `layers` (those with weights of their own), `flops` of one clip's
        forward pass, a multiplication and an addition counting as two.
    """
    rows = {
        name: {
            "parameters": model.count_params(),
            "trainable": sum(int(np.prod(weight.shape)) for weight in model.trainable_variables),
            "layers": sum(1 for _, part in walk(model) if not _parts(part) and part.weights),
            "flops": count_flops(model, inputs),
        }
        for name, (model, inputs) in models.items()
    }
    return pd.DataFrame.from_dict(rows, "index").rename_axis("model")


def own_architectures(
    clips: Aligned, cfg: TrainingConfig, names: Sequence[str] = tuple(VARIANTS)
) -> dict[str, tuple[keras.Model, Any]]:
    """The networks among these models, for the widths and tokens of these clips: what `compare_architectures` takes."""
    one = clips.take(np.arange(1))
    networks = [name for name in names if variant_of(name).network]
    return {name: (start_model(name, one, cfg, 0), model_inputs(name, one, 0)) for name in networks}


def walk(model: keras.Model, depth: int = 0) -> Iterator[tuple[int, keras.layers.Layer]]:
    """The parts of a model with their depth, a part before its own parts."""
    for part in _parts(model):
        yield depth, part
        yield from walk(part, depth + 1)


def _parts(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    return list(layer._flatten_layers(include_self=False, recursive=False))  # `layers` exists on models only


def as_tree(model: keras.Model) -> str:
    """The parts of a model as indented lines: name, kind, parameters."""
    lines = [f"{model.name} ({type(model).__name__}): {model.count_params():,} parameters"]
    lines += [
        f"{'  ' * (depth + 1)}{part.name} ({type(part).__name__})"
        + (f": {part.count_params():,}" if part.weights else "")
        for depth, part in walk(model)
    ]
    return "\n".join(lines)


def count_flops(model: keras.Model, inputs: Any) -> int:
    """Count the floating-point operations of one clip's forward pass, by the counter of the running backend.

    The counters differ in what they count beside matrix products (additions, activations), which is little.

    Args:
        model: Built.
        inputs: What it takes; of arrays with several clips the first is used.
    """
    one = keras.tree.map_structure(lambda x: ops.convert_to_tensor(np.asarray(x)[:1]), inputs)
    counters = {"tensorflow": _tensorflow_flops, "jax": _jax_flops, "torch": _torch_flops}
    return counters[keras.backend.backend()](model, one)


def _tensorflow_flops(model: keras.Model, one: Any) -> int:
    import tensorflow as tf

    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(one).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # the profiler calls functions of TensorFlow's own that are deprecated, and says so
    try:
        profile = tf.compat.v1.profiler.profile(graph, options=options.with_empty_output().build())
    finally:
        logger.setLevel(level)
    return int(profile.total_float_ops)


def _jax_flops(model: keras.Model, one: Any) -> int:
    import jax

    return int(jax.jit(lambda x: model(x, training=False)).lower(one).compile().cost_analysis()["flops"])


def _torch_flops(model: keras.Model, one: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(one, training=False)
    return int(counter.get_total_flops())
