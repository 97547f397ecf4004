#include "tensors.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace ghnfast {
namespace {

// What tensors are asked.
struct Questions {
  py::object torch = py::module_::import("torch");
  py::object tensor = torch.attr("Tensor"), parameter = torch.attr("nn").attr("Parameter");
  py::str is_cpu = "is_cpu", dtype = "dtype", shape = "shape", itemsize = "itemsize";
  py::str is_contiguous = "is_contiguous", data_ptr = "data_ptr";
  py::str untyped_storage = "untyped_storage", storage_offset = "storage_offset";
  py::str nbytes = "nbytes", resizable = "resizable";
};

py::object get(py::handle object, const py::str& name) {
  auto result = py::reinterpret_steal<py::object>(PyObject_GetAttr(object.ptr(), name.ptr()));
  if (!result) {
    throw py::error_already_set();
  }
  return result;
}

py::object call(py::handle object, const py::str& name) {
  auto result = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object.ptr(), name.ptr()));
  if (!result) {
    throw py::error_already_set();
  }
  return result;
}

std::int64_t as_number(py::handle object) {
  const auto result = PyLong_AsLongLong(object.ptr());
  if (result == -1 && PyErr_Occurred() != nullptr) {
    throw py::error_already_set();
  }
  return result;
}

std::int64_t number(py::handle object, const py::str& name) { return as_number(call(object, name)); }

std::int64_t product(const py::tuple& sizes) {
  std::int64_t result = 1;
  for (const auto size : sizes) {
    result *= as_number(size);
  }
  return result;
}

bool is_true(py::handle answer) { return answer.is(py::handle(Py_True)); }

std::int64_t index_of(py::handle dtype, const py::tuple& dtypes) {
  for (std::size_t index = 0; index < dtypes.size(); ++index) {
    if (dtype.is(py::handle(PyTuple_GET_ITEM(dtypes.ptr(), static_cast<Py_ssize_t>(index))))) {
      return static_cast<std::int64_t>(index);
    }
  }
  return -1;
}

TensorMemory inspect(const Questions& ask, py::handle tensor, const py::tuple& shape, std::int64_t element,
                     std::int64_t itemsize) {
  if (!get(tensor, ask.shape).equal(shape) || !is_true(call(tensor, ask.is_contiguous))) {
    return {};
  }
  const auto bytes = product(shape) * itemsize, address = number(tensor, ask.data_ptr);
  const bool on_cpu = is_true(get(tensor, ask.is_cpu));
  const auto storage = call(tensor, ask.untyped_storage);
  const auto end = number(tensor, ask.storage_offset) * itemsize + bytes;
  // Meta tensors have no address, and neither has memory that was freed.
  if (address == 0 || number(storage, ask.nbytes) < end) {
    return {};
  }
  // What torch allocated can be written; what others did (numpy, a map of a file) need not.
  if (on_cpu && !is_true(call(storage, ask.resizable)) && !is_writable(address, bytes)) {
    return {};
  }
  return {address, on_cpu ? element : -1, bytes};
}

// Whether the system itself can write single bytes: through a pipe, which it writes them to first.
bool accepts_its_own_bytes(char* first, char* last, std::int64_t step) {
  int ends[2];
  if (pipe(ends) != 0) {
    return true;  // nobody can tell
  }
  bool fine = write(ends[1], last, 1) == 1 && read(ends[0], last, 1) == 1;
  for (char* at = first; fine && at < last; at += step) {
    fine = write(ends[1], at, 1) == 1 && read(ends[0], at, 1) == 1;
  }
  close(ends[0]);
  close(ends[1]);
  return fine;
}

}  // namespace

std::vector<TensorMemory> inspect_tensors(const py::list& tensors, const py::list& shapes, const py::tuple& dtypes) {
  if (tensors.size() != shapes.size()) {
    throw std::invalid_argument("there must be one shape for each tensor");
  }
  static const auto* const ask = new Questions;  // never deleted: the interpreter may be gone by then
  std::vector<std::int64_t> itemsizes;
  for (const auto dtype : dtypes) {
    itemsizes.push_back(get(dtype, ask->itemsize).cast<std::int64_t>());
  }
  std::vector<TensorMemory> found(tensors.size());
  for (std::size_t at = 0; at < tensors.size(); ++at) {
    const py::object tensor = tensors[at];
    const auto type = py::type::handle_of(tensor);
    if (!type.is(ask->tensor) && !type.is(ask->parameter)) {
      continue;
    }
    const auto element = index_of(get(tensor, ask->dtype), dtypes);
    if (element < 0 || !PyTuple_Check(PyList_GET_ITEM(shapes.ptr(), static_cast<Py_ssize_t>(at)))) {
      continue;
    }
    try {
      found[at] = inspect(*ask, tensor, py::tuple(shapes[at]), element, itemsizes[element]);
    } catch (py::error_already_set& error) {
      // Torch raises where a tensor is no dense memory: it may be sparse, or wrap another one.
      if (!error.matches(PyExc_RuntimeError)) {
        throw;
      }
    }
  }
  return found;
}

bool is_writable(std::int64_t address, std::int64_t bytes) {
  if (bytes <= 0) {
    return true;
  }
  if (address < 0 || bytes > std::numeric_limits<std::int64_t>::max() - address) {
    return false;
  }
  const std::int64_t page = sysconf(_SC_PAGESIZE), start = address / page * page, end = address + bytes;
  // "Prefault page tables writable, without writing": of Linux 5.14, younger than the headers of some.
  constexpr int kPopulateWrite = 23;
  int result;
  do {
    result = madvise(reinterpret_cast<void*>(start), static_cast<std::size_t>(end - start), kPopulateWrite);
  } while (result != 0 && (errno == EINTR || errno == EAGAIN));
  if (result == 0) {
    return true;
  }
  if (errno != EINVAL) {
    return false;
  }
  // The memory cannot be written, or the system does not know the question.
  auto* const first = reinterpret_cast<char*>(address);
  return accepts_its_own_bytes(first, first + bytes - 1, page);
}

std::vector<std::vector<std::int64_t>> overlapping(const std::vector<std::int64_t>& addresses,
                                                   const std::vector<std::int64_t>& bytes) {
  std::vector<std::int64_t> order(addresses.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return addresses[a] < addresses[b]; });
  std::vector<std::vector<std::int64_t>> groups;
  std::vector<std::int64_t> group;
  std::int64_t end = 0;
  const auto close = [&] {
    if (group.size() > 1) {
      groups.push_back(group);
    }
    group.clear();
  };
  for (const auto index : order) {
    if (addresses[index] < 0 || bytes[index] <= 0) {
      continue;
    }
    if (bytes[index] > std::numeric_limits<std::int64_t>::max() - addresses[index]) {
      throw std::invalid_argument("memory at " + std::to_string(addresses[index]) + " has " +
                                  std::to_string(bytes[index]) + " bytes, beyond all addresses");
    }
    if (addresses[index] >= end) {
      close();
    }
    group.push_back(index);
    end = std::max(end, addresses[index] + bytes[index]);
  }
  close();
  return groups;
}

}  // namespace ghnfast
