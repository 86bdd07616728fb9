"""Shows a payload without secrets and personal data."""

from __future__ import annotations

import json
import re
from typing import Any

from common.redaction import Redactor

_MASK = "[masked]"
_NAMES = re.compile(
    r"e?mail|phone|msisdn|(?:^|_)(?:name|surname|first|last|address|street|city|postal|zip|birth|iban|bic|ssn"
    r"|account_number|routing|card|pan|cvc|secret|token|password|authorization|key|signature|ip)"
    r"(?:$|_)",
    re.IGNORECASE,
)
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")  # firstName is first_Name
_DEEPEST = 40
_LONGEST = 32_768


def masked(body: bytes, redact: Redactor) -> Any:
    """The decoded payload; as text what is no JSON."""
    text = body.decode(errors="replace")
    try:
        return _mask(json.loads(text), redact, 0)
    except (ValueError, RecursionError):
        return masked_text(text, redact)


def searchable(body: bytes, redact: Redactor) -> str:
    """As viewers see it: what is masked can't be found out by searching for it."""
    shown = masked(body, redact)
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)


def masked_text(text: str, redact: Redactor) -> str:
    shown = redact.beginning(text, _LONGEST)
    return shown if len(text) <= _LONGEST else f"{shown} [and more: {len(text)} characters in all]"


def _mask(value: Any, redact: Redactor, depth: int) -> Any:
    if depth > _DEEPEST:
        return _MASK
    if isinstance(value, dict):
        shown: dict[str, Any] = {}
        for key, each in value.items():
            hidden = _NAMES.search(_WORDS.sub("_", key)) and each not in (None, "", [], {})
            # A name may be somebody's address, too; two that are masked stay two.
            name = masked_text(key, redact)
            if name in shown:
                name = f"{name} ({len(shown) + 1})"
            shown[name] = _MASK if hidden else _mask(each, redact, depth + 1)
        return shown
    if isinstance(value, list):
        return [_mask(each, redact, depth + 1) for each in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value if redact(str(value)) == str(value) else _MASK
    return masked_text(value, redact) if isinstance(value, str) else value
