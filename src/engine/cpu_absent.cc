// Stands in for src/engine/cpu when KINEOGRAPH_CPU_ENGINE is off.
#include "engine/engine.h"

namespace kineograph::engine {

const Engine* cpu_engine() { return nullptr; }

}  // namespace kineograph::engine
