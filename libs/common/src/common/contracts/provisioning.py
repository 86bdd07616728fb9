"""Exchange `provisioning`: organizations in the backend API."""

from common.contracts.event import Id, Payload


class ReconcileOrganization(Payload):
    """Command: bring the integration's organization to the state that is desired now."""

    integration_id: Id


class OrganizationChanged(Payload):
    """Organization after the change that the event type names."""

    integration_id: Id
    customer_id: Id
    organization_id: Id | None
    error: str | None = None
