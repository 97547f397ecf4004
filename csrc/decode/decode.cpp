#include "decode/decode.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/buffer.hpp"
#include "core/parallel.hpp"
#include "decode/decode_kernels.hpp"

namespace ghnfast {
namespace {

DecodeKernels<float> kernels_for(float) { return GHNFAST_DISPATCH(decode_kernels_float()); }
DecodeKernels<double> kernels_for(double) { return GHNFAST_DISPATCH(decode_kernels_double()); }

// Cells of a tile: with 256 hidden units, 128 KiB of hidden states.
constexpr std::int64_t kTileCells = 128;
// Elements of a block, for each hidden value, that make it worth a copy of it in another matrix.
constexpr std::int64_t kWorthPacking = 1024;
// Numbers of a weight that may be rounded to a copy: 8 MiB of it.
constexpr std::int64_t kMostRounded = 1 << 22;
// Bytes that one thread writes before it takes new work, where work can be cut so small.
constexpr std::int64_t kItemBytes = 1 << 18;
// Models of this size and more are not in a cache, nor would they stay in it: writing past it saves reading them first.
constexpr std::int64_t kStreamBytes = 4 << 20;

std::int64_t size_of(Element element) {
  switch (element) {
    case Element::kFloat64:
      return 8;
    case Element::kFloat32:
      return 4;
    default:
      return 2;
  }
}

std::int64_t bytes_of(const DecodeTask& task) {
  return task.target.out * task.target.in * task.target.cells * size_of(task.memory.element);
}

void require(bool condition, std::size_t index, const char* what) {
  if (!condition) {
    throw std::invalid_argument("target " + std::to_string(index) + ": " + what);
  }
}

void check_target(const DecodeTarget& target, std::size_t index) {
  require(target.rows >= 1 && target.columns >= 1 && target.cells >= 1, index, "its block is empty");
  require(target.rows <= target.out && target.columns <= target.in, index, "its block is larger than itself");
  require(is_within({target.out, target.in, target.cells}, kMostElements), index, "it has more than 2^48 elements");
}

}  // namespace

// The least value that rounds to infinity. Half precision is rounded from float32, as torch does: a double that rounds
// to a float from where on halves are infinite is too large, too.
double limit_of(Element element) {
  switch (element) {
    case Element::kFloat64:
      return std::numeric_limits<double>::infinity();
    case Element::kFloat32:
      return 0x1.ffffffp127;
    case Element::kFloat16:
      return 65520.0 - 0x1p-9;
    default:
      return 0x1.ffp127 - 0x1p103;
  }
}

bool is_within(std::initializer_list<std::int64_t> factors, std::int64_t most) {
  for (const auto factor : factors) {
    most = factor < 1 ? 0 : most / factor;
  }
  return most >= 1;
}

template <typename T>
void check_targets(const DecodeSource<T>& source, const std::vector<DecodeTarget>& targets) {
  if (source.width < 1 || source.width % 4 != 0) {
    throw std::invalid_argument("the width of hidden is " + std::to_string(source.width) +
                                "; a positive multiple of 4 is accepted");
  }
  for (std::size_t index = 0; index < targets.size(); ++index) {
    const auto& target = targets[index];
    check_target(target, index);
    if (target.is_product()) {
      require(target.rows <= source.max_rows && target.columns <= source.max_columns, index,
              "its block is larger than the weight's products");
      require(target.first >= 0 && target.first <= source.hidden_rows - target.cells, index,
              "its rows of hidden are out of range");
    } else {
      require(target.first >= 0 && target.first <= source.block_elements - target.rows * target.columns * target.cells,
              index, "its block is out of range");
    }
  }
}

namespace {

// A piece of work: block rows [from, to) of a tile, or of the given targets [begin, end).
struct Item {
  std::int64_t tile;  // or -1
  std::int64_t begin, end;
  std::int64_t from, to;
};

// Everything that one call of `decode` works with.
template <typename T>
class Decoding {
 public:
  Decoding(const DecodeSource<T>& source, const std::vector<DecodeTarget>& targets,
           const std::vector<DecodeMemory>& memory, const LateTargets& late, int threads)
      : asked_(source), source_(source), make_late_(late.make), kernels_(kernels_for(T{})), threads_(threads) {
    for (std::size_t index = 0; index < targets.size(); ++index) {
      add_task(targets[index], memory[index]);
    }
    split_tasks(late.targets);
    make_tiles();
    round_weight();
    make_items();
    make_scratch();
  }

  // How many threads there is work for.
  int workers() const { return static_cast<int>(scratch_.size()); }

  // Fills the tiles' panels, before anything is computed.
  void pack() {
    parallel_for(static_cast<std::int64_t>(tiles_.size()), threads_,
                 [&](std::int64_t index) { kernels_.pack(source_, tiles_[index]); });
  }

  // The number of the first target with a value that is not finite, or -1.
  std::int64_t first_broken() {
    const auto job = scratch_.front()->job_for(*this, false);
    for (auto index = late_; index < given_.size(); ++index) {
      const auto* task = given_[index];
      if (!kernels_.given_rows(source_, *task, 0, task->target.rows, job)) {
        return task - tasks_.data();
      }
    }
    return products_are_bounded() ? -1 : run(late_items_, items_.size(), false);
  }

  void write() {
    run(late_items_, items_.size(), true);
    if (make_late_) {
      make_late_();
    }
    run(0, late_items_, true);
  }

 private:
  // What one thread needs to work on items.
  struct Scratch {
    explicit Scratch(const Decoding& of)
        : products(of.most_products_, Fill::kNothing),
          weights(of.converts() ? of.most_weights_ * of.source_.width : 0, Fill::kNothing),
          values(of.most_values_, Fill::kNothing),
          unit(of.most_values_ * 8 + 64, Fill::kNothing) {}

    RowJob<T> job_for(const Decoding& of, bool write) {
      RowJob<T> job;
      job.write = write;
      job.stream = write && of.bytes_ >= kStreamBytes;
      job.products = products.data();
      job.weights = weights.data();
      job.values = values.data();
      job.unit = unit.data();
      return job;
    }

    Buffer<T> products, weights, values;
    Buffer<char> unit;
  };

  bool converts() const { return source_.rounds || source_.weight.stored != Stored::kSame; }

  // One for each thread that can have work, and all of them before anything is written: there may be no memory for it.
  void make_scratch() {
    const auto workers =
        std::min<std::int64_t>({std::max(1, threads_), static_cast<std::int64_t>(items_.size()), kMostThreads});
    for (std::int64_t worker = 0; worker < std::max<std::int64_t>(1, workers); ++worker) {
      scratch_.push_back(std::make_unique<Scratch>(*this));
    }
  }

  void add_task(const DecodeTarget& target, const DecodeMemory& memory) {
    DecodeTask task{target, memory, limit_of(memory.element), false};
    // Between the elements of a dimension of size one, no distance matters.
    task.contiguous = (memory.strides[2] == 1 || target.cells == 1) &&
                      (memory.strides[1] == target.cells || target.in == 1) &&
                      (memory.strides[0] == target.in * target.cells || target.out == 1);
    bytes_ += bytes_of(task);
    most_values_ = std::max(most_values_, target.columns * target.cells);
    tasks_.push_back(task);
  }

  void split_tasks(const std::vector<std::size_t>& late) {
    for (const auto index : late) {
      given_.push_back(&tasks_[index]);
    }
    late_ = late.size();
    for (std::size_t index = 0; index < tasks_.size(); ++index) {
      if (tasks_[index].target.is_product()) {
        products_.push_back(&tasks_[index]);
      } else if (!std::binary_search(late.begin(), late.end(), index)) {
        given_.push_back(&tasks_[index]);
      }
    }
  }

  void make_tiles() {
    // Blocks with one column are multiplied in another way. The others, the widest first: a vector of their cells is
    // multiplied for the widest of its blocks. What has few rows is left out where the last rows are multiplied.
    std::stable_sort(products_.begin(), products_.end(), [](const auto* a, const auto* b) {
      return std::make_pair(a->target.columns, a->target.rows) > std::make_pair(b->target.columns, b->target.rows);
    });
    const auto single =
        std::find_if(products_.begin(), products_.end(), [](const auto* task) { return task->target.columns == 1; });
    add_bands({products_.begin(), single});
    add_tiles({single, products_.end()}, 0, kMostElements);
    panels_ = std::make_unique<Buffer<T>>(packed_, Fill::kNothing);
    const auto* parts = parts_.data();
    for (std::size_t index = 0; index < tiles_.size(); ++index) {
      tiles_[index].panels = panels_->data() + offsets_[index];
      tiles_[index].parts = parts;
      parts += tiles_[index].count;
    }
  }

  // Tiles for runs of rows, of those blocks that have so many.
  void add_bands(std::vector<DecodeTask*> tasks) {
    std::vector<std::int64_t> ends;
    for (const auto* task : tasks) {
      ends.push_back(task->target.rows);
    }
    std::sort(ends.begin(), ends.end());
    for (std::int64_t from = 0; !tasks.empty();
         ends.erase(ends.begin(), std::upper_bound(ends.begin(), ends.end(), from))) {
      const auto columns = tasks.front()->target.columns;
      const auto worth = std::lower_bound(ends.begin(), ends.end(), from + (kWorthPacking + columns - 1) / columns);
      const auto to = worth == ends.end() ? ends.back() : *worth;
      add_tiles(tasks, from, to);
      tasks.erase(std::remove_if(tasks.begin(), tasks.end(), [&](auto* task) { return task->target.rows <= to; }),
                  tasks.end());
      from = to;
    }
  }

  // Tiles of all tasks, for block rows [from, to).
  void add_tiles(const std::vector<DecodeTask*>& tasks, std::int64_t from, std::int64_t to) {
    for (std::size_t begin = 0; begin < tasks.size();) {
      ProductTile<T> tile;
      tile.from = from;
      for (; begin < tasks.size(); ++begin) {
        const auto& target = tasks[begin]->target;
        if (tile.count > 0 && tile.cells + target.cells > kTileCells) {
          break;
        }
        parts_.push_back({tasks[begin], tile.cells});
        ++tile.count;
        tile.cells += target.cells;
        tile.most_columns = std::max(tile.most_columns, target.columns);
        tile.to = std::max(tile.to, std::min(to, target.rows));
      }
      const auto columns = (tile.cells + kernels_.panel_width - 1) / kernels_.panel_width * kernels_.panel_width;
      most_weights_ = std::max({most_weights_, tile.most_columns, kRowsAtOnce});
      most_products_ = std::max(most_products_, std::max(tile.most_columns, kRowsAtOnce) * columns);
      offsets_.push_back(packed_);
      packed_ += columns * source_.width;
      tiles_.push_back(tile);
    }
  }

  // Once, where tiles would do it again and again for the same rows, and it is no large one.
  void round_weight() {
    const auto rows = source_.max_rows, row_numbers = source_.max_columns * source_.width;
    std::int64_t needed = 0;
    for (const auto& tile : tiles_) {
      needed += (tile.to - tile.from) * tile.most_columns * source_.width;
    }
    if (!source_.rounds || kernels_.round == nullptr || source_.weight.stored == Stored::kBFloat16 ||
        needed < 2 * rows * row_numbers || rows * row_numbers > kMostRounded) {
      return;
    }
    rounded_ = std::make_unique<Buffer<std::uint16_t>>(rows * row_numbers, Fill::kNothing);
    parallel_for(rows, threads_, [&](std::int64_t row) {
      kernels_.round(from(source_.weight, row * row_numbers), row_numbers, rounded_->data() + row * row_numbers);
    });
    source_.weight = {rounded_->data(), Stored::kBFloat16};
  }

  void make_items() {
    add_given_items(0, late_);
    late_items_ = items_.size();
    for (std::size_t index = 0; index < tiles_.size(); ++index) {
      const auto& tile = tiles_[index];
      const auto step = tile.most_columns == 1 ? kRowsAtOnce : 1;
      for (auto from = tile.from; from < tile.to; from += step) {
        items_.push_back({static_cast<std::int64_t>(index), 0, 0, from, std::min(from + step, tile.to)});
      }
    }
    add_given_items(late_, given_.size());
  }

  // Large given blocks are cut into runs of their rows; small ones are put together. Every turn takes at least one.
  void add_given_items(std::size_t begin, std::size_t end) {
    while (begin < end) {
      const auto& target = given_[begin]->target;
      const auto first = static_cast<std::int64_t>(begin);
      if (bytes_of(*given_[begin]) > kItemBytes) {
        // Block row 0 has the most repeats.
        const auto repeats = (target.out + target.rows - 1) / target.rows;
        const auto row_bytes = repeats * target.in * target.cells * size_of(given_[begin]->memory.element);
        const auto step = std::max<std::int64_t>(1, kItemBytes / row_bytes);
        for (std::int64_t from = 0; from < target.rows; from += step) {
          items_.push_back({-1, first, first + 1, from, std::min(from + step, target.rows)});
        }
        ++begin;
        continue;
      }
      std::int64_t bytes = bytes_of(*given_[begin++]);
      for (; begin < end && bytes + bytes_of(*given_[begin]) <= kItemBytes; ++begin) {
        bytes += bytes_of(*given_[begin]);
      }
      items_.push_back({-1, first, static_cast<std::int64_t>(begin), 0, -1});
    }
  }

  // Whether no product can be too large for its target.
  bool products_are_bounded() {
    if (products_.empty()) {
      return true;
    }
    double scale = 0, limit = std::numeric_limits<T>::max();
    for (const auto* task : products_) {
      if (!std::isfinite(task->target.scale)) {
        return false;
      }
      scale = std::max(scale, std::abs(task->target.scale));
      limit = std::min(limit, task->limit);
    }
    const auto bound = bound_of_products(asked_, threads_);
    return bound < limit / 2 && bound * scale < limit / 2;
  }

  // Works through items: writes, or checks the products; the first broken target, or -1.
  std::int64_t run(std::size_t first, std::size_t last, bool write) {
    constexpr auto kNone = std::numeric_limits<std::int64_t>::max();
    std::atomic<std::int64_t> broken{kNone}, next{static_cast<std::int64_t>(first)};
    const auto workers = static_cast<std::int64_t>(scratch_.size());
    parallel_for(workers, static_cast<int>(workers), [&](std::int64_t worker) {
      const auto job = scratch_[worker]->job_for(*this, write);
      for (auto item = next.fetch_add(1); item < static_cast<std::int64_t>(last); item = next.fetch_add(1)) {
        if (const auto* task = run_item(items_[item], job)) {
          const auto number = task - tasks_.data();
          for (auto known = broken.load(); number < known && !broken.compare_exchange_weak(known, number);) {
          }
        }
      }
    });
    return broken == kNone ? -1 : broken.load();
  }

  const DecodeTask* run_item(const Item& item, const RowJob<T>& job) const {
    if (item.tile >= 0) {
      return kernels_.product_rows(source_, tiles_[item.tile], item.from, item.to, job);
    }
    for (auto index = item.begin; job.write && index < item.end; ++index) {
      kernels_.given_rows(source_, *given_[index], item.from, item.to < 0 ? given_[index]->target.rows : item.to, job);
    }
    return nullptr;
  }

  const DecodeSource<T>& asked_;
  DecodeSource<T> source_;  // the same, but for a weight that was rounded
  std::unique_ptr<Buffer<std::uint16_t>> rounded_;
  const std::function<void()>& make_late_;
  DecodeKernels<T> kernels_;
  int threads_;
  std::vector<DecodeTask> tasks_;
  std::vector<DecodeTask*> products_;
  std::vector<const DecodeTask*> given_;  // the late ones first
  std::size_t late_ = 0, late_items_ = 0;
  std::vector<TilePart> parts_;
  std::vector<ProductTile<T>> tiles_;
  std::unique_ptr<Buffer<T>> panels_;
  std::vector<Item> items_;
  std::vector<std::unique_ptr<Scratch>> scratch_;
  std::vector<std::int64_t> offsets_;  // of the tiles' panels
  std::int64_t packed_ = 0, bytes_ = 0, most_values_ = 0, most_products_ = 0, most_weights_ = 0;
};

}  // namespace

template <typename T>
std::int64_t decode(const DecodeSource<T>& source, const std::vector<DecodeTarget>& targets,
                    const std::vector<DecodeMemory>& memory, bool check, int threads,
                    const std::function<void()>& before_writing, const LateTargets& late) {
  check_targets(source, targets);
  Decoding<T> decoding(source, targets, memory, late, threads);
  std::int64_t broken = -1;
  with_team(decoding.workers(), [&] {
    decoding.pack();
    broken = check ? decoding.first_broken() : -1;
    if (broken < 0) {
      if (before_writing) {
        before_writing();
      }
      decoding.write();
    }
  });
  return broken;
}

template void check_targets(const DecodeSource<float>&, const std::vector<DecodeTarget>&);
template void check_targets(const DecodeSource<double>&, const std::vector<DecodeTarget>&);
template std::int64_t decode(const DecodeSource<float>&, const std::vector<DecodeTarget>&,
                             const std::vector<DecodeMemory>&, bool, int, const std::function<void()>&,
                             const LateTargets&);
template std::int64_t decode(const DecodeSource<double>&, const std::vector<DecodeTarget>&,
                             const std::vector<DecodeMemory>&, bool, int, const std::function<void()>&,
                             const LateTargets&);

}  // namespace ghnfast
