"""Keeps secrets out of logs, errors and dead letters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

_MASK = "[secret]"
# Credentials that reach a text without being a setting of ours: a library's message, a header.
_SHAPES = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/@:]+:[^\s/@]+@"
    r"|\b(?:whsec|sk_live|sk_test|rk_live|rk_test)_[A-Za-z0-9]+"
    r"|\bBearer\s+[A-Za-z0-9._~+/=-]+",
    re.IGNORECASE,
)


class Redactor:
    """Replaces known secret values, and what looks like one, in any text."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Mask these too, from now on; none is ever forgotten."""
        self._values |= {part for secret in secrets for part in _parts(secret) if len(part) >= 6}
        # Longest first, so that a secret that contains another is masked whole.
        ordered = sorted(self._values, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(_MASK, text)
        return _SHAPES.sub(lambda match: (match["scheme"] or "") + _MASK, text)


def _parts(secret: str) -> list[str]:
    """A URL's password is a secret by itself; the rest of the URL is not."""
    if "://" in secret:
        password = urlsplit(secret).password
        return [password, unquote(password)] if password else []
    return [secret]
