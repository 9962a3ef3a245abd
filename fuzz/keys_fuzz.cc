// Lines as names of weights and of low-rank factors: a place's own name leads to the same place again.
#include <sstream>

#include "fuzz.h"
#include "model/layouts.h"
#include "model/lora_keys.h"

namespace {

/// `find` is place_of or spatial_place_of.
template <class Place, class Find>
void check(const std::optional<Place>& place, const Find& find) {
  if (!place) return;
  const std::string own = place->module.empty() ? place->parameter : place->module + "." + place->parameter;
  if (own.size() > 1000) return;  // names of inputs are bounded, and diffusers' may be longer than the original's
  const auto again = find(own);
  if (!again || again->module != place->module || again->parameter != place->parameter || !again->prefix.empty())
    __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kineograph;
  std::istringstream lines(fuzz::text(data, size));
  for (std::string line; std::getline(lines, line);) {
    check(model::place_of(line), model::place_of);
    check(model::spatial_place_of(line), model::spatial_place_of);
    if (const auto key = model::read_lora_key(line)) check(model::lora_target(key->layer), model::place_of);
    check(model::lora_target(line), model::place_of);
  }
  return 0;
}
