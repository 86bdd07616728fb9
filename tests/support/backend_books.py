"""The books of the back end's stand-in, where it runs in a container and no port leads to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from support.waiting import until

# A command for the container; it prints the books as JSON.
READ: Final = (
    "python",
    "-c",
    "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8090/_books').read().decode())",
)


def until_each_is_created(
    created: Callable[[], Mapping[str, int]], accepted: Sequence[str], *, seconds: float
) -> None:
    """Wait until there is an organization for each accepted webhook; none may exist twice.
    `created` returns how often each organization was created."""
    until(
        lambda: len(created()) >= len(accepted),
        what=f"{len(accepted)} organizations",
        seconds=seconds,
        pause=2,
    )
    books = created()
    assert set(books.values()) == {1}, "an organization was created twice"
    assert len(books) == len(accepted)
