"""Masks secrets and personal data in payloads."""

from __future__ import annotations

import json
import re
from typing import Any

from common.observability.redaction import Redactor

_MASK = "[masked]"
_NAMES = re.compile(
    r"e?mail|phone|msisdn|(?:^|_)(?:name|surname|first|last|address|street|city|postal|zip|birth|iban|bic|ssn"
    r"|account_number|routing|card|pan|cvc|secret|token|password|authorization|key|signature|ip)"
    r"(?:$|_)",
    re.IGNORECASE,
)
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")  # firstName becomes first_Name
_DEEPEST = 40
_LONGEST = 32_768
# Operators read no more than this, and masking takes CPU time.
_MOST_VALUES = 5_000
_MOST_CHARACTERS = 250_000
_MORE = "[and more]"
# Card and phone numbers have at least this many digits.
_SHORT_NUMBER = 7


def masked(body: bytes, redact: Redactor) -> Any:
    """Return the decoded payload with secrets masked; as text if it is not JSON."""
    text = body.decode(errors="replace")
    try:
        return _Masking(redact).mask(json.loads(text), 0)
    except (ValueError, RecursionError):
        return masked_text(text, redact)


def searchable(body: bytes, redact: Redactor) -> str:
    """Return the text that viewers see, so that searching cannot reveal masked values."""
    shown = masked(body, redact)
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)


def masked_text(text: str, redact: Redactor) -> str:
    shown = redact.beginning(text, _LONGEST)
    return shown if len(text) <= _LONGEST else f"{shown} [and more: {len(text)} characters in all]"


class _Masking:
    """The masking of one payload, with limits on its size."""

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact
        self._left = _MOST_VALUES
        self._left_characters = _MOST_CHARACTERS

    def mask(self, value: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            return _MASK
        self._left -= 1
        if isinstance(value, dict):
            return self._object(value, depth)
        if isinstance(value, list):
            return self._list(value, depth)
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = str(value)
            return value if len(text) < _SHORT_NUMBER or self._redact(text) == text else _MASK
        return self._text(value) if isinstance(value, str) else value

    @property
    def _is_enough(self) -> bool:
        return self._left <= 0 or self._left_characters <= 0

    def _text(self, value: str) -> str:
        self._left_characters -= len(value)
        return masked_text(value, self._redact)

    def _object(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for key, each in value.items():
            if self._is_enough:
                shown[_MORE] = f"{len(value)} in all"
                break
            hidden = _NAMES.search(_WORDS.sub("_", key)) and each not in (None, "", [], {})
            # A key may itself be an e-mail address. Two masked keys stay two entries.
            name = self._text(key)
            if name in shown:
                name = f"{name} ({len(shown) + 1})"
            shown[name] = _MASK if hidden else self.mask(each, depth + 1)
        return shown

    def _list(self, value: list[Any], depth: int) -> list[Any]:
        shown: list[Any] = []
        for each in value:
            if self._is_enough:
                shown.append(f"{_MORE}: {len(value)} in all")
                break
            shown.append(self.mask(each, depth + 1))
        return shown
