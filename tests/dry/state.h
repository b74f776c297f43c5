// What the driver and the runtime of the dry run share.
#pragma once
#include <set>

struct Graph { long nodes; };

struct Capture {
    std::set<const void*> streams, events;  // those that a capture holds now
    int mode = 0;                           // cudaStreamCaptureMode
    long nodes = 0;
    bool active() const { return !streams.empty(); }
};

extern Capture capture;
