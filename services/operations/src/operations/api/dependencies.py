"""The dependencies of the endpoints."""

from __future__ import annotations

from typing import Annotated

from common.http.resources import provided
from operations.monitoring.service_clients import Services
from operations.service import OperatorService

Operators = Annotated[OperatorService, provided(OperatorService)]
ServiceClients = Annotated[Services, provided(Services)]
