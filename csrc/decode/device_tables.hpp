// The tables that kernels on a GPU work through: kernels/decode_tables.py and kernels/products.py say what for.
#pragma once

#include <cstdint>
#include <vector>

#include "decode/decode.hpp"

namespace ghnfast {

// A target, where it is written, and the first element of its product where products lie one behind the other: (cells,
// rows, columns) of each.
struct DeviceTarget {
  DecodeTarget target;
  DecodeMemory memory;
  std::int64_t product = 0;
};

// A unit of work: a tile of a target's block, and a part of its repeats, of so many.
struct DeviceItem {
  std::int64_t target = 0, tile = 0, part = 0, parts = 1;
};

// How much an item does at most: elements of a block, and elements that are stored.
struct ItemSizes {
  std::int64_t tile = 1, stored = 1;
};

// How many items a table may have.
constexpr std::int64_t kMostItems = std::int64_t{1} << 26;

// Products from `first` up to `last` of the hidden rows, whose blocks have equal size; `start`: their first element,
// where products lie one behind the other.
struct ProductRun {
  std::int64_t rows = 0, columns = 0, first = 0, last = 0, start = 0;
};

// `memory` may be empty: then targets lie one behind the other, and an address is the number of an element.
std::vector<DeviceTarget> device_targets(const std::vector<DecodeTarget>& targets,
                                         const std::vector<DecodeMemory>& memory);

// Those that store most come first. Throws std::invalid_argument where there are more than `kMostItems`.
std::vector<DeviceItem> device_items(const std::vector<DecodeTarget>& targets, const ItemSizes& sizes);

// For the backward pass: each target's block in tiles of so many elements; those that read most come first.
std::vector<DeviceItem> backward_items(const std::vector<DecodeTarget>& targets, std::int64_t tile);

// The most that kernels count: rows, columns, repeats, elements of a block.
std::int64_t largest_count(const std::vector<DecodeTarget>& targets);

std::vector<ProductRun> product_runs(const std::vector<DecodeTarget>& targets);

}  // namespace ghnfast
