/* stream_words.c - words that a stream itself reads and writes, without any kernel: where the vendor has
 * that. */
#include "devices/gpu/gpu.h"

#if defined(HOTSET_GPU_EMULATION)

bool gpu_stream_words_find(int number, gpu_stream_words_fn **out) {
    (void)number;
    *out = NULL;
    return true;
}

gpuError gpu_stream_words(gpu_stream_words_fn *f, gpuStream stream, const gpu_word *words, uint32_t n) {
    (void)f;
    gpuError code = gpuSuccess;
    for (uint32_t i = 0; i < n && !code; i++)
        code = words[i].wait ? emuStreamWaitValue64(stream, words[i].at, words[i].value)
                             : emuStreamWriteValue64(stream, words[i].at, words[i].value);
    return code;
}

#elif defined(HOTSET_GPU_CUDA)

#include <cuda.h>
#include <dlfcn.h>

/* Of the driver, which is there when there is a device: the runtime has no such functions. */
typedef CUresult device_get_fn(CUdevice *out, int number);
typedef CUresult attribute_fn(int *value, CUdevice_attribute which, CUdevice of);
typedef CUresult batch_fn(CUstream stream, unsigned n, CUstreamBatchMemOpParams *ops, unsigned flags);

bool gpu_stream_words_find(int number, gpu_stream_words_fn **out) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    *out = NULL;
    if (!library) return false;
    void *get_at = dlsym(library, "cuDeviceGet"), *attribute_at = dlsym(library, "cuDeviceGetAttribute"),
         *batch_at = dlsym(library, "cuStreamBatchMemOp_v2");
    device_get_fn *get;
    attribute_fn *attribute;
    CUdevice ordinal;
    int has = 0;
    memcpy(&get, &get_at, sizeof get);
    memcpy(&attribute, &attribute_at, sizeof attribute);
    memcpy(out, &batch_at, sizeof *out);
    return get && attribute && *out && !get(&ordinal, number) &&
           !attribute(&has, CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, ordinal) && has;
}

gpuError gpu_stream_words(gpu_stream_words_fn *f, gpuStream stream, const gpu_word *words, uint32_t n) {
    CUstreamBatchMemOpParams ops[GPU_STREAM_WORDS_MAX] = {{0}};
    batch_fn *batch;
    memcpy(&batch, &f, sizeof batch);
    for (uint32_t i = 0; i < n; i++) {
        if (words[i].wait) {
            ops[i].waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_64;
            ops[i].waitValue.address = (CUdeviceptr)(uintptr_t)words[i].at;
            ops[i].waitValue.value64 = words[i].value;
            ops[i].waitValue.flags = CU_STREAM_WAIT_VALUE_GEQ;
        } else {
            ops[i].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_64;
            ops[i].writeValue.address = (CUdeviceptr)(uintptr_t)words[i].at;
            ops[i].writeValue.value64 = words[i].value;
            ops[i].writeValue.flags = CU_STREAM_WRITE_VALUE_DEFAULT;
        }
    }
    return batch((CUstream)stream, n, ops, 0) ? cudaErrorUnknown : cudaSuccess;
}

#else /* HIP's are kernels in disguise, ask for memory of their own, and have hung */

bool gpu_stream_words_find(int number, gpu_stream_words_fn **out) {
    (void)number;
    *out = NULL;
    return false;
}

gpuError gpu_stream_words(gpu_stream_words_fn *f, gpuStream stream, const gpu_word *words, uint32_t n) {
    (void)f;
    (void)stream;
    (void)words;
    (void)n;
    return GPU(ErrorInvalidValue);
}

#endif
