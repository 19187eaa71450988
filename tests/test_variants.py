"""The models by name: what each is given, what it cannot see, and what an unknown name says."""

import numpy as np
import pytest

from helpers import variants
from helpers.align import Aligned
from helpers.clips import TRAITS
from helpers.config import TrainingConfig
from helpers.variants import ABLATIONS, SHUFFLED_MODEL, TOKEN_MODEL, VARIANTS

N, TS, TD, DS, DD = 4, 5, 7, 11, 3
CFG = TrainingConfig(fusion_dim=8, num_heads=2, epochs=10, batch_size=2)
NETWORKS = [name for name, variant in (VARIANTS | ABLATIONS).items() if variant.network]


@pytest.fixture(scope="module")
def clips() -> Aligned:
    rng = np.random.default_rng(0)
    static, dynamic = (rng.normal(size=(N, t, d)).astype("float32") for t, d in ((TS, DS), (TD, DD)))
    times = [np.tile(np.linspace(0, 4, t, dtype="float32"), (N, 1)) for t in (TS, TD)]
    labels, names = rng.uniform(size=(N, 5)).astype("float32"), np.array(list("abcd"))
    masks = np.ones((N, TS), bool), np.ones((N, TD), bool)
    return Aligned(static, dynamic, *masks, *times, labels, names, names, np.full(N, ""), np.array(TRAITS))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_what_it_is_given_and_answers_every_target(name, clips):
    model = variants.start_model(name, clips, CFG, 0)
    scores = np.asarray(model(variants.model_inputs(name, clips, 0)))
    assert scores.shape == (N, 5)
    assert np.isfinite(scores).all()
    again = variants.start_model(name, clips, CFG, 0)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))


def test_pooling_before_the_head_shows_it_nothing_but_the_mean_token(clips):
    inputs = variants.model_inputs(TOKEN_MODEL, clips, 0)
    model = variants.start_model("token_cross_attention_pooled_before", clips, CFG, 0)
    fused = model.cross_attention(**inputs)[0]
    mean = np.asarray(fused).mean(1, keepdims=True)
    by_hand = model.head(model.fusion(mean, np.ones((N, 1), bool)), np.ones((N, 1), bool))
    np.testing.assert_allclose(np.asarray(model(inputs)), np.asarray(by_hand), atol=1e-5)
    after = variants.start_model(TOKEN_MODEL, clips, CFG, 0)
    assert np.abs(np.asarray(after(inputs)) - np.asarray(by_hand)).max() > 1e-3


def test_one_stream_alone_never_sees_the_other(clips):
    face, motion = (variants.model_inputs(name, clips, 0) for name in ("face_mlp", "motion_mlp"))
    assert face["tokens"].shape == (N, TS, DS)
    assert motion["tokens"].shape == (N, TD, DD)
    assert set(face) == set(motion) == {"tokens", "mask"}


def test_without_positions_all_times_are_one_and_every_other_token_halves_the_sequences(clips):
    untimed, coarse = (variants.model_inputs(name, clips, 0) for name in ("no_positions", "every_other_token"))
    assert not untimed["static_t_s"].any()
    assert not untimed["dynamic_t_s"].any()
    assert np.array_equal(untimed["static"], clips.static_features)
    assert np.array_equal(coarse["dynamic"], clips.dynamic_features[:, ::2])
    assert coarse["dynamic_t_s"].shape == coarse["dynamic_mask"].shape == (N, 4)


def test_an_ablation_changes_its_parameter_and_the_salience_model_is_trained_longer():
    assert variants.config_of("heads_8", CFG).num_heads == 8
    assert variants.config_of("fusion_dim_64", CFG).fusion_dim == 64
    assert variants.config_of("salience_cross_attention", CFG).epochs == 16
    assert variants.config_of(TOKEN_MODEL, CFG) == CFG


def test_the_warm_up_is_a_share_of_the_steps_that_will_be_trained(clips):
    model = variants.start_model("salience_cross_attention", clips, CFG, 0, n_train=3)
    assert model.warmup_steps == round(0.3 * 16 * 2)  # two batches per epoch


def test_a_list_of_models_is_names_and_groups_in_the_tables_order():
    assert variants.chosen_models("short") == variants.MODELS
    assert variants.chosen_models("all") == tuple(VARIANTS)
    assert variants.chosen_models("aligned_mlp, ridge") == ("constant", "ridge", TOKEN_MODEL, "aligned_mlp")
    assert variants.chosen_models("ablations") == ("constant", TOKEN_MODEL, *ABLATIONS)
    assert SHUFFLED_MODEL in variants.MODELS
    with pytest.raises(ValueError, match="models must be names among constant, .*got 'lasso'"):
        variants.chosen_models("ridge,lasso")


def test_shuffled_labels_move_ratings_among_the_clips_that_are_fitted():
    labels = np.arange(22.0).reshape(11, 2)
    fitted = np.arange(11) < 7
    mixed = variants.model_labels(variants.SHUFFLED_LABELS_MODEL, labels, fitted, 1)
    assert (mixed[~fitted] == labels[~fitted]).all()
    assert sorted(mixed[fitted, 0]) == sorted(labels[fitted, 0])
    assert (mixed[fitted] != labels[fitted]).any()
    assert variants.model_labels(TOKEN_MODEL, labels, fitted, 1) is labels
