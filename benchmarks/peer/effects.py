"""What a `customer.subscription.created` does, in one transaction."""

from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from benchmarks.peer.models import Customer, OutboxMessage, Plan, ProcessedEvent, Subscription


def apply(event: dict[str, Any]) -> None:
    snapshot = event["data"]["object"]
    item = snapshot["items"]["data"][0]
    price = item["price"]
    with transaction.atomic():
        _, fresh = ProcessedEvent.objects.get_or_create(event_id=event["id"])
        if not fresh:
            return
        customer, _ = Customer.objects.get_or_create(
            provider_customer_id=snapshot["customer"],
            defaults={
                "email": snapshot["metadata"]["email"],
                "name": snapshot["metadata"]["organization"],
                "version": 1,
            },
        )
        plan, _ = Plan.objects.get_or_create(
            provider_plan_id=price["id"],
            defaults={
                "name": price["nickname"],
                "amount": price["unit_amount"],
                "currency": price["currency"].upper(),
                "interval": price["recurring"]["interval"],
            },
        )
        subscription, _ = Subscription.objects.get_or_create(
            provider_subscription_id=snapshot["id"],
            defaults={
                "customer": customer,
                "plan": plan,
                "status": snapshot["status"],
                "current_period_end": datetime.fromtimestamp(item["current_period_end"], UTC),
                "cancel_at_period_end": snapshot["cancel_at_period_end"],
                "version": 1,
            },
        )
        contact = {"email": customer.email, "name": customer.name}
        OutboxMessage.objects.bulk_create(
            [
                OutboxMessage(
                    routing_key="customer.changed", body={"customer": customer.pk} | contact
                ),
                OutboxMessage(
                    routing_key="subscription.activated",
                    body={"subscription": subscription.pk, "customer": customer.pk, **contact},
                ),
            ]
        )
