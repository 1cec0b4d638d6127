"""What every stage shares: one line for an expected failure, JSON lines, and files that are whole or not there at all."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


class UserError(Exception):
    """An expected failure. Its text is all the user sees: what is wrong, where, and what to do."""


def entry(main: Callable[[], None]) -> None:
    """Runs `main` as a program: UserError, a full or read-only disk and Ctrl-C are one line and a non-zero exit; bugs keep their traceback."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted: what was paid for and finished is kept; the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT):
            raise
        sys.exit(f"error: {error.filename or 'output'}: {error.strerror}. Nothing that was finished is lost; mend this and run the command again")


def quiet_libraries() -> None:
    """Silences what torch, torchao and transformers say on import and loading on machines that lack a GPU; errors stay."""
    for name in ("torch.utils._pytree", "torchao"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def templates(folder: Path, html: bool) -> "jinja2.Environment":
    """The templates of a folder. A name that is not given is an error; with `html`, values are escaped: they are shown, never run."""
    import jinja2  # a tenth of a second, and few stages write a page

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined, autoescape=html, trim_blocks=True, lstrip_blocks=True)
    # A value as the text of a Markdown table's cell.
    environment.filters["cell"] = lambda text: re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", str(text)).replace("\n", "<br>")
    return environment


def sha256(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def canonical(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces. For hashes and keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator:
    """Opens a temporary file that takes the place of `path` when the block ends without error, so `kill -9` leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    with atomic(path) as file:
        file.write(text)


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: list[dict]) -> None:
    with atomic(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file ({what})") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected a file ({what})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start} ({what})") from None


def read_json(path: Path) -> dict:
    try:
        return json.loads(read_text(path, "written by an earlier stage"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); remove the file and run the stage again") from None


def iter_jsonl(path: Path, what: str = "JSON lines") -> Iterator[dict]:
    """The rows of a JSON-lines file, one at a time. A broken line raises UserError with its number; blank lines are skipped."""
    if not path.is_file():
        read_text(path, what)  # says what is wrong with it
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode())
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: not UTF-8 text at byte {error.start} of the line ({what})") from None
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not valid JSON ({error.msg} at column {error.colno}); mend or remove that line") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: expected an object like {{...}}, got {type(row).__name__}")
            yield row


def read_jsonl(path: Path, what: str = "JSON lines") -> list[dict]:
    return list(iter_jsonl(path, what))
