"""The dashboard's addresses."""

from django.urls import path

from registry_admin.dashboard import calls, drift, history, overview, probes, service
from registry_admin.dashboard import map as service_map

app_name = "dashboard"
urlpatterns = [
    path("", overview.overview, name="home"),
    path("services/<path:name>/", service.service, name="service"),
    path("drift/", drift.drift, name="drift"),
    path("drift/prune/", drift.prune, name="prune"),
    path("history/", history.health, name="health-history"),
    path("history/syncs/", history.syncs, name="sync-history"),
    path("history/syncs/<int:pk>/", history.sync_run, name="sync-run"),
    path("history/changes/", history.changes, name="change-history"),
    path("map/", service_map.service_map, name="map"),
    path("api/calls", calls.report, name="calls"),
    path("health", probes.health, name="health"),
    path("ready", probes.ready, name="ready"),
]
