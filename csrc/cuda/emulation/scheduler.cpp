// Runs the threads of one block after another, each until it returns or waits at a barrier, in rounds that go up or
// down the threads as a fixed sequence of random bits has it, so that a missing barrier shows as a wrong result. A
// thread that waits keeps its stack in a fiber of its own.
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulation {
namespace {

enum class State { ready, at_block_barrier, at_warp_barrier, returned };

constexpr std::size_t kStack = 256 * 1024, kGuard = 4096;

struct Fiber {
    ucontext_t context;
    char* stack = nullptr;
    void* fake_stack = nullptr;  // of AddressSanitizer
};

struct Thread {
    State state = State::ready;
    std::source_location where;
    Fiber* fiber = nullptr;
    unsigned handed_over = 0;  // values, so far
    alignas(8) unsigned char exchange[2][kExchanged];
};

struct Scheduler {
    std::mutex one_launch_at_a_time;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Fiber*> idle;
    std::vector<Thread> threads;
    std::size_t started = 0, current = 0;
    std::uint32_t order = 1;
    Fiber* running = nullptr;
    const std::function<void()>* kernel = nullptr;
    ucontext_t host;
    void* host_fake_stack = nullptr;
    const void* host_stack = nullptr;
    std::size_t host_stack_size = 0;

    void run_block();
    bool release_warp(std::size_t first);
    void release_block();
    void make_current(std::size_t thread);
    void switch_to(Fiber* fiber);
    void switch_to_host();
    void wait(State state, const std::source_location& where);
    [[noreturn]] void diverged(const char* barrier, std::size_t one, std::size_t other);
    void body();
};

Scheduler scheduler;

void fiber_main() { scheduler.body(); }

std::unique_ptr<Fiber> make_fiber() {
    auto fiber = std::make_unique<Fiber>();
    void* memory =
        mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, kGuard, PROT_NONE);  // an overflow of the stack is a fault, not a wrong number
    fiber->stack = static_cast<char*>(memory) + kGuard;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = kStack;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, fiber_main, 0);
    return fiber;
}

void arrived_in_fiber(void* fake_stack) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_stack, &scheduler.host_stack, &scheduler.host_stack_size);
#else
    (void)fake_stack;
#endif
}

// Runs threads until one of them waits; another fiber goes on with those that have not started. A fiber whose thread
// returns is used again and never ends.
void Scheduler::body() {
    arrived_in_fiber(nullptr);
    for (;;) {
        while (started < threads.size()) {
            threads[started].fiber = running;
            make_current(started++);
            (*kernel)();
            threads[current].state = State::returned;
        }
        idle.push_back(running);
        switch_to_host();
    }
}

void Scheduler::make_current(std::size_t thread) {
    current = thread;
    threadIdx.x = static_cast<unsigned>(thread) % blockDim.x;
    threadIdx.y = static_cast<unsigned>(thread) / blockDim.x % blockDim.y;
    threadIdx.z = static_cast<unsigned>(thread) / blockDim.x / blockDim.y;
}

void Scheduler::switch_to_host() {
    Fiber& me = *running;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&me.fake_stack, host_stack, host_stack_size);
#endif
    swapcontext(&me.context, &host);
    arrived_in_fiber(me.fake_stack);
}

void Scheduler::switch_to(Fiber* fiber) {
    running = fiber;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&host_fake_stack, fiber->stack, kStack);
#endif
    swapcontext(&host, &fiber->context);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(host_fake_stack, nullptr, nullptr);
#endif
}

void Scheduler::wait(State state, const std::source_location& where) {
    threads[current].state = state;
    threads[current].where = where;
    switch_to_host();
}

std::string place(const Thread& thread) {
    if (thread.state == State::returned) return "has returned";
    return std::string("waits at ") + thread.where.file_name() + ":" + std::to_string(thread.where.line());
}

void Scheduler::diverged(const char* barrier, std::size_t one, std::size_t other) {
    const std::string message = std::string("emulated block: not all threads reach the same ") + barrier + ": thread " +
                                std::to_string(one) + " " + place(threads[one]) + ", thread " + std::to_string(other) +
                                " " + place(threads[other]);
    for (auto& fiber : fibers) munmap(fiber->stack - kGuard, kGuard + kStack);
    fibers.clear();  // they stand somewhere inside the kernel
    idle.clear();
    throw std::runtime_error(message);
}

bool same_place(const Thread& a, const Thread& b) {
    return a.state == b.state && a.where.line() == b.where.line() && a.where.column() == b.where.column() &&
           std::strcmp(a.where.file_name(), b.where.file_name()) == 0;
}

// Lets the warp go on if it waits at a barrier of its own.
bool Scheduler::release_warp(std::size_t first) {
    const std::size_t end = std::min(first + kWarp, threads.size());
    bool waits = false;
    for (std::size_t t = first; t < end; ++t) waits = waits || threads[t].state == State::at_warp_barrier;
    if (!waits) return false;
    for (std::size_t t = first; t < end; ++t)
        if (!same_place(threads[t], threads[first])) diverged("warp barrier", first, t);
    for (std::size_t t = first; t < end; ++t) threads[t].state = State::ready;
    return true;
}

void Scheduler::release_block() {
    for (std::size_t t = 0; t < threads.size(); ++t)
        if (!same_place(threads[t], threads[0])) diverged("__syncthreads", 0, t);
    for (Thread& thread : threads) thread.state = State::ready;
}

void Scheduler::run_block() {
    const std::size_t count = threads.size(), warps = (count + kWarp - 1) / kWarp;
    threads.assign(count, Thread{});
    started = 0;
    while (started < count) {
        if (idle.empty()) {
            fibers.push_back(make_fiber());
            idle.push_back(fibers.back().get());
        }
        Fiber* fiber = idle.back();
        idle.pop_back();
        switch_to(fiber);
    }
    for (;;) {
        order = order * 1664525u + 1013904223u;  // Numerical Recipes' generator; its highest bit is good enough
        const bool forward = order >> 31;
        for (std::size_t w = 0; w < warps; ++w) {
            const std::size_t first = (forward ? w : warps - 1 - w) * kWarp;
            const std::size_t lanes = std::min<std::size_t>(kWarp, count - first);
            do
                for (std::size_t l = 0; l < lanes; ++l) {
                    const std::size_t t = first + (forward ? l : lanes - 1 - l);
                    if (threads[t].state != State::ready) continue;
                    make_current(t);
                    switch_to(threads[t].fiber);
                }
            while (release_warp(first));
        }
        bool all_returned = true;
        for (const Thread& thread : threads) all_returned = all_returned && thread.state == State::returned;
        if (all_returned) return;
        release_block();
    }
}

}  // namespace

void wait_for_block(const std::source_location& where) { scheduler.wait(State::at_block_barrier, where); }

void wait_for_warp(unsigned mask, const std::source_location& where) {
    if (mask != 0xFFFFFFFFu) {
        std::fprintf(stderr, "emulated warp: a barrier of part of a warp (mask %08x) is not supported\n", mask);
        std::abort();
    }
    scheduler.wait(State::at_warp_barrier, where);
}

bool has_lane(unsigned lane) { return scheduler.current / kWarp * kWarp + lane < scheduler.threads.size(); }
unsigned lane() { return static_cast<unsigned>(scheduler.current % kWarp); }

void hand_over(const void* value, std::size_t bytes, unsigned mask, const std::source_location& where) {
    Thread& me = scheduler.threads[scheduler.current];
    // In turn two places: whoever writes the second value knows that all have read the one before the first.
    std::memcpy(me.exchange[++me.handed_over % 2], value, bytes);
    wait_for_warp(mask, where);
}
const void* handed_over(unsigned lane) {
    const Thread& other = scheduler.threads[scheduler.current / kWarp * kWarp + lane];
    return other.exchange[scheduler.threads[scheduler.current].handed_over % 2];
}

unsigned char* dynamic_shared() {
    alignas(16) static unsigned char memory[kMostShared];
    return memory;
}

void run(dim3 grid, dim3 block, const std::function<void()>& thread) {
    const std::lock_guard<std::mutex> lock(scheduler.one_launch_at_a_time);
    scheduler.kernel = &thread;
    scheduler.threads.resize(std::size_t(block.x) * block.y * block.z);
    gridDim = grid;
    blockDim = block;
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) scheduler.run_block();
}

}  // namespace emulation
