"""The address at which modules report their calls."""

from django.urls import path

from registry_admin.callgraph import views

app_name = "callgraph"
urlpatterns = [path("api/calls", views.report, name="report")]
