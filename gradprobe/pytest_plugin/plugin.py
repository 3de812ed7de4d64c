"""Entry point of the pytest plugin: options, marker and fixtures; the rest is imported on first use."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from gradprobe import _switch
from gradprobe.pytest_plugin import options as plugin_options

if TYPE_CHECKING:
    from gradprobe.pytest_plugin.every_mode import EveryMode, EveryModePlugin
    from gradprobe.pytest_plugin.grad_compare import GradCompare
    from gradprobe.pytest_plugin.hooks import RunPlugin
    from gradprobe.result import Recording

_OPTIONS = pytest.StashKey[plugin_options.PluginOptions]()
_LEFT = pytest.StashKey[list[Any]]()
"""Modes that the first conftests left changed."""
_NAME = "gradprobe-run"
_EVERY_MODE_NAME = "gradprobe-every-mode"
_FIXTURES = ("gradprobe", "grad_compare")
"""The fixtures that record a test; ``gradprobe_recording`` requests the first of them."""
_MARKER = (
    "gradprobe(max_nodes, max_saved_bytes, max_version_bumps, require_mode, level): limits on what the body of "
    "a test costs in autograd nodes, bytes saved for backward and version bumps, and the mode it must run under"
)

_EVERY_MODE_MARKER = (
    "every_mode(modes, rtol, atol, escapes): run the test under grad, no_grad and inference_mode, and fail it if what "
    "it returns differs, a mode is left changed or an inference tensor remains"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    plugin_options.add_options(parser)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, Any, Any]:
    """Record the import of the first conftests, which may leave a mode changed."""
    try:
        options = plugin_options.resolve_options(early_config)
        is_recorded = options.records_every_test and plugin_options.MODES in options.leaks
    except pytest.UsageError:  # reported by pytest_configure, when pytest has parsed all its arguments
        is_recorded = False
    if not is_recorded:
        return (yield)
    from gradprobe.pytest_plugin.leaks import record_import_leaks

    with record_import_leaks() as left:
        result = yield
    early_config.stash[_LEFT] = left
    return result


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, resolve the options, and register the rest if every test is recorded."""
    config.addinivalue_line("markers", _MARKER)
    config.addinivalue_line("markers", _EVERY_MODE_MARKER)
    config.stash[_OPTIONS] = options = plugin_options.resolve_options(config)
    if options.records_every_test:
        _register(config)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the markers, and register the rest of the plugin if a test has one or uses a fixture."""
    marked = [item for item in items if item.get_closest_marker("gradprobe") is not None]
    # In a worker of pytest-xdist an error here would end the whole run; there the test itself fails.
    if marked and not hasattr(config, "workerinput"):
        from gradprobe.pytest_plugin.budgets import read_budget

        for item in marked:
            read_budget(item)
    if marked or any(name in getattr(item, "fixturenames", ()) for item in items for name in _FIXTURES):
        _register(config)
    repeated = [
        item
        for item in items
        if item.get_closest_marker("every_mode") is not None or "every_mode" in getattr(item, "fixturenames", ())
    ]
    if repeated and _switch.is_enabled():
        from gradprobe.pytest_plugin.every_mode import read_settings

        for item in repeated:
            if not hasattr(config, "workerinput"):
                read_settings(item)
        _register_every_mode(config)


def _register_every_mode(config: pytest.Config) -> EveryModePlugin:
    """Return the plugin that runs tests under several modes, registering it the first time."""
    known: Any = config.pluginmanager.get_plugin(_EVERY_MODE_NAME)
    if known is None:
        from gradprobe.pytest_plugin.every_mode import EveryModePlugin

        known = EveryModePlugin()
        config.pluginmanager.register(known, _EVERY_MODE_NAME)
    plugin: EveryModePlugin = known
    return plugin


def _register(config: pytest.Config) -> RunPlugin:
    """Return the plugin of this run, registering it the first time."""
    known: Any = config.pluginmanager.get_plugin(_NAME)
    if known is None:
        from gradprobe.pytest_plugin.hooks import RunPlugin

        left: list[Any] = config.stash.get(_LEFT, [])
        known = RunPlugin(config, config.stash[_OPTIONS], left)
        config.pluginmanager.register(known, _NAME)
    plugin: RunPlugin = known
    return plugin


@pytest.fixture
def gradprobe(request: pytest.FixtureRequest) -> Recording:
    """Live recording of this test: everything that its body did until the moment at which it is read.

    The fixture hides the module of the same name in the test; ``gradprobe_recording`` is the same fixture.

    Example::

        def test_inference_builds_no_graph(gradprobe):
            predict(torch.ones(3))
            assert gradprobe.regions["nodes"].sum() == 0
    """
    return _register(request.config).recording()


@pytest.fixture
def gradprobe_recording(gradprobe: Recording) -> Recording:
    """Live recording of this test, under a name that does not hide the module ``gradprobe``.

    Example::

        import gradprobe

        def test_inference_builds_no_graph(gradprobe_recording):
            with gradprobe.no_grad():
                predict(torch.ones(3))
            assert gradprobe_recording.regions["nodes"].sum() == 0
    """
    return gradprobe


@pytest.fixture
def every_mode(request: pytest.FixtureRequest) -> EveryMode:
    """Run the test under grad, no_grad and inference_mode; its ``mode`` is the current one.

    Fails the test if a value that it returns or notes differs between the modes, if a mode is left changed, or if an
    inference tensor is still referenced afterwards. The marker of the same name does the same.

    Example::

        def test_predict(every_mode, model, batch):
            every_mode(model, batch)  # called once per mode, with equal results
    """
    if "every_mode" not in getattr(request.node, "fixturenames", ()):
        pytest.fail("gradprobe: request every_mode by a parameter of the test", pytrace=False)
    return _register_every_mode(request.config).fixture


@pytest.fixture
def grad_compare(request: pytest.FixtureRequest) -> GradCompare:
    """Function that compares a call under grad, no_grad and inference_mode as ``gradprobe.compare`` does.

    The result also goes to the report of the run. ``budget_s`` defaults to 5 seconds.

    Example::

        def test_inference_mode_pays(grad_compare):
            grad_compare(model, batch).assert_faster("inference_mode", by=0.05)
    """
    from gradprobe.pytest_plugin.grad_compare import GradCompare

    return GradCompare(_register(request.config))
