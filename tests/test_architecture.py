"""Architectures: counts worked by hand, a stranger's model beside ours, the tree."""

import keras
import numpy as np
import pytest
from test_experiment import DD, DS, T, tokens

from helpers import variants
from helpers.config import TrainingConfig
from helpers.model import CompletePersonalityModel
from helpers.variants import concat_mlp

CFG = TrainingConfig(fusion_dim=16, num_heads=2)


def test_operations_of_dense_layers_are_those_counted_by_hand():
    model = concat_mlp(100, 50)
    by_hand = 2 * (150 * 256 + 256 * 64 + 64 * 5)
    counted = variants.count_flops(model, {"static": np.ones((3, 100)), "dynamic": np.ones((3, 50))})
    assert counted == pytest.approx(by_hand, rel=0.05)  # additions of biases, batch norm and activations beside


def test_operations_of_attention_grow_with_the_tokens_as_they_should():
    """Projections of static tokens, and the attention of every pair, for T static and dynamic tokens each."""
    width, heads = 16, 2
    model = CompletePersonalityModel(DS, DD, width, heads)
    for n in (5, 20):
        inputs = {"static": np.ones((1, n, DS), "float32"), "dynamic": np.ones((1, n, DD), "float32")}
        inner = heads * width
        per_token = DS * width + DD * width + 3 * width * inner + inner * width + width * 64
        by_hand = 2 * (n * per_token + 2 * n * n * inner + 64 * 5)
        assert variants.count_flops(model, inputs) == pytest.approx(by_hand, rel=0.12)
    assert by_hand > 4 * 2 * 5 * per_token


def test_a_users_own_model_stands_beside_ours():
    clips = tokens(3)
    mine = keras.Sequential([keras.Input((T, DS)), keras.layers.Flatten(), keras.layers.Dense(5)], name="mine")
    models = variants.own_architectures(clips, CFG) | {"mine": (mine, clips.static_features)}
    table = variants.compare_architectures(models)
    assert table.columns.tolist() == ["parameters", "trainable", "layers", "flops"]
    assert table.loc["mine", "parameters"] == T * DS * 5 + 5
    assert table.loc["mine", "layers"] == 1
    own = table.loc["token_cross_attention"]
    assert own["parameters"] - own["trainable"] == 2 * CFG.fusion_dim  # moving mean and variance
    assert table.loc["one_token_cross_attention", "flops"] < own["flops"]
    assert "constant" not in table.index


def test_the_tree_names_every_part_with_its_parameters():
    tree = variants.as_tree(CompletePersonalityModel())
    assert tree.splitlines()[0].endswith("371,717 parameters")
    assert "  cross_attention (CrossAttention): 362,624" in tree
    assert "    query (Dense): 66,048" in tree
