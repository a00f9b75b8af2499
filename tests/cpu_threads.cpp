// The CPU kernels on several threads, for ThreadSanitizer: every result the same bits for 1, 2, 3 and 8 threads, also
// when two callers work at once. The kernels take their threads from the OpenMP runtime of the process by name; here
// that is std::thread, whose start and end the sanitizer sees (it knows nothing of libgomp's own barriers).
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "promptkernels/cpu.h"

namespace {

using namespace promptkernels;

thread_local int my_number = 0, my_team = 1;
std::atomic<int> teams = 0;  // of several threads

}  // namespace

extern "C" {
__attribute__((visibility("default"))) void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
    auto run = [&](int number) {
        my_number = number;
        my_team = static_cast<int>(threads);
        body(data);
        my_number = 0;
        my_team = 1;
    };
    teams.fetch_add(threads > 1, std::memory_order_relaxed);  // orders nothing that the sanitizer looks at
    std::vector<std::thread> team;
    for (unsigned number = 1; number < threads; ++number) team.emplace_back(run, static_cast<int>(number));
    run(0);
    for (std::thread& member : team) member.join();
}
__attribute__((visibility("default"))) int omp_get_thread_num() { return my_number; }
__attribute__((visibility("default"))) int omp_get_num_threads() { return my_team; }
}

namespace {

constexpr index_t kTasks = 7, kOthers = 3, kLength = 12, kHidden = 1999, kRank = 2, kBatch = 9, kText = 5;

template <class A>
std::vector<A> numbers(index_t count, unsigned seed) {
    std::vector<A> made(static_cast<std::size_t>(count));
    std::uint32_t state = 2654435761u * (seed + 1);
    for (A& value : made) {
        state = state * 1664525u + 1013904223u;
        value = static_cast<A>(static_cast<std::int32_t>(state) / 2147483648.0);
    }
    return made;
}

// Every kernel once; all results, one behind the other.
template <class A>
std::vector<A> everything(int threads) {
    const bool wide = sizeof(A) == 8;
    const DType type = wide ? DType::f64 : DType::f32;
    const auto prompts = numbers<A>(kTasks * kLength * kHidden, 1), others = numbers<A>(kOthers * kLength * kHidden, 2);
    const auto start = numbers<A>(kLength * kHidden, 3), scale = numbers<A>(kTasks * kLength, 4);
    const auto scores = numbers<A>(kTasks * kLength * kHidden, 5), weights = numbers<A>(kTasks, 6);
    const auto u = numbers<A>(kTasks * kLength * kRank, 7), v = numbers<A>(kTasks * kRank * kHidden, 8);
    const auto embeds = numbers<A>(kBatch * kText * kHidden, 9), grads = numbers<A>(kBatch * kLength * kHidden, 10);
    const Rows left{prompts.data(), start.data(), scale.data(), kTasks, kLength, kHidden, type};
    const Rows right{others.data(), start.data(), nullptr, kOthers, kLength, kHidden, type};
    std::vector<A> all;
    auto out = [&](index_t count) { return std::vector<A>(static_cast<std::size_t>(count)); };
    auto keep = [&](const std::vector<A>& found) { all.insert(all.end(), found.begin(), found.end()); };
    for (Metric metric : {Metric::cosine, Metric::token_mean_cosine, Metric::token_mean_dot})
        for (const Rows* beside : {static_cast<const Rows*>(nullptr), &right}) {
            const index_t m = beside ? kOthers : kTasks;
            auto found = out(kTasks * m), norms = out(kTasks), other_norms = out(m), z = out(kTasks * m);
            const bool with_z = metric == Metric::cosine;
            cpu::similarity(left, beside, metric, 1e-8, found.data(), norms.data(), other_norms.data(),
                            with_z ? z.data() : nullptr, threads);
            keep(z);
            auto d_prompts = out(kTasks * kLength * kHidden), d_start = out(kLength * kHidden);
            auto d_others = out(kOthers * kLength * kHidden), d_scale = out(kTasks * kLength);
            cpu::similarity_backward(
                grads.data(), left, beside, metric, 1e-8, found.data(), norms.data(), other_norms.data(),
                {d_prompts.data(), d_start.data(), beside ? d_others.data() : nullptr, d_scale.data()}, threads);
            for (const auto* one : {&found, &norms, &other_norms, &d_prompts, &d_start, &d_others, &d_scale})
                keep(*one);
        }
    const Rows particles{prompts.data(), nullptr, nullptr, kTasks, kLength, kHidden, type};
    const Rows score_rows{scores.data(), nullptr, nullptr, kTasks, kLength, kHidden, type};
    for (bool per_token : {false, true}) {
        const index_t groups = per_token ? kLength : 1;
        auto phi = out(kTasks * kLength * kHidden), kernel = out(groups * kTasks * kTasks), h = out(groups);
        cpu::svgd(particles, score_rows, Bandwidth::liu2016, 0, per_token, phi.data(), kernel.data(), h.data(),
                  threads);
        auto d_particles = phi, d_scores = phi;
        const Rows grad{phi.data(), nullptr, nullptr, kTasks, kLength, kHidden, type};
        cpu::svgd_backward(grad, particles, score_rows, kernel.data(), h.data(), per_token, d_particles.data(),
                           d_scores.data(), threads);
        for (const auto* one : {&phi, &kernel, &h, &d_particles, &d_scores}) keep(*one);
    }
    auto merged = out(kLength * kHidden), d_start = merged;
    auto d_prompts = out(kTasks * kLength * kHidden), d_scale = out(kTasks * kLength), d_weights = out(kTasks);
    cpu::merge(left, weights.data(), merged.data(), threads);
    cpu::merge_backward(grads.data(), left, weights.data(),
                        {d_start.data(), d_prompts.data(), d_scale.data(), d_weights.data()}, threads);
    for (const auto* one : {&merged, &d_start, &d_prompts, &d_scale, &d_weights}) keep(*one);

    const Factors factors{start.data(), u.data(), v.data(), kTasks, kLength, kRank, kHidden, wide};
    const index_t ids[kBatch] = {3, 0, 3, 1, 6, 5, 3, 0, 2};
    auto composed = out(kBatch * (kLength + kText) * kHidden), d_shared = out(kLength * kHidden);
    auto d_u = out(kTasks * kLength * kRank), d_v = out(kTasks * kRank * kHidden);
    cpu::compose(factors, ids, kBatch, embeds.data(), kText, type, composed.data(), threads);
    cpu::compose_backward(grads.data(), kLength * kHidden, type, factors, ids, kBatch, d_shared.data(), d_u.data(),
                          d_v.data(), threads);
    for (const auto* one : {&composed, &d_shared, &d_u, &d_v}) keep(*one);
    return all;
}

template <class A>
bool same(const std::vector<A>& left, const std::vector<A>& right) {
    return left.size() == right.size() && std::memcmp(left.data(), right.data(), left.size() * sizeof(A)) == 0;
}

template <class A>
bool agrees(const char* name) {
    const std::vector<A> alone = everything<A>(1);
    bool good = true;
    for (int threads : {2, 3, 8})
        if (!same(alone, everything<A>(threads))) {
            std::printf("%s: %d threads differ from one\n", name, threads);
            good = false;
        }
    std::vector<A> found[2];
    std::thread callers[2];
    for (int i = 0; i < 2; ++i) callers[i] = std::thread([&found, i] { found[i] = everything<A>(2); });
    for (std::thread& caller : callers) caller.join();
    for (const std::vector<A>& one : found) good = good && same(alone, one);
    std::printf("%s: %zu results%s\n", name, alone.size(), good ? "" : " differ");
    return good;
}

// What the test relies on: two threads that write the same number without order are reported.
int race() {
    int shared = 0;
    GOMP_parallel([](void* number) { *static_cast<volatile int*>(number) = my_number; }, &shared, 2, 0);
    return shared == 0;
}

}  // namespace

int main(int count, char** words) {
    if (count > 1 && std::string(words[1]) == "race") return race();
    const bool good = agrees<float>("float") && agrees<double>("double");
    std::printf("%d teams of threads\n", teams.load());
    return good && teams > 0 ? 0 : 1;
}
