"""Taking motion tokens away, on models whose answer is known."""

import numpy as np
from test_attention import DD, TD, B, OneTokenModel, tokens

from helpers.attention import (
    curves,
    delete,
    occlusion,
    order_of,
    random_orders,
    replaced_per_step,
    step_effects,
)


def test_occlusion_moves_the_answer_only_where_the_model_looks():
    inputs = tokens()
    baseline = np.full(DD, 4.0, "float32")
    effects = occlusion(OneTokenModel(2), inputs, 3, baseline)
    assert effects.shape == (B, TD)
    np.testing.assert_allclose(effects[:, 2], 3 * (4 - inputs["dynamic"][:, 2, 0]), rtol=1e-5)
    assert not np.delete(effects, 2, axis=1).any()


def test_orders_begin_with_the_most_important_real_token():
    mask = np.array([[True, True, True, False]])
    assert order_of(np.array([[0.1, 0.5, 0.2, 9.0]]), mask).tolist() == [[1, 2, 0, 3]]
    drawn = random_orders(np.tile(mask, (50, 1)), 2, seed=1)
    assert (drawn[0][:, 3] == 3).all()
    assert (drawn[0] != drawn[1]).any()
    assert {tuple(sorted(row)) for row in drawn[0].tolist()} == {(0, 1, 2, 3)}


def test_short_clips_take_as_many_steps_as_long_ones():
    mask = np.arange(5)[None] < [[5], [2]]
    counts = replaced_per_step(mask)
    assert counts[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert (counts[1, 0], counts[1, -1]) == (0, 2)
    assert np.diff(counts[1]).max() == 1


def test_deletion_and_insertion_replace_what_the_order_says():
    """The model reads token 2, which comes third in every order."""
    inputs = tokens()
    baseline = np.full(DD, 4.0, "float32")
    order = np.tile([5, 0, 2, 1, 3, 4, 6], (B, 1))
    before, after = inputs["dynamic"][:, 2, 0], np.full(B, 4.0)
    deleted = delete(OneTokenModel(2), inputs, order, 1, baseline)
    inserted = delete(OneTokenModel(2), inputs, order, 1, baseline, insert=True)
    assert deleted.shape == (B, TD + 1)
    for step in range(TD + 1):
        np.testing.assert_allclose(deleted[:, step], after if step > 2 else before, rtol=1e-6)
        np.testing.assert_allclose(inserted[:, step], before if step > 2 else after, rtol=1e-6)
    effects = step_effects(deleted, order, inputs["dynamic_mask"])
    np.testing.assert_allclose(effects[:, 2], after - before, rtol=1e-5)
    assert not np.delete(effects, 2, axis=1).any()


def test_steps_of_a_short_clip_belong_to_its_real_tokens():
    inputs = tokens()
    inputs["dynamic_mask"][0, 3:] = False
    order = order_of(np.tile(np.arange(TD, 0, -1.0), (B, 1)), inputs["dynamic_mask"])
    predictions = delete(OneTokenModel(2), inputs, order, 1, np.zeros(DD, "float32"))
    effects = step_effects(predictions, order, inputs["dynamic_mask"])
    np.testing.assert_allclose(effects[:, 2], -inputs["dynamic"][:, 2, 0], rtol=1e-5)
    assert not effects[0, 3:].any()


def test_a_good_order_changes_the_answer_sooner_than_a_random_one():
    inputs = tokens()
    importance = np.zeros((B, TD))
    importance[:, 2] = 1
    mask = inputs["dynamic_mask"]
    orders = {"good": [order_of(importance, mask)], "random": random_orders(mask, 20)}
    found = curves(OneTokenModel(2), inputs, orders, 1, np.zeros(DD, "float32"))
    whole = np.abs(inputs["dynamic"][:, 2, 0])
    np.testing.assert_allclose(found["good"]["deletion"][:, 1:], np.tile(whole[:, None], TD), rtol=1e-5)
    np.testing.assert_allclose(found["good"]["insertion"][:, 1:], 0, atol=1e-6)
    assert (found["random"]["deletion"].mean(1) < found["good"]["deletion"].mean(1)).all()
    np.testing.assert_allclose(np.abs(found["random"]["effects"]).argmax(1), 2)
