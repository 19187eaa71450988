"""summary.json, and the page that notebook 10 becomes, on a small results folder."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers import pages, report, workbook
from helpers.files import read_json, write_json
from helpers.metrics import as_summary, score_table
from helpers.plots.report import plot_verdict
from helpers.statistics import verdict

LETTERS = "OCEAN"
MAIN = report.MAIN


def model_row(quality):
    """A model whose predictions lie `quality` of the way from the constant to the truth."""
    truth = np.random.default_rng(0).uniform(0, 1, (40, 5))
    constant = truth.mean(axis=0)
    table = score_table(truth, constant + quality * (truth - constant), constant)
    return as_summary(table) | {"seeds": [{"mean_accuracy": 0.5}]}


def comparison(a, b, low, high):
    """A comparison as `helpers.statistics` leaves it."""
    found = {"a": a, "b": b, "metric": "r2", "difference": (low + high) / 2, "low": low, "high": high}
    return found | {"verdict": verdict(found)}


def compared(ridge=(0.6, 0.7), token=(0.8, 0.9)):
    pairs = [("ridge", "constant", *ridge), (MAIN, "constant", *token), (MAIN, "ridge", 0.1, 0.3)]
    return [comparison(*pair) for pair in pairs]


def write_run(folder):
    """A run's folder with the results of 01, 03, 06 and 07, one failed clip and one figure."""
    models = {"constant": model_row(0), "ridge": model_row(0.5), MAIN: model_row(0.9)}
    split = {"by": "source", "train": 7, "validation": 3, "test": 2, "test_clips_sharing_a_source_with_train": 0}
    training = {"targets": list(LETTERS), "models": models, "comparisons": compared(), "groups": {}, "ceiling": None}
    training |= {"split": split, "live": model_row(0.8) | {"clips": 3}, "data": "the clips of this run"}
    write_json(folder / "training" / "training.json", training | {"synthetic_labels": False})
    pointing = {"occlusion_pointing": 0.97, "occlusion_chance": 0.34, "occlusion_pointing_shuffled": 0.35}
    write_json(folder / "attention.json", pointing | {"occlusion_pointing_interval": [0.925, 0.995]})
    write_json(folder / "analysis.json", {"table": [["clips", 3], ["rated clips", 2]]})
    identity = {"weights": {"name": "random", "sha256": "0123456789abcdef"}, "parameters": {"a": 1}}
    failed = [{"clip": "a/<b>", "reason": "no face found"}]
    failed += [{"clip": "c", "reason": f"the face is lost at {row / 7:.1f} s", "row": row} for row in range(40)]
    counts = {"clips": 5, "made": 3, "found": 1, "failed": 1, "rows": 1234}
    manifest = {"identity": identity, "failed": failed, "counts": counts, "seconds": 8.0, "code_version": "0.1+abc"}
    write_json(folder / "static" / "manifest.json", manifest)
    (folder / "figures").mkdir()
    draw(folder / "figures" / "06_intervals.png", 2000)
    return folder


def draw(path, width):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, width, 3), np.uint8)).save(path)


@pytest.fixture
def out(tmp_path):
    return write_run(tmp_path)


@pytest.fixture(scope="module")
def report_page(tmp_path_factory):
    """Path of the exported report."""
    return workbook.write_report(write_run(tmp_path_factory.mktemp("my run")))


def change(out, **values):
    path = out / "training" / "training.json"
    write_json(path, read_json(path) | values)


def test_the_summary_has_the_promised_shape(out):
    report.write_summary(out)
    summary = read_json(out / "summary.json")
    assert set(summary) == {
        "targets", "models", "comparisons", "groups", "ceiling", "attention", "split", "live", "provenance",
    }  # fmt: skip
    assert set(summary["models"]["ridge"]["r2"]) == {*LETTERS, "mean"}
    assert {"ccc", "pearson", "mae", "mean_accuracy", "seeds"} <= set(summary["models"]["ridge"])
    assert summary["provenance"]["stages"]["static"]["weights"]["name"] == "random"
    models = {"bag_of_frames": {"accuracy": 0.5}}
    write_json(out / "classification" / "classification.json", {"models": models})
    assert report.write_summary(out)["classification"] == models


def test_the_report_is_one_page_that_fetches_nothing(report_page):
    text = report_page.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert not re.findall(r"<script|<link|url\(|@import", text)
    assert str(report_page.parent) not in text
    assert text.count("data:image/png;base64,") == 2  # the saved figure, and the one that 10 draws


def test_the_report_says_what_a_reader_must_know(report_page):
    text = report_page.read_text(encoding="utf-8")
    for fact in ("random weights", "a/&lt;b&gt;", "1 clips could not be used", "on the 3 rated clips", "97%", "34%"):
        assert fact in text, fact
    assert re.search(r"the face is lost at … s</td>\s*<td>40</td>", text)
    places = [text.index(f"<th>{name}</th>") for name in ("constant", "ridge", "token cross attention")]
    assert places == sorted(places)
    assert read_json(report_page.parent / "summary.json")["targets"] == list(LETTERS)


def test_what_was_not_run_is_said(report_page):
    text = report_page.read_text(encoding="utf-8")
    assert "08_clip_classification was not run" in text
    assert "09_score_a_clip was not run" in text
    assert "07_attention_visualization was not run" not in text
    assert "Not saved by this run: 07_clip" in text


def test_a_run_of_06_alone_has_a_report(tmp_path):
    out = write_run(tmp_path)
    for path in [out / "attention.json", out / "analysis.json", *out.glob("static/*"), *out.glob("figures/*")]:
        path.unlink()
    path = out / "training" / "training.json"
    write_json(path, {k: v for k, v in read_json(path).items() if k not in ("groups", "ceiling", "live")})
    text = workbook.write_report(out).read_text(encoding="utf-8")
    assert "07_attention_visualization was not run" in text
    assert read_json(out / "summary.json")["attention"] is None


def test_without_training_the_report_says_what_is_missing_and_why(out):
    shutil.rmtree(out / "training")
    (out / "attention.json").unlink()
    error = {"output_type": "error", "ename": "ValueError", "evalue": "labels must\nvary <here>", "traceback": []}
    cell = {"cell_type": "code", "source": [], "metadata": {}, "execution_count": 1, "outputs": [error]}
    write_json(out / "notebooks" / "06_training.ipynb", {"cells": [cell]})
    write_json(out / "analysis.json", {"table": [["clips", 1]], "statistics": {"openness": {"n": 1, "sd": np.nan}}})
    text = workbook.write_report(out).read_text(encoding="utf-8")
    for fact in (
        "06_training failed: labels must vary &lt;here&gt;: no model was trained, and nothing is scored.",
        "07_attention_visualization was not run: nothing is known",
        "Missing: 04_dynamic_extraction was not run.",
        "1 clips could not be used",
        f'<p class="note">{pages.NOT_DEFINED}</p>',
    ):
        assert fact in text, fact
    summary = read_json(out / "summary.json")
    assert (summary["models"], summary["comparisons"], summary["split"]) == ({}, [], {})


def test_a_folder_that_holds_nothing_of_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds nothing of a run"):
        workbook.write_report(tmp_path)


def test_metrics_that_do_not_exist_are_said(out):
    nothing = as_summary(score_table(np.full((1, 5), 0.5), np.full((1, 5), 0.4), np.full(5, 0.5)))
    models = {name: nothing | {"seeds": [nothing]} for name in ("constant", "ridge", MAIN)}
    unknown = {"metric": "r2", "difference": None, "low": None, "high": None}
    pairs = [{"a": a, "b": b} | unknown for a, b in (("ridge", "constant"), (MAIN, "constant"), (MAIN, "ridge"))]
    change(out, models=models, comparisons=[pair | {"verdict": verdict(pair)} for pair in pairs])
    summary = report.write_summary(out)
    cannot = "cannot be compared with"
    assert report.verdicts(summary) == [
        f"token cross attention {cannot} {name}: R² needs 2 test clips of different ratings."
        for name in ("a constant", "ridge")
    ]
    assert pages.cell(report.model_table(summary).loc["ridge", "O"]) == pages.NONE
    (ax,) = plot_verdict(models, report.best_models(summary), summary["targets"]).axes
    assert ax.texts[0].get_text() == "R² needs 2 test clips of different ratings"


def test_a_model_that_is_no_better_than_the_constant_is_called_so(out):
    change(out, comparisons=compared(ridge=(-0.1, 0.02)))
    said = report.verdicts(report.write_summary(out))
    assert said[0] == "token cross attention is better than a constant by 0.850 R² [0.800, 0.900]."
    assert said[1] == "No better than a constant: ridge."
    assert said[2] == "token cross attention is better than ridge by 0.200 R² [0.100, 0.300]."
    change(out, comparisons=compared(token=(-0.2, 0.1)))
    said = report.verdicts(report.write_summary(out))
    assert said[0] == "token cross attention is no better than a constant: -0.050 R² [-0.200, +0.100]."
    assert "No better than a constant" not in said[1]


def test_a_leaking_split_and_invented_ratings_are_warned_of(out):
    split = read_json(out / "training" / "training.json")["split"] | {"warning": "this split leaks"}
    change(out, split=split, synthetic_labels=True)
    random, invented, leaks = report.warnings_of(report.write_summary(out))
    assert ("random weights" in random, "invented" in invented, leaks) == (True, True, "this split leaks")


def test_the_table_has_a_column_for_each_target_and_the_ceiling_of_the_ratings(out):
    training = read_json(out / "training" / "training.json")
    for row in [*training["models"].values(), training["live"]]:
        row["r2"]["interview"] = 0.123
    ceiling = {"r2": dict.fromkeys(LETTERS, 0.64), "pearson": dict.fromkeys(LETTERS, 0.8)}
    change(out, **training | {"targets": [*LETTERS, "interview"], "ceiling": ceiling})
    table = report.model_table(report.write_summary(out))
    assert table.columns[:7].tolist() == [*LETTERS, "interview", "mean"]
    assert table["interview"].tolist()[:4] == [0.123] * 4
    assert table.loc["ridge", "mean over the constant's"] == (0.6, 0.7)
    assert table.iloc[-1]["O"] == 0.64


def test_evidence_stands_beside_chance_and_what_needs_no_model(out):
    attention = read_json(out / "attention.json") | {"motion_pointing": 0.51}
    (said,) = report.pointing_in_words(attention)
    assert "In 97% [0.93," in said
    assert "control 35%, most unusual motion 51%, chance 34%" in said
    assert report.pointing_in_words(dict.fromkeys(attention)) == []


def test_thousands_of_failures_are_counted_by_reason():
    failed = [{"clip": f"clip{n}", "reason": "no face"} for n in range(5000)]
    failed += [{"clip": f"c{n % 7}", "reason": f"lost at {n / 7:.1f} s", "row": n} for n in range(5000)]
    manifests = {"faces": {"failed": failed[:1]}, "static": {"failed": failed}}
    clips, rows = report.failed_clips(manifests), report.masked_rows(manifests)
    assert len(clips) == 5000
    assert clips.loc["clip0", "notebook"] == "02_clip_preparation"
    assert rows.iloc[0][["reason", "rows", "clips"]].tolist() == ["lost at … s", 5000, 7]


def test_the_speed_is_what_the_manifest_says(out):
    table = report.stage_table(report.read_manifests(out))
    assert table.loc["03_static_extraction"].tolist() == [4, 8.0, 0.5, 1234]


def test_ratings_stand_in_the_order_of_the_traits():
    found = {t: {"n": 36.0, "mean": 0.5} for t in ("extraversion", "interview", "neuroticism", "openness")}
    table = report.target_table({"statistics": found}, "statistics")
    assert table.index.tolist() == ["openness (O)", "extraversion (E)", "emotional stability (N)", "interview"]
    assert [pages.cell(value) for value in table.iloc[0]] == ["36", "0.500"]
    assert report.target_table({"reliability": None}, "reliability").empty


def test_an_unlike_clip_is_called_unreliable_first():
    score = {"video": "a.mp4", "face_coverage": 0.4, "warnings": ["one"], "familiarity": {"static": {"unlike": True}}}
    assert report.score_in_words([{"video": "b", "failed": "why"}, score])[0] == "This clip cannot be scored reliably"
    assert report.score_in_words([{"video": "b", "failed": "why"}]) == ["b could not be scored: why"]


def test_a_damaged_picture_is_named(out):
    (out / "figures" / "06_intervals.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="06_intervals.png is not a picture"):
        pages.small_picture(out / "figures" / "06_intervals.png")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 390])
def test_the_report_opens_in_a_browser(page, report_page, width):
    page.page.set_viewport_size({"width": width, "height": 800})
    page.page.goto(report_page.as_uri())
    assert page.page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.page.evaluate("[...document.images].every(image => image.clientWidth > 100)")
    assert page.errors == page.outside == []
