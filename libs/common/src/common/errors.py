"""Domain errors, independent of HTTP and AMQP."""

import os
from pathlib import Path

from pydantic import ValidationError


class PaybusError(Exception):
    """Base of errors whose message is written for human readers."""


class NotFound(PaybusError):
    """The requested object does not exist."""


class Invalid(PaybusError):
    """The request is malformed and must change before it is sent again."""


class Conflict(PaybusError):
    """The object's present state does not allow this."""


class Unauthenticated(PaybusError):
    """The caller is unknown: no token, or an invalid one."""


class Forbidden(PaybusError):
    """The caller is known but lacks the required role."""


class TooLarge(PaybusError):
    """The body exceeds this endpoint's limit."""


class TooSlow(PaybusError):
    """The request did not arrive within its time limit."""


class TooMany(PaybusError):
    """The caller exceeds its rate limit. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(PaybusError):
    """Our own broker or database can't be reached now; the same request may succeed later."""


class Upstream(PaybusError):
    """An external system failed or refused; the message has its response."""


class Permanent(PaybusError):
    """A retry can't succeed: the message is dead-lettered at once."""


class RateLimited(PaybusError):
    """An external system requested a delay. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Busy(PaybusError):
    """Another worker processes the same object; retry in `retry_after` seconds.

    Not a failure: it uses up no attempt.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotYet(Busy):
    """Premature request: the same one succeeds later. Nothing was done."""


class Undecided(PaybusError):
    """The operation may have been done, but its outcome could not be recorded."""


def describe(error: BaseException) -> str:
    """Return an error's class and message, without the invalid values of a `ValidationError`.

    Many connection errors have no message: then the class alone.
    """
    if isinstance(error, ValidationError):
        return f"ValidationError: {validation_faults(error)}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def unreadable(path: Path, error: OSError) -> str:
    """Return a sentence about a file or folder that can't be read, and what to do."""
    reason = f"{path} can't be read: {error.strerror}"
    if isinstance(error, PermissionError):
        reason += (
            f". This process runs as user {os.geteuid()}: make the file, and the folders above "
            "it, readable for that user"
        )
    return reason


def validation_faults(error: ValidationError) -> str:
    """Return a validation error's locations and reasons, without the invalid values."""
    return "; ".join(
        f"{'.'.join(str(part) for part in each['loc']) or 'body'}: {each['msg']}"
        for each in error.errors(include_input=False, include_url=False, include_context=False)
    )


class NotAuthorized(Upstream):
    """The external system does not accept our credentials, or no longer does."""


class ProviderTimeout(Upstream):
    """Unknown outcome: the external system may still be processing the call."""


class ProviderRejected(Upstream):
    """The external system understood and refused the request; nothing was done."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
