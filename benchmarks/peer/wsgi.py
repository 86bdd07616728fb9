from benchmarks.peer import celery_app  # isort: skip - it names the settings
from django.core.wsgi import get_wsgi_application

__all__ = ["application", "celery_app"]

application = get_wsgi_application()
