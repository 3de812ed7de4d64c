"""``gradprobe report``: the same numbers in every format for any names, and one line of error for an unreadable file."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import gradprobe
from gradprobe.__main__ import main
from gradprobe.report.units import format_count, format_duration
from tests.commands.running import PATIENCE_S, python, refused
from tests.report.reading import markdown_table, terminal_table
from tests.report.test_schemas import schema
from tests.thoroughness import examples

SCHEMA: dict[str, Any] = schema("recording")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A recording with a site of every kind, a redundant block, an exception and a second thread."""
    path = tmp_path / "r.gradprobe"
    weight = torch.ones(3, requires_grad=True)

    @torch.inference_mode()
    def decorated() -> None:
        torch.ones(2)

    def in_thread() -> None:
        with torch.no_grad():
            pass

    with gradprobe.record(path):
        for _ in range(1200):
            with torch.no_grad():
                weight * 2
        with torch.no_grad(), torch.no_grad(), torch.enable_grad():
            (weight * 3).sum()
        with contextlib.suppress(KeyError), torch.no_grad():
            raise KeyError
        decorated()
        torch.set_grad_enabled(False)
        torch.set_grad_enabled(True)
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
    return path


def report(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["report", *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_terminal_markdown_and_json_show_the_same_numbers(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = json.loads(report(capsys, str(recorded), "--format", "json"))
    plain = report(capsys, str(recorded), "--all")
    markdown = report(capsys, str(recorded), "--format", "markdown")
    sites = terminal_table(plain, "Time by site")
    assert len(sites) == len(body["sites"]) == 8
    for shown, site in zip(sites, body["sites"], strict=True):
        assert shown["count"] == format_count(site["count"])
        assert shown["total"] == format_duration(site["total_ns"])
        assert shown["self"] == format_duration(site["self_ns"])
        assert shown["median"] == format_duration(site["median_ns"])
        assert shown["nodes"] == format_count(site["nodes"])
        assert shown["manager"] == site["manager"]
        assert shown["form"] == site["form"]
        assert shown["site"].endswith(f"test_report.py:{site['line']}")
    assert {site["count"] for site in body["sites"]} == {1, 2, 1200}
    for title in ("Time by site", "Time by mode", "Redundant blocks"):
        in_markdown = markdown_table(markdown, title)
        in_terminal = terminal_table(plain, title)
        assert len(in_markdown) == len(in_terminal)
        for one, other in zip(in_markdown, in_terminal, strict=True):
            one.pop("site", None), other.pop("site", None)  # the terminal shortens long paths
            assert one == other
    for shown, mode in zip(terminal_table(plain, "Time by mode"), body["summary"]["time_by_mode"], strict=True):
        assert shown["mode"] == mode["mode"]
        assert shown["time"] == format_duration(mode["ns"])
    summary = body["summary"]
    assert f"{summary['transitions']:,} transitions at {summary['sites']} sites" in plain
    assert f"{summary['transitions']:,} transitions at {summary['sites']} sites" in markdown


def test_the_json_report_follows_its_schema(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    body = json.loads(report(capsys, str(recorded), "--format", "json"), parse_constant=no_constant)
    jsonschema.Draft202012Validator(SCHEMA).validate(body)
    # What this level does not measure is null, never 0.
    assert all(site["saved_bytes"] is None and site["version_bumps"] is None for site in body["sites"])
    assert json.loads(gradprobe.load(recorded).to_json()) == body


HOSTILE = [
    "line\nfeed",
    "\x1b[2J\x1b]0;title\x07",
    "a|b||c",
    "<script>alert(1)</script>",
    "`code` **bold** [link](http://x) $x$ ![i](j)",
    "right\u202eto left\u200f",
    "lone \udc80 surrogate",
    "-" * 80 + "|",
    "",
    " ",
    "1e3",
    "tab\tand\rreturn\x85\u2028next",
]


def test_hostile_names_break_no_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["a\nb|<c>\x1b.py"])
    path = tmp_path / "r.gradprobe"
    stored = [name.encode("utf-8", "backslashreplace").decode() for name in HOSTILE]
    source = "def f(error):\n with torch.no_grad():\n  with torch.no_grad():\n   raise error\n"

    with gradprobe.record(path):
        for number, name in enumerate(HOSTILE):
            space: dict[str, Any] = {"torch": torch}
            exec(compile(source, f"/folder {number}/{name}", "exec"), space)
            function = space["f"]
            names = {"co_name": name} | ({"co_qualname": name} if sys.version_info >= (3, 11) else {})
            function.__code__ = function.__code__.replace(**names)
            error = type(stored[number] or "Nameless", (Exception,), {})

            def in_thread(function: Any = function, error: Any = error) -> None:
                with contextlib.suppress(error):
                    function(error())

            thread = threading.Thread(target=in_thread, name=name)
            thread.start()
            thread.join()

    body = json.loads(report(capsys, str(path), "--format", "json"))
    jsonschema.Draft202012Validator(SCHEMA).validate(body)
    assert {region["function"] for region in body["regions"]} == set(stored)
    assert {region["file"] for region in body["regions"]} == {f"/folder {n}/{name}" for n, name in enumerate(stored)}

    words = [str(path), "--top", "1000"]
    plain = report(capsys, *words, "--all")
    assert all(character.isprintable() for character in plain.replace("\n", ""))
    for title, rows in (
        ("Time by site", 24),
        ("Redundant blocks", 12),
        ("Blocks with an irregular exit", 24),
        ("Time by thread", 13),
    ):
        assert len(terminal_table(plain, title)) == rows

    markdown = report(capsys, *words, "--format", "markdown")
    assert all(character.isprintable() for character in markdown.replace("\n", ""))
    assert set(re.findall(r"</?[a-z]+", markdown)) <= {"<details", "</details", "<summary", "</summary"}
    assert not re.search(r"(?<!\\)[`$*]", markdown)
    assert len(markdown_table(markdown, "### Time by site")) == 24
    assert len(markdown_table(markdown, "### Blocks with an irregular exit")) == 24
    assert len(markdown_table(markdown, "Environment")) >= 10

    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["report", *words]) == 0
    out.flush()


def test_a_probed_function_may_have_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.gradprobe"
    names = [name for name in HOSTILE if name]
    with gradprobe.record(path):
        for name in names:
            gradprobe.probe(name=name)(lambda: None)()
    body = json.loads(report(capsys, str(path), "--format", "json"))
    assert [call["function"] for call in body["calls"]] == [
        name.encode("utf-8", "backslashreplace").decode() for name in names
    ]
    plain = report(capsys, str(path))
    assert all(character.isprintable() for character in plain.replace("\n", ""))
    assert len(terminal_table(plain, "Probed calls")) == len(names)


def test_two_processes_are_shown_on_one_time_axis(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with gradprobe.record(tmp_path / "second.gradprobe"), torch.no_grad():
        pass
    words = [str(tmp_path / "second.gradprobe"), str(recorded)]
    body = json.loads(report(capsys, *words, "--format", "json"))
    jsonschema.Draft202012Validator(SCHEMA).validate(body)
    assert len(body["environment"]["processes"]) == 2
    starts = [region["start_ns"] for region in body["regions"]]
    assert min(starts[1:]) < starts[0]
    assert len({region["region"] for region in body["regions"]}) == len(body["regions"])
    assert "in 3 threads" in report(capsys, *words)


def test_top_limits_the_rows_and_counts_the_others(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for format_ in ("terminal", "markdown"):
        assert "6 more rows" in report(capsys, str(recorded), "--top", "2", "--format", format_)


def test_the_suffix_of_the_output_selects_the_format(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix, format_ in ((".md", "markdown"), (".json", "json"), (".txt", "terminal")):
        output = recorded.with_suffix(suffix)
        assert main(["report", str(recorded), "-o", str(output)]) == 0
        out, err = capsys.readouterr()
        assert (out, err) == ("", f"wrote {output}\n")
        assert output.read_text() == report(capsys, str(recorded), "--format", format_)
    output.write_text("old")
    assert main(["report", str(recorded), "-o", str(output), "--force"]) == 0
    assert output.read_text().startswith("gradprobe")
    assert {file.suffix for file in recorded.parent.iterdir()} == {".md", ".json", ".txt", ".gradprobe"}


# What cannot be read or written.


def _foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE meta (a)")
        connection.commit()


def _newer(path: Path, original: bytes) -> None:
    path.write_bytes(original)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.commit()


def test_other_files_than_recordings_are_rejected(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, original = recorded.parent, recorded.read_bytes()
    (folder / "empty").write_bytes(b"")
    (folder / "text").write_text("hello\n")
    (folder / "noise").write_bytes(random.Random(0).randbytes(20_000))
    (folder / "noisy").write_bytes(original[:100] + random.Random(0).randbytes(20_000))
    (folder / "short").write_bytes(original[:20])
    (folder / "cut").write_bytes(original[: len(original) // 2])
    _foreign(folder / "foreign")
    _newer(folder / "newer", original)
    expected = {
        "absent": ["no such file", "gradprobe run"],
        "": ["it is a folder; name the .gradprobe files in it"],
        "empty": ["not a gradprobe recording"],
        "text": ["not a gradprobe recording"],
        "noise": ["not a gradprobe recording"],
        "noisy": ["damaged"],
        "short": ["damaged"],
        "cut": ["damaged", "record again"],
        "foreign": ["another program"],
        "newer": ["schema 99", "upgrade"],
        "absent\nwith\x1bmore": [r"absent\nwith\x1bmore"],
        "x" * 300: [],
    }
    before = {file: file.read_bytes() for file in folder.iterdir()}
    for name, parts in expected.items():
        said = refused(capsys, "report", str(recorded), str(folder / name))
        for part in [*parts, "gradprobe report: "]:
            assert part in said, (name, said)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_a_damaged_recording_is_read_or_rejected(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance, original = random.Random(1), recorded.read_bytes()
    damaged = recorded.with_name("damaged.gradprobe")
    for _ in range(examples(150)):
        data = bytearray(original)
        for _ in range(chance.choice((1, 1, 4, 30))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        damaged.write_bytes(data)
        damaged.with_name(damaged.name + "-journal").unlink(missing_ok=True)
        code = main(["report", str(damaged), "--format", chance.choice(("terminal", "markdown", "json"))])
        _, err = capsys.readouterr()
        assert (code, len(err.splitlines())) in {(0, 0), (2, 1)}, err


def test_unwritable_output_is_rejected_and_nothing_is_lost(
    recorded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recorded.parent)
    Path("old.md").write_text("precious")
    Path("folder.md").mkdir()
    cases = {
        ("-o", "no/such/r.md"): ["no folder no/such", "create it"],
        ("-o", "old.md"): ["cannot write old.md: it exists already", "--force"],
        ("-o", "folder.md"): ["is a folder"],
        ("-o", "old.md/r.md"): ["old.md/r.md"],
        ("-o", "r.pdf"): ["r.pdf", "unknown report format '.pdf'", ".md, .html, .json"],
        ("-o", "r"): ["suffix"],
        ("-o", "x" * 300 + ".md"): ["too long"],
        ("-o", "/dev/null", "--format", "json", "--force"): ["not a regular file"],
        ("-o", "r.gradprobe", "--format", "json", "--force"): ["it is a recording to read"],
        ("--top", "0"): ["--top must be 1 or more, got 0"],
        ("--top", "many"): ["--top", "'many'"],
        ("--format", "odt"): ["'odt'", "terminal"],
        ("--colour",): ["--colour", "gradprobe report --help"],
    }
    if Path("/proc/version").exists():
        cases["-o", "/proc/r.md"] = ["cannot write /proc/r.md", "name another"]
    for words, parts in cases.items():
        said = refused(capsys, "report", "r.gradprobe", *words)
        for part in parts:
            assert part in said, said
    assert "FILE" in refused(capsys, "report")

    really_open = Path.open

    def full(path: Path, mode: str = "r", **others: Any) -> Any:
        if "w" not in mode:
            return really_open(path, mode, **others)
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    said = refused(capsys, "report", "r.gradprobe", "-o", "old.md", "--force")
    assert "cannot write old.md: No space left on device" in said
    assert Path("old.md").read_text() == "precious"
    assert sorted(path.name for path in Path().iterdir()) == ["folder.md", "old.md", "r.gradprobe"]


# What it needs, and what it does to the terminal.


def test_report_debug_and_load_work_without_torch(recorded: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import gradprobe\n"
        "from gradprobe.__main__ import main\n"
        "for words in (['report', 'r.gradprobe'], ['report', 'r.gradprobe', '-o', 'r.json'], ['debug']):\n"
        "    assert main(words) == 0\n"
        "assert len(gradprobe.load('r.gradprobe').sites) == 8\n"
        "sys.exit(main(['run', 'absent.py']))\n"
    )
    ended = python("-c", program, cwd=recorded.parent)
    *_, last = ended.stderr.decode().splitlines()
    assert ended.returncode == 2, ended.stderr.decode()
    assert last.startswith("gradprobe run: cannot record: torch is not installed for ")
    assert "unavailable: torch is not installed here" in ended.stdout.decode()
    assert b"Time by site" in ended.stdout


def test_gradprobe_and_report_import_only_what_they_need(recorded: Path) -> None:
    program = (
        "import sys, gradprobe\n"
        "print({'torch', 'pandas', 'numpy', 'sqlite3', 'tabulate', 'tqdm'} & set(sys.modules))\n"
        "from gradprobe.__main__ import main\n"
        "main(['report', 'r.gradprobe', '-o', 'r.md'])\n"
        "print('torch' in sys.modules)\n"
    )
    ended = python("-c", program, cwd=recorded.parent)
    assert ended.stdout.decode().splitlines() == ["set()", "False"], ended.stderr.decode()


def test_a_closed_pipe_causes_no_traceback(recorded: Path) -> None:
    words = [sys.executable, "-m", "gradprobe", "report", str(recorded)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_causes_no_traceback(
    recorded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["report", str(recorded)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line


class _Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_long_work_shows_progress_only_on_a_terminal(
    recorded: Path, terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter(range(1_000_000))
    monkeypatch.setattr("tqdm.std.time", lambda: next(seconds))
    stream = _Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["report", str(recorded)]) == 0
    assert ("reading events" in stream.getvalue()) is terminal
    assert "reading events" not in capsys.readouterr().out
