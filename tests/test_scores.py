"""Several videos: their names, tables, files and page."""

import numpy as np
import pandas as pd
import pytest
from scored import VALUES, made_up, scorer_of

from helpers import score, scores, workbook
from helpers.__main__ import main
from helpers.clips import TRAITS
from helpers.files import read_json, write_json
from helpers.scores import Unusable
from helpers.tracks import NoFaceError


def test_videos_are_named_by_file_or_by_their_path_below_a_folder(tmp_path):
    for path in ("folder/b/clip 10.mp4", "folder/b/clip 2.mp4", "folder/a.mp4", "other/a.mp4", "c.mp4"):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).touch()
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "folder", tmp_path / "other" / "a.mp4", tmp_path / "c.mp4", tmp_path / "empty"]
    named = scores.named_videos(paths)
    names = ["folder/a.mp4", "b/clip 2.mp4", "b/clip 10.mp4", "other/a.mp4", "c.mp4", "empty"]
    assert [name for name, _ in named] == names
    assert [path for _, path in named][1] == tmp_path / "folder" / "b" / "clip 2.mp4"


def test_one_bad_video_is_listed_and_the_rest_go_on(tmp_path, monkeypatch):
    def score_clip(path, scorer, *, name, faces):
        if "bad" in path.name:
            raise NoFaceError(f"{path.name}: no face found in 6 looked-at frames")
        return made_up(name)

    monkeypatch.setattr(scores, "score_clip", score_clip)
    (tmp_path / "empty").mkdir()
    bad, good, empty = scores.score_all([tmp_path / "bad.mp4", tmp_path / "good.mp4", tmp_path / "empty"], None)
    assert bad == Unusable("bad.mp4", "no face found in 6 looked-at frames")
    assert good.video == "good.mp4"
    assert empty.failed == "this folder holds no videos. Check the path"


def test_the_table_has_a_row_for_each_video_and_trait():
    table = scores.as_table([made_up("a.mp4"), Unusable("b.mp4", "no face")])
    assert table.columns.tolist() == [
        "video", "target", "score", "low", "high", "constant", "share_below", "face_coverage", "duration_s", "warnings",
        "remarks", "failed",
    ]  # fmt: skip
    assert table["target"].tolist()[:5] == list(TRAITS)
    assert table["score"].tolist()[:5] == list(VALUES.values())
    assert table.iloc[5][["video", "failed"]].tolist() == ["b.mp4", "no face"]
    assert table.iloc[5][["target", "score", "warnings"]].isna().all()


def test_the_files_say_the_same(tmp_path):
    results = [made_up("a.mp4"), Unusable("b.mp4", "no face")]
    names = {kind: tmp_path / "out" / f"score.{kind}" for kind in ("json", "csv")}
    scores.write_scores(results, **names, pictures=True)
    records = read_json(names["json"])
    assert records[0]["score"] == VALUES
    assert "faces" not in records[0]
    assert records[1] == {"video": "b.mp4", "failed": "no face"}
    back = scores.read_scores(names["json"])
    assert score.as_text(back[0]) == score.as_text(results[0])
    assert [face.tolist() for face in back[0].faces] == [face.tolist() for face in results[0].faces]
    assert back[1] == results[1]
    table = pd.read_csv(names["csv"])
    rows = table.dropna(subset="target").set_index("target")
    assert rows["high"].to_dict() == pytest.approx(records[0]["high"], rel=1e-5)


def test_what_ends_a_list_of_videos_early_leaves_the_scores_that_are_there(tmp_path, monkeypatch):
    def interrupted(path, scorer, *, name, faces):
        if name == "b.mp4":
            raise KeyboardInterrupt
        return made_up(name)

    monkeypatch.setattr(scores, "score_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scores.score_all(["a.mp4", "b.mp4"], None, json=tmp_path / "score.json")
    assert [record["video"] for record in read_json(tmp_path / "score.json")] == ["a.mp4"]


def test_several_videos_are_a_list_or_have_commas_between_them(tmp_path):
    (tmp_path / "a,b.mp4").touch()
    assert scores.videos_of(str(tmp_path / "a,b.mp4")) == [tmp_path / "a,b.mp4"]
    assert scores.videos_of(f"{tmp_path}/a.mp4, {tmp_path}/c.mp4") == [tmp_path / "a.mp4", tmp_path / "c.mp4"]
    assert scores.videos_of([f"{tmp_path}/a,b.mp4"]) == [tmp_path / "a,b.mp4"]


def test_the_example_is_a_rated_clip_that_was_held_out_and_shows_its_face(tmp_path, monkeypatch):
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.mp4").touch()
    rated = dict.fromkeys(TRAITS, 0.5)
    clips = pd.DataFrame({"path": [f"{k}.mp4" for k in "abcd"], "source": list("abcd"), "split": ""} | rated)
    clips.assign(bytes=1).set_index(pd.Index(list("abcd"), name="key")).to_csv(tmp_path / "clips.csv")
    pd.DataFrame({"split": ["validation", "test", "live"], "clip": ["a", "c", "d"]}).to_csv(
        tmp_path / "predictions.csv"
    )
    coverage = {"a.mp4": 1, "b.mp4": 1, "c.mp4": 0.4, "d.mp4": 0.9}
    monkeypatch.setattr(
        scores, "score_clip", lambda path, scorer, name, faces: made_up(name, face_coverage=coverage[path.name])
    )
    monkeypatch.setattr(scores, "EXAMPLES", 2)
    example = scores.score_example(tmp_path, None, tmp_path)
    assert example.video == "d.mp4"
    table = scores.in_context([example, made_up("a.mp4")], scorer_of(tmp_path).card, scores.ratings_of(tmp_path))
    assert table["rating"].tolist()[:5] == [0.5] * 5
    assert table["rating"].isna().tolist()[5:] == [True] * 5
    assert table["r2"].tolist()[:4] == [0.11, 0.22, 0.33, 0.44]


def test_the_training_ratings_are_drawn_from_their_quantiles():
    ratings = np.random.default_rng(0).beta(2, 3, 5000)
    card = {"targets": ["a", "b"], "training_quantiles": {"a": np.quantile(ratings, np.linspace(0, 1, 101))}}
    card["training_quantiles"]["b"] = [0, 0, 0.5, 1, 1]
    shares = score.training_shares(card)["a"]
    np.testing.assert_allclose(shares, np.histogram(ratings, 20, (0, 1))[0] / 5000, atol=0.004)
    assert score.training_shares(card, 4)["b"].sum() == 1


@pytest.mark.parametrize(("usable", "status"), [((True, False), 0), ((False, False), 1)])
def test_the_command_lists_failures_and_fails_only_without_a_score(tmp_path, monkeypatch, capsys, usable, status):
    results = {f"{n}.mp4": made_up(f"{n}.mp4") if well else None for n, well in enumerate(usable)}

    def score_clip(path, scorer, *, name, faces):
        if not results[name]:
            raise NoFaceError(f"{path.name}: no face")
        return results[name]

    def score_page(results, model, page):
        said.append(capsys.readouterr())  # what is printed before the page is made
        page.touch()

    said = []
    monkeypatch.setattr(score, "load_scorer", scorer_of)
    monkeypatch.setattr(scores, "score_clip", score_clip)
    monkeypatch.setattr(workbook, "score_page", score_page)
    (tmp_path / "o").mkdir()
    for files in (["--json", str(tmp_path / "s.json")], ["--out", str(tmp_path / "o")]):
        csv = ["--csv", str(tmp_path / "t.csv")]
        assert main(["score", *results, "--model", str(tmp_path), *csv, *files]) == status
        said.append(capsys.readouterr())
        assert "error: 1.mp4: no face" in said[1 if "--out" in files else 0].err
        assert f"{usable.count(False)} of 2 videos could not be scored" in said[1 if "--out" in files else 0].err
        assert len(pd.read_csv(tmp_path / "t.csv")) == 5 * usable.count(True) + usable.count(False)
    assert ("openness (O)" in said[1].out) == usable[0]
    assert read_json(tmp_path / "s.json") == read_json(tmp_path / "o" / "score.json")
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["score.html", "score.json"]


@pytest.fixture(scope="module")
def score_page(tmp_path_factory):
    """Path of the page of two scores and a failure, by notebook 09."""
    folder = tmp_path_factory.mktemp("model")
    write_json(folder / "card.json", scorer_of(folder).card)
    results = [made_up("a.mp4"), made_up("b.mp4"), Unusable("c.mp4", "no face found")]
    workbook.score_page(results, folder, folder / "page" / "all.html")
    return folder / "page" / "all.html"


def test_the_page_shows_every_score_and_nothing_else_is_left(score_page):
    text = score_page.read_text(encoding="utf-8")
    for fact in ("Scores of 3 videos", "2 scored, 1 could not be used", "“c.mp4”: no face found", "One &lt;b&gt;thing"):
        assert fact in text, fact
    assert text.count("data:image/png;base64,") == 4
    assert [path.name for path in score_page.parent.iterdir()] == ["all.html"]


def test_a_page_that_cannot_be_made_leaves_the_failed_notebook_that_the_error_names(tmp_path):
    with pytest.raises(workbook.WorkbookError, match="09_score_a_clip failed in cell 4: FileNotFoundError") as failed:
        workbook.score_page([made_up("a.mp4")], tmp_path / "nothing", tmp_path / "page.html")
    copy = tmp_path / "page_09_score_a_clip.ipynb"
    assert str(failed.value).endswith(f"executed copy: {copy}")
    assert copy.exists()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 390])
def test_the_page_opens_in_a_browser(page, score_page, width):
    page.page.set_viewport_size({"width": width, "height": 800})
    page.page.goto(score_page.as_uri())
    assert page.page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.page.evaluate("[...document.images].every(image => image.clientWidth > 100)")
    assert page.errors == page.outside == []
