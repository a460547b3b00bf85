"""How a command ends without its result, what no message may show, where tests let it fail."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping


class UserError(ValueError):
    """A mistake in what the user asked for or gave: one or two lines say what, and how to fix it.

    The commands print it without a traceback and exit with status 2. In the library it is a
    `ValueError` like the others.
    """


class RunError(Exception):
    """A run that cannot go on: one or two lines say why, and what to try.

    The commands print it without a traceback and exit with status 1.
    """


class NoResultError(RunError):
    """A run that went as its config says and came to nothing, such as one that diverged."""


def redacted(text: str) -> str:
    """`text` with the user, password and query of a URI in it hidden; file URIs stay as they are.

    >>> redacted("postgresql://me:secret@host/runs?sslpassword=secret")
    'postgresql://***@host/runs?***'
    """
    if "://" not in text:  # nearly all of a sweep's thousands of values
        return text
    # A password may have blanks; but an address with a port and no password may be followed by @.
    user_info = r"[^\s/:@]*:(?!\d+(?:[\s/'\"]|$))[^\n/]*|\S*"
    text = re.sub(rf"(?<!sqlite)(?<!file)://(?:{user_info})@", "://***@", text)
    return re.sub(r"(?<!sqlite)(?<!file)(://[^\s?]*\?)\S+", r"\1***", text)


FAULTS: dict[str, Callable[[], None]] = {}
"""What the fault suite lets happen, by the place where; empty in every use."""


def reached(place: str) -> None:
    """Marks a place in the life of a run or a sweep where the fault suite can let it fail."""
    if place in FAULTS:
        FAULTS[place]()


def nearest(name: str, names: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """' Did you mean …?', or nothing where no name is close; `shown` may say a name in full."""
    matches = difflib.get_close_matches(str(name), list(names), n=1)
    return f" Did you mean {(shown or {}).get(matches[0], matches[0])}?" if matches else ""
