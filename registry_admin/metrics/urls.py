"""The address that Prometheus scrapes."""

from django.urls import path

from registry_admin.metrics import views

app_name = "metrics"
urlpatterns = [path("metrics", views.metrics, name="metrics")]
