from typing import Any

from celery import shared_task

from benchmarks.peer import effects, payouts


@shared_task
def process(event: dict[str, Any]) -> None:
    effects.apply(event)


@shared_task(queue="payouts")
def pay(payout: int) -> None:
    payouts.pay(payout)
