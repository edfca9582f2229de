# The per-level part of this folder's test: probe.cpp once per compiled level, linked into test_simd.
foreach(level IN LISTS KLENS_COMPILED_LEVELS)
  add_library(test_simd_${level} OBJECT "${CMAKE_CURRENT_LIST_DIR}/per_level/probe.cpp")
  target_link_libraries(test_simd_${level} PRIVATE klens::klens klens_warnings)
  klens_level_target(test_simd_${level} ${level})
  target_sources(test_simd PRIVATE $<TARGET_OBJECTS:test_simd_${level}>)
  target_compile_definitions(test_simd PRIVATE KLENS_PROBE_${level}=1)
endforeach()
