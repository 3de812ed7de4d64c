"""Ways of a block's tensors through objects, calls and modules that no name of a variable shows."""

from __future__ import annotations

import re

import pytest

from tests.advice.test_unrun_lines import BLOCK, find, find_in_files, marked
from tests.advice.test_unsafe_uses import split_cases

PATHS = """
## the state of an object that another hands on
import copy

class Teacher:
    def __init__(self, net, x):
        self.net = copy.copy(features(x))  # ran

    def __getattr__(self, name):
        return getattr(self.net, name)

def follow(teacher):
    for p in teacher.parameters():
        p.mul_(0.9)  # unrun

Teacher(None, torch.ones(2))  # ran

## a member of an enumeration
import enum

class E(enum.Enum):
    A = features(torch.ones(2))  # ran

def use(w):
    return w * E.A.value  # unrun

## a method of a list called by its class
rows = []  # ran
list.append(rows, features(torch.ones(2)))  # ran

def use(w):
    return w * rows[0]  # unrun

## a keyword of a class
class B:
    def __init_subclass__(cls, t=None, **k):
        cls.t = t  # ran

class C(B, t=features(torch.ones(2))):  # ran
    def use(self, w):
        return w * self.t  # unrun

## a variable of a caller
import sys

def peek():
    sys._getframe(1).f_locals["t"].mul_(2)  # unrun

def use(x):
    t = features(x)  # ran
    print(t)  # ran
    peek()

## a weak reference to a method
import weakref

class Signal:
    def __init__(self):
        self.slots = []  # ran

    def connect(self, method):
        self.slots.append(weakref.WeakMethod(method))  # ran

    def emit(self, *args):
        for slot in self.slots:  # ran
            target = slot()  # ran
            target(*args)  # ran

class Monitor:
    def follow(self, t):
        print(t)  # ran
        if t.sum() > 9:  # ran
            t.mul_(2)  # unrun

signal, monitor = Signal(), Monitor()  # ran
signal.connect(monitor.follow)  # ran
signal.emit(features(torch.ones(2)))  # ran

## an attribute with the name of one of a tensor's that is plain
class B:
    def fill(self, x):
        self.layout = features(x)  # ran

    def use(self, w):
        return w * self.layout  # unrun

## a property with such a name
class B:
    @property
    def shape(self):
        return features(self.x)  # ran

    def use(self, w):
        return w * self.shape  # unrun

## a pattern with a keyword
import dataclasses


@dataclasses.dataclass  # ran
class B:
    t: object


def use(x, w):
    match B(features(x)):  # ran
        case B(t=t):
            return w * t  # unrun

## a pattern by position
import dataclasses


@dataclasses.dataclass  # ran
class B:
    t: object


def use(x, w):
    match B(features(x)):  # ran
        case B(t):
            return w * t  # unrun

## an exception made before it is raised
def stop(x):
    error = ValueError(features(x))  # ran
    raise error  # ran


def run(x):
    try:
        stop(x)  # ran
    except ValueError as error:  # ran
        error.args[0].mul_(2)  # unrun

## the value of a generator's end
def g(x):
    yield 1  # ran
    return features(x)  # ran


def use(w, x):
    it = g(x)  # ran
    try:
        next(it); next(it)  # ran
    except StopIteration as stop:  # ran
        return w * stop.value  # unrun

## a statement with except*
def run(x):
    try:
        t = features(x)  # ran
        print(t)  # ran
        t.mul_(2)  # unrun
    except* ValueError as error:
        pass

## a default that is computed
def use(w, t=features(torch.ones(2))):  # ran
    return w * t  # unrun

## a default that is a variable
T = features(torch.ones(2))  # ran


def use(w, t=T):  # ran
    return w * t  # unrun

## a default of a lambda
T = features(torch.ones(2))  # ran
steps = [lambda w, t=T: w * t]  # unrun

## a descriptor
import weakref


class once:
    def __init__(self, f):
        self.f = f  # ran
        self.kept = weakref.WeakKeyDictionary()  # ran

    def __get__(self, o, t=None):
        if o not in self.kept:  # ran
            self.kept[o] = self.f(o)  # ran
        return self.kept[o]  # ran


class B:
    @once
    def table(self):
        return features(torch.ones(2))  # ran

    def use(self, w):
        return w * self.table  # unrun

## an attribute by __getattribute__
class B:
    def __init__(self, x):
        self._t = features(x)  # ran

    def __getattribute__(self, name):
        return object.__getattribute__(self, '_' + name)  # ran

    def use(self, w):
        return w * self.t  # unrun

## what __new__ gives
class B:
    def __new__(cls, x):
        return features(x)  # ran


def use(w, x):
    return w * B(x)  # unrun

## what a metaclass gives
class M(type):
    def __call__(cls, *a):
        return features(torch.ones(2))  # ran


class K(metaclass=M):
    pass


def use(w):
    return w * K()  # unrun

## a class of tensors
class B(torch.Tensor):
    pass


def use(w, x):
    return w * B(features(x))  # unrun

## a factory of a field
import dataclasses


def make():
    return features(torch.ones(2))  # ran


@dataclasses.dataclass  # ran
class B:
    t: object = dataclasses.field(default_factory=make)  # ran

    def use(self, w):
        return w * self.t  # unrun

## the result of a function that a library calls
import functools


def merge(a, b):
    return features(b)  # ran


def use(w, xs):
    return w * functools.reduce(merge, xs)  # unrun

## such a result that is awaited
import asyncio


async def use(w, x):
    t = await asyncio.to_thread(features, x)  # ran
    return w * t  # unrun

## a key that __getitem__ gets
class Table:
    def __init__(self, w):
        self.w = w  # ran

    def __getitem__(self, k):
        if k.sum() > 9:  # ran
            return self.w * k  # unrun
        return k  # ran


Table(torch.ones(2))[features(torch.ones(2))]  # ran

## a key that __setitem__ gets
class Table:
    def __init__(self, w):
        self.w = w  # ran

    def __setitem__(self, k, v):
        if k.sum() > 9:  # ran
            k.mul_(v)  # unrun


Table(torch.ones(2))[features(torch.ones(2))] = 3  # ran

## an operand of in
class Table:
    def __contains__(self, k):
        if k.sum() > 9:  # ran
            k.mul_(2)  # unrun
        return False  # ran


features(torch.ones(2)) in Table()  # ran

## an operand of a comparison
class Table:
    def __lt__(self, k):
        if k.sum() > 9:  # ran
            k.mul_(2)  # unrun
        return False  # ran


Table() < features(torch.ones(2))  # ran

## a key of a dictionary
D = {}  # ran
D[features(torch.ones(2))] = 1  # ran


def use(w):
    for t, n in D.items():
        w.mul(t)  # unrun

## a variable of a module by setattr
import sys
setattr(sys.modules[__name__], 'T', features(torch.ones(2)))  # ran


def use(w):
    return w * T  # unrun

## a variable of a module by sys.modules
import sys
sys.modules[__name__].T = features(torch.ones(2))  # ran


def use(w):
    return w * T  # unrun

## a function in a variable that a thread calls
import threading


def work(t):
    print(t)  # ran
    if t.sum() > 9:  # ran
        t.mul_(2)  # unrun


def start(f, x):
    threading.Thread(target=f, args=(features(x),)).start()  # ran


start(work, torch.ones(2))  # ran

## a function in a variable that is a hook
class K:
    def keep(self, m, a, out):
        print(out)  # ran
        if self.on:  # ran
            self.t = out

    def use(self, w):
        return w * self.t  # unrun


def watch(net, f):
    net.register_forward_hook(f)  # ran


watch(torch.nn.Linear(2, 2), K().keep)  # ran

## a method with some arguments given before
import functools


class K:
    def put(self, t, n):
        print(t)  # ran
        if n:  # ran
            t.mul_(2)  # unrun
    again = functools.partialmethod(put, n=0)  # ran


K().again(features(torch.ones(2)))  # ran

## a class made by type
K = type('K', (), {'t': features(torch.ones(2))})  # ran


def use(w):
    return w * K.t  # unrun

## a queue in a class with a method of the same name
import asyncio


class S:
    def __init__(self):
        self.q = asyncio.Queue()  # ran

    async def put(self, x):
        await self.q.put(features(x))  # ran

    async def use(self, w):
        t = await self.q.get()  # ran
        return w * t  # unrun

## an array of objects
import numpy as np


A = np.array([features(torch.ones(2))], dtype=object)  # ran


def use(w):
    return w * A[0]  # unrun

## a property made by a call
class K:
    def _get(self):
        return features(torch.ones(2))  # ran
    t = property(_get)  # ran

    def use(self, w):
        return w * self.t  # unrun

## a buffer that an object sets of another
class Cal:
    def run(self, net, x):
        net.scale = features(x)  # ran


def resume(net, saved):
    net.load_state_dict(saved)  # unrun

## the context of an operator
class F(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.b = b  # ran
        return a + 1  # ran

    @staticmethod
    def backward(ctx, g):
        ctx.b.mul_(2)  # unrun
        return g, None


def use(w, x):
    return F.apply(w, features(x))  # ran

## the data of a class that is a dictionary
import collections


class D(collections.UserDict):
    def bump(self):
        self.data['a'].mul_(2)  # unrun


d = D()  # ran
d['a'] = features(torch.ones(2))  # ran

## object.__setattr__
class K:
    __slots__ = ('t',)

    def __init__(self, t):
        object.__setattr__(self, 't', t)  # ran


def use(w, x):
    return w * K(features(x)).t  # unrun
"""
PACKAGES = """
## a variable under another name
# file /p/store.py
# BLOCK
TABLE = features(torch.ones(2))  # ran
# file /p/main.py
from store import TABLE as T  # ran


def use(w):
    return w * T  # unrun

## a variable of a neighbour under another name
# file /p/pkg/store.py
# BLOCK
TABLE = features(torch.ones(2))  # ran
# file /p/pkg/use.py
from .store import TABLE as T  # ran


def use(w):
    return w * T  # unrun

## a variable of a neighbour
# file /p/pkg/store.py
# BLOCK
TABLE = features(torch.ones(2))  # ran
# file /p/pkg/use.py
from . import store  # ran


def use(w):
    return w * store.TABLE  # unrun

## a variable of a module by its whole name
# file /p/a/b/c/store.py
# BLOCK
TABLE = features(torch.ones(2))  # ran
# file /p/a/d/use.py
import a.b.c.store  # ran


def use(w):
    return w * a.b.c.store.TABLE  # unrun

## a variable of a module far below
# file /p/a/b/c/store.py
# BLOCK
TABLE = features(torch.ones(2))  # ran
# file /p/a/d/use.py
from a.b.c import store  # ran


def use(w):
    return w * store.TABLE  # unrun

## a function of a neighbour under another name
# file /p/a/b/c/store.py
import torch  # ran


def features(x):
    with torch.no_grad():  # ran
        return x.exp()  # block
# file /p/a/d/use.py
from ..b.c.store import features as f  # ran


def use(w, x):
    return w * f(x)  # unrun

## a class under another name
# file /p/a/store.py
# BLOCK
class K:
    def __init__(self, x):
        self.t = features(x)  # ran

    def get(self):
        return self.t  # ran
# file /p/a/use.py
from .store import K as L  # ran


def use(w, x):
    return w * L(x).get()  # unrun

## a variable that a package hands on
# file /p/a/store.py
# BLOCK
TABLE = features(torch.ones(2))  # ran
# file /p/a/__init__.py
from .store import TABLE as MAP  # ran
# file /p/use.py
import a  # ran


def use(w):
    return w * a.MAP  # unrun

## a variable by a computed name
# file /p/a/store.py
# BLOCK
TABLE = features(torch.ones(2))  # ran
# file /p/use.py
from a import store  # ran


def use(w, n):
    return w * getattr(store, n)  # unrun

## a variable that another module sets
# file /p/a/store.py
T = None  # ran


def use(w):
    return w * T  # unrun
# file /p/a/go.py
# BLOCK
from . import store as s  # ran
s.T = features(torch.ones(2))  # ran

## what a hook of another module keeps
# file /p/a/hooks.py
seen = []  # ran


def keep(m, a, o):
    seen.append(o)  # block


def attach(net):
    net.register_forward_hook(keep)  # ran
# file /p/a/go.py
import torch  # ran
from .hooks import attach, seen  # ran
net = torch.nn.Linear(2, 2)  # ran
attach(net)  # ran
with torch.no_grad():  # ran
    net(torch.ones(2))  # block


def use(w):
    return w * seen[0]  # unrun
"""


@pytest.mark.parametrize(("title", "text"), split_cases(PATHS).items())
def test_a_tensor_is_followed(title: str, text: str) -> None:
    assert set(marked(BLOCK + text)) <= set(find(BLOCK + text)), title


@pytest.mark.parametrize(("title", "text"), split_cases(PACKAGES).items())
def test_a_tensor_is_followed_to_other_modules(title: str, text: str) -> None:
    parts = re.split(r"^# file (.+)\n", text, flags=re.MULTILINE)[1:]
    files = dict(zip(parts[::2], (part.replace("# BLOCK\n", BLOCK) for part in parts[1::2]), strict=True))
    unrun = {(name, line) for name, part in files.items() for line in marked(part)}
    assert unrun <= find_in_files(files), title
