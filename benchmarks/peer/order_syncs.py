import sys

import django

from benchmarks.peer.celery_app import app

if __name__ == "__main__":
    django.setup()
    from benchmarks.peer.models import BankTransaction

    BankTransaction.objects.all().delete()
    for public_token in sys.argv[1:]:
        app.send_task("benchmarks.peer.tasks.sync_bank", [public_token], queue="banks")
