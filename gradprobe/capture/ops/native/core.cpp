// What watcher.py does for an operator, for the many that write to no tensor and that no detector looks at. All others go
// on to Python, which does the same for every operator. So does what a node turns out to be, once PyTorch is done with it.
//
// It stands where PyTorch calls the Python of a dispatch mode. The mode stays on the stack, and decides what is seen.

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

// As plans.py and interest.py number them.
enum Way { SLOW, PLAIN, OF_A_KERNEL, COMPOSITE };
enum Interest { NO_OPERATOR, THAT_TAKE_RESULTS, THAT_TAKE_GRADS, ALL_OPERATORS };
constexpr int WRITES = 6;  // the field of settling.py's Pending

struct Plan {
  Way way = SLOW;
  bool is_view = false, is_detach = false, is_sum = false;
  py::object plan, name;
  std::optional<bool> tracks;
};

// What is known of a call before it is noted.
struct Call {
  uint64_t before = 0;
  at::Tensor source;  // of a view
  std::optional<Line> line;
};

bool is_pythons(const at::Tensor& tensor) {
  return tensor.defined() && tensor.unsafeGetTensorImpl()->key_set().has(DispatchKey::Python);
}

// An inference tensor that counts versions, or a normal one that does not.
bool is_odd(const at::Tensor& tensor) {
  auto* impl = tensor.unsafeGetTensorImpl();
  return impl->is_inference() == impl->version_counter().enabled();
}

// How often an operator has gone: another may have come in its place, even with its name.
std::atomic<uint64_t> gone = 0;

class Registrations : public c10::OpRegistrationListener {
  void onOperatorRegistered(const c10::OperatorHandle&) override {}
  void onOperatorDeregistered(const c10::OperatorHandle&) override { ++gone; }
};

class Core {
 public:
  Core(py::object mode, const py::dict& tools)
      : lines_(tools),
        events_(tools),
        mode_(std::move(mode)),
        plan_of_(tools["plan_of"]),
        running_loop_(tools["running_loop"]),
        label_(tools["label"]),
        now_(tools["now"]),
        entries_(tools["entries"]),
        made_view_(tools["made_view"]),
        outlive_(tools["outlive"]),
        settle_(tools["resolve_pending"]),
        defer_(tools["defer"]),
        fault_(tools["fault"]),
        owner_(tools["owner"]),
        last_(tools["last"]),
        pending_(tools["pending"]),
        waiting_(tools["waiting"]),
        armed_(tools["interest_cell"]),
        none_(py::none()) {}

  // Whether this operator was done here; if not, nothing has been done.
  bool dispatch(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
    if (!is_on_ || !is_on_top() || PyDict_GET_SIZE(waiting_.ptr()) != 0) return false;
    // As PyTorch does before it calls a mode: nothing that Python does for us is watched.
    const torch::torch_dispatch_mode::StashTorchDispatchModeGuard without_us;
    Call call;
    call.before = at::sequence_number::peek();
    Plan* plan = find(op);
    if (plan == nullptr || plan->way == SLOW || !takes(*plan, op, *stack, call)) return false;
    if (PyList_GET_SIZE(pending_.ptr()) != 0 && !settled(*plan, call.before)) return false;
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

  uint64_t last() const { return PyLong_AsUnsignedLongLong(PyList_GET_ITEM(last_.ptr(), 0)); }

  Plan* find(const c10::OperatorHandle& op) {
    if (known_of_ != gone) {
      py::gil_scoped_acquire lock;
      known_of_ = gone;
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
      plan.way = static_cast<Way>(known[0].cast<int>());
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

  // Settles what is pending; not where functions of the program would hear how, and not where PyTorch may itself be
  // calling the operator before it is done with that, as must_defer in attribution.py says.
  bool settled(const Plan& plan, uint64_t before) {
    if (plan.is_detach || at::impl::torch_function_mode_enabled()) return false;
    py::gil_scoped_acquire lock;
    try {
      if (plan.is_view && anything_pending_writes()) return false;
      settle_(before);
    } catch (py::error_already_set& error) {
      report(error);
    }
    return PyList_GET_SIZE(pending_.ptr()) == 0 && PyDict_GET_SIZE(waiting_.ptr()) == 0;
  }

  bool anything_pending_writes() const {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pending_.ptr()); ++i) {
      if (PyObject_Size(PyTuple_GET_ITEM(PyList_GET_ITEM(pending_.ptr(), i), WRITES)) != 0) return true;
    }
    return false;
  }

  // Whether the arguments are such that the operator can be done here: of no kind that Python makes something of, and
  // none that a detector looks at.
  bool takes(Plan& plan, const c10::OperatorHandle& op, const torch::jit::Stack& stack, Call& call) {
    try {
      return are_ours(plan, op, stack, call.before) && (!plan.is_view || is_view_of(plan, op, stack, call.source));
    } catch (const c10::Error&) {  // a tensor that does not tell
      return false;
    }
  }

  bool is_view_of(Plan& plan, const c10::OperatorHandle& op, const torch::jit::Stack& stack, at::Tensor& source) {
    const size_t count = op.schema().arguments().size();
    if (count == 0) return false;
    const auto& first = stack[stack.size() - count];
    if (!first.isTensor() || !first.toTensor().defined()) return false;
    source = first.toTensor();
    return plan.way == COMPOSITE || source.is_inference() || tracking_is_known(plan);
  }

  bool are_ours(const Plan& plan, const c10::OperatorHandle& op, const torch::jit::Stack& stack, uint64_t before) const {
    const auto interest =
        PyList_GET_SIZE(armed_.ptr()) ? PyLong_AsLong(PyList_GET_ITEM(armed_.ptr(), 0)) : NO_OPERATOR;
    if (interest == ALL_OPERATORS) return false;
    const auto is_ours = [interest](const at::Tensor& tensor) {
      return !tensor.defined() ||
          !(is_pythons(tensor) ||
            (interest != NO_OPERATOR && tensor.requires_grad() &&
             (interest == THAT_TAKE_GRADS || !tensor.is_leaf())));
    };
    const size_t count = op.schema().arguments().size();
    const c10::IValue* arguments = stack.data() + (stack.size() - count);
    // Running totals are looked at: sums of one number that construct a node.
    bool may_be_total = plan.is_sum && before != last();
    for (size_t i = 0; i < count; ++i) {
      const auto& argument = arguments[i];
      if (argument.isTensor()) {
        const auto& tensor = argument.toTensor();
        if (!is_ours(tensor) || (tensor.defined() && is_odd(tensor))) return false;
        if (tensor.defined() && may_be_total && tensor.numel() != 1) may_be_total = false;
      } else if (argument.isTensorList()) {
        for (const at::Tensor& tensor : argument.toTensorList()) {
          if (!is_ours(tensor)) return false;
        }
      } else if (argument.isOptionalTensorList()) {
        for (const std::optional<at::Tensor>& tensor : argument.toOptionalTensorList()) {
          if (tensor && !is_ours(*tensor)) return false;
        }
      }
    }
    if (may_be_total) return false;
    const bool may_conjugate = plan.way == OF_A_KERNEL && !c10::InferenceMode::is_enabled();
    return !may_conjugate || count == 0 || !arguments[0].isTensor() || !arguments[0].toTensor().defined() ||
        !arguments[0].toTensor().is_complex();
  }

  void run(const Plan& plan, const c10::OperatorHandle& op, torch::jit::Stack* stack, Call& call) {
    if (plan.way == COMPOSITE || (plan.way == OF_A_KERNEL && c10::InferenceMode::is_enabled())) {
      {
        py::gil_scoped_acquire lock;
        try {
          call.line = lines_.locate();
        } catch (py::error_already_set& error) {
          report(error);
        }
      }
      if (call.line && !call.line->by_another) {
        const auto on_again = as_unwatched();
        const c10::impl::ForceDispatchKeyGuard guard(on_again);
        op.callBoxed(stack);
        return;
      }
    }
    op.callBoxed(stack);
  }

  // As kernels.py says of the operators that consist of others.
  static c10::impl::LocalDispatchKeySet as_unwatched() {
    static const auto keys = c10::autocast_dispatch_keyset |
        DispatchKeySet({DispatchKey::ADInplaceOrView, DispatchKey::ZeroTensor, DispatchKey::Negative,
                        DispatchKey::Conjugate});
    auto set = c10::impl::tls_local_dispatch_key_set();
    DispatchKeySet off_at_entry;
    try {
      const at::impl::RestorePythonTLSSnapshot at_entry;
      off_at_entry = c10::impl::tls_local_dispatch_key_set().excluded_;
    } catch (const std::exception&) {  // nobody has entered PyTorch
      set.excluded_ = set.excluded_.remove(DispatchKey::ADInplaceOrView);
      return set;
    }
    set.excluded_ = set.excluded_ - (keys - off_at_entry);
    return set;
  }

  void note(Plan& plan, const c10::OperatorHandle& op, const torch::jit::Stack& stack, Call& call) {
    py::gil_scoped_acquire lock;
    try {
      account(plan, op, stack, call);
    } catch (py::error_already_set& error) {
      report(error);
    } catch (const python_error&) {
      throw;  // an interrupt, as below
    } catch (const std::exception& error) {
      fault_(borrowed(PyExc_RuntimeError)(error.what()));
    }
  }

  // Notes what went wrong, unless it is the program's: an interrupt that came while Python ran for us.
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

  void account(Plan& plan, const c10::OperatorHandle& op, const torch::jit::Stack& stack, Call& call) {
    if (!call.line) call.line = lines_.locate();
    auto& line = *call.line;
    if (torch::autograd::get_current_graph_task_id() != -1) line.phase = BACKWARD;
    const auto after = at::sequence_number::peek();
    const bool is_pending = call.before != last() || after != call.before;
    const Birth birth{call_none(now_), line.code == nullptr ? none_ : borrowed(as_object(line.code)),
                      stolen(PyLong_FromLong(line.offset)), plan.name, line.module};
    const py::object under = plan.is_view ? made_at(call.source) : py::object();
    Results results;
    std::vector<py::object> refs;
    const auto see = [&](const at::Tensor& tensor) {
      if (!tensor.defined()) return;
      const bool is_new = count(plan, call.source, tensor, results);
      const bool is_source = plan.is_view && tensor.is_same(call.source);
      auto weak = is_source ? stolen(PyWeakref_NewRef(stolen(THPVariable_Wrap(tensor)).ptr(), nullptr))
                            : born(tensor, birth, is_new ? birth.time : under, plan.is_view);
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
    const py::object account = events_.account_of(results);
    const bool is_in_a_task = !call_none(running_loop_).is_none();
    const py::object task = is_in_a_task ? call_none(label_) : none_;
    if (is_pending) {
      const auto place = py::make_tuple(reinterpret_cast<uintptr_t>(line.code), birth.offset, plan.name, line.module,
                                        static_cast<int>(line.phase), task);
      defer_(place, plan.plan, call.before, after, py::tuple(py::cast(refs)), account);
      return;
    }
    events_.add(line, plan.plan, plan.name, account, task);
  }

  // Counts what an operator returned, as watcher.py's kind_of_view does for a view; whether its storage is new.
  static bool count(const Plan& plan, const at::Tensor& source, const at::Tensor& tensor, Results& results) {
    const bool is_inference = tensor.is_inference();
    if (plan.is_view && tensor.is_same(source)) return false;
    const bool is_new = !plan.is_view || (plan.way == COMPOSITE && !(tensor.is_view() && !is_inference) &&
                                          !share(source, tensor));
    if (is_new) {
      ++(is_inference ? results.inference : results.normal);
    } else if (is_inference) {
      ++results.inference_views;
    } else if (plan.way == COMPOSITE || !plan.tracks ? tensor.is_view() : *plan.tracks) {
      ++results.tracked;
    } else {
      ++results.untracked;
    }
    return is_new;
  }

  static bool share(const at::Tensor& one, const at::Tensor& other) {
    return one.has_storage() && other.has_storage() && one.storage().is_alias_of(other.storage());
  }

  struct Birth {
    py::object time, code, offset, op, module;
  };

  // Enters a tensor into the register of births; a weak reference to it.
  py::object born(const at::Tensor& tensor, const Birth& birth, const py::object& storage_made, bool is_view) {
    const auto object = stolen(THPVariable_Wrap(tensor));
    const auto weak = stolen(PyWeakref_NewRef(object.ptr(), nullptr));
    const auto entry =
        stolen(PyTuple_Pack(8, weak.ptr(), birth.time.ptr(), birth.code.ptr(), birth.offset.ptr(), birth.op.ptr(),
                            birth.module.ptr(), storage_made.ptr(), owner_.ptr()));
    if (PyDict_SetItem(entries_.ptr(), identity(object.ptr()).ptr(), entry.ptr()) < 0) throw py::error_already_set();
    if (is_view) call_one(made_view_, entry.ptr());
    if (tensor.is_inference()) call_one(outlive_, entry.ptr());
    return weak;
  }

  // When the storage was made that a view of this tensor shows.
  py::object made_at(const at::Tensor& source) {
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
  Lines lines_;
  Events events_;
  py::object mode_, plan_of_, running_loop_, label_, now_, entries_, made_view_, outlive_, settle_, defer_, fault_;
  py::object owner_, last_, pending_, waiting_, armed_, none_;
  std::unordered_map<const c10::FunctionSchema*, Plan> plans_;
  uint64_t known_of_ = gone;
};

// The core of this thread; the object is held on to for as long as something of it may be running.
thread_local Core* current = nullptr;
thread_local PyObject* current_object = nullptr;

class Watching : public Interpreter {
 public:
  using Interpreter::Interpreter;

  const c10::impl::PyInterpreterVTable* own() const { return own_; }

  void dispatch(const c10::OperatorHandle& op, torch::jit::Stack* stack) const override {
    if (current == nullptr || !current->dispatch(op, stack)) own_->dispatch(op, stack);
  }
};

// Never freed: another thread may be inside of it when it is taken out.
Watching* ours = nullptr;

void install() {
  auto& table = getPyInterpreter()->vtable_;
  if (table == ours) return;
  if (ours == nullptr || ours->own() != table) ours = new Watching(table);
  __atomic_store_n(&table, ours, __ATOMIC_RELEASE);
}

// Another may stand in for ours meanwhile, and goes on to it: then it stays, with nothing to do.
void uninstall() {
  auto& table = getPyInterpreter()->vtable_;
  if (table == ours) __atomic_store_n(&table, ours->own(), __ATOMIC_RELEASE);
}

bool is_installed() { return ours != nullptr && getPyInterpreter()->vtable_ == ours; }

void be_current(Core* core, PyObject* object) {
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
  be_current(&core.cast<Core&>(), core.ptr());
  current->open();
  install();
}

void detach(const py::object& core) {
  core.cast<Core&>().close();
  if (current_object == core.ptr()) be_current(nullptr, nullptr);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  py::class_<Core>(module, "Core")
      .def(py::init<py::object, py::dict>())
      .def("flush", &Core::flush, "Emits the operators that have gathered, in their own thread.")
      .def("flush_each", &Core::flush_each, "The same from any thread.")
      .def("close", &Core::close, "Does no more operators; from any thread.");
  module.def("attach", &attach, "Has the operators of this thread done by a core.");
  module.def("detach", &detach, "Undoes it, in the same thread.");
  module.def("uninstall", &uninstall, "Gives PyTorch its own way to Python back.");
  module.def("is_installed", &is_installed, "Whether PyTorch's way to Python leads through here.");
}

}  // namespace gradprobe
