"""Keeps a study's events in a private data set of the Hub, for a page whose own disk does not last, such as a Hugging Face Space.

    VOTES_REPO=org/study-votes HF_TOKEN=… python -m eval.vote out/votes/NAME      # the page fetches at its start, commits every EVERY minutes and at its end
    HF_TOKEN=… python -m eval.hub out/votes/NAME org/study-votes                  # brings the events here, for `make vote-report`; also while a page runs elsewhere

Each start of a page writes a file of its own, events-<uuid>.jsonl, so two pages never write the same one, and the state is a function of all of them
(eval.votes): a Space that is rebuilt fetches them, and goes on where it was. What is committed are whole lines, read while no vote is being written.
Where a page ends by itself or by SIGTERM (a rebuild, a restart, a pause), its last votes are committed first. A machine that dies without warning
takes with it at most the votes since the last commit.

Not the database: a WAL database copied while it is open is empty. A file that is here already is replaced only by one that goes on from it, so events
that were erased here (`python -m eval.votes --erase`) do not come back. The Hub keeps old commits, though: to erase there too, delete the data set's history.
The data set has to be private: events hold raters' answers and times. The token comes from HF_TOKEN, and is never printed.
"""

import argparse
import concurrent.futures
import contextlib
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from datagen.files import UserError, atomic, entry
from datagen.hub import one_line, secret, without
from eval.votes import read_events

if TYPE_CHECKING:
    from huggingface_hub import CommitScheduler

EVERY = 5  # minutes between commits: each one stays in the history of the data set
EVENTS = "events-*.jsonl"
STUDY = ("items.jsonl", "study.lock.json", "study.yaml")  # what eval.space puts beside the events; key.json never leaves
LAST = 60  # seconds that the last commit may take


def fetch(folder: Path, repo: str) -> int:
    """Brings the events of the data set into `folder`, and the study's own files where they are missing; how many files were written.

    Raises UserError where the Hub cannot be reached or refuses, where the data set is public, and where neither side has the study: a page that went on without
    the earlier events would ask people again what they have judged."""
    from huggingface_hub import HfApi, errors

    token, written = secret(), 0
    api = HfApi(token=token)
    with one_line(repo, token):
        try:
            info = api.repo_info(repo, repo_type="dataset")
        except errors.RepositoryNotFoundError:
            if (folder / "items.jsonl").is_file():
                return 0  # a new study: `keep` makes the data set
            raise
    refuse_public(repo, info.private)
    names = [file.rfilename for file in info.siblings or []]
    wanted = [name for name in names if Path(name).match(EVENTS) or (name in STUDY and not (folder / name).exists())]
    with tempfile.TemporaryDirectory() as place:
        for name in sorted(wanted):
            with one_line(repo, token):
                path = api.hf_hub_download(repo, name, repo_type="dataset", revision=info.sha, local_dir=place)
            new, here = Path(path).read_bytes(), folder / Path(name).name
            if not here.exists() or (len(new) > here.stat().st_size and new.startswith(here.read_bytes())):
                with atomic(here, "wb") as file:
                    file.write(new)
                written += 1
    if not (folder / "items.jsonl").is_file():
        raise UserError(f"{repo} holds no items.jsonl, and neither does {folder}: upload the folder `study` that eval.space writes, or freeze the study here")
    return written


def refuse_public(repo: str, private: bool) -> None:
    if not private:
        raise UserError(f"{repo} is public, and events hold what raters said of themselves: make it private, or name another")


def keep(folder: Path, repo: str, lock: "threading.RLock", every: float = EVERY) -> "CommitScheduler":
    """Commits the events of `folder` now, every `every` minutes, and at `end`. lock: the store's, under which nothing is being written.

    A commit that fails is said in one line and tried again with the next. Raises UserError where there is no such data set and none can be made."""
    from huggingface_hub import CommitScheduler, HfApi

    token = secret()
    api = HfApi(token=token)

    class Events(CommitScheduler):
        """The library's scheduler (huggingface_hub 1.17), with four things mended: its lock is not the store's; its first commit may begin before it knows that it
        was not stopped, and then is none; a line written in the tick of the clock in which it looked at a file's time would wait for the next line; and what
        fails ends in a log only."""

        lock = property(lambda self: lock, lambda self, value: None)
        _CommitScheduler__stopped = failed = False
        sizes: dict[Path, int] = {}  # noqa: RUF012  (replaced as a whole)

        def push_to_hub(self):
            with lock:
                sizes = {path: path.stat().st_size for path in self.folder_path.glob(EVENTS)}
            for path, size in sizes.items():
                if self.sizes.get(path) != size:
                    self.last_uploaded.pop(path, None)
            try:
                made = super().push_to_hub()
            except Exception as error:
                self.failed = True
                print(f"{repo}: the events could not be committed ({type(error).__name__}: {without(token, error)}); they are kept here and sent with the next commit")
                return None
            self.failed, self.sizes = False, sizes
            return made

        def end(self) -> None:
            """Commits what is left and stops."""
            with contextlib.suppress(concurrent.futures.TimeoutError):
                self.trigger().result(LAST)
                if not self.failed:
                    self.stop()
                    return
            self.stop()
            print(f"{repo}: the last events are NOT there; they lie in {folder}")

    with one_line(repo, token):
        api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        refuse_public(repo, api.repo_info(repo, repo_type="dataset").private)
        return Events(repo_id=repo, repo_type="dataset", folder_path=folder, every=every, private=True, allow_patterns=EVENTS, hf_api=api)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="out/votes/NAME")
    parser.add_argument("repo", help="the private data set that a page keeps its events in: organisation/name")
    args = parser.parse_args()
    written = fetch(args.folder, args.repo)
    events = read_events(args.folder)
    print(f"{args.folder}: {written} file(s) fetched; {sum(event['type'] == 'vote' for event in events):,} votes in {len(events):,} events")


if __name__ == "__main__":
    entry(main)
