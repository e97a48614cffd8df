"""The dashboard's addresses."""

from django.urls import path
from django.views.generic import RedirectView

from registry_admin.dashboard import views

app_name = "dashboard"
urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:inventory_service_changelist"), name="home"),
    path("health", views.health, name="health"),
    path("ready", views.ready, name="ready"),
]
