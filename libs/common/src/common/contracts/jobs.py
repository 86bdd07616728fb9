"""Job messages: a service's scheduler tells its own workers to run something once."""

from pydantic import AwareDatetime

from common.contracts.event import Id, Payload


class RunJob(Payload):
    """A tick of the scheduler: run this job once. `run_id` names the run.

    A run that leaves the rest to another one hands on when the first was ordered (UTC): who cancels
    the job means all of them.
    """

    job: str
    run_id: Id
    first_ordered_at: AwareDatetime | None = None
