"""The runner: what is refused before work starts, resume, failures. It runs small notebooks made here."""

import errno
import json
import shutil

import nbformat
import numpy as np
import pytest
from layout import make_clips
from trees import write_faces

from helpers import config, workbook
from helpers.files import ROOT, DiskFullError, read_json
from helpers.store import Stage, write_arrays
from helpers.workbook import WorkbookError


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Two notebooks under the names of real ones, each of which writes one file and counts its executions."""
    for name in ("01_data_analysis", "05_alignment"):
        count = f"open(r'{tmp_path}/executed.txt', 'a').write('{name} ')"
        write = f"open(out_dir + '/{name}.txt', 'w').write(str(globals().get('seed', 0)))"
        cells = [nbformat.v4.new_code_cell("out_dir = ''", metadata={"tags": ["parameters"]})]
        cells += [nbformat.v4.new_code_cell(source) for source in (count, write)]
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / f"notebooks/{name}.ipynb")
    monkeypatch.setattr(workbook, "ROOT", tmp_path)
    monkeypatch.setattr(workbook, "WRITES", {n: (f"{n}.txt",) for n in workbook.WRITES})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.mp4").write_bytes(b"1")
    (tmp_path / "out").mkdir()
    return tmp_path


def tasks(book, **seed):
    out = {"out_dir": str(book / "out")}
    return {"01_data_analysis": out, "05_alignment": out | seed}


def execute(book, *, seed=0, chosen=tuple(workbook.WRITES)):
    """Run both notebooks; return which were executed."""
    (book / "executed.txt").write_text("")
    workbook.run(tasks(book, seed=seed), book / "data", book / "out", chosen)
    return (book / "executed.txt").read_text().split()


def test_a_second_run_does_nothing_and_a_change_repeats_only_what_depends_on_it(book):
    assert execute(book, chosen=["01_data_analysis"]) == ["01_data_analysis"]
    assert execute(book) == ["05_alignment"]
    assert execute(book) == []
    assert execute(book, seed=1) == ["05_alignment"]
    assert (book / "out" / "05_alignment.txt").read_text() == "1"
    (book / "out" / "01_data_analysis.txt").unlink()
    assert execute(book, seed=1) == ["01_data_analysis"]
    (book / "data" / "b.mp4").write_bytes(b"2")
    assert execute(book, seed=1) == ["01_data_analysis", "05_alignment"]


def test_braces_in_a_path_are_no_parameters(book):
    out = book / "plain" / "{limit} {} {0.x} {{out_dir}} % # ü\n'"
    out.mkdir(parents=True)
    workbook.run({"05_alignment": {"out_dir": str(out), "seed": "{seed}"}}, book / "data", out)
    assert (out / "05_alignment.txt").read_text() == "{seed}"
    assert (out / "notebooks" / "05_alignment.ipynb").exists()


@pytest.mark.parametrize(
    ("stopped_by", "raised", "message"),
    [
        ("raise ValueError('no\\nrows')", WorkbookError, r"in cell 4: ValueError: no rows\n.*05_alignment\.ipynb"),
        ("raise type('DiskFullError', (OSError,), {})('the disk is full')", WorkbookError, "^05_.*: the disk is full$"),
        ("import os; os._exit(9)", WorkbookError, "05_alignment .* kernel died"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
        (OSError(errno.ENOSPC, "full"), DiskFullError, "full"),
    ],
)
def test_a_notebook_that_fails_or_is_stopped_when_it_was_done_again_is_not_done(
    book, monkeypatch, stopped_by, raised, message
):
    def stop(*_, **__):
        (book / "out" / "05_alignment.txt").write_text("half")
        raise stopped_by

    only = {"chosen": ["05_alignment"]}
    assert execute(book, **only) == ["05_alignment"]
    path = book / "notebooks" / "05_alignment.ipynb"
    good, bad = path.read_text(), nbformat.read(path, as_version=4)
    with monkeypatch.context() as patch, pytest.raises(raised, match=message):
        if isinstance(stopped_by, str):
            bad.cells[2].source = stopped_by
            nbformat.write(bad, path)
        else:
            (book / "out" / "05_alignment.txt").unlink()
            patch.setattr("papermill.execute_notebook", stop)
        execute(book, **only)
    path.write_text(good)
    assert execute(book, **only) == ["05_alignment"]


def test_clips_behind_a_link_and_pictures_of_a_tree_count(book, tmp_path):
    clip = make_clips(tmp_path / "elsewhere", "c.mp4") / "c.mp4"
    (book / "data" / "linked").symlink_to(clip.parent)
    (clip.parent / "back").symlink_to(book / "data")
    write_faces(tmp_path / "faces" / "a", range(3))
    shutil.copy(book / "notebooks" / "05_alignment.ipynb", book / "notebooks" / "03_static_extraction.ipynb")

    def n_executed():
        of_tree = {"03_static_extraction": {"faces_dir": str(tmp_path / "faces")}}
        return workbook.run(of_tree | tasks(book), book / "data", book / "out", list(tasks(book)))

    assert (n_executed(), n_executed()) == (2, 0)
    clip.write_bytes(b"22")
    assert (n_executed(), n_executed()) == (2, 0)
    (tmp_path / "faces" / "a" / "face_000001.jpg").unlink()
    assert n_executed() == 2


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("", {}, {"03.weights": "pretrained", "04.weights": "pretrained"}),
        ("", {"weights": "random"}, {"03.weights": "random", "04.weights": "random", "02.fps": 15, "04.input_px": 112}),
        ("02: {fps: 30}\n03: {weights: random}\n01: {limit: 7}", {"limit": 3},
         {"02.fps": 30, "03.weights": "random", "01.limit": 3}),
        ("03: {weights: random}\n04: {weights: random}", {},
         {"02.fps": 15, "03.every_n_frames": 8, "04.input_px": 112}),
        ("03: {weights: random}\n04: {weights: pretrained}", {},
         {"02.fps": 25, "03.every_n_frames": 8, "04.input_px": 224}),
        ("03: {weights: pretrained}\n04: {weights: random}", {},
         {"02.fps": 25, "03.every_n_frames": 5, "04.input_px": 112}),
        ("08: {data_dir: elsewhere}", {}, {"08.data_dir": "elsewhere"}),
    ],
)  # fmt: skip
def test_parameters_are_defaults_or_what_weights_need_then_the_file_then_the_command_line(
    tmp_path, text, options, expected
):
    (tmp_path / "p.yaml").write_text(text)
    planned = workbook.plan(tmp_path, tmp_path, params=tmp_path / "p.yaml", **options)
    found = {name[:2]: config.NOTEBOOKS[name].checked(values) for name, values in planned.items()}
    assert {place: getattr(found[place[:2]], place[3:]) for place in expected} == expected
    assert (found["04"].data, found["04"].out, "08" in found) == (tmp_path, tmp_path, "08.data_dir" in expected)


def test_shipped_parameters_are_legal_and_clips_are_classified_where_there_is_a_folder_of_classes(tmp_path):
    (tmp_path / "motion").mkdir()
    for path in (None, *(ROOT / "params").glob("*.yaml")):
        planned = workbook.plan(tmp_path, tmp_path, params=path)
        assert list(planned) == list(config.NOTEBOOKS)
    assert workbook.plan(tmp_path, tmp_path)["08_clip_classification"]["data_dir"] == str(tmp_path / "motion")
    assert [name[:2] for name in workbook.select("3, 04_dynamic_extraction,")] == ["03", "04"]
    assert [name[:2] for name in workbook.select(start="06")] == ["06", "07", "08", "09", "10"]


def test_committed_notebooks_are_fresh_normalised_and_small():
    recorded = read_json(ROOT / "notebooks" / "executed.json")
    assert recorded["helpers"] == workbook.helpers_hash(), "helpers changed: run `make notebooks`"
    assert {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")} == set(config.NOTEBOOKS)
    all_tags, n_code = [], 0
    for name in config.NOTEBOOKS:
        path = ROOT / "notebooks" / f"{name}.ipynb"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        tags = [tag for cell in code for tag in cell["metadata"].get("tags", [])]
        assert recorded["notebooks"][name] == workbook.cells_hash(path), f"{name} changed: run `make notebooks`"
        assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), name
        assert (tags.count("parameters"), notebook["metadata"]["kernelspec"]["name"]) == (1, "python3"), name
        assert not {"widgets", "papermill"} & notebook["metadata"].keys(), name
        assert not [o for cell in code for o in cell["outputs"] if o["output_type"] == "error"], name
        assert path.stat().st_size < 1_000_000, name
        all_tags, n_code = all_tags + tags, n_code + len(code)
    assert all_tags.count("nbval-ignore-output") <= 0.05 * n_code


def test_a_stage_is_whole_when_it_is_finished_and_no_file_is_lost_or_cut(tmp_path):
    def is_whole():
        return workbook.is_whole(tmp_path, "03_static_extraction")

    stage = Stage(tmp_path / "static", "static", {})
    for key in ("a", "below/b"):
        write_arrays(stage.path(key), features=np.eye(3))
    assert not is_whole()
    stage.finish(made=1, found=1)
    assert is_whole()
    whole = stage.path("a").read_bytes()
    for damage in (lambda: stage.path("a").unlink(), lambda: stage.path("a").write_bytes(whole[:-9])):
        damage()
        assert not is_whole()
        stage.path("a").write_bytes(whole)
    assert is_whole()
    (stage.folder / "manifest.json").write_text("{")
    assert not is_whole()
