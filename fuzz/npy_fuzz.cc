#include <sstream>

#include "fuzz.h"
#include "video/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kineograph;
  return fuzz::expect_value_or_error([&] {
    std::istringstream in(fuzz::text(data, size));
    fuzz::read_all(video::read_npy(in, "input"));
  });
}
