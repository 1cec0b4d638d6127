"""Events of a study on the Hub: a page that is rebuilt elsewhere loses no vote.  .venv/bin/python -m pytest tests/test_hub.py"""

import json
import shutil
import time

import hubs
import pytest
import test_votes
from conftest import inside, one_line
from hubs import TOKEN
from test_votes import state, vote_all

from datagen.files import UserError
from eval import hub as keeping
from eval import votes

make, fixed_clock = test_votes.make, test_votes.fixed_clock  # fixtures
REPO = "my-org/my-votes"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = hubs.Hub()
    hubs.use(monkeypatch, tmp_path, hub)
    yield hub
    hub.close()


@pytest.fixture
def keep(hub):
    """Starts a keeper whose clock never strikes; the first commit, at its start, is waited for."""
    started = []

    def start(store, wait=True):
        keeper = keeping.keep(store.folder, REPO, store.lock, every=10_000)
        started.append(keeper)
        if wait:
            while not hasattr(keeper, "last_future"):
                time.sleep(0.001)
            keeper.last_future.result()
        return keeper

    yield start
    for keeper in started:
        keeper.stop()


def rebuilt(store, tmp_path, name="again"):
    """A new disk with nothing but the study's own files."""
    folder = tmp_path / name / store.folder.name
    folder.mkdir(parents=True)
    shutil.copy(store.folder / "items.jsonl", folder)
    return folder


def test_a_rebuilt_page_goes_on_where_the_old_one_was(make, keep, hub, tmp_path):
    store = make()
    keeper = keep(store)
    raters = [store.join() for _ in range(3)]
    for k, rater in enumerate(raters):
        vote_all(store, rater, 2 + k)
    store.withdraw(store.code(raters[0]))
    keeper.end()
    folder = rebuilt(store, tmp_path)
    assert keeping.fetch(folder, REPO) == 1
    again = make(folder=folder)
    assert state(again) == state(store) and again.stage(raters[1]) == "vote" and again.stage(raters[0]) == "withdrawn"
    keep(again)
    vote_all(again, raters[1], 2)
    assert len(votes.read_events(folder)) > len(votes.read_events(store.folder)) and hub.keys == {f"Bearer {TOKEN}"}


def test_only_events_leave_and_the_data_set_is_private(make, keep, hub):
    store = make()
    vote_all(store, store.join(), 2)
    (store.folder / "key.json").write_text("{}")
    keep(store).end()
    assert hub.repos[REPO]["private"] is True
    (log,) = store.folder.glob("events-*.jsonl")
    assert hub.repos[REPO]["files"] == {log.name: log.read_bytes()}


def test_what_was_added_is_in_the_next_commit_also_within_one_tick_of_the_clock(make, keep, hub, monkeypatch):
    import os

    store = make()
    rater = store.join()
    vote_all(store, rater, 1)
    keeper = keep(store)
    (log,) = store.folder.glob("events-*.jsonl")
    before = log.stat()
    vote_all(store, rater, 1)
    os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))
    keeper.trigger().result()
    assert hub.repos[REPO]["files"][log.name] == log.read_bytes() and len(hub.repos[REPO]["commits"]) == 2
    keeper.trigger().result()
    assert len(hub.repos[REPO]["commits"]) == 2  # nothing new


def test_no_line_is_read_while_it_is_written(make, keep, hub):
    store = make()
    vote_all(store, store.join(), 1)
    keeper = keep(store)
    assert keeper.lock is store.lock
    with store.lock:
        done = keeper.trigger()
        time.sleep(0.05)
        assert not done.done()
    done.result()


def test_a_commit_that_fails_is_one_line_and_sent_with_the_next(make, keep, hub, capsys):
    store = make()
    rater = store.join()
    vote_all(store, rater, 1)
    keeper = keep(store)
    hub.status = 403  # one that the library does not try again by itself
    vote_all(store, rater, 2)
    keeper.trigger().result()
    said = capsys.readouterr()
    assert said.out.startswith(f"{REPO}: the events could not be committed (") and said.out.count("\n") == 1 and TOKEN not in said.out + said.err
    hub.status = 0
    keeper.end()
    (log,) = store.folder.glob("events-*.jsonl")
    assert hub.repos[REPO]["files"][log.name] == log.read_bytes() and "NOT" not in capsys.readouterr().out


def test_a_last_commit_that_fails_says_where_the_votes_are(make, keep, hub, capsys):
    store = make()
    vote_all(store, store.join(), 1)
    keeper = keep(store)
    vote_all(store, store.join(), 1)
    hub.status = 403
    keeper.end()
    assert f"the last events are NOT there; they lie in {store.folder}" in capsys.readouterr().out


def test_a_file_is_replaced_only_by_one_that_goes_on_from_it(make, keep, hub, tmp_path):
    store = make()
    rater = store.join()
    vote_all(store, rater, 3)
    keep(store).end()
    (log,) = store.folder.glob("events-*.jsonl")
    whole = log.read_bytes()
    folder = rebuilt(store, tmp_path)
    (folder / log.name).write_bytes(whole[:-40])  # an earlier, torn copy
    assert keeping.fetch(folder, REPO) == 1 and (folder / log.name).read_bytes() == whole
    vote_all(store, rater, 1)
    longer = log.read_bytes()
    assert keeping.fetch(store.folder, REPO) == 0 and log.read_bytes() == longer
    erased = b"".join(line for line in whole.splitlines(True) if b'"vote"' not in line)
    (folder / log.name).write_bytes(erased)
    assert keeping.fetch(folder, REPO) == 0 and (folder / log.name).read_bytes() == erased


def test_a_public_data_set_is_refused_by_both(make, hub, tmp_path):
    store = make()
    hub.repos[REPO] = {"private": False, "files": {"items.jsonl": b""}, "commits": []}
    with pytest.raises(UserError, match="my-org/my-votes is public"):
        keeping.fetch(store.folder, REPO)
    with pytest.raises(UserError, match="my-org/my-votes is public"):
        keeping.keep(store.folder, REPO, store.lock)


def test_a_new_study_has_nothing_to_fetch_and_an_empty_folder_needs_one(make, hub, tmp_path):
    assert keeping.fetch(make().folder, REPO) == 0
    with pytest.raises(UserError, match="there is no such user, organisation or data set"):
        keeping.fetch(tmp_path / "empty", REPO)
    hub.repos[REPO] = {"private": True, "files": {}, "commits": []}
    with pytest.raises(UserError, match=r"holds no items\.jsonl, and neither does"):
        keeping.fetch(tmp_path / "empty", REPO)


def test_the_frozen_files_come_with_the_events_and_nothing_else(make, hub, tmp_path):
    files = {"items.jsonl": b"{}\n", "study.yaml": b"name: x\n", "study.lock.json": b"{}", "key.json": b"{}", "../evil.jsonl": b"", "README.md": b""}
    hub.repos[REPO] = {"private": True, "files": files, "commits": []}
    assert keeping.fetch(tmp_path / "new", REPO) == 3
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["items.jsonl", "study.lock.json", "study.yaml"]


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_is_one_line_without_the_token_and_nothing_is_begun_afresh(make, hub, status):
    store = make()
    hub.status = status
    for call in (lambda: keeping.fetch(store.folder, REPO), lambda: keeping.keep(store.folder, REPO, store.lock)):
        with pytest.raises(UserError) as error:
            call()
        assert str(error.value).startswith(f"{REPO}: ") and f"({status}: " in str(error.value) and TOKEN not in str(error.value) and "\n" not in str(error.value)


def test_no_token_and_no_network_are_one_line_each(make, hub, monkeypatch, tmp_path):
    folder = make().folder
    hub.close()
    assert "cannot be reached" in one_line(inside("eval.hub", folder, REPO, status=1))
    monkeypatch.delenv("HF_TOKEN")
    assert "export HF_TOKEN" in one_line(inside("eval.hub", folder, REPO, status=1))


def test_the_command_brings_the_events_for_the_report(make, keep, hub, tmp_path):
    store = make()
    vote_all(store, store.join(), 4)
    keep(store).end()
    folder = rebuilt(store, tmp_path)
    said = inside("eval.hub", folder, REPO).stdout
    events = [json.loads(line) for line in next(folder.glob("events-*.jsonl")).read_text().splitlines()]
    assert f"1 file(s) fetched; 4 votes in {len(events)} events" in said
