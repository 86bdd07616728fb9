"""Paying one payout: the intent first, the call outside of the transaction, then its result."""

import os
from functools import cache

import stripe
from django.db import transaction

from benchmarks.peer.models import Payout


def pay(id_: int) -> None:
    with transaction.atomic():
        payout = Payout.objects.select_for_update().get(pk=id_)
        if payout.status != "due":
            return
        payout.status = "submitting"
        payout.save(update_fields=["status", "updated_at"])
    transfer = _client().v1.transfers.create(
        {
            "amount": payout.amount,
            "currency": payout.currency,
            "destination": payout.destination,
            "transfer_group": payout.reference,
        },
        {"idempotency_key": payout.reference},
    )
    with transaction.atomic():
        payout = Payout.objects.select_for_update().get(pk=id_)
        payout.status = "paid"
        payout.transfer_id = transfer.id
        payout.save(update_fields=["status", "transfer_id", "updated_at"])


@cache
def _client() -> stripe.StripeClient:
    return stripe.StripeClient(
        "sk_test_peer", base_addresses={"api": os.environ["PEER_STRIPE_URL"]}
    )
