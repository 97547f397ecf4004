// What the nodes of a pair are to each other, as one byte.
#pragma once

#include <cstdint>
#include <vector>

#include "sweep/sweep.hpp"

namespace ghnfast {

// Of each graph an (n, n) matrix, row-major: 0 where there is no path of at most `reach` hops; d where the row's node
// has one of d hops to the column's; reach + d where that one has one to it. Throws std::invalid_argument where the
// topology has no bands, or `reach` is not within 1 to 127.
std::vector<std::uint8_t> pair_codes(const Topology& topology, int reach, int threads);

}  // namespace ghnfast
