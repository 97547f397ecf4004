// Names of modules and parameters, joined as torch joins them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

namespace ghnfast::python {

namespace py = pybind11;

// Kept as long as the interpreter lives.
inline PyObject* interned(const char* text) { return PyUnicode_InternFromString(text); }

// A new reference that a function of Python's returned.
inline py::object checked(PyObject* result) {
  if (result == nullptr) {
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(result);
}

// Names that were joined before: models are alike, and putting strings together is a third of a walk. A node is a
// tuple: the nodes of modules by their names, the joined names of parameters by theirs, and what stands before those.
class JoinedNames {
 public:
  // The node of a model; of its own where there are so many names that it begins anew.
  static py::object root() {
    static auto* const root = new py::object(node(py::str("")));  // never deleted: the interpreter may be gone by then
    if (count() > kMost) {
      count() = 0;
      *root = node(py::str(""));
    }
    return *root;
  }

  static py::object child(const py::object& parent, PyObject* name) {
    return known(parent, 0, name, [&] { return node(joined(joined(prefix(parent), name).ptr(), dot())); });
  }

  static py::object parameter(const py::object& parent, PyObject* name) {
    return known(parent, 1, name, [&] { return joined(prefix(parent), name); });
  }

 private:
  static constexpr std::size_t kMost = 1 << 14;
  static constexpr Py_ssize_t kLongest = 256;  // in characters

  static std::size_t& count() {
    static std::size_t count = 0;
    return count;
  }

  static PyObject* dot() {
    static PyObject* const dot = interned(".");
    return dot;
  }

  static py::object node(const py::object& prefix) { return py::make_tuple(py::dict(), py::dict(), prefix); }

  static PyObject* prefix(const py::object& node) { return PyTuple_GET_ITEM(node.ptr(), 2); }

  static py::object joined(PyObject* prefix, PyObject* name) { return checked(PyUnicode_Concat(prefix, name)); }
  static py::object joined(const py::object& prefix, PyObject* name) { return joined(prefix.ptr(), name); }

  template <typename Make>
  static py::object known(const py::object& node, Py_ssize_t dict, PyObject* name, const Make& make) {
    // What is like a string may say by code of its own what it is equal to; what is long is not kept.
    if (!PyUnicode_CheckExact(name) || PyUnicode_GET_LENGTH(prefix(node)) + PyUnicode_GET_LENGTH(name) > kLongest) {
      return make();
    }
    auto* const own = PyTuple_GET_ITEM(node.ptr(), dict);
    auto* const found = PyDict_GetItemWithError(own, name);
    if (found != nullptr) {
      return py::reinterpret_borrow<py::object>(found);
    }
    if (PyErr_Occurred() != nullptr) {
      throw py::error_already_set();
    }
    auto made = make();
    if (PyDict_SetItem(own, name, made.ptr()) != 0) {
      throw py::error_already_set();
    }
    ++count();
    return made;
  }
};

}  // namespace ghnfast::python
