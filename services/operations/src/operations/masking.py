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
# Bounded, so that no text takes long.
_MAIL = re.compile(r"[^\s@<>\"'=&]{1,64}(?:@|%40)[^\s@<>\"'=&]{1,255}")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}[A-Z0-9]{11,30}\b")
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")  # firstName is first_Name
_DEEPEST = 40


def masked(body: bytes, redact: Redactor) -> Any:
    """The decoded payload; as text what is no JSON."""
    text = body.decode(errors="replace")
    try:
        return _mask(json.loads(text), redact, 0)
    except (ValueError, RecursionError):
        return masked_text(text, redact)


def masked_text(text: str, redact: Redactor) -> str:
    text = _IBAN.sub(_MASK, redact(text))
    return _MAIL.sub(_MASK, text) if "@" in text or "%40" in text else text


def _mask(value: Any, redact: Redactor, depth: int) -> Any:
    if depth > _DEEPEST:
        return _MASK
    if isinstance(value, dict):
        return {
            key: _MASK
            if _NAMES.search(_WORDS.sub("_", key)) and each not in (None, "", [], {})
            else _mask(each, redact, depth + 1)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_mask(each, redact, depth + 1) for each in value]
    return masked_text(value, redact) if isinstance(value, str) else value
