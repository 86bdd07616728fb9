import json
from typing import Any

import stripe
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from benchmarks.peer import effects
from benchmarks.peer.tasks import process


@csrf_exempt
@require_POST
def enqueue(request: HttpRequest) -> HttpResponse:
    """Verify, hand to Celery, answer."""
    event = _verified(request)
    if event is None:
        return HttpResponseBadRequest()
    process.delay(event)
    return HttpResponse()


@csrf_exempt
@require_POST
def synchronous(request: HttpRequest) -> HttpResponse:
    """Verify, do it, answer."""
    event = _verified(request)
    if event is None:
        return HttpResponseBadRequest()
    effects.apply(event)
    return HttpResponse()


def _verified(request: HttpRequest) -> dict[str, Any] | None:
    header = request.headers.get("Stripe-Signature", "")
    text = request.body.decode()
    try:
        stripe.WebhookSignature.verify_header(text, header, settings.STRIPE_WEBHOOK_SECRET, 300)
    except stripe.SignatureVerificationError:
        return None
    event: dict[str, Any] = json.loads(text)
    return event
