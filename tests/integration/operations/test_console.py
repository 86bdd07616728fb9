"""The console: the same engine as the API, as pages without scripts."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator

import httpx
import pytest

from conftest import MakePaybus
from support.console import Browser
from support.operations import PROCESSES, QUICK, get, groups, letters, until_done, until_open
from support.paybus import Paybus
from support.waiting import until

_PAGES = ("", "/groups", "/dead-letters", "/replays", "/journal", "/jobs", "/actions")
_SCRIPT = "<script>alert(1)</script>"
_BASE64 = f"{string.ascii_uppercase}{string.ascii_lowercase}{string.digits}-_"  # RFC 4648, 5


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus([*PROCESSES, "subscription-worker"], **QUICK) as paybus:
        yield paybus


def bury(paybus: Paybus, body: str) -> str:
    """Dead-letter a message; return the dead letter's id."""
    before = {each["id"] for each in letters(paybus)}
    paybus.publish("subscription.billing", body)
    until_open(paybus, len(before) + 1)
    (id_,) = {each["id"] for each in letters(paybus)} - before
    return str(id_)


def test_nobody_sees_anything_without_signing_in(paybus: Paybus) -> None:
    stranger = Browser(paybus, role=None)
    for path in _PAGES:
        answer = stranger.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/login"), path
    assert "Access token" in stranger.see("/login")
    forged = stranger.post("/login", token="eyJhbGciOiJub25lIn0.e30.")
    assert (forged.status_code, "set-cookie" in forged.headers) == (401, False)
    stranger.http.cookies.set("paybus_console", "forged")
    assert stranger.get("/groups").status_code == 303
    assert stranger.post("/dead-letters/act", action="discard").status_code == 401


def test_the_session_is_a_cookie_that_no_script_and_no_other_site_gets(paybus: Paybus) -> None:
    http = httpx.Client(base_url=paybus.layout.url("operations-api"))
    answer = http.post("/console/login", data={"token": paybus.token("viewer")})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/console" in cookie
    browser = Browser(paybus)
    copy = browser.http.cookies["paybus_console"]
    assert browser.send("/logout").headers["location"] == "/console/login"
    assert browser.get("/groups").status_code == 303
    # The last character has unused bits: another encoding of the same signature.
    again = copy[:-1] + _BASE64[_BASE64.index(copy[-1]) ^ 1]
    for cookie in (copy, again):
        browser.http.cookies.set("paybus_console", cookie)
        assert browser.get("/groups").status_code == 303, "a copy of it is of no use either"


def test_every_page_is_there_and_runs_no_script(paybus: Paybus) -> None:
    id_ = bury(paybus, json.dumps({"type": _SCRIPT, "subject": _SCRIPT, "id": "1", "source": "x"}))
    browser = Browser(paybus)
    for path in (*_PAGES, f"/dead-letters/{id_}"):
        answer = browser.get(path)
        assert answer.status_code == 200, answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "<script" not in answer.text, path
        assert not re.search(r"\son\w+=|style=", answer.text), path
        assert '<html lang="en">' in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in browser.see(f"/dead-letters/{id_}")
    assert "&lt;script&gt;" in browser.see("/dead-letters?state=any")
    assert browser.get("/style.css").headers["content-type"].startswith("text/css")
    assert "no dead letter" in browser.see("/dead-letters/nothing", 404)
    assert "state" in browser.see("/dead-letters?state=nonsense", 400)
    browser.send("/dead-letters/act", id=id_, action="discard", reason="a test")
    assert letters(paybus) == []


def test_a_forged_form_does_nothing(paybus: Paybus) -> None:
    id_ = bury(paybus, "not an event")
    browser = Browser(paybus)
    wanted = {"id": id_, "action": "discard", "reason": "forged"}
    for csrf in ("", "0" * 64, Browser(paybus, tenant="other").http.cookies["paybus_console"]):
        answer = browser.post("/dead-letters/act", csrf=csrf, **wanted)
        assert answer.status_code == 403, csrf
    mine = browser.csrf
    for origin in ("https://evil.example", "http://[no-address", "null"):
        browser.http.headers["Origin"] = origin
        assert browser.post("/dead-letters/act", csrf=mine, **wanted).status_code == 403, origin
    del browser.http.headers["Origin"]
    viewer = Browser(paybus, role="viewer")
    assert "Discard" not in viewer.see("/groups")
    refused = viewer.send("/dead-letters/act", **wanted)
    assert (refused.status_code, "operator" in refused.text) == (403, True)
    other = Browser(paybus, tenant="other")
    assert other.see("/groups").count('class="card"') == 0
    assert other.get(f"/dead-letters/{id_}").status_code == 404
    assert [each["id"] for each in letters(paybus)] == [id_], "it is as it was"
    browser.send("/dead-letters/act", id=id_, action="discard", reason="a test")


def test_a_group_is_replayed_and_its_bar_fills(paybus: Paybus) -> None:
    for number in range(5):
        bury(paybus, f"not an event {number}")
    (group,) = groups(paybus)
    browser = Browser(paybus)
    assert f"5 \u00d7 {group['type']}" in browser.see("/groups")
    fields = {"group": group["id"], "reason": "the cause is mended"}
    forecast = browser.send("/dead-letters/act", action="forecast", **fields)
    assert "5 would be sent to subscription.billing" in forecast.text
    ordered = browser.send("/dead-letters/act", action="replay", **fields)
    assert ordered.status_code == 303, ordered.text
    path = ordered.headers["location"].removeprefix("/console")
    assert until_done(paybus, path.rpartition("/")[2]) == {"failed_again": 5}
    until(lambda: "5 of 5" in browser.see(path), what="the bar is full")
    assert "http-equiv" not in browser.see(path), "it is over: nothing is loaded again"
    assert "failed again" in browser.see(path)
    done = browser.send("/dead-letters/act", group=group["id"], action="archive", reason="enough")
    assert done.status_code == 303, done.text
    assert groups(paybus) == []
    (last, *_) = get(paybus, "actions")["items"]
    assert (last["action"], last["actor"], last["reason"]) == ("archive", "dev-operator", "enough")
    assert "enough" in browser.see("/actions")


def test_the_overview_is_for_those_who_operate_paybus(paybus: Paybus) -> None:
    shown = Browser(paybus).see("")
    assert re.search(r"operations</strong> ok", shown), shown
    assert "RabbitMQ</strong> ok" in shown
    other = Browser(paybus, tenant="other")
    assert other.get("").headers["location"] == "/console/groups"
    assert 'href="/console/jobs"' not in other.see("/groups")


def test_what_a_search_finds_is_acted_upon_as_a_whole(paybus: Paybus) -> None:
    for number in range(3):
        bury(paybus, f"found {number}")
    browser = Browser(paybus)
    assert "such as 2026-11-22T10:00:00Z" in browser.see("/dead-letters?text=found")
    nothing = browser.see("/dead-letters?text=found&since=2040-01-01T00:00:00Z")
    assert "No matching dead letters" in nothing
    wanted = {"all": "yes", "text": "found 1", "reason": "a test", "action": "discard"}
    assert browser.send("/dead-letters/act", **wanted).status_code == 303
    assert len(letters(paybus)) == 2
    browser.send("/dead-letters/act", **wanted | {"text": "found"})
    assert letters(paybus) == []
    assert "not a time with a zone" in browser.see("/journal?since=yesterday", 400)


def test_notes_and_jobs(paybus: Paybus) -> None:
    id_ = bury(paybus, "yet another")
    browser = Browser(paybus)
    assert browser.send(f"/dead-letters/{id_}/note", text="asked <b>Kofi</b>").status_code == 303
    assert "asked &lt;b&gt;Kofi&lt;/b&gt;" in browser.see(f"/dead-letters/{id_}")
    jobs = browser.see("/jobs")
    assert "clean-up" in jobs
    assert "does not answer" in jobs
    paused = browser.send("/jobs/operations/clean-up/pause")
    assert paused.status_code == 303, paused.text
    assert "(paused)" in browser.see("/jobs")
    assert browser.send("/jobs/operations/clean-up/resume").status_code == 303
    assert browser.send("/jobs/operations/clean-up/explode").status_code == 404
    browser.send("/dead-letters/act", id=id_, action="discard", reason="a test")
