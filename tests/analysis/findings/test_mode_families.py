"""Modes that escape: programs that are wrong for one cause in different shapes, and right ones that look alike."""

from __future__ import annotations

import gc
import runpy
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import gradprobe
from gradprobe.recording.notes import NoteKind

TRAIN = """
    import torch
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    data = [torch.ones(2, 3) for _ in range(3)]

    def step(x):
        loss = net(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""

WRONG = {
    "an early return": (
        "GP101",
        TRAIN
        + """
    def look(x):
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)  # cause
        if x.sum() > 0:
            return None
        torch.set_grad_enabled(before)

    step(data[0])
    look(data[0])
    try:
        step(data[1])
    except RuntimeError:
        pass
    """,
    ),
    "an exception on the way to the restoring call": (
        "GP101",
        TRAIN
        + """
    def evaluate(batches):
        torch.set_grad_enabled(False)  # cause
        for x in batches:
            net(x @ torch.ones(5, 5))
        torch.set_grad_enabled(True)

    step(data[0])
    try:
        evaluate(data)
    except RuntimeError:
        pass
    out = net(data[1])  # victim
    """,
    ),
    "a class that forgets to restore": (
        "GP101",
        TRAIN
        + """
    class Frozen:
        def __enter__(self):
            self.before = torch.is_grad_enabled()
            torch.set_grad_enabled(False)  # cause
        def __exit__(self, *error):
            self.before = None

    def main():
        step(data[0])
        with Frozen():
            net(data[0])
        try:
            step(data[1])
        except RuntimeError:
            pass
    main()
    """,
    ),
    "a manager that is entered by hand": (
        "GP101",
        TRAIN
        + """
    class Session:
        def open(self):
            self.mode = torch.no_grad()
            self.mode.__enter__()  # cause

    step(data[0])
    session = Session()
    session.open()
    try:
        step(data[1])
    except RuntimeError:
        pass
    """,
    ),
    "a context manager function without finally": (
        "GP101",
        TRAIN
        + """
    import contextlib

    @contextlib.contextmanager
    def frozen():
        torch.set_grad_enabled(False)  # cause
        yield
        torch.set_grad_enabled(True)

    def main():
        step(data[0])
        try:
            with frozen():
                raise ValueError
        except ValueError:
            pass
        try:
            step(data[1])
        except RuntimeError:
            pass
    main()
    """,
    ),
    "a helper that enables grad for the rest of a block": (
        "GP101",
        TRAIN
        + """
    def saliency(x):
        torch.set_grad_enabled(True)  # cause
        x = x.clone().requires_grad_()
        return torch.autograd.grad(net(x).sum(), x)[0]

    with torch.no_grad():
        saliency(data[0])
        out = net(data[1])  # victim
    """,
    ),
    "an abandoned generator": (
        "GP703",
        TRAIN
        + """
    def targets():
        with torch.no_grad():  # cause
            for x in data:
                yield x, net(x)

    step(data[0])
    generator = targets()
    next(generator)
    try:
        step(data[1])
    except RuntimeError:
        pass
    """,
    ),
    "a generator under inference mode": (
        "GP703",
        TRAIN
        + """
    class Source:
        def __iter__(self):
            with torch.inference_mode():  # cause
                yield torch.ones(2, 3)

    for x in Source():
        weight = torch.ones(3, 1, requires_grad=True)
        out = x @ weight  # victim
    """,
    ),
    "a task that trains beside one that evaluates": (
        "GP704",
        TRAIN
        + """
    import asyncio

    async def evaluate():
        with torch.no_grad():  # cause
            for x in data:
                net(x)
                await asyncio.sleep(0)

    async def train():
        for x in data:
            try:
                step(x)
            except RuntimeError:
                pass
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(evaluate(), train())
    asyncio.run(main())
    """,
    ),
    "a block that another thread exits": (
        "GP705",
        """
    import threading, torch
    mode = torch.no_grad()

    def opener():
        mode.__enter__()  # cause
    opener()
    thread = threading.Thread(target=lambda: mode.__exit__(None, None, None))
    thread.start()
    thread.join()
    """,
    ),
    "a thread of a thread": (
        "GP701",
        """
    import threading, torch
    net = torch.nn.Linear(3, 1)

    def work():
        net(torch.ones(2, 3))  # victim

    def dispatch():
        inner = threading.Thread(target=work)
        inner.start()
        inner.join()

    with torch.no_grad():
        thread = threading.Thread(target=dispatch)  # nothing
        thread.start()  # cause
        thread.join()
    """,
    ),
    "asyncio.to_thread": (
        "GP701",
        """
    import asyncio, torch
    net = torch.nn.Linear(3, 1)

    def infer(x):
        return net(x)  # victim

    async def main():
        with torch.no_grad():
            await asyncio.to_thread(infer, torch.ones(2, 3))  # cause
    asyncio.run(main())
    """,
    ),
    "a plain call that pool threads know nothing of": (
        "GP701",
        """
    import torch
    from concurrent.futures import ThreadPoolExecutor
    net = torch.nn.Linear(3, 1)

    def main():
        torch.set_grad_enabled(False)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(net, [torch.ones(2, 3)] * 4))  # cause
    main()
    """,
    ),
    "a statement in a function": (
        "GP104",
        """
    import torch
    net = torch.nn.Linear(3, 1)

    def evaluate(x):
        torch.no_grad()  # cause
        return net(x)  # victim
    evaluate(torch.ones(2, 3))
    """,
    ),
    "a manager that is assigned": (
        "GP104",
        """
    import torch
    net = torch.nn.Sequential(torch.nn.Linear(3, 1))

    def evaluate(x):
        guard = torch.inference_mode()  # cause
        out = net(x)  # victim
        return out
    evaluate(torch.ones(2, 3))
    """,
    ),
    "a statement beside another": (
        "GP104",
        """
    import torch
    from torch import no_grad
    net = torch.nn.Linear(3, 1)
    for _ in range(2):
        net.eval(), no_grad()  # cause
        net(torch.ones(2, 3))  # victim
    """,
    ),
    "grad enabled in inference mode": (
        "GP103",
        """
    import torch
    net = torch.nn.Linear(3, 1)

    def attack(x):
        with torch.set_grad_enabled(True):  # cause
            return net(x.clone().requires_grad_()).sum()  # victim
    with torch.inference_mode():
        attack(torch.ones(2, 3))
    """,
    ),
}

RIGHT = {
    "a helper that sets the mode for each batch": TRAIN
    + """
    def set_mode(is_training):
        net.train(is_training)
        torch.set_grad_enabled(is_training)

    for _ in range(2):
        set_mode(True)
        for x in data:
            step(x)
        set_mode(False)
        for x in data:
            net(x)
    """,
    "the same with weights of its own": """
    import torch
    weight = torch.ones(3, requires_grad=True)

    def set_mode(is_training):
        torch.set_grad_enabled(is_training)

    for phase in ("train", "val", "train"):
        set_mode(phase == "train")
        loss = (weight * 2).sum()
        if phase == "train":
            loss.backward()
    set_mode(True)
    """,
    "a class that restores": TRAIN
    + """
    class Frozen:
        def __enter__(self):
            self.before = torch.is_grad_enabled()
            torch.set_grad_enabled(False)
        def __exit__(self, *error):
            torch.set_grad_enabled(self.before)

    def main():
        for x in data:
            with Frozen():
                net(x)
            step(x)
    main()
    """,
    "a class around a manager": TRAIN
    + """
    class Evaluating:
        def __init__(self, net):
            self.net, self.mode = net, torch.inference_mode()
        def __enter__(self):
            self.net.eval()
            self.mode.__enter__()
        def __exit__(self, *error):
            self.mode.__exit__(*error)
            self.net.train()

    for x in data:
        step(x)
        with Evaluating(net):
            net(x)
    """,
    "contextlib": TRAIN
    + """
    import contextlib

    @contextlib.contextmanager
    def frozen():
        with torch.no_grad():
            yield

    @contextlib.contextmanager
    def frozen_by_call():
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        try:
            yield
        finally:
            torch.set_grad_enabled(before)

    for x in data:
        with frozen():
            net(x)
        with frozen_by_call():
            net(x)
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            net(x)
        step(x)
    """,
    "an inference script": """
    import torch
    net = torch.nn.Linear(3, 1)

    def prepare():
        torch.set_grad_enabled(False)

    def main():
        prepare()
        for _ in range(3):
            net(torch.ones(2, 3))
    main()
    """,
    "a final evaluation": TRAIN
    + """
    def evaluate():
        net.eval()
        torch.set_grad_enabled(False)
        return [net(x) for x in data]

    for x in data:
        step(x)
    evaluate()
    net(data[0])
    """,
    "a generator of targets outside of the block": TRAIN
    + """
    def targets():
        for x in data:
            with torch.no_grad():
                target = net(x)
            yield x, target

    for x, target in targets():
        step(x)
    """,
    "a decorated generator": TRAIN
    + """
    @torch.no_grad()
    def targets():
        for x in data:
            yield net(x)

    for target in targets():
        step(data[0])
    """,
    "a consumer that only measures": TRAIN
    + """
    def predictions():
        net.eval()
        with torch.no_grad():
            for x in data:
                yield net(x)

    step(data[0])
    total = 0.0
    for out in predictions():
        total += out.mean().item()
    """,
    "tasks that all infer": """
    import asyncio, torch
    net = torch.nn.Linear(3, 1)

    async def infer(pause):
        for _ in range(2):
            with torch.no_grad():
                out = net(torch.ones(2, 3))
            await asyncio.sleep(pause)

    async def main():
        await asyncio.gather(*(infer(n / 1000) for n in range(3)))
    asyncio.run(main())
    """,
    "a pool with an initializer": """
    import torch
    from concurrent.futures import ThreadPoolExecutor
    net = torch.nn.Linear(3, 1)
    with torch.no_grad(), ThreadPoolExecutor(2, initializer=torch.set_grad_enabled, initargs=(False,)) as pool:
        list(pool.map(net, [torch.ones(2, 3)] * 4))
    """,
    "a worker with a block of its own": """
    import torch
    from concurrent.futures import ThreadPoolExecutor
    net = torch.nn.Linear(3, 1)

    @torch.no_grad()
    def infer(x):
        return net(x)

    with torch.no_grad(), ThreadPoolExecutor(2) as pool:
        list(pool.map(infer, [torch.ones(2, 3)] * 4))
    """,
    "a thread that trains": TRAIN
    + """
    import threading
    with torch.no_grad():
        thread = threading.Thread(target=lambda: [step(x) for x in data])
        thread.start()
        thread.join()
    """,
    "a worker that enables grad on purpose": """
    import torch
    from concurrent.futures import ThreadPoolExecutor
    net = torch.nn.Linear(3, 1)

    def keep(x):
        with torch.enable_grad():
            return net(x)

    with torch.no_grad(), ThreadPoolExecutor(2) as pool:
        kept = list(pool.map(keep, [torch.ones(2, 3)] * 4))
    torch.cat(kept).sum().backward()
    """,
    "managers that are used later": TRAIN
    + """
    class Runner:
        def __init__(self):
            self.mode = torch.no_grad()

        def run(self, x):
            guard = torch.no_grad()
            with guard:
                net(x)
            with self.mode:
                return net(x)

    def choose(flag):
        return torch.no_grad() if flag else torch.enable_grad()

    with choose(True):
        Runner().run(data[0])
    try:
        torch.inference_mode
    except AttributeError:
        pass
    step(data[0])
    """,
    "grad enabled in inference mode around what needs none": """
    import torch
    with torch.inference_mode():
        with torch.enable_grad():
            total = torch.ones(3).sum() / 3
    """,
    "a helper that enables grad and restores": TRAIN
    + """
    def saliency(x):
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        try:
            x = x.clone().requires_grad_()
            return torch.autograd.grad(net(x).sum(), x)[0]
        finally:
            torch.set_grad_enabled(before)

    with torch.no_grad():
        saliency(data[0])
        net(data[1])
    """,
}


ONLY_OPS_TELL = ("grad enabled in inference mode around what needs none",)
"""Right programs that only a look at operators tells from wrong ones."""


def run(program: str, folder: Path, level: str) -> Any:
    script = folder / "program.py"
    script.write_text(textwrap.dedent(program), encoding="utf-8")
    gc.collect()  # graphs that programs before left in cycles are not of this recording
    try:
        with gradprobe.record(level=level) as recording:
            alive = runpy.run_path(str(script), run_name="__main__")
        alive.clear()
    finally:
        while torch.is_inference_mode_enabled():
            torch._C._InferenceMode(False)
        torch._C._set_grad_enabled(True)
    faults = [note for note in recording._tables.contents[0].notes if note[0] == NoteKind.FAULT]
    assert faults == []
    return recording


@pytest.mark.parametrize("name", WRONG)
def test_the_cause_is_named_with_its_victim(name: str, tmp_path: Path) -> None:
    rule, program = WRONG[name]
    findings = run(program, tmp_path, "ops").findings
    found = findings[findings["rule"] == rule].to_dict("records")
    lines = textwrap.dedent(program).splitlines()
    tagged = {n for n, line in enumerate(lines, 1) if line.endswith(("# cause", "# victim"))}
    assert len(found) == 1, findings[["rule", "line", "message"]].to_dict("records")
    assert tagged <= {found[0]["line"], *(at["line"] for at in found[0]["related"])}, found
    others = findings[(findings["severity"] != "note") & (findings["rule"] != rule)]
    assert len(others) == 0, others[["rule", "line", "message"]].to_dict("records")


@pytest.mark.parametrize("level", ["ops", "graph"])
@pytest.mark.parametrize("name", [name for name in RIGHT if name not in ONLY_OPS_TELL])
def test_a_right_program_that_looks_alike_has_nothing_above_a_note(name: str, level: str, tmp_path: Path) -> None:
    findings = run(RIGHT[name], tmp_path, level).findings
    assert findings[findings["severity"] != "note"][["rule", "line", "message"]].to_dict("records") == []


BELOW_OPS = (
    "an early return",
    "a class that forgets to restore",
    "a manager that is entered by hand",
    "a context manager function without finally",
    "an abandoned generator",
    "a block that another thread exits",
    "a thread of a thread",
    "asyncio.to_thread",
)


@pytest.mark.parametrize("name", BELOW_OPS)
def test_what_needs_no_operators_is_found_without_them(name: str, tmp_path: Path) -> None:
    rule, program = WRONG[name]
    assert rule in set(run(program, tmp_path, "modes").findings["rule"])


@pytest.mark.parametrize("name", ONLY_OPS_TELL)
def test_operators_tell_that_a_suspicious_block_is_harmless(name: str, tmp_path: Path) -> None:
    assert run(RIGHT[name], tmp_path, "ops").findings.query("severity != 'note'").empty


def test_the_line_that_entered_inference_mode_is_not_that_of_a_block_in_it(tmp_path: Path) -> None:
    program = """
        import torch

        with torch.inference_mode():  # entered
            with torch.enable_grad():
                x = torch.ones(3, requires_grad=True)
                loss = (x * 2).sum()
                try:
                    loss.backward()
                except RuntimeError:
                    pass
    """
    source = textwrap.dedent(program)
    findings = run(program, tmp_path, "ops").findings.set_index("rule")
    entered = next(number for number, line in enumerate(source.splitlines(), 1) if line.endswith("# entered"))
    (line,) = {each["line"] for each in findings.related["GP612"] if each["role"] == "inference mode entered here"}
    assert line == entered


FROZEN_SINCE = """
    import contextlib, torch
    encoder, head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
    with contextlib.suppress(RuntimeError):
        for epoch in range(2):
            for _ in range(2):
                with torch.no_grad():  # not the cause
                    features = encoder(torch.ones(2, 4))
                loss = head(features).mean()
                loss.backward()  # fails
            head.requires_grad_(False)  # frozen
"""


def test_what_was_frozen_since_is_the_cause_and_not_a_block_that_was_there_before(tmp_path: Path) -> None:
    lines = {line.rpartition("# ")[2]: n for n, line in enumerate(textwrap.dedent(FROZEN_SINCE).splitlines(), 1)}
    (finding,) = run(FROZEN_SINCE, tmp_path, "ops").findings.query("rule == 'GP612'").to_dict("records")
    related = {place["line"] for place in finding["related"]}
    assert finding["line"] == lines["fails"]
    assert lines["frozen"] in related
    assert lines["not the cause"] not in related
    assert "requires_grad_(True)" in finding["fix"]


CONVERTED = """
    import torch
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)  # constructed
        def forward(self, x):
            return self.last(self.first(x))
        @torch.inference_mode()  # entered
        def validate(self, x):
            return self.to(torch.float64)(x)  # converted
    model = Model()
    model.validate(torch.ones(1, 2, dtype=torch.float64))
    try:
        model(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
    except RuntimeError:
        pass
"""


def test_a_conversion_in_inference_mode_is_named_with_its_block(tmp_path: Path) -> None:
    finding = run(CONVERTED, tmp_path, "ops").findings.query("rule == 'GP401'").to_dict("records")[0]
    lines = {number for number, line in enumerate(textwrap.dedent(CONVERTED).splitlines(), 1) if "# " in line}
    assert lines <= {place["line"] for place in finding["related"]}
    assert finding["fix"].startswith("Move or convert the module outside inference mode")


@pytest.mark.parametrize("is_kept", [True, False])
def test_the_memory_of_a_detached_inference_tensor_is_named(is_kept: bool, tmp_path: Path) -> None:
    program = f"""
        import torch
        @torch.inference_mode()  # entered
        def encode(x):
            return x * 2  # created
        kept = encode(torch.ones(3, 4))
        features = kept.detach().t().t()
        {"" if is_kept else "del kept"}
        weight = torch.nn.Parameter(torch.ones(4))
        try:
            (features * weight).sum().backward()
        except RuntimeError:
            pass
    """
    (finding,) = run(program, tmp_path, "ops").findings.query("rule == 'GP401'").to_dict("records")
    lines = {number for number, line in enumerate(textwrap.dedent(program).splitlines(), 1) if "# " in line}
    assert lines <= {place["line"] for place in finding["related"]}
