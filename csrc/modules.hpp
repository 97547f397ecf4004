// A model as Python objects: what its modules hold, and what changed since. All with the interpreter's lock held.
#pragma once

#include <pybind11/pybind11.h>

#include <utility>
#include <vector>

namespace ghnfast {

// (modules, names, parameters, buffers) of a torch.nn.Module, in the order of `Module.named_modules` and of
// `Module.named_parameters`, each once; None where a module keeps its members elsewhere than `Module` does.
pybind11::object walk_modules(const pybind11::object& model);

// The values of a module's attributes that might lead to another module: all but numbers, strings, None, empty
// containers and the dicts that the module registers its members in.
pybind11::list open_attributes(const pybind11::dict& attributes);

// The attributes of modules, and what is in the dicts, lists and sets among them.
class Snapshot {
 public:
  explicit Snapshot(const pybind11::list& modules);

  // (container, content) of each dict, list and set that does not hold the very objects that it held: `content` is a
  // dict for a dict and a list for the others.
  pybind11::list changed() const;

 private:
  void add(PyObject* container);

  // A container and a copy of its content; a null copy stands for none. Most containers of a module are empty.
  std::vector<std::pair<pybind11::object, pybind11::object>> contents_;
};

}  // namespace ghnfast
