// The caller of an operator: the line of the program, and the module whose forward is running. Mirrors location/frames.py
// and location/module_paths.py.

#pragma once

#include "frames.h"
#include "graph_paths.h"

#include <array>
#include <atomic>
#include <unordered_map>
#include <unordered_set>

namespace gradprobe {

// The call of a backward: by which line, whether it asks for gradients only, and the arguments that say what becomes of the graph.
struct BackwardCall {
  PyCodeObject* code = nullptr;
  int offset = 0;
  bool is_grad = false, is_in_step = false;  // in an optimizer's step, as LBFGS calls it again and again
  py::object retain_graph = py::none(), create_graph = py::none();
};

// Compared with Python's when the library is loaded, as are the phases.
enum FrameKind { SKIPPED, USER, MODULE_CALL, OPTIMIZER, OWN };
constexpr int ASKS_MODE = 16;  // beside the kind: the code asks whether grad or inference mode is enabled
enum Phase : uint8_t { FORWARD, BACKWARD, IN_OPTIMIZER };

// The place where the program called an operator. FrameClassifier keeps the code object alive.
struct Caller {
  PyCodeObject* code = nullptr;
  int offset = 0;
  NameId module = NO_NAME;
  Phase phase = FORWARD;
  bool is_own = false;  // gradprobe's own code calls it
  PyCodeObject* asker = nullptr;       // the innermost function around it that asks for the mode
  PyObject* asked_with = nullptr;      // the first argument of that function, to be compared only
};

constexpr int MODULE_DEPTH = 30;
constexpr int LEARNING_DEPTH = 8, ASKER_DEPTH = 24, LOOKS_AROUND = 8;
constexpr int MAX_FRAMES = 300;
constexpr size_t MAX_PATH = 60;

// Holds the GIL where this version of Python shows its frames to a holder only.
struct FrameAccess {
#ifndef GRADPROBE_READS_FRAMES
  const OwnPython lock;
#endif
};

// The number of times that paths of modules changed or a module with a path was freed: what a thread has learned of them
// before is not valid any more.
inline std::atomic<uint64_t> module_paths_changed = 0;

class CallerFinder {
 public:
  // The callables belong to the caller: no references are counted here, where the GIL is not held.
  CallerFinder(py::handle learn, py::handle find_path, PyCodeObject* module_call)
      : learn_(learn), find_path_(find_path), module_call_(module_call) {}

  // Without the GIL: the frames of this thread stay as they are for as long as it is here. Only code and modules that are
  // new to the thread are shown to Python.
  Caller locate() { return locate(nullptr); }

  // The same, with the lines of the program that led there, from the innermost outwards.
  Caller locate_with_path(std::vector<CallSite>& path) {
    path.clear();
    return locate(&path);
  }

  // With the GIL, called by gradprobe's own code in a function of PyTorch that begins a backward.
  BackwardCall locate_backward() {
    BackwardCall call;
    Frames frame;
    while (frame && kind_of(frame.code()) == OWN) frame.next();
    if (!frame) return call;
    call.is_grad = PyUnicode_CompareWithASCIIString(frame.code()->co_name, "grad") == 0;
    call.retain_graph = frame.local("retain_graph");
    call.create_graph = frame.local("create_graph");
    while (frame && kind_of(frame.code()) != USER) frame.next();
    if (frame) {
      call.code = frame.code();
      call.offset = frame.offset();
    }
    for (int i = 0; frame && i < ASKER_DEPTH && !call.is_in_step; frame.next(), ++i) {
      call.is_in_step = kind_of(frame.code()) == OPTIMIZER;
    }
    return call;
  }

  int kind_of(PyCodeObject* code) {
    auto& recent = recent_kinds_[slot_of(code, recent_kinds_.size())];
    if (recent.code == code) return recent.kind;
    const auto known = kinds_.find(code);
    int kind = SKIPPED;
    if (known != kinds_.end()) {
      kind = known->second;
    } else {
      const OwnPython lock;
      const int learned = learn_(py::handle(as_object(code))).cast<int>();
      kind = kinds_[code] = learned & ~ASKS_MODE;
      if ((learned & ASKS_MODE) != 0) {
        askers_.insert(code);
        has_askers_ = true;
      }
    }
    recent = {code, kind, 0};
    return kind;
  }

 private:
  Caller locate(std::vector<CallSite>* path) {
    Caller caller;
    const FrameAccess access;
    bool has_module = false;
    int outwards = 0;
    Frames frame;
    for (; frame; frame.next(), ++outwards) {
      const int kind = kind_of(frame.code());
      if (kind == USER) {
        see_asker(frame, caller);
        caller.code = frame.code();
        caller.offset = frame.offset();
        if (path != nullptr) path->push_back({caller.code, caller.offset});
        break;
      }
      if (kind == OWN && outwards == 0) {
        caller.is_own = true;
        return caller;
      }
      if (kind == OPTIMIZER) {
        caller.phase = IN_OPTIMIZER;
      } else if (kind == MODULE_CALL && !has_module) {
        caller.module = path_of(frame, outwards);
        has_module = true;
      }
    }
    if (!frame) return caller;
    // A function that asks for the mode may have called the innermost one: callers are learned in the first calls of each.
    const int depth = has_askers_ ? ASKER_DEPTH : looks_around(caller.code) ? LEARNING_DEPTH : 0;
    frame.next();
    for (int i = 1; frame; frame.next(), ++i) {
      if (!has_module && i <= MODULE_DEPTH && frame.code() == module_call_) {
        caller.module = path_of(frame, outwards + i);
        has_module = true;
      }
      const bool may_ask = caller.asker == nullptr && i < depth;
      if (path == nullptr ? (has_module || i >= MODULE_DEPTH) && !may_ask : path->size() >= MAX_PATH || outwards + i >= MAX_FRAMES) break;
      if (path == nullptr && !may_ask) continue;
      if (kind_of(frame.code()) != USER) continue;
      if (may_ask) see_asker(frame, caller);
      if (path != nullptr) path->push_back({frame.code(), frame.offset()});
    }
    return caller;
  }

  void see_asker(const Frames& frame, Caller& caller) {
    if (!has_askers_ || caller.asker != nullptr || askers_.count(frame.code()) == 0) return;
    caller.asker = frame.code();
    caller.asked_with = frame.first_local();
  }

  struct KnownKind {
    PyCodeObject* code = nullptr;
    int kind = SKIPPED, looks = 0;
  };
  struct KnownPath {
    PyObject* module = nullptr;
    NameId path = NO_NAME;
  };

  static size_t slot_of(const void* pointer, size_t slots) {
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    return (address >> 4 ^ address >> 12) & (slots - 1);
  }

  bool looks_around(PyCodeObject* code) {
    auto& recent = recent_kinds_[slot_of(code, recent_kinds_.size())];
    return recent.code != code || recent.looks++ < LOOKS_AROUND;
  }

  NameId path_of(const Frames& frame, int outwards) {
    const uint64_t changed = module_paths_changed.load(std::memory_order_acquire);
    if (changed != paths_valid_at_) {
      paths_.clear();
      recent_paths_.fill({});
      paths_valid_at_ = changed;
    }
    PyObject* module = frame.first_local();
    auto& recent = recent_paths_[slot_of(module, recent_paths_.size())];
    if (module != nullptr && recent.module == module) return recent.path;
    const auto known = paths_.find(module);
    if (module != nullptr && known != paths_.end()) {
      recent = {module, known->second};
      return known->second;
    }
    const OwnPython lock;
    const auto path = Names::global().add(find_path_(stolen(as_object(frame_object(outwards)))).cast<std::string>());
    // Finding it may have changed the paths: then this one is kept only until the next look.
    if (module != nullptr) {
      recent = {module, path};
      paths_[module] = path;
    }
    return path;
  }

  py::handle learn_, find_path_;
  PyCodeObject* module_call_;
  std::unordered_map<PyCodeObject*, int> kinds_;
  std::unordered_set<PyCodeObject*> askers_;
  bool has_askers_ = false;
  std::array<KnownKind, 256> recent_kinds_;
  std::unordered_map<PyObject*, NameId> paths_;
  std::array<KnownPath, 256> recent_paths_;
  uint64_t paths_valid_at_ = 0;
};

}  // namespace gradprobe
