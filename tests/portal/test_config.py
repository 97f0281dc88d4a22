from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.fernet import Fernet

from portal import config
from portal.config import BASE_DIR, Config, ConfigError, Environment, read_config

FERNET = Fernet.generate_key().decode()


@pytest.fixture
def read(tmp_path):
    def read(**values: str) -> Config:
        return read_config(Environment({"PORTAL_DATA_DIR": str(tmp_path / "var")} | values))

    return read


@pytest.fixture
def production():
    return {
        "PORTAL_ENVIRONMENT": "production",
        "SECRET_KEY": "s" * 60,
        "PORTAL_ENCRYPTION_KEYS": FERNET,
        "ALLOWED_HOSTS": "gleaner.example.org",
    }


def test_nothing_needs_to_be_set_on_one_machine(read, tmp_path):
    found = read()

    assert found.environment == "local"
    assert found.debug is False
    assert found.port == 8000
    assert found.allowed_hosts == ("localhost", "127.0.0.1", "[::1]")
    assert found.allow_private_upstreams is False
    assert found.redis_url == f"unix://{tmp_path}/var/redis.sock"
    assert found.redis_socket == tmp_path / "var" / "redis.sock"
    assert found.database_url == f"sqlite:///{tmp_path}/var/gleaner.sqlite3"


def test_every_variable_is_documented_as_it_is_read(tmp_path):
    environment = Environment({"PORTAL_DATA_DIR": str(tmp_path / "var")})
    read_config(environment)
    text = (BASE_DIR / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", text, re.M)

    documented = {name: (kind, default) for name, kind, default, _ in rows}
    read = {v.name: (v.kind, v.default or "–") for v in environment.variables.values()}
    assert documented == read
    assert len(rows) == len(documented)
    assert all(len(sentence) > 5 for *_, sentence in rows)


def test_the_keys_of_a_machine_are_made_once_and_are_nobody_elses_to_read(read, tmp_path):
    first, second = read(), read()

    assert first.secret_key == second.secret_key
    assert first.encryption_keys == second.encryption_keys
    assert len(first.secret_key) >= 50
    for name in ("secret_key", "encryption_keys"):
        assert stat.S_IMODE((tmp_path / "var" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "var").stat().st_mode) == 0o700


def test_processes_that_start_together_agree_on_the_keys(tmp_path):
    def start(_: int) -> tuple[str, tuple[str, ...]]:
        found = read_config(Environment({"PORTAL_DATA_DIR": str(tmp_path / "var")}))
        return found.secret_key, found.encryption_keys

    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(start, range(64)))

    assert len(keys) == 1
    assert sorted(p.name for p in (tmp_path / "var").iterdir() if p.is_file()) == [
        "encryption_keys",
        "secret_key",
    ]


def test_secrets_do_not_show_when_the_configuration_is_printed(read):
    found = read(
        SECRET_KEY="do-not-print", DATABASE_URL="postgresql://u:do-not-print@h/n", REDIS_HOST="h",
        REDIS_PASS="do-not-print", EMAIL_HOST_PASSWORD="do-not-print",
    )  # fmt: skip

    assert "do-not-print" not in repr(found)


@pytest.mark.parametrize("missing", ["SECRET_KEY", "PORTAL_ENCRYPTION_KEYS", "ALLOWED_HOSTS"])
@pytest.mark.parametrize("environment", ["staging", "production"])
def test_a_server_does_not_start_without_what_it_must_be_given(
    read, production, missing, environment
):
    values = production | {"PORTAL_ENVIRONMENT": environment}
    del values[missing]

    with pytest.raises(ConfigError, match=f"^{missing}: required in {environment}"):
        read(**values)


def test_a_server_keeps_no_key_in_its_data_folder(read, production, tmp_path):
    read(**production | {"STATIC_ROOT": str(tmp_path / "static")})

    assert list((tmp_path / "var").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORTAL_PORT", "abc"),
        ("PORTAL_PORT", "0"),
        ("PORTAL_PORT", "70000"),
        ("PORTAL_PORT", "８０００"),
        ("PORTAL_ENVIRONMENT", "prod"),
        ("DEBUG", "maybe"),
        ("ALLOWED_HOSTS", "https://example.org"),
        ("CSRF_TRUSTED_ORIGINS", "example.org"),
        ("PORTAL_ALLOWED_UPSTREAMS", "http://10.0.0.1"),
        ("PORTAL_ENCRYPTION_KEYS", "too-short"),
        ("DATABASE_URL", "mysql://u:p@h/n"),
        ("DATABASE_URL", "nonsense"),
        ("REDIS_URL", "http://localhost"),
        ("REDIS_URL", "redis://localhost/first"),
        ("REDIS_URL", "redis://localhost:port"),
        ("ELASTICSEARCH_URL", "localhost:9200"),
        ("ELASTICSEARCH_URL", "http://localhost:port"),
        ("ELASTICSEARCH_URL", "http://one:9200,two:9200"),
        ("ELASTICSEARCH_SHARDS", "0"),
        ("ELASTICSEARCH_CA_FILE", "/nowhere/ca.pem"),
        ("ELASTICSEARCH_PREFIX", "Gleaner"),
        ("TIME_ZONE", "Mars/Olympus"),
        ("TIME_ZONE", "../../etc/passwd"),
        ("THROTTLE_USER", "many"),
        ("THROTTLE_USER", "0/second"),
        ("SEARCH_TIMEOUT_SECONDS", "nan"),
        ("SEARCH_TIMEOUT_SECONDS", "-1"),
        ("FLUSH_CHUNK_ROWS", "0"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_value_that_makes_no_sense_stops_the_start_with_its_name(read, name, value):
    with pytest.raises(ConfigError, match=f"^{name}: ") as caught:
        read(**{name: value})
    assert caught.value.variable == name


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match=r"^PORTAL_DATA_DIR: cannot make the folder"):
        read_config(Environment({"PORTAL_DATA_DIR": str(tmp_path / "file" / "var")}))


def test_wrong_secrets_are_not_repeated_in_the_message(read):
    for name in ("DATABASE_URL", "REDIS_URL", "ELASTICSEARCH_URL", "PORTAL_ENCRYPTION_KEYS"):
        with pytest.raises(ConfigError) as caught:
            read(**{name: "ftp://user:hunter2@host"})
        assert "hunter2" not in str(caught.value)


def test_an_index_is_laid_out_as_its_file_says_unless_a_variable_does(read):
    found = read().elasticsearch
    settings = config.read_index_settings()
    assert (found.shards, found.replicas) == (1, 0)
    assert (settings["number_of_shards"], settings["number_of_replicas"]) == (1, 0)

    found = read(ELASTICSEARCH_SHARDS="3", ELASTICSEARCH_REPLICAS="1").elasticsearch
    assert (found.shards, found.replicas) == (3, 1)


def test_a_cluster_may_be_named_by_several_of_its_nodes(read):
    found = read(ELASTICSEARCH_URL="http://u:hunter2@one:9200, https://two/es").elasticsearch
    assert found.hosts == ("http://u:hunter2@one:9200", "https://two/es")
    assert "hunter2" not in repr(found)


def test_an_empty_value_counts_as_none(read):
    assert read(PORTAL_PORT="", SECRET_KEY=" ").port == 8000


def test_a_secret_can_come_from_a_file(read, tmp_path):
    (tmp_path / "key").write_text("from a file\n")

    assert read(SECRET_KEY_FILE=str(tmp_path / "key")).secret_key == "from a file"


def test_a_secret_file_that_is_not_there_is_named(read, tmp_path):
    with pytest.raises(ConfigError, match=r"^SECRET_KEY_FILE: cannot read"):
        read(SECRET_KEY_FILE=str(tmp_path / "nothing"))


def test_a_secret_may_not_come_from_two_places(read, tmp_path):
    with pytest.raises(ConfigError, match=r"^SECRET_KEY: set either"):
        read(SECRET_KEY="x", SECRET_KEY_FILE=str(tmp_path / "key"))


def test_redis_can_be_named_in_parts(read):
    found = read(REDIS_HOST="cache.internal", REDIS_PORT="6380", REDIS_PASS="p@ss/word")

    assert found.redis_url == "redis://:p%40ss%2Fword@cache.internal:6380"
    assert found.redis_socket is None


@pytest.mark.parametrize(
    ("base", "db", "expected", "for_celery"),
    [
        ("unix:///d/redis.sock", 3, "unix:///d/redis.sock?db=3",
         "redis+socket:///d/redis.sock?virtual_host=3"),
        ("unix://:pw@/d/redis.sock?db=2", 1, "unix://:pw@/d/redis.sock?db=3",
         "redis+socket://:pw@/d/redis.sock?virtual_host=3"),
        ("redis://h", 4, "redis://h/4", "redis://h/4"),
        ("redis://:pw@h:6380/5", 2, "redis://:pw@h:6380/7", "redis://:pw@h:6380/7"),
        ("rediss://h/0", 1, "rediss://h/1", "rediss://h/1?ssl_cert_reqs=required"),
    ],
)  # fmt: skip
def test_each_use_of_redis_has_a_database_of_its_own(base, db, expected, for_celery):
    assert config.redis_url(base, db) == expected
    assert config.celery_redis_url(base, db) == for_celery


def test_a_data_folder_too_deep_for_a_socket_gets_one_in_a_private_temporary_folder(tmp_path):
    deep = tmp_path / ("d" * 60) / ("e" * 60)

    socket = read_config(Environment({"PORTAL_DATA_DIR": str(deep)})).redis_socket

    assert socket is not None
    assert len(os.fsencode(socket)) <= config.MAX_SOCKET_PATH
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert read_config(Environment({"PORTAL_DATA_DIR": str(deep)})).redis_socket == socket
    socket.parent.rmdir()


def test_two_data_folders_have_index_names_of_their_own(tmp_path):
    def prefix(name: str) -> str:
        folder = str(tmp_path / name)
        return read_config(Environment({"PORTAL_DATA_DIR": folder})).elasticsearch.prefix

    assert prefix("a") != prefix("b")
    assert prefix("a") == prefix("a")
