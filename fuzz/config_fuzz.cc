#include "fuzz.h"
#include "kineograph/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kineograph;
  return fuzz::expect_value_or_error([&] {
    const auto config = TransformerTemporalConfig::from_json(fuzz::text(data, size), "input", UnknownKeys::warn);
    config.validate();
    const std::string written = config.to_json();
    if (TransformerTemporalConfig::from_json(written).to_json() != written) __builtin_trap();
  });
}
