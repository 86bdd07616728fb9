import django
from django.apps import apps
from django.db import connection

from benchmarks.peer import celery_app

__all__ = ["celery_app"]

if __name__ == "__main__":
    django.setup()
    with connection.schema_editor() as schema:
        for model in apps.get_app_config("peer").get_models():
            schema.create_model(model)
