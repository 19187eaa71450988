import numpy as np
import pandas as pd
import pytest

from helpers.feature_quality import (
    Comparison,
    apart,
    channel_health,
    compare_clips,
    consistency,
    effective_dimensions,
    mean_features,
    no_plane,
    rated_or_all,
    rating_relation,
    relation_sentence,
    sample_rows,
)
from helpers.store import FeatureFile, write_features


def write_rows(folder, key, features, valid=None):
    n = len(features)
    t_s = np.arange(n) / 2
    valid = np.ones(n, bool) if valid is None else np.array(valid)
    write_features(folder / f"{key}.npz", FeatureFile(np.float32(features), t_s, t_s + 0.5, np.arange(n), valid))


def clips_of(sources, identity, trait=0.0, seed=0, channels=53):
    """Mean rows of clips: a part of their source's, a part that goes with a rating, and noise."""
    rng = np.random.default_rng(seed)
    of_source = {name: rng.normal(size=channels) for name in sorted(set(sources))}
    ratings, direction = rng.uniform(0, 1, len(sources)), rng.normal(size=channels)
    rows = [identity * of_source[s] + trait * (r - 0.5) * direction for s, r in zip(sources, ratings, strict=True)]
    index = [f"clip {k}" for k in range(len(sources))]
    means = pd.DataFrame(np.array(rows) + rng.normal(size=(len(sources), channels)), index=index)
    return means, pd.DataFrame({"openness": ratings}, index=index)


def of_clips(means, same=None, raw=None) -> Comparison:
    return Comparison(means, None, None, same, raw, None)


SOURCES = np.repeat([f"source {k}" for k in range(11)], 3)


def test_rows_are_drawn_from_all_clips_and_only_valid_ones(tmp_path, monkeypatch):
    write_rows(tmp_path, "a", [[1, 1], [2, 2], [3, 3]], valid=[True, False, True])
    write_rows(tmp_path, "b", np.full((50, 2), 7))
    monkeypatch.setattr("helpers.feature_quality.SAMPLED_ROWS", 12)
    rows = sample_rows(tmp_path, ["a", "b", "missing"])
    assert sorted(set(rows[:, 0])) == [1, 3, 7]
    assert (rows == 7).all(axis=1).sum() == 4  # a third of 12, for each of three
    monkeypatch.setattr("helpers.feature_quality.SAMPLED_ROWS", 1)
    assert len(sample_rows(tmp_path, ["a", "b"])) == 1
    with pytest.raises(ValueError, match=r"must hold valid rows of these clips, got none\. Run its notebook first\."):
        sample_rows(tmp_path, ["missing"])


def test_every_channel_is_counted_once_by_what_it_can_say():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 7)).astype(np.float32)
    rows[:, 0] = 0
    rows[:, 1] = 5
    rows[:, 2] = np.where(np.arange(40) < 3, rows[:, 2], 0)
    rows[:, 3] = np.minimum(rows[:, 3], -0.2)  # more than half at its ceiling
    counts = channel_health(rows)
    assert counts.to_dict() == {"dead": 1, "constant": 1, "mostly zero": 1, "saturated": 1, "in use": 3}


def test_effective_dimensions_are_those_that_the_rows_fill():
    rng = np.random.default_rng(0)
    full = rng.normal(size=(4000, 7))
    assert effective_dimensions(full) == pytest.approx(7, rel=0.01)
    assert effective_dimensions(full[:, [0] * 5]) == pytest.approx(1)
    assert effective_dimensions(np.ones((3, 2))) == 0


def test_features_of_identity_are_consistent_within_sources_and_others_are_not():
    means, _ = clips_of(SOURCES, identity=1.0)
    table = consistency(means, SOURCES)
    within, between = table.iloc[0], table.iloc[1]
    assert within["low"] < within["value"] < within["high"]
    assert 0.3 < within["value"] < 0.7
    assert within["low"] > within["permuted_high"]
    assert between["value"] > between["permuted"]
    assert of_clips(means, table, table).on_sources()[0] == "clips of one source are more alike than chance"
    table = consistency(clips_of(SOURCES, identity=0.0)[0], SOURCES)
    assert table["value"].iloc[0] < table["permuted_high"].iloc[0] + 0.02


def test_consistency_is_the_mean_over_pairs():
    means = pd.DataFrame([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    table = consistency(means, ["x", "x", "y"], standardise=False)
    diagonal = 1 / np.sqrt(2)
    assert table["value"].tolist() == pytest.approx([diagonal, 1 - diagonal / 2])
    assert table["permuted"].iloc[0] == pytest.approx(2 * diagonal / 3, abs=0.2)


def test_features_that_are_never_negative_look_consistent_for_anybody():
    means, _ = clips_of(SOURCES, identity=0.0)
    raw = consistency(means + 20, SOURCES, standardise=False)
    assert raw["value"].iloc[0] > 0.99
    assert raw["permuted"].iloc[0] > 0.99
    said = of_clips(means, raw, raw).on_sources()[1]
    assert said.startswith(f"raw: cosine similarity {raw['value'].iloc[0]:.4f} within sources, 0.99")


def test_nothing_is_said_of_sources_without_a_pair():
    means, _ = clips_of(["a", "b", "c"], identity=1.0)
    assert consistency(means, ["a", "b", "c"]) is None
    assert consistency(means, ["a", "a", "a"]) is None
    assert of_clips(means).on_sources() == ["no two clips share a source, or all do"]


def test_similar_ratings_mean_similar_features_only_where_a_rating_is_in_them():
    means, ratings = clips_of(SOURCES, identity=1.0, trait=6.0)
    ratings["noise"] = np.random.default_rng(5).uniform(0, 1, len(ratings))
    ratings["rare"] = np.nan
    table = rating_relation(means, ratings, SOURCES)
    assert table.index.tolist() == ["openness", "noise"]
    assert table.loc["openness", "value"] > 0.3 > table.loc["openness", "permuted_high"]
    assert table.loc["noise", "value"] < 0.1
    assert table.loc["openness", "p"] == pytest.approx(2 / 501)
    assert relation_sentence(table.assign(p=[0.05, 0.6])) == "similar ratings, similar features: for no target"
    assert relation_sentence(table) == "similar ratings, similar features: openness"
    nothing = rating_relation(*clips_of(SOURCES, identity=3.0), SOURCES)
    assert nothing.loc["openness", "value"] < 0.2  # identity alone does not answer
    assert rating_relation(means, ratings, ["one"] * len(means)).empty


def test_many_clips_are_compared_by_some_of_their_sources(monkeypatch):
    monkeypatch.setattr("helpers.feature_quality.MOST_CLIPS", 9)
    means, ratings = clips_of(SOURCES, identity=1.0, trait=3.0)
    assert rating_relation(means, ratings, SOURCES).loc["openness", "clips"] == 9
    table = consistency(clips_of(SOURCES, identity=5.0)[0], SOURCES)
    assert table["value"].iloc[0] > 0.8


def test_the_direction_of_a_clip_points_from_the_mean_clip_to_it():
    means, _ = clips_of(SOURCES, identity=2.0)
    means[0] = 3.0  # a channel that does not vary
    direction = apart(means, "clip 4")
    along = (means - means.mean()) @ direction
    assert direction.dtype == np.float32
    assert direction[0] == 0
    assert along.idxmax() == "clip 4"
    z = (means.loc["clip 4"] - means.mean())[1:] / means.std(ddof=0)[1:]
    assert along["clip 4"] == pytest.approx(np.linalg.norm(z), rel=1e-3)
    alone = means.iloc[[4]]
    assert np.linalg.norm(apart(alone, "clip 4")) == pytest.approx(1, rel=1e-4)


def test_sources_lie_together_in_the_plane():
    means, _ = clips_of(SOURCES[:12], identity=9.0)
    pca, tsne = of_clips(means).planes()
    for table in (pca, tsne):
        points = table.to_numpy().reshape(4, 3, 2)
        within = np.linalg.norm(points - points.mean(1, keepdims=True), axis=-1).mean()
        between = np.linalg.norm(points.mean(1) - points.mean((0, 1)), axis=-1).mean()
        assert within < 0.5 * between
    assert sum(pca.attrs["shares"]) < 1


def test_planes_that_cannot_be_are_named():
    means, _ = clips_of(SOURCES[:4], identity=1.0)
    copies = pd.DataFrame([[0.1, 0.2, 0.3]] * 5)
    assert no_plane(means) == ""
    assert no_plane(means.iloc[:2]) == "clip_means must have 3 clips or more to be laid out in a plane, got 2."
    assert no_plane(copies) == "clip_means must differ between clips to be laid out in a plane, got 5 equal ones."
    assert no_plane(means[[0]]) == "clip_means must have 2 channels or more to be laid out in a plane, got 1."
    assert len(of_clips(means.iloc[:3]).planes()[1]) == 3


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("n_sources", [1, 2, 8])
@pytest.mark.parametrize(("features", "ratings"), [("vary", "vary"), ("equal", "vary"), ("vary", "equal")])
def test_few_or_equal_clips_are_compared_as_far_as_they_can_be(n, n_sources, features, ratings):
    rows = np.random.default_rng(0).normal(size=(n, 7))
    if features == "equal":  # copies, up to rounding
        rows = rows[:1] * (1 + 1e-7 * np.arange(n)[:, None])
    names = [f"clip {k}" for k in range(n)]
    table = pd.DataFrame({"path": "x", "source": [f"s{k % n_sources}" for k in range(n)], "split": ""}, index=names)
    table["openness"] = 0.5 if ratings == "equal" else np.linspace(0.2, 0.8, n)
    compared = compare_clips(pd.DataFrame(rows, index=names), table)
    assert len(compared.relation) == (n == 8 and n_sources > 1 and features == ratings == "vary")
    assert compared.relation.notna().all(axis=None)
    assert (compared.best_rating() is None) == compared.relation.empty
    assert (compared.same is None) == (features == "equal" or not 1 < min(n, n_sources) < n)
    if features == "equal" and n > 1:
        assert compared.on_sources() == ["the clips do not differ"]
    if compared.same is not None:  # fewer than 5 sources have no interval
        assert compared.same[["value", "permuted"]].notna().all(axis=None)
        assert compared.same[["low", "high"]].isna().all(axis=None)
    if not no_plane(compared.clip_means):
        assert np.isfinite(compared.planes()).all()
    assert bool(no_plane(compared.clip_means)) == (n < 3 or features == "equal")


def table_of_clips():
    """Four clips of two sources; c has no rating and d no features."""
    table = pd.DataFrame({"path": "x", "source": ["s", "r", "s", "r"], "split": ""}, index=list("abcd"))
    return table.assign(openness=[0.2, 0.4, np.nan, 0.6])


def test_mean_features_are_of_valid_rows_with_sources_together(tmp_path):
    write_rows(tmp_path, "a", [[1, 1], [9, 9], [3, 5]], valid=[True, False, True])
    write_rows(tmp_path, "b", [[7, 7]])
    write_rows(tmp_path, "c", [[2, 4]])
    means = mean_features(tmp_path, table_of_clips(), "abcd")
    assert means.index.tolist() == ["b", "a", "c"]
    assert means.loc["a"].tolist() == [2, 3]


def test_clips_that_are_rated_are_compared_and_all_where_none_is():
    table = table_of_clips()
    assert rated_or_all(table, "abc") == ["a", "b"]
    assert rated_or_all(table, "c") == ["c"]
    means = pd.DataFrame(np.random.default_rng(0).normal(size=(4, 7)), index=list("abcd"))
    compared = compare_clips(means, table)
    assert compared.clip_means.index.tolist() == ["a", "b", "d"]
    assert compared.sources.tolist() == ["s", "r", "r"]
    assert compared.best_rating() is None  # too few
    first, raw = compared.on_sources()
    assert first.startswith("clips of one source")
    assert raw.startswith("raw: cosine similarity")
