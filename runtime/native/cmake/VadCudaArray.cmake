# Writes a file as a C++ array: cmake -DFROM=x.fatbin -DTO=x.cpp -P VadCudaArray.cmake
file(READ ${FROM} bytes HEX)
string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE ${TO} "// Made by VadCudaArray.cmake.
namespace vad::cuda {
alignas(16) extern const unsigned char resize_fatbin[] = {
${bytes}};
}
")
