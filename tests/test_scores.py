"""Several videos: their names, tables, files and page."""

import re

import numpy as np
import pandas as pd
import pytest
from scored import VALUES, made_up, scorer_of

from helpers import scores
from helpers.clips import TRAITS
from helpers.faces import NoFaceError
from helpers.files import read_json, write_json
from helpers.scores import Unusable
from helpers.scoring import score_page


@pytest.fixture
def model_dir(tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    return tmp_path / "run" / "model"


def page_of(results, model_dir, **changes):
    path = model_dir.parent / "score.html"
    scores.write_scores(results, scorer_of(model_dir, **changes), html=path)
    return path.read_text(encoding="utf-8")


def test_videos_are_named_by_file_or_by_their_path_below_a_folder(tmp_path):
    for path in ("folder/b/clip 10.mp4", "folder/b/clip 2.mp4", "folder/a.mp4", "other/a.mp4", "c.mp4"):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).touch()
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "folder", tmp_path / "other" / "a.mp4", tmp_path / "c.mp4", tmp_path / "empty"]
    named = scores.named_videos(paths)
    twice = [str(tmp_path / "folder" / "a.mp4"), str(tmp_path / "other" / "a.mp4")]
    assert [name for name, _ in named] == [twice[0], "b/clip 2.mp4", "b/clip 10.mp4", twice[1], "c.mp4", "empty"]
    assert [path for _, path in named][1] == tmp_path / "folder" / "b" / "clip 2.mp4"


def test_one_bad_video_is_listed_and_the_rest_go_on(tmp_path, monkeypatch):
    def score_clip(path, scorer, *, name, faces):
        if "bad" in path.name:
            raise NoFaceError(f"{path.name}: no face found in 6 looked-at frames")
        return made_up(name)

    monkeypatch.setattr(scores, "score_clip", score_clip)
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "bad.mp4", tmp_path / "good.mp4", tmp_path / "empty"]
    bad, good, empty = scores.score_videos(paths, None)
    assert bad == Unusable("bad.mp4", "no face found in 6 looked-at frames")
    assert good.video == "good.mp4"
    assert empty.reason == "this folder holds no videos. Check the path"


def test_the_table_has_a_row_for_each_video_and_trait():
    table = scores.as_table([made_up("a.mp4"), Unusable("b.mp4", "no face")])
    assert table.columns.tolist() == [
        "video", "target", "score", "low", "high", "constant", "share_below", "face_coverage", "duration_s", "warnings",
        "failed",
    ]  # fmt: skip
    assert table["target"].tolist()[:5] == list(TRAITS)
    assert table["score"].tolist()[:5] == list(VALUES.values())
    assert table.iloc[5][["video", "failed"]].tolist() == ["b.mp4", "no face"]
    assert table.iloc[5][["target", "score", "warnings"]].isna().all()


def test_the_files_say_the_same(tmp_path, model_dir):
    results = [made_up("a.mp4"), Unusable("b.mp4", "no face")]
    names = {kind: tmp_path / "out" / f"score.{kind}" for kind in ("json", "csv", "html")}
    assert scores.write_scores(results, scorer_of(model_dir), **names) == list(names.values())
    records = read_json(names["json"])
    assert records[0]["score"] == VALUES
    assert "faces" not in records[0]
    assert records[1] == {"video": "b.mp4", "failed": "no face"}
    table = pd.read_csv(names["csv"])
    rows = table.dropna(subset="target").set_index("target")
    assert rows["high"].to_dict() == pytest.approx(records[0]["high"], rel=1e-5)
    assert "<b>b.mp4</b>: No face." in names["html"].read_text(encoding="utf-8")


def test_the_page_holds_score_interval_constant_and_what_the_trait_is_worth(model_dir):
    page = page_of([made_up()], model_dir)
    for target, r2 in zip(TRAITS, ("0.11", "0.22", "0.33", "0.44"), strict=False):
        assert f"{VALUES[target]:.2f}, 90 % interval {max(VALUES[target] - 0.2, 0):.2f} to" in page
        assert f"test R² of the trait {r2}" in page
    assert page.count("test R² of the trait") == 4
    assert 'cx="70.0%"' in page
    assert "800 training clips" in page
    assert "One &lt;b&gt;thing." in page
    assert page.lower().count("the networks have random weights") == 1


def test_the_page_fetches_nothing_and_names_its_files(model_dir):
    page = page_of([made_up()], model_dir)
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)|url\(|<script|<link""", page)
    assert f"{model_dir}/card.json" in page
    assert "score.json" in page


def test_several_videos_begin_with_a_table_and_those_that_failed(model_dir):
    page = page_of([made_up("a.mp4"), made_up("b.mp4"), Unusable("c.mp4", "no face")], model_dir)
    assert page.index('<a href="#video1">a.mp4</a>') < page.index('id="video1"')
    assert "<b>c.mp4</b>: No face." in page
    assert "2 scored, 1 could not be used" in page


def test_videos_beyond_the_last_card_keep_their_row(model_dir, monkeypatch):
    monkeypatch.setattr(score_page, "CARDS", 2)
    page = page_of([made_up(f"{n}.mp4") for n in range(3)], model_dir)
    assert page.count('class="card"') == 2
    assert "the first 2 are shown below" in page
    assert "<td>2.mp4</td>" in page


def test_a_page_without_one_scored_video_lists_the_reasons(model_dir):
    page = page_of([Unusable("c.mp4", "no face")], model_dir)
    assert "<b>c.mp4</b>: No face." in page
    assert "How far this can be believed" not in page


def test_what_07_says_about_the_model_stands_on_the_page(model_dir):
    assert "planted" not in page_of([made_up()], model_dir)
    evidence = {"occlusion_pointing": 0.97, "occlusion_chance": 0.34, "occlusion_pointing_shuffled": 0.35}
    write_json(model_dir.parent / "attention.json", evidence)
    assert re.search(
        r"inside a planted event in 97% of\s+the test clips \(34% of the tokens", page_of([made_up()], model_dir)
    )
    write_json(model_dir.parent / "attention.json", dict.fromkeys(evidence))
    assert "hold no planted truth" in page_of([made_up()], model_dir)


def test_an_older_model_folder_has_a_page_too(model_dir):
    scorer = scorer_of(model_dir)
    for name in ("training_clips", "metrics", "verdicts", "data", "code_version"):
        del scorer.card[name]
    path = score_page.write_page(model_dir / "p.html", [made_up(effects={})], {}, scorer)
    page = path.read_text(encoding="utf-8")
    assert "test R²" not in page
    assert "effect of the motion" not in page


def test_the_training_ratings_are_drawn_from_their_quantiles():
    ratings = np.random.default_rng(0).beta(2, 3, 5000)
    shares = score_page.training_shares(np.quantile(ratings, np.linspace(0, 1, 101)), 20)
    np.testing.assert_allclose(shares, np.histogram(ratings, 20, (0, 1))[0] / 5000, atol=0.004)
    ties = score_page.training_shares([0, 0, 0.5, 1, 1], 4)
    assert ties.sum() == 1


def test_the_parts_of_a_clip_lie_on_its_time_axis():
    long = made_up(
        motion_t_s=[0.25, 0.75, 1.5, 2.5],
        motion_share=[0.1, 0.2, 0.3, 0.4],
        effects={"openness": [0.1, -0.2, 0.05]},
    )
    parts = score_page.time_parts(long)
    assert [part["left"] for part in parts] == [0, 25, 50]
    assert [part["width"] for part in parts] == [25, 25, 25]
    assert [round(part["share"], 6) for part in parts] == [0.3, 0.3, 0.4]
    assert [part["uniform"] for part in parts] == [0.5, 0.25, 0.25]
    assert [part["effects"]["openness"]["strength"] for part in parts] == [0.5, 1, 0.25]


@pytest.mark.parametrize(("usable", "status"), [((True, False), 0), ((False, False), 1)])
def test_the_command_lists_failures_and_fails_only_without_a_score(tmp_path, monkeypatch, capsys, usable, status):
    from helpers import score
    from helpers.__main__ import main

    results = [made_up(f"{n}.mp4") if well else Unusable(f"{n}.mp4", "no face") for n, well in enumerate(usable)]
    monkeypatch.setattr(score, "load_scorer", lambda folder: scorer_of(folder))
    monkeypatch.setattr(scores, "score_videos", lambda paths, scorer, faces: iter(results))
    given = ["score", "x", "--model", str(tmp_path), "--out", str(tmp_path / "o"), "--csv", str(tmp_path / "t.csv")]
    assert main(given) == status
    said = capsys.readouterr()
    assert "error: 1.mp4: no face" in said.err
    assert f"{usable.count(False)} of 2 videos could not be scored" in said.err
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["score.html", "score.json"]
    assert len(pd.read_csv(tmp_path / "t.csv")) == 5 * usable.count(True) + usable.count(False)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_in_a_browser(page, model_dir, width):
    results = [made_up("a.mp4"), made_up("a_name_that_is_rather_long_" * 4 + ".mp4"), Unusable("c.mp4", "no face")]
    page_of(results, model_dir)
    page.page.set_viewport_size({"width": width, "height": 800})
    page.page.goto((model_dir.parent / "score.html").as_uri())
    assert page.page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.page.evaluate("[...document.images].map(image => image.naturalWidth)") == [96] * 4
    circles = page.page.evaluate(
        "[...document.querySelectorAll('.card:first-of-type circle')].map(c => c.cx.baseVal.value)"
    )
    track = page.page.evaluate("document.querySelector('.card svg').clientWidth")
    assert circles == pytest.approx([track * value for value in VALUES.values()], abs=0.5)
    assert page.page.pdf().startswith(b"%PDF")
    assert page.errors == page.outside == []
