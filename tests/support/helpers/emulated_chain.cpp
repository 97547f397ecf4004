// A source of kernels (SOURCE), and the kernel in it (KERNEL), on a CPU: see emulator.hpp.
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
void* const kContext = reinterpret_cast<void*>(0x2233445566778899);
constexpr int kInvalid = 1, kNoContext = 201, kNotFound = 500;
int allowed = 48 << 10;                // bytes of shared memory
thread_local void* context = nullptr;  // the current one: a thread begins without

int status_of(bool fine, int otherwise = kInvalid) { return context == nullptr ? kNoContext : fine ? 0 : otherwise; }

}  // namespace

extern "C" {

int cuGetErrorString(int status, const char** text) {
  *text = status == kNotFound    ? "named symbol not found"
          : status == kNoContext ? "invalid device context"
                                 : "invalid argument";
  return 0;
}

int cuCtxGetCurrent(void** current) {
  *current = context;
  return 0;
}

int cuDevicePrimaryCtxRetain(void** primary, int device) {
  *primary = kContext;
  return device == 0 ? 0 : kInvalid;
}

int cuCtxSetCurrent(void* wanted) {
  context = wanted;
  return wanted == kContext ? 0 : kInvalid;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = 227 << 10;
  return attribute == 97 && device == 0 ? 0 : kInvalid;
}

int cuModuleLoadData(void** module, const void* image) {
  *module = kModule;
  return status_of(std::memcmp(image, "\177ELF", 4) == 0);
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = kFunction;
  return status_of(module == kModule && std::strcmp(name, TEXT(KERNEL)) == 0, kNotFound);
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
  allowed = value;
  return status_of(function == kFunction && attribute == 8 && value <= 227 << 10);
}

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared, void* stream, void** parameters, void** extra) {
  const bool fine = context != nullptr && function == kFunction && y == 1 && z == 1 && threads == THREADS &&
                    threads_y == 1 && threads_z == 1 && static_cast<int>(shared) <= allowed && stream == kStream &&
                    extra == nullptr;
  return status_of(fine && emulate(static_cast<const Arguments*>(parameters[0]), static_cast<int>(x), 0));
}

}  // extern "C"
