"""Lines that did not run make a swap unproven exactly if they could meet what the block leaves."""

from __future__ import annotations

import ast

import pytest

from gradprobe.advice.line_trace import AFTER, GRAD, INFERENCE, number_parts, read_trace
from gradprobe.advice.manager_sites import SourceFile
from gradprobe.advice.program_model import Coverage, ProgramModel
from gradprobe.advice.unrun_lines import find_unrun_lines

HARMFUL = {
    "saved": "def later(head, x):\n    return head(features(x)).sum()  # unrun",
    "saved by a variable": "def later(w, x):\n    f = features(x)  # quiet\n    return w * f  # unrun",
    "saved by an element": "def later(w, x):\n    for f in [features(x)]:  # quiet\n        w.mul(f)  # unrun",
    "modified": "def later(x):\n    features(x).add_(1)  # unrun",
    "modified by an operator": "def later(x):\n    f = features(x)  # quiet\n    f += 1  # unrun",
    "written into": "def later(x):\n    f = features(x)  # quiet\n    f[0] = 1  # unrun",
    "version": "def later(x):\n    return features(x)._version  # unrun",
    "requires grad": "def later(x):\n    return features(x).requires_grad_()  # unrun",
    "parameter": "def later(x):\n    return torch.nn.Parameter(features(x))  # unrun",
    "argument": "def use(f, w):\n    return f * w  # unrun\n\n\ndef later(x, w):\n    use(features(x), w)  # quiet",
    "attribute": (
        "class Keeper:\n    def fill(self, x):\n        self.kept = features(x)  # ran\n\n"
        "    def reset(self):\n        self.kept.zero_()  # unrun"
    ),
    "container": (
        "memory = []  # ran\nmemory.append(features(torch.ones(2)))  # ran\n\n\n"
        "def learn(w):\n    return sum(w * m for m in memory)  # unrun"
    ),
    "loaded": (
        "class Keeper(torch.nn.Module):\n    def fill(self, x):\n        self.kept = features(x)  # ran\n\n"
        "def resume(keeper, saved):\n    keeper.load_state_dict(saved)  # unrun"
    ),
}
HARMFUL["field"] = (
    "class Sample:\n    value: torch.Tensor\n\n\ndef draw(x):\n    return Sample(features(x))  # ran\n\n\n"
    "def learn(w, sample):\n    return w * sample.value  # unrun"
)
HARMFUL["optimizer"] = (
    "def resume(opt, w, x):\n    opt.state[w]['average'] = features(x)  # ran\n\n\ndef train(opt):\n    opt.step()  # unrun"
)
HARMFUL |= {
    "attribute by a computed name": (
        "class Keeper:\n    def fill(self, x):\n        self.kept = features(x)  # ran\n\n"
        "    def reset(self, name):\n        getattr(self, name).zero_()  # unrun"
    ),
    "attribute set by a computed name": (
        "class Keeper:\n    def fill(self, x, n):\n        setattr(self, f'row_{n}', features(x))  # ran\n\n"
        "    def reset(self):\n        self.row_1.zero_()  # unrun"
    ),
    "attribute by __dict__": (
        "class Keeper:\n    def fill(self, x):\n        self.__dict__.update(kept=features(x))  # ran\n\n"
        "    def reset(self):\n        self.kept.zero_()  # unrun"
    ),
    "property": (
        "class Keeper:\n    @functools.cached_property\n    def table(self):\n        return features(self.x)  # ran\n\n"
        "    def use(self, w):\n        return w * self.table  # unrun"
    ),
    "delegated generator": (
        "def stream(x):\n    yield features(x)  # ran\n\n\ndef relay(x):\n    yield from stream(x)  # ran\n\n\n"
        "def scale(x):\n    for each in relay(x):  # quiet\n        each.mul_(3)  # unrun"
    ),
    "pattern": (
        "def apply(x):\n    match {'v': features(x)}:  # quiet\n        case {'v': v}:\n            v.add_(1)  # unrun"
    ),
    "star argument": (
        "def use(first, *rest):\n    rest[0].mul_(2)  # unrun\n\n\ndef later(x):\n    use(*[features(x)])  # quiet"
    ),
    "keyword": (
        "def use(first, **rest):\n    rest['f'].mul_(2)  # unrun\n\n\ndef later(x):\n    use(1, f=features(x))  # quiet"
    ),
    "decorated": (
        "kept = {}  # ran\n\n\ndef register(f):\n    kept['f'] = f()  # ran\n    return f  # ran\n\n\n"
        "@register  # ran\ndef make():\n    return features(torch.ones(2))  # ran\n\n\n"
        "def bump():\n    first, = kept.values()  # quiet\n    first += 1  # unrun"
    ),
}
HARMLESS = {
    "raises": "def later(x):\n    raise ValueError(features(x) * w)  # quiet",
    "prints": "def later(x):\n    print(features(x).shape, features(x).mean())  # quiet",
    "reads numbers": "def later(x):\n    return features(x).argmax(1).tolist()  # quiet",
    "copies": "def later(x, head):\n    return head(features(x).clone())  # quiet",
    "computes without grad": "def later(x):\n    return (features(x) * 2 + torch.ones(3)).softmax(-1)  # quiet",
    "disables grad": "def later(x, head):\n    with torch.no_grad():  # quiet\n        return head(features(x))  # quiet",
    "uses something else": "def later(x, head):\n    return head(x)  # quiet",
}
BLOCK = (
    "import torch  # ran\n\n\ndef features(x):\n    with torch.no_grad():  # ran\n        return x.exp()  # block\n\n\n"
)


def find(text: str) -> list[int]:
    return sorted(line for _, line in find_in_files({"/program.py": text}))


def find_in_files(texts: dict[str, str]) -> set[tuple[str, int]]:
    files = [SourceFile(name, text) for name, text in texts.items()]
    marks = {"# ran": GRAD, "# block": INFERENCE, "# after": GRAD | AFTER, "# no grad": 0}
    lines = {
        (name, number): {marks[mark]}
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        for mark in marks
        if line.endswith(mark)
    }
    site = next(site for file in files for site in file.sites)
    found = find_unrun_lines(ProgramModel(files), Coverage(lines, files), site)
    return {(each.file, each.line) for each in found}


def marked(text: str) -> list[int]:
    return [number for number, line in enumerate(text.splitlines(), 1) if line.endswith("# unrun")]


@pytest.mark.parametrize("name", HARMFUL)
def test_a_line_that_could_meet_a_tensor_of_the_block_is_named(name: str) -> None:
    text = BLOCK + HARMFUL[name]
    assert find(text) == marked(text)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_line_that_cannot_break_anything_is_not_named(name: str) -> None:
    assert find(BLOCK + HARMLESS[name]) == []


def test_a_branch_of_the_block_that_needs_gradients_is_named() -> None:
    text = (
        "import torch  # ran\nwith torch.no_grad():  # ran\n    if torch.rand(1) > 2:  # block\n"
        "        with torch.enable_grad():  # unrun\n            print(1)\n"
    )
    assert find(text) == [4]


def test_a_tensor_that_an_unrun_line_of_the_block_creates_is_followed_to_lines_that_ran() -> None:
    text = (
        "import torch  # ran\nkept = {}  # ran\nwith torch.no_grad():  # ran\n    if torch.rand(1) > 2:  # block\n"
        "        kept['a'] = torch.ones(2)\nfor each in kept.values():  # ran\n    each.add_(1)  # ran\n"
    )
    assert find(text) == [5, 7]


def test_an_unrun_caller_of_a_line_that_uses_the_tensor_is_named() -> None:
    text = BLOCK + (
        "class Net:\n    def start(self, x):\n        self.table = features(x)  # ran\n\n"
        "    def forward(self, x):\n        return x * self.table  # ran\n\n"
        "    def tune(self, x):\n        return self.forward(x)  # unrun\n"
    )
    assert marked(text)[0] in find(text)


def test_a_tensor_that_a_function_keeps_and_returns_is_followed_to_other_callers() -> None:
    text = (
        "import torch  # ran\n\n\nclass Net:\n    masks = {}\n\n    def mask(self, n):\n"
        "        if n not in self.masks:  # block\n            self.masks[n] = torch.ones(n)  # block\n"
        "        kept = self.masks[n]  # block\n        return kept  # block\n\n"
        "    def __call__(self, x):\n        y = x + 1  # block\n        return y * self.mask(3)  # block\n\n\n"
        "net = Net()  # ran\nwith torch.no_grad():  # ran\n    net(torch.ones(3))  # block\n\n\n"
        "def tune(x):\n    return net(x).sum()  # unrun\n"
    )
    assert find(text) == [15, *marked(text)]


def test_parts_of_a_line_that_may_be_skipped_have_line_numbers_of_their_own() -> None:
    tree = ast.parse("a = b() if c else (d and e())\nf = lambda: g()\n")
    lines = {
        node.func.id: node.lineno
        for node in ast.walk(number_parts("", tree))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert len(set(lines.values())) == 3
    assert min(lines.values()) > 1_000_000
    assert compile(tree, "", "exec")


def test_a_trace_survives_a_line_that_was_cut_off(tmp_path: object) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "lines"
    file.write_text('{"file": "a.py", "line": 1, "modes": 1}\n{"file": "a.py", "li')
    assert read_trace(file).lines == {("a.py", 1): {1}}
