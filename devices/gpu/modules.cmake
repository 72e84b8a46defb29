# modules.cmake - the modules of GPUs: the same source built once for each kind that this machine has a compiler for. What
# is missing is said in one line and left out.

set(HOTSET_GPU_HOST devices/gpu/answers.c devices/gpu/device.c devices/gpu/export.c devices/gpu/families.c devices/gpu/handshake.c
    devices/gpu/limits.c devices/gpu/list.c devices/gpu/operands.c devices/gpu/pump.c devices/gpu/stream_words.c
    devices/gpu/watch.c)
set(HOTSET_GPU_KERNELS devices/gpu/attend.cu devices/gpu/matmul.cu devices/gpu/matvec.cu devices/gpu/neurons.cu
    devices/gpu/pick.cu devices/gpu/queue.cu devices/gpu/vector.cu)
set(HOTSET_GPU_SHARED engine/base.c profiles/gguf.c profiles/gguf_value.c devices/device.c devices/blocks.c devices/neurons.c) # a module stands alone
list(APPEND HOTSET_GPU_SHARED devices/cpu/ref_quant.c) # what known answers are

# Host code in C and what all modules have in common.
function(hotset_gpu_module kind vendor)
  set(target hotset_${kind})
  add_library(${target} MODULE ${HOTSET_GPU_HOST} ${HOTSET_GPU_SHARED} ${ARGN})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME hotset-${kind} CXX_VISIBILITY_PRESET hidden
                        LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
  target_compile_definitions(${target} PRIVATE ${vendor})
  target_link_libraries(${target} PRIVATE hotset_settings Threads::Threads PkgConfig::XXHASH m)
  target_link_options(${target} PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/devices/gpu/modules.map)
  if(NOT HOTSET_SANITIZE) # whose runtime the program has
    target_link_options(${target} PRIVATE -Wl,-z,defs)
  endif()
  # of HIP's runtime there is no static library: its module goes into a package of its own
  set(component hotset)
  if(kind STREQUAL hip)
    set(component hip)
  endif()
  install(TARGETS ${target} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT ${component})
endfunction()

# ---- The emulation: kernels by the host's C++ compiler; its fibers are x86-64 code ----
include(CheckLanguage)
check_language(CXX)
if(CMAKE_CXX_COMPILER AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  enable_language(CXX)
  set_source_files_properties(${HOTSET_GPU_KERNELS} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
  hotset_gpu_module(emu HOTSET_GPU_EMU devices/gpu/emulate.c devices/gpu/emulate_runtime.c ${HOTSET_GPU_KERNELS})
  set_target_properties(hotset_emu PROPERTIES CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON LINKER_LANGUAGE C)
  # kernels are what is slow: barriers between 256 threads, one after the other
  target_compile_options(hotset_emu PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-O2 -fno-exceptions -fno-rtti>)
else()
  message(STATUS "no libhotset-emu: it needs a C++ compiler for x86-64")
endif()

# Kernels go through the vendor's compiler by commands of our own: CMake knows nvcc, but a file can have one language only,
# and hipcc of Debian only with much help.
function(hotset_gpu_objects out kind compiler)
  set(objects)
  foreach(source ${HOTSET_GPU_KERNELS})
    cmake_path(GET source STEM stem)
    set(object ${PROJECT_BINARY_DIR}/${kind}/${stem}.o)
    add_custom_command(OUTPUT ${object} DEPFILE ${object}.d VERBATIM
      COMMAND ${CMAKE_COMMAND} -E make_directory ${PROJECT_BINARY_DIR}/${kind}
      COMMAND ${compiler} ${ARGN} -I${PROJECT_SOURCE_DIR} -D_GNU_SOURCE -std=c++17 -O2 -MD -MF ${object}.d
              -c ${PROJECT_SOURCE_DIR}/${source} -o ${object}
      DEPENDS ${PROJECT_SOURCE_DIR}/${source} COMMENT "Building ${kind} kernels ${source}")
    list(APPEND objects ${object})
  endforeach()
  set(${out} ${objects} PARENT_SCOPE)
endfunction()

# ---- CUDA ----
find_program(HOTSET_NVCC nvcc HINTS /usr/local/cuda/bin ENV CUDA_PATH PATH_SUFFIXES bin)
mark_as_advanced(HOTSET_NVCC)
if(HOTSET_NVCC AND NOT HOTSET_SANITIZE) # sanitizers watch the same source in the emulation
  cmake_path(GET HOTSET_NVCC PARENT_PATH cuda_root)
  cmake_path(GET cuda_root PARENT_PATH cuda_root)
  execute_process(COMMAND ${HOTSET_NVCC} --list-gpu-code OUTPUT_VARIABLE known ERROR_QUIET)
  set(wanted 75 90)
  if(HOTSET_GPU_ARCHITECTURES_ALL)
    set(wanted 75 80 86 89 90 120)
  endif()
  set(codes)
  foreach(number ${wanted})
    if(known MATCHES "sm_${number}[^0-9]")
      list(APPEND codes -gencode arch=compute_${number},code=sm_${number})
      set(newest ${number})
    endif()
  endforeach()
  list(APPEND codes -gencode arch=compute_${newest},code=compute_${newest}) # newer cards compile it themselves
  hotset_gpu_objects(cuda_objects cuda ${HOTSET_NVCC} ${codes} -DHOTSET_GPU_CUDA -fmad=false
                     -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra)
  hotset_gpu_module(cuda HOTSET_GPU_CUDA ${cuda_objects})
  target_include_directories(hotset_cuda SYSTEM PRIVATE ${cuda_root}/include)
  target_link_directories(hotset_cuda PRIVATE ${cuda_root}/lib64 ${cuda_root}/lib)
  target_link_libraries(hotset_cuda PRIVATE cudart_static stdc++ ${CMAKE_DL_LIBS} rt)
elseif(NOT HOTSET_NVCC)
  message(STATUS "no libhotset-cuda: nvcc is not there")
endif()

# ---- HIP ----
find_program(HOTSET_HIPCC hipcc HINTS /opt/rocm/bin)
mark_as_advanced(HOTSET_HIPCC)
if(HOTSET_HIPCC AND NOT HOTSET_SANITIZE) # sanitizers watch the same source in the emulation
  set(codes gfx1030)
  if(HOTSET_GPU_ARCHITECTURES_ALL)
    set(codes gfx906,gfx90a,gfx1030)
  endif()
  cmake_path(GET HOTSET_HIPCC PARENT_PATH hip_root)
  cmake_path(GET hip_root PARENT_PATH hip_root)
  hotset_gpu_objects(hip_objects hip ${HOTSET_HIPCC} --offload-arch=${codes} -x hip -DHOTSET_GPU_HIP -fPIC
                     -fvisibility=hidden -ffp-contract=off -Wall -Wextra)
  hotset_gpu_module(hip HOTSET_GPU_HIP ${hip_objects})
  target_include_directories(hotset_hip SYSTEM PRIVATE ${hip_root}/include)
  target_link_directories(hotset_hip PRIVATE ${hip_root}/lib)
  target_link_libraries(hotset_hip PRIVATE amdhip64 stdc++)
elseif(NOT HOTSET_HIPCC)
  message(STATUS "no libhotset-hip: hipcc is not there")
endif()
