#pragma once

namespace gpe {
// Around a launch, in the thread that launches: catch faults, and end the launch after `time_limit` seconds.
void guard_begin(double time_limit);
void guard_end();
}  // namespace gpe
