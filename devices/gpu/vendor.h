/* vendor.h - one set of names for CUDA, HIP and the emulation: the only file that tells them apart.
 *
 * Host code (device.c) is C and calls the runtime by gpu* names; kernels (*.cu) are a C subset of CUDA C++:
 *   GPU_KERNEL(threads) name(args_type a) { GPU_SHARED(shared_type, s); ... }
 * launched by GPU_LAUNCH with blocks of exactly `threads` threads, which is at most 1024 and 1 or a multiple
 * of 32. A kernel takes one struct by value. GPU_SHARED stands at its head, in every thread alike; together
 * at most GPU_SHARED_BYTES. Warps are logical ones of 32 lanes: GPU_SHUFFLE*, GPU_BALLOT and GPU_WARP_SYNC
 * are to be reached by all 32 at the same place, GPU_SYNC by all threads of the block, none of which has
 * ended. What has to have the same bits everywhere is written with fmaf: products and sums are never
 * contracted. */
#ifndef HOTSET_GPU_VENDOR_H
#define HOTSET_GPU_VENDOR_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { GPU_WARP = 32, GPU_SHARED_BYTES = 48 << 10 };

/* ---- The runtime ---- */

#if defined(HOTSET_GPU_CUDA)
#include <cuda_runtime.h>
#define GPU_VENDOR                       "cuda"
#define GPU(name)                        cuda##name
#define gpuHostAlloc(p, n)               cudaHostAlloc((void **)(p), (n), cudaHostAllocMapped | cudaHostAllocPortable)
#define gpuHostFree                      cudaFreeHost
#define gpuHostRegister(p, n)            cudaHostRegister((p), (n), cudaHostRegisterMapped | cudaHostRegisterPortable)
#define gpuDeviceProperties              struct cudaDeviceProp
#define GPU_INSTRUCTIONS(text, bytes, p) snprintf((text), (bytes), "sm_%d%d", (p).major, (p).minor)
#define GPU_TABLE                        const
#define GPU_GRAPHS                       1 /* lists are launched as graphs unless told otherwise */
#elif defined(HOTSET_GPU_HIP)
#ifndef __HIP_PLATFORM_AMD__
#define __HIP_PLATFORM_AMD__ 1
#endif
#ifdef __cplusplus
#include <hip/hip_runtime.h>
#else
#include <hip/hip_runtime_api.h>
#endif
#define GPU_VENDOR "hip"
#define GPU(name)  hip##name
#define gpuHostAlloc(p, n)                                                                                   \
    hipHostMalloc((void **)(p), (n), hipHostMallocMapped | hipHostMallocPortable | hipHostMallocCoherent)
#define gpuHostFree                      hipHostFree
#define gpuHostRegister(p, n)            hipHostRegister((p), (n), hipHostRegisterMapped | hipHostRegisterPortable)
#define gpuDeviceProperties              hipDeviceProp_t
#define GPU_INSTRUCTIONS(text, bytes, p) snprintf((text), (bytes), "%.*s", (int)(bytes)-1, (p).gcnArchName)
#define GPU_TABLE                        /* of functions' addresses: clang takes constant ones for constants of the device */
#define GPU_GRAPHS                       0
#else
#define HOTSET_GPU_EMULATION 1
#include "devices/gpu/emulate.h"
#define GPU_VENDOR         "emu"
#define GPU(name)          emu##name
#define gpuHostAlloc(p, n) emuHostAlloc((void **)(p), (n))
#define gpuHostFree        emuHostFree
#define gpuHostRegister    emuHostRegister
#define GPU_TABLE          const
#define GPU_GRAPHS         1
#endif

#define gpuError                            GPU(Error_t)
#define gpuSuccess                          GPU(Success)
#define gpuErrorOutOfMemory                 GPU(ErrorMemoryAllocation)
#define gpuErrorHostMemoryAlreadyRegistered GPU(ErrorHostMemoryAlreadyRegistered)
#define gpuHostUnregister                   GPU(HostUnregister)
#define gpuGetErrorString                   GPU(GetErrorString)
#define gpuGetLastError                     GPU(GetLastError)
#define gpuGetDeviceCount                   GPU(GetDeviceCount)
#define gpuGetDeviceProperties              GPU(GetDeviceProperties)
#define gpuSetDevice                        GPU(SetDevice)
#define gpuMalloc                           GPU(Malloc)
#define gpuFree                             GPU(Free)
#define gpuHostGetDevicePointer             GPU(HostGetDevicePointer)
#define gpuMemGetInfo                       GPU(MemGetInfo)
#define gpuStream                           GPU(Stream_t)
#define gpuStreamCreate(s)                  GPU(StreamCreateWithFlags)((s), GPU(StreamNonBlocking))
#define gpuStreamDestroy                    GPU(StreamDestroy)
#define gpuStreamSynchronize                GPU(StreamSynchronize)
#define gpuMemcpyAsync(to, from, bytes, stream)                                                              \
    GPU(MemcpyAsync)((to), (from), (bytes), GPU(MemcpyDefault), (stream))
#define gpuEvent                         GPU(Event_t)
#define gpuEventCreate                   GPU(EventCreate)
#define gpuEventDestroy                  GPU(EventDestroy)
#define gpuEventRecord                   GPU(EventRecord)
#define gpuEventElapsedTime              GPU(EventElapsedTime)
#define gpuStreamBeginCapture(s)         GPU(StreamBeginCapture)((s), GPU(StreamCaptureModeThreadLocal))
#define gpuGraph                         GPU(Graph_t)
#define gpuGraphExec                     GPU(GraphExec_t)
#define gpuGraphInstantiate(exec, graph) GPU(GraphInstantiateWithFlags)((exec), (graph), 0)

/* ---- The language of kernels ---- */

#ifdef __cplusplus
#define GPU_DEVICE static __device__ __forceinline__
#ifndef HOTSET_GPU_EMULATION
#define GPU_KERNEL(threads)                             static __global__ void __launch_bounds__(threads)
#define GPU_SHARED(type, name)                          __shared__ type name
#define GPU_UNROLL                                      _Pragma("unroll") /* before loops whose array indices are to become registers */
#define GPU_SYNC()                                      __syncthreads()
#define GPU_ATOMIC_ADD(p, v)                            atomicAdd((p), (v)) /* integers: sums have no order */
#define GPU_POLLS_PER_S                                 ((uint64_t)1 << 19) /* of pinned memory, about */
#define GPU_FENCE_SYSTEM()                              __threadfence_system()
#define GPU_POPCOUNT(bits)                              __popc(bits)
#define GPU_LOAD_SYSTEM(p)                              (*(const volatile uint64_t *)(p))
#define GPU_STORE_SYSTEM(p, v)                          (*(volatile uint64_t *)(p) = (v))
#define GPU_HALF_TO_FLOAT(bits)                         __half2float(__ushort_as_half(bits))
#define GPU_FLOAT_TO_HALF(value)                        __half_as_ushort(__float2half_rn(value))
#define GPU_FLOAT_OF_BITS(bits)                         __uint_as_float(bits)
#define GPU_BITS_OF_FLOAT(value)                        __float_as_uint(value)
#define GPU_LAUNCH(kernel, grid, threads, stream, args) kernel<<<(grid), (threads), 0, (stream)>>>(args)
#endif

#if defined(HOTSET_GPU_CUDA)
#include <cuda_fp16.h>
#define GPU_WARP_SYNC()          __syncwarp()
#define GPU_SHUFFLE(v, lane)     __shfl_sync(0xFFFFFFFFu, (v), (lane))
#define GPU_SHUFFLE_DOWN(v, by)  __shfl_down_sync(0xFFFFFFFFu, (v), (by))
#define GPU_SHUFFLE_XOR(v, mask) __shfl_xor_sync(0xFFFFFFFFu, (v), (mask))
#define GPU_BALLOT(predicate)    __ballot_sync(0xFFFFFFFFu, (predicate))
#define GPU_BACKOFF()            __nanosleep(200)
#define GPU_DOT4(a, b, c)        __dp4a((int)(a), (int)(b), (int)(c)) /* signed bytes */
#elif defined(HOTSET_GPU_HIP)
#include <hip/hip_fp16.h>
#define GPU_WARP_SYNC()          (__threadfence_block(), __builtin_amdgcn_wave_barrier())
#define GPU_SHUFFLE(v, lane)     __shfl((v), (lane), GPU_WARP)
#define GPU_SHUFFLE_DOWN(v, by)  __shfl_down((v), (by), GPU_WARP)
#define GPU_SHUFFLE_XOR(v, mask) __shfl_xor((v), (mask), GPU_WARP)
#define GPU_BALLOT(predicate)    ((uint32_t)(__ballot(predicate) >> (__lane_id() & 32)))
#define GPU_BACKOFF()            __builtin_amdgcn_s_sleep(8)
#if defined(__gfx906__) || defined(__gfx908__) || defined(__gfx90a__) || defined(__gfx1030__) ||             \
    defined(__gfx1031__) || defined(__gfx1032__) || defined(__gfx1034__) || defined(__gfx1035__) ||          \
    defined(__gfx1036__)
#define GPU_DOT4(a, b, c) __builtin_amdgcn_sdot4((int)(a), (int)(b), (int)(c), false)
#elif defined(__gfx1100__) || defined(__gfx1101__) || defined(__gfx1102__) || defined(__gfx1103__)
#define GPU_DOT4(a, b, c) __builtin_amdgcn_sudot4(true, (int)(a), true, (int)(b), (int)(c), false)
#endif
#endif

#ifndef GPU_DOT4
GPU_DEVICE int gpu_dot4(uint32_t a, uint32_t b, int c) {
    for (int i = 0; i < 32; i += 8) c += (int)(int8_t)(a >> i) * (int)(int8_t)(b >> i);
    return c;
}
#define GPU_DOT4(a, b, c) gpu_dot4((uint32_t)(a), (uint32_t)(b), (int)(c))
#endif
#endif

#endif
