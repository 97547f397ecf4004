#include "modules.hpp"

#include <algorithm>
#include <iterator>
#include <unordered_set>

namespace py = pybind11;

namespace ghnfast {
namespace {

// Kept as long as the interpreter lives.
PyObject* interned(const char* text) { return PyUnicode_InternFromString(text); }

PyObject* ordered_dict_type() {
  static PyObject* type = py::object(py::module_::import("collections").attr("OrderedDict")).release().ptr();
  return type;
}

bool is_plain_dict(PyObject* object) {
  return PyDict_CheckExact(object) || reinterpret_cast<PyObject*>(Py_TYPE(object)) == ordered_dict_type();
}

bool is_container(PyObject* object) {
  return is_plain_dict(object) || PyList_CheckExact(object) ||
         (PyAnySet_CheckExact(object) && !PyFrozenSet_CheckExact(object));
}

Py_ssize_t size_of(PyObject* container) {
  if (PyDict_Check(container)) {
    return PyDict_Size(container);
  }
  return PyList_CheckExact(container) ? PyList_GET_SIZE(container) : PySet_GET_SIZE(container);
}

// A dict from a dict, a list from a list or a set.
py::object copy_of(PyObject* container) {
  auto* copy = PyDict_Check(container) ? PyDict_Copy(container) : PySequence_List(container);
  if (copy == nullptr) {
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(copy);
}

bool same_entries(PyObject* now, PyObject* before) {
  Py_ssize_t at_now = 0, at_before = 0;
  PyObject *key_now, *key_before, *value_now, *value_before;
  while (PyDict_Next(now, &at_now, &key_now, &value_now)) {
    if (!PyDict_Next(before, &at_before, &key_before, &value_before) || key_now != key_before ||
        value_now != value_before) {
      return false;
    }
  }
  return !PyDict_Next(before, &at_before, &key_before, &value_before);
}

bool same_items(PyObject* now, PyObject* before) {
  const auto size = PyList_GET_SIZE(before);
  if (PyList_GET_SIZE(now) != size) {
    return false;
  }
  for (Py_ssize_t i = 0; i < size; ++i) {
    if (PyList_GET_ITEM(now, i) != PyList_GET_ITEM(before, i)) {
      return false;
    }
  }
  return true;
}

bool is_same(PyObject* container, const py::object& before) {
  if (!before) {
    return size_of(container) == 0;
  }
  if (PyDict_Check(container)) {
    return same_entries(container, before.ptr());
  }
  return same_items(PyList_CheckExact(container) ? container : copy_of(container).ptr(), before.ptr());
}

py::object attributes_of(const py::object& module) {
  py::object attributes = module.attr("__dict__");
  if (!PyDict_CheckExact(attributes.ptr())) {
    throw py::type_error("the attributes of a module are not in a dict");
  }
  return attributes;
}

// A member dict of a module, borrowed; null where there is none.
PyObject* members(const py::object& attributes, PyObject* name) {
  auto* found = PyDict_GetItemWithError(attributes.ptr(), name);
  if (found == nullptr && PyErr_Occurred() != nullptr) {
    throw py::error_already_set();
  }
  return found != nullptr && is_plain_dict(found) ? found : nullptr;
}

bool is_scalar(PyObject* object) {
  return object == Py_None || PyLong_CheckExact(object) || PyBool_Check(object) || PyFloat_CheckExact(object) ||
         PyUnicode_CheckExact(object);
}

// Walks over the modules before their children, each once.
class Walk {
 public:
  explicit Walk(const py::object& model) { pending_.emplace_back(py::str(""), model); }

  // Whether every module keeps its members as `Module` does.
  bool run() {
    while (!pending_.empty()) {
      const auto [prefix, module] = std::move(pending_.back());
      pending_.pop_back();
      if (seen_.insert(module.ptr()).second && !visit(prefix, module)) {
        return false;
      }
    }
    return true;
  }

  py::list modules, names, parameters, buffers;

 private:
  using Named = std::pair<py::object, py::object>;

  bool visit(const py::object& prefix, const py::object& module) {
    static PyObject *const parameters_name = interned("_parameters"), *const buffers_name = interned("_buffers"),
                           *const modules_name = interned("_modules"), *const dot = interned(".");
    const auto attributes = attributes_of(module);
    auto* own = members(attributes, parameters_name);
    auto* held = members(attributes, buffers_name);
    auto* children = members(attributes, modules_name);
    if (own == nullptr || held == nullptr || children == nullptr) {
      return false;
    }
    modules.append(module);
    for (const auto& [name, parameter] : entries(own)) {
      if (seen_.insert(parameter.ptr()).second) {
        names.append(joined(prefix.ptr(), name.ptr()));
        parameters.append(parameter);
      }
    }
    for (const auto& [name, buffer] : entries(held)) {
      buffers.append(buffer);
    }
    auto named = entries(children);
    std::reverse(named.begin(), named.end());  // the first is to come from the stack first
    for (const auto& [name, child] : named) {
      pending_.emplace_back(joined(joined(prefix.ptr(), name.ptr()).ptr(), dot), child);
    }
    return true;
  }

  // The entries of a dict that are not None, held while the interpreter may run code.
  static std::vector<Named> entries(PyObject* dict) {
    std::vector<Named> found;
    Py_ssize_t at = 0;
    PyObject *key, *value;
    while (PyDict_Next(dict, &at, &key, &value)) {
      if (value != Py_None) {
        found.emplace_back(py::reinterpret_borrow<py::object>(key), py::reinterpret_borrow<py::object>(value));
      }
    }
    return found;
  }

  static py::object joined(PyObject* prefix, PyObject* name) {
    auto* text = PyUnicode_Concat(prefix, name);
    if (text == nullptr) {
      throw py::error_already_set();
    }
    return py::reinterpret_steal<py::object>(text);
  }

  std::vector<Named> pending_;
  std::unordered_set<PyObject*> seen_;  // modules and parameters
};

}  // namespace

py::object walk_modules(const py::object& model) {
  Walk walk(model);
  if (!walk.run()) {
    return py::none();
  }
  return py::make_tuple(walk.modules, walk.names, walk.parameters, walk.buffers);
}

py::list open_attributes(const py::dict& attributes) {
  static PyObject* const names[] = {interned("_parameters"), interned("_buffers"), interned("_modules")};
  py::list found;
  Py_ssize_t at = 0;
  PyObject *key, *value;
  while (PyDict_Next(attributes.ptr(), &at, &key, &value)) {
    const auto registered = std::find(std::begin(names), std::end(names), key) != std::end(names);
    if (!registered && !is_scalar(value) && !(is_container(value) && size_of(value) == 0)) {
      found.append(py::reinterpret_borrow<py::object>(value));
    }
  }
  return found;
}

Snapshot::Snapshot(const py::list& modules) {
  contents_.reserve(16 * modules.size());  // about as many containers as a module has
  for (const auto module : modules) {
    const auto attributes = attributes_of(py::reinterpret_borrow<py::object>(module));
    add(attributes.ptr());
    Py_ssize_t at = 0;
    PyObject *key, *value;
    const auto copy = contents_.back().second;
    while (copy && PyDict_Next(copy.ptr(), &at, &key, &value)) {
      if (is_container(value)) {
        add(value);
      }
    }
  }
}

void Snapshot::add(PyObject* container) {
  contents_.emplace_back(py::reinterpret_borrow<py::object>(container),
                         size_of(container) == 0 ? py::object() : copy_of(container));
}

py::list Snapshot::changed() const {
  py::list found;
  for (const auto& [container, before] : contents_) {
    if (!is_same(container.ptr(), before)) {
      const auto is_dict = PyDict_Check(container.ptr());
      const auto empty = is_dict ? py::object(py::dict()) : py::object(py::list());
      found.append(py::make_tuple(container, before ? before : empty));
    }
  }
  return found;
}

}  // namespace ghnfast
