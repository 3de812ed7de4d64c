"""Start-up hook of child processes of a recorded program: record them once they have imported torch.

A process that never imports torch is left alone. Written for any Python 3, because other interpreters may find it too.
"""

import os
import sys


class _TorchFinder:
    """Finder that leaves the search for torch to the others, and starts recording once torch is imported."""

    def __init__(self, request):
        self._request = request

    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        loader = getattr(spec, "loader", None)
        if loader is not None and hasattr(loader, "exec_module"):
            execute = loader.exec_module
            before = vars(loader).get("exec_module")

            def exec_module(module):
                del loader.exec_module
                if before is not None:
                    loader.exec_module = before
                execute(module)
                self._begin()

            loader.exec_module = exec_module
        return spec

    def _begin(self):
        try:
            sys.path.append(self._request["root"])
            try:
                from gradprobe.subprocesses.follower import follow_process
            finally:
                sys.path.remove(self._request["root"])
            follow_process(self._request)
        except Exception as error:
            sys.stderr.write("gradprobe: process %d is not recorded: %s\n" % (os.getpid(), error))


def _record_after_torch():
    text = os.environ.get("GRADPROBE_FOLLOW")
    if not text or sys.version_info < (3, 10):
        return
    import json

    request = json.loads(text)
    if request["prefix"] == sys.prefix:
        sys.meta_path.insert(0, _TorchFinder(request))


def _import_hidden_sitecustomize():
    """Import the ``sitecustomize`` of the environment, if any, which this one hides."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [part for part in sys.path if os.path.abspath(part) != folder]
    spec = PathFinder.find_spec("sitecustomize")
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)


def _follow_advice():
    """Let gradprobe advise run this process with the text that it tries."""
    text = os.environ.get("GRADPROBE_ADVISE")
    if not text or sys.version_info < (3, 10):
        return
    import json

    root = json.loads(text)["root"]
    sys.path.append(root)
    try:
        from gradprobe.advice.watched_process import follow_command
    finally:
        sys.path.remove(root)
    follow_command()


try:
    _record_after_torch()
    _follow_advice()
except Exception as error:
    sys.stderr.write("gradprobe: process %d is not recorded: %s\n" % (os.getpid(), error))
_import_hidden_sitecustomize()
