// Events as columns of numbers, and the rows that belong to them: the arrays of recording/events.py and recording/op_rows.py.

#pragma once

#include "event_numbers.h"
#include "tallies.h"

namespace gradprobe {

// Numbers of eight, four or one bytes without gaps.
class Bytes {
 public:
  template <typename Number>
  void push(Number number) {
    bytes_.append(reinterpret_cast<const char*>(&number), sizeof(number));
  }
  py::object take() const { return stolen(PyByteArray_FromStringAndSize(bytes_.data(), static_cast<Py_ssize_t>(bytes_.size()))); }

 private:
  std::string bytes_;
};

struct EventNumbers {
  uint8_t op;
  int64_t time;
  uint32_t thread, site;
  uint8_t state;
  uint64_t key;
  uint32_t extra;
  int64_t nodes;
};

inline uint8_t pack_state(long grad, long inference, long grad_after, long inference_after) {
  return static_cast<uint8_t>(grad | inference << 2 | grad_after << 4 | inference_after << 6);
}

class EventColumns {
 public:
  void push(const EventNumbers& event) {
    ops_.push(event.op);
    times_.push(event.time);
    threads_.push(event.thread);
    sites_.push(event.site);
    states_.push(event.state);
    keys_.push(event.key);
    extras_.push(event.extra);
    nodes_.push(event.nodes);
  }

  py::tuple take() const {
    return py::make_tuple(ops_.take(), times_.take(), threads_.take(), sites_.take(), states_.take(), keys_.take(), extras_.take(),
                          nodes_.take());
  }

 private:
  Bytes ops_, times_, threads_, sites_, states_, keys_, extras_, nodes_;
};

// Rows of tallies, of the storages that their operators saved, and of those among them that are inputs to autograd.
class TallyRows {
 public:
  void push(uint64_t key, uint32_t operation, const Tally& tally) {
    tallies_.push(key);
    tallies_.push(operation);
    for (const int64_t count : tally.counts) tallies_.push(count);
    push_saved(key, tally.saved);
  }

  py::tuple take() const { return py::make_tuple(tallies_.take(), saved_.take(), inputs_.take()); }

 private:
  // Each storage once, as it was when it was saved last.
  void push_saved(uint64_t key, const std::vector<SavedStorage>& saved) {
    constexpr size_t FEW = 16;  // so few that to compare all takes less time than a table
    latest_.clear();
    for (size_t i = saved.size() > FEW ? 0 : saved.size(); i < saved.size(); ++i) latest_[saved[i].number] = i;
    for (size_t i = 0; i < saved.size(); ++i) {
      const SavedStorage& storage = saved[i];
      const auto is_same = [&storage](const SavedStorage& other) { return other.number == storage.number; };
      const bool is_saved_again = saved.size() > FEW
          ? latest_[storage.number] != i
          : std::any_of(saved.begin() + static_cast<ptrdiff_t>(i) + 1, saved.end(), is_same);
      if (is_saved_again) continue;
      saved_.push(key);
      saved_.push(storage.number);
      saved_.push(storage.bytes);
      saved_.push(storage.made);
      if (!storage.is_input) continue;
      inputs_.push(key);
      inputs_.push(storage.number);
    }
  }

  Bytes tallies_, saved_, inputs_;
  std::unordered_map<uint64_t, size_t> latest_;
};

}  // namespace gradprobe
