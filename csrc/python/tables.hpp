// Tables of integers that Python and C++ share.
#pragma once

#include <pybind11/pybind11.h>

namespace ghnfast::python {

// The columns of the table of targets: first, rows, columns, cells, out, in, kind. The kinds are those of
// `TargetKind` in ghnfast/ops/decode/targets.py.
constexpr pybind11::ssize_t kTargetFields = 7;

}  // namespace ghnfast::python
