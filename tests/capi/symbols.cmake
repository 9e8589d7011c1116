# Every object of the library defines only the symbols it should: a kernel object its one table, the
# other objects names of pyoptk.h.  If two kernel objects defined the same function, the linker would
# keep one copy, perhaps that of an instruction set that the CPU does not have.
execute_process(COMMAND ${NM} -g --defined-only ${LIBRARY}
  OUTPUT_VARIABLE listing COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[0-9a-fA-F]+ [A-Z] [^\n]+" symbols "${listing}")
set(tables 0)
set(wrong)
foreach(symbol IN LISTS symbols)
  string(REGEX REPLACE "^.* _?" "" name "${symbol}")
  if(name MATCHES "^[.]refptr[.]")
    continue()  # MinGW's way to a table of another object
  endif()
  if(name MATCHES "^pk_(optim|products|rounded|math|dense|lstm|rnn|gru|gru_before|lstm_coupled|normed)_f(32|64)_[a-z0-9]+$")
    math(EXPR tables "${tables} + 1")
  elseif(NOT name MATCHES "^pk_(optim|math|dense|cell|bf16_products|use_isa|isa|isa_at)$"
      AND NOT name MATCHES "^pk_(optimizers|common_fields|parallel|on_worker|l2_share|ask_for|num_threads|set_num_threads|threads_backend)$")
    list(APPEND wrong ${name})
  endif()
endforeach()
string(REGEX MATCHALL "(optim|products|rounded|math|dense|lstm|rnn|gru|gru_before|lstm_coupled|normed)\\.c\\.o" objects "${listing}")
list(LENGTH objects expected)
if(wrong OR NOT tables EQUAL expected OR tables EQUAL 0)
  message(FATAL_ERROR "${expected} kernel objects, ${tables} tables; not expected: ${wrong}")
endif()
message(STATUS "${tables} tables, one in each kernel object")
