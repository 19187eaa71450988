"""README and docs: short enough, no link into nothing, and every command that needs no network, GPU or hours runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from trees import some_flow, write_faces, write_pairs

from helpers.clips import TRAITS, find_clips, write_clips
from helpers.files import ROOT
from helpers.store import FeatureFile, Stage

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```sh( [\w-]+)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARKS = {" needs-network", " needs-gpu", " takes-minutes"}
BLOCKS = [(page, *block) for page in PAGES for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
RUN = [pytest.param(text, id=f"{page.name}: {text.split(' --')[0]}") for page, mark, text in BLOCKS if not mark]
SAMPLE = ROOT / "data_sample"


def test_links_lead_to_files_and_marks_are_known():
    lost = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            lost += [f"{page.name}: {link}"] * (not (page.parent / link).exists())
    assert lost == []
    assert {mark for _, mark, _ in BLOCKS} == MARKS | {""}


def test_the_readme_is_read_in_minutes():
    text = re.sub(r"```.*?```|\]\([^)]*\)", " ", PAGES[0].read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(text.split()) <= 700


def test_the_map_of_the_house_names_every_file_of_the_library():
    house = (ROOT / "docs" / "house.md").read_text(encoding="utf-8").partition("| file in `helpers/` |")[2]
    rows = re.findall(r"^\| ([^|]+) \|", house.partition("\n\n")[0], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w/]+)`", row)]
    there = {path.stem for path in (ROOT / "helpers").glob("*.py")} - {"__init__"}
    assert sorted(named) == sorted({*there, "plots/"})


def test_the_messages_that_troubleshooting_explains_are_those_of_the_program():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    sources = [*(ROOT / "helpers").glob("*.py"), ROOT / "Makefile"]
    program = "".join(path.read_text(encoding="utf-8") for path in sources)
    messages = [message for row in re.findall(r"^\| (.*?) \|", page, re.MULTILINE) for message in row.split("`")[1::2]]
    assert len(messages) > 8
    assert [message for message in messages if message not in program] == []


@pytest.fixture(scope="module")
def desk(model_dir, tmp_path_factory):
    """A folder with all that the commands name, under these names."""
    desk = tmp_path_factory.mktemp("desk")
    clips = sorted((SAMPLE / "test80_01").glob("*.mp4"))[:3]
    for folder in ("DIR", "VIDEOS"):
        (desk / folder).mkdir()
        for clip in clips:
            shutil.copy(clip, desk / folder)
    shutil.copy(clips[0], desk / "VIDEO")
    ratings = "".join(f"{clip.stem},.4,.5,.6,.7,.{k}\n" for k, clip in enumerate(clips, 1))
    (desk / "DIR" / "ratings.csv").write_text(f"clip,{','.join(TRAITS)}\n{ratings}", encoding="utf-8")
    _write_run(desk, model_dir)
    names = [f"c{k}" for k in range(30)]
    random = np.random.default_rng(0)
    for name, shape in (("S", (30, 7)), ("D", (30, 5)), ("L", (30, 5))):
        np.save(desk / f"{name}.npy", random.uniform(size=shape).astype("float32"))
    (desk / "IDS.txt").write_text("\n".join(names), encoding="utf-8")
    for name in names[:2]:
        write_faces(desk / "FACES" / name, range(4))
        write_pairs(desk / "FLOW" / name, some_flow(20, 32, 32))
    return desk


def _write_run(desk: Path, model_dir: Path) -> None:
    """A run with features of every clip, and the same features as files of another program."""
    run = desk / "results" / "mine"
    shutil.copytree(model_dir, run / "model")
    table = find_clips(desk / "DIR")
    write_clips(table.assign(**dict.fromkeys(TRAITS, 0.5)), run / "clips.csv")
    start_s = np.arange(3) / 3
    for stream in ("static", "dynamic"):
        stage = Stage(run / stream, stream, {})
        for key in table.index:
            rows = np.ones((3, 4), np.float32)
            stage.write(key, FeatureFile(rows, start_s, start_s + 0.3, np.arange(3), np.full(3, True)), "1-1")
            (desk / "SOURCE").mkdir(exist_ok=True)
            np.savez(desk / "SOURCE" / f"{key}.npz", features=rows, t_s=start_s)
        stage.finish(made=len(table))


@pytest.mark.slow
@pytest.mark.parametrize("commands", RUN)
def test_commands_run_as_they_are_written(desk, commands):
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    env = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "WORKBOOK_RESULTS": str(desk / "results")}
    done = subprocess.run(["bash", "-euc", commands], cwd=desk, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
