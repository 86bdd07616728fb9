from typing import Any

from celery import shared_task

from benchmarks.peer import effects


@shared_task
def process(event: dict[str, Any]) -> None:
    effects.apply(event)
