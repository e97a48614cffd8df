"""The dashboard's addresses."""

from django.urls import path

from registry_admin.dashboard import service_name as _service_name  # noqa: F401 - registers the converter
from registry_admin.dashboard.views import call_graph as service_map
from registry_admin.dashboard.views import drift, history, overview, probes, service

app_name = "dashboard"
urlpatterns = [
    path("", overview.overview, name="home"),
    path("services/<service_name:name>/", service.service, name="service"),
    path("drift/", drift.drift, name="drift"),
    path("drift/prune/", drift.prune, name="prune"),
    path("history/", history.health, name="health-history"),
    path("history/syncs/", history.syncs, name="sync-history"),
    path("history/syncs/<int:pk>/", history.sync_run, name="sync-run"),
    path("history/changes/", history.changes, name="change-history"),
    path("map/", service_map.service_map, name="map"),
    path("health", probes.health, name="health"),
    path("ready", probes.ready, name="ready"),
]
