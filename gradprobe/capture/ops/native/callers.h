// The caller of an operator: the line of the program, and the module whose forward is running. Mirrors location/frames.py
// and location/module_paths.py.

#pragma once

#include "frames.h"
#include "objects.h"

#include <unordered_map>

namespace gradprobe {

// Compared with Python's when the core is loaded, as are the phases. The mask and the bit beside it are this file's only.
enum FrameKind { SKIPPED, USER, MODULE_CALL, OPTIMIZER, KIND_MASK = 3, IS_DISPATCH = 4 };
enum Phase { FORWARD, BACKWARD, IN_OPTIMIZER };

// The place where the program called an operator. The code is a borrowed reference: FrameClassifier keeps it alive.
struct Caller {
  Caller() = default;
  Caller(Caller&&) = default;
  Caller& operator=(Caller&&) = default;
  ~Caller() {
    if (module) {  // an operator that fails leaves without the interpreter's lock
      py::gil_scoped_acquire lock;
      module = py::object();
    }
  }

  PyCodeObject* code = nullptr;
  int offset = 0;
  py::object module;
  Phase phase = FORWARD;
  bool by_dispatch = false;  // a mode or a tensor subclass of the program calls it, as in dispatch_keys.py
};

constexpr int MAX_CALLER_FRAMES = 6, MODULE_DEPTH = 30;

class CallerFinder {
 public:
  explicit CallerFinder(const py::dict& context)
      : learn_(context["learn"]),
        paths_(context["module_paths"]),
        find_path_(context["find_module_path"]),
        module_call_(context["module_call_code"]),
        empty_(py::str("")) {}

  Caller locate() {
    Caller caller;
    int outwards = 0;
    Frames frame;
    for (; frame; frame.next(), ++outwards) {
      const int kind = kind_of(frame.code()) & KIND_MASK;
      if (kind == USER) {
        caller.code = frame.code();
        caller.offset = frame.offset();
        break;
      }
      if (kind == OPTIMIZER) {
        caller.phase = IN_OPTIMIZER;
      } else if (kind == MODULE_CALL && !caller.module) {
        caller.module = path_of(frame, outwards);
      }
    }
    if (frame) {
      Frames above = frame;
      for (int i = 0; above && (i < MAX_CALLER_FRAMES || (!caller.module && i <= MODULE_DEPTH)); above.next(), ++i) {
        if (i < MAX_CALLER_FRAMES && kind_of(above.code()) & IS_DISPATCH) caller.by_dispatch = true;
        if (i > 0 && !caller.module && as_object(above.code()) == module_call_.ptr()) {
          caller.module = path_of(above, outwards + i);
        }
      }
    }
    if (!caller.module) caller.module = empty_;
    return caller;
  }

 private:
  int kind_of(PyCodeObject* code) {
    const auto known = kinds_.find(code);
    if (known != kinds_.end()) return known->second;
    const int kind = learn_(py::handle(as_object(code))).cast<int>();
    const bool is_dispatch = PyUnicode_CompareWithASCIIString(code->co_name, "__torch_dispatch__") == 0;
    return kinds_[code] = kind | (is_dispatch ? IS_DISPATCH : 0);
  }

  py::object path_of(const Frames& frame, int outwards) {
    PyObject* module = frame.first_local();
    if (module != nullptr) {
      PyObject* known = PyDict_GetItemWithError(paths_.ptr(), identity(module).ptr());
      if (known != nullptr && leads_to(PyTuple_GET_ITEM(known, 0), module)) {
        return borrowed(PyTuple_GET_ITEM(known, 1));
      }
    }
    return find_path_(stolen(as_object(frame_object(outwards))));
  }

  py::object learn_, paths_, find_path_, module_call_, empty_;
  std::unordered_map<PyCodeObject*, int> kinds_;
};

}  // namespace gradprobe
