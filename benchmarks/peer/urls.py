from django.urls import path

from benchmarks.peer import views

urlpatterns = [path("webhooks/stripe", views.enqueue), path("sync/stripe", views.synchronous)]
