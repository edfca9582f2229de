# Kernels of hardware that most machines lack, with its instructions emulated (klens/config.hpp), linked into test_kernel:
# AMX over the plain level and over the level it stands on, signed 256-bit dot products over avx2.
function(klens_add_emulation name level source definition)
  if(NOT level IN_LIST KLENS_COMPILED_LEVELS)
    return()
  endif()
  add_library(test_kernel_${name} OBJECT "${klens_kernel_tests}/per_level/${source}")
  target_link_libraries(test_kernel_${name} PRIVATE klens::klens klens_warnings)
  target_compile_definitions(test_kernel_${name} PRIVATE ${definition}=1)
  klens_level_target(test_kernel_${name} ${level})
  target_sources(test_kernel PRIVATE $<TARGET_OBJECTS:test_kernel_${name}>)
  target_compile_definitions(test_kernel PRIVATE KLENS_EMULATED_${name}=1)
endfunction()

set(klens_kernel_tests "${CMAKE_CURRENT_LIST_DIR}")
klens_add_emulation(amx_over_ref ref emulated_linear.cpp KLENS_EMULATE_AMX)
klens_add_emulation(amx_over_avx512_vnni avx512_vnni emulated_linear.cpp KLENS_EMULATE_AMX)
klens_add_emulation(vnni_int8 avx2 emulated_linear.cpp KLENS_EMULATE_VNNI_INT8)

# The objects of such levels as they are, for tests/support/trapped.hpp to carry out what the CPU lacks.
foreach(level amx_int8 avx_vnni_int8)
  if(level IN_LIST KLENS_COMPILED_LEVELS)
    target_compile_definitions(test_kernel PRIVATE KLENS_TRAPPED_${level}=1)
  endif()
endforeach()
