// A kernel needs nothing from the host API; the types and intrinsics are in gpuprop_emulator.h, which is always
// included.
#pragma once
