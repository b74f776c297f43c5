// Reads of a kernel's machine code (an ELF file) what the driver refuses launches by.
#pragma once
#include <elf.h>

#include <cstdint>
#include <cstring>
#include <string>

struct Kernel {
    int fixed_shared = 0;              // bytes of shared memory that the kernel declares
    int dynamic_shared = 48 << 10;     // bytes that a launch may ask for, until the attribute is set
    unsigned cluster[3] = {0, 0, 0};   // __cluster_dims__, if any
    unsigned most_threads = 1024;      // of a block: __launch_bounds__
};

class Cubin {
public:
    explicit Cubin(const void* image) : bytes(static_cast<const char*>(image)) {}

    bool valid() const { return std::memcmp(bytes, ELFMAG, SELFMAG) == 0; }

    bool kernel(const std::string& name, Kernel* found) const {
        if (!section(".text." + name)) return false;
        if (auto* shared = section(".nv.shared." + name))
            found->fixed_shared = int(shared->sh_size) - RESERVED;
        found->dynamic_shared -= found->fixed_shared;
        if (auto* info = section(".nv.info." + name)) attributes(*info, found);
        return true;
    }

private:
    enum { RESERVED = 1024 };  // bytes of each block that are CUDA's own; the section counts them, too
    enum { HAS_BYTES = 4, MAX_THREADS = 0x05, CTA_PER_CLUSTER = 0x3d };  // EIFMT_SVAL, EIATTR_...

    const Elf64_Shdr* section(const std::string& name) const {
        auto* file = reinterpret_cast<const Elf64_Ehdr*>(bytes);
        auto* all = reinterpret_cast<const Elf64_Shdr*>(bytes + file->e_shoff);
        const char* names = bytes + all[file->e_shstrndx].sh_offset;
        for (int i = 0; i < file->e_shnum; ++i)
            if (name == names + all[i].sh_name) return all + i;
        return nullptr;
    }

    // Each entry: one byte of format, one that says what it is, two with its value or how many bytes follow.
    void attributes(const Elf64_Shdr& info, Kernel* found) const {
        for (const char *at = bytes + info.sh_offset, *end = at + info.sh_size; at + 4 <= end;) {
            uint16_t size;
            std::memcpy(&size, at + 2, 2);
            const bool has_bytes = at[0] == HAS_BYTES;
            unsigned values[3];
            if (has_bytes && size >= 12) {
                std::memcpy(values, at + 4, 12);
                if (at[1] == CTA_PER_CLUSTER) std::memcpy(found->cluster, values, 12);
                if (at[1] == MAX_THREADS) found->most_threads = values[0] * values[1] * values[2];
            }
            at += has_bytes ? 4 + size : 4;
        }
    }

    const char* bytes;
};
