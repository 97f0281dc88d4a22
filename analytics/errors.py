"""What a refused request to a dashboard is told, in the JSON shape of every error."""

from __future__ import annotations

from django.http import JsonResponse
from django.utils.translation import gettext as _


def refuse(status: int) -> JsonResponse:
    """401, 403 or 404 for programs: a dashboard's own scripts ask at these addresses."""
    code, message = {
        401: ("not_authenticated", _("Please sign in first.")),
        403: ("permission_denied", _("You are not allowed to do this.")),
        404: ("not_found", _("There is nothing at this address.")),
    }[status]
    error = {"status": status, "code": code, "message": message, "fields": {}}
    return JsonResponse({"success": False, "error": error}, status=status)
