"""Stand-ins for published weights: random values under the published names, in the published formats.

Out: variables by name, float32; a TensorFlow checkpoint; an HDF5 file as Keras 2 wrote it for dlpbc/keras-kinetics-i3d.
"""

import json
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

DATA = Path(__file__).parent / "data"


def random_variables(stream):
    """Published names and shapes with values that tell wrong wiring, padding and epsilon apart."""
    rng = np.random.default_rng(5)
    variables = {}
    for row in json.loads((DATA / f"i3d_{stream}_variables.json").read_text())["variables"]:
        name, shape = row["name"], row["shape"]
        if name.endswith("/w"):
            value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        elif name.endswith("moving_variance"):
            value = rng.uniform(0.05, 1.5, shape)
        else:
            value = rng.normal(0, 0.1, shape)
        variables[name] = value.astype(np.float32)
    return variables


def save_checkpoint(variables, path):
    names = list(variables)
    tf.raw_ops.SaveV2(
        prefix=str(path), tensor_names=names, shape_and_slices=[""] * len(names), tensors=list(variables.values())
    )


# Units of a Mixed stage in the port and in the checkpoints: Conv3d_3b_1a_1x1 is Mixed_3b/Branch_1/Conv3d_0a_1x1.
PORT_UNITS = {
    "0a_1x1": "Branch_0/Conv3d_0a_1x1", "1a_1x1": "Branch_1/Conv3d_0a_1x1", "1b_3x3": "Branch_1/Conv3d_0b_3x3",
    "2a_1x1": "Branch_2/Conv3d_0a_1x1", "2b_3x3": "Branch_2/Conv3d_0b_3x3", "3b_1x1": "Branch_3/Conv3d_0b_1x1",
}  # fmt: skip
PORT_STAGES = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")


def port_scopes():
    """The port's layer name without _conv or _bn -> the checkpoints' scope."""
    scopes = {name: name for name in ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")}
    scopes |= {f"Conv3d_{s}_{unit}": f"Mixed_{s}/{scope}" for s in PORT_STAGES for unit, scope in PORT_UNITS.items()}
    return {**scopes, "Conv3d_5b_2b_3x3": "Mixed_5b/Branch_2/Conv3d_0a_3x3", "Conv3d_6a_1x1": "Logits/Conv3d_0c_1x1"}


def save_keras_port(variables, path):
    """Write variables of one stream as the port's file."""
    prefix = next(iter(variables)).split("/")[0] + "/inception_i3d"
    with h5py.File(path, "w") as file:
        layers = ["input_1"]
        file.create_group("input_1").attrs["weight_names"] = np.array([], "S1")
        for layer, scope in port_scopes().items():
            parts = {f"{layer}_conv": {"kernel": "conv_3d/w"}}
            if scope.startswith("Logits"):
                parts[f"{layer}_conv"]["bias"] = "conv_3d/b"
            else:
                names = ("beta", "moving_mean", "moving_variance")
                parts[f"{layer}_bn"] = {name: f"batch_norm/{name}" for name in names}
            for name, weights in parts.items():
                group = file.create_group(name)
                group.attrs["weight_names"] = np.array([f"{name}/{weight}:0".encode() for weight in weights])
                for weight, variable in weights.items():
                    group[f"{name}/{weight}:0"] = variables[f"{prefix}/{scope}/{variable}"]
                layers.append(name)
        file.attrs["layer_names"] = np.array([layer.encode() for layer in layers])
