"""The variable, attribute or container that keeps an object alive is found by its name."""

from __future__ import annotations

import functools
import sys
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType, ModuleType
from typing import Any

import pytest
import torch

from gradprobe.capture.location.frames import SKIPPED, FrameClassifier
from gradprobe.capture.location.holders import Holder, find_holder, list_members


class Codes(FrameClassifier):
    """The kinds of code, but for this file's helper that has what is looked for in a variable of its own."""

    def kind(self, code: CodeType) -> int:
        return SKIPPED if code in (look.__code__, look_below.__code__) else super().kind(code)


def look(wanted: list[Any], frame: FrameType | None = None, roots: list[Any] | None = None) -> Holder:
    found = find_holder(wanted, Codes(), frame, roots or [])
    assert found is not None
    return found


def look_below(root: Any) -> Holder:
    return look([root.last], None, [root])


class Trainer:
    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []

    def look(self) -> Holder:
        return look([self.losses[0]], sys._getframe())


class Slotted:
    __slots__ = ("last", "unset")

    def __init__(self, last: torch.Tensor) -> None:
        self.last = last


@dataclass
class History:
    by_name: dict[str, list[torch.Tensor]] = field(default_factory=dict)


def in_a_list() -> Holder:
    history = [torch.ones(1)]
    return look([history[0]], sys._getframe())


def in_a_deque() -> Holder:
    window = deque([torch.ones(1)], maxlen=3)
    return look([window[0]], sys._getframe())


def in_an_attribute() -> Holder:
    trainer = Trainer()
    trainer.losses.append(torch.ones(1))
    return trainer.look()


def in_slots() -> Holder:
    kept = Slotted(torch.ones(1))
    return look([kept.last], sys._getframe())


def in_a_dataclass() -> Holder:
    history = History({"loss": [torch.ones(1)]})
    return look([history.by_name["loss"][0]], sys._getframe())


def make_module() -> torch.nn.Module:
    module: Any = torch.nn.Linear(1, 1)
    module.last = torch.ones(1)
    return module


def in_a_module() -> Holder:
    return look_below(make_module())


def in_a_closure() -> Holder:
    def make() -> Callable[[], object]:
        kept = [torch.ones(1)]
        return lambda: kept

    hook = make()
    return look([hook()[0]], sys._getframe())  # type: ignore[index]


def in_a_default_argument() -> Holder:
    def log(value: object, seen: list[object] = []) -> None:  # noqa: B006
        seen.append(value)

    log(torch.ones(1))
    assert log.__defaults__ is not None
    return look([log.__defaults__[0][0]], sys._getframe())


def in_an_exception() -> Holder:
    def fail() -> None:
        activation = torch.ones(1)
        raise ValueError(activation.shape)

    failed = []
    try:
        fail()
    except ValueError as error:
        failed.append(error)
    trace = failed[0].__traceback__
    assert trace is not None
    assert trace.tb_next is not None
    return look([trace.tb_next.tb_frame.f_locals["activation"]], sys._getframe())


CASES: dict[Callable[[], Holder], tuple[str, str]] = {
    in_a_list: ("history[...]", "local"),
    in_a_deque: ("window[...]", "local"),
    in_an_attribute: ("Trainer.losses[...]", "attribute"),
    in_slots: ("kept.last", "attribute"),
    in_a_dataclass: ("history.by_name['loss'][...]", "attribute"),
    in_a_module: ("Linear.last", "attribute"),
    in_a_closure: ("hook.kept[...]", "attribute"),
    in_a_default_argument: ("log.seen[...]", "attribute"),
    in_an_exception: ("failed[...] (traceback).activation", "attribute"),
}


@pytest.mark.parametrize("program", CASES, ids=lambda program: program.__name__)
def test_what_a_variable_leads_to_is_called_as_the_program_calls_it(program: Callable[[], Holder]) -> None:
    holder = program()
    assert (holder.name, holder.kind) == CASES[program]


KEPT: list[torch.Tensor] = []


def test_a_global_variable_is_found_from_a_frame_of_its_module() -> None:
    KEPT.append(torch.ones(1))
    holder = look([KEPT[0]], sys._getframe())
    KEPT.clear()
    assert (holder.name, holder.kind, holder.file) == ("KEPT[...]", "global", __file__)


# What no variable of a running function leads to is found from the object, along what refers to it.


def test_a_cache_is_found_by_its_function() -> None:
    @functools.lru_cache
    def embed(token: int) -> torch.Tensor:
        return torch.full((1,), float(token))

    holder = look([embed(1)])
    assert (holder.name, holder.kind, holder.function.rsplit(".", 1)[-1]) == (
        "the cache of " + embed.__qualname__,
        "cache",
        "embed",
    )


def test_a_suspended_generator_is_found_by_its_variable() -> None:
    made = []

    def batches() -> Iterator[int]:
        carried = torch.ones(1)
        made.append(weakref.ref(carried))
        yield 1
        carried.add_(1)

    running = batches()
    next(running)
    holder = look([made[0]()])
    assert (holder.name, holder.kind) == ("carried", "generator")


def test_what_nothing_holds_has_no_holder() -> None:
    found = find_holder([object()], Codes(), None, [])
    assert found is None


def test_a_search_changes_no_count_of_references() -> None:
    history = [torch.ones(1)]
    before = sys.getrefcount(history[0])
    look([history[0]], sys._getframe())
    after = sys.getrefcount(history[0])
    assert after == before


def test_a_large_variable_does_not_hide_the_others() -> None:
    large = [[[] for _ in range(100)] for _ in range(200)]
    kept = [torch.ones(1)]
    holder = look([kept[0]], sys._getframe())
    assert (holder.name, len(large)) == ("kept[...]", 200)


def test_containers_that_compute_their_members_are_not_asked_for_them() -> None:
    """``transformers.activations.ACT2FN`` builds a module whenever an item is read."""
    asked = []

    class Registry(OrderedDict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            asked.append(key)
            return super().__getitem__(key)

    class Lazy(list[Any]):
        def __iter__(self) -> Any:
            asked.append("iter")
            return super().__iter__()

    registry = Registry(gelu=1)

    assert list_members(registry) == [("['gelu']", 1)]
    assert list_members(Lazy([1, 2])) == [("[...]", 1), ("[...]", 2)]
    assert asked == []


def test_objects_that_stand_for_others_are_not_asked() -> None:
    """Such as the proxies of web frameworks, which raise where there is no request."""
    asked = []

    class Proxy:
        def __getattribute__(self, name: str) -> Any:
            asked.append(name)
            raise LookupError(name)

    class Pretender:
        __dict__ = property(lambda self: asked.append("__dict__"))  # type: ignore[assignment]

    proxy = Proxy()
    object.__setattr__(proxy, "kept", 1)

    assert list_members(proxy) == [(".kept", 1)]
    assert list_members(Pretender()) == []
    assert asked == []


def test_a_lazy_module_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    lazy = ModuleType("lazy")
    vars(lazy)["__getattr__"] = asked.append
    monkeypatch.setitem(sys.modules, "lazy", lazy)

    find_holder([object()], Codes(), sys._getframe(), [])

    assert asked == []
