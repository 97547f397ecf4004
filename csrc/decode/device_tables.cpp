#include "decode/device_tables.hpp"

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>

namespace ghnfast {
namespace {

// Of positive numbers.
std::int64_t quotient_up(std::int64_t number, std::int64_t size) { return (number - 1) / size + 1; }

std::int64_t size_of(const DecodeTarget& target) { return target.out * target.in * target.cells; }

std::int64_t block_of(const DecodeTarget& target) { return target.rows * target.columns * target.cells; }

// The items of a target.
struct Unit {
  std::int64_t target, tiles, parts;
  std::int64_t weight;  // of an item: those that do most come first
};

std::vector<DeviceItem> expanded(std::vector<Unit> units) {
  std::stable_sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) { return a.weight > b.weight; });
  std::int64_t count = 0;
  for (const auto& unit : units) {
    if (!is_within({unit.parts, unit.tiles}, kMostItems - count)) {
      throw std::invalid_argument("targets take more than " + std::to_string(kMostItems) + " items of these sizes");
    }
    count += unit.parts * unit.tiles;
  }
  std::vector<DeviceItem> items;
  items.reserve(static_cast<std::size_t>(count));
  for (const auto& unit : units) {
    for (std::int64_t part = 0; part < unit.parts; ++part) {
      for (std::int64_t tile = 0; tile < unit.tiles; ++tile) {
        items.push_back({unit.target, tile, part, unit.parts});
      }
    }
  }
  return items;
}

}  // namespace

std::vector<DeviceTarget> device_targets(const std::vector<DecodeTarget>& targets,
                                         const std::vector<DecodeMemory>& memory) {
  std::vector<DeviceTarget> found;
  found.reserve(targets.size());
  std::int64_t address = 0, product = 0;
  for (std::size_t at = 0; at < targets.size(); ++at) {
    const auto& target = targets[at];
    if (memory.empty()) {
      found.push_back({target, {address, Element::kFloat32, {target.in * target.cells, target.cells, 1}}, product});
      address += size_of(target);
    } else {
      found.push_back({target, memory[at], product});
    }
    product += target.is_product() ? block_of(target) : 0;
  }
  return found;
}

std::vector<DeviceItem> device_items(const std::vector<DecodeTarget>& targets, const ItemSizes& sizes) {
  std::vector<Unit> units;
  units.reserve(targets.size());
  for (std::size_t at = 0; at < targets.size(); ++at) {
    const auto tiles = quotient_up(block_of(targets[at]), sizes.tile);
    const auto stored = size_of(targets[at]) / tiles;  // for a tile
    const auto parts = std::max<std::int64_t>(stored / sizes.stored, 1);
    units.push_back({static_cast<std::int64_t>(at), tiles, parts, stored / parts});
  }
  return expanded(std::move(units));
}

std::vector<DeviceItem> backward_items(const std::vector<DecodeTarget>& targets, std::int64_t tile) {
  std::vector<Unit> units;
  units.reserve(targets.size());
  for (std::size_t at = 0; at < targets.size(); ++at) {
    const auto tiles = quotient_up(block_of(targets[at]), tile);
    units.push_back({static_cast<std::int64_t>(at), tiles, 1, size_of(targets[at]) / tiles});
  }
  return expanded(std::move(units));
}

std::int64_t largest_count(const std::vector<DecodeTarget>& targets) {
  std::int64_t most = 0;
  for (const auto& target : targets) {
    const auto repeats = quotient_up(target.out, target.rows) * quotient_up(target.in, target.columns);
    most = std::max({most, target.out, target.in, repeats, block_of(target)});
  }
  return most;
}

std::vector<ProductRun> product_runs(const std::vector<DecodeTarget>& targets) {
  std::vector<ProductRun> runs;
  std::int64_t start = 0;
  for (const auto& target : targets) {
    if (!target.is_product()) {
      continue;
    }
    const bool goes_on = !runs.empty() && runs.back().rows == target.rows && runs.back().columns == target.columns &&
                         runs.back().last == target.first;
    if (goes_on) {
      runs.back().last += target.cells;
    } else {
      runs.push_back({target.rows, target.columns, target.first, target.first + target.cells, start});
    }
    start += block_of(target);
  }
  return runs;
}

}  // namespace ghnfast
