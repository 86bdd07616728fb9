"""JSON lines on standard output, with the ids of the event at hand."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.typing import FilteringBoundLogger

from common.contracts.event import Event
from common.observability.redaction import Redactor

# Of a stack, its end is in the last of the lines that are written of it.
_LONGEST_VALUE = 32_768


def configure(*, service: str, role: str, level: str, redact: Redactor) -> None:
    """Send structlog's and the standard library's records through one JSON formatter."""

    def name_process(_: Any, __: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {**record, "service": service, "role": role}

    def mask(_: Any, __: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {
            k: redact.beginning(v, _LONGEST_VALUE) if isinstance(v, str) else v
            for k, v in record.items()
        }

    shared: list[Any] = [
        merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        name_process,
        mask,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.EventRenamer("message"),
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # Their own reconnect noise; ours says it once, in words.
    for noisy in ("aiormq", "aio_pika", "httpx", "httpcore", "stripe", "uvicorn"):
        logging.getLogger(noisy).setLevel("ERROR")
    logging.getLogger("aiormq.connection").setLevel("CRITICAL")


def get_logger(name: str) -> FilteringBoundLogger:
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


@contextmanager
def handling(event: Event[Any]) -> Iterator[None]:
    """Every record written inside carries the event's ids."""
    with bound_contextvars(
        event_id=event.id,
        event_type=event.type,
        correlation_id=event.correlationid,
        tenant=event.tenant,
    ):
        yield
