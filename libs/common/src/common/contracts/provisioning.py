"""Exchange `provisioning`: organizations in the back end."""

from common.contracts.event import Payload


class OrganizationRequested(Payload):
    """A command: bring the integration's organization to the state that is wanted now."""

    integration_id: str


class OrganizationChanged(Payload):
    """An organization after the change that the event's type names."""

    integration_id: str
    customer_id: str
    organization_id: str | None
    error: str | None = None
