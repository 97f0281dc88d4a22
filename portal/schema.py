"""How the OpenAPI document names its operations."""

from __future__ import annotations

import re

from drf_spectacular.openapi import AutoSchema


class AddressSchema(AutoSchema):
    """Names an operation after its whole address: `search_retrieve`, `search_retrieve_by_text`.

    By default the parameters of a path do not count, and two addresses of one view share a name,
    which generated clients cannot tell apart.
    """

    def get_operation_id(self) -> str:
        parameters = re.findall(r"{(\w+)}", self.path)
        return "_by_".join([super().get_operation_id(), *parameters])
