"""The runner: what is refused before work starts, resume, failures. It runs small notebooks made here."""

import errno
import json
import shutil
from contextlib import nullcontext

import nbformat
import numpy as np
import pandas as pd
import pytest
from layout import make_clips
from trees import some_flow, write_faces
from trees import write_pairs as write_flow

from helpers import check, config, workbook
from helpers.clips import TRAITS, find_clips, scan_clips
from helpers.files import ROOT, DiskFullError, read_json, write_json
from helpers.store import Stage, write_arrays


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
    ("code", "message"),
    [
        ("raise ValueError('no\\nrows')", r"05_alignment failed in cell 4: ValueError: no rows\n.*05_alignment\.ipynb"),
        ("raise type('DiskFullError', (OSError,), {})('the disk is full')", "^05_alignment: the disk is full$"),
        ("import os; os._exit(9)", "kernel died"),
    ],
)
def test_a_failed_notebook_is_named_with_its_error_and_runs_again(book, code, message):
    path = book / "notebooks" / "05_alignment.ipynb"
    good, bad = path.read_text(), nbformat.read(path, as_version=4)
    bad.cells[2].source = code
    nbformat.write(bad, path)
    with pytest.raises(workbook.WorkbookError, match=message):
        execute(book)
    path.write_text(good)
    assert execute(book) == ["05_alignment"]


@pytest.mark.parametrize(
    ("error", "raised"), [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "full"), DiskFullError)]
)
def test_a_notebook_that_was_stopped_when_it_was_done_again_is_not_done(book, monkeypatch, error, raised):
    assert len(execute(book)) == 2
    (book / "out" / "05_alignment.txt").unlink()

    def stopped(source, *_, **__):
        (book / "out" / "05_alignment.txt").write_text("half")
        raise error

    with monkeypatch.context() as patch, pytest.raises(raised):
        patch.setattr("papermill.execute_notebook", stopped)
        execute(book)
    assert execute(book) == ["05_alignment"]


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
    ("text", "message"),
    [
        (b"'02': {fps: fast}", "02_clip_preparation: fps .*'fast'"),
        (b"12: {fps: 25}", "'12'.*01_data_analysis"),
        (b"- fps", "one section"),
        ("02: {backend: ä}".encode("latin-1"), r"p\.yaml must be YAML in UTF-8"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(tmp_path, text, message):
    (tmp_path / "p.yaml").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        workbook.plan(tmp_path, tmp_path, weights="random", params=tmp_path / "p.yaml")


def test_parameters_are_defaults_then_the_file_then_the_command_line(tmp_path):
    planned = workbook.plan(tmp_path, tmp_path)
    assert planned["03_static_extraction"]["weights"] == planned["04_dynamic_extraction"]["weights"] == "pretrained"
    random = workbook.plan(tmp_path, tmp_path, weights="random")["04_dynamic_extraction"]
    assert random == {"weights": "random", "data_dir": str(tmp_path), "out_dir": str(tmp_path)}
    (tmp_path / "p.yaml").write_text("02: {fps: 30}\n03: {weights: random}\n01: {limit: 7}")
    planned = workbook.plan(tmp_path, tmp_path, params=tmp_path / "p.yaml", limit=3)
    of = {"02_clip_preparation": "fps", "03_static_extraction": "weights", "01_data_analysis": "limit"}
    assert [planned[name][value] for name, value in of.items()] == [30, "random", 3]


@pytest.mark.parametrize(
    ("static", "dynamic", "expected"),
    [
        ("random", "random", [15, 8, 112]),
        ("random", "pretrained", [25, 8, 224]),
        ("pretrained", "random", [25, 5, 112]),
    ],
)
def test_what_pretrained_weights_need_is_set_where_a_section_has_them(tmp_path, static, dynamic, expected):
    (tmp_path / "p.yaml").write_text(f"03: {{weights: {static}}}\n04: {{weights: {dynamic}}}")
    planned = workbook.plan(tmp_path, tmp_path, params=tmp_path / "p.yaml")
    configs = [config.NOTEBOOKS[name].checked(values) for name, values in planned.items()]
    assert [configs[2].fps, configs[3].every_n_frames, configs[4].input_px] == expected


def test_clips_are_classified_where_there_is_a_folder_of_classes_and_shipped_parameters_are_legal(tmp_path):
    def classes(**options):
        found = workbook.plan(tmp_path, tmp_path, weights="random", **options)
        return found.get("08_clip_classification", {}).get("data_dir")

    (tmp_path / "params.yaml").write_text("08: {data_dir: elsewhere}")
    assert (classes(), classes(params=tmp_path / "params.yaml")) == (None, "elsewhere")
    (tmp_path / "motion").mkdir()
    assert classes() == str(tmp_path / "motion")
    for path in (ROOT / "params").glob("*.yaml"):
        assert list(workbook.plan(tmp_path, tmp_path, params=path)) == list(config.NOTEBOOKS)


@pytest.mark.parametrize(
    ("only", "start", "chosen"),
    [
        ("03,", None, ["03"]),
        ("3, 04_dynamic_extraction", None, ["03", "04"]),
        (None, "06", ["06", "07", "08", "09", "10"]),
        ("05", "07", "no notebook"),
        ("12", None, "'12'"),
    ],
)
def test_only_and_from_choose_notebooks(only, start, chosen):
    with pytest.raises(ValueError, match=chosen) if isinstance(chosen, str) else nullcontext():
        assert [name[:2] for name in workbook.select(only, start)] == chosen


@pytest.fixture
def trees(tmp_path):
    """Stored faces and flow of two clips, a data folder with one's ratings only, and the tasks that read them."""
    for key in ("training80_01/a.001", "training80_01/b.001"):
        write_faces(tmp_path / "faces" / key, range(3))
        write_flow(tmp_path / "flow" / key, some_flow(5, 8, 8))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ratings.csv").write_text(f"clip,{','.join(TRAITS)}\nb.001,.1,.2,.3,.4,.5\n")
    sections = f"03: {{faces_dir: {tmp_path / 'faces'}}}\n04: {{flow_dir: {tmp_path / 'flow'}}}"
    (tmp_path / "p.yaml").write_text(sections)
    return workbook.plan(tmp_path / "data", tmp_path / "out", weights="random", params=tmp_path / "p.yaml")


def test_trees_take_the_place_of_videos_and_those_that_are_missing_are_refused(trees, tmp_path):
    data, out, static = tmp_path / "data", tmp_path / "out", ["03_static_extraction"]
    trees["04_dynamic_extraction"].pop("flow_dir")
    with pytest.raises(ValueError, match="04_dynamic_extraction: flow_dir"):
        workbook.check_inputs(trees, workbook.select(), data, out)
    assert workbook.check_inputs(trees, ["01_data_analysis", *static], data, out)[2] == static
    (data / "b.001.mp4").touch()
    clips, _, chosen = workbook.check_inputs(trees, ["01_data_analysis", *static], data, out)
    assert (clips.index.tolist(), len(chosen)) == (["b.001"], 2)
    (data / "b.001.mp4").unlink()
    trees["03_static_extraction"]["faces_dir"] = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        workbook.check_inputs(trees, static, data, out)


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


@pytest.fixture
def rated(tmp_path):
    """A folder of nine files that are named as clips, with ratings of eight of them and of another one."""
    folder = make_clips(tmp_path / "data {x}", *(f"c{k}.mp4" for k in range(9)))
    ratings = pd.DataFrame({trait: [k / 10 for k in range(9)] for trait in TRAITS})
    ratings.set_axis([*(f"c{k}" for k in range(8)), "who"]).to_csv(folder / "ratings.csv", index_label="clip")
    return folder


def test_check_tells_what_ratings_were_matched_to_and_what_06_needs(rated):
    def said(limit=0):
        tasks = workbook.plan(rated, rated / "out", weights="random")
        return check.ratings_text(tasks, rated, find_clips(rated), limit).splitlines()

    assert said()[0] == "8 of 9 clips are rated"
    assert ("who" in "".join(said()), "WARNING" in "".join(said())) == (True, False)
    assert said(3)[-1].startswith("WARNING: 06 could not train: validation and test must leave a source")
    (rated / "truth.csv").write_text("key,clip_seed\n")  # synthetic clips: the token bank stands in
    assert "WARNING" not in "".join(said(3))
    (rated / "ratings.csv").write_text("")
    assert said()[0].startswith("ratings cannot be used: ")
    (rated / "ratings.csv").unlink()
    assert said()[0] == "0 of 9 clips are rated"


def test_the_end_of_a_run_tells_what_was_seen_used_and_left_out_and_lists_it(rated, tmp_path):
    (rated / "photo.jpg").touch()
    lost = {"clip": "c1", "reason": "no face found in 6 looks"}
    failed = [{"clip": "c2", "reason": "too short (0.1 s)"}, {"clip": "c3", "row": 2, "reason": "empty"}, lost]
    for stage, of_stage in (("faces", [lost]), ("static", failed)):
        write_json(tmp_path / "out" / stage / "manifest.json", {"failed": of_stage})
    said = workbook.account(*scan_clips(rated), tmp_path / "out")
    assert said.startswith("seen 11 files: 9 clips, 1 of ratings, 1 left out (1 .jpg)")
    assert "7 used, 2 cannot be (1 no face found in … looks, 1 too short)" in said
    assert (said.count("\n"), said.endswith(str(tmp_path / "out" / "left_out.csv"))) == (0, True)
    listed = pd.read_csv(tmp_path / "out" / "left_out.csv", keep_default_na=False).to_numpy().tolist()
    assert ["c1.mp4", "clip", "no face found in 6 looks"] in listed
    assert ["photo.jpg", ".jpg", ""] in listed
