import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.peer.settings")

from celery import Celery

app = Celery("peer")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["benchmarks.peer"])
