# Compiles for Linux with glibc 2.28 or later on an x86_64 or aarch64 processor, by the compiler of the package ziglang.
# tools/wheels.py sets the variables.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR $ENV{PK_PROCESSOR})
# zig compiles its C++ library once for each set of options, which takes minutes. So there is only one: these, also where
# CMake looks at the compiler, and nothing is optimized at link time. -s: `strip` knows no format but this machine's.
set(CMAKE_CXX_COMPILER $ENV{PK_ZIG_PYTHON};-m;ziglang;c++;-target;$ENV{PK_PROCESSOR}-linux-gnu.2.28;-O3;-fPIC;-s)
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION OFF)
set(CMAKE_STRIP "")
# Of the Python that the module is for. Its headers are the same for both processors.
set(Python_INCLUDE_DIR $ENV{PK_PYTHON_INCLUDE} CACHE PATH "")
set(PYTHON_MODULE_EXTENSION $ENV{PK_MODULE_SUFFIX})
set(PYTHON_MODULE_DEBUG_POSTFIX "")
set(CMAKE_PROJECT_INCLUDE ${CMAKE_CURRENT_LIST_DIR}/zig_cache.cmake)
