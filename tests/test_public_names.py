"""The public names are what they say, whatever else of the package was imported."""

from __future__ import annotations

import importlib
import pkgutil
import types

import pytest

import gradprobe


def test_no_module_of_the_package_hides_a_public_name() -> None:
    for module in pkgutil.walk_packages(gradprobe.__path__, "gradprobe."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in gradprobe.__all__:
        assert not isinstance(getattr(gradprobe, name), types.ModuleType), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gradprobe.nothing
    assert set(gradprobe.__all__) <= set(dir(gradprobe))
