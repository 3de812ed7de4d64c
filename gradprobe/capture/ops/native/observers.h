// The observers that are on, the logs of the threads of each, and what the running thread knows of them.

#pragma once

#include "graphs.h"

#include <pthread.h>

#include <unordered_set>

namespace gradprobe {

// The number of operators deregistered so far: another one may have taken the place of each, even with its name.
inline std::atomic<uint64_t> deregistered = 0;

class Observer;

// The observers that are on. A thread looks for them again when this number has changed.
inline std::atomic<uint64_t> observers_changed = 1;
inline std::mutex observers_lock;
inline std::vector<Observer*> observers;

inline uint64_t this_thread() { return static_cast<uint64_t>(pthread_self()); }

inline bool can_take_gil() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsInitialized() && !Py_IsFinalizing();
#else
  return Py_IsInitialized() && !_Py_IsFinalizing();
#endif
}

// Logs whose last owner could not free them, since they refer to Python objects: a thread that ends may not wait for the GIL, as
// the interpreter ends a thread that waits for it while it ends itself.
inline SpinLock orphans_lock;
inline std::vector<ThreadLog*> orphans;

inline void release(ThreadLog* log) {
  if (!can_take_gil()) return;
  if (PyGILState_Check() != 0) {
    delete log;
    return;
  }
  const std::lock_guard<SpinLock> guard(orphans_lock);
  orphans.push_back(log);
}

// With the GIL.
inline void free_orphans() {
  std::vector<ThreadLog*> found;
  {
    const std::lock_guard<SpinLock> guard(orphans_lock);
    found.swap(orphans);
  }
  for (ThreadLog* log : found) delete log;
}

// The flow of several threads together.
struct Flow {
  std::map<std::pair<FlowId, FlowId>, FlowEdges::Counts> edges;
  std::map<std::vector<std::pair<PyCodeObject*, int>>, GraphPaths::Counts> paths;

  void add(ThreadLog& log) {
    log.take_edges([this](FlowId from, FlowId to, const FlowEdges::Counts& counts) {
      auto& sums = edges[{from, to}];
      for (size_t i = 0; i < counts.size(); ++i) sums[i] += counts[i];
    });
    log.take_paths([this](const std::vector<CallSite>& frames, const GraphPaths::Counts& counts) {
      std::vector<std::pair<PyCodeObject*, int>> key;
      for (const CallSite& frame : frames) key.emplace_back(frame.code, frame.offset);
      auto& sums = paths[key];
      sums.built += counts.built;
      sums.reached += counts.reached;
      sums.forgotten += counts.forgotten;
      sums.calls += counts.calls;
      sums.bytes += counts.bytes;
    });
  }
};

class Observer {
 public:
  // Whatever owns a context owns it with the GIL: the observer, and logs.
  explicit Observer(const py::dict& context) : context_(std::make_shared<Context>(context)) {
    free_orphans();
    const std::lock_guard<std::mutex> guard(observers_lock);
    observers.push_back(this);
    ++observers_changed;
  }
  ~Observer() { stop(); }

  void stop() {
    context_->is_on = false;
    const std::lock_guard<std::mutex> guard(observers_lock);
    observers.erase(std::remove(observers.begin(), observers.end(), this), observers.end());
    ++observers_changed;
  }

  std::shared_ptr<ThreadLog> log_of(uint64_t thread) {
    const std::lock_guard<std::mutex> guard(lock_);
    auto& log = logs_[thread];
    if (!log) log = std::shared_ptr<ThreadLog>(new ThreadLog(context_, thread), &release);
    return log;
  }

  Logs logs() {
    const std::lock_guard<std::mutex> guard(lock_);
    Logs all;
    for (const auto& entry : logs_) all.push_back(entry.second);
    all.insert(all.end(), ended_.begin(), ended_.end());
    return all;
  }

  void flush_all() {
    free_orphans();
    for (const auto& log : logs()) log->flush();
  }

  // The edges and the paths that were used since the last time, as Python objects.
  py::tuple take_flow() {
    Flow flow;
    {
      const std::lock_guard<std::mutex> guard(lock_);
      std::swap(flow, of_ended_threads_);
    }
    for (const auto& log : logs()) flow.add(*log);
    py::list edges, paths;
    for (const auto& [ends, counts] : flow.edges) edges.append(py::make_tuple(ends.first, ends.second, py::cast(counts)));
    for (const auto& [frames, counts] : flow.paths) {
      py::list lines;
      for (const auto& [code, offset] : frames) lines.append(py::make_tuple(reinterpret_cast<uintptr_t>(code), offset));
      paths.append(py::make_tuple(lines, py::make_tuple(counts.built, counts.reached, counts.forgotten, counts.calls, counts.bytes)));
    }
    return py::make_tuple(edges, paths);
  }

  // A thread has ended, or is observed no more: another one may have its identifier next. A backward in another thread may still
  // go through its nodes, as after `DataParallel`, whose threads end with the forward pass.
  void forget_thread(uint64_t thread) {
    const auto log = log_of(thread);  // released after the lock, as is the oldest: they refer to Python objects
    log->flush();
    std::shared_ptr<ThreadLog> oldest;
    {
      const std::lock_guard<std::mutex> guard(lock_);
      logs_.erase(thread);
      if (log->number_in_torch() == 0) {
        of_ended_threads_.add(*log);
      } else {
        ended_.push_back(log);
      }
      if (ended_.size() > MAX_ENDED) {
        oldest = ended_.front();
        ended_.pop_front();
        of_ended_threads_.add(*oldest);
      }
    }
    ++observers_changed;
  }

  bool owns(const ThreadLog& log) const { return log.belongs_to(*context_); }

  EscapedTensors& escaped() { return context_->escaped; }
  void set_tasks(bool may_have_tasks) { context_->may_have_tasks = may_have_tasks; }
  void set_parts(bool sees_parts) { context_->sees_parts = sees_parts; }

 private:
  static constexpr size_t MAX_ENDED = 64;

  const std::shared_ptr<Context> context_;
  std::mutex lock_;
  std::unordered_map<uint64_t, std::shared_ptr<ThreadLog>> logs_;
  std::deque<std::shared_ptr<ThreadLog>> ended_;  // the latest threads that have constructed nodes
  Flow of_ended_threads_;                         // what earlier ones have counted
};

// What this thread knows of operators, and where it notes them.
class ThisThread {
 public:
  const c10::FunctionSchema* composite = nullptr;  // the operator whose parts it runs now, and notes
  uint64_t noted = 0;                              // the number of operators so far

  std::vector<std::shared_ptr<ThreadLog>>& logs() {
    const uint64_t changed = observers_changed.load(std::memory_order_acquire);
    if (changed != valid_at_) {
      std::vector<std::shared_ptr<ThreadLog>> found;
      const std::lock_guard<std::mutex> guard(observers_lock);
      for (Observer* observer : observers) found.push_back(observer->log_of(this_thread()));
      logs_.swap(found);
      valid_at_ = changed;
    }
    return logs_;
  }

  // The thread's log in one observer; null if that one is off.
  ThreadLog* log_in(const Observer& observer) {
    for (const auto& log : logs()) {
      if (observer.owns(*log)) return log.get();
    }
    return nullptr;
  }

  const OpPlan& plan_of(const c10::OperatorHandle& op) {
    const uint64_t gone = deregistered.load(std::memory_order_relaxed);
    if (gone != plans_valid_at_) {
      plans_.clear();
      recent_.fill(nullptr);
      plans_valid_at_ = gone;
    }
    const auto* schema = &op.schema();
    const auto address = reinterpret_cast<uintptr_t>(schema);
    auto& recent = recent_[(address >> 5 ^ address >> 13) % recent_.size()];
    if (recent != nullptr && recent->schema == schema) return *recent;
    auto& known = plans_[schema];
    if (!known) known = std::make_unique<OpPlan>(op);
    recent = known.get();
    return *recent;
  }

 private:
  std::vector<std::shared_ptr<ThreadLog>> logs_;
  uint64_t valid_at_ = 0, plans_valid_at_ = 0;
  std::unordered_map<const c10::FunctionSchema*, std::unique_ptr<OpPlan>> plans_;
  std::array<OpPlan*, 512> recent_{};
};

inline ThisThread& make_this_thread();

// One look at the thread's own memory: each takes a call in a shared library.
inline ThisThread& here() {
  static constinit thread_local ThisThread* thread = nullptr;
  if (thread == nullptr) thread = &make_this_thread();
  return *thread;
}

inline ThisThread& make_this_thread() {
  thread_local ThisThread thread;
  return thread;
}

}  // namespace gradprobe
