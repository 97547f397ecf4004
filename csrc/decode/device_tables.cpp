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

// Targets that share their items.
struct Unit {
  Work work;
  std::int64_t first, count, tiles, parts;

  // Programs are in the order of their units: a given block takes least.
  std::int64_t weight() const { return work == Work::kGiven ? 0 : count; }
};

std::vector<DeviceItem> expanded(std::vector<Unit> units) {
  std::stable_sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) { return a.weight() > b.weight(); });
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
        items.push_back({unit.work, unit.first, unit.count, tile, part, unit.parts});
      }
    }
  }
  return items;
}

Work work_of(const DecodeTarget& target) {
  return !target.is_product() ? Work::kGiven : target.cells == 1 ? Work::kOneCell : Work::kKernel;
}

}  // namespace

std::vector<DeviceTarget> device_targets(const std::vector<DecodeTarget>& targets,
                                         const std::vector<DecodeMemory>& memory) {
  std::vector<DeviceTarget> found;
  found.reserve(targets.size());
  std::int64_t address = 0, gradient = 0;
  for (std::size_t at = 0; at < targets.size(); ++at) {
    const auto& target = targets[at];
    if (memory.empty()) {
      found.push_back({target, {address, Element::kFloat32, {target.in * target.cells, target.cells, 1}}, gradient});
      address += size_of(target);
    } else {
      found.push_back({target, memory[at], gradient});
    }
    gradient += target.is_product() ? block_of(target) : 0;
  }
  return found;
}

std::vector<DeviceItem> device_items(const std::vector<DecodeTarget>& targets, const ItemSizes& sizes) {
  std::vector<Unit> units;
  std::size_t at = 0;
  while (at < targets.size()) {
    const auto& head = targets[at];
    const auto work = work_of(head);
    std::size_t next = at + 1;
    std::int64_t stored = size_of(head);
    // Targets of one cell with blocks of equal size follow each other.
    while (work == Work::kOneCell && next < targets.size() && work_of(targets[next]) == work &&
           targets[next].rows == head.rows && targets[next].columns == head.columns &&
           static_cast<std::int64_t>(next - at) < sizes.targets) {
      stored += size_of(targets[next++]);
    }
    const auto tile = work == Work::kGiven ? sizes.given : work == Work::kKernel ? sizes.kernel : sizes.one_cell;
    const auto tiles = quotient_up(work == Work::kGiven ? block_of(head) : head.rows * head.columns, tile);
    const auto parts = std::max<std::int64_t>(stored / sizes.stored / tiles, 1);
    units.push_back({work, static_cast<std::int64_t>(at), static_cast<std::int64_t>(next - at), tiles, parts});
    at = next;
  }
  return expanded(std::move(units));
}

std::vector<DeviceItem> backward_items(const std::vector<DecodeTarget>& targets, std::int64_t tile) {
  std::vector<Unit> units;
  for (std::size_t at = 0; at < targets.size(); ++at) {
    units.push_back(
        {work_of(targets[at]), static_cast<std::int64_t>(at), 1, quotient_up(block_of(targets[at]), tile), 1});
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
