// Signals that the operating system sends instead of an error.
#pragma once

namespace kineograph::cli {

/// A file that somebody cuts off while it is mapped ends the process by SIGBUS: the program then says which file it
/// was, removes what it has not finished writing, and exits with 1.
void explain_changed_files();

/// SIGINT, SIGTERM and SIGHUP end the process as they do without a handler, after what it has not finished writing is
/// removed: outputs are whole or absent. A signal that is ignored stays so; commands with an end of their own (train,
/// restore) replace these handlers.
void leave_nothing_unfinished();

}  // namespace kineograph::cli
