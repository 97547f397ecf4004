// A model as Python objects: what its modules hold, and what changed since. All with the interpreter's lock held.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <vector>

namespace ghnfast::python {

namespace py = pybind11;

// (modules, names, parameters, buffers) of a torch.nn.Module, in the order of `Module.named_modules` and of
// `Module.named_parameters`, each once; None where a module keeps its members elsewhere than `Module` does.
py::object walk_modules(const py::object& model);

// Whether the attributes with these names of all modules' classes are the very objects that the base class has.
bool share_attributes(const py::list& modules, const py::type& base, const py::tuple& names);

// The values of modules' attributes that might lead to another module: all but numbers, strings, None, empty
// containers and the dicts that a module registers its members in.
py::list open_attributes(const py::list& modules);

// Per module, whether a call of it is its class's forward and nothing besides: there are no hooks, no children, and
// neither a forward nor a compiled call of its own.
py::list bare_modules(const py::list& modules);

// Whether calling any of the modules does what its class says, which is one of the types, and nothing else: none has
// hooks for its call, or a forward of its own.
bool are_untouched(const py::list& modules, const py::set& types);

// Copies of modules as `object.__new__` makes them, with copies of their attributes, in which the copies take the
// modules' places as each other's children. Every child has to be among the modules.
py::list copy_modules(const py::list& modules);

// The attributes of modules, and what is in the dicts, lists and sets among them.
class Snapshot {
 public:
  explicit Snapshot(const py::list& modules);

  // (container, content) of each dict, list and set that does not hold the very objects that it held: `content` is a
  // dict for a dict and a list for the others.
  py::list changed() const;

 private:
  // What a container held: `size` of the objects from `begin` on, in a dict keys and values by turns.
  struct Content {
    PyObject* container;
    std::size_t begin, size;
  };

  void add(PyObject* container);
  bool is_same(const Content& before) const;
  py::object content_of(const Content& before) const;

  std::vector<Content> contents_;
  std::vector<py::object> objects_;  // all that the containers held, and the attributes of the modules: kept alive
};

}  // namespace ghnfast::python
