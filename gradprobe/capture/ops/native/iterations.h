// The iterations of a thread. One ends with an optimizer's step, or with a backward if no optimizer has stepped yet.

#pragma once

#include <ATen/SequenceNumber.h>

#include <algorithm>
#include <cstdint>
#include <deque>

namespace gradprobe {

class Iterations {
 public:
  void end_with_backward() { mark(backwards_); }

  // Returns whether the parameters of the optimizer that steps are to be looked at, which takes Python: the first steps, and then
  // one in so many that the optimizers of a program take turns.
  bool end_with_step() {
    mark(steps_);
    ++number_of_steps_;
    return number_of_steps_ <= FIRST_STEPS || number_of_steps_ % STEPS_PER_LOOK == 0;
  }

  // While each step is looked at, a gradient that is not there any more is known to have been used or not.
  bool sees_all_steps() const { return number_of_steps_ < FIRST_STEPS; }

  // The number of iterations that have ended since a node was constructed.
  size_t ended_since(uint64_t node) const {
    const auto& ends = steps_.empty() ? backwards_ : steps_;
    return static_cast<size_t>(ends.end() - std::upper_bound(ends.begin(), ends.end(), node));
  }

  // The number of nodes that the thread had constructed at its latest backward, 0 before the first.
  uint64_t latest_backward() const { return backwards_.empty() ? 0 : backwards_.back(); }

 private:
  static constexpr size_t MAX_MARKS = 100'000;
  static constexpr uint64_t FIRST_STEPS = 64, STEPS_PER_LOOK = 17;

  static void mark(std::deque<uint64_t>& ends) {
    ends.push_back(at::sequence_number::peek());
    if (ends.size() > MAX_MARKS) ends.pop_front();
  }

  std::deque<uint64_t> backwards_, steps_;  // the number of nodes that the thread had constructed when each began
  uint64_t number_of_steps_ = 0;
};

}  // namespace gradprobe
