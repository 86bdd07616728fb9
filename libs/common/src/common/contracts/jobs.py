"""Job messages from a service's scheduler to its own workers: run something once."""

from typing import Final

from pydantic import AwareDatetime

from common.contracts.event import Id, Payload

# The rest of the event type is the service, with underscores.
JOB_PREFIX: Final = "job.run."


class RunJob(Payload):
    """Scheduler tick: run this job once. `run_id` names the run.

    A run that leaves work for a further run also passes on the time (UTC) at which the first run
    was enqueued, so that cancelling the job covers all of them.
    """

    job: str
    run_id: Id
    first_ordered_at: AwareDatetime | None = None
