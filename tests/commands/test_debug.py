"""``gradprobe debug`` and the command line as a whole: what to put into a bug report, help, version."""

from __future__ import annotations

import pytest
import torch

import gradprobe
from gradprobe.__main__ import main
from tests.commands.running import gradprobe as run_gradprobe


def test_debug_shows_versions_and_capabilities(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["debug"]) == 0
    out, err = capsys.readouterr()
    rows = dict(line.split(None, 1) for line in out.splitlines())
    assert err == ""
    # The package's version may lack what the build adds to it.
    assert torch.__version__ in (
        rows["torch"].strip(),
        f"{rows['torch'].strip()}+{torch.__version__.partition('+')[2]}",
    )
    assert rows["gradprobe"].strip() == gradprobe.__version__
    for name in ("python", "platform", "sqlite", "pandas", "numpy", "recording", "default", "enabled"):
        assert rows[name].strip()


def test_debug_shows_that_gradprobe_is_disabled(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gradprobe.disable()
    try:
        main(["debug"])
    finally:
        gradprobe.enable()
    assert "no (GRADPROBE=0)" in capsys.readouterr().out


def test_debug_shows_no_environment_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cret-value")
    main(["debug"])
    assert "s3cret-value" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [(), ("run",), ("report",), ("debug",)], ids=" ".join)
def test_every_verb_has_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([*words, "--help"])
    out, err = capsys.readouterr()
    assert leaving.value.code == 0
    assert out.startswith(" ".join(["usage: gradprobe", *words]))
    assert err == ""


def test_python_m_returns_the_exit_code(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("empty")
    version = run_gradprobe("--version", cwd=folder)
    assert (version.returncode, version.stdout.decode()) == (0, f"gradprobe {gradprobe.__version__}\n")
    absent = run_gradprobe("report", "absent.gradprobe", cwd=folder)
    assert (absent.returncode, absent.stdout) == (2, b"")
    assert absent.stderr.startswith(b"gradprobe report: cannot read absent.gradprobe: there is no such file")
