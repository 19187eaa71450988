"""summary.json and report.html from what the notebooks leave."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from helpers import page as pages
from helpers import report, report_tables
from helpers.__main__ import main
from helpers.captions import CAPTIONS, caption_of
from helpers.files import write_json
from helpers.metrics import as_summary, score_table
from helpers.statistics import verdict

LETTERS = "OCEAN"


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
    main = "token_cross_attention"
    pairs = [("ridge", "constant", *ridge), (main, "constant", *token), (main, "ridge", 0.1, 0.3)]
    return [comparison(*pair) for pair in pairs]


@pytest.fixture
def out(tmp_path):
    """A run's folder with the results of 01, 06 and 07 and one failed clip."""
    models = {"constant": model_row(0), "ridge": model_row(0.5), "token_cross_attention": model_row(0.9)}
    split = {"by": "source", "train": 7, "validation": 3, "test": 2, "test_clips_sharing_a_source_with_train": 0}
    training = {
        "targets": list(LETTERS),
        "models": models,
        "comparisons": compared(),
        "groups": {},
        "ceiling": None,
        "split": split,
        "live": model_row(0.8) | {"clips": 3},
        "data": "the clips of this run",
        "synthetic_labels": False,
    }
    write_json(tmp_path / "training" / "training.json", training)
    pointing = {"occlusion_pointing": 0.97, "occlusion_chance": 0.34, "occlusion_pointing_shuffled": 0.35}
    write_json(tmp_path / "attention.json", pointing)
    write_json(tmp_path / "analysis.json", {"table": [["clips", 3], ["rated clips", 2]]})
    identity = {"weights": {"name": "random", "sha256": "0123456789abcdef"}, "parameters": {"a": 1}}
    failed = [{"clip": "a/<b>", "reason": "no face found"}, {"clip": "c", "reason": "not finite", "row": 2}]
    counts = {"clips": 5, "made": 3, "found": 1, "failed": 1, "rows": 1234}
    manifest = {"identity": identity, "failed": failed, "counts": counts, "seconds": 8.0, "code_version": "0.1+abc"}
    write_json(tmp_path / "static" / "manifest.json", manifest)
    (tmp_path / "figures").mkdir()
    draw(tmp_path / "figures" / "06_models.png")
    return tmp_path


def draw(path, width=40):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, width, 3), np.uint8)).save(path)


def test_the_summary_has_the_promised_shape(out):
    report.write_summary(out)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert set(summary) == {
        "targets",
        "models",
        "comparisons",
        "groups",
        "ceiling",
        "attention",
        "split",
        "live",
        "provenance",
    }
    assert set(summary["models"]["ridge"]["r2"]) == {*LETTERS, "mean"}
    assert {"ccc", "pearson", "mae", "mean_accuracy", "seeds"} <= set(summary["models"]["ridge"])
    assert summary["provenance"]["stages"]["static"]["weights"]["name"] == "random"


def test_the_report_is_one_page_that_fetches_nothing(out):
    page = report.write_report(out).read_text(encoding="utf-8")
    links = re.findall(r"""(?:src|href)=["'](?!data:)([^"']*)""", page)
    assert all(link.startswith("#") or (out / link).exists() for link in links)
    assert not re.findall(r"<script|<link|url\(|@import", page)
    assert "data:image/png;base64," in page


def test_the_report_says_what_a_reader_must_know(out):
    page = report.write_report(out).read_text(encoding="utf-8")
    assert "random weights" in page
    assert "a/&lt;b&gt;" in page
    assert "no face found" in page
    assert "1 clip could not be used" in page  # one masked row does not make a clip unusable
    assert '<td class="text">not finite</td><td>1</td><td>1</td>' in page
    assert "97%" in page
    assert "34%" in page
    assert page.index("<td>constant</td>") < page.index("<td>ridge</td>") < page.index("<td>token cross attention</td>")
    assert "on the 3 rated clips of this run" in page


def test_a_model_that_is_no_better_than_the_constant_is_called_so(out):
    training = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    write_json(out / "training" / "training.json", training | {"comparisons": compared(ridge=(-0.1, 0.02))})
    said = report.verdicts(report.write_summary(out))
    assert said[0] == "token cross attention is better than a constant by 0.850 R² [0.800, 0.900]."
    assert said[1] == "No better than a constant: ridge."
    assert said[2] == "token cross attention is better than ridge by 0.200 R² [0.100, 0.300]."
    write_json(out / "training" / "training.json", training | {"comparisons": compared(token=(-0.2, 0.1))})
    said = report.verdicts(report.write_summary(out))
    assert said[0] == "token cross attention is no better than a constant: -0.050 R² [-0.200, +0.100]."
    assert "No better than a constant" not in said[1]


def test_a_leaking_split_is_flagged_on_the_page(out):
    training = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    training["split"]["warning"] = "this split leaks: 2 of 2 test clips"
    write_json(out / "training" / "training.json", training)
    assert "this split leaks: 2 of 2 test clips" in report.write_report(out).read_text(encoding="utf-8")


def test_groups_and_the_ceiling_of_the_ratings_stand_on_the_page(out):
    training = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    nothing = {"value": 0.01, "low": -0.02, "high": 0.03}
    errors = dict.fromkeys(("mae", "bias", "mae_over_others", "bias_over_others"), nothing)
    groups = {"old": errors | {"bias_over_others": {"value": -0.1, "low": -0.15, "high": -0.05}}}
    ceiling = {"r2": dict.fromkeys(LETTERS, 0.64), "pearson": dict.fromkeys(LETTERS, 0.8)}
    write_json(out / "training" / "training.json", training | {"groups": groups, "ceiling": ceiling})
    page = report.write_report(out).read_text(encoding="utf-8")
    assert "old: mean signed error differs from that of the others by -0.100 [-0.150, -0.050]." in page
    assert "<td>-0.100<small>-0.150 to -0.050</small></td>" in page
    assert page.count("<td>0.64</td>") == 5


def test_the_table_has_a_column_for_each_target_whatever_its_name(out):
    training = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    training["targets"].append("interview")
    for row in [*training["models"].values(), training["live"]]:
        row["r2"]["interview"] = 0.123
    write_json(out / "training" / "training.json", training)
    page = report.write_report(out).read_text(encoding="utf-8")
    assert "<th>interview</th>" in page
    heads = [page.index(f"<th>{letter}</th>") for letter in LETTERS]
    assert heads == sorted(heads)
    assert page.count("<td>0.12</td>") == 4


def test_without_planted_events_the_occlusion_paragraph_is_left_out(out):
    nothing = dict.fromkeys(("occlusion_pointing", "occlusion_chance", "occlusion_pointing_shuffled"))
    write_json(out / "attention.json", nothing)
    page = report.write_report(out).read_text(encoding="utf-8")
    assert "inside a planted event" not in page
    assert "nothing is known of where the answer should lie" in page


def test_evidence_stands_beside_its_control_with_intervals(out):
    pointing = json.loads((out / "attention.json").read_text(encoding="utf-8"))
    more = {
        "occlusion_pointing_interval": [0.925, 0.995],
        "relevance": {"agreeableness": {"inside": 0.8, "uniform": 0.3}},
    }
    write_json(out / "attention.json", pointing | more)
    page = report.write_report(out).read_text(encoding="utf-8")
    assert "event</td><td>97%<small>92% to 100%</small></td>" in page
    assert "shuffled motion</td><td>35%</td>" in page
    assert "<td>agreeableness (A)</td><td>80%</td><td>30%</td>" in page


def test_without_training_there_is_no_report(out):
    (out / "training" / "training.json").unlink()
    with pytest.raises(FileNotFoundError, match="Run 06_training first"):
        report.write_report(out)


def test_what_was_not_run_is_said(out):
    for name in ("attention.json", "analysis.json"):
        (out / name).unlink()
    page = report.write_report(out).read_text(encoding="utf-8")
    for name in ("01_data_analysis", "07_attention_visualization", "08_clip_classification", "09_score_a_clip"):
        assert f'<p class="absent">{name} was not run.</p>' in page
    assert json.loads((out / "summary.json").read_text(encoding="utf-8"))["attention"] is None


def test_the_results_of_an_older_version_have_a_report(out):
    path = out / "training" / "training.json"
    training = json.loads(path.read_text(encoding="utf-8"))
    for name in ("groups", "ceiling", "live"):
        del training[name]
    write_json(path, training)
    manifest = json.loads((out / "static" / "manifest.json").read_text(encoding="utf-8"))
    write_json(out / "static" / "manifest.json", {name: manifest[name] for name in ("identity", "failed", "counts")})
    page = report.write_report(out).read_text(encoding="utf-8")
    assert "Whether the model serves some worse than others is not known" in page


def test_every_section_is_in_the_contents_and_names_its_file(out):
    page = report.write_report(out).read_text(encoding="utf-8")
    contents = re.findall(r'<li><a href="#(\w+)">', page)
    assert contents == re.findall(r'<h2 id="(\w+)">', page)
    assert contents[:4] == ["found", "data", "speed", "models"]
    parts = dict(zip(contents, re.split(r"<h2 id=", page)[1:], strict=True))
    for section, file in {
        "found": "summary.json",
        "data": "analysis.json",
        "speed": "static/manifest.json",
        "models": "training/training.json",
        "attention": "attention.json",
        "failures": "static/manifest.json",
        "provenance": "static/manifest.json",
    }.items():
        assert f'<a href="{file}">' in parts[section]


def test_each_model_stands_beside_its_interval_over_the_constant(out):
    path = out / "training" / "training.json"
    training = json.loads(path.read_text(encoding="utf-8"))
    for found in training["comparisons"]:
        found["targets"] = {"O": {"difference": 0.1, "low": -0.025, "high": 0.225}}
    write_json(path, training)
    rows = report_tables.model_rows(training, report.MAIN)
    assert [row["name"] for row in rows] == ["constant", "ridge", "token_cross_attention"]
    assert rows[0]["over"] == {}
    assert rows[1]["over"] == {"O": {"low": -0.025, "high": 0.225}, "mean": {"low": 0.6, "high": 0.7}}
    page = report.write_report(out).read_text(encoding="utf-8")
    assert '<small class="apart">+0.60 to +0.70</small>' in page
    assert "<small>-0.03 to +0.23</small>" in page or "<small>-0.02 to +0.23</small>" in page


def test_ratings_stand_in_the_order_of_the_traits_with_the_raters_agreement(out):
    numbers = {"n": 36.0, "mean": 0.5, "sd": 0.125, "min": 0.0, "max": 1.0}
    agreement = {"kind": "ICC(2,k)", "single": 0.25, "mean": 0.75, "max_r2": 0.75, "max_pearson": None}
    targets = ("extraversion", "interview", "neuroticism", "openness")
    analysis = {"table": [["clips", 3]], "statistics": dict.fromkeys(targets, numbers)}
    write_json(out / "analysis.json", analysis | {"reliability": dict.fromkeys(targets, agreement)})
    page = report.write_report(out).read_text(encoding="utf-8")
    shown = re.findall(r"<td>([^<]*)</td><td>36</td><td>0.500</td><td>0.125</td>", page)
    assert shown == ["openness (O)", "extraversion (E)", "emotional stability (N)", "interview"]
    assert page.count('<td class="text">ICC(2,k)</td><td>0.25</td><td>0.75</td><td>0.75</td>') == 4


def test_what_each_model_is_can_be_read(out):
    path = out / "training" / "training.json"
    training = json.loads(path.read_text(encoding="utf-8"))
    assert "What the models are" not in report.write_report(out).read_text(encoding="utf-8")
    write_json(path, training | {"about": {"ridge": "regression on <means>"}})
    assert "<b>ridge</b>: regression on &lt;means&gt;" in report.write_report(out).read_text(encoding="utf-8")


def test_the_speed_is_what_manifest_and_log_say(out):
    log = {"images_per_second": 62.5, "network_share": 0.91, "gpu_acceleration": False}
    write_json(out / "static" / "extraction_log.json", log)
    write_json(out / "run.json", {"03_static_extraction": {"seconds": 11.6, "fingerprint": "f"}})
    (row,) = report_tables.stage_rows(out, report_tables.read_manifests(out))
    assert (row["clips"], row["clips_per_s"], row["rows"], row["rows_per_s"]) == (4, 0.5, 1234, 62.5)
    page = report.write_report(out).read_text(encoding="utf-8")
    assert "<td>0.50</td><td>1,234 faces</td><td>62.5</td><td>91%</td><td>processor</td>" in page
    assert "<td>03_static_extraction</td><td>12 s</td>" in page


def test_thousands_of_failures_make_no_huge_page(out):
    path = out / "static" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["failed"] = [{"clip": f"clip{n}", "reason": "no face"} for n in range(5000)]
    manifest["failed"] += [
        {"clip": f"c{n}", "reason": f"the face is lost at {n / 7:.1f} s", "row": n} for n in range(5000)
    ]
    write_json(path, manifest)
    page = report.write_report(out)
    assert page.stat().st_size < 60_000
    text = page.read_text(encoding="utf-8")
    assert "5,000 clips could not be used" in text
    assert "and 4,970 more, in the manifests" in text
    assert "<details><summary>5,000" in text
    assert '<td class="text">the face is lost at … s</td><td>5,000</td><td>5,000</td>' in text


def test_every_figure_is_on_the_page_with_its_caption(out):
    draw(out / "figures" / "07_something_new.png")
    draw(out / "figures" / "06_intervals.png")
    page = report.write_report(out).read_text(encoding="utf-8")
    sections = report.figures_of(out / "figures")
    assert [figure["name"] for figure in sections["models"]] == ["06_models.png", "06_intervals.png"]
    assert [figure["title"] for figure in sections["attention"]] == ["07 something new"]
    assert f'alt="{CAPTIONS["06_models"].title}: {CAPTIONS["06_models"].shows}"' in page
    assert 'width="40" height="30" alt="07 something new"' in page
    assert page.count("<figure>") == 3


def test_figures_of_one_name_and_of_one_family_all_have_their_caption(out):
    for name in ("04_evolution.png", "04_evolution.gif", "03_maps_stem.png", "03_maps_conv_2.png", "06_models_2.png"):
        draw(out / "figures" / name)
    sections = report.figures_of(out / "figures")
    assert [figure["name"] for figure in sections["features"]] == [
        "03_maps_conv_2.png",
        "03_maps_stem.png",
        "04_evolution.gif",
        "04_evolution.png",
    ]
    assert sections["features"][0]["title"] == "Feature maps of the static network: conv 2"
    assert [figure["title"] for figure in sections["models"]] == ["Test R² of every model", "Test R² of every model: 2"]


def test_every_section_of_a_caption_is_one_of_the_report(out):
    page = report.write_report(out).read_text(encoding="utf-8")
    for name in (*CAPTIONS, "00_new", "99_new", "new"):
        assert f'<h2 id="{caption_of(name).section}">' in page


def test_wide_pictures_are_scaled_down_and_damaged_ones_named(tmp_path):
    draw(tmp_path / "wide.png", 4000)
    picture = pages.embedded(tmp_path / "wide.png")
    assert (picture.width, picture.height) == (1600, 12)
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"bad\.png is not a picture"):
        pages.embedded(tmp_path / "bad.png")


def test_a_picture_that_is_too_large_is_named_instead(out, monkeypatch):
    monkeypatch.setattr(report, "MOST_BYTES", 100)
    page = report.write_report(out).read_text(encoding="utf-8")
    assert "06_models.png is too large to be shown here" in page
    assert "<img" not in page


def test_where_the_time_of_a_training_went_is_told(out):
    path = out / "training" / "training.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"seeds": [3, 4]})
    folder = out / "training" / "watched" / "token_cross_attention-3" / "training_time_analysis"
    found = {"total_s": 12.34, "epochs": 50, "epoch_s": 0.21, "step_ms": 8.0, "recommendations": ["Train on a GPU."]}
    write_json(folder / "training_time_analysis.json", found)
    page = report.write_report(out).read_text(encoding="utf-8")
    assert "took 12.3 s: 50 epochs of 0.21 s, 8.0 ms per step" in page
    assert "<li>Train on a GPU.</li>" in page


def test_the_classifiers_stand_beside_the_largest_class(out):
    row = {"accuracy": 0.75, "interval": [0.7, 0.8], "minus_majority": [0.3, 0.5], "accuracy_corrupted": 0.6}
    results = {
        "models": {"bilstm": row, "majority": row | {"accuracy": 0.25}},
        "classes": ["bow", "lean"],
        "split": {"test_clips": 120, "sources": 40, "test_clips_sharing_a_source_with_train": 0},
    }
    write_json(out / "classification" / "classification.json", results)
    page = report.write_report(out).read_text(encoding="utf-8")
    assert page.index("<td>majority</td>") < page.index("<td>bilstm</td>")
    assert "<small>0.700 to 0.800</small>" in page
    assert "<td>+0.300 to +0.500</td>" in page


def test_five_findings_at_most(out):
    training = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    nothing = {"value": 0.01, "low": -0.02, "high": 0.03}
    far = {"value": -0.1, "low": -0.15, "high": -0.05}
    errors = dict.fromkeys(("mae", "bias", "mae_over_others"), nothing) | {"bias_over_others": far}
    write_json(out / "training" / "training.json", training | {"groups": dict.fromkeys("abcdef", errors)})
    said = report.findings(report.write_summary(out))
    assert len(said) == 5
    assert said[-3] == "Its answer rests on the planted event in 97% of the test clips (control 35%, chance 34%)."
    assert said[-1].startswith("b: mean signed error")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_opens_in_a_browser(page, out, width):
    draw(out / "figures" / "01_leakage.png", 900)
    Image.new("RGB", (50, 20)).save(out / "figures" / "04_movie.gif")
    page.page.set_viewport_size({"width": width, "height": 800})
    page.page.goto(report.write_report(out).as_uri())
    assert page.page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    widths = page.page.evaluate("[...document.images].map(image => [image.naturalWidth, image.clientWidth])")
    assert sorted(natural for natural, _ in widths) == [40, 50, 900]
    assert all(0 < shown <= width for _, shown in widths)
    page.page.get_by_role("link", name="Provenance").click()
    assert page.page.evaluate("document.querySelector('#provenance').getBoundingClientRect().top < innerHeight")
    assert page.page.pdf().startswith(b"%PDF")
    assert page.errors == page.outside == []


def test_a_run_that_is_trained_on_its_own_clips_has_no_line_for_further_ones(out):
    training = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    write_json(out / "training" / "training.json", training | {"live": {}})
    assert "clips of this run</td>" not in report.write_report(out).read_text(encoding="utf-8")


def test_invented_ratings_are_stamped_on_the_report(out):
    training = json.loads((out / "training" / "training.json").read_text(encoding="utf-8"))
    assert "<b>invented</b>" not in report.write_report(out).read_text(encoding="utf-8")
    write_json(out / "training" / "training.json", training | {"synthetic_labels": True})
    assert "ratings of this run were <b>invented</b>" in report.write_report(out).read_text(encoding="utf-8")


def test_the_command_writes_a_report_again(out, capsys):
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")
    (out / "training" / "training.json").unlink()
    assert main(["report", str(out)]) == 1
    assert "Run 06_training first" in capsys.readouterr().err
