"""The admin of modules' tokens: made, shown once, and revoked."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from registry_admin.callgraph.models import ModuleToken
from registry_admin.callgraph.tokens import SHARED_KEY, make_token, revoke_token
from registry_admin.consul import validation
from registry_admin.errors import InvalidValueError
from registry_admin.inventory.admin.base import RegistryAdmin


class ModuleTokenForm(forms.ModelForm):
    """Asks for the module's name, and nothing else."""

    class Meta:
        model = ModuleToken
        fields = ["module"]

    module = forms.CharField(max_length=validation.MAX_ID, help_text="The name of the service that reports its calls.")

    def clean_module(self) -> str:
        """Raises ValidationError for what can't be the name of a service."""
        try:
            return validation.service_name(self.cleaned_data["module"], "module")
        except InvalidValueError as error:
            raise forms.ValidationError(f"{error.reason}.") from error


@admin.register(ModuleToken)
class ModuleTokenAdmin(RegistryAdmin):
    """Lists tokens, makes new ones, and revokes them. Rows stay, so that no key is used twice."""

    form = ModuleTokenForm
    list_display = ["__str__", "created_at", "created_by", "used_at", "revoked_at"]
    actions = ["revoke"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Returns False for everybody: a token speaks for one module, for ever."""
        return False

    has_delete_permission = has_change_permission

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Returns whether the user may make tokens, and so end them."""
        return request.user.has_perm("callgraph.add_moduletoken")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:  # noqa: ARG002, FBT001
        """Makes the token; its text goes to the page that follows, and nowhere else."""
        row, obj.token_text = make_token(obj.module)
        obj.pk, obj.key = row.pk, row.key

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:  # noqa: ARG002
        """Returns the page with the token's text, which no browser keeps."""
        context = {**self.admin_site.each_context(request), "title": f"Token of {obj.module}", "token": obj.token_text}
        response = TemplateResponse(request, "admin/callgraph/token_made.html", context)
        response["Cache-Control"] = "private, no-store"
        return response

    @admin.action(description="Revoke: the module can't report with it any more", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ModuleToken]) -> None:
        """Revokes the chosen tokens."""
        keys = list(queryset.filter(revoked_at=None).exclude(key=SHARED_KEY).values_list("key", flat=True))
        for key in keys:
            revoke_token(key)
        messages.success(request, f"{len(keys)} token(s) revoked.")
