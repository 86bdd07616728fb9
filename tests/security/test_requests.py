"""Requests are checked before they are read, and none can hold a connection or fill the memory."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from common.clients import accounts_file
from common.http.middleware import BODY_SECONDS, MOST_BODY_BYTES, MOST_HELD_BYTES, MOST_VALUES
from common.http.server_protocol import HEAD_SECONDS, MOST_CONNECTIONS
from common.observability import logging
from common.observability.redaction import Redactor
from conftest import MakePaybus
from devstack import warm
from support.paybus import Paybus
from support.waiting import until

_SERVICES = ("subscription", "provisioning", "payouts", "bank-sync", "orders", "operations")
# Reading this much would be visible.
_HUGE = 64 * 1024 * 1024
_KEY = {"Idempotency-Key": "many"}


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus([f"{service}-api" for service in _SERVICES]) as paybus:
        yield paybus


def connect(paybus: Paybus, service: str) -> socket.socket:
    parts = urlsplit(paybus.layout.url(f"{service}-api"))
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)


def resident(paybus: Paybus, service: str) -> int:
    """Return the peak memory of the process, in bytes."""
    pid = paybus.system.processes[f"{service}-api"].pid
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def descriptors(paybus: Paybus, service: str) -> int:
    pid = paybus.system.processes[f"{service}-api"].pid
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def healthy(connection: socket.socket) -> bool:
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status == 200


def answer_of(connection: socket.socket) -> bytes:
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


def test_who_does_not_read_keeps_neither_the_database_nor_a_connection(paybus: Paybus) -> None:
    """More exports than database connections, to callers who read nothing."""
    fill = """
        INSERT INTO payouts (id, tenant, idempotency_key, request, recipient_id, provider, account,
                             amount, fee, currency, funding, priority, state, created_by, due_at,
                             error)
        SELECT 'unread-' || n, 'default', 'unread-' || n, '{"recipient": "x"}', 'x', 'stripe',
               'default', 1, 0, 'USD', 'account', 'normal', 'failed', 'x', now(), repeat('x', 600)
        FROM generate_series(1, 20000) AS n
    """
    paybus.sql("payouts", fill)
    request = (
        "GET /v1/reports/payouts.csv?first=2000-01-01&last=2100-01-01 HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {paybus.token('viewer')}\r\n\r\n"
    )
    parts = urlsplit(paybus.layout.url("payouts-api"))
    before = descriptors(paybus, "payouts")
    try:
        with ExitStack() as exit_:
            unread = []
            for _ in range(12):
                each = exit_.enter_context(socket.socket())
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                each.settimeout(60)
                each.connect((parts.hostname or "", parts.port or 0))
                each.sendall(request.encode())
                unread.append(each)
            for each in unread:
                assert each.recv(1, socket.MSG_PEEK), "it is being sent"
            answer = paybus.api("GET", "payouts", "/v1/batches", role="viewer")
            assert answer.status_code == 200, answer.text
            assert descriptors(paybus, "payouts") >= before + len(unread)
            until(
                lambda: descriptors(paybus, "payouts") < before + len(unread),
                what="they are let go of",
            )
    finally:
        paybus.sql("payouts", "DELETE FROM payouts WHERE id LIKE 'unread-%%'")


@pytest.mark.parametrize("service", _SERVICES)
@pytest.mark.parametrize("declared", [True, False])
def test_without_a_token_no_body_is_read(paybus: Paybus, service: str, declared: bool) -> None:
    length = b"Content-Length: 1000000000" if declared else b"Transfer-Encoding: chunked"
    with connect(paybus, service) as connection:
        connection.sendall(b"POST /v1/anything HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n")
        assert answer_of(connection).startswith(b"HTTP/1.1 401"), "before anything of it was sent"


@pytest.mark.parametrize(
    ("service", "path"), [("payouts", "/v1/x"), ("operations", "/console/login")]
)
def test_a_body_that_is_too_large_is_refused_while_it_is_read(
    paybus: Paybus, service: str, path: str
) -> None:
    before = resident(paybus, service)
    url = f"{paybus.layout.url(f'{service}-api')}{path}"
    headers = {"Authorization": f"Bearer {paybus.token('admin')}"}

    def much() -> Iterator[bytes]:
        for _ in range(_HUGE // 65536):
            yield b"x" * 65536

    with httpx.Client(timeout=60) as http:
        try:
            answer = http.post(url, headers=headers, content=much())
        except httpx.WriteError:
            pass  # the connection was closed while we were still sending
        else:
            assert answer.status_code == 413
            assert f"{MOST_BODY_BYTES} bytes" in answer.json()["detail"]
        declared = http.post(url, headers=headers, content=b"x" * (MOST_BODY_BYTES + 1))
        assert declared.status_code == 413
    assert resident(paybus, service) - before < _HUGE / 2


def test_a_body_has_no_more_values_than_are_checked_in_a_moment(paybus: Paybus) -> None:
    many = {f"k{number}": 0 for number in range(MOST_VALUES + 1)}
    for service, path in (("orders", "/v1/orders"), ("payouts", "/v1/recipients")):
        answer = paybus.api("POST", service, path, role="admin", json=many)
        assert (answer.status_code, "values at most" in answer.text) == (413, True)
        few = dict(list(many.items())[:500])
        answer = paybus.api("POST", service, path, role="admin", json=few, extra_headers=_KEY)
        assert (answer.status_code, "more faults" in answer.text) == (422, True)
        assert len(answer.content) < 50_000


@pytest.mark.parametrize(
    ("begun", "seconds"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost:", HEAD_SECONDS),
        (
            b"POST /console/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
            BODY_SECONDS,
        ),
    ],
    ids=["half a head", "half a body"],
)
def test_what_never_ends_is_ended(paybus: Paybus, begun: bytes, seconds: float) -> None:
    with connect(paybus, "operations") as connection:
        connection.settimeout(seconds * 4)
        connection.sendall(begun)
        started = time.monotonic()
        answer_of(connection)
        # Generous for a busy machine; an unlimited wait takes 75 s or forever.
        assert seconds / 2 < time.monotonic() - started < seconds * 4


def test_large_bodies_are_not_all_held_at_once(paybus: Paybus) -> None:
    begun = b"POST /console/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    almost = begun % MOST_BODY_BYTES + b"x" * (MOST_BODY_BYTES - 1)
    before = resident(paybus, "operations")
    with ExitStack() as open_:
        refused = 0
        for _ in range(3 * MOST_HELD_BYTES // MOST_BODY_BYTES):
            connection = open_.enter_context(connect(paybus, "operations"))
            try:
                connection.sendall(almost)
                connection.settimeout(0.01)
                refused += connection.recv(12) == b"HTTP/1.1 503"
            except TimeoutError:
                pass  # it waits for the last byte
            except ConnectionError:
                refused += 1  # closed while it was sending
        assert refused
        small = open_.enter_context(connect(paybus, "operations"))
        small.sendall(begun % 1000 + b"x" * 1000)
        assert small.recv(12) == b"HTTP/1.1 404"
    assert resident(paybus, "operations") - before < 2 * MOST_HELD_BYTES

    def one_more() -> bool:
        with connect(paybus, "operations") as connection:
            connection.sendall(almost + b"x")
            return connection.recv(12) == b"HTTP/1.1 404"

    until(one_more, what="room for a large body")


def test_only_a_few_requests_wait_on_one_connection(paybus: Paybus) -> None:
    with connect(paybus, "orders") as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2_000)
        assert answer_of(connection).count(b"HTTP/1.1 ") <= 10
    with connect(paybus, "orders") as connection:
        assert healthy(connection)


def test_headers_behind_a_body_are_bounded(paybus: Paybus) -> None:
    begun = b"POST /console/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    with connect(paybus, "orders") as connection:
        connection.sendall(begun + b"ab:cd\r\n" * 4_000)
        assert answer_of(connection).startswith(b"HTTP/1.1 400")


def test_of_too_many_connections_the_one_longest_without_a_request_is_closed(
    paybus: Paybus,
) -> None:
    with ExitStack() as open_:
        first, second = (open_.enter_context(connect(paybus, "orders")) for _ in range(2))
        for _ in range(MOST_CONNECTIONS - 1):
            open_.enter_context(connect(paybus, "orders"))
        assert first.recv(1) == b""
        assert healthy(second)
        assert healthy(open_.enter_context(connect(paybus, "orders")))
        assert healthy(second), "it had a request"


def test_a_blank_line_after_a_request_keeps_no_connection(paybus: Paybus) -> None:
    with connect(paybus, "operations") as connection:
        connection.settimeout(HEAD_SECONDS * 4)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while b'"ok"' not in answer:
            answer += connection.recv(65536)
        connection.sendall(b"\r\n")
        assert answer_of(connection) == b""


def test_a_head_of_a_megabyte_is_not_read(paybus: Paybus) -> None:
    with connect(paybus, "operations") as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        line = b"x-" + b"a" * 1000 + b": b\r\n"
        try:
            for _ in range(1000):
                connection.sendall(line)
            assert answer_of(connection) == b""
        except ConnectionError:
            pass


@pytest.mark.parametrize("service", _SERVICES)
def test_nothing_is_loaded_from_elsewhere(paybus: Paybus, service: str) -> None:
    url = paybus.layout.url(f"{service}-api")
    for path in ("/docs", "/redoc"):
        assert paybus.api("GET", service, path).status_code == 404
    answer = paybus.http.get(f"{url}/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in answer.headers["strict-transport-security"]


@pytest.mark.parametrize("date", ["0001-01-01", "9999-12-31"])
def test_dates_at_the_ends_of_time_are_answered(paybus: Paybus, date: str) -> None:
    for service, path in (
        ("payouts", f"/v1/reports/daily?day={date}"),
        ("operations", f"/v1/dead-letters?since={date}T00:00:00Z"),
        ("operations", f"/v1/journal?since={date}T00:00:00Z&until={date}T23:59:59Z"),
        ("orders", f"/v1/rates?day={date}"),
    ):
        answer = paybus.api("GET", service, path, role="admin")
        assert answer.status_code < 500, f"{path}: {answer.text}"


def test_another_tenant_is_not_told_of_the_audit_log(paybus: Paybus) -> None:
    path = "/v1/reports/daily"
    ours = paybus.api("GET", "payouts", path).json()
    theirs = paybus.api("GET", "payouts", path, tenant="other").json()
    assert set(ours) - set(theirs) == {"audit_head"}


@pytest.mark.parametrize("module", ["operations.cli", "payouts.cli.main"])
@pytest.mark.parametrize("token", ["a b", "a\nb: c", "t\u00f6k"])
def test_the_command_line_prints_no_token(paybus: Paybus, module: str, token: str) -> None:
    env = os.environ | {
        "PAYBUS_URL": paybus.layout.url("operations-api"),
        "PAYOUTS_URL": paybus.layout.url("payouts-api"),
        "PAYBUS_TOKEN": f"secret-{token}",
    }
    done = warm.run(module, ["status"], env)
    assert done.returncode == 2
    assert "secret-" not in done.stdout + done.stderr
    assert "not a JSON Web Token" in done.stderr


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://shop.example.com/thanks", True),
        ("http://127.0.0.1:3000/", True),
        ("http://localhost:3000/", True),
        ("http://shop.example.com/", False),
        ("https://169.254.169.254/latest/meta-data", False),
        ("https://10.0.0.1/", False),
        ("https://[fe80::1]/", False),
        ("javascript:alert(1)", False),
    ],
)
def test_payers_are_sent_back_to_the_public_internet_only(
    paybus: Paybus, url: str, good: bool
) -> None:
    wanted = {
        "provider": "stripe",
        "amount": 500,
        "currency": "USD",
        "customer": {"reference": "user-1"},
        "return_url": url,
    }
    answer = paybus.api(
        "POST",
        "subscription",
        "/v1/checkouts",
        json=wanted,
        extra_headers={"Idempotency-Key": uuid4().hex},
    )
    refused = answer.status_code in {400, 422} and "return_url" in answer.text
    assert refused is not good, answer.text


def test_a_file_that_everybody_may_write_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.configure(service="tests", role="api", level="INFO", redact=Redactor())
    file = tmp_path / "endpoints.toml"
    file.write_text('[[endpoint]]\nprovider = "stripe"\ntenant = "default"\n')
    for mode, warned in ((0o640, False), (0o666, True)):
        file.chmod(mode)
        accounts_file.read(file, "endpoint", accounts_file.Account)
        assert ("accounts_file_world_writable" in capsys.readouterr().out) is warned
