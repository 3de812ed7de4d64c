// What watcher.py does for an operator, for the many that leave nothing to be settled: they construct no node, write to
// no tensor, and no detector looks at them. All others go on to Python, which does the same for every operator.
//
// It stands where PyTorch calls the Python of a dispatch mode. The mode stays on the stack, and decides what is seen.

#include "frames.h"
#include "interpreter.h"

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

#include <optional>
#include <unordered_map>
#include <vector>

namespace gradprobe {
namespace {

namespace py = pybind11;

// As watcher.py, codes.py and modules.py name and number them.
enum Kind { SKIPPED, USERS, MODULE, OPTIMIZER, KIND = 3, BY_ANOTHER = 4 };
enum Phase { FORWARD, BACKWARD, IN_OPTIMIZER };
enum Way { SLOW, PLAIN, OF_A_KERNEL, COMPOSITE };
enum Interest { NO_OPERATOR, THAT_TAKE_RESULTS, THAT_TAKE_GRADS, ALL_OPERATORS };
constexpr int NEAR = 6, MODULE_DEPTH = 30, WRITES = 6;
constexpr size_t MOST_EVENTS = 16384, MOST_GATHERED = 256, MOST_STRETCHES = 1024;

struct Plan {
  std::string name, overload;
  Way way = SLOW;
  bool is_view = false, is_detach = false, is_sum = false;
  py::object plan, text;
  std::optional<bool> tracks;
};

// How many tensors of each kind a call returned.
struct Results {
  uint16_t tracked = 0, untracked = 0, inference_views = 0, normal = 0, inference = 0;

  bool operator==(const Results& other) const {
    return tracked == other.tracked && untracked == other.untracked && inference_views == other.inference_views &&
        normal == other.normal && inference == other.inference;
  }
};

struct HashOfResults {
  size_t operator()(const Results& results) const {
    return c10::get_hash(results.tracked, results.untracked, results.inference_views, results.normal,
                         results.inference);
  }
};

// Where the program called an operator. The code is borrowed: codes.py holds on to it.
struct Line {
  Line() = default;
  Line(Line&&) = default;
  Line& operator=(Line&&) = default;
  ~Line() {
    if (module) {  // an operator that fails leaves without the interpreter's lock
      py::gil_scoped_acquire lock;
      module = py::object();
    }
  }

  PyCodeObject* code = nullptr;
  int offset = 0;
  py::object module;
  Phase phase = FORWARD;
  bool by_another = false;
};

// What is known of a call before it is noted.
struct Call {
  uint64_t before = 0;
  at::Tensor source;  // of a view
  std::optional<Line> line;
};

// Operators that were emitted as one event.
struct Gathered {
  std::vector<py::object> events;
  py::object event;
};

bool are_same(const py::object& one, const py::object& other) { return one.is(other); }

struct Place {
  PyCodeObject* code;
  int offset;
  const void* plan;
  PyObject* module;
  int phase;
  PyObject* account;

  bool operator==(const Place& other) const {
    return code == other.code && offset == other.offset && plan == other.plan && module == other.module &&
        phase == other.phase && account == other.account;
  }
};

struct HashOfPlace {
  size_t operator()(const Place& place) const {
    return c10::get_hash(reinterpret_cast<size_t>(place.code), place.offset, reinterpret_cast<size_t>(place.plan),
                         reinterpret_cast<size_t>(place.module), place.phase,
                         reinterpret_cast<size_t>(place.account));
  }
};

bool is_pythons(const at::Tensor& tensor) {
  return tensor.defined() && tensor.unsafeGetTensorImpl()->key_set().has(DispatchKey::Python);
}

// An inference tensor that counts versions, or a normal one that does not.
bool is_odd(const at::Tensor& tensor) {
  auto* impl = tensor.unsafeGetTensorImpl();
  return impl->is_inference() == impl->version_counter().enabled();
}

class Core;
thread_local Core* current = nullptr;

class Core {
 public:
  Core(py::object mode, py::dict tools)
      : mode_(std::move(mode)),
        plan_of_(tools["plan_of"]),
        learn_(tools["learn"]),
        paths_(tools["paths"]),
        path_(tools["path"]),
        call_(tools["call"]),
        running_loop_(tools["running_loop"]),
        label_(tools["label"]),
        now_(tools["now"]),
        entries_(tools["entries"]),
        made_view_(tools["made_view"]),
        outlive_(tools["outlive"]),
        event_(tools["event"]),
        emit_(tools["emit"]),
        account_(tools["account"]),
        settle_(tools["settle"]),
        gather_(tools["gathered"]),
        defer_(tools["defer"]),
        fault_(tools["fault"]),
        owner_(tools["owner"]),
        last_(tools["last"]),
        pending_(tools["pending"]),
        waiting_(tools["waiting"]),
        armed_(tools["armed"]),
        none_(py::none()),
        empty_(py::str("")) {}

  // Whether this operator was done here; if not, nothing has been done.
  bool dispatch(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
    if (!is_on_ || !is_on_top() || PyDict_GET_SIZE(waiting_.ptr()) != 0) return false;
    Call call;
    call.before = at::sequence_number::peek();
    Plan* plan = find(op);
    if (plan == nullptr || plan->way == SLOW || !takes(*plan, op, *stack, call.before)) return false;
    if (plan->is_view) {
      const auto& first = (*stack)[stack->size() - op.schema().arguments().size()];
      if (!first.isTensor() || !first.toTensor().defined()) return false;
      call.source = first.toTensor();
      if (plan->way != COMPOSITE && !call.source.is_inference() && !tracking_is_known(*plan)) return false;
    }
    if (PyList_GET_SIZE(pending_.ptr()) != 0 && !settled(*plan, call.before)) return false;
    run(*plan, op, stack, call);
    if (is_on_) note(*plan, op, *stack, call);
    return true;
  }

  void attach() {
    current = this;
    is_on_ = true;
  }

  void close() { is_on_ = false; }

  // Emits what has gathered, as one event: a program runs the same operators over and over, so it is mostly one that is
  // known, to the writing thread too.
  void flush() {
    if (batch_.empty()) return;
    // What is emitted may come back to here.
    std::vector<py::object> events;
    events.swap(batch_);
    size_t hash = events.size();
    for (const auto& event : events) hash = c10::hash_combine(hash, reinterpret_cast<size_t>(event.ptr()));
    auto& known = gathered_[hash];
    if (!known.event || !std::equal(known.events.begin(), known.events.end(), events.begin(), events.end(), are_same)) {
      if (gathered_.size() > MOST_STRETCHES) gathered_.clear();
      py::tuple all(events.size());
      for (size_t i = 0; i < events.size(); ++i) all[i] = events[i];
      gathered_[hash] = {events, gather_(all)};
    }
    call_one(emit_, gathered_[hash].event.ptr());
  }

 private:
  bool is_on_top() const {
    using c10::impl::TorchDispatchModeTLS;
    const auto count = TorchDispatchModeTLS::stack_len();
    return count > 0 && TorchDispatchModeTLS::get_stack_at(count - 1)->ptr(getPyInterpreter()) == mode_.ptr();
  }

  uint64_t last() const { return PyLong_AsUnsignedLongLong(PyList_GET_ITEM(last_.ptr(), 0)); }

  Plan* find(const c10::OperatorHandle& op) {
    const auto& name = op.operator_name();
    const auto found = plans_.find(&op.schema());
    if (found != plans_.end() && found->second.name == name.name && found->second.overload == name.overload_name) {
      return &found->second;
    }
    // Operators of libraries come and go, and another may lie at the same address.
    if (name.name.compare(0, 6, "aten::") != 0) return nullptr;
    py::gil_scoped_acquire lock;
    Plan plan{name.name, name.overload_name};
    try {
      const py::tuple known = plan_of_(name.name.substr(6), name.overload_name);
      plan.way = static_cast<Way>(known[0].cast<int>());
      plan.plan = known[1];
      plan.text = plan.plan.attr("name");
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
  // calling the operator before it is done with that, as waiting.py says.
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
  bool takes(const Plan& plan, const c10::OperatorHandle& op, const torch::jit::Stack& stack, uint64_t before) const {
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
    const torch::torch_dispatch_mode::StashTorchDispatchModeGuard without_us;
    if (plan.way == COMPOSITE || (plan.way == OF_A_KERNEL && c10::InferenceMode::is_enabled())) {
      {
        py::gil_scoped_acquire lock;
        call.line = locate();
      }
      if (!call.line->by_another) {
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
    } catch (const c10::Error& error) {
      fault_(py::reinterpret_borrow<py::object>(PyExc_RuntimeError)(error.what_without_backtrace()));
    }
  }

  // An interrupt that came while Python ran for us is the program's.
  void report(py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) {
      error.restore();
      python_error interrupt;
      interrupt.persist();
      throw interrupt;
    }
    fault_(error.value());
  }

  void account(Plan& plan, const c10::OperatorHandle& op, const torch::jit::Stack& stack, Call& call) {
    if (!call.line) call.line = locate();
    auto& line = *call.line;
    if (torch::autograd::get_current_graph_task_id() != -1) line.phase = BACKWARD;
    const auto after = at::sequence_number::peek();
    const bool is_pending = call.before != last() || after != call.before;
    const Birth birth{call_none(now_), line.code == nullptr ? none_ : borrowed(as_object(line.code)),
                      stolen(PyLong_FromLong(line.offset)), plan.text, line.module};
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
    const py::object account = account_of(results);
    const bool is_in_a_task = !call_none(running_loop_).is_none();
    const py::object task = is_in_a_task ? call_none(label_) : none_;
    if (is_pending) {
      const auto place = py::make_tuple(reinterpret_cast<uintptr_t>(line.code), birth.offset, plan.text, line.module,
                                        static_cast<int>(line.phase), task);
      defer_(place, plan.plan, call.before, after, py::tuple(py::cast(refs)), account);
      return;
    }
    batch_.push_back(is_in_a_task ? event(line, plan, account, task) : known_event(line, plan, account));
    if (batch_.size() >= MOST_GATHERED) flush();
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
    } else if (plan.way == COMPOSITE ? tensor.is_view() : *plan.tracks) {
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

  py::object known_event(const Line& line, const Plan& plan, const py::object& account) {
    const Place place{line.code, line.offset, plan.plan.ptr(), line.module.ptr(), line.phase, account.ptr()};
    const auto known = events_.find(place);
    if (known != events_.end()) return known->second;
    if (events_.size() >= MOST_EVENTS) events_.clear();
    return events_[place] = event(line, plan, account, none_);
  }

  py::object event(const Line& line, const Plan& plan, const py::object& account, const py::object& task) {
    const auto code = reinterpret_cast<uintptr_t>(line.code);
    return event_(code, line.offset, plan.text, line.module, static_cast<int>(line.phase), task, account);
  }

  py::object account_of(const Results& results) {
    auto& known = accounts_[results];
    if (!known) {
      known = account_(results.tracked, results.untracked, results.inference_views, results.normal, results.inference);
    }
    return known;
  }

  // When the storage was made that a view of this tensor shows.
  py::object made_at(const at::Tensor& source) {
    PyObject* object = source.unsafeGetTensorImpl()->pyobj_slot()->load_pyobj();
    if (object != nullptr) {
      PyObject* entry = PyDict_GetItemWithError(entries_.ptr(), identity(object).ptr());
      if (entry != nullptr && PyWeakref_GET_OBJECT(PyTuple_GET_ITEM(entry, 0)) == object) {
        return borrowed(PyTuple_GET_ITEM(entry, 6));
      }
    }
    return stolen(PyLong_FromLong(-1));
  }

  // The line of the program that the thread is at, and the module whose forward is running.
  Line locate() {
    Line line;
    int outwards = 0;
    Frames frame;
    for (; frame; frame.next(), ++outwards) {
      const int kind = kind_of(frame.code()) & KIND;
      if (kind == USERS) {
        line.code = frame.code();
        line.offset = frame.offset();
        break;
      }
      if (kind == OPTIMIZER) {
        line.phase = IN_OPTIMIZER;
      } else if (kind == MODULE && !line.module) {
        line.module = path_of(frame, outwards);
      }
    }
    if (frame) {
      Frames above = frame;
      for (int i = 0; above && (i < NEAR || (!line.module && i <= MODULE_DEPTH)); above.next(), ++i) {
        if (i < NEAR && kind_of(above.code()) & BY_ANOTHER) line.by_another = true;
        if (i > 0 && !line.module && as_object(above.code()) == call_.ptr()) {
          line.module = path_of(above, outwards + i);
        }
      }
    }
    if (!line.module) line.module = empty_;
    return line;
  }

  int kind_of(PyCodeObject* code) {
    const auto known = kinds_.find(code);
    if (known != kinds_.end()) return known->second;
    const int kind = learn_(py::handle(as_object(code))).cast<int>();
    const bool is_another = PyUnicode_CompareWithASCIIString(code->co_name, "__torch_dispatch__") == 0;
    return kinds_[code] = kind | (is_another ? BY_ANOTHER : 0);
  }

  py::object path_of(const Frames& frame, int outwards) {
    PyObject* module = frame.first_local();
    if (module != nullptr) {
      PyObject* known = PyDict_GetItemWithError(paths_.ptr(), identity(module).ptr());
      if (known != nullptr && PyWeakref_GET_OBJECT(PyTuple_GET_ITEM(known, 0)) == module) {
        return borrowed(PyTuple_GET_ITEM(known, 1));
      }
    }
    return path_(stolen(as_object(frame_object(outwards))));
  }

  template <typename T>
  static PyObject* as_object(T* object) {
    return reinterpret_cast<PyObject*>(object);
  }

  static py::object borrowed(PyObject* object) { return py::reinterpret_borrow<py::object>(object); }

  static py::object stolen(PyObject* object) {
    if (object == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(object);
  }

  static py::object identity(PyObject* object) { return stolen(PyLong_FromVoidPtr(object)); }

  static py::object call_none(const py::object& function) {
    return stolen(PyObject_CallNoArgs(function.ptr()));
  }

  static void call_one(const py::object& function, PyObject* argument) {
    stolen(PyObject_CallOneArg(function.ptr(), argument));
  }

  bool is_on_ = false;
  py::object mode_, plan_of_, learn_, paths_, path_, call_, running_loop_, label_, now_, entries_, made_view_, outlive_;
  py::object event_, emit_, account_, settle_, gather_, defer_, fault_, owner_;
  py::object last_, pending_, waiting_, armed_, none_, empty_;
  std::unordered_map<const c10::FunctionSchema*, Plan> plans_;
  std::unordered_map<PyCodeObject*, int> kinds_;
  std::unordered_map<Place, py::object, HashOfPlace> events_;
  std::unordered_map<Results, py::object, HashOfResults> accounts_;
  std::vector<py::object> batch_;
  std::unordered_map<size_t, Gathered> gathered_;
};

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

// A thread that is left without a word keeps its core: something of it may still be running.
void attach(const py::object& core) {
  core.inc_ref();
  core.cast<Core&>().attach();
  install();
}

void detach(const py::object& core) {
  core.cast<Core&>().close();
  if (current == &core.cast<Core&>()) {
    current = nullptr;
    core.dec_ref();
  }
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  py::class_<Core>(module, "Core")
      .def(py::init<py::object, py::dict>())
      .def("flush", &Core::flush, "Emits the operators that have gathered.")
      .def("close", &Core::close, "Does no more operators; from any thread.");
  module.def("attach", &attach, "Has the operators of this thread done by a core.");
  module.def("detach", &detach, "Undoes it, in the same thread.");
  module.def("uninstall", &uninstall, "Gives PyTorch its own way to Python back.");
  module.def("is_installed", &is_installed, "Whether PyTorch's way to Python leads through here.");
}

}  // namespace gradprobe
