"""Aliases of the payout API that Paybus replaces; docs/migration.md lists them."""

from __future__ import annotations

from fastapi import APIRouter

from payouts.api import control, payouts, reports
from payouts.api.responses import PROBLEMS

legacy = APIRouter(
    prefix="/api/v1/payout-jobs", tags=["aliases"], responses=PROBLEMS, deprecated=True
)
for method, path, endpoint in (
    ("GET", "/status", control.status),
    ("GET", "/jobs", payouts.list_payouts),
    ("GET", "/jobs/{id_}", payouts.get_payout),
    ("GET", "/metrics", reports.metrics),
    ("POST", "/retry/{id_}", payouts.retry),
    ("POST", "/approve/{id_}", payouts.approve),
    ("POST", "/hold/{id_}", payouts.hold),
    ("POST", "/release/{id_}", payouts.release),
    ("POST", "/cancel/{id_}", payouts.cancel),
    ("POST", "/pause", control.pause),
    ("POST", "/resume", control.resume),
):
    legacy.add_api_route(path, endpoint, methods=[method])
