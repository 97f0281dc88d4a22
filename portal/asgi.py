"""The ASGI entry: HTTP today; websockets take their place beside it in the router."""

from __future__ import annotations

import os

import django
from channels.routing import ProtocolTypeRouter  # type: ignore[import-untyped]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")  # noqa: TID251
django.setup(set_prefix=False)

from portal.body_limit import limit_body  # noqa: E402 - needs the settings
from portal.handler import PooledHandler  # noqa: E402

application = ProtocolTypeRouter({"http": limit_body(PooledHandler())})
