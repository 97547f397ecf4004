// What nodes get along shortest paths, and give along them in the reverse direction.
// For files that are compiled once for each instruction set, as core/simd.hpp.
#pragma once

#include <cstdint>

#include "core/simd.hpp"
#include "sweep/sweep_kernels.hpp"
#include "sweep/vectors.hpp"

namespace ghnfast {
namespace GHNFAST_ISA {
namespace {

// Which nodes a node receives from in the forward sweep, and how close they are.
struct Band {
  std::int64_t start;  // within the graph
  std::int64_t size;
  const std::uint8_t* closeness;
};

template <typename T>
inline Band band_of(const Topology& topology, const SweepRun<T>& run, std::int64_t node) {
  const auto global = run.first_node + node;
  const auto offset = topology.band_offsets[global];
  return {topology.band_starts[global] - run.first_node, topology.band_offsets[global + 1] - offset,
          topology.closeness + offset};
}

// Adds the messages of a band, each times one over its distance, for `count` vectors of the width.
template <typename T, int count>
inline void gather_block(const Band& band, const PackedSweep<T>& sweep, const T* messages, T* sum) {
  constexpr int chains = count <= 2 ? 4 : 2;  // independent sums hide the latency of the additions
  Vector<T> sums[chains][count] = {};
  const T* message = messages + band.start * sweep.width;
  std::int64_t index = 0;
  for (; index + chains <= band.size; index += chains) {
    for (int chain = 0; chain < chains; ++chain, message += sweep.width) {
      const auto factor = all(sweep.pair_weight[band.closeness[index + chain]]);
      for (int i = 0; i < count; ++i) {
        sums[chain][i] += factor * load(message + i * kLanes<T>);
      }
    }
  }
  for (; index < band.size; ++index, message += sweep.width) {
    const auto factor = all(sweep.pair_weight[band.closeness[index]]);
    for (int i = 0; i < count; ++i) {
      sums[0][i] += factor * load(message + i * kLanes<T>);
    }
  }
  for (int i = 0; i < count; ++i) {
    auto total = load(sum + i * kLanes<T>);
    for (int chain = 0; chain < chains; ++chain) {
      total += sums[chain][i];
    }
    save(sum + i * kLanes<T>, total);
  }
}

// sum += the rows of `messages` that a band names, each times one over its distance.
template <typename T>
inline void gather_band(const Band& band, const PackedSweep<T>& sweep, const T* messages, T* sum) {
  int done = 0;
  for (; done + 4 * kLanes<T> <= sweep.width; done += 4 * kLanes<T>) {
    gather_block<T, 4>(band, sweep, messages + done, sum + done);
  }
  for (; done + 2 * kLanes<T> <= sweep.width; done += 2 * kLanes<T>) {
    gather_block<T, 2>(band, sweep, messages + done, sum + done);
  }
  for (; done < sweep.width; done += kLanes<T>) {
    gather_block<T, 1>(band, sweep, messages + done, sum + done);
  }
}

// Each row of `sums` that a band names += message / distance, for `count` vectors of the width.
template <typename T, int count>
inline void scatter_block(const Band& band, const PackedSweep<T>& sweep, const T* message, T* sums) {
  Vector<T> values[count];
  for (int i = 0; i < count; ++i) {
    values[i] = load(message + i * kLanes<T>);
  }
  T* to = sums + band.start * sweep.width;
  for (std::int64_t index = 0; index < band.size; ++index, to += sweep.width) {
    if (const auto closeness = band.closeness[index]) {
      const auto factor = all(sweep.pair_weight[closeness]);
      for (int i = 0; i < count; ++i) {
        save(to + i * kLanes<T>, load(to + i * kLanes<T>) + factor * values[i]);
      }
    }
  }
}

// The reverse of `gather_band`.
template <typename T>
inline void scatter_band(const Band& band, const PackedSweep<T>& sweep, const T* message, T* sums) {
  int done = 0;
  for (; done + 4 * kLanes<T> <= sweep.width; done += 4 * kLanes<T>) {
    scatter_block<T, 4>(band, sweep, message + done, sums + done);
  }
  for (; done + 2 * kLanes<T> <= sweep.width; done += 2 * kLanes<T>) {
    scatter_block<T, 2>(band, sweep, message + done, sums + done);
  }
  for (; done < sweep.width; done += kLanes<T>) {
    scatter_block<T, 1>(band, sweep, message + done, sums + done);
  }
}

// The sources [from, to) of a band, where they are in it.
inline Band part(const Band& band, std::int64_t from, std::int64_t to) {
  const auto first = from > band.start ? from : band.start;
  const auto end = to < band.start + band.size ? to : band.start + band.size;
  return {first, end > first ? end - first : 0, band.closeness + (first - band.start)};
}

// Nodes that are close to each other receive from almost the same nodes. So this many of them share the loads of what
// is far before them.
constexpr int kNodesAtOnce = 4;

// The bands of `kNodesAtOnce` nodes from `first` on, and where all of them have begun.
struct Bands {
  Band bands[kNodesAtOnce];
  std::int64_t common = 0;
};

template <typename T>
inline Bands bands_from(const Topology& topology, const SweepRun<T>& run, std::int64_t first) {
  Bands found;
  for (int i = 0; i < kNodesAtOnce; ++i) {
    found.bands[i] = band_of(topology, run, first + i);
    found.common = found.bands[i].start > found.common ? found.bands[i].start : found.common;
  }
  found.common = found.common < first ? found.common : first;
  return found;
}

// Calls function(source, closeness of each node) for the sources [common, end) that have a path to any.
template <typename Function>
inline void for_each_common(const Bands& bands, std::int64_t end, Function function) {
  for (auto source = bands.common; source < end; ++source) {
    int closeness[kNodesAtOnce], any = 0;
    for (int i = 0; i < kNodesAtOnce; ++i) {
      closeness[i] = bands.bands[i].closeness[source - bands.bands[i].start];
      any |= closeness[i];
    }
    if (any != 0) {
      function(source, closeness);
    }
  }
}

// sums[first + i] += message / distance from all nodes before `first`, for `count` vectors of the width.
template <typename T, int count>
inline void gather_common(const Bands& bands, const PackedSweep<T>& sweep, std::int64_t first, const T* messages,
                          T* sums) {
  Vector<T> totals[kNodesAtOnce][count] = {};
  for_each_common(bands, first, [&](std::int64_t source, const int* closeness) {
    Vector<T> message[count];
    for (int v = 0; v < count; ++v) {
      message[v] = load(messages + source * sweep.width + v * kLanes<T>);
    }
    for (int i = 0; i < kNodesAtOnce; ++i) {
      const auto factor = all(sweep.pair_weight[closeness[i]]);
      for (int v = 0; v < count; ++v) {
        totals[i][v] += factor * message[v];
      }
    }
  });
  for (int i = 0; i < kNodesAtOnce; ++i) {
    for (int v = 0; v < count; ++v) {
      T* to = sums + (first + i) * sweep.width + v * kLanes<T>;
      save(to, load(to) + totals[i][v]);
    }
  }
}

// The reverse: the sums of all nodes before `first` += messages[first + i] / distance.
template <typename T, int count>
inline void scatter_common(const Bands& bands, const PackedSweep<T>& sweep, std::int64_t first, const T* messages,
                           T* sums) {
  Vector<T> values[kNodesAtOnce][count];
  for (int i = 0; i < kNodesAtOnce; ++i) {
    for (int v = 0; v < count; ++v) {
      values[i][v] = load(messages + (first + i) * sweep.width + v * kLanes<T>);
    }
  }
  for_each_common(bands, first, [&](std::int64_t target, const int* closeness) {
    Vector<T> sum[count];
    T* to = sums + target * sweep.width;
    for (int v = 0; v < count; ++v) {
      sum[v] = load(to + v * kLanes<T>);
    }
    for (int i = 0; i < kNodesAtOnce; ++i) {
      const auto factor = all(sweep.pair_weight[closeness[i]]);
      for (int v = 0; v < count; ++v) {
        sum[v] += factor * values[i][v];
      }
    }
    for (int v = 0; v < count; ++v) {
      save(to + v * kLanes<T>, sum[v]);
    }
  });
}

// What the nodes [first, end) receive from those before `first`; in reverse, what they send to those.
template <typename T>
inline void exchange_far(const Topology& topology, const PackedSweep<T>& sweep, const SweepRun<T>& run,
                         std::int64_t first, std::int64_t end, bool reverse) {
  const bool together = end - first == kNodesAtOnce;
  const auto bands = together ? bands_from(topology, run, first) : Bands{};
  for (auto node = first; node < end; ++node) {
    const auto band = part(band_of(topology, run, node), 0, together ? bands.common : first);
    if (reverse) {
      scatter_band(band, sweep, run.far + node * sweep.width, run.received);
    } else {
      gather_band(band, sweep, run.far, run.received + node * sweep.width);
    }
  }
  for (int done = 0; together && done < sweep.width;) {
    const bool two = done + 2 * kLanes<T> <= sweep.width;
    const auto exchange = reverse ? (two ? &scatter_common<T, 2> : &scatter_common<T, 1>)
                                  : (two ? &gather_common<T, 2> : &gather_common<T, 1>);
    exchange(bands, sweep, first, run.far + done, run.received + done);
    done += (two ? 2 : 1) * kLanes<T>;
  }
}

// Calls function(source) for the nodes that a node has edges from.
template <typename T, typename Function>
inline void for_each_source(const Topology& topology, const SweepRun<T>& run, std::int64_t node, Function function) {
  const auto global = run.first_node + node;
  for (auto edge = topology.edge_offsets[global]; edge < topology.edge_offsets[global + 1]; ++edge) {
    function(topology.edge_sources[edge] - run.first_node);
  }
}

}  // namespace
}  // namespace GHNFAST_ISA
}  // namespace ghnfast
