"""`manage.py up`, as a person at a terminal meets it."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from portal.config import BASE_DIR
from portal.processes import end_marked, find_marked
from tests.live.stack import ask, find_port, make_environment, wait_for

pytestmark = pytest.mark.live

# What stubborn processes may cost (8 s, then a second for each of three rounds), and some more.
END_SECONDS = 15
# How `up` says that its own wait ran out.
NOT_READY = "The portal was not ready after"
UP = (sys.executable, "manage.py", "up", "--ready-timeout", "80")


class Terminal:
    """A command that runs a portal, with its output in a file."""

    def __init__(self, data_dir: Path, port: int, *command: str) -> None:
        self.data_dir = data_dir
        self.port = port
        data_dir.mkdir(parents=True, exist_ok=True)
        self._path = data_dir / f"terminal-{time.monotonic_ns()}.txt"
        with self._path.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=BASE_DIR,
                env=make_environment(data_dir, port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A terminal's processes heed Ctrl-C. Tests that run in the background of a script
                # were told to ignore it, and so would make and all that is below it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def shown(self) -> str:
        return self._path.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        def look() -> bool:
            if self.process.poll() is not None and NOT_READY in self.shown:
                raise TimeoutError(self.shown)
            assert self.process.poll() is None, self.shown
            return "Ready: http" in self.shown

        wait_for("Ready", look, timeout_seconds=90)

    def is_healthy(self) -> bool:
        try:
            return ask(self.port, "/health/ready").status == 200
        except OSError:
            return False

    def press_ctrl_c(self) -> float:
        """Seconds until the command had ended."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)
        return time.monotonic() - started


@contextlib.contextmanager
def open_terminal(
    data_dir: Path, *, port: int | None = None, command: tuple[str, ...] = UP
) -> Iterator[Terminal]:
    terminal = Terminal(data_dir, port or find_port(), *command)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait(timeout=10)
        end_marked(data_dir)


def list_working_in(folder: Path) -> set[int]:
    """The processes whose working folder lies in `folder`, whatever their environment says."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                found.add(process.pid)
    return found


def test_a_portal_that_runs_heals_keeps_others_away_and_ends_quickly(tmp_path: Path) -> None:
    """In one test, because a portal takes its time to start."""
    with open_terminal(tmp_path / "a folder with spaces & ünicode %") as terminal:
        terminal.wait_until_ready()
        assert len(find_marked(terminal.data_dir)) >= 8  # supervisord, five programs, pool children
        check_that_a_dead_child_is_started_again(terminal)
        check_that_its_folder_is_refused(terminal)
        started = time.monotonic()
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.process.wait(timeout=60) == 0
        assert time.monotonic() - started < END_SECONDS
        assert find_marked(terminal.data_dir) == []
        assert "Stopped." in terminal.shown


def check_that_a_dead_child_is_started_again(terminal: Terminal) -> None:
    web = next(p for p in find_marked(terminal.data_dir) if "uvicorn" in p.cmdline())
    web.kill()
    web.wait(timeout=10)
    wait_for("a new web server", terminal.is_healthy, timeout_seconds=30)
    assert web.pid not in {process.pid for process in find_marked(terminal.data_dir)}


def check_that_its_folder_is_refused(terminal: Terminal) -> None:
    folder = terminal.data_dir
    second = Terminal(folder / ".." / folder.name, find_port(), *UP)
    assert second.process.wait(timeout=60) != 0
    assert f"in use by pid {terminal.process.pid}" in second.shown
    assert terminal.is_healthy()


def test_ctrl_c_during_the_start_leaves_no_process(tmp_path: Path) -> None:
    with open_terminal(tmp_path) as terminal:
        wait_for("the first process", lambda: find_marked(tmp_path))
        terminal.press_ctrl_c()
        assert terminal.process.returncode == 0
        assert find_marked(tmp_path) == []


def test_after_a_kill_of_the_parent_the_next_up_clears_up_and_works(tmp_path: Path) -> None:
    port = find_port()
    with open_terminal(tmp_path, port=port) as first:
        first.wait_until_ready()
        first.process.kill()
        first.process.wait(timeout=10)
        orphans = {process.pid for process in find_marked(tmp_path)}
        # Redis wipes its environment, so the one is found by the folder that it works in.
        assert list_working_in(tmp_path)
        assert list_working_in(tmp_path) <= orphans
        with open_terminal(tmp_path, port=port) as second:
            second.wait_until_ready()
            assert "left behind" in second.shown
            assert orphans.isdisjoint(process.pid for process in find_marked(tmp_path))
            assert second.is_healthy()
            second.press_ctrl_c()
            assert list_working_in(tmp_path) == set()


def test_after_a_kill_of_make_the_next_up_takes_over(tmp_path: Path) -> None:
    makefile = tmp_path / "Makefile"
    makefile.write_text("up:\n\t@exec " + " ".join(UP) + "\n")
    data_dir, port = tmp_path / "data", find_port()
    with open_terminal(data_dir, port=port, command=("make", "-f", str(makefile), "up")) as first:
        first.wait_until_ready()
        first.process.kill()
        with open_terminal(data_dir, port=port) as second:
            second.wait_until_ready()
            assert second.is_healthy()


def test_an_interrupt_of_make_alone_ends_the_portal(tmp_path: Path) -> None:
    makefile = tmp_path / "Makefile"
    makefile.write_text("up:\n\t@exec " + " ".join(UP) + "\n")
    with open_terminal(tmp_path, command=("make", "-f", str(makefile), "up")) as terminal:
        terminal.wait_until_ready()
        assert terminal.press_ctrl_c() < END_SECONDS
        assert find_marked(tmp_path) == []


def test_a_taken_port_is_one_clear_line_and_a_failure(tmp_path: Path) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        with open_terminal(tmp_path, port=port) as terminal:
            assert terminal.process.wait(timeout=60) != 0
            lines = terminal.shown.strip().splitlines()
            assert len(lines) == 1
            assert f"PORTAL_PORT: port {port}" in lines[0]
            assert find_marked(tmp_path) == []


def test_two_portals_run_side_by_side_and_one_end_leaves_the_other_alone(tmp_path: Path) -> None:
    with open_terminal(tmp_path / "one") as one, open_terminal(tmp_path / "two") as two:
        one.wait_until_ready()
        two.wait_until_ready()
        assert one.is_healthy()
        assert one.press_ctrl_c() < END_SECONDS
        assert one.process.returncode == 0
        assert "Stopped." in one.shown
        assert two.is_healthy()
        assert find_marked(tmp_path / "one") == []
        assert find_marked(tmp_path / "two")


def test_the_demo_ends_well_and_its_report_agrees_with_the_upstream(tmp_path: Path) -> None:
    command = (sys.executable, "manage.py", "demo", "--once", "--count", "400")
    for _ in range(2):  # safe to repeat
        terminal = Terminal(tmp_path, find_port(), *command)
        try:
            terminal.process.wait(timeout=180)
        finally:
            terminal.process.kill()
            terminal.process.wait(timeout=10)
            end_marked(tmp_path)
        if NOT_READY in terminal.shown:
            raise TimeoutError(terminal.shown)
        assert terminal.process.returncode == 0, terminal.shown
        assert "The upstream says the same" in terminal.shown
        assert "planned 400, unknown 0" in terminal.shown
        found = re.search(r"^  password +(\S+)$", terminal.shown, re.MULTILINE)
        assert found
        password_file = tmp_path / "demo-password"
        assert password_file.read_text().strip() == found[1]
        assert stat.S_IMODE(password_file.stat().st_mode) == 0o600
        assert find_marked(tmp_path) == []
