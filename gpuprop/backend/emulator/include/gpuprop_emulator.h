// Included before every kernel file that is compiled for the CPU. NVIDIA's own vector and half types come first (they
// compile with any C++ compiler); the rest stands in for what the CUDA compiler knows by itself.
#pragma once
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <type_traits>
#include <utility>
#include <math.h>  // the C++ library's: float overloads of exp, log, ... in the global namespace, as in CUDA
#include <stdlib.h>

#include <vector_types.h>
#include <vector_functions.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>

#include "gpuprop_emulator/interface.h"
#include "gpuprop_emulator/builtins.h"
#include "gpuprop_emulator/warp.h"
#include "gpuprop_emulator/atomics.h"
#include "gpuprop_emulator/math.h"
#include "gpuprop_emulator/half.h"
#include "gpuprop_emulator/cluster.h"
#include "gpuprop_emulator/kernel_table.h"
#include "gpuprop_emulator/device_macros.h"
