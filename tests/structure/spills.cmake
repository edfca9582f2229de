# What the compiler made of the linears' inner loops; ref has no vector registers to spill. Of its own, as a second
# compiler's run takes it and not the rest of structure.cmake: gcc and clang spill in different loops.
set(klens_structure "${CMAKE_CURRENT_LIST_DIR}")

function(klens_add_structure_test name)
  add_test(NAME structure.${name} COMMAND sh ${ARGN} COMMAND_EXPAND_LISTS)
  set_tests_properties(structure.${name} PROPERTIES LABELS structure TIMEOUT 900)
endfunction()

foreach(level IN LISTS KLENS_COMPILED_LEVELS)
  klens_level_base(${level} base)
  set(klens_judged "")
  if(NOT base STREQUAL level)  # overrides only: its linears may stand in its table's object
    set(klens_judged --all)
  endif()
  if(NOT level STREQUAL "ref")
    klens_add_structure_test(spills.${level} "${klens_structure}/spills.sh" ${level} ${klens_judged}
                             "$<TARGET_OBJECTS:klens_levels_${level}>")
  endif()
endforeach()
klens_add_structure_test(spills.tripwire "${klens_structure}/spills_tripwire.sh" "${CMAKE_CXX_COMPILER}")
