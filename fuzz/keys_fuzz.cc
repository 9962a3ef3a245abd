// Lines as names of weights and of low-rank factors: a place's own name leads to the same place again.
#include <sstream>

#include "fuzz.h"
#include "model/layouts.h"
#include "model/lora_keys.h"

namespace {

void check(const std::optional<kineograph::model::Place>& place) {
  if (!place || place->parameter.empty()) return;
  const std::string own = place->module.empty() ? place->parameter : place->module + "." + place->parameter;
  if (own.size() > 1000) return;  // names of inputs are bounded, and diffusers' may be longer than the original's
  const auto again = kineograph::model::place_of(own);
  if (place->parameter.find('.') == std::string::npos) return;  // "norm" of "norm.module"
  if (!again || again->module != place->module || again->parameter != place->parameter || !again->prefix.empty())
    __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kineograph;
  std::istringstream lines(fuzz::text(data, size));
  for (std::string line; std::getline(lines, line);) {
    check(model::place_of(line));
    if (const auto key = model::read_lora_key(line)) check(model::lora_target(key->layer));
    check(model::lora_target(line));
  }
  return 0;
}
