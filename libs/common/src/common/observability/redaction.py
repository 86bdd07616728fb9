"""Masking of secrets and personal data in logs, errors, listings and dead letters.

The time of every pattern grows only with the text's length: a repetition begins only where it could
not have begun earlier, and it never backtracks (possessive).
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import unquote, urlsplit

MASK = "[secret]"
# No secret that matters is longer.
_LONGEST = 4096

# Credentials that reach a text without being one of our settings, such as in a library's message or
# a header. GitHub, AWS, Stripe, Slack and Plaid document their prefixes; those of Square and
# Flutterwave are as observed.
_CREDENTIALS = re.compile(
    r"(?<=://)[^\s/@:]*+:[^\s/@]++@"
    r"|\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]++"  # https://docs.stripe.com/keys
    r"|\bwhsec_[A-Za-z0-9+/=]++"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS access keys
    r"|\b(?:gh[pousr]_[A-Za-z0-9]{16,}+|github_pat_\w{16,}+)"
    r"|\bFLW(?:SECK|PUBK)(?:_TEST)?-[A-Za-z0-9]++(?:-X)?"  # Flutterwave
    # Plaid
    r"|(?<![\w-])(?:access|public|link|processor)-(?:sandbox|development|production)-[\w-]++"
    r"|(?<![\w-])(?:EAAA[\w-]{20,}+|sq0[a-z]{3}-[\w-]{16,}+)"  # Square
    r"|(?<![\w-])xox[abeprs]-[\w-]{8,}+"  # Slack
    r"|(?<![\w-])eyJ[\w-]{8,}+(?:\.[\w-]*+){1,4}"  # JSON Web Tokens
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]*+"
    r"|\bBearer\s++[A-Za-z0-9._~+/=-]++",
    re.IGNORECASE,
)
# The value after such a name is masked whatever it looks like: the complete text in quotes, also in
# escaped ones, else one word.
_NAMED = re.compile(
    r"((?:passw(?:or)?d|passphrase|secret|authorization|verif-hash"
    r"|(?:api|private|subscription|secret(?:[_-]access)?)[_-]?key"
    r"|(?:access|refresh|id|client|session|pay|notif)[_-]?token"
    # Alone it is also an ordinary word.
    r"""|(?:\b|_)token(?=\\{0,3}["']?[ \t]{0,3}=|\\{0,3}["'][ \t]{0,3}:)"""
    r"|\b(?:pwd|cvc|cvv|pin|otp|ssn))"
    r"""\\{0,3}["']?[ \t]{0,3}[:=][ \t]{0,3})"""
    r"""(?:(\\{1,3}")[^"]++"?|(\\{1,3}')[^']++'?|(")(?:[^"\\]++|\\.)++"?|(')(?:[^'\\]++|\\.)++'?"""
    r"""|(?:(?:Basic|Bearer|Token)[ \t]++)?+[^\s"'&,;<>{}\[\]]++)""",
    re.IGNORECASE | re.DOTALL,
)
# A number after such a name is a phone number, even without a plus.
_NAMED_PHONE = re.compile(
    r"((?:phone(?:[_-]?number)?|mobile|msisdn|party[_-]?id)"
    r"""\\{0,3}["']?[ \t]{0,3}[:=][ \t]{0,3}\\{0,3}["']?)"""
    r"\+?\d(?:[ .()-]{0,2}\d){5,14}",
    re.IGNORECASE,
)
# PostgreSQL's detail of an error quotes the row, whatever it contains.
_ROW = re.compile(r"(failing row contains \()[^\n]*+", re.IGNORECASE)
# A local part and a domain, also with the @ encoded as in a query.
_MAIL = re.compile(
    r"""(?<![^\s@<>"'=&:;,()])(?:(?!%(?:25){0,2}40)[^\s@<>"'=&:;,()])++(?:@|%(?:25){0,2}40)"""
    r"""[^\s@<>"'=&:;,().]++(?:\.[^\s@<>"'=&:;,().]++)++""",
    re.IGNORECASE,
)
# https://www.itu.int/rec/T-REC-E.164
_PHONE = re.compile(r"(?<![\w.+])\+[1-9](?:[ .()-]{0,2}\d){6,14}(?!\d)")
# https://www.iso.org/standard/70484.html: 13 to 19 digits, in one piece or in groups.
_CARD = re.compile(
    r"(?<![\w-])(?:\d{13,19}+"
    r"|\d{4}([ ._\u00a0\u202f-]{1,2})\d{4,6}\1\d{4,5}(?:\1\d{1,4}){0,2})(?![\w-])"
)
_ISSUED = re.compile(r"2[2-7]|3[0-9]|4|5[0-9]|6|8")  # issuers' prefixes, ISO/IEC 7812
# https://www.iso.org/standard/81090.html: all of it is checked only if the beginning matches.
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])(?=([A-Z]{2}\d{2}(?:[ \u00a0\u202f-]?[A-Z0-9]){11,30}))"
    # Lower case only if nothing follows: it may be a part of another identifier.
    r"|(?<![\w-])(?=([a-z]{2}\d{2}"
    r"(?:[a-z0-9]{11,30}|(?: [a-z0-9]{4}){2,6}(?: [a-z0-9]{1,4})?+)(?![\w-])))"
)

_DIGITS = re.compile(r"\d{4}[ ._\u00a0\u202f-]{0,2}\d{4}")
# From the register:
# https://www.swift.com/standards/data-standards/iban-international-bank-account-number.
_LENGTHS = """
15NO 16BE 18DK 18FI 18FK 18FO 18GL 18NL 18SD 19MK 19SI 20AT 20BA 20EE 20KZ 20LT 20LU 20MN 20XK 21CH
21CR 21HR 21LI 21LV 22BG 22BH 22DE 22GB 22GE 22IE 22ME 22RS 22VA 23AE 23GI 23IL 23IQ 23OM 23SO 23TL
24AD 24CZ 24ES 24MD 24PK 24RO 24SA 24SE 24SK 24TN 24VG 25LY 25PT 25ST 26IS 26TR 27BI 27CG 27CM 27DJ
27FR 27GA 27GR 27IT 27MC 27MR 27SM 27TD 28AL 28AZ 28BF 28BJ 28BY 28CI 28CY 28DO 28GT 28HN 28HU 28LB
28ML 28NE 28NI 28PL 28SN 28SV 28TG 29BR 29EG 29PS 29QA 29UA 30JO 30KW 30MU 30YE 31MT 31SC 32LC 33RU
27CF 27GQ 25AO 25CV 25GW 25MZ 24DZ 26IR 28MA 27MG 27KM
"""
_BETWEEN = dict.fromkeys(map(ord, " \u00a0\u202f-"))
_IN_DIGITS = {ord(each): str(int(each, 36)) for each in string.ascii_letters + string.digits}
_IBAN_LENGTHS = {each[2:]: int(each[:2]) for each in _LENGTHS.split()}


# Names and ids are shorter. A longer text is not kept in memory.
_SHORT = 64


class Redactor:
    """Masking of known secret values, and of text that looks like a secret."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Mask these secrets too, permanently."""
        self._values |= {part for secret in secrets for part in _parts(secret) if len(part) >= 6}
        # Longest first, so that a secret that contains another is masked completely.
        ordered = sorted(self._values, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        # Every log line repeats the names of queues, endpoints and tenants.
        self._short = lru_cache(maxsize=4096)(self._masked)

    def __call__(self, text: str) -> str:
        return self._short(text) if len(text) <= _SHORT else self._masked(text)

    def _masked(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(MASK, text)
        lowered = text.lower()
        for hints, pattern, replacement in _STEPS:
            if any(hint in lowered for hint in hints):
                text = pattern.sub(replacement, text)
        text = _CARD.sub(_card, text) if _DIGITS.search(text) else text
        return _without_ibans(text) if _IBAN.search(text) else text

    def beginning(self, text: str, most: int) -> str:
        """Return at most `most` characters, masked, of a text of any length."""
        # A truncated secret is not recognized, so more is masked than is returned.
        return self(text[: most + _LONGEST])[:most]

    def end(self, text: str, most: int) -> str:
        return self(text[-most - _LONGEST :])[-most:]


def _named(match: re.Match[str]) -> str:
    """Mask the value; the name and any quotes stay."""
    quote = next(filter(None, match.groups()[1:]), "")
    return f"{match[1]}{quote}{MASK}{quote}"


def _card(match: re.Match[str]) -> str:
    """Mask the longest leading part that is a card number, if there is one."""
    text, between = match[0], match[1]
    groups = text.split(between) if between else [text]
    for count in range(len(groups), 0, -1):
        digits = "".join(groups[:count])
        if 13 <= len(digits) <= 19 and _ISSUED.match(digits) and _luhn(digits):
            rest = groups[count:]
            return MASK + "".join(f"{between}{group}" for group in rest)
    return text


def _luhn(digits: str) -> bool:
    """Check the Luhn digit: https://www.iso.org/standard/70484.html, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _without_ibans(text: str) -> str:
    found, last = [], 0
    for start, end in _ibans(text):
        if start >= last:
            found += [text[last:start], MASK]
            last = end
    return "".join([*found, text[last:]]) if found else text


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN.finditer(text):
        found, whole = match[1] or match[2], match[1] is None
        length = _IBAN_LENGTHS.get(found[:2].upper())
        if length is None:
            continue
        compact = found.translate(_BETWEEN)
        if len(compact) < length or (whole and len(compact) != length):
            continue
        if _is_iban(compact[:length]):
            places = [place for place, each in enumerate(found) if each.isalnum()]
            yield match.start(), match.start() + places[length - 1] + 1


def _is_iban(compact: str) -> bool:
    """Check ISO 13616: with its beginning moved last and as digits, the remainder by 97 is 1."""
    return int((compact[4:] + compact[:4]).translate(_IN_DIGITS)) % 97 == 1


def _hints(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


# Each pattern's hints: only a text that contains one in lower case can match; most contain none.
_STEPS = (
    (
        _hints(
            "://|_live_|_test_|whsec_|akia|asia|ghp_|gho_|ghu_|ghs_|ghr_|github_pat_|flwseck"
            "|flwpubk|-sandbox-|-development-|-production-|eaaa|sq0|xox|eyj|private key|bearer"
        ),
        _CREDENTIALS,
        MASK,
    ),
    (
        _hints("passw|passphrase|secret|authorization|hash|key|token|pwd|cvc|cvv|pin|otp|ssn"),
        _NAMED,
        _named,
    ),
    (_hints("phone|mobile|msisdn|party"), _NAMED_PHONE, rf"\1{MASK}"),
    (_hints("failing row"), _ROW, rf"\1{MASK})"),
    (_hints("@|%40|%2540|%252540"), _MAIL, MASK),
    (_hints("+"), _PHONE, MASK),
)


def _parts(secret: str) -> list[str]:
    """Return what to mask of a secret: only the password of a URL, else all of it."""
    if "://" in secret:
        password = urlsplit(secret).password
        return [password, unquote(password)] if password else []
    return [secret]
