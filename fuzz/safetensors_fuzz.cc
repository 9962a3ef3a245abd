#include "checkpoint/safetensors.h"
#include "fuzz.h"
#include "model/layouts.h"
#include "zip_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kineograph;
  fuzz::inspect(fuzz::text(data, size));
  return fuzz::expect_value_or_error([&] {
    const AlignedBytes bytes(fuzz::text(data, size));
    const auto header = checkpoint::parse_safetensors(bytes.span(), "input");
    for (const auto& [name, view] : header.tensors) {
      fuzz::read_all(view);
      model::place_of(name);
    }
  });
}
