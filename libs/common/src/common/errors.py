"""What can go wrong, in the words of the domain. Nothing here knows of HTTP or AMQP."""

from pydantic import ValidationError


class PaybusError(Exception):
    """Base of errors whose message is meant to be read by a person."""


class NotFound(PaybusError):
    """What was asked for does not exist."""


class Invalid(PaybusError):
    """The request can't be understood; it has to change before it is sent again."""


class Conflict(PaybusError):
    """The thing's present state does not allow this."""


class Unauthenticated(PaybusError):
    """Who calls is not known: no token, or one that is not valid."""


class Forbidden(PaybusError):
    """The caller is known and has not the role that this needs."""


class TooLarge(PaybusError):
    """The body is larger than this endpoint takes."""


class TooSlow(PaybusError):
    """The request did not come as quickly as it has to."""


class TooMany(PaybusError):
    """The caller calls too often. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(PaybusError):
    """Our own broker or database can't be reached now; the same request may succeed later."""


class Upstream(PaybusError):
    """An outside system failed or refused; what it said is in the message."""


class Permanent(PaybusError):
    """Trying again can't help: the message goes to the dead letters at once."""


class RateLimited(PaybusError):
    """An outside system asked us to wait. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Busy(PaybusError):
    """Somebody else works on the same thing; come back in `retry_after` seconds.

    Not a failure: it uses up no attempt.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotYet(Busy):
    """It is not the time for this; the same request succeeds later. Nothing of it was done."""


class Undecided(PaybusError):
    """It may have been done, and that could not be written down."""


def describe(error: BaseException) -> str:
    """An error's class and words; many connection errors have no words of their own, and those of
    a `ValidationError` show the values that failed."""
    if isinstance(error, ValidationError):
        return f"ValidationError: {validation_faults(error)}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def validation_faults(error: ValidationError) -> str:
    """A validation error's places and reasons, without the values that failed."""
    return "; ".join(
        f"{'.'.join(str(part) for part in each['loc']) or 'body'}: {each['msg']}"
        for each in error.errors(include_input=False, include_url=False, include_context=False)
    )


class NotAuthorized(Upstream):
    """The other side does not take our credentials, or not any more."""


class ProviderTimeout(Upstream):
    """Nobody knows whether the call was taken: the other side may still be busy with it."""


class ProviderRejected(Upstream):
    """The other side understood and says no; what was asked for was not done."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
