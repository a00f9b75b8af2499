# Read after `project`. zig keeps what it compiled, and the kernels are the same for every Python; but not where it has to
# list the headers of a source, as only a second build in the same folder needs them.
set(CMAKE_DEPFILE_FLAGS_CXX "")
