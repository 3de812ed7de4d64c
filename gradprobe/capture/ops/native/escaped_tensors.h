// The inference tensors that exist beyond the block that made them, in all threads, and the lines that made them.

#pragma once

#include "event_numbers.h"
#include "objects.h"
#include "recent_tensors.h"

#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <tuple>

namespace gradprobe {

class EscapedTensors {
 public:
  bool is_empty() const { return number_.load(std::memory_order_relaxed) == 0; }

  // Adds what a thread leaves behind, which is not nothing. Returns those tensors of it whose line is new.
  LivingTensors add(const LivingTensors& left) {
    const std::lock_guard<std::mutex> guard(lock_);
    LivingTensors of_new_lines;
    for (const auto& [tensor, creation] : left) {
      const TensorRef ref{tensor.unsafeGetTensorImpl(), creation.made};
      all_.push_back(ref);
      if (add_to_line(ref, creation)) of_new_lines.emplace_back(tensor, creation);
    }
    latest_ = left.back().second;
    if (all_.size() > sweep_at_) sweep();
    number_ = all_.size();
    additions_ = of_new_lines.empty() ? additions_ + 1 : 1;
    return of_new_lines;
  }

  // Whether the places of the tensors are to be looked for after the latest addition: ever more rarely without a new line.
  bool is_due() {
    const std::lock_guard<std::mutex> guard(lock_);
    return (additions_ & (additions_ - 1)) == 0;
  }

  // Lets the places be looked for as the next thread leaves inference mode, whatever that leaves behind.
  void request_look() { is_requested_ = true; }
  bool take_request() { return is_requested_.exchange(false); }

  // The latest tensors of each line that exist.
  LivingTensors latest_of_lines() {
    std::vector<TensorRef> refs;
    {
      const std::lock_guard<std::mutex> guard(lock_);
      for (const auto& [key, line] : lines_) refs.insert(refs.end(), line.begin(), line.end());
    }
    return living_of(refs);
  }

  // The tensors that exist, each once.
  LivingTensors take() {
    std::vector<TensorRef> refs;
    {
      const std::lock_guard<std::mutex> guard(lock_);
      refs.swap(all_);
      number_ = 0;
      sweep_at_ = SPARE;
    }
    return living_of(refs);
  }

  // The record of the latest one, which may be gone.
  std::optional<Creation> latest() {
    const std::lock_guard<std::mutex> guard(lock_);
    return latest_;
  }

 private:
  using Line = std::tuple<PyCodeObject*, int, NameId>;
  static constexpr size_t SPARE = 4096, MAX_LINES = 200, MAX_TENSORS_OF_LINE = 4;

  // Returns whether the line is new.
  bool add_to_line(const TensorRef& ref, const Creation& creation) {
    const Line key{creation.code, creation.offset, creation.op};
    auto found = lines_.find(key);
    const bool is_new = found == lines_.end();
    if (is_new) {
      if (creation.code == nullptr || lines_.size() >= MAX_LINES) return false;
      found = lines_.try_emplace(key).first;
    }
    auto& tensors = found->second;
    if (tensors.size() == MAX_TENSORS_OF_LINE) tensors.erase(tensors.begin());
    tensors.push_back(ref);
    return is_new;
  }

  void sweep() {
    const auto is_gone = [](const TensorRef& ref) { return !Creations::global().exists(ref.impl, ref.made); };
    all_.erase(std::remove_if(all_.begin(), all_.end(), is_gone), all_.end());
    sweep_at_ = 2 * all_.size() + SPARE;
  }

  std::mutex lock_;
  std::vector<TensorRef> all_;
  std::map<Line, std::vector<TensorRef>> lines_;
  std::optional<Creation> latest_;
  std::atomic<size_t> number_ = 0;
  std::atomic<bool> is_requested_ = false;
  uint64_t additions_ = 0;
  size_t sweep_at_ = SPARE;
};

// The tensors of one line that a thread leaves behind.
struct EscapedGroup {
  Creation creation;  // of the first
  int64_t number = 0, bytes = 0;
};

// A size that is a symbol of a tracer, or that a subclass computes in Python, is not asked for.
inline int64_t bytes_of(const at::TensorImpl& impl) {
  if (impl.has_symbolic_sizes_strides() || impl.is_python_dispatch()) return 0;
  return impl.numel() * static_cast<int64_t>(impl.itemsize());
}

inline std::vector<EscapedGroup> group_by_line(const LivingTensors& left) {
  std::vector<EscapedGroup> groups;
  for (const auto& [tensor, creation] : left) {
    const auto is_its = [&creation = creation](const EscapedGroup& group) {
      const Creation& other = group.creation;
      return other.code == creation.code && other.offset == creation.offset && other.op == creation.op && other.module == creation.module;
    };
    auto group = std::find_if(groups.begin(), groups.end(), is_its);
    if (group == groups.end()) group = groups.insert(groups.end(), {creation});
    ++group->number;
    group->bytes += bytes_of(*tensor.unsafeGetTensorImpl());
  }
  return groups;
}

// The event of a group: (OP_ROWS, "outliving", marker, rows), as capture/ops/inference_tensor_events.py writes it.
inline py::tuple make_escaped_event(const EscapedGroup& group, int64_t now) {
  auto& names = Names::global();
  const Creation& creation = group.creation;
  const auto module = creation.module == NO_NAME ? py::object(py::str("")) : borrowed(names.object(creation.module));
  const auto operation = py::make_tuple(borrowed(names.object(creation.op)), py::none(), module, static_cast<int>(FORWARD));
  const auto marker = py::make_tuple(static_cast<int>(ESCAPED_TENSORS), now, creation.thread,
                                     reinterpret_cast<uintptr_t>(creation.code), creation.offset, operation);
  py::list rows;
  rows.append(py::make_tuple(creation.made, group.number, group.bytes, 0));
  return py::make_tuple(static_cast<int>(OP_ROWS), "outliving", marker, rows);
}

}  // namespace gradprobe
