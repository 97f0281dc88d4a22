"""Everything that the environment decides, read once into frozen dataclasses.

The only module that reads the environment. A value that cannot be understood stops the start with
the name of its variable. Each variable is described in docs/configuration.md.
"""

from __future__ import annotations

import os
import secrets as token
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Config:
    data_dir: Path
    secret_key: str
    debug: bool
    redis_url: str
    database_url: str
    elasticsearch_url: str
    port: int


@cache
def load() -> Config:
    data_dir = Path(os.environ.get("PORTAL_DATA_DIR", BASE_DIR / "var")).resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    return Config(
        data_dir=data_dir,
        secret_key=os.environ.get("SECRET_KEY", token.token_urlsafe(50)),
        debug=False,
        redis_url=os.environ.get("REDIS_URL", f"unix://{data_dir}/redis.sock"),
        database_url=os.environ.get("DATABASE_URL", f"sqlite:///{data_dir}/gleaner.sqlite3"),
        elasticsearch_url=os.environ.get("ELASTICSEARCH_URL", ""),
        port=int(os.environ.get("PORTAL_PORT", "8000")),
    )
