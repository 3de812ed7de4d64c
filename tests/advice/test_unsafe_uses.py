"""Uses of a block's tensors that look harmless by their names, and uses that are."""

from __future__ import annotations

import re

import pytest

from tests.advice.test_unrun_lines import BLOCK, find, marked

UNSAFE = """
## a function of a library that is chosen from a table
import torch.nn.functional as F

KINDS = {"relu": F.relu, "in place": F.relu_}  # ran

def use(x, kind):
    return KINDS[kind](features(x))  # unrun

## an index that is written to
def wipe(y, x):
    y[features(x)] = 0  # unrun

## an index of an assignment with an operator
def wipe(y, x):
    y[features(x)] += 1  # unrun

## a model that map calls
def use(head, x):
    return list(map(head, [features(x)]))  # unrun

## an operator that map calls
def use(ws, x):
    return list(map(torch.mul, ws, [features(x)]))  # unrun

## a key that is a model
def use(score, x):
    return sorted([features(x)], key=score)  # unrun

## an operator that starmap calls
import itertools


def use(w, x):
    return list(itertools.starmap(torch.mul, [(w, features(x))]))  # unrun

## an operator that accumulate calls
import itertools


def use(w, x):
    return list(itertools.accumulate([w, features(x)], torch.mul))  # unrun

## a key that is an attribute
class K:
    def __init__(self, head):
        self.head = head  # ran

    def use(self, x):
        return sorted([features(x)], key=self.head)  # unrun

## requires_grad by setattr
def use(x):
    setattr(features(x), 'requires_grad', True)  # unrun

## data by setattr
def use(p, x):
    setattr(p, 'data', features(x))  # unrun

## the built-in pow
def use(w, x):
    return pow(features(x), w)  # unrun

## a question for the mode of a tensor
def use(x):
    t = features(x)  # ran
    if t.is_inference():  # unrun
        raise ValueError

## the same question as a function
def use(x):
    t = features(x)  # ran
    if torch.is_inference(t):  # unrun
        raise ValueError

## a method in place of a name that the program defines too
class A:
    def mul_(self, f):
        return self


def use(x):
    features(x).mul_(2)  # unrun

## a library's method of a name that the program defines too
import lib
class A:
    def encode(self, f):
        return 1


def use(x):
    lib.make().encode(features(x))  # unrun

## an attribute of a name that another class has as a method
class A:
    def encoder(self, f):
        return 1


class B:
    def __init__(self):
        self.encoder = torch.nn.Linear(2, 2)  # ran

    def use(self, x):
        self.encoder(features(x))  # unrun

## a function that may be imported instead
try:
    from fast import scale
except ImportError:
    def scale(t):
        return t * 2  # ran


def use(x):
    return scale(features(x))  # unrun

## a library's function with the name of a harmless one
import lib


def use(x):
    lib.save(features(x))  # unrun

## a library's object with a method of containers
import lib


metric = lib.Metric()  # ran


def use(x):
    metric.update(features(x))  # unrun

## such an object in an attribute
import lib


class K:
    def __init__(self):
        self.metric = lib.Metric()  # ran

    def use(self, x):
        self.metric.add(features(x))  # unrun

## parameters that are of the block in one call, and not in another
def dist(a, b):
    return (a * b).sum()  # unrun


def test(x):
    f = features(x)  # ran
    return dist(f, f)


def train(x, enc):
    return dist(enc(x), features(x))

## variables that are of the block or not
def train(x, enc, frozen):
    f = features(x) if frozen else enc(x)  # ran
    g = features(x) if not frozen else enc(x)  # ran
    return (f * g).sum()  # unrun

## text that is written out
T = features(torch.ones(2))  # ran


def use():
    exec('T.mul_(2)')  # unrun

## an operator called by its method
def use(w, x):
    return w.__mul__(features(x))  # unrun

## a loaded operand
def use(x):
    return features(x) * torch.load('a')['w']  # unrun

## an operand that is made a parameter
def use(x):
    return features(x) * torch.nn.Parameter(torch.ones(2))  # unrun

## a learning rate
def begin(opt, x):
    for group in opt.param_groups:  # ran
        group['lr'] = features(x)  # ran


def train(scheduler):
    scheduler.step()  # unrun

## a flag without its name
def use(x):
    torch.nn.functional.relu(features(x), True)  # unrun

## a flag in a dictionary
opts = dict(inplace=True)  # ran


def use(x):
    torch.nn.functional.relu(features(x), **opts)  # unrun

## inference_mode by a flag
def use(w, x, flag):
    f = features(x)  # ran
    with torch.inference_mode(flag):
        return w * f  # unrun

## a flag with False in its name
def use(w, x, isFalse):
    f = features(x)  # ran
    with torch.set_grad_enabled(isFalse):
        return w * f  # unrun

## a layer that writes into what it gets
act = torch.nn.ReLU(True)  # ran


def use(x):
    with torch.no_grad():  # ran
        return act(features(x))  # unrun

## a lambda defined under no_grad
def use(w, x):
    t = features(x)  # ran
    with torch.no_grad():  # ran
        f = lambda: w * t  # unrun
    return f  # ran

## a line that ran without autograd because of a flag
def use(w, x, train):
    f = features(x)  # ran
    with torch.set_grad_enabled(train):  # ran
        loss = (w * f).sum()  # no grad
    if train:  # ran
        loss.backward()
"""
CONVERTED = """
## a model converted in the block
net = torch.nn.Linear(2, 2)  # ran
with torch.no_grad():  # ran
    net.double()  # block


def use(x):
    return net(x)  # unrun

## a model converted and assigned
class T:
    def __init__(self, net):
        self.net = net  # ran

    def test(self, x):
        with torch.no_grad():  # ran
            net = self.net.half()  # block
            print(net(x))  # block

    def use(self, x):
        return self.net(x)  # unrun

## a lazy layer that the block calls first
net = torch.nn.LazyLinear(2)  # ran
with torch.no_grad():  # ran
    net(torch.ones(2))  # block


def use(x):
    return net(x)  # unrun

## a state that is assigned
def load(net, sd):
    with torch.no_grad():  # ran
        net.load_state_dict({k: v * 2 for k, v in sd.items()}, assign=True)  # block


def use(net, x):
    return net(x)  # unrun

## a model that is pruned
import torch.nn.utils.prune as prune


def go(net):
    with torch.no_grad():  # ran
        prune.l1_unstructured(net, 'weight', 1)  # block


def use(net, x):
    return net(x)  # unrun

## the data of a parameter
def go(net):
    with torch.no_grad():  # ran
        net.weight.data = net.weight * 2  # block


def use(net, x):
    return net(x)  # unrun

## a parameter that is replaced
def go(net):
    with torch.no_grad():  # ran
        net.weight = torch.nn.Parameter(net.weight * 2)  # block


def use(net, x):
    return net(x)  # unrun

## a layer that is added
def go(net):
    with torch.no_grad():  # ran
        net.add_module('head', torch.nn.Linear(2, 2))  # block


def use(net, x):
    return net(x)  # unrun

## the parameters of a copy
import copy


def build(net):
    with torch.no_grad():  # ran
        return copy.deepcopy(net)  # block


def use(net, other):
    for p, q in zip(build(net).parameters(), other.parameters()):
        p.mul_(2)  # unrun
"""
SAFE = """
## mapping a plain function
def show(x):
    return list(map(str, features(x).tolist()))

## a key that is a lambda
def best(xs):
    return max([features(x) for x in xs], key=lambda t: t.sum().item())

## an index into what requires no grad
def pick(x):
    table = torch.zeros(3)  # quiet
    return features(x)[features(x).argmax()]

## a sum of one tensor with itself
def energy(x, y, is_new):
    t = features(x) if is_new else y  # ran
    return (t * t).sum()

## a dictionary that is filled
def report(x):
    rows = {}  # ran
    rows.update(mean=features(x))
    rows.setdefault("all", []).append(features(x))
    return {name: str(row) for name, row in rows.items()}

## a set of numbers
def seen(xs):
    found = set()  # ran
    for x in xs:
        found.add(features(x).sum().item())
    return found

## the shape of an object
class Batch:
    def __init__(self, t):
        self.shape = t.shape  # ran
        self.device = t.device  # ran

    def scale(self, w):
        return w * self.shape[0]

Batch(features(torch.ones(2)))  # ran

## a default that is a number
def scale(w, factor=features(torch.ones(1)).item()):  # ran
    return w * factor

## a comparison with an object
class Score:
    def __init__(self, t):
        self.value = t.sum().item()  # ran

    def __lt__(self, other):
        return self.value < other.value

sorted([Score(features(torch.ones(2)))])  # ran

## numbers in a field with a factory
import dataclasses

@dataclasses.dataclass  # ran
class Log:
    rows: list = dataclasses.field(default_factory=list)  # ran

    def scale(self, w):
        return w * self.rows[0]

Log().rows.append(features(torch.ones(2)).mean().item())  # ran

## a converted batch
def test(net, loader):
    with torch.no_grad():  # ran
        for x in loader:  # ran
            x = x.to("cpu").float()  # ran
            print(net(x).sum().item())  # ran

def train(net, x):
    return net(x).sum().backward()

## a method of the program's own class
class Net(torch.nn.Module):
    def encode(self, x):
        return features(x)  # ran

    def predict(self, x):
        return self.decode(self.encode(x))

    def decode(self, t):
        return t.argmax(-1).tolist()

## numbers of a pattern
def read(x):
    match {"n": features(x).sum().item()}:  # ran
        case {"n": n}:
            return w * n
"""


def split_cases(text: str) -> dict[str, str]:
    """Return the programs of a text by their titles."""
    parts = re.split(r"^## (.+)\n", text.strip(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))


@pytest.mark.parametrize(("title", "text"), split_cases(UNSAFE).items())
def test_a_use_that_is_not_known_to_be_harmless_is_named(title: str, text: str) -> None:
    assert set(marked(BLOCK + text)) <= set(find(BLOCK + text)), title


@pytest.mark.parametrize(("title", "text"), split_cases(CONVERTED).items())
def test_a_use_of_parameters_that_the_block_may_have_made_is_named(title: str, text: str) -> None:
    text = "import torch  # ran\n\n\n" + text
    assert set(marked(text)) <= set(find(text)), title


@pytest.mark.parametrize(("title", "text"), split_cases(SAFE).items())
def test_a_harmless_use_is_not_named(title: str, text: str) -> None:
    assert find(BLOCK + text) == [], title
