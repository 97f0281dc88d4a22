"""Everything that the environment decides, read once into frozen dataclasses.

The only module that reads the environment. A value that cannot be understood stops the start with
the name of its variable and what would be right. Each variable is described in
docs/configuration.md (a test compares both).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import tempfile
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import dj_database_url
from cryptography.fernet import Fernet

BASE_DIR = Path(__file__).resolve().parent.parent

LOCAL = "local"
ENVIRONMENTS = (LOCAL, "staging", "production")

# One Redis, databases apart: emptying the cache empties nothing else.
BROKER_DB, RESULTS_DB, CHANNELS_DB, CACHE_DB, BUDGETS_DB = range(5)

# sockaddr_un holds 108 bytes on Linux, 104 on macOS.
MAX_SOCKET_PATH = 100


class ConfigError(Exception):
    """A variable of the environment is absent or makes no sense; the text names it."""

    def __init__(self, variable: str, problem: str) -> None:
        super().__init__(f"{variable}: {problem}")
        self.variable = variable


@dataclass(frozen=True, slots=True)
class Throttles:
    """How often one caller may ask, as `number/period`."""

    anonymous: str
    user: str
    search: str


@dataclass(frozen=True, slots=True)
class Logins:
    """How long tokens live, and when wrong passwords lock an account for an address."""

    access_token_minutes: int
    refresh_token_days: int
    lockout_attempts: int
    lockout_seconds: int


@dataclass(frozen=True, slots=True)
class Email:
    """Where mail goes. Without a host it is written to files in the data folder."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    use_tls: bool
    use_ssl: bool
    sender: str


@dataclass(frozen=True, slots=True)
class Elasticsearch:
    """Where the search index lives, and how it is laid out. Without hosts the embedded one serves.

    `shards` and `replicas` count for indexes that are made from now on.
    """

    hosts: tuple[str, ...] = field(repr=False)
    prefix: str
    api_key: str = field(repr=False)
    ca_file: str
    shards: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Fetching:
    """How runs are worked off."""

    flush_chunk_rows: int
    processes: int
    run_slices: int
    slice_seconds: int
    lease_seconds: int


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration of a process."""

    environment: str
    debug: bool
    data_dir: Path
    static_root: Path
    port: int
    web_threads: int
    allowed_hosts: tuple[str, ...]
    csrf_trusted_origins: tuple[str, ...]
    trusted_proxies: int
    secret_key: str = field(repr=False)
    encryption_keys: tuple[str, ...] = field(repr=False)
    allow_private_upstreams: bool
    allowed_upstreams: tuple[str, ...]
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    redis_socket: Path | None
    elasticsearch: Elasticsearch
    cache_ttl: int
    search_min_chars: int
    search_timeout_seconds: float
    time_zone: str
    page_size: int
    max_body_bytes: int
    log_level: str
    log_format: str
    throttles: Throttles
    logins: Logins
    email: Email
    fetching: Fetching

    @property
    def is_local(self) -> bool:
        return self.environment == LOCAL


@dataclass(frozen=True, slots=True)
class Variable:
    """What a variable is, as docs/configuration.md states it."""

    name: str
    kind: str
    default: str


class Environment:
    """Reads variables out of a mapping, and remembers which were asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.variables: dict[str, Variable] = {}

    def text(
        self, name: str, default: str, *, shown_default: str | None = None, kind: str = "text"
    ) -> str:
        self._note(name, kind=kind, default=default if shown_default is None else shown_default)
        return self._values.get(name, "").strip() or default

    def secret(self, name: str, default: str = "", *, shown_default: str = "") -> str:
        """The value of NAME, or what the file named by NAME_FILE holds."""
        self._note(name, kind="secret", default=shown_default or default)
        value, path = self._values.get(name, "").strip(), self._values.get(f"{name}_FILE", "")
        if value and path:
            raise ConfigError(name, f"set either {name} or {name}_FILE, not both.")
        if not path:
            return value or default
        try:
            return Path(path).read_text(encoding="utf-8").strip() or default
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}_FILE", f"cannot read {path!r}: {error}.") from error

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.text(name, "on" if default else "off", kind="on/off").lower()
        if value in ("1", "true", "yes", "on"):
            return True
        if value in ("0", "false", "no", "off"):
            return False
        raise ConfigError(name, f"{value!r} is neither on (1, true, yes) nor off (0, false, no).")

    def integer(self, name: str, default: int, *, at_least: int, at_most: int) -> int:
        kind = f"whole number, {at_least} to {at_most}"
        value = self.text(name, str(default), kind=kind)
        if not re.fullmatch(r"[0-9]{1,18}", value) or not at_least <= int(value) <= at_most:
            raise ConfigError(name, f"{value!r} is not a {kind}.")
        return int(value)

    def number(self, name: str, default: float, *, at_least: float, at_most: float) -> float:
        kind = f"number, {at_least:g} to {at_most:g}"
        value = self.text(name, f"{default:g}", kind=kind)
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) or not (
            at_least <= float(value) <= at_most
        ):
            raise ConfigError(name, f"{value!r} is not a {kind}.")
        return float(value)

    def choice(self, name: str, default: str, *, among: tuple[str, ...]) -> str:
        value = self.text(name, default, kind=" or ".join(among))
        if value not in among:
            raise ConfigError(name, f"{value!r} is not one of {', '.join(among)}.")
        return value

    def names(
        self, name: str, default: tuple[str, ...] = (), *, kind: str = "list"
    ) -> tuple[str, ...]:
        """A list, separated by commas."""
        value = self.text(name, ",".join(default), kind=kind)
        return tuple(part.strip() for part in value.split(",") if part.strip())

    def rate(self, name: str, default: str) -> str:
        value = self.text(name, default, kind="rate")
        if not re.fullmatch(r"[1-9][0-9]{0,8}/(second|minute|hour|day)", value):
            raise ConfigError(
                name, f"{value!r} is not a rate such as 300/second (or minute, hour, day)."
            )
        return value

    def _note(self, name: str, *, kind: str, default: str) -> None:
        self.variables[name] = Variable(name=name, kind=kind, default=default)


@cache
def load() -> Config:
    """The configuration of this process, read once."""
    return read_config(Environment(os.environ))  # noqa: TID251 - this is the place


def read_config(environment: Environment) -> Config:
    """Read and check every variable. Raises ConfigError.

    Makes the data folder, and in `local` the two keys in it.
    """
    env = environment
    stage = env.choice("PORTAL_ENVIRONMENT", LOCAL, among=ENVIRONMENTS)
    data_dir = _read_data_dir(env)
    redis_url, redis_socket = _read_redis(env, data_dir)
    return Config(
        environment=stage,
        debug=env.flag("DEBUG", default=False),
        data_dir=data_dir,
        static_root=_read_static_root(env, stage, data_dir),
        port=env.integer("PORTAL_PORT", 8000, at_least=1, at_most=65535),
        web_threads=env.integer("WEB_THREADS", 8, at_least=1, at_most=256),
        allowed_hosts=_read_allowed_hosts(env, stage),
        csrf_trusted_origins=_read_origins(env),
        trusted_proxies=env.integer("TRUSTED_PROXIES", 0, at_least=0, at_most=10),
        secret_key=_read_key(env, "SECRET_KEY", stage, data_dir, make=_make_secret_key),
        encryption_keys=_read_encryption_keys(env, stage, data_dir),
        allow_private_upstreams=env.flag("PORTAL_ALLOW_PRIVATE_UPSTREAMS", default=False),
        allowed_upstreams=_read_allowed_upstreams(env),
        database_url=_read_database_url(env, data_dir),
        redis_url=redis_url,
        redis_socket=redis_socket,
        elasticsearch=_read_elasticsearch(env, data_dir),
        cache_ttl=env.integer("CACHE_TTL", 60, at_least=0, at_most=86400),
        search_min_chars=env.integer("SEARCH_MIN_CHARS", 2, at_least=1, at_most=20),
        search_timeout_seconds=env.number("SEARCH_TIMEOUT_SECONDS", 1.0, at_least=0.05, at_most=60),
        time_zone=_read_time_zone(env),
        page_size=env.integer("PAGE_SIZE", 50, at_least=1, at_most=1000),
        max_body_bytes=env.integer(
            "MAX_BODY_BYTES", 10_000_000, at_least=1_000, at_most=10_000_000_000
        ),
        log_level=env.choice("LOG_LEVEL", "WARNING", among=("DEBUG", "INFO", "WARNING", "ERROR")),
        log_format=env.choice("LOG_FORMAT", "text", among=("text", "json")),
        throttles=Throttles(
            anonymous=env.rate("THROTTLE_ANONYMOUS", "300/minute"),
            user=env.rate("THROTTLE_USER", "300/second"),
            search=env.rate("THROTTLE_SEARCH", "1200/second"),
        ),
        logins=Logins(
            access_token_minutes=env.integer("ACCESS_TOKEN_MINUTES", 60, at_least=1, at_most=1440),
            refresh_token_days=env.integer("REFRESH_TOKEN_DAYS", 14, at_least=1, at_most=365),
            lockout_attempts=env.integer("LOCKOUT_ATTEMPTS", 5, at_least=1, at_most=1000),
            lockout_seconds=env.integer("LOCKOUT_SECONDS", 300, at_least=1, at_most=86400),
        ),
        email=_read_email(env),
        fetching=Fetching(
            flush_chunk_rows=env.integer("FLUSH_CHUNK_ROWS", 500, at_least=1, at_most=5000),
            processes=env.integer("FETCH_PROCESSES", 1, at_least=1, at_most=64),
            run_slices=env.integer("RUN_SLICES", 1, at_least=1, at_most=64),
            slice_seconds=env.integer("SLICE_SECONDS", 30, at_least=1, at_most=3600),
            lease_seconds=env.integer("LEASE_SECONDS", 15, at_least=2, at_most=3600),
        ),
    )


def read_index_settings() -> dict[str, Any]:
    """Settings of an Elasticsearch index where no variable says otherwise."""
    found: dict[str, Any] = json.loads((BASE_DIR / "elasticsearch" / "index.json").read_text())
    settings: dict[str, Any] = found["settings"]
    return settings


def redis_url(base: str, db: int) -> str:
    """The address of database `db` beside `base`, for redis-py and what is built on it.

    The database that `base` names is the first of ours, so portals can share a server.
    """
    parts = urlsplit(base)
    number = _first_db(base) + db
    if parts.scheme == "unix":
        query = [(k, v) for k, v in parse_qsl(parts.query) if k != "db"]
        # urlunsplit would drop the // of an empty host.
        return f"unix://{parts.netloc}{parts.path}?{urlencode([*query, ('db', str(number))])}"
    return urlunsplit(parts._replace(path=f"/{number}"))


def celery_redis_url(base: str, db: int) -> str:
    """The same for Celery, which spells sockets its own way and wants TLS checks named."""
    parts = urlsplit(base)
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parts.query:
        checked = "&".join(filter(None, (parts.query, "ssl_cert_reqs=required")))
        return redis_url(urlunsplit(parts._replace(query=checked)), db)
    if parts.scheme != "unix":
        return redis_url(base, db)
    return f"redis+socket://{parts.netloc}{parts.path}?virtual_host={_first_db(base) + db}"


def _first_db(base: str) -> int:
    parts = urlsplit(base)
    text = dict(parse_qsl(parts.query)).get("db", "0") if parts.scheme == "unix" else parts.path
    return int(text.strip("/") or 0)


def _read_data_dir(env: Environment) -> Path:
    path = Path(
        env.text("PORTAL_DATA_DIR", str(BASE_DIR / "var"), shown_default="var/", kind="folder")
    )
    try:
        path = path.expanduser().resolve()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError("PORTAL_DATA_DIR", f"cannot make the folder: {error}.") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError("PORTAL_DATA_DIR", f"the folder {path} is not writable.")
    return path


def _read_static_root(env: Environment, stage: str, data_dir: Path) -> Path:
    default = data_dir / "static" if stage == LOCAL else BASE_DIR / "staticfiles"
    shown = "staticfiles/; local: in the data folder"
    path = Path(env.text("STATIC_ROOT", str(default), shown_default=shown, kind="folder"))
    try:
        path = path.expanduser().resolve()
        if stage == LOCAL:  # elsewhere collectstatic makes it, perhaps as another user
            path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError("STATIC_ROOT", f"cannot make the folder: {error}.") from error
    return path


def _read_allowed_hosts(env: Environment, stage: str) -> tuple[str, ...]:
    loopback = ("localhost", "127.0.0.1", "[::1]")
    hosts = env.names("ALLOWED_HOSTS", loopback if stage == LOCAL else ())
    env.variables["ALLOWED_HOSTS"] = Variable(
        "ALLOWED_HOSTS", "list", f"local: {','.join(loopback)}"
    )
    if not hosts:
        raise ConfigError(
            "ALLOWED_HOSTS", f"required in {stage}: the host names to answer to, comma-separated."
        )
    for host in hosts:
        if "://" in host or "/" in host:
            raise ConfigError("ALLOWED_HOSTS", f"{host!r} is not a host name (no scheme, no path).")
    return hosts


def _read_origins(env: Environment) -> tuple[str, ...]:
    origins = env.names("CSRF_TRUSTED_ORIGINS")
    for origin in origins:
        if not re.fullmatch(r"https?://[^/\s]+", origin):
            raise ConfigError(
                "CSRF_TRUSTED_ORIGINS", f"{origin!r} is not an origin such as https://example.org."
            )
    return origins


def _read_allowed_upstreams(env: Environment) -> tuple[str, ...]:
    entries = env.names("PORTAL_ALLOWED_UPSTREAMS")
    for entry in entries:
        if "://" in entry or re.search(r"[\s?#@]", entry):
            raise ConfigError(
                "PORTAL_ALLOWED_UPSTREAMS",
                f"{entry!r} is not a host, host:port or network such as 10.0.0.0/8.",
            )
    return entries


def _read_database_url(env: Environment, data_dir: Path) -> str:
    url = env.secret(
        "DATABASE_URL",
        f"sqlite:///{quote(str(data_dir / 'gleaner.sqlite3'))}",
        shown_default="SQLite in the data folder",
    )
    try:
        engine = dj_database_url.parse(url)["ENGINE"]
    except (ValueError, KeyError) as error:
        raise ConfigError(
            "DATABASE_URL", "is not an address such as postgresql://user:password@host/name."
        ) from error
    if engine not in ("django.db.backends.sqlite3", "django.db.backends.postgresql"):
        raise ConfigError("DATABASE_URL", "names neither PostgreSQL nor SQLite.")
    return url


def _read_redis(env: Environment, data_dir: Path) -> tuple[str, Path | None]:
    """The address of Redis, and the socket when the portal starts a server of its own."""
    url = env.secret("REDIS_URL", shown_default="a socket in the data folder")
    host = env.text("REDIS_HOST", "")
    port = env.integer("REDIS_PORT", 6379, at_least=1, at_most=65535)
    password = env.secret("REDIS_PASS")
    if not url and host:
        url = (
            f"redis://:{quote(password, safe='')}@{host}:{port}"
            if password
            else (f"redis://{host}:{port}")
        )
    if not url:
        socket = _choose_socket(data_dir)
        return f"unix://{quote(str(socket))}", socket
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("redis", "rediss", "unix") and bool(parts.hostname or parts.path)
        _first_db(url)
        _ = parts.port
    except ValueError:
        known = False
    if not known:
        raise ConfigError(
            "REDIS_URL", "is not an address such as redis://host:6379/0 or unix:///run/redis.sock."
        )
    return url, None


def _choose_socket(data_dir: Path) -> Path:
    socket = data_dir / "redis.sock"
    if len(os.fsencode(socket)) <= MAX_SOCKET_PATH:
        return socket
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"gleaner-{os.getuid()}-{name}"
    # The temporary folder belongs to everybody: nobody else may have made ours.
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(
            "PORTAL_DATA_DIR", f"its path is too long for a socket, and {folder} is not ours alone."
        )
    return folder / "redis.sock"


def _read_elasticsearch(env: Environment, data_dir: Path) -> Elasticsearch:
    ca_file = env.text("ELASTICSEARCH_CA_FILE", "", kind="file")
    if ca_file and not os.access(ca_file, os.R_OK):
        raise ConfigError("ELASTICSEARCH_CA_FILE", f"cannot read {ca_file!r}.")
    defaults = read_index_settings()
    return Elasticsearch(
        hosts=_read_elasticsearch_hosts(env),
        prefix=_read_elasticsearch_prefix(env, data_dir),
        api_key=env.secret("ELASTICSEARCH_API_KEY"),
        ca_file=ca_file,
        shards=env.integer(
            "ELASTICSEARCH_SHARDS", defaults["number_of_shards"], at_least=1, at_most=1024
        ),
        replicas=env.integer(
            "ELASTICSEARCH_REPLICAS", defaults["number_of_replicas"], at_least=0, at_most=10
        ),
    )


def _read_elasticsearch_hosts(env: Environment) -> tuple[str, ...]:
    text = env.secret("ELASTICSEARCH_URL", shown_default="empty: the embedded engine")
    hosts = tuple(part.strip() for part in text.split(",") if part.strip())
    for host in hosts:
        try:
            is_good = bool(re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", host))
            _ = urlsplit(host).port  # ValueError: not a number, or too large
        except ValueError:
            is_good = False
        if not is_good:
            raise ConfigError(
                "ELASTICSEARCH_URL", "is not an address such as http://localhost:9200."
            )
    return hosts


def _read_elasticsearch_prefix(env: Environment, data_dir: Path) -> str:
    derived = f"gleaner-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:8]}"
    prefix = env.text("ELASTICSEARCH_PREFIX", derived, shown_default="from the data folder")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,99}", prefix):
        raise ConfigError(
            "ELASTICSEARCH_PREFIX",
            f"{prefix!r} cannot begin an index name: lower-case letters, digits, - and _ only.",
        )
    return prefix


def _read_time_zone(env: Environment) -> str:
    name = env.text("TIME_ZONE", "UTC", kind="zone")
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError("TIME_ZONE", f"{name!r} is no zone such as Europe/Istanbul.") from error
    return name


def _read_email(env: Environment) -> Email:
    use_ssl = env.flag("EMAIL_USE_SSL", default=False)
    use_tls = env.flag("EMAIL_USE_TLS", default=True)
    return Email(
        host=env.text("EMAIL_HOST", "", shown_default="empty: files in the data folder"),
        port=env.integer("EMAIL_PORT", 587, at_least=1, at_most=65535),
        user=env.text("EMAIL_HOST_USER", ""),
        password=env.secret("EMAIL_HOST_PASSWORD"),
        # TLS from the first byte leaves nothing for STARTTLS to do.
        use_tls=use_tls and not use_ssl,
        use_ssl=use_ssl,
        sender=env.text("DEFAULT_FROM_EMAIL", "gleaner@localhost"),
    )


def _read_key(
    env: Environment, name: str, stage: str, data_dir: Path, *, make: Callable[[], str]
) -> str:
    value = env.secret(name, shown_default="local: made once into the data folder")
    if value:
        return value
    if stage != LOCAL:
        raise ConfigError(name, f"required in {stage}; set {name} or {name}_FILE.")
    return _keep_once(data_dir / name.lower().removeprefix("portal_"), variable=name, make=make)


def _make_secret_key() -> str:
    return secrets.token_urlsafe(50)


def _make_encryption_key() -> str:
    return Fernet.generate_key().decode()


def _read_encryption_keys(env: Environment, stage: str, data_dir: Path) -> tuple[str, ...]:
    name = "PORTAL_ENCRYPTION_KEYS"
    value = _read_key(env, name, stage, data_dir, make=_make_encryption_key)
    keys = tuple(key.strip() for key in value.split(",") if key.strip())
    try:
        for key in keys:
            Fernet(key)
    except ValueError as error:
        raise ConfigError(
            name, "each key is 32 bytes in URL-safe base64 (cryptography's Fernet.generate_key())."
        ) from error
    return keys


def _keep_once(path: Path, *, variable: str, make: Callable[[], str]) -> str:
    """What the file holds; the first of several processes writes it, whole or not at all."""
    try:
        if not path.exists():
            handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(make() + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.link(draft, path)
            except FileExistsError:
                pass  # another process was first: its key counts
            finally:
                os.unlink(draft)
        value = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(variable, f"cannot keep a key in {path}: {error}.") from error
    if not value:
        raise ConfigError(variable, f"{path} is empty; delete it, or set {variable}.")
    return value
