"""What can go wrong in ingestion, for callers to show.

IngestError
├── ConfigurationInvalid   400, names each field by its path
├── RunActive              409, the source has an active run
├── RunNotActive           409, the run is finished already
├── NothingToSweep         409, nothing is missing
├── SourceChanged          409, the source has become another than that of the run
├── SourceArchived         409, the source is out of use
└── LeaseLost              (internal) another worker has taken the rows over

Each carries what an API answer needs: status_code, code, message, fields.
"""

from __future__ import annotations

from collections.abc import Mapping


class IngestError(Exception):
    status_code = 400
    code = "ingest_error"
    wait_seconds: float | None = None

    def __init__(self, message: str, fields: Mapping[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fields = dict(fields or {})


class ConfigurationInvalid(IngestError):
    code = "invalid"

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        first = next(iter(fields))
        super().__init__(f"The configuration is not valid: {first}: {fields[first][0]}", fields)


class RunActive(IngestError):
    status_code = 409
    code = "run_active"

    def __init__(self, run_id: int) -> None:
        super().__init__(f"Run {run_id} of this source is active.", {"run": [str(run_id)]})
        self.run_id = run_id


class RunNotActive(IngestError):
    status_code = 409
    code = "run_not_active"


class NothingToSweep(IngestError):
    status_code = 409
    code = "nothing_to_sweep"


class SourceChanged(IngestError):
    status_code = 409
    code = "source_changed"


class SourceArchived(IngestError):
    status_code = 409
    code = "source_archived"


class LeaseLost(Exception):
    """Another worker took this slice's rows over; what is in hand must not be written."""
