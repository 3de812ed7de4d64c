"""Order of the fork handlers, which does not depend on the order of the imports."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks of POSIX")


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_handlers_run_in_their_order_around_a_fork() -> None:
    said = run("""
import os
from gradprobe.lifecycle import Order, register

def named(text):
    return lambda: os.write(1, f"{text}\\n".encode())

for place in (Order.FOLLOWER, Order.SESSIONS, Order.SQLITE):  # the monitor is not in use
    register(place, before=named(f"before {place.name}"), in_child=named(f"child {place.name}"))
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
""")
    before, after = ["FOLLOWER", "SESSIONS", "SQLITE"], ["SQLITE", "SESSIONS", "FOLLOWER"]
    assert said.split("\n")[:-1] == [f"before {name}" for name in before] + [f"child {name}" for name in after]


def test_an_error_in_one_handler_does_not_keep_the_others_from_running() -> None:
    said = run("""
import os
from gradprobe.lifecycle import Order, register

register(Order.SQLITE, in_child=lambda: 1 / 0)
register(Order.SESSIONS, in_child=lambda: os.write(1, b"ran\\n"))
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
""")
    assert said == "ran\n"


def test_every_module_with_handlers_is_registered_once_it_is_imported() -> None:
    said = run("""
import sys
import gradprobe
assert "torch" not in sys.modules and "gradprobe.lifecycle" not in sys.modules
import gradprobe.recording.sqlite_file
from gradprobe.lifecycle import Order, _handlers
assert set(_handlers) == {Order.SQLITE} and "torch" not in sys.modules
gradprobe.record
assert set(_handlers) == {Order.SQLITE, Order.SESSIONS}
gradprobe.monitor
import gradprobe.subprocesses.follower
print(set(_handlers) == set(Order))
""")
    assert said == "True\n"
