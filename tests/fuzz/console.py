"""Hostile calls of the console's pages and forms with a valid session."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

_PAGES = ("", "groups", "letters", "replays", "journal", "jobs", "actions", "login", "style.css")
_FORMS = ("letters/act", "journal/replay", "logout", "login")
_WORDS = ("replay", "forecast", "archive", "discard", "restore", "pause", "run", "default", "any")
_NAMES = (
    "action id group reason rate queue since until type new_ids text state cursor tenant subject "
    "error correlation_id csrf token"
)
_text = st.sampled_from([*_WORDS, "\x00", "é💸", "%", "9" * 30, "1e9", "-1", "../..", "<script>"])
_value = _text | st.text(max_size=30)
_segment = st.sampled_from(["letters", "replays", "jobs", "journal", "note"]) | _value
_fields = st.dictionaries(st.sampled_from(_NAMES.split()), _value, max_size=8)


def fuzz_console(url: str, token: str, inputs: int, number: int) -> tuple[int, list[str]]:
    """Return the number of calls, and those with a 5xx response."""
    bad: list[str] = []
    made = 0
    csrf = hashlib.sha256(b"paybus console form" + token.encode()).hexdigest()
    http = httpx.Client(base_url=f"{url}/console/", cookies={"paybus_console": token}, timeout=30)

    @seed(number)
    @settings(
        max_examples=max(1, inputs // 4),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        page=st.sampled_from(_PAGES),
        path=st.lists(_segment, min_size=1, max_size=4),
        form=st.sampled_from(_FORMS),
        fields=_fields,
        signed=st.booleans(),
    )
    def attack(page: str, path: list[str], form: str, fields: dict[str, str], signed: bool) -> None:
        nonlocal made
        any_path = "/".join(quote(each, safe="") for each in path)
        sent = fields | ({"csrf": csrf} if signed else {})
        for call in (
            http.build_request("GET", page, params=fields),
            http.build_request("GET", any_path, params=fields),
            http.build_request("POST", form, data=sent),
            http.build_request("POST", any_path, data=sent),
        ):
            made += 1
            answer = http.send(call)
            if answer.is_server_error:
                bad.append(f"{answer.status_code} to {call.method} {call.url}: {call.content!r}")

    attack()
    return made, bad
