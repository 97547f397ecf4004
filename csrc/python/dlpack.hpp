// Tensors as DLPack describes them (https://dmlc.github.io/dlpack, version 1): asked of torch through its C functions,
// without its binaries. One call says what takes five methods in Python.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace ghnfast::python::dlpack {

namespace py = pybind11;

struct Device {
  std::int32_t type, number;
};
constexpr std::int32_t kCpu = 1, kCuda = 2;

struct Dtype {
  std::uint8_t code, bits;
  std::uint16_t lanes;

  bool operator==(const Dtype& other) const { return code == other.code && bits == other.bits && lanes == other.lanes; }
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t dimensions;
  Dtype dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

// Of torch 2.10 and later; null before that.
struct Exchange {
  std::uint32_t major, minor;
  Exchange* before;
  void *allocate, *to_managed, *from_managed;
  int (*describe)(void* tensor, Tensor* out);
  void* current_stream;
};

// The functions for torch.Tensor and its parameters.
inline const Exchange* exchange_of(const py::object& tensor_class) {
  constexpr auto kAttribute = "__dlpack_c_exchange_api__", kName = "dlpack_exchange_api";
  if (!py::hasattr(tensor_class, kAttribute)) {
    return nullptr;
  }
  const py::object capsule = tensor_class.attr(kAttribute);
  if (PyCapsule_IsValid(capsule.ptr(), kName) == 0) {
    return nullptr;
  }
  const auto* found = static_cast<const Exchange*>(PyCapsule_GetPointer(capsule.ptr(), kName));
  return found->major == 1 && found->describe != nullptr ? found : nullptr;
}

// Whether elements lie row by row, without gaps.
inline bool is_contiguous(const Tensor& tensor) {
  std::int64_t reach = 1;
  bool contiguous = true;
  for (auto at = tensor.dimensions - 1; at >= 0; --at) {
    contiguous = contiguous && (tensor.shape[at] == 1 || tensor.strides == nullptr || tensor.strides[at] == reach);
    reach *= tensor.shape[at];
  }
  return contiguous || reach == 0;
}

}  // namespace ghnfast::python::dlpack
