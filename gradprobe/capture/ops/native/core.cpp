// The native core: dispatcher.py in C++, for the many operators that write to no tensor and that no detector looks at.
// All others go on to Python, which handles any operator and attributes nodes once PyTorch has finished with them.
//
// The core replaces PyTorch's call into the Python of a dispatch mode. The mode stays on the stack, which decides what is
// observed.

#include "events.h"
#include "interpreter.h"
#include "callers.h"
#include "objects.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/SequenceNumber.h>
#include <ATen/core/PythonFallbackKernel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/torch_dispatch_mode.h>

#include <atomic>
#include <optional>
#include <unordered_map>
#include <vector>

namespace gradprobe {
namespace {

// Mirrors of op_schema.py, interest.py and PendingOp in attribution.py. The module exports them, and Python compares them
// with its own when it loads the core.
enum NativePath { PYTHON_ONLY, PLAIN, KERNEL, COMPOSITE };
enum OpInterest { NO_OPS, OPS_ON_GRAPH_RESULTS, OPS_ON_GRAD_TENSORS, ALL_OPS };
constexpr int PENDING_OP_WRITES = 6;  // index of the field

struct Plan {
  NativePath path = PYTHON_ONLY;
  bool is_view = false, is_detach = false, is_sum = false;
  py::object plan, name;
  std::optional<bool> tracks;
};

// The facts of a call, collected before it is recorded.
struct Call {
  uint64_t before = 0;
  at::Tensor source;  // the tensor that a view was taken from
  std::optional<Caller> caller;
};

bool is_subclass(const at::Tensor& tensor) {
  return tensor.defined() && tensor.unsafeGetTensorImpl()->key_set().has(DispatchKey::Python);
}

// Returns whether this is an inference tensor with a version counter, or a normal tensor without one.
bool is_mixed_kind(const at::Tensor& tensor) {
  auto* impl = tensor.unsafeGetTensorImpl();
  return impl->is_inference() == impl->version_counter().enabled();
}

// The number of operators deregistered so far: another one may have taken the place of each, even with its name.
std::atomic<uint64_t> deregistered = 0;

class Registrations : public c10::OpRegistrationListener {
  void onOperatorRegistered(const c10::OperatorHandle&) override {}
  void onOperatorDeregistered(const c10::OperatorHandle&) override { ++deregistered; }
};

class Core {
 public:
  Core(py::object mode, const py::dict& context)
      : callers_(context),
        events_(context),
        mode_(std::move(mode)),
        plan_of_(context["plan_of"]),
        running_loop_(context["running_loop"]),
        task_label_(context["task_label"]),
        now_(context["now"]),
        entries_(context["entries"]),
        on_view_created_(context["on_view_created"]),
        on_inference_tensor_created_(context["on_inference_tensor_created"]),
        resolve_pending_(context["resolve_pending"]),
        defer_(context["defer"]),
        fault_(context["fault"]),
        owner_(context["owner"]),
        last_node_(context["last_node"]),
        pending_(context["pending"]),
        unclaimed_(context["unclaimed"]),
        interest_cell_(context["interest_cell"]),
        none_(py::none()) {}

  // Returns whether the operator was handled here; if not, nothing has been done.
  bool dispatch(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
    if (!is_on_ || !is_on_top() || PyDict_GET_SIZE(unclaimed_.ptr()) != 0) return false;
    // As PyTorch does before it calls a mode: so no operator of gradprobe's own Python is observed.
    const torch::torch_dispatch_mode::StashTorchDispatchModeGuard without_observer;
    Call call;
    call.before = at::sequence_number::peek();
    Plan* plan = find(op);
    if (plan == nullptr || plan->path == PYTHON_ONLY || !takes(*plan, op, *stack, call)) return false;
    if (PyList_GET_SIZE(pending_.ptr()) != 0 && !resolve(*plan, call.before)) return false;
    run(*plan, op, stack, call);
    if (is_on_) note(*plan, op, *stack, call);
    return true;
  }

  void open() { is_on_ = true; }
  void close() { is_on_ = false; }

  void flush() { events_.flush(); }
  void flush_each() { events_.flush_each(); }

 private:
  bool is_on_top() const {
    using c10::impl::TorchDispatchModeTLS;
    const auto count = TorchDispatchModeTLS::stack_len();
    return count > 0 && TorchDispatchModeTLS::get_stack_at(count - 1)->ptr(getPyInterpreter()) == mode_.ptr();
  }

  uint64_t last() const { return PyLong_AsUnsignedLongLong(PyList_GET_ITEM(last_node_.ptr(), 0)); }

  Plan* find(const c10::OperatorHandle& op) {
    if (plans_valid_at_ != deregistered) {
      py::gil_scoped_acquire lock;
      plans_valid_at_ = deregistered;
      plans_.clear();
    }
    const auto& name = op.operator_name();
    const auto found = plans_.find(&op.schema());
    if (found != plans_.end()) return &found->second;
    if (name.name.compare(0, 6, "aten::") != 0) return nullptr;
    py::gil_scoped_acquire lock;
    Plan plan;
    try {
      const py::tuple known = plan_of_(name.name.substr(6), name.overload_name);
      plan.path = static_cast<NativePath>(known[0].cast<int>());
      plan.plan = known[1];
      plan.name = plan.plan.attr("name");
      plan.is_view = plan.plan.attr("is_view").cast<bool>();
      plan.is_detach = plan.plan.attr("is_detach").cast<bool>();
      plan.is_sum = plan.plan.attr("is_sum").cast<bool>();
    } catch (py::error_already_set& error) {
      report(error);
    }
    return &(plans_[&op.schema()] = std::move(plan));
  }

  bool tracking_is_known(Plan& plan) {
    if (plan.tracks) return true;
    py::gil_scoped_acquire lock;
    const py::object tracks = plan.plan.attr("tracks");
    if (tracks.is_none()) return false;
    plan.tracks = tracks.cast<bool>();
    return true;
  }

  // Resolves the pending operators and returns whether none is left. Leaves them if the program's function modes would see
  // how, or if PyTorch itself may be calling the operator in the middle of one: see must_defer in attribution.py.
  bool resolve(const Plan& plan, uint64_t before) {
    if (plan.is_detach || at::impl::torch_function_mode_enabled()) return false;
    py::gil_scoped_acquire lock;
    try {
      if (plan.is_view && anything_pending_writes()) return false;
      resolve_pending_(before);
    } catch (py::error_already_set& error) {
      report(error);
    }
    return PyList_GET_SIZE(pending_.ptr()) == 0 && PyDict_GET_SIZE(unclaimed_.ptr()) == 0;
  }

  bool anything_pending_writes() const {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pending_.ptr()); ++i) {
      if (PyObject_Size(PyTuple_GET_ITEM(PyList_GET_ITEM(pending_.ptr(), i), PENDING_OP_WRITES)) != 0) return true;
    }
    return false;
  }

  // Returns whether the operator can be handled here given its arguments: no tensor subclass, and nothing that a detector
  // looks at.
  bool takes(Plan& plan, const c10::OperatorHandle& op, const torch::jit::Stack& stack, Call& call) {
    try {
      return are_supported(plan, op, stack, call.before) &&
          (!plan.is_view || has_known_source(plan, op, stack, call.source));
    } catch (const c10::Error&) {  // a tensor that refuses the question
      return false;
    }
  }

  bool has_known_source(Plan& plan, const c10::OperatorHandle& op, const torch::jit::Stack& stack, at::Tensor& source) {
    const size_t count = op.schema().arguments().size();
    if (count == 0) return false;
    const auto& first = stack[stack.size() - count];
    if (!first.isTensor() || !first.toTensor().defined()) return false;
    source = first.toTensor();
    return plan.path == COMPOSITE || source.is_inference() || tracking_is_known(plan);
  }

  bool are_supported(const Plan& plan, const c10::OperatorHandle& op, const torch::jit::Stack& stack,
                     uint64_t before) const {
    const auto interest =
        PyList_GET_SIZE(interest_cell_.ptr()) ? PyLong_AsLong(PyList_GET_ITEM(interest_cell_.ptr(), 0)) : NO_OPS;
    if (interest == ALL_OPS) return false;
    const auto is_supported = [interest](const at::Tensor& tensor) {
      return !tensor.defined() ||
          !(is_subclass(tensor) ||
            (interest != NO_OPS && tensor.requires_grad() &&
             (interest == OPS_ON_GRAD_TENSORS || !tensor.is_leaf())));
    };
    const size_t count = op.schema().arguments().size();
    const c10::IValue* arguments = stack.data() + (stack.size() - count);
    // RunningTotalDetector looks at sums of one element that construct a node.
    bool may_be_total = plan.is_sum && before != last();
    for (size_t i = 0; i < count; ++i) {
      const auto& argument = arguments[i];
      if (argument.isTensor()) {
        const auto& tensor = argument.toTensor();
        if (!is_supported(tensor) || (tensor.defined() && is_mixed_kind(tensor))) return false;
        if (tensor.defined() && may_be_total && tensor.numel() != 1) may_be_total = false;
      } else if (argument.isTensorList()) {
        for (const at::Tensor& tensor : argument.toTensorList()) {
          if (!is_supported(tensor)) return false;
        }
      } else if (argument.isOptionalTensorList()) {
        for (const std::optional<at::Tensor>& tensor : argument.toOptionalTensorList()) {
          if (tensor && !is_supported(*tensor)) return false;
        }
      }
    }
    if (may_be_total) return false;
    const bool may_conjugate = plan.path == KERNEL && !c10::InferenceMode::is_enabled();
    return !may_conjugate || count == 0 || !arguments[0].isTensor() || !arguments[0].toTensor().defined() ||
        !arguments[0].toTensor().is_complex();
  }

  void run(const Plan& plan, const c10::OperatorHandle& op, torch::jit::Stack* stack, Call& call) {
    if (plan.path == COMPOSITE || (plan.path == KERNEL && c10::InferenceMode::is_enabled())) {
      {
        py::gil_scoped_acquire lock;
        try {
          call.caller = callers_.locate();
        } catch (py::error_already_set& error) {
          report(error);
        }
      }
      if (call.caller && !call.caller->by_dispatch) {
        const auto keys = restore_caller_keys();
        const c10::impl::ForceDispatchKeyGuard guard(keys);
        op.callBoxed(stack);
        return;
      }
    }
    op.callBoxed(stack);
  }

  // As in dispatch_keys.py, for composite operators.
  static c10::impl::LocalDispatchKeySet restore_caller_keys() {
    static const auto keys = c10::autocast_dispatch_keyset |
        DispatchKeySet({DispatchKey::ADInplaceOrView, DispatchKey::ZeroTensor, DispatchKey::Negative,
                        DispatchKey::Conjugate});
    auto set = c10::impl::tls_local_dispatch_key_set();
    DispatchKeySet off_at_entry;
    try {
      const at::impl::RestorePythonTLSSnapshot at_entry;
      off_at_entry = c10::impl::tls_local_dispatch_key_set().excluded_;
    } catch (const std::exception&) {  // no call of the program has entered PyTorch
      set.excluded_ = set.excluded_.remove(DispatchKey::ADInplaceOrView);
      return set;
    }
    set.excluded_ = set.excluded_ - (keys - off_at_entry);
    return set;
  }

  void note(Plan& plan, const c10::OperatorHandle& op, const torch::jit::Stack& stack, Call& call) {
    py::gil_scoped_acquire lock;
    try {
      record(plan, op, stack, call);
    } catch (py::error_already_set& error) {
      report(error);
    } catch (const python_error&) {
      throw;  // an interrupt, see report()
    } catch (const std::exception& error) {
      fault_(borrowed(PyExc_RuntimeError)(error.what()));
    }
  }

  // Reports a fault, unless the error is the program's: an interrupt that came while gradprobe's Python was running.
  void report(py::error_already_set& error) {
    if (error.matches(PyExc_Exception)) {
      try {
        fault_(error.value());
        return;
      } catch (py::error_already_set& interrupt) {
        interrupt.restore();
      }
    } else {
      error.restore();
    }
    python_error interrupt;
    interrupt.persist();
    throw interrupt;
  }

  void record(Plan& plan, const c10::OperatorHandle& op, const torch::jit::Stack& stack, Call& call) {
    if (!call.caller) call.caller = callers_.locate();
    auto& caller = *call.caller;
    if (torch::autograd::get_current_graph_task_id() != -1) caller.phase = BACKWARD;
    const auto after = at::sequence_number::peek();
    const bool is_pending = call.before != last() || after != call.before;
    const Creation creation{call_none(now_), caller.code == nullptr ? none_ : borrowed(as_object(caller.code)),
                            stolen(PyLong_FromLong(caller.offset)), plan.name, caller.module};
    const py::object under = plan.is_view ? storage_created_at(call.source) : py::object();
    OutputCounts outputs;
    std::vector<py::object> refs;
    const auto see = [&](const at::Tensor& tensor) {
      if (!tensor.defined()) return;
      const bool is_new = count(plan, call.source, tensor, outputs);
      const bool is_source = plan.is_view && tensor.is_same(call.source);
      auto weak = is_source ? stolen(PyWeakref_NewRef(stolen(THPVariable_Wrap(tensor)).ptr(), nullptr))
                            : add_creation(tensor, creation, is_new ? creation.time : under, plan.is_view);
      if (is_pending) refs.push_back(std::move(weak));
    };
    const size_t number = op.schema().returns().size();
    for (size_t i = stack.size() - number; i < stack.size(); ++i) {
      if (stack[i].isTensor()) {
        see(stack[i].toTensor());
      } else if (number == 1 && stack[i].isTensorList()) {
        for (const at::Tensor& tensor : stack[i].toTensorList()) see(tensor);
      }
    }
    const py::object counts = events_.counts_of(outputs);
    const bool is_in_a_task = !call_none(running_loop_).is_none();
    const py::object task = is_in_a_task ? call_none(task_label_) : none_;
    if (is_pending) {
      const auto place = py::make_tuple(reinterpret_cast<uintptr_t>(caller.code), creation.offset, plan.name,
                                        caller.module, static_cast<int>(caller.phase), task);
      defer_(place, plan.plan, call.before, after, py::tuple(py::cast(refs)), counts);
      return;
    }
    events_.add(caller, plan.plan, plan.name, counts, task);
  }

  // Counts an output, as classify_view in dispatcher.py does for a view. Returns whether its storage is new.
  static bool count(const Plan& plan, const at::Tensor& source, const at::Tensor& tensor, OutputCounts& outputs) {
    const bool is_inference = tensor.is_inference();
    if (plan.is_view && tensor.is_same(source)) return false;
    const bool is_new = !plan.is_view || (plan.path == COMPOSITE && !(tensor.is_view() && !is_inference) &&
                                          !share(source, tensor));
    if (is_new) {
      ++(is_inference ? outputs.inference : outputs.normal);
    } else if (is_inference) {
      ++outputs.inference_views;
    } else if (plan.path == COMPOSITE || !plan.tracks ? tensor.is_view() : *plan.tracks) {
      ++outputs.tracked;
    } else {
      ++outputs.untracked;
    }
    return is_new;
  }

  static bool share(const at::Tensor& one, const at::Tensor& other) {
    return one.has_storage() && other.has_storage() && one.storage().is_alias_of(other.storage());
  }

  struct Creation {
    py::object time, code, offset, op, module;
  };

  // Adds a tensor to the registry of creations. Returns a weak reference to it.
  py::object add_creation(const at::Tensor& tensor, const Creation& creation, const py::object& storage_created,
                          bool is_view) {
    const auto object = stolen(THPVariable_Wrap(tensor));
    const auto weak = stolen(PyWeakref_NewRef(object.ptr(), nullptr));
    const auto entry =
        stolen(PyTuple_Pack(8, weak.ptr(), creation.time.ptr(), creation.code.ptr(), creation.offset.ptr(),
                            creation.op.ptr(), creation.module.ptr(), storage_created.ptr(), owner_.ptr()));
    if (PyDict_SetItem(entries_.ptr(), identity(object.ptr()).ptr(), entry.ptr()) < 0) throw py::error_already_set();
    if (is_view) call_one(on_view_created_, entry.ptr());
    if (tensor.is_inference()) call_one(on_inference_tensor_created_, entry.ptr());
    return weak;
  }

  // Returns the time at which the storage of this tensor was created, or -1 if that is not known.
  py::object storage_created_at(const at::Tensor& source) {
    PyObject* object = source.unsafeGetTensorImpl()->pyobj_slot()->load_pyobj();
    if (object != nullptr) {
      PyObject* entry = PyDict_GetItemWithError(entries_.ptr(), identity(object).ptr());
      if (entry != nullptr && leads_to(PyTuple_GET_ITEM(entry, 0), object)) {
        return borrowed(PyTuple_GET_ITEM(entry, 6));
      }
    }
    return stolen(PyLong_FromLong(-1));
  }

  std::atomic<bool> is_on_ = false;  // another thread may end the recording
  CallerFinder callers_;
  EventBuffer events_;
  py::object mode_, plan_of_, running_loop_, task_label_, now_, entries_, on_view_created_;
  py::object on_inference_tensor_created_, resolve_pending_, defer_, fault_;
  py::object owner_, last_node_, pending_, unclaimed_, interest_cell_, none_;
  std::unordered_map<const c10::FunctionSchema*, Plan> plans_;
  uint64_t plans_valid_at_ = deregistered;
};

// The core of this thread. The object is kept alive for as long as one of its functions may be running.
thread_local Core* current = nullptr;
thread_local PyObject* current_object = nullptr;

class DispatchInterceptor : public Interpreter {
 public:
  using Interpreter::Interpreter;

  const c10::impl::PyInterpreterVTable* own() const { return own_; }

  void dispatch(const c10::OperatorHandle& op, torch::jit::Stack* stack) const override {
    if (current == nullptr || !current->dispatch(op, stack)) own_->dispatch(op, stack);
  }
};

// Never freed: another thread may be running in it when it is uninstalled.
DispatchInterceptor* interceptor = nullptr;

void install() {
  auto& table = getPyInterpreter()->vtable_;
  if (table == interceptor) return;
  if (interceptor == nullptr || interceptor->own() != table) interceptor = new DispatchInterceptor(table);
  __atomic_store_n(&table, interceptor, __ATOMIC_RELEASE);
}

// Another tool may have replaced the table since, and forward to this one: then this one stays, with nothing to do.
void uninstall() {
  auto& table = getPyInterpreter()->vtable_;
  if (table == interceptor) __atomic_store_n(&table, interceptor->own(), __ATOMIC_RELEASE);
}

bool is_installed() { return interceptor != nullptr && getPyInterpreter()->vtable_ == interceptor; }

void set_current(Core* core, PyObject* object) {
  PyObject* before = current_object;
  current = core;
  current_object = object;
  Py_XDECREF(before);
}

void attach(const py::object& core) {
  static const auto* listening = new c10::RegistrationHandleRAII(
      c10::Dispatcher::singleton().addRegistrationListener(std::make_unique<Registrations>()));
  (void)listening;
  core.inc_ref();
  set_current(&core.cast<Core&>(), core.ptr());
  current->open();
  install();
}

void detach(const py::object& core) {
  core.cast<Core&>().close();
  if (current_object == core.ptr()) set_current(nullptr, nullptr);
}

py::dict mirrored_constants() {
  py::dict constants;
  constants["PYTHON_ONLY"] = static_cast<int>(PYTHON_ONLY);
  constants["PLAIN"] = static_cast<int>(PLAIN);
  constants["KERNEL"] = static_cast<int>(KERNEL);
  constants["COMPOSITE"] = static_cast<int>(COMPOSITE);
  constants["NO_OPS"] = static_cast<int>(NO_OPS);
  constants["OPS_ON_GRAPH_RESULTS"] = static_cast<int>(OPS_ON_GRAPH_RESULTS);
  constants["OPS_ON_GRAD_TENSORS"] = static_cast<int>(OPS_ON_GRAD_TENSORS);
  constants["ALL_OPS"] = static_cast<int>(ALL_OPS);
  constants["SKIPPED"] = static_cast<int>(SKIPPED);
  constants["USER"] = static_cast<int>(USER);
  constants["MODULE_CALL"] = static_cast<int>(MODULE_CALL);
  constants["OPTIMIZER"] = static_cast<int>(OPTIMIZER);
  constants["FORWARD"] = static_cast<int>(FORWARD);
  constants["BACKWARD"] = static_cast<int>(BACKWARD);
  constants["IN_OPTIMIZER"] = static_cast<int>(IN_OPTIMIZER);
  constants["MAX_CALLER_FRAMES"] = static_cast<int>(MAX_CALLER_FRAMES);
  constants["PENDING_OP_WRITES"] = static_cast<int>(PENDING_OP_WRITES);
  return constants;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  py::class_<Core>(module, "Core")
      .def(py::init<py::object, py::dict>())
      .def("flush", &Core::flush, "Emit the buffered operators; for the core's own thread.")
      .def("flush_each", &Core::flush_each, "Emit the buffered operators one by one; for any thread.")
      .def("close", &Core::close, "Handle no more operators; for any thread.");
  module.def("attach", &attach, "Make a core handle the operators of this thread.");
  module.def("detach", &detach, "Undo attach(), in the same thread.");
  module.def("uninstall", &uninstall, "Restore PyTorch's own table of calls into Python.");
  module.def("is_installed", &is_installed, "Return whether PyTorch's calls into Python go through here.");
  module.attr("CONSTANTS") = mirrored_constants();
}

}  // namespace gradprobe
