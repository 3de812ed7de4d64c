// The tensors that a thread made in inference mode, for the end of the block.

#pragma once

#include "creations.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

namespace gradprobe {

// A tensor whose record is among the creations, by address and time.
struct TensorRef {
  const at::TensorImpl* impl;
  int64_t made;
};

class RecentTensors {
 public:
  using Living = std::vector<std::pair<at::Tensor, Creation>>;

  void add_inference_tensor(const TensorRef& ref) {
    inference_.push_back(ref);
    if (inference_.size() <= sweep_at_) return;
    const auto is_gone = [](const TensorRef& one) { return !Creations::global().lock(one.impl, one.made); };
    inference_.erase(std::remove_if(inference_.begin(), inference_.end(), is_gone), inference_.end());
    sweep_at_ = 2 * inference_.size() + SPARE;
  }

  // The inference tensors made since the last call that still exist.
  Living take_inference_tensors() {
    std::deque<TensorRef> taken;
    taken.swap(inference_);
    sweep_at_ = SPARE;
    return living_of(taken);
  }

 private:
  static constexpr size_t SPARE = 256;

  static Living living_of(const std::deque<TensorRef>& refs) {
    Living found;
    for (const TensorRef& ref : refs) {
      auto living = Creations::global().lock(ref.impl, ref.made);
      if (living) found.push_back(std::move(*living));
    }
    return found;
  }

  std::deque<TensorRef> inference_;
  size_t sweep_at_ = SPARE;
};

}  // namespace gradprobe
