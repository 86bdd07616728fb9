"""Exchange `provisioning`: organizations in the back end."""

from common.contracts.event import Id, Payload


class ReconcileOrganization(Payload):
    """A command: bring the integration's organization to the state that is wanted now."""

    integration_id: Id


class OrganizationChanged(Payload):
    """An organization after the change that the event's type names."""

    integration_id: Id
    customer_id: Id
    organization_id: Id | None
    error: str | None = None
