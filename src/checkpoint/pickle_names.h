// The globals that a pickle names: which of them stand for data.
#pragma once

#include <string_view>

namespace kineograph::checkpoint {

/// Whether a call of "module.name" makes an object of data, as far as its name says: a class, or a function by which a
/// class is pickled. Nothing is called either way; a file that wants anything else called is refused.
bool makes_data(std::string_view name);

/// Whether "module.name" may be what a functools.partial holds: not what runs programs or evaluates texts.
bool may_be_held(std::string_view name);

/// functools.partial and its like, which hold a function to be called later.
bool holds_a_function(std::string_view name);

}  // namespace kineograph::checkpoint
