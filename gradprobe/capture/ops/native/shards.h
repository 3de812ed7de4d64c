// Records by address in shards, each with a lock of its own: threads that run operators at once rarely meet at one.

#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <thread>

namespace gradprobe {

// Held for a few instructions only. Its holder never waits for the GIL, since a thread that waits for the lock may hold it.
class SpinLock {
 public:
  void lock() {
    while (held_.exchange(true, std::memory_order_acquire)) {
      for (int looks = 0; held_.load(std::memory_order_relaxed); ++looks) {
        if (looks > MAX_LOOKS) std::this_thread::yield();  // its holder may wait for this processor
      }
    }
  }
  void unlock() { held_.store(false, std::memory_order_release); }

 private:
  static constexpr int MAX_LOOKS = 256;

  std::atomic<bool> held_ = false;
};

// `Shard` has a member `lock`.
template <typename Shard>
class Shards {
 public:
  Shard& of(const void* address) {
    return all_[(reinterpret_cast<uintptr_t>(address) >> 4) * 0x9E3779B97F4A7C15ull >> 58];
  }

  auto begin() { return all_.begin(); }
  auto end() { return all_.end(); }

  // All of them at once, for a fork: see observer.cpp.
  void lock() {
    for (Shard& shard : all_) shard.lock.lock();
  }
  void unlock() {
    for (Shard& shard : all_) shard.lock.unlock();
  }

 private:
  std::array<Shard, 64> all_;
};

}  // namespace gradprobe
