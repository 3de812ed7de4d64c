// The Python functions that the observer calls: of the detectors of one thread, and of all threads of an observer.

#pragma once

#include "escaped_tensors.h"

#include <atomic>

namespace gradprobe {

// The Python side of a thread that was attached to the observer; the threads of autograd's engine have none.
struct Detectors {
  explicit Detectors(const py::dict& given)
      : on_operator(given["on_operator"]),
        on_step(given["on_step"]),
        on_growth(given["on_growth"]),
        on_aliases(given["on_aliases"]),
        on_asker(given["on_asker"]),
        on_hook(given["on_hook"]),
        on_event(given["on_event"]),
        on_escaped(given["on_escaped"]),
        keep_event(given["keep_event"]) {}

  py::object on_operator, on_step, on_growth, on_aliases, on_asker, on_hook, on_event, on_escaped, keep_event;
};

// What all threads of one observer share.
struct Context {
  explicit Context(const py::dict& given)
      : learn(given["learn"]),
        find_module_path(given["find_module_path"]),
        module_call(given["module_call_code"]),
        task_label(given["task_label"]),
        fault(given["fault"]),
        emit(given["emit"]),
        now(given["now"]),
        left_modes(given["left_modes"]),
        autocasts(given["autocasts"]) {
    for (const auto& op : py::list(given["quiet_in_inference_mode"])) quiet_in_inference_mode |= uint64_t(1) << op.cast<int>();
  }

  py::object learn, find_module_path, module_call, task_label, fault, emit, now;
  const py::dict left_modes;  // while it has any, detectors look at every event
  const py::dict autocasts;   // while it has any, they look at every end of inference mode
  EscapedTensors escaped;
  uint64_t quiet_in_inference_mode = 0;  // a bit for each operation that concerns no detector there
  std::atomic<bool> is_on = true, may_have_tasks = false, sees_parts = false;
  std::atomic<int64_t> latest = 0;  // the time of the latest event of any thread
};

}  // namespace gradprobe
