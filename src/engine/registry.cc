#include "engine/engine.h"

namespace kineograph::engine {

const std::vector<const Engine*>& engines() {
  static const std::vector<const Engine*> all = [] {
    std::vector<const Engine*> found;
    if (const Engine* cpu = cpu_engine()) found.push_back(cpu);
    found.push_back(&reference_engine());
    if (const Engine* cuda = cuda_engine()) found.push_back(cuda);
    return found;
  }();
  return all;
}

}  // namespace kineograph::engine
