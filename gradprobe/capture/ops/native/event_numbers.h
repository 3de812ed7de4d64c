// Numbers in events: those of recording/events.py, which are compared with these when the library is loaded.

#pragma once

namespace gradprobe {

enum EventAction { EXIT = 1, ACTION_MASK = 3 };
enum EventSubject { INFERENCE_MODE = 16, THREAD = 24, TALLY = 32, ESCAPED_TENSORS = 40, OP_ROWS = 68, OP_BATCH = 72 };
enum UnknownNumber { NOWHERE = 0, NOT_COUNTED = -1, NOT_READ = 2 };

}  // namespace gradprobe
