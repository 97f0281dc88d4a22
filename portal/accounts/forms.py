"""Forms of the admin for users that sign in by e-mail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm

from portal.accounts.models import User

if TYPE_CHECKING:
    _ChangeForm = UserChangeForm[User]
else:  # it cannot be subscripted at run time
    _ChangeForm = UserChangeForm


class EmailUserCreationForm(AdminUserCreationForm):
    class Meta:
        model = User
        fields = ("email",)

    def clean_email(self) -> str:
        return User.objects.normalize_email(self.cleaned_data["email"])


class EmailUserChangeForm(_ChangeForm):
    class Meta:
        model = User
        fields = "__all__"
