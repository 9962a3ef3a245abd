#include <sstream>

#include "fuzz.h"
#include "video/y4m.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kineograph;
  return fuzz::expect_value_or_error([&] {
    std::istringstream in(fuzz::text(data, size));
    video::Y4mReader reader(in, "input");
    std::vector<std::uint8_t> frame;
    while (reader.next(frame)) {
    }
  });
}
