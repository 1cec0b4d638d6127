"""What a Space needs, and a Space that is rebuilt: started as the Hub would, against a small Hub on a socket.  .venv/bin/python -m pytest tests/test_space.py"""

import ast
import asyncio
import os
import shutil
import signal
import subprocess
import sys

import hubs
import pytest
import yaml
from conftest import ROOT, inside, one_line
from hubs import TOKEN

from eval import raters, space, studyfile
from eval.votes import read_events

REPO = "my-org/study-votes"


@pytest.fixture
def study(tmp_path):
    """(folder of a frozen study, its settings) on two made-up runs' answers."""
    from test_ballot import answer, run_of

    from eval import ballot

    run_of(tmp_path / "out", "one", [answer(i) for i in range(30)])
    values = yaml.safe_load((ROOT / "eval/study.yaml").read_text()) | {"runs": ["one"], "name": "pilot", "minimum_seconds": 0.0, "password_env": None}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    folder, _, _ = ballot.freeze(studyfile.load(path), tmp_path / "out")
    return folder, path


def write(study, out, *more, status=0):
    return inside("eval.space", study[0], out, "--repo", REPO, "--study", study[1], *more, status=status)


def test_the_space_holds_the_page_and_nothing_of_the_study(study, tmp_path):
    said = write(study, tmp_path / "up").stdout
    files = {str(path.relative_to(tmp_path / "up")): path for path in (tmp_path / "up").rglob("*") if path.is_file()}
    frozen = {name for name in files if name.startswith("study/")}
    assert frozen == {"study/items.jsonl", "study/study.lock.json", "study/study.yaml"}  # no key.json
    assert {
        "space/app.py",
        "space/README.md",
        "space/requirements.txt",
        "space/eval/vote.py",
        "space/eval/vote.js",
        "space/eval/hub.py",
        "space/datagen/__init__.py",
    } <= set(files)
    assert not any(name.startswith(("space/train", "space/tiny", "space/tests")) or name.endswith("study.yaml") for name in set(files) - frozen)
    texts = "".join(path.read_text() for name, path in files.items() if name not in frozen)
    assert not any(pair.human in texts for pair in studyfile.load(study[1]).gold) and "Oh, **fun**" not in texts
    assert f"hf upload {REPO} {tmp_path / 'up/study'} . --repo-type dataset --private" in said


def test_what_the_hub_reads_of_the_space_is_there_and_pinned_as_here(study, tmp_path):
    write(study, tmp_path / "up")
    front = yaml.safe_load((tmp_path / "up/space/README.md").read_text().split("---\n")[1])
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line and line[0] != "#")
    assert (front["sdk"], front["sdk_version"], front["app_file"]) == ("gradio", pins["gradio"], "app.py")
    lines = (tmp_path / "up/space/requirements.txt").read_text().splitlines()
    assert f"emoji=={pins['emoji']}" in lines and not any(line.startswith("gradio") for line in lines) and all("==" in line for line in lines)
    ast.parse((tmp_path / "up/space/app.py").read_text())


def test_a_second_writing_brings_the_votes_so_far_and_drops_old_modules(study, tmp_path):
    write(study, tmp_path / "up")
    (tmp_path / "up/space/eval/old.py").write_text("")
    (study[0] / "events-1.jsonl").write_text('{"type":"pause","t":1,"paused":false}\n')
    write(study, tmp_path / "up")
    assert not (tmp_path / "up/space/eval/old.py").exists() and (tmp_path / "up/study/events-1.jsonl").exists()


def test_another_folder_a_wrong_name_and_changed_settings_are_one_line_each(study, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    assert "holds something else" in one_line(write(study, tmp_path / "mine", status=1))
    assert "expected organisation/name" in one_line(inside("eval.space", study[0], tmp_path / "up", "--repo", "votes", "--study", study[1], status=1))
    study[1].write_text(study[1].read_text().replace("per_rater: 30", "per_rater: 20"))
    assert "was frozen with another per_rater" in one_line(write(study, tmp_path / "up", status=1)) and not (tmp_path / "up").exists()


@pytest.mark.slow
def test_a_space_that_is_rebuilt_twice_loses_no_vote(study, tmp_path):
    import aiohttp

    design = studyfile.load(study[1])
    space.write(study[0], tmp_path / "up", REPO, study[1])
    hub = hubs.Hub()
    hub.repos[REPO] = {"private": True, "files": {path.name: path.read_bytes() for path in (tmp_path / "up/study").iterdir()}, "commits": []}
    place, port = tmp_path / "container", raters.free_port()
    keep = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    environment = keep | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "SPACE_ID": "my-org/page", "NO_PROXY": "127.0.0.1"}

    def started() -> subprocess.Popen:
        shutil.rmtree(place, ignore_errors=True)  # a Space's disk does not outlive its container
        shutil.copytree(tmp_path / "up/space", place)
        with open(tmp_path / "page.log", "ab") as log:
            return subprocess.Popen([sys.executable, "app.py", "--port", str(port)], cwd=place, env=environment, stdout=log, stderr=log)

    def dead(process):
        return None if process.poll() is None else (tmp_path / "page.log").read_text()[-2000:]

    async def vote(process, session, n) -> raters.Session:
        async with aiohttp.ClientSession() as http:
            page = raters.Http(http, f"http://127.0.0.1:{port}")
            await page.ready(lambda: dead(process))
            if session is None:
                session = raters.Session(page)
                await session.enter(design, [next(option for option in ask.options if option not in ask.ends) for ask in design.questionnaire])
            else:
                session.page = page
                await session.do("open")
            for _ in range(n):
                assert session.at == "ballot" and await session.vote("left", {"seconds": 1.0, "layout": "row", "input": "key"})
            return session

    session = None
    for boot, n in enumerate((4, 3, 2), 1):
        process = started()
        try:
            session = asyncio.run(vote(process, session, n))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        cast = [event for events in hub.repos[REPO]["files"].items() if events[0].startswith("events-") for event in events[1].splitlines() if b'"type":"vote"' in event]
        assert len(cast) == sum((4, 3, 2)[:boot])
    assert f"{sum((4, 3, 2)) + 1} of " in session.progress
    assert set(hub.repos[REPO]["files"]) == {"items.jsonl", "study.lock.json", "study.yaml"} | {name for name in hub.repos[REPO]["files"] if name.startswith("events-")}
    assert len([name for name in hub.repos[REPO]["files"] if name.startswith("events-")]) == 3 and TOKEN not in (tmp_path / "page.log").read_text()
    assert sum(event["type"] == "vote" for event in read_events(place / "votes" / "pilot")) == 9
    hub.close()
