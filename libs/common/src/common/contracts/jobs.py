"""Job messages: a service's scheduler tells its own workers to run something once."""

from common.contracts.event import Id, Payload


class JobDue(Payload):
    """A tick of the scheduler: run this job once. `run_id` names the run."""

    job: str
    run_id: Id
