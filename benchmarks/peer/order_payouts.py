import argparse
from uuid import uuid4

import django

from benchmarks.peer.celery_app import app

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, required=True)
    count = parser.parse_args().count
    django.setup()
    from benchmarks.peer.models import Payout

    Payout.objects.all().delete()
    made = Payout.objects.bulk_create(
        Payout(
            reference=uuid4().hex,
            destination=f"acct_{number % 50:016}",
            amount=1000,
            currency="usd",
            status="due",
        )
        for number in range(count)
    )
    for payout in made:
        app.send_task("benchmarks.peer.tasks.pay", [payout.pk], queue="payouts")
