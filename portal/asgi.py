"""The ASGI entry: HTTP today; websockets take their place beside it in the router."""

from __future__ import annotations

import os
import warnings

import django
from asgiref.sync import sync_to_async
from channels.routing import ProtocolTypeRouter  # type: ignore[import-untyped]
from django.core.handlers.asgi import ASGIHandler

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")  # noqa: TID251
django.setup(set_prefix=False)

from portal.body_limit import limit_body  # noqa: E402 - needs the settings

# Files come from WhiteNoise, which reads them synchronously; Django says so for each one.
warnings.filterwarnings(
    "ignore", message="StreamingHttpResponse must consume synchronous iterators"
)


class OneThreadHandler(ASGIHandler):
    """Runs the middlewares and the view of a request in one thread, with one hop to it.

    They are synchronous, all of them. Django would hop once more at each border between the worlds:
    around every middleware that can do both, and around the view (0.3 ms a request).
    """

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)
        chain = self._middleware_chain  # type: ignore[has-type]
        self._middleware_chain = sync_to_async(chain, thread_sensitive=True)


application = ProtocolTypeRouter({"http": limit_body(OneThreadHandler())})
