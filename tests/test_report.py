"""summary.json, and the page that notebook 10 becomes, on a small results folder."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers import report, workbook
from helpers.files import read_json, write_json
from helpers.statistics import NONE, as_summary, score_table, verdict

LETTERS = "OCEAN"
MAIN = report.MAIN


def model_row(quality):
    """A model whose predictions lie `quality` of the way from the constant to the truth."""
    truth = np.random.default_rng(0).uniform(0, 1, (40, 5))
    constant = truth.mean(axis=0)
    table = score_table(truth, constant + quality * (truth - constant), constant)
    return as_summary(table) | {"seeds": [{"mean_accuracy": 0.5}]}


def compared():
    """Comparisons as `helpers.statistics` leaves them."""
    found = []
    for a, b, low, high in (("ridge", "constant", 0.6, 0.7), (MAIN, "constant", 0.8, 0.9), (MAIN, "ridge", 0.1, 0.3)):
        pair = {"a": a, "b": b, "metric": "r2", "difference": (low + high) / 2, "low": low, "high": high}
        found.append(pair | {"verdict": verdict(pair)})
    return found


def write_run(folder):
    """A run's folder with the results of 01, 03, 06 and 07, one failed clip and one figure."""
    models = {"constant": model_row(0), "ridge": model_row(0.5), MAIN: model_row(0.9)}
    split = {"by": "source", "train": 7, "validation": 3, "test": 2, "test_clips_sharing_a_source_with_train": 0}
    training = {"targets": list(LETTERS), "models": models, "comparisons": compared(), "groups": {}, "ceiling": None}
    live = model_row(0.8) | {"clips": 3, "constant": models["constant"]}
    training |= {"split": split, "live": live, "data": "the clips of this run", "synthetic_labels": False}
    pointing = {"occlusion_pointing": 0.97, "occlusion_chance": 0.34, "occlusion_pointing_shuffled": 0.35}
    failed = [{"clip": "a/<b>", "reason": "no face found"}]
    failed += [{"clip": "c", "reason": f"the face is lost at {row / 7:.1f} s", "row": row} for row in range(40)]
    static = {
        "identity": {"weights": {"name": "random", "sha256": "0123456789abcdef"}, "parameters": {"a": 1}},
        "failed": failed,
        "counts": {"clips": 5, "made": 3, "found": 1, "failed": 1, "rows": 1234},
        "seconds": 8.0,
        "code_version": "0.1+abc",
    }
    write_json(folder / "training" / "training.json", training)
    write_json(folder / "attention.json", pointing | {"occlusion_pointing_interval": [0.925, 0.995]})
    write_json(folder / "analysis.json", {"table": [["clips", 3], ["rated clips", 2]]})
    write_json(folder / "static" / "manifest.json", static)
    (folder / "figures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (30, 2000, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "figures" / "06_intervals.png")
    return folder


@pytest.fixture
def out(tmp_path):
    return write_run(tmp_path / "run")


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
        "warnings",
    }  # fmt: skip
    assert set(summary["models"]["ridge"]["r2"]) == {*LETTERS, "mean"}
    assert {"ccc", "pearson", "mae", "mean_accuracy", "seeds"} <= set(summary["models"]["ridge"])
    assert summary["provenance"]["stages"]["static"]["weights"]["name"] == "random"
    models = {"bag_of_frames": {"accuracy": 0.5}}
    write_json(out / "classification" / "classification.json", {"models": models})
    assert report.write_summary(out)["classification"] == models


def test_the_report_is_one_page_that_fetches_nothing_and_says_what_a_reader_must_know(report_page):
    text = report_page.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)|<script|<link|url\(|@import""", text)
    assert text.count("data:image/png;base64,") == 1  # the saved figure
    facts = ("random weights", "a/&lt;b&gt;", "1 clips could not be used", "3 clips of this run", "97%", "34%")
    facts += ("08_clip_classification", "no face found", "0123456789abcdef", "Not saved by this run: 07_clip")
    assert [fact for fact in facts if fact not in text] == []
    assert not [no for no in ("07_attention_visualization", str(report_page.parent)) if no in text]


def test_without_training_the_report_says_what_is_missing_and_without_anything_it_is_refused(out, tmp_path):
    shutil.rmtree(out / "training")
    (out / "attention.json").unlink()
    write_json(out / "analysis.json", {"table": [["clips", 1]], "reliability": {"openness": {"icc": np.nan}}})
    text = workbook.write_report(out).read_text(encoding="utf-8")
    assert "04_dynamic_extraction, 05_alignment, 06_training" in text
    assert NONE in text
    summary = read_json(out / "summary.json")
    assert (summary["models"], summary["comparisons"], summary["split"]) == ({}, [], {})
    (out / "figures" / "06_intervals.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"06_intervals\.png"):
        report.small_picture(out / "figures" / "06_intervals.png")
    with pytest.raises(FileNotFoundError, match="nothing of a run"):
        workbook.write_report(tmp_path / "nowhere")


def test_verdicts_set_the_model_beside_the_constant_and_its_strongest_rival(out):
    weak = {"a": MAIN, "b": "concat_mlp", "difference": 0.7, "low": 0.6, "high": 0.8, "verdict": "far better"}
    change(out, comparisons=[weak, *compared()])
    verdicts = report.verdicts(report.write_summary(out))
    said = ["better than a constant by 0.850", "better than ridge by 0.200"]
    assert all(part in one for part, one in zip(said, verdicts, strict=True))


def test_a_leaking_split_random_weights_and_invented_ratings_are_warned_of(out):
    change(out, split={"warning": "this split leaks"}, synthetic_labels=True)
    write_json(out / "analysis.json", {"drawn": True})
    warned = report.write_summary(out)["warnings"]
    said = ("random weights", "synthetic clips", "invented", "leaks")
    assert all(word in one for word, one in zip(said, warned, strict=True))


def test_the_table_of_models_has_a_column_for_each_target_and_the_ceiling_of_the_ratings(out):
    training = read_json(out / "training" / "training.json")
    for row in [*training["models"].values(), training["live"]]:
        row["r2"]["interview"] = 0.123
    training["models"]["ridge"]["r2"] |= {"O": None, "mean": None}  # of equal ratings
    ceiling = {"r2": dict.fromkeys(LETTERS, 0.64), "pearson": dict.fromkeys(LETTERS, 0.8)}
    change(out, **training | {"targets": [*LETTERS, "interview"], "ceiling": ceiling})
    table = report.as_table(report.write_summary(out))
    assert table.columns[:7].tolist() == [*LETTERS, "interview", "mean"]
    assert table.index[:3].tolist() == ["constant", "ridge", MAIN]
    assert table["interview"].tolist()[:3] == [0.123] * 3
    assert np.isnan(table.loc["ridge", "O"])
    assert table.loc["ridge", ["over_constant_low", "over_constant_high"]].tolist() == [0.6, 0.7]
    assert table.iloc[-1]["O"] == 0.64


def test_evidence_stands_beside_chance_and_what_needs_no_model(out):
    attention = read_json(out / "attention.json") | {"motion_pointing": 0.51}
    (said,) = report.pointing_in_words(attention)
    for part in ("In 97% [0.93,", "control 35%, most unusual motion 51%, chance 34%"):
        assert part in said
    assert report.pointing_in_words(dict.fromkeys(attention)) == []


def test_thousands_of_failures_are_counted_by_reason():
    failed = [{"clip": f"clip{n}", "reason": "no face"} for n in range(5000)]
    failed += [{"clip": f"c{n % 7}", "reason": f"lost at {n / 7:.1f} s", "row": n} for n in range(5000)]
    clips, rows = report.failures({"faces": {"failed": failed[:1]}, "static": {"failed": failed}})
    assert len(clips) == 5000
    assert clips.loc["clip0", "notebook"] == "02_clip_preparation"
    assert rows.iloc[0][["reason", "rows", "clips"]].tolist() == ["lost at … s", 5000, 7]


@pytest.mark.browser
def test_the_report_opens_in_a_browser(page, report_page):
    page.shows(report_page)
