// A source of kernels (SOURCE), and the kernel in it (KERNEL), on a CPU: see emulator.hpp.
#include <utility>
#include <vector>

#include "emulator.hpp"
// Behind it.
#include SOURCE

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)

// What Python calls.
#pragma GCC visibility push(default)

extern "C" bool emulate(const Arguments* arguments, int blocks, std::uint64_t seed) {
  return emulated::launch<Arguments>(KERNEL, *arguments, blocks, seed);
}

// As much of NVIDIA's driver as kernels/driver.py calls. Handles have all bits of a pointer.
namespace {

void* const kModule = reinterpret_cast<void*>(0x123456789abcdef0);
void* const kFunction = reinterpret_cast<void*>(0x7edcba9876543210);
void* const kStream = reinterpret_cast<void*>(0x1122334455667788);
void* const kContext = reinterpret_cast<void*>(0x0fedcba987654321);
constexpr int kInvalid = 1, kNoContext = 201, kNotFound = 500;
int allowed = 48 << 10;  // bytes of shared memory
thread_local void* context = nullptr;

// CUDA_KERNEL_NODE_PARAMS of cuda.h.
struct NodeParameters {
  void* function;
  unsigned x, y, z, threads, threads_y, threads_z, shared;
  void** parameters;
  void** extra;
};

// Nodes in the order that they depend on each other; graphs and those that can be launched are counted.
struct Nodes {
  std::vector<std::pair<NodeParameters, Arguments>> nodes;
};
int graphs = 0;

bool is_valid(const NodeParameters& node) {
  return node.function == kFunction && node.y == 1 && node.z == 1 && node.threads == THREADS && node.threads_y == 1 &&
         node.threads_z == 1 && static_cast<int>(node.shared) <= allowed && node.extra == nullptr;
}

}  // namespace

extern "C" {

int cuGetErrorString(int status, const char** text) {
  *text = status == kNotFound    ? "named symbol not found"
          : status == kNoContext ? "invalid device context"
                                 : "invalid argument";
  return 0;
}

int cuCtxGetCurrent(void** found) {
  *found = context;
  return 0;
}

int cuCtxSetCurrent(void* given) {
  context = given;
  return given == kContext ? 0 : kInvalid;
}

int cuDevicePrimaryCtxRetain(void** found, int device) {
  *found = kContext;
  return 0;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = 227 << 10;
  return attribute == 97 && device == 0 ? 0 : kInvalid;
}

int cuModuleLoadData(void** module, const void* image) {
  *module = kModule;
  if (context == nullptr) return kNoContext;
  return std::memcmp(image, "\177ELF", 4) == 0 ? 0 : kInvalid;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = kFunction;
  if (context == nullptr) return kNoContext;
  return module != kModule ? kInvalid : std::strcmp(name, TEXT(KERNEL)) == 0 ? 0 : kNotFound;
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
  allowed = value;
  return function == kFunction && attribute == 8 && value <= 227 << 10 ? 0 : kInvalid;
}

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared, void* stream, void** parameters, void** extra) {
  if (context == nullptr) return kNoContext;
  const NodeParameters node{function, x, y, z, threads, threads_y, threads_z, shared, parameters, extra};
  const bool fine = is_valid(node) && stream == kStream;
  return fine && emulate(static_cast<const Arguments*>(parameters[0]), static_cast<int>(x), 0) ? 0 : kInvalid;
}

int cuGraphCreate(Nodes** graph, unsigned flags) {
  *graph = new Nodes;
  ++graphs;
  return flags == 0 ? 0 : kInvalid;
}

// Nodes are numbers from one on.
int cuGraphAddKernelNode(std::size_t* made, Nodes* graph, const std::size_t* before, std::size_t count,
                         const NodeParameters* node) {
  const bool behind = graph->nodes.empty() ? count == 0 : count == 1 && *before == graph->nodes.size();
  if (!behind || !is_valid(*node)) return kInvalid;
  graph->nodes.emplace_back(*node, *static_cast<const Arguments*>(node->parameters[0]));
  *made = graph->nodes.size();
  return 0;
}

int cuGraphInstantiateWithFlags(Nodes** made, Nodes* graph, unsigned long long flags) {
  if (context == nullptr || flags != 0) return kInvalid;
  *made = new Nodes(*graph);
  ++graphs;
  return 0;
}

int cuGraphLaunch(Nodes* graph, void* stream) {
  if (context == nullptr) return kNoContext;
  bool fine = stream == kStream;
  for (const auto& [node, arguments] : graph->nodes) {
    fine = fine && emulate(&arguments, static_cast<int>(node.x), 0);
  }
  return fine ? 0 : kInvalid;
}

int cuGraphDestroy(Nodes* graph) {
  delete graph;
  --graphs;
  return 0;
}

int cuGraphExecDestroy(Nodes* graph) { return cuGraphDestroy(graph); }

// How many there are.
int emulated_graphs() { return graphs; }

}  // extern "C"
