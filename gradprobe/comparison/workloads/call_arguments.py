"""Keyword arguments of the measured function, kept apart from those of ``compare`` itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

from gradprobe.errors import GradprobeError


def merge_keywords(
    fn: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    keywords: Mapping[str, Any],
    *,
    given: Collection[str],
) -> dict[str, Any]:
    """Return the keyword arguments for ``fn`` from ``kwargs`` and from the keywords that ``compare`` does not know.

    ``given`` are the caller's keywords that ``compare`` takes for itself. If ``fn`` accepts one of them too, the call is
    ambiguous unless the caller passed ``kwargs``.
    """
    if kwargs is None:
        shared = sorted(set(given) & _find_free_parameters(fn, args))
        if shared:
            name, function = shared[0], name_function(fn)
            raise GradprobeError(
                f"cannot tell whose argument {name!r} is: compare and {function} both accept it; pass arguments of "
                f"{function} as kwargs={{{name!r}: ...}}, or add kwargs={{}} if it is meant for compare"
            )
        return dict(keywords)
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise GradprobeError(f"kwargs must be a mapping of keyword arguments for fn, got {kwargs!r:.60}")
    twice = sorted(set(kwargs) & set(keywords))
    if twice:
        raise GradprobeError(f"cannot pass {twice[0]!r} to fn twice: it is in kwargs and a keyword; remove one of them")
    return {**kwargs, **keywords}


def name_function(fn: Callable[..., object]) -> str:
    """Return the name of a function, or of the class of another callable."""
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__


def _find_free_parameters(fn: Callable[..., object], args: tuple[Any, ...]) -> set[str]:
    """Return the parameters that can be passed by keyword, without those that ``args`` or a partial bind already."""
    bound = set(fn.keywords) if isinstance(fn, functools.partial) else set()
    try:
        signature = inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn)
        bound |= set(signature.bind_partial(*args).arguments)
    except (TypeError, ValueError):  # a builtin without a signature, or too many arguments
        return set()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name for name, parameter in signature.parameters.items() if parameter.kind in kinds} - bound
