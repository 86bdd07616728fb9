from typing import Any

from celery import shared_task

from benchmarks.peer import banks, effects, payouts


@shared_task
def process(event: dict[str, Any]) -> None:
    effects.apply(event)


@shared_task(queue="payouts")
def pay(payout: int) -> None:
    payouts.pay(payout)


@shared_task(queue="banks")
def sync_bank(public_token: str) -> None:
    banks.sync(public_token)
