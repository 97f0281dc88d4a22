"""Django's settings, made of portal.config.

What makes a server safe on the open net (SSL redirect, HSTS, secure cookies) hangs on
PORTAL_ENVIRONMENT, never on DEBUG.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import dj_database_url
import django_stubs_ext
from csp.constants import NONE, SELF
from django.utils.translation import gettext_lazy as _
from kombu import Exchange, Queue

from portal import config

# Generic classes of Django (FormView[SourceForm]) may be subscripted at run time too.
django_stubs_ext.monkeypatch()

try:
    CONFIG = config.load()
except config.ConfigError as error:
    # One clear line, whoever asked for the settings: manage.py, uvicorn, gunicorn or celery.
    sys.exit(f"Configuration: {error}")

# --- What other rooms read -----------------------------------------------------------------------
GLEANER = CONFIG
BASE_DIR = config.BASE_DIR
ENVIRONMENT = CONFIG.environment
DATA_DIR = CONFIG.data_dir
ENCRYPTION_KEYS = CONFIG.encryption_keys
ALLOW_PRIVATE_UPSTREAMS = CONFIG.allow_private_upstreams
ALLOWED_UPSTREAMS = CONFIG.allowed_upstreams
FLUSH_CHUNK_ROWS = CONFIG.fetching.flush_chunk_rows
FETCH_PROCESSES = CONFIG.fetching.processes
RUN_SLICES = CONFIG.fetching.run_slices
SLICE_SECONDS = CONFIG.fetching.slice_seconds
LEASE_SECONDS = CONFIG.fetching.lease_seconds
SEARCH_INDEX_DIR = CONFIG.data_dir / "index"
CACHE_TTL = CONFIG.cache_ttl
SEARCH_MIN_CHARS = CONFIG.search_min_chars
WEB_THREADS = CONFIG.web_threads
SEARCH_TIMEOUT_SECONDS = CONFIG.search_timeout_seconds
ELASTICSEARCH_URL = ",".join(CONFIG.elasticsearch.hosts)
ELASTICSEARCH_PREFIX = CONFIG.elasticsearch.prefix
REDIS_URL = CONFIG.redis_url
REDIS_CACHE_URL = config.redis_url(CONFIG.redis_url, config.CACHE_DB)
REDIS_CHANNELS_URL = config.redis_url(CONFIG.redis_url, config.CHANNELS_DB)
REDIS_BUDGET_URL = config.redis_url(CONFIG.redis_url, config.BUDGETS_DB)
PAGE_SIZE = CONFIG.page_size
MAX_BODY_BYTES = CONFIG.max_body_bytes
TRUSTED_PROXIES = CONFIG.trusted_proxies
THROTTLE_RATES = {
    "anonymous": CONFIG.throttles.anonymous,
    "user": CONFIG.throttles.user,
    "search": CONFIG.throttles.search,
}
LOCKOUT_ATTEMPTS = CONFIG.logins.lockout_attempts
LOCKOUT_SECONDS = CONFIG.logins.lockout_seconds

# --- Django --------------------------------------------------------------------------------------
SECRET_KEY = CONFIG.secret_key
DEBUG = CONFIG.debug
ALLOWED_HOSTS = list(CONFIG.allowed_hosts)
CSRF_TRUSTED_ORIGINS = list(CONFIG.csrf_trusted_origins)
ROOT_URLCONF = "portal.urls"
ASGI_APPLICATION = "portal.asgi.application"
WSGI_APPLICATION = "portal.wsgi.application"
AUTH_USER_MODEL = "accounts.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "csp",
    "rest_framework",
    "rest_framework_simplejwt",
    "rest_framework_simplejwt.token_blacklist",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_filters",
    "django_tables2",
    "crispy_forms",
    "crispy_bootstrap5",
    "channels",
    "django_celery_beat",
    "django_plotly_dash.apps.DjangoPlotlyDashConfig",
    "portal.accounts",
    "ingest",
    "search",
    # After search, whose command `search_index` takes the place of this one's.
    "django_elasticsearch_dsl",
    "analytics",
    "portal",
]

MIDDLEWARE = [
    "portal.middleware.request_id",
    "portal.middleware.error_capture",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "portal.middleware.body_limit",
    "portal.middleware.health_checks",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "portal.middleware.SlashRedirect",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "portal.middleware.LockoutAnswer",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "portal.navigation.navigation",
            ],
        },
    }
]

# --- Data ----------------------------------------------------------------------------------------
DATABASES: dict[str, Any] = {
    # Threads of the web and workers keep their connections: opening one costs 1 ms on SQLite.
    "default": dj_database_url.parse(CONFIG.database_url, conn_max_age=600, conn_health_checks=True)
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # A file, as in real life: in memory, threads would share one connection's locks.
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}
    DATABASES["default"]["OPTIONS"] = {
        # A transaction that begins as a reader cannot wait to become a writer: it fails at once.
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        "init_command": (
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY; "
            "PRAGMA cache_size=-20000; PRAGMA wal_autocheckpoint=4000; "
            "PRAGMA journal_size_limit=67108864;"
        ),
    }
else:
    # What the address itself says (?connect_timeout=…&options=…) wins.
    DATABASES["default"]["OPTIONS"] = {
        "connect_timeout": 5,
        # A server whose machine or network is gone says nothing: by Linux's own measure, whoever
        # waits for an answer finds that out after two hours.
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        # A worker that is paused inside a transaction keeps its locks, and everybody would wait for
        # it: past its lease the server ends its session. Locks are waited for as long as SQLite's.
        "options": (
            f"-c idle_in_transaction_session_timeout={LEASE_SECONDS * 1000} -c lock_timeout=30000"
        ),
        **DATABASES["default"].get("OPTIONS", {}),
    }

_FAIL_FAST: dict[str, Any] = {"socket_connect_timeout": 0.5, "socket_timeout": 1.0}
CACHES: dict[str, Any] = {
    "default": {
        "BACKEND": "portal.cache.PatientRedisCache",
        "LOCATION": REDIS_CACHE_URL,
        "OPTIONS": _FAIL_FAST,
        "KEY_PREFIX": "gleaner",
    }
}
CHANNEL_LAYERS: dict[str, Any] = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [REDIS_CHANNELS_URL], "prefix": "gleaner"},
    }
}
# The cache may be emptied or down at any time; nobody is signed out by that. Sessions are written
# at sign-in only, so the database sees next to nothing of them.
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"

# --- Elasticsearch -------------------------------------------------------------------------------
# Nothing is connected before the first search. Rows reach the index through the outbox alone: the
# library's own signals, autosync and refreshes are off.
ELASTICSEARCH_DSL: dict[str, Any] = {}
if CONFIG.elasticsearch.hosts:
    ELASTICSEARCH_DSL["default"] = {"hosts": list(CONFIG.elasticsearch.hosts)}
    if CONFIG.elasticsearch.api_key:
        ELASTICSEARCH_DSL["default"]["api_key"] = CONFIG.elasticsearch.api_key
    if CONFIG.elasticsearch.ca_file:
        ELASTICSEARCH_DSL["default"]["ca_certs"] = CONFIG.elasticsearch.ca_file
ELASTICSEARCH_DSL_SIGNAL_PROCESSOR = "django_elasticsearch_dsl.signals.BaseSignalProcessor"
ELASTICSEARCH_DSL_AUTOSYNC = False
ELASTICSEARCH_DSL_AUTO_REFRESH = False
ELASTICSEARCH_INDEX_SETTINGS = {
    **config.read_index_settings(),
    "number_of_shards": CONFIG.elasticsearch.shards,
    "number_of_replicas": CONFIG.elasticsearch.replicas,
}

STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "portal.finders.DashAssetFinder",
    "portal.finders.DashComponentFinder",
    "portal.finders.DashAppDirectoryFinder",
]
STATIC_URL = "/static/"
STATIC_ROOT = CONFIG.static_root
STORAGES = {
    "default": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": DATA_DIR / "files"},
    },
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if CONFIG.is_local
        else "portal.staticfiles.CompressedFiles",
    },
}
# A fresh clone has no collected files: there they are served from where they lie.
WHITENOISE_USE_FINDERS = CONFIG.is_local
WHITENOISE_AUTOREFRESH = DEBUG
WHITENOISE_ALLOW_ALL_ORIGINS = False

DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES

# --- Language and time ---------------------------------------------------------------------------
USE_TZ = True
TIME_ZONE = CONFIG.time_zone
LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("tr", _("Turkish")), ("uz", _("Uzbek"))]
LOCALE_PATHS = [BASE_DIR / "locale"]

# --- Signing in ----------------------------------------------------------------------------------
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
AUTHENTICATION_BACKENDS = ["portal.accounts.backends.EmailBackend"]
_VALIDATORS = "django.contrib.auth.password_validation"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"{_VALIDATORS}.UserAttributeSimilarityValidator"},
    {"NAME": f"{_VALIDATORS}.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": f"{_VALIDATORS}.CommonPasswordValidator"},
    {"NAME": f"{_VALIDATORS}.NumericPasswordValidator"},
]

# --- Mail ----------------------------------------------------------------------------------------
DEFAULT_FROM_EMAIL = SERVER_EMAIL = CONFIG.email.sender
if CONFIG.email.host:
    EMAIL_HOST = CONFIG.email.host
    EMAIL_PORT = CONFIG.email.port
    EMAIL_HOST_USER = CONFIG.email.user
    EMAIL_HOST_PASSWORD = CONFIG.email.password
    EMAIL_USE_TLS = CONFIG.email.use_tls
    EMAIL_USE_SSL = CONFIG.email.use_ssl
    EMAIL_TIMEOUT = 10
else:
    EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    EMAIL_FILE_PATH = DATA_DIR / "mail"

# --- Safety on the net ---------------------------------------------------------------------------
X_FRAME_OPTIONS = "SAMEORIGIN"
SILENCED_SYSTEM_CHECKS = ["security.W019"]  # dashboards are frames of this same site
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "portal.views.csrf_failure"
if TRUSTED_PROXIES:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
if not CONFIG.is_local:
    SECURE_SSL_REDIRECT = True
    # A health check inside the cluster speaks plain HTTP: a redirect would look like health.
    SECURE_REDIRECT_EXEMPT = [r"^health(/ready)?/?$"]
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    LANGUAGE_COOKIE_SECURE = True

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],  # Bootstrap draws its icons as data: URLs
        "font-src": [SELF],
        "connect-src": [SELF],
        "frame-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [SELF],
        "base-uri": [NONE],
        "object-src": [NONE],
        "manifest-src": [SELF],
    }
}

# --- API -----------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework_simplejwt.authentication.JWTAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "portal.negotiation.JsonAnyway",
    "DEFAULT_METADATA_CLASS": "portal.metadata.PlainMetadata",
    "DEFAULT_RENDERER_CLASSES": ["portal.rendering.FastJSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["ingest.parsers.JSONObjectParser"],
    "DEFAULT_THROTTLE_CLASSES": ["portal.throttles.CallerThrottle"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "ingest.pagination.NumberedPagination",
    "PAGE_SIZE": PAGE_SIZE,
    "DEFAULT_SCHEMA_CLASS": "portal.schema.AddressSchema",
    "EXCEPTION_HANDLER": "portal.api.handle_exception",
    "URL_FORMAT_OVERRIDE": None,
    "NUM_PROXIES": TRUSTED_PROXIES,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SIMPLE_JWT = {
    "ACCESS_TOKEN_LIFETIME": timedelta(minutes=CONFIG.logins.access_token_minutes),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=CONFIG.logins.refresh_token_days),
    "UPDATE_LAST_LOGIN": False,
    "CHECK_REVOKE_TOKEN": True,  # a new password ends the access tokens of the old one
    "AUTH_HEADER_TYPES": ("Bearer",),
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Gleaner",
    "DESCRIPTION": "Pulls every record out of rate-limited APIs, proves that nothing was left "
    "out, and makes records and errors searchable.",
    "VERSION": "1.0.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SCHEMA_PATH_PREFIX": r"/api",
    "COMPONENT_SPLIT_REQUEST": True,
}

# --- Background work -----------------------------------------------------------------------------
# A message is a wake-up call; what is to be done stands in the database.
CELERY_BROKER_URL = config.celery_redis_url(REDIS_URL, config.BROKER_DB)
CELERY_RESULT_BACKEND = config.celery_redis_url(REDIS_URL, config.RESULTS_DB)
CELERY_RESULT_EXPIRES = 3600
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = CELERY_RESULT_ACCEPT_CONTENT = ["json"]
CELERY_TIMEZONE = TIME_ZONE
CELERY_ENABLE_UTC = True
CELERY_TASK_DEFAULT_QUEUE = "maintenance"
# A worker without -Q serves all of these.
CELERY_TASK_QUEUES = [
    Queue(name, Exchange(name), routing_key=name) for name in ("maintenance", "fetch", "index")
]
CELERY_TASK_ROUTES = {
    "ingest.tasks.run_slice": {"queue": "fetch"},
    "search.tasks.*": {"queue": "index"},
}
CELERY_TASK_CREATE_MISSING_QUEUES = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # a worker waits for its broker for as long as it takes
# A web request must not hang on a broker that is down: the row is in the database, and the beat
# will find it. (Without max_retries kombu would try for ever.)
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_connect_timeout": 1.0,
    "socket_timeout": 5.0,
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.1,
    "interval_max": 0.1,
}
CELERY_TASK_PUBLISH_RETRY_POLICY = {
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.1,
    "interval_max": 0.1,
}
CELERY_REDIS_SOCKET_CONNECT_TIMEOUT = 1.0
CELERY_REDIS_SOCKET_TIMEOUT = 5.0
CELERY_BEAT_SCHEDULER = "portal.beat:Scheduler"
CELERY_BEAT_SCHEDULE_FILENAME = str(DATA_DIR / "celerybeat-schedule")
# What was missed while the beat was down is not caught up with.
CELERY_BEAT_CRON_STARTING_DEADLINE = 120
CELERY_BEAT_SCHEDULE = {
    name: {
        "task": task,
        "schedule": seconds,
        "options": {"expire_seconds": seconds},
        "description": "defined in the code",
        "enabled": True,
    }
    for name, task, seconds in (
        ("look for due rows", "ingest.tasks.scan_due", 5.0),
        ("drain the outbox", "search.tasks.drain_outbox", 5.0),
        ("tidy up", "ingest.tasks.tidy_up", 3600.0),
        ("tidy up searches", "search.tasks.tidy_up", 3600.0),
    )
}

# --- Pages ---------------------------------------------------------------------------------------
CRISPY_ALLOWED_TEMPLATE_PACKS = CRISPY_TEMPLATE_PACK = "bootstrap5"
DJANGO_TABLES2_TEMPLATE = "django_tables2/bootstrap5-responsive.html"

# --- Dashboards ----------------------------------------------------------------------------------
PLOTLY_COMPONENTS: list[str] = []  # Dash's own parts are known; no other library is used
PLOTLY_DASH = {
    "serve_locally": True,  # else eleven scripts come from unpkg.com
    "http_poke_enabled": False,
    "view_decorator": "analytics.access.guard",
    "ws_route": "dpd/ws/channel",
    "cache_arguments": True,
    "cache_timeout_initial_arguments": 60,
}

# --- Logs ----------------------------------------------------------------------------------------
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"()": "portal.logs.TextFormatter"},
        "json": {"()": "portal.logs.JsonFormatter"},
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": CONFIG.log_format},
    },
    "root": {"handlers": ["stderr"], "level": CONFIG.log_level},
    "loggers": {
        # Its own handlers print tracebacks to the console under DEBUG and mail admins otherwise.
        "django": {"handlers": [], "propagate": True, "level": CONFIG.log_level},
        # Every answer >= 400 is a row of the error log; the terminal hears of 5xx only.
        "django.request": {"level": "ERROR"},
        "django.security": {"level": "ERROR"},
    },
}
