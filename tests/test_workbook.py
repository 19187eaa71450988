"""The runner: what is refused before work starts, resume, failures. It runs small notebooks made here."""

import errno
import json
import shutil

import nbformat
import numpy as np
import pytest
from trees import some_flow, write_faces
from trees import write_pairs as write_flow

from helpers import config, inputs, workbook
from helpers.clips import TRAITS
from helpers.files import ROOT, DiskFullError, read_json, write_json
from helpers.store import FeatureFile, Stage

ROWS = FeatureFile(np.eye(3, dtype=np.float32), np.arange(3.0), np.arange(3.0) + 1, np.arange(3), np.full(3, True))


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
    return [workbook.Task("01_data_analysis", out), workbook.Task("05_alignment", out | seed)]


def execute(book, *, seed=0):
    """Run both notebooks; return which were executed."""
    (book / "executed.txt").write_text("")
    workbook.run(tasks(book, seed=seed), book / "data", book / "out")
    return (book / "executed.txt").read_text().split()


def test_a_second_run_does_nothing_and_a_change_repeats_only_what_depends_on_it(book):
    assert execute(book) == ["01_data_analysis", "05_alignment"]
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
    workbook.run([workbook.Task("05_alignment", {"out_dir": str(out), "seed": "{seed}"})], book / "data", out)
    assert (out / "05_alignment.txt").read_text() == "{seed}"
    assert (out / "notebooks" / "05_alignment.ipynb").exists()


def test_a_failed_notebook_is_named_with_its_error_and_runs_again(book):
    path = book / "notebooks" / "05_alignment.ipynb"
    good = path.read_text()
    path.write_text(good.replace("open(out_dir + ", "raise ValueError('no rows'); open(out_dir + "))
    message = r"05_alignment failed in cell 4: ValueError: no rows\n  executed copy: .*05_alignment\.ipynb"
    with pytest.raises(workbook.WorkbookError, match=message):
        execute(book)
    assert (book / "out" / "notebooks" / "05_alignment.ipynb").exists()
    path.write_text(good)
    assert execute(book) == ["05_alignment"]


def test_a_notebook_that_was_stopped_when_it_was_done_again_is_not_done(book, monkeypatch):
    assert len(execute(book)) == 2
    (book / "out" / "05_alignment.txt").unlink()

    def killed(task, out):
        (out / f"{task.name}.txt").write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(workbook, "execute", killed)
        execute(book)
    assert execute(book) == ["05_alignment"]


def test_clips_behind_a_link_count(book, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.mp4").write_bytes(b"1")
    (book / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(book / "data")
    assert (len(execute(book)), len(execute(book))) == (2, 0)
    (tmp_path / "elsewhere" / "c.mp4").write_bytes(b"22")
    assert len(execute(book)) == 2


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(book, monkeypatch):
    path = book / "notebooks" / "05_alignment.ipynb"
    good = path.read_text()
    full = "raise type('DiskFullError', (OSError,), {})('the disk is full'); open(out_dir + "
    path.write_text(good.replace("open(out_dir + ", full))
    with pytest.raises(workbook.WorkbookError, match=r"^05_alignment: the disk is full$"):
        execute(book)
    path.write_text(good)
    with monkeypatch.context() as patch, pytest.raises(DiskFullError, match=r"05_alignment\.ipynb needs more room"):
        patch.setattr("papermill.execute_notebook", raise_full)
        execute(book)
    assert execute(book) == ["05_alignment"]


def raise_full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_dead_kernel_is_said(book):
    path = book / "notebooks" / "01_data_analysis.ipynb"
    path.write_text(path.read_text().replace("open(out_dir + ", "import os; os._exit(9); open(out_dir + "))
    with pytest.raises(workbook.WorkbookError, match="01_data_analysis failed as its kernel died"):
        execute(book)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"02_clip_preparation: {fpz: 25}", "02_clip_preparation: unknown parameter 'fpz'. Legal names: out_dir, data"),
        (b"'02': {fps: fast}", r"02_clip_preparation: fps must be float, .* got 'fast' \(str\)"),
        (b"12: {fps: 25}", "names the notebook '12'. There are: 00_setup_check, 01_data_analysis"),
        (b"- fps", "must hold one section"),
        (b"a: [", r"p\.yaml must be YAML in UTF-8, got .* line 1"),
        ("02: {backend: ä}".encode("latin-1"), r"p\.yaml must be YAML in UTF-8, got 'utf-8' codec"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(tmp_path, text, message):
    (tmp_path / "p.yaml").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        workbook.plan(tmp_path, tmp_path, weights="random", params=tmp_path / "p.yaml")


def test_unrated_first_clips_are_no_folder_without_ratings(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.mp4").touch()
    (tmp_path / "ratings.csv").write_text(f"clip,{','.join(TRAITS)}\nc,.1,.2,.3,.4,.5\n")
    tasks = workbook.plan(tmp_path, tmp_path / "out", weights="random", limit=2)
    message = (
        "none of the first 2 clips of .* is rated.* The first rated clip is number 3: take more with --limit. Or stop"
    )
    with pytest.raises(ValueError, match=message):
        inputs.check_inputs(tasks, tmp_path, tmp_path / "out", limit=2)
    with pytest.raises(ValueError, match="must leave a source to each part, got 0 and 0 of 1 sources"):
        inputs.check_inputs(tasks, tmp_path, tmp_path / "out", limit=3)


def test_pretrained_is_the_default_and_brings_its_own_settings(tmp_path):
    planned = {task.name: task.parameters for task in workbook.plan(tmp_path, tmp_path)}
    assert planned["03_static_extraction"]["weights"] == planned["04_dynamic_extraction"]["weights"] == "pretrained"
    assert planned["04_dynamic_extraction"]["input_px"] == 224
    random = {task.name: task.parameters for task in workbook.plan(tmp_path, tmp_path, weights="random")}
    assert random["04_dynamic_extraction"] == {
        "weights": "random", "data_dir": str(tmp_path), "out_dir": str(tmp_path)
    }  # fmt: skip


def test_auto_is_settled_once_for_a_run_and_stays_what_it_was_where_02_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.detectors.chosen_detector", lambda name, folder: "yunet")
    for chosen, before, expected in ((["02_clip_preparation"], None, "yunet"), (["05_alignment"], {}, "haar")):
        tasks = workbook.plan(tmp_path, tmp_path)
        if before is not None:
            write_json(tmp_path / "faces" / "manifest.json", {"identity": {"parameters": before}})
        workbook.settle_detector(tasks, tmp_path, chosen)
        assert tasks[2].parameters["detector"] == expected


def test_the_weights_asked_for_are_those_of_the_chosen_backbone(tmp_path, monkeypatch):
    (tmp_path / "p.yaml").write_text("03_static_extraction: {backbone: vgg19}")
    asked = []
    monkeypatch.setattr("helpers.weights.require", asked.extend)
    inputs.require_pretrained(workbook.plan(tmp_path, tmp_path, params=tmp_path / "p.yaml"))
    assert asked == ["vgg19_imagenet", "i3d_flow_kinetics"]


def test_a_parameter_file_wins_over_pretrained_settings_and_the_command_line_over_both(tmp_path):
    (tmp_path / "p.yaml").write_text("02: {fps: 30}\n03: {weights: random}\n01: {limit: 7}")
    planned = {t.name: t.parameters for t in workbook.plan(tmp_path, tmp_path, params=tmp_path / "p.yaml", limit=3)}
    assert planned["02_clip_preparation"]["fps"] == 30
    assert planned["03_static_extraction"]["weights"] == "random"
    assert planned["01_data_analysis"]["limit"] == 3


def test_every_shipped_parameter_file_is_legal(tmp_path):
    (tmp_path / "motion").mkdir()
    for path in (ROOT / "params").glob("*.yaml"):
        assert len(workbook.plan(tmp_path, tmp_path, params=path)) == len(config.NOTEBOOKS)


def test_clips_are_classified_where_there_is_a_folder_of_classes(tmp_path):
    def planned(**options):
        found = {task.name: task.parameters for task in workbook.plan(tmp_path, tmp_path, weights="random", **options)}
        return found.get("08_clip_classification", {}).get("data_dir")

    assert planned() is None
    (tmp_path / "params.yaml").write_text("08: {data_dir: elsewhere}")
    assert planned(params=tmp_path / "params.yaml") == "elsewhere"
    (tmp_path / "motion").mkdir()
    assert planned() == str(tmp_path / "motion")


@pytest.mark.parametrize(("only", "start"), [("", None), (",", None), ("05", "07")])
def test_a_choice_of_no_notebook_is_refused(only, start):
    with pytest.raises(ValueError, match="leave no notebook"):
        workbook.select(only, start)


def test_only_and_from_choose_notebooks():
    assert workbook.select("03,") == ["03_static_extraction"]
    assert [name[:2] for name in workbook.select(only="3, 04_dynamic_extraction")] == ["03", "04"]
    assert [name[:2] for name in workbook.select(start="06")] == ["06", "07", "08", "09", "10"]
    with pytest.raises(ValueError, match="names the notebook '12'"):
        workbook.select(only="12")


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


def test_without_videos_the_tree_says_which_clips_there_are(trees, tmp_path):
    data = tmp_path / "data"
    keys = workbook.stored_keys(trees, data)
    assert keys == ["training80_01/a.001", "training80_01/b.001"]
    chosen = workbook.without_videos(trees, workbook.select(), data)
    assert [name[:2] for name in chosen] == ["00", "03", "04", "05", "06", "08", "10"]
    clips, _ = inputs.check_inputs([], data, tmp_path / "out", stored=keys)
    assert clips["split"].tolist() == ["train", "train"]
    assert clips["openness"].notna().tolist() == [False, True]
    assert clips.loc["training80_01/b.001", "neuroticism"] == 0.5
    (data / "c.mp4").touch()
    assert workbook.stored_keys(trees, data) == []


def test_without_videos_and_a_tree_nothing_is_left_to_read(trees, tmp_path):
    trees[4].parameters.pop("flow_dir")
    with pytest.raises(ValueError, match="04_dynamic_extraction: flow_dir must name a folder, as .* holds no videos"):
        workbook.without_videos(trees, workbook.select(), tmp_path / "data")
    assert workbook.without_videos(trees, ["03_static_extraction"], tmp_path / "data") == ["03_static_extraction"]
    trees[3].parameters["faces_dir"] = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="faces_dir must be a folder of face pictures, .*nowhere is none"):
        workbook.stored_keys(trees, tmp_path / "data")


def test_a_changed_picture_repeats_what_depends_on_it(book, tmp_path):
    write_faces(tmp_path / "faces" / "a", range(3))
    tree = workbook.Task("03_static_extraction", {"faces_dir": str(tmp_path / "faces")})
    shutil.copy(book / "notebooks" / "05_alignment.ipynb", book / "notebooks" / f"{tree.name}.ipynb")

    def executed():
        (book / "executed.txt").write_text("")
        workbook.run([tree, *tasks(book)], book / "data", book / "out", ["01_data_analysis", "05_alignment"])
        return len((book / "executed.txt").read_text().split())

    assert (executed(), executed()) == (2, 0)
    (tmp_path / "faces" / "a" / "face_000001.jpg").unlink()
    assert executed() == 2


def test_a_notebook_run_by_itself_counts_as_done_in_the_whole(book):
    (book / "executed.txt").write_text("")
    workbook.run(tasks(book), book / "data", book / "out", ["01_data_analysis"])
    assert (book / "executed.txt").read_text().split() == ["01_data_analysis"]
    assert execute(book) == ["05_alignment"]


def test_committed_notebooks_are_fresh_normalised_and_small():
    recorded = read_json(ROOT / "notebooks" / "executed.json")
    assert recorded["helpers"] == workbook.helpers_hash(), "helpers changed: run `make notebooks`"
    assert {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")} == set(config.NOTEBOOKS)
    ignored = n_code = 0
    for name in config.NOTEBOOKS:
        path = ROOT / "notebooks" / f"{name}.ipynb"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        tags = [tag for cell in code for tag in cell["metadata"].get("tags", [])]
        assert recorded["notebooks"][name] == workbook.cells_hash(path), f"{name} changed: run `make notebooks`"
        assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), name
        assert tags.count("parameters") == 1, name
        assert notebook["metadata"]["kernelspec"]["name"] == "python3", name
        assert not {"widgets", "papermill"} & notebook["metadata"].keys(), name
        assert not [o for cell in code for o in cell["outputs"] if o["output_type"] == "error"], name
        assert path.stat().st_size < 1_000_000, name
        ignored += tags.count("nbval-ignore-output")
        n_code += len(code)
    assert ignored <= 0.05 * n_code


def test_a_stage_is_whole_when_it_is_finished_and_no_file_is_missing_or_cut_short(tmp_path):
    stage = Stage(tmp_path, "static", {})
    for key in ("a", "below/b"):
        stage.write(key, ROWS, "1-1")
    assert not workbook.stage_is_whole(tmp_path)
    stage.finish(made=1, found=1)
    assert workbook.stage_is_whole(tmp_path)
    content = stage.path("a").read_bytes()
    stage.path("a").write_bytes(content[:-9])
    assert not workbook.stage_is_whole(tmp_path)
    stage.path("a").unlink()
    assert not workbook.stage_is_whole(tmp_path)
    stage.path("a").write_bytes(content)
    assert workbook.stage_is_whole(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    assert not workbook.stage_is_whole(tmp_path)
