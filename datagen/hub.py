"""The Hub's refusals as one line each, without the token: what every push and fetch shares."""

import contextlib
import os
from collections.abc import Iterator

from datagen.files import UserError

KINDS = {"dataset": "data set", "model": "model", "space": "Space"}


def secret() -> str:
    """The token of HF_TOKEN. Raises UserError where it is not set."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise UserError("there is no token for the Hub: export HF_TOKEN (with write permission)")
    return token


def without(token: str, text: object) -> str:
    """A text as one line of at most 400 characters, without the token."""
    return " ".join(str(text).replace(token, "***").split())[:400]


@contextlib.contextmanager
def one_line(repo: str, token: str, kind: str = "dataset", after: str = "") -> Iterator[None]:
    """Turns what the Hub or the network refuses within the block into UserError, whose text ends in `after`."""
    import httpx
    from huggingface_hub import constants, errors

    try:
        yield
        return
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        reasons = {401: "the token was refused", 403: "the token may not write there", 404: f"there is no such user, organisation or {KINDS[kind]}"}
        words = f"{reasons.get(status, 'the Hub refused')} ({status}: {error.server_message or 'no reason given'})"
    except (httpx.HTTPError, ConnectionError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        words = f"{constants.ENDPOINT} cannot be reached ({error})"
    except ValueError as error:  # a name or a card that breaks the Hub's rules
        words = f"the Hub does not take it ({error})"
    raise UserError(f"{repo}: {without(token, words)}{after}")
