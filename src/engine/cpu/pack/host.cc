#include "engine/cpu/pack/host.h"

namespace kineograph::engine::cpu {
namespace {

thread_local Host of_this_thread;

}  // namespace

const Host& host() noexcept { return of_this_thread; }

HostScope::HostScope(const Host& host) noexcept : before_(of_this_thread) { of_this_thread = host; }
HostScope::~HostScope() { of_this_thread = before_; }

}  // namespace kineograph::engine::cpu
