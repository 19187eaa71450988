"""Predictors without a network: what each can know, checked on clips with a known make-up."""

import numpy as np
import pytest

from helpers import variants
from helpers.align import Aligned
from helpers.clips import TRAITS

N, T, DS, DD = 60, 5, 7, 3


def clips(per_source: int = 3, seed: int = 0) -> Aligned:
    """Openness is the mean of a face channel, extraversion that of a motion channel; the rest is noise."""
    rng = np.random.default_rng(seed)
    static, dynamic = (rng.normal(size=(N, T, d)).astype("float32") for d in (DS, DD))
    labels = rng.uniform(0.2, 0.8, (N, 5)).astype("float32")
    labels[:, 0] = np.clip(0.5 + 0.3 * static[:, :, 0].mean(1), 0, 1)
    labels[:, 2] = np.clip(0.5 + 0.3 * dynamic[:, :, 0].mean(1), 0, 1)
    masks, times = np.ones((N, T), bool), np.tile(np.arange(T, dtype="float32"), (N, 1))
    sources = np.array([f"s{i // per_source}" for i in range(N)])
    keys = np.array([f"c{i:02d}" for i in range(N)])
    return Aligned(static, dynamic, masks, masks, times, times, labels, keys, sources, np.full(N, ""), np.array(TRAITS))


def parts(by_source: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation clips; the rest is for test. Not by source, every third clip of a source is held out."""
    i = np.arange(N)
    return (i < 42, (i >= 42) & (i < 51)) if by_source else (i % 3 == 0, i % 3 == 1)


def test_the_constant_is_the_mean_of_the_training_ratings_that_are_there():
    data = clips()
    data.labels[0, 1] = np.nan
    train, validation = parts()
    (prediction,) = variants.constant([data], train, validation)
    assert prediction[5, 1] == pytest.approx(data.labels[1:42, 1].mean(), abs=1e-6)
    assert np.ptp(prediction, axis=0).max() == 0


def test_the_same_video_look_up_is_the_constant_where_no_source_is_parted():
    data, (train, validation) = clips(), parts()
    looked_up, constant = (
        predictor([data], train, validation)[0] for predictor in (variants.same_video, variants.constant)
    )
    np.testing.assert_allclose(looked_up[~train], constant[~train], atol=1e-6)


def test_the_same_video_look_up_finds_what_a_leaking_split_gives_away():
    data = clips()
    kind = np.random.default_rng(1).uniform(0.2, 0.8, N // 3)
    data.labels[:, 1] = np.repeat(kind, 3)  # clips of a source are rated alike
    train, validation = parts(by_source=False)
    train |= validation
    (prediction,) = variants.same_video([data], train, validation)
    assert np.corrcoef(prediction[~train, 1], data.labels[~train, 1])[0, 1] > 0.95


def test_sources_are_shrunken_by_the_variances_between_and_within_them():
    data, train, between, within = clips(), np.ones(N, bool), 0.01, 0.03
    weights = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        values = np.repeat(rng.normal(0, between**0.5, N // 3), 3) + rng.normal(0, within**0.5, N)
        data.labels[:, 0] = np.clip(0.5 + values, 0, 1)
        (prediction,) = variants.same_video([data], train, ~train)
        means = data.labels[:, 0].reshape(-1, 3).mean(1)
        weights.append(np.ptp(prediction[:, 0]) / np.ptp(means))
    true, groups = 3 * between / (3 * between + within), N // 3
    expected = 1 - (1 - true) * (groups - 1) / (groups - 3)  # the ratio of mean squares is F-distributed
    assert np.mean(weights) == pytest.approx(expected, abs=0.03)


def test_ridge_sees_the_stream_it_is_given_and_no_other():
    data, (train, validation) = clips(), parts()
    test = ~(train | validation)
    found = {}
    for name in ("ridge_face", "ridge_motion", "ridge"):
        prediction = variants.BASELINES[name]([data], train, validation)[0][test]
        found[name] = [np.corrcoef(prediction[:, k], data.labels[test, k])[0, 1] for k in (0, 2)]
    assert found["ridge_face"][0] > 0.9 > 0.7 > abs(found["ridge_face"][1])
    assert found["ridge_motion"][1] > 0.9 > 0.7 > abs(found["ridge_motion"][0])
    assert min(found["ridge"]) > 0.9


def test_ridge_is_fitted_to_the_clips_that_are_rated():
    data, (train, validation) = clips(), parts()
    data.labels[:10, 0] = np.nan
    data.labels[45, 0] = np.nan
    full = clips()
    (prediction,) = variants.BASELINES["ridge"]([data], train, validation)
    (other,) = variants.BASELINES["ridge"]([full], train & (np.arange(N) >= 10), validation & (np.arange(N) != 45))
    assert np.isfinite(prediction).all()
    assert np.corrcoef(prediction[:, 0], other[:, 0])[0, 1] > 0.999
