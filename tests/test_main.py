"""The command line: exit status and the one line that a user reads when something is wrong."""

import functools
import inspect
import os
import pickle
import re
import shutil
import tempfile
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
from trees import write_faces

from data_sample.make.sample import draw_clip, sample_plan, sample_ratings, write_mp4
from helpers import __main__, weights, workbook
from helpers.clips import TRAITS, load_clips
from helpers.files import FolderLock


@pytest.fixture
def data(tmp_path):
    """A data folder with eight copies of a short clip and their ratings, below a name with a space and an umlaut."""
    folder = tmp_path / "meine Dätén"
    write_mp4(draw_clip(3, 5).frames[:20], folder / "-a b.mp4")
    for k in range(7):
        shutil.copy(folder / "-a b.mp4", folder / f"c{k}.mp4")
    ratings = sample_ratings(sample_plan(8))[list(TRAITS)]
    ratings.set_axis(["-a b", *(f"c{k}" for k in range(7))]).to_csv(folder / "ratings.csv", index_label="clip")
    return folder


def run(capsys, *arguments):
    """Exit status and what was printed on stderr."""
    return __main__.main([str(a) for a in arguments]), capsys.readouterr().err


def try_run(capsys, data, out, *more):
    return run(capsys, "run", "--data", data, "--out", out, "--weights", "random", *more)


def rated(change):
    """Change the table of ratings of a data folder."""
    return lambda d: change(pd.read_csv(d / "ratings.csv")).to_csv(d / "ratings.csv", index=False)


def with_params(text):
    return lambda d: (d / "p.yaml").write_text(text)


class Evil:
    def __reduce__(self):
        return eval, ("open('executed', 'w')",)


def pickled(folder):
    (folder / "ratings.csv").unlink()
    (folder / "annotation_training.pkl").write_bytes(pickle.dumps({"openness": Evil()}))


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (shutil.rmtree, (), "meine Dätén"),
        (lambda d: (d / "ratings.json").write_text("{}"), (), "of one kind, got csv"),
        (rated(lambda t: t[["clip", "openness"]]), (), "'conscientiousness'"),
        (rated(lambda t: t.assign(extraversion=7)), (), "extraversion of -a b must be between 0 and 1, got 7"),
        (pickled, (), "builtins.eval"),
        (lambda d: (d / "ratings.csv").unlink(), (), "none of the 8 clips"),
        (rated(lambda t: t.assign(source="one")), (), "got 0 and 0 of 1 sources"),
        (rated(lambda t: t.assign(extraversion=0.5)), (), "extraversion must differ, got 0.5 for all of 8 clips"),
        (rated(lambda t: t.assign(openness=[0.1, 0.2] + [None] * 6)), (), "openness must be rated in every part"),
        (rated(lambda t: t.tail(6)), ("--limit", "2"), "none of the 2 clips"),
        (with_params("05: {reduction: pca}"), (), "seeds .0, 1, 2. of 06"),
        (with_params("06: {learning_rat: 0.1}"), (), "06_training: .*'learning_rat'"),
    ],
)
def test_what_cannot_be_done_stops_before_any_work_with_one_line(
    capsys, data, tmp_path, monkeypatch, change, more, message
):
    monkeypatch.chdir(tmp_path)
    change(data)
    params = ["--params", data / "p.yaml"] if (data / "p.yaml").exists() else []
    status, error = try_run(capsys, data, tmp_path / "out", *more, *params)
    assert (status, error.count("\n")) == (1, 1)
    assert re.search(message, error)
    assert not list(tmp_path.glob("out/*"))
    assert not (tmp_path / "executed").exists()


def test_what_06_cannot_train_on_is_a_warning_elsewhere_and_a_missing_input_is_named_by_its_maker(
    capsys, data, tmp_path
):
    rated(lambda t: t.assign(source="one"))(data)
    status, error = try_run(capsys, data, tmp_path / "out", "--only", "02")
    assert (status, error.startswith("WARNING: 06 could not train: ")) == (1, True)
    assert "clips.csv is missing. Run 01_data_analysis first" in error
    assert str(tmp_path / "out" / "notebooks" / "02_clip_preparation.ipynb") in error


def test_results_need_a_folder_of_their_own_that_can_be_written(capsys, data, tmp_path):
    (tmp_path / "file").write_text("")
    with FolderLock(tmp_path / "out"):
        for out, named in (
            (data / "." / ".." / data.name, "--out"),
            (tmp_path / "file" / "out", "--out"),
            (tmp_path / "out", f"process {os.getpid()}"),
        ):
            status, error = try_run(capsys, data, out)
            assert (status, error.count("\n"), named in error) == (1, 1, True)
    assert not (tmp_path / "out" / "run.json").exists()


def test_an_error_that_nobody_foresaw_is_one_line_with_its_traceback_in_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(workbook, "write_report", lambda _: {}["a\nkey"])
    status, error = run(capsys, "report", tmp_path)
    (written,) = tmp_path.glob("*.log")
    assert (status, error.count("\n"), "KeyError: 'a\\nkey'" in error, str(written) in error) == (1, 1, True, True)
    assert "Traceback" in written.read_text()


def test_missing_pretrained_weights_are_all_named_before_any_work(capsys, data, tmp_path, monkeypatch):
    monkeypatch.setenv("OCEAN_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(weights, "urlopen", Mock(side_effect=OSError("no network")))
    with_params("03: {backbone: vgg19}\n02: {detector: haar}")(data)
    status, error = run(capsys, "run", "--data", data, "--out", tmp_path / "out", "--params", data / "p.yaml")
    for named in ("vgg19_weights_tf_dim", "model.ckpt.index", "model.ckpt.data-00000", str(tmp_path), "https://"):
        assert named in error
    assert (status, "resnet50" in error, (tmp_path / "out" / "notebooks").exists()) == (1, False, False)


def test_scoring_without_a_model_says_where_one_is(capsys, data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)  # a name that begins with a dash is no option
    for named in ("Run 06_training first", "is a run, not a model"):
        status, error = run(capsys, "score", "-a b.mp4", "--model", tmp_path)
        assert (status, named in error) == (1, True)
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "card.json").write_text("{}")


@pytest.mark.parametrize(
    "given", ["", "run", "run --data a --out b --limit many", "weights buy", "run --data a --bogus"]
)
def test_wrong_usage_is_exit_status_two(given):
    with pytest.raises(SystemExit) as stopped:
        __main__.main(given.split())
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("name", "text", "taken"),
    [
        ("run", "--data a --out b --params c.yaml --only 03,04 --from 03 --limit 2 --weights random", {"start": "03"}),
        ("score", "v.mp4 w --model m --json a --csv b", {"more": (Path("w"),)}),
        ("train", "--static_features s --dynamic_features d --labels l --ids i --output o --epochs 1 --batch_size 2",
         {"batch_size": 2}),
        ("predict", "--model m --face_dir f --flow_dir g --faces_fps 30 --flow_fps 6 --output o", {"flow_fps": 6}),
        ("compare", "--data d --out o --models all --params p", {}),
        ("check", "DIR --csv f --limit 3 --thorough --no-forecast", {"no_forecast": True}),
        ("features", "--from s --stream static --data d --out o --fps 3", {"fps": 3}),
        ("large", "--run r --hdf5", {}),
        ("weights", "fetch a b --folder f", {"names": ("a", "b")}),
        ("report", "DIR", {}),
    ],
)  # fmt: skip
def test_a_command_of_the_readme_is_spelled_as_there(monkeypatch, name, text, taken):
    """Every option is taken as README and docs write it, with underscores or hyphens."""
    spec, calls = __main__.app._subcommands[name], []
    command = spec.target

    @functools.wraps(command)
    def spy(*args, **kwargs):
        calls.append(inspect.signature(command).bind(*args, **kwargs).arguments)
        return 0

    monkeypatch.setattr(spec, "target", spy)
    assert __main__.main([name, *text.split()]) == 0
    assert taken.items() <= calls[0].items()


def test_without_videos_the_clips_are_those_of_a_tree(capsys, tmp_path):
    for key in ("training80_01/a.002", "training80_01/a.010"):
        write_faces(tmp_path / "faces" / key, range(2))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ratings.csv").write_text(f"clip,{','.join(TRAITS)}\na.010,.1,.2,.3,.4,.5\n")
    (tmp_path / "p.yaml").write_text(f"03: {{faces_dir: {tmp_path / 'faces'}}}")
    status, _ = try_run(capsys, tmp_path / "data", tmp_path / "out", "--params", tmp_path / "p.yaml", "--only", "01,02")
    assert status == 0
    clips = load_clips(tmp_path / "out" / "clips.csv")
    assert clips["path"].tolist() == ["training80_01/a.002", "training80_01/a.010"]
    assert clips["split"].tolist() == ["train", "train"]
    assert clips["openness"].notna().tolist() == [False, True]


def test_scores_by_notebook_need_a_folder_of_their_own(capsys, tmp_path):
    for name, said in (("file", "cannot be written"), ("run.json", "is a run's")):
        (tmp_path / name).write_text("{}")
        out = tmp_path / "file" if name == "file" else tmp_path
        status, error = run(capsys, "score", tmp_path / "a.mp4", "--model", tmp_path, "--out", out)
        assert (status, error.count("\n"), said in error) == (1, 1, True)


@pytest.mark.parametrize("given", [("check", "--csv"), ("score", "--json"), ("score", "--csv", "--out")])
def test_files_that_cannot_be_written_are_refused_before_any_work(capsys, tmp_path, given):
    command, *options = given
    more = [word for option in options for word in (option, tmp_path)] + ["--model", tmp_path] * (command == "score")
    status, error = run(capsys, command, tmp_path, *more)
    assert (status, options[-1] in error) == (1, True)
