"""Scores: the same tokens as the notebooks make, intervals, warnings, refusals, files and page."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from numbered import write_numbered
from scored import VALUES, made_up, scorer_of

from helpers import score, workbook
from helpers.__main__ import main
from helpers.align import read_aligned
from helpers.clips import TRAITS
from helpers.files import ROOT, read_json, write_json
from helpers.metrics import conformal_quantile
from helpers.model import CompletePersonalityModel
from helpers.out_of_distribution import learn_training_tokens, write_training_tokens
from helpers.score import Unusable
from helpers.tracks import NoFaceError

DATA = ROOT / "data_sample"
AWKWARD = DATA / "awkward"
CLIP = sorted((DATA / "test80_01").glob("*.mp4"))[0]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A model folder with an untrained network behind the shipped reduction."""
    folder = tmp_path_factory.mktemp("model")
    identity = read_json(DATA / "tokens" / "manifest.json")["identity"]
    CompletePersonalityModel(64, 32).save(folder / "model.keras")
    shutil.copy(DATA / "tokens" / "reduction.npz", folder)
    card = {
        "targets": list(TRAITS),
        "constant": dict.fromkeys(TRAITS, 0.5),
        "interval_half_width": dict.fromkeys(TRAITS, 0.2),
        "training_quantiles": dict.fromkeys(TRAITS, np.linspace(0, 1, 11).tolist()),
        "extractors": {name: identity[name] for name in ("static", "dynamic")},
    }
    write_json(folder / "card.json", card)
    bank = read_aligned(DATA / "tokens")
    known = learn_training_tokens(bank.take(np.arange(100)), bank.take(np.arange(100, 160)))
    write_training_tokens(folder / "familiar.npz", known)
    return folder


@pytest.fixture(scope="module")
def scorer(model_dir):
    return score.load_scorer(model_dir)


@pytest.mark.slow
def test_a_video_is_looked_at_as_the_training_clips_were(scorer):
    _, tokens = score.tokens_of_video(CLIP, scorer)
    shipped = read_aligned(DATA / "tokens" / "shipped")
    row = shipped.clips.tolist().index(CLIP.relative_to(DATA).as_posix().removesuffix(".mp4"))
    for name in ("static", "dynamic"):
        expected = getattr(shipped, f"{name}_features")[row]
        np.testing.assert_allclose(tokens[name].features, expected, atol=0.02 * np.abs(expected).max())
        np.testing.assert_allclose(tokens[name].t_s, getattr(shipped, f"{name}_t_s")[row], atol=1e-5)


@pytest.mark.slow
def test_a_score_has_an_interval_and_the_constant_and_says_what_it_rests_on(scorer):
    result = score.score_clip(CLIP, scorer)
    for trait in TRAITS:
        assert 0 <= result.low[trait] <= result.score[trait] <= result.high[trait] <= 1
        assert result.high[trait] - result.low[trait] <= 0.4 + 1e-9
        assert result.constant[trait] == 0.5
    assert len(result.motion_share) == len(result.motion_t_s) == len(result.effects[TRAITS[0]]) == 9
    assert sum(result.motion_share) == pytest.approx(1, abs=1e-5)
    assert len(result.faces) == score.N_FACES
    assert not result.familiarity["dynamic"]["unlike"]
    text = score.as_text(result)
    assert "emotional stability (N)" in text
    assert "random weights" in text


@pytest.mark.slow
@pytest.mark.parametrize(("name", "warning"), [("two_faces", "up to 2 faces"), ("face_leaving", "motion is unlike")])
def test_what_weakens_a_score_is_said(scorer, name, warning):
    result = score.score_clip(AWKWARD / f"{name}.mp4", scorer, faces=0)
    assert any(warning in text for text in result.warnings)


def test_a_video_without_a_face_is_refused_with_the_reason(scorer, tmp_path):
    shutil.copy(AWKWARD / "no_face.mp4", tmp_path)
    with pytest.raises(NoFaceError, match="no face"):
        score.score_clip(tmp_path / "no_face.mp4", scorer)
    with pytest.raises(ValueError, match=r"no_face\.mp4.*no face"):
        score.score_example(tmp_path, scorer, tmp_path)


@pytest.mark.parametrize(
    ("stream", "part", "name", "value", "message"),
    [
        ("static", "weights", "sha256", "0" * 64, "static network must have the weights"),
        ("dynamic", "weights", "name", "elsewhere", "dynamic features were made elsewhere"),
        ("static", "parameters", "every_n_frames", 3, "static.parameters.every_n_frames: 3 here"),
    ],
)
def test_other_networks_than_the_models_are_refused(model_dir, tmp_path, stream, part, name, value, message):
    shutil.copytree(model_dir, tmp_path / "model")
    card = read_json(tmp_path / "model" / "card.json")
    card["extractors"][stream][part][name] = value
    write_json(tmp_path / "model" / "card.json", card)
    with pytest.raises(ValueError, match=message):
        score.load_scorer(tmp_path / "model")


def test_warnings_of_clip_and_model():
    track = SimpleNamespace(coverage=0.5, n_faces_max=2, reason="the only face that moves", n_frames=150, fps=15.0)
    found = score.clip_warnings(track, np.array([0.5, 1.2]), {"training_length_s": 5.0}, {}, 1)
    assert [any(word in text for text in found) for word in ("10 s long", "50%", "moves", "one stretch", "cut to")]
    assert len(found) == 5
    card = {"drawn": True, "synthetic_labels": True, "split": {"warning": "this split leaks"}}
    assert len(score.card_warnings(scorer_of(None).card | card)) == 4


def test_what_is_odd_about_picture_and_faces_is_remarked_once_in_text_json_and_table(tmp_path):
    tags = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    path = write_numbered(tmp_path / "hdr.mp4", 5, codec_options={"x264-params": tags})
    hdr = "HDR (PQ): brought to SDR"
    track = SimpleNamespace(decoder=f"pyav 18.1.0 (ffmpeg), h264, software; {hdr}", remarks="3 shots; a still face")
    remarks = score.clip_remarks(path, track)
    assert remarks == [hdr, "3 shots", "a still face"]
    made = [made_up("hdr.mp4", remarks=remarks)]
    score.write_scores(made, json=tmp_path / "score.json", csv=tmp_path / "score.csv")
    assert read_json(tmp_path / "score.json")[0]["remarks"] == remarks
    assert "; ".join(remarks) in (tmp_path / "score.csv").read_text()
    assert all(text in score.as_text(made[0]) for text in remarks)


@pytest.mark.slow
def test_an_effect_is_what_the_score_loses_with_that_motion(scorer):
    tokens = score.tokens_of_video(CLIP, scorer)[1]
    inputs = {name: rows.features[None] for name, rows in tokens.items()}
    inputs |= {f"{name}_t_s": rows.t_s[None].astype("float32") for name, rows in tokens.items()}
    changed = inputs | {"dynamic": inputs["dynamic"].copy()}
    changed["dynamic"][0, 2] = scorer.training["dynamic"].mean
    expected = np.asarray(scorer.model(inputs))[0] - np.asarray(scorer.model(changed))[0]
    effects = score.score_clip(CLIP, scorer, faces=0).effects
    np.testing.assert_allclose([effects[trait][2] for trait in TRAITS], expected, atol=1e-5)
    assert np.abs(expected).min() > 0


def test_intervals_hold_nine_of_ten_new_ratings_of_their_kind():
    """Split conformal on 75 validation clips, cut to the scale: what stands on the page, on exchangeable clips."""
    random = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        residuals = random.standard_t(3, (76, 1)) / 5
        truth = random.uniform(0, 1)
        raw = truth - residuals[-1, 0]
        half = min(conformal_quantile(residuals[:-1], 0.9)[0], 1.0)
        inside.append(np.clip(raw - half, 0, 1) <= truth <= np.clip(raw + half, 0, 1))
    assert 0.89 < np.mean(inside) < 0.93  # exact: ceil(76 * 0.9) / 76 = 0.908


def test_the_training_ratings_come_from_their_quantiles():
    ratings = np.random.default_rng(0).beta(2, 3, 5000)
    card = {"targets": ["a", "b"], "training_quantiles": {"a": np.quantile(ratings, np.linspace(0, 1, 101))}}
    card["training_quantiles"]["b"] = [0, 0, 0.5, 1, 1]
    shares = score.training_shares(card)["a"]
    np.testing.assert_allclose(shares, np.histogram(ratings, 20, (0, 1))[0] / 5000, atol=0.004)
    assert score.training_shares(card, 4)["b"].sum() == 1


def test_videos_are_named_by_file_or_by_their_path_below_a_folder(tmp_path):
    for path in ("folder/b/clip 10.mp4", "folder/b/clip 2.mp4", "folder/a.mp4", "other/a.mp4", "c.mp4"):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).touch()
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "folder", tmp_path / "other" / "a.mp4", tmp_path / "c.mp4", tmp_path / "empty"]
    named = score.named_videos(paths)
    names = ["folder/a.mp4", "b/clip 2.mp4", "b/clip 10.mp4", "other/a.mp4", "c.mp4", "empty"]
    assert [name for name, _ in named] == names
    assert named[1][1] == tmp_path / "folder" / "b" / "clip 2.mp4"


def test_one_bad_video_is_listed_and_what_ends_the_list_leaves_what_is_there(tmp_path, monkeypatch):
    def score_clip(path, scorer, *, name, faces):
        if name in errors:
            raise errors[name]
        return made_up(name)

    errors = {"bad.mp4": NoFaceError("bad.mp4: no face found"), "stop.mp4": KeyboardInterrupt()}
    monkeypatch.setattr(score, "score_clip", score_clip)
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / name for name in ("bad.mp4", "good.mp4", "empty")]
    bad, good, empty = score.score_all(paths, None)
    assert bad == Unusable("bad.mp4", "no face found")
    assert good.video == "good.mp4"
    assert "no videos" in empty.failed
    with pytest.raises(KeyboardInterrupt):
        score.score_all([*paths, tmp_path / "stop.mp4"], None, json=tmp_path / "score.json")
    assert len(read_json(tmp_path / "score.json")) == 3


def test_the_files_say_the_same(tmp_path):
    results = [made_up("a.mp4"), Unusable("b.mp4", "no face")]
    json, csv = tmp_path / "out" / "score.json", tmp_path / "out" / "score.csv"
    score.write_scores(results, json=json, csv=csv, pictures=True)
    records, back, table = read_json(json), score.read_scores(json), pd.read_csv(csv)
    assert records[0]["score"] == VALUES
    assert records[0].keys() == {field.name for field in dataclasses.fields(score.ClipScore)} - {"faces"}
    assert records[1] == {"video": "b.mp4", "failed": "no face"}
    assert score.as_text(back[0]) == score.as_text(results[0])
    np.testing.assert_array_equal(back[0].faces, results[0].faces)
    assert back[1] == results[1]
    assert table.columns.tolist() == [
        "video", "target", "score", "low", "high", "constant", "share_below", "face_coverage", "duration_s", "warnings",
        "remarks", "failed",
    ]  # fmt: skip
    assert table["target"].tolist()[:5] == list(TRAITS)
    assert table["high"].tolist()[:5] == pytest.approx([records[0]["high"][trait] for trait in TRAITS], rel=1e-5)
    assert table.iloc[5][["video", "failed"]].tolist() == ["b.mp4", "no face"]
    assert table.iloc[5][["target", "score", "warnings"]].isna().all()


def test_the_example_is_a_rated_clip_that_was_held_out_and_shows_its_face(tmp_path, monkeypatch):
    for name in "abcd":
        (tmp_path / f"{name}.mp4").touch()
    rated = dict.fromkeys(TRAITS, 0.5)
    clips = pd.DataFrame({"path": [f"{k}.mp4" for k in "abcd"], "source": list("abcd"), "split": ""} | rated)
    clips.assign(bytes=1).set_index(pd.Index(list("abcd"), name="key")).to_csv(tmp_path / "clips.csv")
    said = pd.DataFrame({"split": ["validation", "test", "live"], "clip": ["a", "c", "d"]})
    said.to_csv(tmp_path / "predictions.csv")
    coverage = {"a.mp4": 1, "b.mp4": 1, "c.mp4": 0.4, "d.mp4": 0.9}
    monkeypatch.setattr(
        score, "score_clip", lambda path, scorer, name, faces: made_up(name, face_coverage=coverage[path.name])
    )
    monkeypatch.setattr(score, "EXAMPLES", 2)
    example = score.score_example(tmp_path, None, tmp_path)
    assert example.video == "d.mp4"
    table = score.in_context([example, made_up("a.mp4")], scorer_of(tmp_path).card, score.ratings_of(tmp_path))
    assert table["rating"].tolist()[:5] == [0.5] * 5
    assert table["rating"].isna().tolist()[5:] == [True] * 5
    assert table["r2"].tolist()[:4] == [0.11, 0.22, 0.33, 0.44]


@pytest.mark.parametrize(("usable", "status"), [((True, False), 0), ((False, False), 1)])
def test_the_command_lists_failures_and_fails_only_without_a_score(tmp_path, monkeypatch, capsys, usable, status):
    results = {f"{n}.mp4": made_up(f"{n}.mp4") if well else None for n, well in enumerate(usable)}

    def score_clip(path, scorer, *, name, faces):
        if not results[name]:
            raise NoFaceError(f"{path.name}: no face")
        return results[name]

    monkeypatch.setattr(score, "load_scorer", scorer_of)
    monkeypatch.setattr(score, "score_clip", score_clip)
    monkeypatch.setattr(workbook, "score_page", lambda results, model, page: page.touch())
    (tmp_path / "o").mkdir()
    for files in (["--json", str(tmp_path / "s.json")], ["--out", str(tmp_path / "o")]):
        csv = ["--csv", str(tmp_path / "t.csv")]
        assert main(["score", *results, "--model", str(tmp_path), *csv, *files]) == status
        said = capsys.readouterr()
        assert "error: 1.mp4: no face" in said.err
        assert ("openness (O)" in said.out) == usable[0]
        assert len(pd.read_csv(tmp_path / "t.csv")) == 5 * usable.count(True) + usable.count(False)
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
    assert all(fact in text for fact in ("a.mp4", "b.mp4", "“c.mp4”: no face found", "One &lt;b&gt;thing"))
    assert text.count("data:image/png;base64,") == 4
    assert [path.name for path in score_page.parent.iterdir()] == ["all.html"]


def test_a_page_that_cannot_be_made_leaves_the_failed_notebook_that_the_error_names(tmp_path):
    copy = tmp_path / "page_09_score_a_clip.ipynb"
    with pytest.raises(workbook.WorkbookError, match=copy.name):
        workbook.score_page([made_up("a.mp4")], tmp_path / "nothing", tmp_path / "page.html")
    assert copy.exists()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 390])
def test_the_page_opens_in_a_browser(page, score_page, width):
    page.page.set_viewport_size({"width": width, "height": 800})
    page.page.goto(score_page.as_uri())
    assert page.page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.page.evaluate("[...document.images].every(image => image.clientWidth > 100)")
    assert page.errors == page.outside == []
