"""Addresses of the admin and of all pages."""

from django.contrib import admin
from django.urls import include, path

from registry_admin.access.views import password_change

admin.site.site_header = "Registry Admin"
admin.site.site_title = "Registry Admin"
admin.site.enable_nav_sidebar = False  # the tables are wide
admin.site.site_url = None  # the sections lead there
admin.site.index_title = "Services and their health"

handler403 = "registry_admin.access.views.permission_denied"
handler500 = "registry_admin.access.views.server_error"

urlpatterns = [
    path("admin/password_change/", admin.site.admin_view(password_change, cacheable=True), name="password-change"),
    path("admin/", admin.site.urls),
    path("", include("registry_admin.api.urls")),
    path("", include("registry_admin.callgraph.urls")),
    path("", include("registry_admin.metrics.urls")),
    path("", include("registry_admin.dashboard.urls")),
]
