# Structural tests: what no unit test can see. Shell scripts of this folder, one ctest each.
include("${CMAKE_CURRENT_LIST_DIR}/spills.cmake")  # klens_structure, klens_add_structure_test()

klens_add_structure_test(includes "${klens_structure}/includes.sh")
klens_add_structure_test(rules "${klens_structure}/rules.sh")
klens_add_structure_test(snippets "${klens_structure}/snippets.sh" "${CMAKE_CXX_COMPILER}")
klens_add_structure_test(first_use "${klens_structure}/first_use.sh" "${CMAKE_CXX_COMPILER}")
klens_add_structure_test(scripts "${klens_structure}/scripts.sh")

# Header self-containment in batches of equal weight.
set(klens_launcher "")
if(CMAKE_CXX_COMPILER_LAUNCHER)
  set(klens_launcher --launcher "${CMAKE_CXX_COMPILER_LAUNCHER}")
endif()
klens_add_structure_test(headers.kernels "${klens_structure}/headers.sh" "${CMAKE_CXX_COMPILER}" ${klens_launcher}
                         . core format isa simd kernel plan dispatch component)
klens_add_structure_test(headers.io "${klens_structure}/headers.sh" "${CMAKE_CXX_COMPILER}" ${klens_launcher} io)
klens_add_structure_test(headers.lens "${klens_structure}/headers.sh" "${CMAKE_CXX_COMPILER}" ${klens_launcher} model quant lens report)

if(EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/must_not_compile/run.sh")
  klens_add_structure_test(must_not_compile "${CMAKE_CURRENT_SOURCE_DIR}/must_not_compile/run.sh" "${PROJECT_SOURCE_DIR}/include")
  set_property(TEST structure.must_not_compile APPEND PROPERTY ENVIRONMENT "CXX=${CMAKE_CXX_COMPILER}")
endif()

# The objects of every level, and of code that runs before a level is chosen.
foreach(level IN LISTS KLENS_COMPILED_LEVELS)
  klens_add_structure_test(objects.${level} "${klens_structure}/objects.sh" ${level} "$<TARGET_OBJECTS:klens_levels_${level}>")
  if(TARGET klens_test_mixed_${level})  # what klens_add_model() compiles is held to the same rules
    klens_add_structure_test(objects.model.${level} "${klens_structure}/objects.sh" ${level} --no-dots
                             "$<TARGET_OBJECTS:klens_test_mixed_${level}>")
  endif()
endforeach()
klens_add_structure_test(objects.tripwire "${klens_structure}/objects_tripwire.sh" "${CMAKE_CXX_COMPILER}")
klens_add_structure_test(objects.baseline "${klens_structure}/objects.sh" baseline "$<TARGET_OBJECTS:klens_test_main>"
                         "$<TARGET_OBJECTS:klens_levels>")
