// Signals that the operating system sends instead of an error.
#pragma once

namespace kineograph::cli {

/// A file that somebody cuts off while it is mapped ends the process by SIGBUS: the program then says which file it
/// was, removes what it has not finished writing, and exits with 1.
void explain_changed_files();

}  // namespace kineograph::cli
