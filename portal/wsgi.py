"""The WSGI entry, for servers that speak nothing newer (no websockets)."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")  # noqa: TID251

application = get_wsgi_application()
