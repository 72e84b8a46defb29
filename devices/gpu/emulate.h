/* emulate.h - a GPU that the CPU emulates, for kernels written against vendor.h.
 *
 * Every GPU thread of a block is a fiber; barriers, shuffles and ballots are the points where fibers meet and
 * change. Blocks run one after the other. A stream is a thread of the host that takes commands in order, so
 * that the device works while its caller does something else, as real ones do. Strict where real devices are
 * not: threads that end or wait elsewhere while others wait are an error that names kernel, block and thread;
 * shared memory is poisoned before each block; lanes run in rising or falling order, as the device was told.
 *
 * The runtime's functions have CUDA's names and meanings, with emu for cuda. */
#ifndef HOTSET_GPU_EMULATE_H
#define HOTSET_GPU_EMULATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- The runtime ---- */

typedef enum emuError_t {
    emuSuccess = 0,
    emuErrorInvalidValue = 1,
    emuErrorMemoryAllocation = 2,
    emuErrorInvalidDevice = 101,
    emuErrorNotReady = 600,
    emuErrorHostMemoryAlreadyRegistered = 712,
    emuErrorInjected = 900, /* a fault that was asked for */
    emuErrorKernel = 901    /* threads that do not meet */
} emuError_t;

typedef struct emu_stream *emuStream_t;
typedef struct emu_event *emuEvent_t;
typedef struct emu_graph *emuGraph_t, *emuGraphExec_t;
enum { emuStreamNonBlocking = 1, emuMemcpyDefault = 4, emuStreamCaptureModeThreadLocal = 1 };

/* A device: faults are numbers of the call that fails, from 1; 0: none. */
typedef struct emu_options {
    uint64_t memory_bytes; /* of device memory, > 0 */
    uint64_t fail_alloc, fail_copy, fail_launch;
    /* counted from the device's making on: a copy changes its first number, a graph cannot be made */
    uint64_t wrong_copy, fail_graph;
    bool reverse; /* lanes run in falling order */
} emu_options;

enum { EMU_DEVICE_MAX = 16 };
/* Makes a device and gives its number. Errors: emuErrorInvalidDevice (there are EMU_DEVICE_MAX). */
emuError_t emu_device_create(int *out, const emu_options *options);
/* Counts from here on for the faults of the options; the rest of the options stays as it is. */
void emu_device_arm(int device, const emu_options *faults);
/* Its streams must be gone; memory that is left is freed. */
void emu_device_destroy(int device);

emuError_t emuGetDeviceCount(int *n);
emuError_t emuSetDevice(int device); /* for this thread */
emuError_t emuGetLastError(void);
/* Constant text, or what happened in detail to the device of this thread. */
const char *emuGetErrorString(emuError_t e);
emuError_t emuMalloc(void **p, size_t bytes);
emuError_t emuFree(void *p);
emuError_t emuHostAlloc(void **p, size_t bytes);
emuError_t emuHostFree(void *p);
/* Memory of the host's own: whole pages, once. */
emuError_t emuHostRegister(void *p, size_t bytes);
emuError_t emuHostUnregister(void *p);
emuError_t emuHostGetDevicePointer(void **device, void *host, unsigned flags);
emuError_t emuMemGetInfo(size_t *free_bytes, size_t *total_bytes);
emuError_t emuStreamCreateWithFlags(emuStream_t *out, unsigned flags);
emuError_t emuStreamDestroy(emuStream_t s); /* once its commands are done */
emuError_t emuStreamSynchronize(emuStream_t s);
emuError_t emuStreamQuery(emuStream_t s); /* emuErrorNotReady: it has work */
/* Between these two what is put into the stream goes into a graph, and is not done. */
emuError_t emuStreamBeginCapture(emuStream_t s, int mode);
emuError_t emuStreamEndCapture(emuStream_t s, emuGraph_t *out);
emuError_t emuGraphDestroy(emuGraph_t g);
emuError_t emuGraphInstantiateWithFlags(emuGraphExec_t *out, emuGraph_t g, uint64_t flags);
emuError_t emuGraphExecDestroy(emuGraphExec_t g);
emuError_t emuGraphLaunch(emuGraphExec_t g, emuStream_t s);
/* The stream itself waits until *at >= value, or stores a value. */
emuError_t emuStreamWaitValue64(emuStream_t s, void *at, uint64_t value);
emuError_t emuStreamWriteValue64(emuStream_t s, void *at, uint64_t value);
emuError_t emuMemcpyAsync(void *to, const void *from, size_t bytes, int kind, emuStream_t s);
emuError_t emuEventCreate(emuEvent_t *out);
emuError_t emuEventDestroy(emuEvent_t e);
emuError_t emuEventRecord(emuEvent_t e, emuStream_t s);
emuError_t emuEventElapsedTime(float *ms, emuEvent_t from, emuEvent_t to);

/* ---- What kernels see ---- */

typedef struct emu_dim {
    uint32_t x, y, z;
} emu_dim;

/* The running thread of the block. */
typedef struct emu_place {
    emu_dim thread, block, block_size, grid_size;
} emu_place;
extern __thread emu_place *emu_here __attribute__((tls_model("initial-exec"), visibility("hidden")));

enum { EMU_ARGS_BYTES_MAX = 4096 }; /* as CUDA has it */
/* Puts a kernel into the stream; the arguments are copied. */
void emu_launch(emuStream_t s, const char *name, emu_dim grid, uint32_t threads,
                void (*run)(const void *args), const void *args, size_t arg_bytes);
void emu_sync_block(const char *file, int line);
/* Meets the other lanes of the warp: each gives a value and may then ask for every lane's. Lanes past the end
 * of the block: the own value. */
void emu_meet_warp(uint64_t value, const char *file, int line);
uint64_t emu_lane_value(uint32_t lane);
/* `bytes` of the block's shared memory: the same for the n-th call of every thread. */
void *emu_shared(size_t bytes);
/* Lets other threads of the host work; only in kernels of one thread. */
void emu_backoff(void);
float emu_half_to_float(uint16_t bits);
uint16_t emu_float_to_half(float value);

#ifdef __cplusplus
}

struct uint4 {
    uint32_t x, y, z, w;
};

struct dim3 : emu_dim {
    dim3(uint32_t x_ = 1, uint32_t y_ = 1, uint32_t z_ = 1) : emu_dim{x_, y_, z_} {}
};

#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline, unused))
#define threadIdx       (emu_here->thread)
#define blockIdx        (emu_here->block)
#define blockDim        (emu_here->block_size)
#define gridDim         (emu_here->grid_size)

#define GPU_KERNEL(threads)    static void
#define GPU_SHARED(type, name) type &name = *static_cast<type *>(emu_shared(sizeof(type)))
#define GPU_UNROLL
#define GPU_SYNC()               emu_sync_block(__FILE__, __LINE__)
#define GPU_WARP_SYNC()          emu_meet_warp(0, __FILE__, __LINE__)
#define GPU_SHUFFLE(v, lane)     emu_shuffle((v), (uint32_t)(lane) % 32, __FILE__, __LINE__)
#define GPU_SHUFFLE_DOWN(v, by)  emu_shuffle((v), emu_lane() + (uint32_t)(by), __FILE__, __LINE__)
#define GPU_SHUFFLE_XOR(v, mask) emu_shuffle((v), emu_lane() ^ (uint32_t)(mask), __FILE__, __LINE__)
#define GPU_BALLOT(predicate)    emu_ballot((predicate), __FILE__, __LINE__)
#define GPU_ATOMIC_ADD(p, v)     (*(p) += (v)) /* the threads of a block take turns */
#define GPU_POLLS_PER_S          ((uint64_t)1 << 14)
#define GPU_POPCOUNT(bits)       __builtin_popcount(bits)
#define GPU_FENCE_SYSTEM()       __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define GPU_LOAD_SYSTEM(p)       __atomic_load_n((const uint64_t *)(p), __ATOMIC_ACQUIRE)
#define GPU_STORE_SYSTEM(p, v)   __atomic_store_n((uint64_t *)(p), (v), __ATOMIC_RELEASE)
#define GPU_BACKOFF()            emu_backoff()
#define GPU_HALF_TO_FLOAT(bits)  emu_half_to_float(bits)
#define GPU_FLOAT_TO_HALF(value) emu_float_to_half(value)
#define GPU_FLOAT_OF_BITS(bits)  emu_cast<float, uint32_t>(bits)
#define GPU_BITS_OF_FLOAT(value) emu_cast<uint32_t, float>(value)
#define GPU_LAUNCH(kernel, grid, threads, stream, args)                                                      \
    emu_launch((stream), #kernel, dim3(grid), (threads),                                                     \
               [](const void *a_) { kernel(*static_cast<const decltype(args) *>(a_)); }, &(args),            \
               sizeof(args))

template <typename To, typename From> static inline To emu_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

static inline uint32_t emu_lane() { return emu_here->thread.x % 32; }

/* Lane numbers past the warp: the own value, as CUDA has it for shuffles down. */
template <typename T> static inline T emu_shuffle(T value, uint32_t lane, const char *file, int line) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "one register or two");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    emu_meet_warp(bits, file, line);
    bits = emu_lane_value(lane < 32 ? lane : emu_lane());
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t emu_ballot(bool predicate, const char *file, int line) {
    uint32_t bits = 0;
    emu_meet_warp(predicate, file, line);
    for (uint32_t lane = 0; lane < 32; lane++) bits |= (uint32_t)(emu_lane_value(lane) & 1) << lane;
    return bits;
}
#endif

#endif
