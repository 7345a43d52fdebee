# A function that a header defines is compiled into every object that uses it, and the linker keeps
# any one of them. One from an object for AVX-512 would then run on every processor, and end the
# program on most. So these objects may hold none: no weak symbol.
#
#   cmake -DNM=nm "-DOBJECTS=a.o|b.o" -P no_weak_symbols.cmake

string(REPLACE "|" ";" OBJECTS "${OBJECTS}")
if(NOT OBJECTS)
  message(FATAL_ERROR "no object to look at")
endif()
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} --demangle --defined-only ${object}
    OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*" weak "${symbols}")
  if(weak)
    list(JOIN weak "\n  " lines)
    message(FATAL_ERROR "${object} defines what the linker may use everywhere:\n  ${lines}")
  endif()
endforeach()
