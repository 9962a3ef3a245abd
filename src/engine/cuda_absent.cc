// Stands in for src/engine/cuda when KINEOGRAPH_CUDA_ENGINE is off.
#include "engine/engine.h"

namespace kineograph::engine {

const Engine* cuda_engine() { return nullptr; }
std::string why_no_cuda() { return "it is not in this build, see KINEOGRAPH_CUDA_ENGINE"; }

}  // namespace kineograph::engine
