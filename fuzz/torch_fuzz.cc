// The input as a whole archive, and, for all that a checksum would hide, as the pickle of one that is right.
#include "checkpoint/torch_archive.h"
#include "fuzz.h"
#include "zip_file.h"

namespace {

void parse(const std::string& file) {
  using namespace kineograph;
  fuzz::expect_value_or_error([&] {
    const AlignedBytes bytes(file);
    const auto archive = checkpoint::parse_torch(bytes.span(), "input");
    for (const auto& tensor : archive.tensors) fuzz::read_all(tensor.view);
  });
  fuzz::inspect(file);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string input = kineograph::fuzz::text(data, size);
  parse(input);
  parse(kineograph::zip_file({{"a/data.pkl", input}, {"a/data/0", std::string(96, 'x')}, {"a/data/1", "12345678"}}));
  return 0;
}
