"""Figures of a score: what is drawn is what was found."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scored import VALUES, made_up

from helpers.clips import TRAITS
from helpers.plots import score as pictures

pytestmark = pytest.mark.usefixtures("figures")


def test_scores_stand_before_the_training_ratings():
    shares = dict.fromkeys(TRAITS, np.array([0.1, 0.4, 0.3, 0.2]))
    ax = pictures.plot_score(made_up(), shares).axes[0]
    dots = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [line.get_xdata()[0] for line in dots] == list(VALUES.values())
    bars = [-bar.get_height() for bar in ax.containers[0]]
    np.testing.assert_allclose(bars, 0.8 * np.array([0.25, 1, 0.75, 0.5]))
    assert [bar.get_x() for bar in ax.containers[0]] == [0, 0.25, 0.5, 0.75]
    assert [label.get_text() for label in ax.get_yticklabels()][4] == "emotional stability (N)"
    assert len(ax.containers) == len(TRAITS)


def test_scores_are_drawn_without_training_ratings_too():
    ax = pictures.plot_score(made_up()).axes[0]
    assert not ax.containers
    assert "above 10%" in ax.texts[0].get_text()


def test_effects_are_drawn_as_they_are_on_a_scale_around_zero():
    ax = pictures.plot_effects(made_up(effects={t: [0.1 * k, -0.2, 0.0] for k, t in enumerate(TRAITS)}))
    mesh = ax.collections[0]
    np.testing.assert_allclose(mesh.get_array()[:, 0], [0, 0.1, 0.2, 0.3, 0.4])
    assert mesh.get_clim() == (-0.4, 0.4)
    assert mesh.get_coordinates()[0, :, 0].tolist() == [0, 1, 2, 3]
    assert ax.figure.axes[-1].get_ylabel() == "effect on the score"


def test_faces_attention_and_effects_share_one_time_axis():
    result = made_up()
    faces, shares, effects, _ = pictures.plot_looks(result, result.faces).axes
    assert [np.mean(image.get_extent()[:2]) for image in faces.images] == [1, 3]
    assert faces.images[0].get_array().shape == (96, 96, 3)
    assert [bar.get_height() for bar in shares.patches] == result.motion_share
    assert effects.get_xlim() == faces.get_xlim() == (0, 4)
    assert effects.get_xlabel() == "time (s)"


def test_motion_share_is_drawn_on_the_given_axes():
    _, ax = plt.subplots()
    assert pictures.plot_motion_share(made_up(), ax=ax) is ax
    assert ax.lines[0].get_ydata() == [1 / 3, 1 / 3]
