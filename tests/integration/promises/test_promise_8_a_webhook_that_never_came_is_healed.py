"""Promise 8: a missed webhook is recovered by polling the provider, through the same path."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from conftest import MakePaybus
from support.mobile_money import PROVIDERS, Checkout, ask_now, checkout, deliver, sandbox, tap
from support.paybus import Paybus
from support.waiting import until

_USED_UP = (
    "INSERT INTO rate_limits (name, full_at) "
    "VALUES ('poll fapshi/default', now() + interval '1 hour') "
    "ON CONFLICT (name) DO UPDATE SET full_at = EXCLUDED.full_at"
)
PROCESSES = ["sandbox-providers", "webhook-gateway", "webhook-gateway-worker"]


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(PROCESSES, PAYMENT_POLL_TIMEOUT_SECONDS="3") as paybus:
        tap(paybus)
        yield paybus


@pytest.fixture(autouse=True)
def well(paybus: Paybus) -> Iterator[None]:
    yield
    sandbox(paybus, "PUT", "/_behaviour", mode="well")


def healed(paybus: Paybus, provider: str) -> float:
    return paybus.metric(
        "webhook-gateway-worker", "paybus_payments_recovered_total", provider=provider
    )


def hints(paybus: Paybus, payment: Checkout) -> list[str]:
    """Return the ids of the payment's notifications; Orange's calls use another reference."""
    return [
        each["id"]
        for each in paybus.tapped()
        if each["type"] == "payment.notification_received"
        and each["data"]["reference"]
        in {payment.reference, payment.event.data.notification_reference}
    ]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("standing", ["succeeded", "failed"])
def test_what_became_of_a_payment_is_told_although_its_callback_was_dropped(
    paybus: Paybus, provider: str, standing: str
) -> None:
    deliver(paybus, drop=1)
    before = healed(paybus, provider)
    payment = checkout(paybus, provider)
    payment.settle(standing)
    payment.announce_and_ask()
    until(lambda: payment.told() == [f"payment.{standing}"], what="it is told")
    assert healed(paybus, provider) == before + (standing == "succeeded")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_webhook_and_poll_together_tell_it_once(paybus: Paybus, provider: str) -> None:
    deliver(paybus, duplicate=1, delay_seconds=1)
    payment = checkout(paybus, provider)
    payment.settle("succeeded")
    payment.announce_and_ask()
    until(lambda: payment.told() == ["payment.succeeded"], what="it is told")
    until(lambda: len(hints(paybus, payment)) == 2, what="both callbacks came")
    until(lambda: paybus.depths()["webhook-gateway.payments"] == 0, what="they are taken")
    until(payment.closed, what="they are asked about")
    assert payment.told() == ["payment.succeeded"]


_AGO = timedelta(hours=-2)
_TIMES = [
    ("fapshi", _AGO, True),
    ("flutterwave", _AGO, True),
    ("mtn-momo", _AGO, False),  # these two providers report no time
    ("orange-money", _AGO, False),
    ("fapshi", timedelta(hours=1), False),  # the provider's clock or time zone is wrong
    ("fapshi", timedelta(days=-20_000), False),  # a time that cannot be this payment's
]


@pytest.mark.parametrize(("provider", "ago", "said"), _TIMES)
def test_a_payment_s_time_is_the_provider_s_where_it_gives_one(
    paybus: Paybus, provider: str, ago: timedelta, said: bool
) -> None:
    deliver(paybus, drop=1)
    payment = checkout(paybus, provider)
    before = datetime.now(UTC)
    paid = (before + ago).replace(microsecond=0)
    url = f"/_payments/{provider}/_{payment.reference}"
    sandbox(paybus, "PUT", url, standing="succeeded", at=paid.isoformat())
    payment.announce_and_ask()
    until(lambda: payment.told() == ["payment.succeeded"], what="it is told")
    (told,) = payment.events()
    at = datetime.fromisoformat(told["time"])
    assert at == paid if said else before <= at <= datetime.now(UTC)


def test_a_callback_that_overtakes_the_announcement_is_asked_about_all_the_same(
    paybus: Paybus,
) -> None:
    deliver(paybus)
    payment = checkout(paybus, "fapshi")
    payment.settle("succeeded")
    until(lambda: payment.told() == ["payment.succeeded"], what="it is told")
    payment.announce()
    until(lambda: paybus.depths()["webhook-gateway.payments"] == 0, what="it is announced")
    until(payment.closed, what="it is asked about")
    assert payment.told() == ["payment.succeeded"]


def test_a_link_that_fails_first_and_is_paid_later_is_told_as_both(paybus: Paybus) -> None:
    deliver(paybus, drop=1)
    payment = checkout(paybus, "flutterwave")
    payment.settle("failed")
    payment.announce_and_ask()
    until(lambda: payment.told() == ["payment.failed"], what="the failure is told")
    payment.settle("succeeded")
    ask_now(paybus)
    until(
        lambda: payment.told() == ["payment.failed", "payment.succeeded"],
        what="the success is told too",
    )


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_payment_that_nobody_makes_expires_and_may_still_arrive(
    paybus: Paybus, provider: str
) -> None:
    deliver(paybus, drop=1)
    payment = checkout(paybus, provider, expires_in=0)
    payment.announce_and_ask()
    until(lambda: payment.told() == ["payment.expired"], what="it expires")
    payment.settle("succeeded")
    ask_now(paybus)
    until(
        lambda: payment.told() == ["payment.expired", "payment.succeeded"],
        what="it was under way, and arrived",
    )


@pytest.mark.parametrize("mode", ["fail", "rate_limit", "hang_after"])
def test_a_provider_that_does_not_answer_is_asked_again(paybus: Paybus, mode: str) -> None:
    deliver(paybus, drop=1)
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    payment = checkout(paybus, "mtn-momo")
    payment.settle("succeeded")
    sandbox(paybus, "PUT", "/_behaviour", mode=mode)
    failed = "paybus_payment_polls_total"

    def failures() -> float:
        return paybus.metric(
            "webhook-gateway-worker", failed, provider="mtn-momo", outcome="failed"
        )

    before = failures()
    payment.announce_and_ask()
    until(lambda: failures() > before, what="a question failed")
    assert payment.told() == []
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    ask_now(paybus)
    until(lambda: payment.told() == ["payment.succeeded"], what="it is told")


def test_an_answer_about_another_payment_is_none(paybus: Paybus) -> None:
    deliver(paybus, drop=1)
    mine, other = checkout(paybus, "fapshi"), checkout(paybus, "fapshi")
    sandbox(paybus, "PUT", f"/_payments/fapshi/_{mine.reference}/mix_up", with_=other.reference)
    other.settle("succeeded")
    mine.announce_and_ask()
    query = "SELECT error FROM pending_payments WHERE reference = %s"
    until(
        lambda: "payment other than" in str(paybus.sql("webhook-gateway", query, mine.reference)),
        what="the answer is seen through",
    )
    assert mine.told() == []


def test_a_hint_that_comes_while_a_question_is_under_way_is_not_forgotten(paybus: Paybus) -> None:
    """Without the notification, the next poll would be more than half a minute away."""
    deliver(paybus)
    payment = checkout(paybus, "mtn-momo")
    sandbox(paybus, "PUT", "/_behaviour", mode="hang_after")
    payment.announce_and_ask()
    query = "SELECT poll_count > 0 FROM pending_payments WHERE reference = %s"
    until(
        lambda: paybus.sql("webhook-gateway", query, payment.reference) == [(True,)],
        what="a question is under way",
    )
    payment.settle("succeeded")
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    until(lambda: payment.told() == ["payment.succeeded"], what="it is told", seconds=25)


def test_a_provider_that_asks_to_wait_holds_up_no_other(paybus: Paybus) -> None:
    deliver(paybus, drop=1)
    slow, quick = checkout(paybus, "fapshi"), checkout(paybus, "flutterwave")
    for payment in (slow, quick):
        payment.settle("succeeded")
    paybus.sql("webhook-gateway", _USED_UP)
    slow.announce()
    quick.announce_and_ask()
    until(lambda: quick.told() == ["payment.succeeded"], what="the other is told")
    assert slow.told() == []
    paybus.sql("webhook-gateway", "DELETE FROM rate_limits")
    ask_now(paybus)
    until(lambda: slow.told() == ["payment.succeeded"], what="it is told in its turn")


def test_a_worker_that_is_killed_while_it_asks_is_replaced(make_paybus: MakePaybus) -> None:
    with make_paybus(["sandbox-providers", "webhook-gateway"]) as paybus:
        tap(paybus)
        deliver(paybus, drop=1)
        payment = checkout(paybus, "fapshi")
        payment.settle("succeeded")
        sandbox(paybus, "PUT", "/_behaviour", mode="hang_after")
        paybus.start("webhook-gateway-worker")
        payment.announce()
        query = "SELECT poll_count FROM pending_payments WHERE reference = %s"

        def was_asked() -> bool:
            ask_now(paybus)
            return paybus.sql("webhook-gateway", query, payment.reference) > [(0,)]

        until(was_asked, what="it is asked about")
        paybus.system.processes["webhook-gateway-worker"].kill()
        sandbox(paybus, "PUT", "/_behaviour", mode="well")
        paybus.start("webhook-gateway-worker")
        until(lambda: payment.told() == ["payment.succeeded"], what="it is told")


def test_a_payment_that_nobody_can_ask_about_is_shown(paybus: Paybus) -> None:
    """Its endpoint is not in the file, so the payment is never polled and an operator must know."""
    payment = checkout(paybus, "fapshi", endpoint="forgotten")
    payment.announce()
    worker = "webhook-gateway-worker"
    until(
        lambda: paybus.metric(worker, "paybus_unpollable_payments", provider="fapshi") == 1,
        what="it is counted",
    )
    assert '"endpoint": "fapshi/forgotten"' in paybus.log(worker)
    health = paybus.http.get(f"{paybus.layout.url(worker)}/health/detailed").json()
    (shown,) = (each for each in health["payments"] if each["endpoint"] == "fapshi/forgotten")
    assert (shown["pending"], shown["polled"]) == (1, False)
