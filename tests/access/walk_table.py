"""What each role gets at each address: statuses of nobody, a module's token, viewer, operator, pruner and superuser.

The columns: GET and HEAD; POST; PUT, PATCH and DELETE; OPTIONS. Where methods of a column differ, their statuses are
parted by a slash. Requests have no body, so that what is allowed changes nothing: the forms' own tests send bodies.
Django's admin answers PUT, PATCH, DELETE and OPTIONS as it answers GET.
"""

STAFF = "302 302 200 200 200 200"
EDITORS = "302 302 403 200 200 200"
REMOVERS = "302 302 403 403 200 200"
SUPERUSERS = "302 302 403 403 403 200"
NOBODY = "302 302 403 403 403 403"
MISSING = "302 302 404 404 404 404"
NO_METHOD = "405 405 405 405 405 405"
STAFF_NO_METHOD = "302 302 405 405 405 405"
ALL = "200 200 200 200 200 200"
REDIRECT = "302 302 302 302 302 302"
TOKEN_ONLY = "401 401 401 401 401 401"
NOWHERE = "404 404 404 404 404 404"

TABLE: dict[str, tuple[str, str, str, str]] = {
    "admin:(?P<url>.*)$": (MISSING, MISSING, MISSING, MISSING),
    "admin:<path:object_id>/": (MISSING, MISSING, MISSING, MISSING),
    "admin:app_list": (STAFF, STAFF, STAFF, STAFF),
    "admin:auth_group_add": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:auth_group_change": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:auth_group_changelist": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:auth_group_delete": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:auth_group_history": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:auth_user_add": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:auth_user_change": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:auth_user_changelist": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:auth_user_delete": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:auth_user_history": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:auth_user_password_change": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:autocomplete": (NOBODY, STAFF_NO_METHOD, STAFF_NO_METHOD, STAFF),
    "admin:callgraph_moduletoken_add": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:callgraph_moduletoken_change": (SUPERUSERS, NOBODY, SUPERUSERS, SUPERUSERS),
    "admin:callgraph_moduletoken_changelist": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:callgraph_moduletoken_delete": (NOBODY, NOBODY, NOBODY, NOBODY),
    "admin:callgraph_moduletoken_history": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:index": (STAFF, STAFF, STAFF, STAFF),
    "admin:inventory_auditevent_add": (NOBODY, NOBODY, NOBODY, NOBODY),
    "admin:inventory_auditevent_change": (SUPERUSERS, NOBODY, SUPERUSERS, SUPERUSERS),
    "admin:inventory_auditevent_changelist": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:inventory_auditevent_delete": (NOBODY, NOBODY, NOBODY, NOBODY),
    "admin:inventory_auditevent_history": (SUPERUSERS, SUPERUSERS, SUPERUSERS, SUPERUSERS),
    "admin:inventory_evictionhalt_add": (NOBODY, NOBODY, NOBODY, NOBODY),
    "admin:inventory_evictionhalt_change": (STAFF, NOBODY, STAFF, STAFF),
    "admin:inventory_evictionhalt_changelist": (STAFF, STAFF, STAFF, STAFF),
    "admin:inventory_evictionhalt_delete": (NOBODY, NOBODY, NOBODY, NOBODY),
    "admin:inventory_evictionhalt_history": (STAFF, STAFF, STAFF, STAFF),
    "admin:inventory_healthtransition_add": (NOBODY, NOBODY, NOBODY, NOBODY),
    "admin:inventory_healthtransition_change": (STAFF, NOBODY, STAFF, STAFF),
    "admin:inventory_healthtransition_changelist": (STAFF, STAFF, STAFF, STAFF),
    "admin:inventory_healthtransition_delete": (NOBODY, NOBODY, NOBODY, NOBODY),
    "admin:inventory_healthtransition_history": (STAFF, STAFF, STAFF, STAFF),
    "admin:inventory_observedinstance_add": (NOBODY, NOBODY, NOBODY, NOBODY),
    "admin:inventory_observedinstance_change": (STAFF, NOBODY, STAFF, STAFF),
    "admin:inventory_observedinstance_changelist": (STAFF, STAFF, STAFF, STAFF),
    "admin:inventory_observedinstance_delete": (NOBODY, NOBODY, NOBODY, NOBODY),
    "admin:inventory_observedinstance_history": (STAFF, STAFF, STAFF, STAFF),
    "admin:inventory_service_add": (EDITORS, EDITORS, EDITORS, EDITORS),
    "admin:inventory_service_change": (STAFF, EDITORS, STAFF, STAFF),
    "admin:inventory_service_changelist": (STAFF, STAFF, STAFF, STAFF),
    "admin:inventory_service_delete": (REMOVERS, REMOVERS, REMOVERS, REMOVERS),
    "admin:inventory_service_export": (STAFF, STAFF, STAFF, STAFF),
    "admin:inventory_service_history": (REDIRECT, REDIRECT, REDIRECT, REDIRECT),
    "admin:inventory_service_import": (EDITORS, EDITORS, EDITORS, EDITORS),
    "admin:inventory_syncrun_add": (NOBODY, NOBODY, NOBODY, NOBODY),
    "admin:inventory_syncrun_change": (STAFF, NOBODY, STAFF, STAFF),
    "admin:inventory_syncrun_changelist": (STAFF, STAFF, STAFF, STAFF),
    "admin:inventory_syncrun_delete": (NOBODY, NOBODY, NOBODY, NOBODY),
    "admin:inventory_syncrun_history": (STAFF, STAFF, STAFF, STAFF),
    "admin:jsi18n": (STAFF, STAFF_NO_METHOD, STAFF_NO_METHOD, STAFF),
    "admin:login": (
        "200 200 200/302 200/302 200/302 200/302",
        ALL,
        "200/405 200/405 200/405 200/405 200/405 200/405",
        ALL,
    ),
    "admin:logout": (STAFF_NO_METHOD, STAFF, REDIRECT, REDIRECT),
    "admin:password_change": (STAFF, STAFF, "302 302 200/405 200/405 200/405 200/405", STAFF),
    "admin:password_change_done": (STAFF, STAFF_NO_METHOD, STAFF_NO_METHOD, STAFF),
    "admin:view_on_site": (MISSING, MISSING, MISSING, MISSING),
    "api:api-root": (NOWHERE, NOWHERE, NOWHERE, NOWHERE),
    "api:get_service": (TOKEN_ONLY, NO_METHOD, NO_METHOD, NO_METHOD),
    "api:get_status": (TOKEN_ONLY, NO_METHOD, NO_METHOD, NO_METHOD),
    "api:list_instances": (TOKEN_ONLY, NO_METHOD, NO_METHOD, NO_METHOD),
    "api:list_services": (TOKEN_ONLY, NO_METHOD, NO_METHOD, NO_METHOD),
    "callgraph:report": (NO_METHOD, "401 413 401 401 401 401", NO_METHOD, NO_METHOD),
    "dashboard:change-history": (STAFF, NO_METHOD, NO_METHOD, NO_METHOD),
    "dashboard:drift": (STAFF, "302 302 403 302 302 302", NO_METHOD, NO_METHOD),
    "dashboard:health": (ALL, NO_METHOD, NO_METHOD, NO_METHOD),
    "dashboard:health-history": (STAFF, NO_METHOD, NO_METHOD, NO_METHOD),
    "dashboard:home": (STAFF, NO_METHOD, NO_METHOD, NO_METHOD),
    "dashboard:map": (STAFF, NO_METHOD, NO_METHOD, NO_METHOD),
    "dashboard:prune": (REMOVERS, "302 302 403 403 302 302", NO_METHOD, NO_METHOD),
    "dashboard:ready": (ALL, NO_METHOD, NO_METHOD, NO_METHOD),
    "dashboard:service": (STAFF, REDIRECT, STAFF_NO_METHOD, STAFF_NO_METHOD),
    "dashboard:sync-history": (STAFF, NO_METHOD, NO_METHOD, NO_METHOD),
    "dashboard:sync-run": (STAFF, NO_METHOD, NO_METHOD, NO_METHOD),
    "metrics:metrics": (NOWHERE, NO_METHOD, NO_METHOD, NO_METHOD),
    "openapi": (ALL, NO_METHOD, NO_METHOD, NO_METHOD),
    "password-change": (STAFF, STAFF, "302 302 200/405 200/405 200/405 200/405", STAFF),
}
