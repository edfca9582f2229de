# ISA levels: the only place that knows compiler flags for them, with the negatives that keep a level from using more.
#
#   klens_level_flags(LEVEL OUT)             flags of a level (ref avx2 avx_vnni avx512 avx512_vnni)
#   klens_add_levels(TARGET LEVELS l1 l2)    a static library with the kernels of each level, chosen at run time
#                                            (klens/dispatch/select.hpp); no LEVELS: all of them
#
# Level objects are built at -O2 or more in every configuration: at -O0 helpers that must inline would be left as weak
# symbols for the linker to choose among.
include_guard(GLOBAL)

# In the cache: a project that took us with FetchContent calls these functions from outside our scope.
set(KLENS_ALL_LEVELS ref avx2 avx_vnni avx512 avx512_vnni CACHE INTERNAL "ISA levels, weakest first")

function(klens_level_flags level out)
  set(no512 -mno-avx512f)
  if(level STREQUAL "ref")
    set(flags -march=x86-64 -mno-avx)
  elseif(level STREQUAL "avx2")
    set(flags -march=x86-64-v3 -mno-avxvnni ${no512})
  elseif(level STREQUAL "avx_vnni")
    set(flags -march=x86-64-v3 -mavxvnni ${no512})
  elseif(level STREQUAL "avx512")
    set(flags -march=x86-64-v4 -mprefer-vector-width=512 -mno-avx512vnni -mno-avx512bf16 -mno-avxvnni)
  elseif(level STREQUAL "avx512_vnni")
    set(flags -march=x86-64-v4 -mprefer-vector-width=512 -mavx512vnni -mno-avx512bf16 -mno-avxvnni)
  else()
    message(FATAL_ERROR "klens: unknown ISA level '${level}'; known: ${KLENS_ALL_LEVELS}")
  endif()
  set(${out} ${flags} PARENT_SCOPE)
endfunction()

# Sets what all objects of a level share: flags, optimisation, hidden symbols, no exceptions and no RTTI, no LTO.
function(klens_level_target target level)
  klens_level_flags(${level} flags)
  target_compile_options(${target} PRIVATE ${flags} -ffp-contract=off -fno-exceptions -fno-rtti -fvisibility=hidden
    -O2)  # -O3 makes the linears of ref compile four times as long (23 s to 90 s with gcc 12)
  set_target_properties(${target} PROPERTIES INTERPROCEDURAL_OPTIMIZATION OFF CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
endfunction()

# The levels this compiler can build, weakest first.
function(klens_levels_known out)
  set(${out} ${KLENS_ALL_LEVELS} PARENT_SCOPE)
endfunction()

# Writes a generated file, touching it only when its text changes.
function(klens_generate file text)
  set(old "")
  if(EXISTS "${file}")
    file(READ "${file}" old)
  endif()
  if(NOT old STREQUAL text)
    file(WRITE "${file}" "${text}")
  endif()
endfunction()

function(klens_add_levels target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LEVELS")
  set(levels ${arg_LEVELS})
  if(NOT levels)
    klens_levels_known(levels)
  endif()
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/klens_levels/${target}")
  set(objects "")
  set(declarations "")
  set(entries "")
  foreach(level IN LISTS KLENS_ALL_LEVELS)
    if(NOT level IN_LIST levels)
      string(APPEND entries " nullptr,")
      continue()
    endif()
    set(sources "")
    foreach(part table linear_f32 linear_a16 linear_a8)
      klens_generate("${folder}/${level}_${part}.cpp" "// Written by klens_add_levels().\n#include <klens/dispatch/level_${part}.hpp>\n")
      list(APPEND sources "${folder}/${level}_${part}.cpp")
    endforeach()
    add_library(${target}_${level} OBJECT ${sources})
    target_link_libraries(${target}_${level} PRIVATE klens::klens)
    klens_level_target(${target}_${level} ${level})
    list(APPEND objects $<TARGET_OBJECTS:${target}_${level}>)
    string(APPEND declarations "namespace klens::N_${level} { extern const KernelTable kernel_table; }\n")
    string(APPEND entries " &klens::N_${level}::kernel_table,")
  endforeach()
  klens_generate("${folder}/compiled.cpp" "// Written by klens_add_levels().\n#include <klens/dispatch/compiled.hpp>\n${declarations}const klens::CompiledLevels klens::compiled_levels{{${entries}}};\n")
  add_library(${target} STATIC "${folder}/compiled.cpp" ${objects})
  target_link_libraries(${target} PUBLIC klens::klens)
  set(KLENS_COMPILED_LEVELS ${levels} PARENT_SCOPE)
endfunction()
