"""Ways by which a tensor of a block reaches a line that did not run, none of which the source names directly."""

from __future__ import annotations

import pytest

from tests.advice.test_unrun_lines import BLOCK, find, marked

FILL = "class Keeper:\n    def fill(self, x):\n        self.kept = features(x)  # ran\n\n"
HIDDEN = {
    "a value that is called": (
        "def scale(t):\n    t.mul_(2)  # unrun\n\n\ndef show(t):\n    print(t)  # ran\n\n\n"
        "steps = {'show': show, 'scale': scale}  # ran\n\n\ndef apply(x, name):\n    steps[name](features(x))  # ran"
    ),
    "a lambda": (
        "steps = [lambda t: t.add_(1)]  # unrun\nchosen = steps[:0]  # ran\n\n\n"
        "def apply(x):\n    f = features(x)  # ran\n    for step in chosen:  # ran\n        step(f)  # quiet"
    ),
    "a function that a library calls": (
        "import functools\n\n\ndef merge(a, b):\n    return a.add_(b)  # unrun\n\n\n"
        "def total(x):\n    return functools.reduce(merge, [features(x)])  # ran"
    ),
    "a function of a library as a value": (
        "import functools, operator\n\n\ndef total(x):\n    return functools.reduce(operator.imul, [features(x)])  # unrun"
    ),
    "a method called by its class": "def wipe(x):\n    torch.Tensor.mul_(features(x), 0)  # unrun",
    "text that is run": "def apply(x, text):\n    f = features(x)  # ran\n    return eval(text, {'f': f})  # unrun",
    "a name chosen in the run": (
        "import operator\n\n\ndef apply(x, name):\n    change = operator.methodcaller(name)  # ran\n"
        "    return change(features(x))  # unrun"
    ),
    "a container that is an argument": (
        "kept = {}  # ran\n\n\ndef put(into, x):\n    into['a'] = features(x)  # ran\n\n\n"
        "put(kept, torch.ones(2))  # ran\n\n\ndef scale():\n    kept['a'].mul_(2)  # unrun"
    ),
    "another name of a container": (
        "kept = []  # ran\nsame = kept  # ran\nsame.append(features(torch.ones(2)))  # ran\n\n\n"
        "def scale():\n    kept[0].mul_(2)  # unrun"
    ),
    "a container that a function returns": (
        "table = {}  # ran\n\n\ndef get_table():\n    return table  # ran\n\n\n"
        "get_table()['a'] = features(torch.ones(2))  # ran\n\n\ndef scale():\n    table['a'].mul_(2)  # unrun"
    ),
    "a default argument": (
        "def remember(x, kept=[]):\n    kept.append(features(x))  # ran\n    if len(kept) > 9:  # ran\n"
        "        kept.pop().mul_(2)  # unrun"
    ),
    "a queue": (
        "import queue\nwork = queue.Queue()  # ran\nwork.put(('a', features(torch.ones(2))))  # ran\n\n\n"
        "def run():\n    name, t = work.get()  # quiet\n    t -= 1  # unrun"
    ),
    "a future": (
        "def start(pool, x):\n    return pool.submit(features, x)  # ran\n\n\n"
        "def finish(pool, x):\n    start(pool, x).result().mul_(2)  # unrun"
    ),
    "a library's container": (
        "import heapq\nheap = []  # ran\nheapq.heappush(heap, (1, features(torch.ones(2))))  # ran\n\n\n"
        "def scale():\n    heap[0][1].mul_(2)  # unrun"
    ),
    "an unknown result": "import einops\n\n\ndef use(x):\n    einops.rearrange(features(x), 'a -> a 1').mul_(2)  # unrun",
    "an exception": (
        "def stop(x):\n    raise ValueError(features(x))  # ran\n\n\ndef run(x):\n    try:\n        stop(x)  # ran\n"
        "    except ValueError as error:  # ran\n        error.args[0].mul_(2)  # unrun"
    ),
    "a global by its name": (
        "globals()['kept'] = features(torch.ones(2))  # ran\n\n\ndef scale():\n    kept.mul_(2)  # unrun"
    ),
    "an operator of a class": (
        "class Box:\n    def __init__(self, t):\n        self.t = t  # ran\n\n    def __ior__(self, factor):\n"
        "        self.t *= factor  # unrun\n        return self\n\n\nbox = Box(features(torch.ones(2)))  # ran"
    ),
    "a setter": (
        "class Box:\n    @property\n    def t(self):\n        return self._t  # quiet\n\n    @t.setter\n"
        "    def t(self, value):\n        self._t = value  # ran\n\n\nbox = Box()  # ran\n"
        "box.t = features(torch.ones(2))  # ran\n\n\n"
        "def scale():\n    box.t.mul_(2)  # unrun"
    ),
    "an iterator of a class": (
        "class Stream:\n    def __iter__(self):\n        yield features(torch.ones(2))  # ran\n\n\n"
        "def scale(stream):\n    for t in stream:  # quiet\n        t.mul_(2)  # unrun"
    ),
    "an index": "def pick(w, x):\n    return w[features(x)]  # unrun",
    "an operand of an assignment": "def weigh(loss, x):\n    loss *= features(x)  # unrun\n    return loss",
    "a gradient": (
        "def give(p, x):\n    p.grad = features(x)  # ran\n\n\ndef clip(ps):\n"
        "    torch.nn.utils.clip_grad_norm_(ps, 1.0)  # unrun"
    ),
    "a statement outside of the block": (
        "buffer = torch.ones(2)  # ran\n\n\ndef choose(x):\n    global buffer\n    buffer = features(x)  # unrun\n\n\n"
        "def scale():\n    buffer.mul_(2)  # ran"
    ),
}
HIDDEN |= {
    "a handler that a decorator registers": (
        "import functools\n\n\n@functools.singledispatch  # ran\ndef show(t):\n    print(t)  # ran\n\n\n"
        "@show.register  # ran\ndef _(t: torch.Tensor):\n    t.mul_(2)  # unrun\n\n\n"
        "def use(x):\n    show(features(x))  # quiet"
    ),
    "an operator as a method": "def wipe(x):\n    torch.Tensor.__imul__(features(x), 0)  # unrun",
    "a class that is a container": (
        "import collections\n\n\nclass Cache(collections.OrderedDict):\n    def renew(self):\n"
        "        for t in self.values():  # quiet\n            t.mul_(2)  # unrun\n\n\n"
        "cache = Cache()  # ran\ncache['a'] = features(torch.ones(2))  # ran"
    ),
    "a method as a value": "def scale(x):\n    change = features(x).mul_  # quiet\n    change(2)  # unrun",
    "a buffer of a layer": (
        "def calibrate(norm, x):\n    norm.running_mean = features(x)  # ran\n\n\ndef train(net, x):\n"
        "    return net(x)  # unrun"
    ),
    "an object that lives on": (
        "class Box:\n    def fill(self, t):\n        self.t = t  # ran\n\n\nbox = Box()  # ran\n"
        "box.fill(features(torch.ones(2)))  # ran\n\n\ndef scale():\n    box.t.mul_(2)  # unrun"
    ),
}
IN_BLOCK = {
    "a method that overrides one which the block calls": (
        "class Log:\n    def note(self, t):\n        print(t)  # block\n\n\nclass Keep(Log):\n    def note(self, t):\n"
        "        self.last = t\n\n\nlog = Log()  # ran\n"
        "with torch.no_grad():  # ran\n    log.note(torch.ones(1))  # block\n\n\n"
        "def scale(keep):\n    keep.last.mul_(2)  # unrun"
    ),
    "a function defined in the block": (
        "def make(x):\n    with torch.no_grad():  # ran\n        kept = x.exp()  # block\n\n        def change():\n"
        "            kept.mul_(2)  # unrun\n    return change  # ran"
    ),
}
CACHE = (
    "import torch  # ran\n\n\nclass Cache:\n    def put(self, t):\n        self.t = t  # block\n\n"
    "    def scale(self):\n        self.t.mul_(2)  # quiet\n\n\ndef use(cache):\n    cache.scale()  # quiet\n\n\n"
    "@torch.no_grad()  # ran\ndef run(x):\n    cache = Cache()  # block\n    cache.put(x + 1)  # block"
)
FINE = {
    "a method of another class": (
        "class Keep:\n    def __init__(self, t):\n        self.t = t  # ran\n\n\nclass Other(torch.nn.Module):\n"
        "    def __init__(self, scale):\n        super().__init__()  # ran\n        scale *= 2  # quiet\n\n\n"
        "Keep(features(torch.ones(2)))  # ran\nOther(torch.ones(2))  # ran"
    ),
    "numbers in attributes": (
        "class Meter:\n    def update(self, value):\n        self.total = value  # ran\n\n\nmeter = Meter()  # ran\n"
        "meter.update(features(torch.ones(2)).sum().item())  # ran\n\n\ndef scale(net, saved):\n    meter.total *= 2\n"
        "    net.load_state_dict(saved)"
    ),
    "a list of numbers": (
        "rows = []  # ran\nrows.append([round(v, 3) for v in features(torch.ones(2)).tolist()])  # ran\n\n\n"
        "def change(head):\n    rows[0] = 3\n    return head(rows)"
    ),
    "a name that is assigned again": (
        "def loop(head, x):\n    out = features(x)  # ran\n    print(out)  # ran\n    out = head(x)  # ran\n"
        "    out *= 2  # quiet\n    return head(out)  # quiet"
    ),
    "a sum that autograd does not save": "def shift(w, x):\n    return w - features(x)  # quiet",
    "a copy in a container": (
        "kept = [features(torch.ones(2)).clone()]  # ran\n\n\ndef scale():\n    kept[0].mul_(2)  # quiet"
    ),
    "a registry of commands": (
        "def fit(head, x):\n    head(x).backward()  # quiet\n\n\ndef test(head, x):\n"
        "    print(features(x).mean())  # ran\n\n\n"
        "commands = {'fit': fit, 'test': test}  # ran\ncommands['test'](None, torch.ones(2))  # ran"
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_use_is_named(name: str) -> None:
    text = BLOCK + HIDDEN[name]
    assert set(marked(text)) <= set(find(text))
    assert find(text)


@pytest.mark.parametrize("name", IN_BLOCK)
def test_a_use_of_what_a_line_in_the_block_keeps_is_named(name: str) -> None:
    text = f"import torch  # ran\n\n\n{IN_BLOCK[name]}"
    assert set(marked(text)) <= set(find(text))


def test_a_line_that_ran_only_before_the_block_is_named() -> None:
    text = (
        "import torch  # ran\n\nsoft = torch.ones(2)  # ran\nfor _ in range(1):  # ran\n    loss = soft * w  # ran\n"
        "    with torch.no_grad():  # ran\n        soft = w.exp()  # block\nprint(1)  # after\n"
    )
    assert find(text) == [5]


@pytest.mark.parametrize("text", [CACHE, CACHE + "\n    return cache"])
def test_an_object_that_ends_with_the_block_takes_its_tensors_along(text: str) -> None:
    assert bool(find(text)) == text.endswith("return cache")


@pytest.mark.parametrize("name", FINE)
def test_a_line_of_similar_look_is_not_named(name: str) -> None:
    assert find(BLOCK + FINE[name]) == []
