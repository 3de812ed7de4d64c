// Where a thread is: the line of the program, and the module whose forward is running. As codes.py and modules.py say.

#pragma once

#include "frames.h"
#include "objects.h"

#include <unordered_map>

namespace gradprobe {

enum Kind { SKIPPED, USERS, MODULE, OPTIMIZER, KIND = 3, BY_ANOTHER = 4 };
enum Phase { FORWARD, BACKWARD, IN_OPTIMIZER };

// Where the program called an operator. The code is borrowed: codes.py holds on to it.
struct Line {
  Line() = default;
  Line(Line&&) = default;
  Line& operator=(Line&&) = default;
  ~Line() {
    if (module) {  // an operator that fails leaves without the interpreter's lock
      py::gil_scoped_acquire lock;
      module = py::object();
    }
  }

  PyCodeObject* code = nullptr;
  int offset = 0;
  py::object module;
  Phase phase = FORWARD;
  bool by_another = false;  // a mode or a tensor of the program calls it, as kernels.py says
};

class Lines {
 public:
  explicit Lines(const py::dict& tools)
      : learn_(tools["learn"]), paths_(tools["paths"]), path_(tools["path"]), call_(tools["call"]), empty_(py::str("")) {}

  Line locate() {
    Line line;
    int outwards = 0;
    Frames frame;
    for (; frame; frame.next(), ++outwards) {
      const int kind = kind_of(frame.code()) & KIND;
      if (kind == USERS) {
        line.code = frame.code();
        line.offset = frame.offset();
        break;
      }
      if (kind == OPTIMIZER) {
        line.phase = IN_OPTIMIZER;
      } else if (kind == MODULE && !line.module) {
        line.module = path_of(frame, outwards);
      }
    }
    if (frame) {
      Frames above = frame;
      for (int i = 0; above && (i < NEAR || (!line.module && i <= MODULE_DEPTH)); above.next(), ++i) {
        if (i < NEAR && kind_of(above.code()) & BY_ANOTHER) line.by_another = true;
        if (i > 0 && !line.module && as_object(above.code()) == call_.ptr()) {
          line.module = path_of(above, outwards + i);
        }
      }
    }
    if (!line.module) line.module = empty_;
    return line;
  }

 private:
  static constexpr int NEAR = 6, MODULE_DEPTH = 30;

  int kind_of(PyCodeObject* code) {
    const auto known = kinds_.find(code);
    if (known != kinds_.end()) return known->second;
    const int kind = learn_(py::handle(as_object(code))).cast<int>();
    const bool is_another = PyUnicode_CompareWithASCIIString(code->co_name, "__torch_dispatch__") == 0;
    return kinds_[code] = kind | (is_another ? BY_ANOTHER : 0);
  }

  py::object path_of(const Frames& frame, int outwards) {
    PyObject* module = frame.first_local();
    if (module != nullptr) {
      PyObject* known = PyDict_GetItemWithError(paths_.ptr(), identity(module).ptr());
      if (known != nullptr && leads_to(PyTuple_GET_ITEM(known, 0), module)) {
        return borrowed(PyTuple_GET_ITEM(known, 1));
      }
    }
    return path_(stolen(as_object(frame_object(outwards))));
  }

  py::object learn_, paths_, path_, call_, empty_;
  std::unordered_map<PyCodeObject*, int> kinds_;
};

}  // namespace gradprobe
