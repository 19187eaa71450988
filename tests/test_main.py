"""The command line: exit status and the one line that a user reads when something is wrong."""

import pickle
import re
import tempfile
from unittest.mock import Mock

import pandas as pd
import pytest
from layout import make_clips
from trees import some_flow, write_faces
from trees import write_pairs as write_flow

from helpers import __main__, check, weights, workbook
from helpers.clips import TRAITS, find_clips, load_clips, scan_clips
from helpers.files import FolderLock, write_json

RUN = "run --data {data} --out {out} --weights random"
PARAMS = f"{RUN} --params p.yaml"
NAMES = ["-a b", *(f"c{k}" for k in range(8))]


@pytest.fixture
def data(tmp_path):
    """A folder of nine files that are named as clips, with ratings of eight of them and of another one."""
    folder = make_clips(tmp_path / "meine {Dätén}", *(f"{name}.mp4" for name in NAMES))
    ratings = pd.DataFrame({trait: [k / 10 for k in range(9)] for trait in TRAITS})
    ratings.set_axis([*NAMES[:8], "who"]).to_csv(folder / "ratings.csv", index_label="clip")
    return folder


@pytest.fixture
def run(data, capsys, tmp_path, monkeypatch):
    """Runs a command in the data folder, without a network; returns its exit status and what is on stderr."""
    monkeypatch.chdir(data)
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(weights, "urlopen", Mock(side_effect=OSError("no network")))
    places = {"data": data, "out": tmp_path / "out", "dashed": "-a b.mp4"}

    def run(command):
        words = [word.format(**places) for word in command.split()]
        return __main__.main(words), capsys.readouterr().err

    return run


def rated(change):
    """Change the table of ratings of a data folder."""
    return lambda d: change(pd.read_csv(d / "ratings.csv")).to_csv(d / "ratings.csv", index=False)


def with_file(name, content):
    return lambda d: write_json(d / name, content)


class Evil:
    def __reduce__(self):
        return eval, ("open('executed', 'w')",)


def pickled(folder):
    (folder / "ratings.csv").unlink()
    (folder / "annotation_training.pkl").write_bytes(pickle.dumps({"openness": Evil()}))


@pytest.mark.parametrize(
    ("command", "change", "message"),
    [
        ("run --data {data}x --out {out}", None, r"meine \{Dätén\}x"),
        (RUN, with_file("ratings.json", {}), "of one kind, got csv"),
        (RUN, rated(lambda t: t[["clip", "openness"]]), "'conscientiousness'"),
        (RUN, rated(lambda t: t.assign(extraversion=7)), "extraversion of -a b must be between 0 and 1, got 7"),
        (RUN, pickled, "builtins.eval"),
        (RUN, lambda d: (d / "ratings.csv").unlink(), "none of the 9 clips"),
        (RUN, rated(lambda t: t.assign(source="one")), "got 0 and 0 of 1 sources"),
        (RUN, rated(lambda t: t.assign(extraversion=0.5)), "extraversion must differ, got 0.5 for all of 8 clips"),
        (RUN, rated(lambda t: t.assign(openness=[0.1, 0.2] + [None] * 7)), "openness must be rated in every part"),
        (f"{RUN} --limit 2", rated(lambda t: t.tail(6)), "none of the 2 clips"),
        (PARAMS, with_file("p.yaml", {"05": {"reduction": "pca"}}), "seeds .0, 1, 2. of 06"),
        (PARAMS, with_file("p.yaml", {"06": {"learning_rat": 1}}), "06_training: .*'learning_rat'"),
        (PARAMS, with_file("p.yaml", {"02": {"fps": "fast"}}), "02_clip_preparation: fps .*'fast'"),
        (PARAMS, with_file("p.yaml", {"12": {"fps": 25}}), "'12'.*01_data_analysis"),
        (PARAMS, with_file("p.yaml", ["fps"]), "one section"),
        (PARAMS, lambda d: (d / "p.yaml").write_bytes(b"02: {backend: \xe4}"), r"p\.yaml must be YAML in UTF-8"),
        (f"{RUN} --only 12", None, "'12'"),
        ("run --data {data} --out ../{data.name}", None, "--out"),
        ("run --data {data} --out ratings.csv/out", None, "--out"),
        (RUN, lambda d: FolderLock(d.parent / "out"), r"process \d+"),
        ("score {dashed} --model {out}", None, "Run 06_training first"),  # the dash begins no option
        ("score {dashed} --model {data}", with_file("model/card.json", {}), "is a run, not a model"),
        ("score {data} --model {data} --json {data}", None, "--json"),
        ("score {data} --model {data} --csv {data} --out {data}", None, "--out"),
        ("check {data} --csv {data}", None, "--csv"),
        ("classify predict {data} --model {data} --json {data}", None, "--json"),
        # Every option is taken as README and docs write it, with underscores or hyphens.
        (f"{PARAMS} --only 03,04 --from 05 --limit 2", with_file("p.yaml", {}), "'03,04' and .* 05"),
        ("score v.mp4 w --model {out} --json a --csv b", None, "Run 06_training first"),
        ("train --static_features s --dynamic_features d --labels l --ids i --output o.keras --epochs 1 --batch_size 0",
         None, "batch_size .* got 0"),
        ("predict --model m --face_dir f --flow_dir g --faces_fps 30 --flow_fps 6 --output o", None, "got o. Name"),
        ("compare --data d --out o --models all --params p", None, "'p'"),
        ("check DIR --csv f --limit 3 --thorough --no-forecast", None, "DIR"),
        ("features --from s --stream static --data {data} --out o --fps 3", None, "s does not exist"),
        ("large --run r --hdf5", None, "r holds no features"),
        ("weights fetch a b --folder f", None, "got a, b"),
        ("report DIR", None, "DIR holds nothing of a run"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_stops_before_any_work_with_one_line(run, data, tmp_path, command, change, message):
    kept = change and change(data)
    status, error = run(command)
    assert (status, error.count("\n")) == (1, 1)
    assert re.search(message, error)
    assert len(list(tmp_path.glob("out/*"))) == isinstance(kept, FolderLock)
    assert not (data / "executed").exists()


def test_what_06_cannot_train_on_is_a_warning_elsewhere_and_a_missing_input_is_named_by_its_maker(run, data, tmp_path):
    rated(lambda t: t.assign(source="one"))(data)
    status, error = run(f"{RUN} --only 02")
    assert (status, error.startswith("WARNING: 06 could not train: ")) == (1, True)
    assert "clips.csv is missing. Run 01_data_analysis first" in error
    assert str(tmp_path / "out" / "notebooks" / "02_clip_preparation.ipynb") in error


def test_missing_pretrained_weights_are_all_named_before_any_work(run, data, tmp_path):
    with_file("p.yaml", {"02": {"detector": "haar"}, "03": {"backbone": "vgg19"}})(data)
    status, error = run("run --data {data} --out {out} --params p.yaml")
    for named in ("vgg19_weights_tf_dim", "model.ckpt.index", "model.ckpt.data-00000", str(tmp_path), "https://"):
        assert named in error
    assert (status, "resnet50" in error, (tmp_path / "out" / "notebooks").exists()) == (1, False, False)


def test_an_error_that_nobody_foresaw_is_one_line_with_its_traceback_in_a_file(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(workbook, "write_report", lambda _: {}["a\nkey"])
    status, error = run("report {out}")
    (written,) = tmp_path.glob("*.log")
    assert (status, error.count("\n"), "KeyError: 'a\\nkey'" in error, str(written) in error) == (1, 1, True, True)
    assert "Traceback" in written.read_text()


def test_trees_take_the_place_of_videos_and_those_that_are_missing_are_refused(run, data, tmp_path):
    keys, trees = ["training80_01/a.002", "training80_01/a.010"], f"{PARAMS} --only"
    for key in keys:
        write_faces(tmp_path / "faces" / key, range(2))
        write_flow(tmp_path / "flow" / key, some_flow(5, 8, 8))
    for name in NAMES:
        (data / f"{name}.mp4").unlink()
    (data / "ratings.csv").write_text(f"clip,{','.join(TRAITS)}\na.010,.1,.2,.3,.4,.5\n")
    faces, flow = ({f"{name}_dir": str(tmp_path / name)} for name in ("faces", "flow"))
    with_file("p.yaml", {"03": faces, "04": flow})(data)
    assert run(f"{trees} 01,02")[0] == 0
    clips = load_clips(tmp_path / "out" / "clips.csv")
    assert clips["path"].tolist() == keys
    assert clips["split"].tolist() == ["train", "train"]
    assert clips["openness"].notna().tolist() == [False, True]
    for sections, only, named in (
        ({"03": faces}, "03,04", "04_dynamic_extraction: flow_dir"),
        ({"03": {"faces_dir": "/nowhere"}, "04": flow}, "03", "nowhere"),
    ):
        with_file("p.yaml", sections)(data)
        status, error = run(f"{trees} {only}")
        assert (status, named in error) == (1, True)
    (data / "a.010.mp4").touch()
    tasks = workbook.plan(data, tmp_path, weights="random") | {"03_static_extraction": faces}
    clips, _, chosen = workbook.check_inputs(tasks, ["01_data_analysis", "03_static_extraction"], data, tmp_path)
    assert (clips.index.tolist(), len(chosen)) == (["a.010"], 2)


def test_check_tells_what_ratings_were_matched_to_and_what_06_needs(data):
    def said(limit=0):
        tasks = workbook.plan(data, data / "out", weights="random")
        return check.ratings_text(tasks, data, find_clips(data), limit).splitlines()

    assert said()[0] == "8 of 9 clips are rated"
    assert ("who" in "".join(said()), "WARNING" in "".join(said())) == (True, False)
    assert said(3)[-1].startswith("WARNING: 06 could not train: validation and test must leave a source")
    (data / "truth.csv").write_text("key,clip_seed\n")  # synthetic clips: the token bank stands in
    assert "WARNING" not in "".join(said(3))
    (data / "ratings.csv").write_text("")
    assert said()[0].startswith("ratings cannot be used: ")
    (data / "ratings.csv").unlink()
    assert said()[0] == "0 of 9 clips are rated"


def test_the_end_of_a_run_tells_what_was_seen_used_and_left_out_and_lists_it(data, tmp_path):
    (data / "photo.jpg").touch()
    lost = {"clip": "c1", "reason": "no face found in 6 looks"}
    failed = [{"clip": "c2", "reason": "too short (0.1 s)"}, {"clip": "c3", "row": 2, "reason": "empty"}, lost]
    for stage, of_stage in (("faces", [lost]), ("static", failed)):
        write_json(tmp_path / "out" / stage / "manifest.json", {"failed": of_stage})
    said = workbook.account(*scan_clips(data), tmp_path / "out")
    assert said.startswith("seen 11 files: 9 clips, 1 of ratings, 1 left out (1 .jpg)")
    assert "7 used, 2 cannot be (1 no face found in … looks, 1 too short)" in said
    assert (said.count("\n"), said.endswith(str(tmp_path / "out" / "left_out.csv"))) == (0, True)
    listed = pd.read_csv(tmp_path / "out" / "left_out.csv", keep_default_na=False).to_numpy().tolist()
    assert ["c1.mp4", "clip", "no face found in 6 looks"] in listed
    assert ["photo.jpg", ".jpg", ""] in listed


@pytest.mark.parametrize(
    "given", ["", "run", "run --data a --out b --limit many", "weights buy", "run --data a --bogus"]
)
def test_wrong_usage_is_exit_status_two(given):
    with pytest.raises(SystemExit) as stopped:
        __main__.main(given.split())
    assert stopped.value.code == 2
