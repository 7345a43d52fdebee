# 64-bit Arm with Debian's cross compiler (scripts/system-packages cross). Programs run under qemu
# where it is installed, so `ctest` works on the machine that builds.
#
# Libraries for arm64 are found where Debian's multiarch puts them, for example after
# `dpkg --add-architecture arm64; apt install libavformat-dev:arm64`; never those of this machine.

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

set(vad_triple aarch64-linux-gnu)
set(CMAKE_C_COMPILER ${vad_triple}-gcc)
set(CMAKE_CXX_COMPILER ${vad_triple}-g++)
set(CMAKE_LIBRARY_ARCHITECTURE ${vad_triple})

set(CMAKE_FIND_ROOT_PATH /usr/${vad_triple} /usr/lib/${vad_triple})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_LIBDIR} /usr/lib/${vad_triple}/pkgconfig)

find_program(vad_qemu NAMES qemu-aarch64-static qemu-aarch64)
if(vad_qemu)
  # -L: where the loader and the C library of Debian's cross packages are.
  set(CMAKE_CROSSCOMPILING_EMULATOR "${vad_qemu};-L;/usr/${vad_triple}")
endif()
