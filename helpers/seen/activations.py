"""What the layers of a network say about an input: which layers there are, their activations, and where these lie.

In: any functional Keras model, of still images (n, H, W, C) or of clips (n, T, H, W, C). Out: activations
(n, [T',] H', W', C') by layer, a table of layers, and the centres of their positions in pixels and seconds.
"""

from collections.abc import Sequence

import keras
import numpy as np
import pandas as pd

NO_STAGES = ("InputLayer", "Normalization", "Rescaling", "ZeroPadding2D", "ZeroPadding3D")
BATCH = 8  # inputs at once; early layers of a clip are large


def layer_table(model: keras.Model, sample_shape: Sequence[int]) -> pd.DataFrame:
    """List the layers whose output has positions, in their order.

    Args:
        model: A functional model with one input.
        sample_shape: Of one input without the batch, such as (224, 224, 3), or (64, 112, 112, 2) with time first.

    Returns:
        Index layer; columns kind, time (clips only), height, width, channels, parameters.
    """
    placed = [layer for layer in model.layers if len(layer.output.shape) == len(sample_shape) + 1]
    spec = keras.Model(model.input, [layer.output for layer in placed]).compute_output_spec(
        keras.KerasTensor((1, *sample_shape))
    )
    axes = ("time", "height", "width", "channels")[-len(sample_shape) :]
    rows = [
        {"kind": type(layer).__name__, **dict(zip(axes, tensor.shape[1:], strict=True)), "parameters": count}
        for layer, tensor, count in zip(placed, spec, [layer.count_params() for layer in placed], strict=True)
    ]
    return pd.DataFrame(rows, index=pd.Index([layer.name for layer in placed], name="layer"))


def stages_of(model: keras.Model, table: pd.DataFrame) -> list[str]:
    """The end of every stage: of each size in `layer_table` the last layer that all paths go through.

    Layers that only pad or rescale the input are no stage, and neither is a single position.
    """
    table = table[~table["kind"].isin(NO_STAGES) & (table["height"] > 1)]
    size = [name for name in ("time", "height", "width") if name in table]
    of_each = [group.index[::-1] for _, group in table.groupby(size, sort=False)]
    found = [next((name for name in names if _is_waist(model, name)), None) for names in of_each]
    return [name for name in table.index if name in found]


def _is_waist(model: keras.Model, layer: str) -> bool:
    try:
        behind(model, layer)
    except ValueError:
        return False
    return True


def behind(model: keras.Model, layer: str) -> keras.Model:
    """What follows a layer, as a model with the same weights; ValueError when paths of the network lead around it."""
    start = layer_of(model, layer).output
    end = keras.layers.Identity()(start) if start is model.output else model.output
    try:
        return keras.Model(start, end)
    except ValueError:
        raise ValueError(
            f"layer must be one that all paths of {model.name} go through, got {layer}. Take the end of a stage."
        ) from None


def activations(model: keras.Model, x: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Run a network and keep what some of its layers say.

    Args:
        model: A functional model with one input.
        x: As the network takes it, preprocessing done, float32 (n, ...).
        layers: Names of its layers.

    Returns:
        Layer to float32 (n, [T',] H', W', C'), in the order asked for.
    """
    tapped = keras.Model(model.input, {name: layer_of(model, name).output for name in layers})
    parts = [tapped(x[i : i + BATCH], training=False) for i in range(0, len(x), BATCH)]
    return {name: np.concatenate([keras.ops.convert_to_numpy(part[name]) for part in parts]) for name in layers}


def layer_of(model: keras.Model, name: str) -> keras.Layer:
    """A layer by its name; ValueError lists some of those that are there."""
    names = [layer.name for layer in model.layers]
    if name not in names:
        some = ", ".join(names[:: max(1, len(names) // 8)])
        raise ValueError(f"layer must be a layer of {model.name}, such as {some}, got {name!r}. See layer_table.")
    return model.get_layer(name)


def strongest_channels(activation: np.ndarray, n: int) -> np.ndarray:
    """The channels with the largest mean activation, strongest first; of equal ones the lower number comes first.

    Args:
        activation: (..., C).
        n: How many; all where there are fewer.

    Returns:
        Numbers of channels, int (min(n, C),).
    """
    mean = activation.reshape(-1, activation.shape[-1]).mean(axis=0, dtype="float64")
    return np.argsort(-mean, kind="stable")[:n]


def centres(n: int, length: float, start: float = 0.0) -> np.ndarray:
    """Centres of n equal parts of a length: of a layer's positions in pixels, or of its steps in seconds, (n,).

    A layer of SAME convolutions sees its n positions at these places; what each of them has seen reaches further.
    """
    return start + (np.arange(n) + 0.5) * length / n


def energy(activation: np.ndarray) -> np.ndarray:
    """Root mean square over the channels, (..., C) to (...): how much is going on at each position."""
    return np.sqrt(np.square(activation, dtype="float32").mean(axis=-1))
