"""The form that makes a source from its JSON configuration."""

from __future__ import annotations

import json
from typing import Any

from crispy_forms.helper import FormHelper
from crispy_forms.layout import Submit
from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ingest.parsers import find_unstorable

EXAMPLE: dict[str, Any] = {
    "slug": "cities",
    "name": "Cities",
    "request": {"url": "https://api.example.org/cities/{id}"},
    "plan": {"type": "range", "name": "id", "start": 1, "stop": 10000},
    "records": {"path": "data", "key": "id", "title": "name", "body": ["text"]},
    "limits": {"per_second": 5, "concurrency": 5},
}


class SourceForm(forms.Form):
    """One text field; what is wrong in it is listed by dotted path."""

    configuration = forms.CharField(
        label=gettext_lazy("Configuration (JSON)"),
        help_text=gettext_lazy(
            "Only slug, request.url and plan are required. Secrets are stored encrypted and never "
            "shown again."
        ),
        widget=forms.Textarea(
            attrs={
                "rows": 18,
                "spellcheck": "false",
                "autocapitalize": "off",
                "autocomplete": "off",
                "class": "font-monospace",
            }
        ),
        initial=lambda: json.dumps(EXAMPLE, indent=2),
        max_length=10_000_000,
        strip=False,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.helper = FormHelper()
        self.helper.add_input(Submit("save", _("Create source")))

    def clean_configuration(self) -> dict[str, Any]:
        try:
            data = json.loads(self.cleaned_data["configuration"])
            problems = find_unstorable(data)
        except ValueError as error:
            raise forms.ValidationError(_("This is not JSON: %s") % error) from error
        except RecursionError:
            raise forms.ValidationError(_("The JSON is nested too deeply.")) from None
        if not isinstance(data, dict):
            raise forms.ValidationError(_("A JSON object is needed: { … }"))
        if problems:
            raise forms.ValidationError(list_problems(problems))
        return data


def list_problems(fields: dict[str, list[str]]) -> list[str]:
    """`path: message`, one for each."""
    return [f"{path}: {message}" for path, messages in fields.items() for message in messages]
