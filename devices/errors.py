"""The errors a user can cause. Every CLI prints one of these as a single line and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend. The message names the file or option, what is wrong, and what to do."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'cpu'? ` where one of `known` is close to `word`, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'? " if close else ""
