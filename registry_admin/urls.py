"""Where each page is."""

from django.contrib import admin
from django.urls import include, path

admin.site.site_header = "Registry Admin"
admin.site.site_title = "Registry Admin"
admin.site.enable_nav_sidebar = False  # the tables are wide
admin.site.site_url = None  # the sections lead there
admin.site.index_title = "Services and their health"

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("registry_admin.dashboard.urls")),
]
