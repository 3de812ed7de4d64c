"""Imported by Python as it starts, in processes that a recorded program starts: has them recorded once they have torch.

A process that never imports torch is left alone. Written for any Python 3: other interpreters may find it too.
"""

import os
import sys


class _Torch:
    """Finds torch as it would be found without this, and begins to record once it is there."""

    def __init__(self, asked):
        self._asked = asked

    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        loader = getattr(spec, "loader", None)
        if loader is not None and hasattr(loader, "exec_module"):
            execute = loader.exec_module

            def exec_module(module):
                del loader.exec_module
                execute(module)
                self._begin()

            loader.exec_module = exec_module
        return spec

    def _begin(self):
        try:
            sys.path.append(self._asked["root"])
            try:
                from gradprobe.subprocesses.follower import follow_process
            finally:
                sys.path.remove(self._asked["root"])
            follow_process(self._asked)
        except Exception as error:
            sys.stderr.write("gradprobe: process %d is not recorded: %s\n" % (os.getpid(), error))


def _expect_torch():
    text = os.environ.get("GRADPROBE_FOLLOW")
    if not text or sys.version_info < (3, 10):
        return
    import json

    asked = json.loads(text)
    if asked["prefix"] == sys.prefix:
        sys.meta_path.insert(0, _Torch(asked))


def _import_the_one_behind():
    """The environment may have a module of this name itself, which this one stands in front of."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [part for part in sys.path if os.path.abspath(part) != folder]
    spec = PathFinder.find_spec("sitecustomize")
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)


try:
    _expect_torch()
except Exception as error:
    sys.stderr.write("gradprobe: process %d is not recorded: %s\n" % (os.getpid(), error))
_import_the_one_behind()
