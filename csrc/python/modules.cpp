#include "python/modules.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "python/bindings.hpp"
#include "python/joined_names.hpp"

namespace ghnfast::python {
namespace {

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

// Calls `visit` with the objects that a dict (a key, its value, the next key), list or set holds, until it returns
// false; whether it never did.
template <typename Visit>
bool each_object(PyObject* container, const Visit& visit) {
  if (PyDict_Check(container)) {
    Py_ssize_t at = 0;
    PyObject *key, *value;
    while (PyDict_Next(container, &at, &key, &value)) {
      if (!visit(key) || !visit(value)) {
        return false;
      }
    }
    return true;
  }
  const auto items = PyList_CheckExact(container) ? py::reinterpret_borrow<py::object>(container)
                                                  : checked(PySequence_List(container));
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items.ptr()); ++i) {
    if (!visit(PyList_GET_ITEM(items.ptr(), i))) {
      return false;
    }
  }
  return true;
}

py::object attributes_of(const py::object& module) {
  static PyObject* const name = interned("__dict__");
  auto attributes = checked(PyObject_GetAttr(module.ptr(), name));
  if (!PyDict_CheckExact(attributes.ptr())) {
    throw py::type_error("the attributes of a module are not in a dict");
  }
  return attributes;
}

// An attribute of a module, borrowed; null where there is none.
PyObject* attribute(const py::object& attributes, PyObject* name) {
  auto* found = PyDict_GetItemWithError(attributes.ptr(), name);
  if (found == nullptr && PyErr_Occurred() != nullptr) {
    throw py::error_already_set();
  }
  return found;
}

// A member dict of a module, borrowed; null where there is none.
PyObject* members(const py::object& attributes, PyObject* name) {
  auto* found = attribute(attributes, name);
  return found != nullptr && is_plain_dict(found) ? found : nullptr;
}

// Throws for a class whose objects hold more than Python knows of: one that is not made by its own `__new__` is broken.
void require_plain_class(PyTypeObject* type) {
  static const auto* const plain = reinterpret_cast<PyTypeObject*>(
      py::module_::import("builtins").attr("type")("Plain", py::tuple(), py::dict()).release().ptr());
  for (const auto* base = type; base != &PyBaseObject_Type; base = base->tp_base) {
    if (base->tp_dealloc != plain->tp_dealloc) {
      throw py::type_error(std::string("a ") + type->tp_name + " is no module that is written in Python");
    }
  }
}

bool is_scalar(PyObject* object) {
  return object == Py_None || PyLong_CheckExact(object) || PyBool_Check(object) || PyFloat_CheckExact(object) ||
         PyUnicode_CheckExact(object);
}

// A set of objects that are there.
class Seen {
 public:
  // Whether it is new.
  bool insert(PyObject* object) {
    if (2 * (count_ + 1) > places_.size()) {
      grow();
    }
    auto& place = place_of(object);
    if (place == object) {
      return false;
    }
    place = object;
    ++count_;
    return true;
  }

 private:
  // Where it is, or has to be put. There is always a free place.
  PyObject*& place_of(PyObject* object) {
    const auto last = places_.size() - 1;
    auto at = (reinterpret_cast<std::uintptr_t>(object) >> 4) * 0x9E3779B97F4A7C15U >> 32 & last;
    while (places_[at] != nullptr && places_[at] != object) {
      at = (at + 1) & last;
    }
    return places_[at];
  }

  void grow() {
    const auto before = std::move(places_);
    places_.assign(before.size() * 2, nullptr);
    for (auto* object : before) {
      if (object != nullptr) {
        place_of(object) = object;
      }
    }
  }

  std::vector<PyObject*> places_ = std::vector<PyObject*>(1024);  // a power of two
  std::size_t count_ = 0;
};

// Walks over the modules before their children, each once.
class Walk {
 public:
  explicit Walk(const py::object& model) { pending_.push_back({py::object(), py::object(), model}); }

  // Whether every module keeps its members as `Module` does.
  bool run() {
    while (!pending_.empty()) {
      const auto next = std::move(pending_.back());
      pending_.pop_back();
      if (seen_.insert(next.module.ptr()) && !visit(next)) {
        return false;
      }
    }
    return true;
  }

  py::list modules, names, parameters, buffers;

 private:
  // A module to visit, the node of its parent's names, and its name among them; both are null for the model.
  struct Child {
    py::object parent, name, module;
  };

  // No code of Python runs while the dicts are read: nothing else can change them meanwhile.
  bool visit(const Child& child) {
    static PyObject *const parameters_name = interned("_parameters"), *const buffers_name = interned("_buffers"),
                           *const modules_name = interned("_modules");
    const auto attributes = attributes_of(child.module);
    auto* own = members(attributes, parameters_name);
    auto* held = members(attributes, buffers_name);
    auto* children = members(attributes, modules_name);
    if (own == nullptr || held == nullptr || children == nullptr) {
      return false;
    }
    append(modules, child.module.ptr());
    py::object node;
    if (PyDict_Size(own) != 0 || PyDict_Size(children) != 0) {
      node = child.name ? JoinedNames::child(child.parent, child.name.ptr()) : JoinedNames::root();
    }
    each_entry(own, [&](PyObject* name, PyObject* parameter) {
      if (seen_.insert(parameter)) {
        append(names, JoinedNames::parameter(node, name).ptr());
        append(parameters, parameter);
      }
    });
    each_entry(held, [&](PyObject*, PyObject* buffer) { append(buffers, buffer); });
    const auto first = pending_.size();
    each_entry(children, [&](PyObject* name, PyObject* module) {
      pending_.push_back({node, py::reinterpret_borrow<py::object>(name), py::reinterpret_borrow<py::object>(module)});
    });
    std::reverse(pending_.begin() + first, pending_.end());  // the first is to come from the stack first
    return true;
  }

  // Calls `visit` with the entries of a dict that are not None.
  template <typename Visit>
  static void each_entry(PyObject* dict, const Visit& visit) {
    Py_ssize_t at = 0;
    PyObject *key, *value;
    while (PyDict_Next(dict, &at, &key, &value)) {
      if (value != Py_None) {
        visit(key, value);
      }
    }
  }

  static void append(py::list& list, PyObject* item) {
    if (PyList_Append(list.ptr(), item) != 0) {
      throw py::error_already_set();
    }
  }

  std::vector<Child> pending_;
  Seen seen_;  // modules and parameters
};

}  // namespace

py::object walk_modules(const py::object& model) {
  Walk walk(model);
  if (!walk.run()) {
    return py::none();
  }
  return py::make_tuple(walk.modules, walk.names, walk.parameters, walk.buffers);
}

bool share_attributes(const py::list& modules, const py::type& base, const py::tuple& names) {
  std::vector<py::object> own;
  for (const auto name : names) {
    own.push_back(base.attr(name));
  }
  Seen types;
  for (const auto module : modules) {
    auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(module.ptr()));
    if (!types.insert(type)) {
      continue;
    }
    for (std::size_t i = 0; i < own.size(); ++i) {
      if (!checked(PyObject_GetAttr(type, names[i].ptr())).is(own[i])) {
        return false;
      }
    }
  }
  return true;
}

py::list open_attributes(const py::list& modules) {
  static PyObject* const names[] = {interned("_parameters"), interned("_buffers"), interned("_modules")};
  py::list found;
  for (const auto module : modules) {
    const auto attributes = attributes_of(py::reinterpret_borrow<py::object>(module));
    Py_ssize_t at = 0;
    PyObject *key, *value;
    while (PyDict_Next(attributes.ptr(), &at, &key, &value)) {
      const auto registered = std::find(std::begin(names), std::end(names), key) != std::end(names);
      if (!registered && !is_scalar(value) && !(is_container(value) && size_of(value) == 0)) {
        found.append(py::reinterpret_borrow<py::object>(value));
      }
    }
  }
  return found;
}

py::list bare_modules(const py::list& modules) {
  static PyObject* const empty[] = {interned("_forward_hooks"), interned("_forward_pre_hooks"),
                                    interned("_backward_hooks"), interned("_backward_pre_hooks"), interned("_modules")};
  static PyObject *const forward = interned("forward"), *const compiled = interned("_compiled_call_impl");
  py::list found(modules.size());
  for (std::size_t i = 0; i < modules.size(); ++i) {
    const auto attributes = attributes_of(modules[i]);
    const auto* call = attribute(attributes, compiled);
    const auto bare = (call == nullptr || call == Py_None) && attribute(attributes, forward) == nullptr &&
                      std::all_of(std::begin(empty), std::end(empty), [&](PyObject* name) {
                        auto* value = attribute(attributes, name);
                        return value != nullptr && is_container(value) && size_of(value) == 0;
                      });
    found[i] = py::bool_(bare);
  }
  return found;
}

bool are_untouched(const py::list& modules, const py::set& types) {
  static PyObject* const empty[] = {interned("_forward_hooks"), interned("_forward_pre_hooks")};
  static PyObject* const forward = interned("forward");
  return std::all_of(modules.begin(), modules.end(), [&](py::handle module) {
    const auto known = PySet_Contains(types.ptr(), reinterpret_cast<PyObject*>(Py_TYPE(module.ptr())));
    if (known < 0) {
      throw py::error_already_set();
    }
    if (known == 0) {
      return false;
    }
    const auto attributes = attributes_of(py::reinterpret_borrow<py::object>(module));
    return attribute(attributes, forward) == nullptr &&
           std::all_of(std::begin(empty), std::end(empty), [&](PyObject* name) {
             auto* value = attribute(attributes, name);
             return value != nullptr && is_container(value) && size_of(value) == 0;
           });
  });
}

py::list copy_modules(const py::list& modules) {
  static PyObject *const dict_name = interned("__dict__"), *const modules_name = interned("_modules");
  const py::tuple nothing;
  std::unordered_map<PyObject*, PyObject*> copies;
  copies.reserve(modules.size());
  py::list found(modules.size()), contents;
  for (std::size_t i = 0; i < modules.size(); ++i) {
    const py::object module = modules[i];
    const auto content = checked(PyDict_Copy(attributes_of(module).ptr()));
    require_plain_class(Py_TYPE(module.ptr()));
    const auto copy = checked(PyBaseObject_Type.tp_new(Py_TYPE(module.ptr()), nothing.ptr(), nullptr));
    if (PyObject_GenericSetAttr(copy.ptr(), dict_name, content.ptr()) != 0) {
      throw py::error_already_set();
    }
    copies.emplace(module.ptr(), copy.ptr());
    found[i] = copy;
    contents.append(content);
  }
  for (const auto content : contents) {
    auto* const children = members(py::reinterpret_borrow<py::object>(content), modules_name);
    if (children == nullptr || size_of(children) == 0) {
      continue;
    }
    const auto linked = checked(PyObject_CallOneArg(reinterpret_cast<PyObject*>(Py_TYPE(children)), children));
    Py_ssize_t at = 0;
    PyObject *name, *child;
    while (PyDict_Next(children, &at, &name, &child)) {
      if (child != Py_None && PyObject_SetItem(linked.ptr(), name, copies.at(child)) != 0) {
        throw py::error_already_set();
      }
    }
    if (PyDict_SetItem(content.ptr(), modules_name, linked.ptr()) != 0) {
      throw py::error_already_set();
    }
  }
  return found;
}

Snapshot::Snapshot(const py::list& modules) {
  // About as much as a module has of each.
  contents_.reserve(16 * modules.size());
  objects_.reserve(64 * modules.size());
  for (const auto module : modules) {
    const auto attributes = attributes_of(py::reinterpret_borrow<py::object>(module));
    objects_.push_back(attributes);
    add(attributes.ptr());
    const auto begin = contents_.back().begin, end = begin + contents_.back().size;
    for (auto i = begin + 1; i < end; i += 2) {
      if (is_container(objects_[i].ptr())) {
        add(objects_[i].ptr());
      }
    }
  }
}

void Snapshot::add(PyObject* container) {
  const auto begin = objects_.size();
  if (size_of(container) != 0) {
    each_object(container, [this](PyObject* object) {
      objects_.push_back(py::reinterpret_borrow<py::object>(object));
      return true;
    });
  }
  contents_.push_back({container, begin, objects_.size() - begin});
}

bool Snapshot::is_same(const Content& before) const {
  if (before.size == 0 || size_of(before.container) == 0) {
    return before.size == 0 && size_of(before.container) == 0;
  }
  std::size_t count = 0;
  const auto same = each_object(before.container, [&](PyObject* object) {
    return count < before.size && object == objects_[before.begin + count++].ptr();
  });
  return same && count == before.size;
}

py::object Snapshot::content_of(const Content& before) const {
  const auto* objects = objects_.data() + before.begin;
  if (PyDict_Check(before.container)) {
    py::dict content;
    for (std::size_t i = 0; i < before.size; i += 2) {
      content[objects[i]] = objects[i + 1];
    }
    return content;
  }
  py::list content;
  for (std::size_t i = 0; i < before.size; ++i) {
    content.append(objects[i]);
  }
  return content;
}

py::list Snapshot::changed() const {
  py::list found;
  for (const auto& before : contents_) {
    if (!is_same(before)) {
      found.append(py::make_tuple(py::handle(before.container), content_of(before)));
    }
  }
  return found;
}

void bind_modules(py::module_& module) {
  module.def("walk_modules", &walk_modules, py::arg("model"),
             "(modules, names, parameters, buffers) of a module in the order of its own methods; None where one of its "
             "modules keeps them elsewhere than torch.nn.Module does.");
  module.def("share_attributes", &share_attributes, py::arg("modules"), py::arg("base"), py::arg("names"),
             "Whether the attributes with these names of all modules' classes are those of the base class.");
  module.def("open_attributes", &open_attributes, py::arg("modules"),
             "The values of modules' attributes that might lead to another module.");
  module.def("bare_modules", &bare_modules, py::arg("modules"),
             "Per module, whether a call of it is its class's forward and nothing besides.");
  module.def("are_untouched", &are_untouched, py::arg("modules"), py::arg("types"),
             "Whether all modules are of these types and have neither hooks nor a forward of their own.");
  module.def("copy_modules", &copy_modules, py::arg("modules"), "Copies of modules that have each other as children.");
  py::class_<Snapshot>(module, "Snapshot", py::module_local(),
                       "The attributes of modules, and what is in the dicts, lists and sets among them.")
      .def(py::init<const py::list&>(), py::arg("modules"))
      .def("changed", &Snapshot::changed,
           "(container, content) of each container that does not hold the very objects that it held.");
}

}  // namespace ghnfast::python
