// The observer of operators, a fallback for a dispatch key that nothing uses. The key is above autograd, autocast and
// functorch, so that an operator is complete when it returns, and composite operators arrive whole in every mode.
//
// A thread is observed while the key is in its set of included keys. Autograd's engine hands that set on to its threads.

#include "thread_log.h"

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <pthread.h>

#include <optional>
#include <unordered_set>

namespace gradprobe {
namespace {

constexpr auto KEY = c10::DispatchKey::TESTING_ONLY_GenericWrapper;

// The number of operators deregistered so far: another one may have taken the place of each, even with its name.
std::atomic<uint64_t> deregistered = 0;

class Registrations : public c10::OpRegistrationListener {
  void onOperatorRegistered(const c10::OperatorHandle&) override {}
  void onOperatorDeregistered(const c10::OperatorHandle&) override { ++deregistered; }
};

class Observer;

// The observers that are on. A thread looks for them again when this number has changed.
std::atomic<uint64_t> observers_changed = 1;
std::mutex observers_lock;
std::vector<Observer*> observers;

// Another thread may hold a lock at the moment of a fork, and in the child that thread does not exist. The locks of observers
// and logs are theirs alone: a child uses none of those that it inherits.
void lock_all() {
  observers_lock.lock();
  Names::global().lock();
  Creations::global().lock();
  SavedStorages::global().lock();
}

void unlock_all() {
  SavedStorages::global().unlock();
  Creations::global().unlock();
  Names::global().unlock();
  observers_lock.unlock();
}

uint64_t this_thread() { return static_cast<uint64_t>(pthread_self()); }

bool can_take_gil() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsInitialized() && !Py_IsFinalizing();
#else
  return Py_IsInitialized() && !_Py_IsFinalizing();
#endif
}

// The last owner of a log may be any thread, and the log refers to Python objects. They stay when the interpreter ends.
void release(ThreadLog* log) {
  if (!can_take_gil()) return;
  py::gil_scoped_acquire lock;
  delete log;
}

class Observer {
 public:
  // Whatever owns a context owns it with the GIL: the observer, and logs.
  explicit Observer(const py::dict& context) : context_(std::make_shared<Context>(context)) {
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

  void flush_all() {
    std::vector<std::shared_ptr<ThreadLog>> all;
    {
      const std::lock_guard<std::mutex> guard(lock_);
      for (const auto& entry : logs_) all.push_back(entry.second);
    }
    for (const auto& log : all) log->flush();
  }

  // A thread has ended, or is observed no more: another one may have its identifier next.
  void forget_thread(uint64_t thread) {
    const auto log = log_of(thread);  // released after the lock: it refers to Python objects
    log->flush();
    {
      const std::lock_guard<std::mutex> guard(lock_);
      logs_.erase(thread);
    }
    ++observers_changed;
  }

  void set_tasks(bool may_have_tasks) { context_->may_have_tasks = may_have_tasks; }
  void set_parts(bool sees_parts) { context_->sees_parts = sees_parts; }

 private:
  const std::shared_ptr<Context> context_;
  std::mutex lock_;
  std::unordered_map<uint64_t, std::shared_ptr<ThreadLog>> logs_;
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

ThisThread& here() {
  thread_local ThisThread thread;
  return thread;
}

void include_key(bool is_included) { c10::impl::tls_set_dispatch_key_included(KEY, is_included); }

void run(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack, uint64_t before) {
  struct Running {
    const uint64_t outer = running_since;
    ~Running() { running_since = outer; }
  } const running;
  running_since = before;
  op.redispatchBoxed(keys, stack);
}

// The operator whose parts the thread observes while it runs; none while it runs a part that is whole.
class Within {
 public:
  Within(ThisThread& thread, const c10::FunctionSchema* composite) : thread_(thread), outer_(thread.composite) {
    thread.composite = composite;
  }
  ~Within() { thread_.composite = outer_; }

 private:
  ThisThread& thread_;
  const c10::FunctionSchema* const outer_;
};

using PartsAreNotSeen = std::optional<c10::impl::ExcludeDispatchKeyGuard>;

// Runs a composite operator with the key on, so that its parts are observed; returns whether it had any.
bool run_with_parts(ThisThread& thread, const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack,
                    uint64_t before, PartsAreNotSeen& not_seen) {
  const Within within(thread, &op.schema());
  const uint64_t noted = thread.noted;
  not_seen.reset();
  run(op, keys, stack, before);
  not_seen.emplace(KEY);
  return thread.noted != noted;
}

void observe(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const auto rest = keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, KEY);
  auto& thread = here();
  // Autocast and functorch call an operator again, below themselves, and functorch with the keys that it began with.
  if (running_since != UINT64_MAX && (thread.composite == nullptr || thread.composite == &op.schema())) {
    op.redispatchBoxed(rest, stack);
    return;
  }
  PartsAreNotSeen not_seen(std::in_place, KEY);
  auto& logs = thread.logs();
  if (logs.empty()) {  // the recording was stopped in another thread
    include_key(false);
    op.redispatchBoxed(rest, stack);
    return;
  }
  int interest = NO_OPS;
  bool sees_parts = false;
  for (const auto& log : logs) {
    interest = std::max(interest, log->interest.load(std::memory_order_relaxed));
    sees_parts |= log->sees_parts();
  }
  std::optional<Call> call;
  try {
    call.emplace(thread.plan_of(op), *stack, interest);
  } catch (const std::exception& error) {  // a tensor that refuses a question
    logs.front()->report_error(error);
  }
  if (!call) {
    op.redispatchBoxed(rest, stack);
    return;
  }
  if (call->has_subclass) {
    for (const auto& log : logs) log->announce(*call);
  }
  bool has_parts = false;
  // What a subclass or a mode of the program runs for an operator is no part of it.
  if (sees_parts && call->plan->is_composite && !call->has_subclass && !c10::impl::dispatch_mode_enabled()) {
    has_parts = run_with_parts(thread, op, rest, stack, call->before, not_seen);
  } else {
    const Within within(thread, nullptr);
    run(op, rest, stack, call->before);
  }
  ++thread.noted;
  for (const auto& log : thread.logs()) {  // again: the operator may have begun or ended a recording
    if (!log->is_on() || (thread.composite != nullptr && !log->sees_parts())) continue;
    if (has_parts && log->sees_parts()) {
      log->note_composite(*call);
    } else {
      log->note(*call, *stack);
    }
  }
}

bool is_key_included() { return c10::impl::tls_is_dispatch_key_included(KEY); }

// Takes the key for the rest of the process. Fails if another library has a fallback for it.
void take_key() {
  static auto* library = new torch::Library(torch::Library::IMPL, "_", KEY, __FILE__, __LINE__);
  library->fallback(torch::CppFunction::makeFromBoxedFunction<&observe>());
}

// Observes the calling thread.
void attach(Observer& observer, const py::object& on_operator, const py::object& on_sum, const py::object& on_subclass_view,
            int64_t now) {
  static const auto* listening = new c10::RegistrationHandleRAII(
      c10::Dispatcher::singleton().addRegistrationListener(std::make_unique<Registrations>()));
  (void)listening;
  const auto log = observer.log_of(this_thread());
  ++observers_changed;
  log->detectors = std::make_unique<Detectors>(Detectors{on_operator, on_sum, on_subclass_view});
  log->settle(now);
  include_key(true);
}

py::object describe(const at::Tensor& tensor, const Creation& creation) {
  const auto object = stolen(THPVariable_Wrap(tensor));
  auto& names = Names::global();
  return py::make_tuple(stolen(PyWeakref_NewRef(object.ptr(), nullptr)), creation.made,
                        creation.code == nullptr ? py::object(py::none()) : borrowed(as_object(creation.code)),
                        creation.offset, borrowed(names.object(creation.op)),
                        creation.module == NO_NAME ? py::object(py::str("")) : borrowed(names.object(creation.module)),
                        creation.storage_made, creation.thread);
}

py::list describe_all(const std::vector<std::pair<at::Tensor, Creation>>& all) {
  py::list found;
  for (const auto& [tensor, creation] : all) found.append(describe(tensor, creation));
  return found;
}

py::object find_creation(const py::object& tensor) {
  const auto& value = THPVariable_Unpack(tensor.ptr());
  const auto found = Creations::global().find(value.unsafeGetTensorImpl());
  return found ? describe(value, *found) : py::none();
}

// The sequence numbers of all nodes behind some tensors, as ranges of a first and a last number. In PyTorch's own nodes: a
// Python object for each would be kept, and a chain of those is freed by recursion.
std::vector<std::pair<uint64_t, uint64_t>> reachable_ranges(const std::vector<at::Tensor>& roots) {
  std::vector<Node*> waiting;
  std::unordered_set<Node*> found;
  std::vector<uint64_t> numbers;
  const auto reach = [&](Node* node) {
    if (node != nullptr && found.insert(node).second) waiting.push_back(node);
  };
  for (const auto& root : roots) {
    const auto* node = raw_grad_fn(root);
    if (node != nullptr) reach(node->get());
  }
  while (!waiting.empty()) {
    Node* node = waiting.back();
    waiting.pop_back();
    if (node->sequence_nr() != UINT64_MAX) numbers.push_back(node->sequence_nr());  // that is an AccumulateGrad
    for (const auto& edge : node->next_edges()) reach(edge.function.get());
  }
  std::sort(numbers.begin(), numbers.end());
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const uint64_t number : numbers) {
    if (!ranges.empty() && number <= ranges.back().second + 1) {
      ranges.back().second = number;
    } else {
      ranges.emplace_back(number, number);
    }
  }
  return ranges;
}

py::dict mirrored_constants() {
  py::dict constants;
  constants["NO_OPS"] = static_cast<int>(NO_OPS);
  constants["OPS_ON_GRAPH_RESULTS"] = static_cast<int>(OPS_ON_GRAPH_RESULTS);
  constants["OPS_ON_GRAD_TENSORS"] = static_cast<int>(OPS_ON_GRAD_TENSORS);
  constants["ALL_OPS"] = static_cast<int>(ALL_OPS);
  constants["SKIPPED"] = static_cast<int>(SKIPPED);
  constants["USER"] = static_cast<int>(USER);
  constants["MODULE_CALL"] = static_cast<int>(MODULE_CALL);
  constants["OPTIMIZER"] = static_cast<int>(OPTIMIZER);
  constants["OWN"] = static_cast<int>(OWN);
  constants["FORWARD"] = static_cast<int>(FORWARD);
  constants["BACKWARD"] = static_cast<int>(BACKWARD);
  constants["IN_OPTIMIZER"] = static_cast<int>(IN_OPTIMIZER);
  constants["CALLS"] = static_cast<int>(CALLS);
  constants["NODES"] = static_cast<int>(NODES);
  constants["VERSION_BUMPS"] = static_cast<int>(VERSION_BUMPS);
  constants["COUNTERS_CREATED"] = static_cast<int>(COUNTERS_CREATED);
  constants["TRACKED_VIEWS"] = static_cast<int>(TRACKED_VIEWS);
  constants["UNTRACKED_VIEWS"] = static_cast<int>(UNTRACKED_VIEWS);
  constants["INFERENCE_OUTPUTS"] = static_cast<int>(INFERENCE_OUTPUTS);
  constants["NORMAL_OUTPUTS"] = static_cast<int>(NORMAL_OUTPUTS);
  constants["UNCOUNTED_WRITES"] = static_cast<int>(UNCOUNTED_WRITES);
  constants["HOOKED"] = static_cast<int>(HOOKED);
  constants["FAILED_VERSION_READS"] = static_cast<int>(FAILED_VERSION_READS);
  constants["NORMAL_WITHOUT_COUNTER"] = static_cast<int>(NORMAL_WITHOUT_COUNTER);
  constants["INFERENCE_WITH_COUNTER"] = static_cast<int>(INFERENCE_WITH_COUNTER);
  constants["NUMBER_OF_COUNTS"] = static_cast<int>(NUMBER_OF_COUNTS);
  return constants;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  try {
    take_key();
  } catch (const c10::Error& error) {
    throw py::import_error(std::string("another library observes operators by the same key: ") + error.what_without_backtrace());
  }
  py::class_<ThreadLog, std::shared_ptr<ThreadLog>>(module, "ThreadLog")
      .def("settle", &ThreadLog::settle, "Emit the operators of this thread, which has changed its mode.")
      .def("set_interest", [](ThreadLog& log, int interest) { log.interest = interest; })
      .def("take_inference_tensors", [](ThreadLog& log) { return describe_all(log.take_inference_tensors()); })
      .def("views_of_older", [](ThreadLog& log, int64_t moment) { return describe_all(log.views_of_older(moment)); })
      .def("origins_between",
           [](ThreadLog& log, uint64_t first, uint64_t last) {
             py::list found;
             for (const auto& origin : log.origins_between(first, last)) {
               found.append(py::make_tuple(reinterpret_cast<uintptr_t>(origin.code), origin.offset));
             }
             return found;
           })
      .def("take_suspects", [](ThreadLog& log) {
        py::dict found;
        for (const auto& [storage, place] : log.take_suspects()) {
          found[py::int_(storage)] = py::make_tuple(reinterpret_cast<uintptr_t>(place.first), place.second);
        }
        return found;
      });
  py::class_<Observer, std::shared_ptr<Observer>>(module, "Observer")
      .def(py::init<py::dict>())
      .def("attach", &attach, "Observe the calling thread.")
      .def("log_of", &Observer::log_of, "Return the log of a thread.")
      .def("flush_all", &Observer::flush_all, "Emit the operators of all threads so far.")
      .def("forget_thread", &Observer::forget_thread, "Emit the operators of a thread and forget it.")
      .def("set_parts", &Observer::set_parts, "Note the parts of composite operators too, or not.")
      .def("set_tasks", &Observer::set_tasks, "Ask for the asyncio task of each operator, or not.")
      .def("stop", &Observer::stop, "Observe nothing more.");
  module.def("include_key", &include_key, "Let the operators of the calling thread be observed, or not.");
  module.def("is_key_included", &is_key_included, "Return whether the operators of the calling thread are observed.");
  module.def("find_creation", &find_creation, "Return the record of a tensor, or None.");
  module.def("living", [] { return describe_all(Creations::global().living()); }, "Return the records of all tensors.");
  module.def(
      "forget",
      [](const py::object& tensor) {
        Creations::global().forget(THPVariable_Unpack(tensor.ptr()).unsafeGetTensorImpl());
      },
      "Drop the record of a tensor.");
  module.def(
      "forget_instances",
      [](const py::object& type) {
        Creations::global().forget_if([&type](const at::Tensor& tensor) {
          PyObject* object = tensor.unsafeGetTensorImpl()->pyobj_slot()->load_pyobj();
          return object != nullptr && PyObject_TypeCheck(object, reinterpret_cast<PyTypeObject*>(type.ptr()));
        });
      },
      "Drop the records of the tensors of a type.");
  module.def("is_running", [] { return running_since != UINT64_MAX; }, "Return whether the thread runs an operator.");
  module.def("module_paths_changed", [](const py::args&) { ++module_paths_changed; }, "Forget what threads know of the paths of modules.");
  module.def("begin_backward", [] { SavedStorages::global().begin_backward(); }, "Note that a backward begins.");
  module.def("clear_saved", [] { SavedStorages::global().clear(); }, "Release the addresses of saved storages.");
  module.def("reachable_ranges", &reachable_ranges, "Return the sequence numbers of the nodes behind tensors, as ranges.");
  pthread_atfork(&lock_all, &unlock_all, &unlock_all);
  module.attr("KEYS") = py::cast(c10::DispatchKeySet(KEY));
  module.attr("CONSTANTS") = mirrored_constants();
}

}  // namespace gradprobe
