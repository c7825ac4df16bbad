// A CUDA driver (libcuda.so.1) that records what Triton asks of it and runs nothing.
//
// A device address carries its GPU in the top byte (GPU 0 is 1), as gpu.py makes them; below 2^56 it is host memory. A
// stream is 1000 times its GPU plus a number. So the driver sees what would fail on a real machine: pointers, streams
// and functions of a GPU other than the current one, tensor maps that break the rules of the CUDA driver API, too much
// shared memory, and calls that a stream capture forbids.
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_GPUS 16
#define MAX_LAUNCHES 4096
#define EXPORT __attribute__((visibility("default")))

typedef struct {
  char kernel[64];
  int gpu, stream;
  unsigned grid, threads, shared;
} Launch;

typedef struct {
  char name[64];
  int gpu;
} Function;

EXPORT Launch launches[MAX_LAUNCHES];
EXPORT int num_launches, num_modules, num_tensor_maps, num_errors;
EXPORT int current_gpu, capturing;
EXPORT int shared_memory[MAX_GPUS];  // bytes that a program may have
EXPORT char first_error[256];

static CUresult fail(CUresult code, const char *message) {
  if (!num_errors++) snprintf(first_error, sizeof first_error, "%s", message);
  return code;
}

static CUresult forbidden_in_capture(const char *call) {
  return capturing ? fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, call) : CUDA_SUCCESS;
}

static CUresult check_address(CUdeviceptr address) {
  int gpu = (int)(address >> 56) - 1;
  if (gpu == current_gpu) return CUDA_SUCCESS;
  return fail(CUDA_ERROR_INVALID_VALUE, gpu < 0 ? "an address in host memory" : "an address on another GPU");
}

// --- devices and contexts: the context of GPU i is i + 1 ---

EXPORT CUresult cuDriverGetVersion(int *version) { return *version = 13000, CUDA_SUCCESS; }
EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) { return *device = ordinal, CUDA_SUCCESS; }

EXPORT CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = shared_memory[device]; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *value = shared_memory[device] + 1024; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    default: *value = 65536;
  }
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetCurrent(CUcontext *context) {
  return *context = (CUcontext)(size_t)(current_gpu + 1), CUDA_SUCCESS;
}
EXPORT CUresult cuCtxSetCurrent(CUcontext context) { return current_gpu = (int)(size_t)context - 1, CUDA_SUCCESS; }
EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  return *context = (CUcontext)(size_t)(device + 1), CUDA_SUCCESS;
}
EXPORT CUresult cuCtxGetLimit(size_t *value, CUlimit limit) { return *value = 0, CUDA_SUCCESS; }
EXPORT CUresult cuCtxSetLimit(CUlimit limit, size_t value) { return CUDA_SUCCESS; }
EXPORT CUresult cuGetErrorString(CUresult code, const char **text) { return *text = first_error, CUDA_SUCCESS; }

EXPORT CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr address) {
  *(CUdeviceptr *)value = address;
  return check_address(address);
}

// --- what a capture forbids ---

EXPORT CUresult cuCtxSynchronize(void) { return forbidden_in_capture("cuCtxSynchronize in a capture"); }
EXPORT CUresult cuStreamSynchronize(CUstream stream) {
  return forbidden_in_capture("cuStreamSynchronize in a capture");
}
EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t size) {
  return fail(CUDA_ERROR_NOT_SUPPORTED, "memory allocated outside of torch");
}

EXPORT CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  num_modules++;
  *module = (CUmodule)(size_t)(current_gpu + 1);
  return forbidden_in_capture("cuModuleLoadData in a capture");
}

// --- functions ---

EXPORT CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  Function *made = calloc(1, sizeof *made);
  snprintf(made->name, sizeof made->name, "%s", name);
  made->gpu = (int)(size_t)module - 1;
  *function = (CUfunction)made;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  return CUDA_SUCCESS;
}
EXPORT CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config) { return CUDA_SUCCESS; }
EXPORT CUresult cuOccupancyMaxActiveClusters(int *count, CUfunction function, const CUlaunchConfig *config) {
  return *count = 1, CUDA_SUCCESS;
}

EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction handle, void **arguments, void **extra) {
  const Function *function = (const Function *)handle;
  int stream = (int)(size_t)config->hStream;
  if (num_launches == MAX_LAUNCHES) return fail(CUDA_ERROR_OUT_OF_MEMORY, "the record of launches is full");
  Launch *launch = &launches[num_launches++];
  snprintf(launch->kernel, sizeof launch->kernel, "%s", function->name);
  launch->gpu = current_gpu;
  launch->stream = stream;
  launch->grid = config->gridDimX;
  launch->threads = config->blockDimX;
  launch->shared = config->sharedMemBytes;
  if (function->gpu != current_gpu) return fail(CUDA_ERROR_INVALID_HANDLE, "a function loaded on another GPU");
  if (stream / 1000 != current_gpu) return fail(CUDA_ERROR_INVALID_HANDLE, "a stream of another GPU");
  if (!config->gridDimX) return fail(CUDA_ERROR_INVALID_VALUE, "an empty grid");
  if ((int)launch->shared > shared_memory[current_gpu]) return fail(CUDA_ERROR_INVALID_VALUE, "shared memory");
  return CUDA_SUCCESS;
}

// --- tensor maps: the conditions in the documentation of cuTensorMapEncodeTiled ---

static unsigned element_bytes(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8: return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16: return 2;
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64: return 8;
    default: return 4;
  }
}

EXPORT CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                       const cuuint64_t *size, const cuuint64_t *stride, const cuuint32_t *box,
                                       const cuuint32_t *step, CUtensorMapInterleave interleave,
                                       CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2,
                                       CUtensorMapFloatOOBfill fill) {
  unsigned row = box[0] * element_bytes(type);
  unsigned span = swizzle == CU_TENSOR_MAP_SWIZZLE_32B    ? 32
                  : swizzle == CU_TENSOR_MAP_SWIZZLE_64B  ? 64
                  : swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 128
                                                          : 1u << 30;
  CUresult invalid = CUDA_ERROR_INVALID_VALUE;
  num_tensor_maps++;
  memset(map, 0, sizeof *map);
  if (check_address((CUdeviceptr)address)) return invalid;
  if ((size_t)address % 16) return fail(invalid, "tensor map: address");
  if (rank < 1 || rank > 5) return fail(invalid, "tensor map: rank");
  for (unsigned i = 0; i < rank; i++) {
    if (size[i] == 0 || size[i] > 1ull << 32) return fail(invalid, "tensor map: size");
    if (box[i] == 0 || box[i] > 256) return fail(invalid, "tensor map: box");
  }
  for (unsigned i = 0; i + 1 < rank; i++)
    if (stride[i] % 16 || stride[i] >= 1ull << 40) return fail(invalid, "tensor map: stride");
  if (row % 16 || row > span) return fail(invalid, "tensor map: bytes of a row of the box");
  return CUDA_SUCCESS;
}

EXPORT CUresult cuTensorMapEncodeIm2col(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                        const cuuint64_t *size, const cuuint64_t *stride, const int *lower,
                                        const int *upper, cuuint32_t channels, cuuint32_t pixels,
                                        const cuuint32_t *step, CUtensorMapInterleave interleave,
                                        CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2,
                                        CUtensorMapFloatOOBfill fill) {
  return fail(CUDA_ERROR_NOT_SUPPORTED, "tensor map: im2col");
}
