"""Job messages from a service's scheduler to its own workers: run something once."""

from pydantic import AwareDatetime

from common.contracts.event import Id, Payload


class RunJob(Payload):
    """Scheduler tick: run this job once. `run_id` names the run.

    A run that leaves work to a further run passes on when the first was enqueued (UTC): cancelling
    the job covers all of them.
    """

    job: str
    run_id: Id
    first_ordered_at: AwareDatetime | None = None
