/* test_kernel_vectors.c - norms, activations and the other vector work of every CPU instruction set that this
 * machine has, against their formulas in double. Attention: test_attend.c.
 */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernel_test.h"

/* ---- Norms, activations and small vector work ---- */

static void check_close(const float *y, const double *expected, size_t n, double tolerance, const char *isa,
                        const char *what) {
    for (size_t i = 0; i < n; i++)
        cr_assert(fabs((double)y[i] - expected[i]) <= tolerance, "%s %s: value %zu of %zu: %.9g is not %.9g",
                  isa, what, i, n, (double)y[i], expected[i]);
}

enum { VECTOR_MAX = 2112 };
static const size_t vector_n[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 64, 65, 100, 511, 2048, VECTOR_MAX};

/* (x - mean) / sqrt(variance + eps) * w + b, or the same without mean and b. */
static void norm_reference(double *y, const float *x, const float *w, const float *b, size_t n, float eps,
                           bool centred) {
    double mean = 0, square = 0;
    for (size_t i = 0; i < n; i++) mean += centred ? (double)x[i] / (double)n : 0;
    for (size_t i = 0; i < n; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean);
    for (size_t i = 0; i < n; i++) {
        const double v = ((double)x[i] - mean) / sqrt(square / (double)n + (double)eps);
        y[i] = v * (w ? (double)w[i] : 1) + (b ? (double)b[i] : 0);
    }
}

Test(kernel_vectors, norms_follow_their_formulas) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    random_state r = {5};
    for (size_t t = 0; t < table_n * COUNT_OF(vector_n); t++) {
        const cpu_kernels *k = &tables[t % table_n];
        const size_t n = vector_n[t / table_n];
        float x[VECTOR_MAX], w[VECTOR_MAX], b[VECTOR_MAX], *y = canary_alloc(n);
        double expected[VECTOR_MAX];
        random_floats(&r, x, n);
        random_floats(&r, w, n);
        random_floats(&r, b, n);
        for (int with_w = 0; with_w < 2; with_w++) {
            k->rmsnorm(y, x, with_w ? w : NULL, n, 1e-5f);
            norm_reference(expected, x, with_w ? w : NULL, NULL, n, 1e-5f, false);
            check_close(y, expected, n, 2e-6, k->isa, "rmsnorm");
        }
        for (size_t i = 0; i < n; i++) x[i] += 3; /* a mean that must be taken away */
        for (int with = 0; with < 4; with++) {
            const float *weight = with & 1 ? w : NULL, *bias = with & 2 ? b : NULL;
            k->layernorm(y, x, weight, bias, n, 1e-3f);
            norm_reference(expected, x, weight, bias, n, 1e-3f, true);
            check_close(y, expected, n, 1e-5, k->isa, "layernorm");
        }
        k->rmsnorm(x, x, w, n, 1e-5f); /* in place */
        canary_check_free(y, n, "a norm");
        for (size_t i = 0; i < n; i++) cr_assert(isfinite(x[i]));
    }
}

static double activation_reference(double x, cpu_activation kind) {
    switch (kind) {
    case CPU_ACT_SILU: return x / (1 + exp(-x));
    case CPU_ACT_GELU: return 0.5 * x * erfc(-x / sqrt(2.0));
    case CPU_ACT_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case CPU_ACT_RELU:
    case CPU_ACT_DRELU: return fmax(x, 0);
    case CPU_ACT_RELU2: return fmax(x, 0) * fmax(x, 0);
    case CPU_ACT_SWIGLU_OAI: return fmin(x, 7) / (1 + exp(-1.702 * fmin(x, 7)));
    case CPU_ACT_COUNT: break;
    }
    abort();
}

Test(kernel_vectors, activations_follow_their_formulas) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    random_state r = {6};
    enum { N = 4001 };
    static float gate[N], up[N], out[N];
    for (size_t t = 0; t < table_n * (CPU_ACT_COUNT); t++) {
        const cpu_kernels *k = &tables[t % table_n];
        const cpu_activation kind = (cpu_activation)(t / table_n);
        for (size_t i = 0; i < N; i++) gate[i] = 0.01f * ((float)i - 2000) + 0.005f * random_float(&r);
        random_floats(&r, up, N);
        for (size_t i = 0; i < N; i++) up[i] *= 9;
        gate[0] = -200, gate[1] = 200, gate[2] = -0.0f, gate[3] = 0x1p-140f;
        for (int with_up = 0; with_up < 2; with_up++) {
            k->activate(out, gate, with_up ? up : NULL, N, kind);
            for (size_t i = 0; i < N; i++) {
                const double x = (double)gate[i];
                double factor = with_up ? (double)up[i] : 1;
                if (kind == CPU_ACT_DRELU) factor = fmax(factor, 0);
                if (kind == CPU_ACT_SWIGLU_OAI && with_up) factor = fmax(fmin(factor, 7), -7) + 1;
                const double expected = activation_reference(x, kind) * factor;
                /* 1e-6 of the value; where the value is the small difference of gate and gate, 1e-7 of the
                 * gate */
                const double tolerance = 1e-6 * fabs(expected) + 1e-7 * fabs(x * factor) + 0x1p-148;
                cr_assert(fabs((double)out[i] - expected) <= tolerance,
                          "%s activation %d of %.9g: %.9g is not %.9g", k->isa, (int)kind, x, (double)out[i],
                          expected);
            }
        }
        k->activate(up, gate, up, N, kind); /* in place */
        cr_assert_arr_eq(up, out, sizeof out);
    }
}

/* Squares and cubes of such x are infinite. */
Test(kernel_vectors, activations_of_huge_values_are_these_or_nothing) {
    static const cpu_activation kinds[] = {CPU_ACT_SILU, CPU_ACT_GELU, CPU_ACT_GELU_TANH};
    static const float huge[] = {2e19f, 1e30f, FLT_MAX};
    cpu_kernels tables[KERNEL_TABLES_MAX];
    for (size_t t = kernel_tables(tables); t-- > 0;) {
        for (size_t i = 0; i < COUNT_OF(kinds) * COUNT_OF(huge); i++) {
            float x[9], y[9]; /* a vector and what is left */
            for (size_t j = 0; j < 9; j++) x[j] = (j % 2 ? -1 : 1) * huge[i % COUNT_OF(huge)];
            const cpu_activation kind = kinds[i / COUNT_OF(huge)];
            tables[t].activate(y, x, NULL, 9, kind);
            for (size_t j = 0; j < 9; j++)
                cr_assert(fabs((double)y[j] - (j % 2 ? 0 : (double)x[j])) <= 1e-7 * fabs((double)x[j]),
                          "%s activation %d of %.9g: %.9g", tables[t].isa, (int)kind, (double)x[j],
                          (double)y[j]);
        }
    }
}

Test(kernel_vectors, exponentials_in_activations_are_exact_to_1e_6) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    for (size_t t = kernel_tables(tables); t-- > 0;) {
        for (float x = -80; x < 80; x += 0.0137f) {
            float y;
            tables[t].activate(&y, &x, NULL, 1, CPU_ACT_SILU);
            const double expected = activation_reference((double)x, CPU_ACT_SILU);
            cr_assert(fabs((double)y - expected) <= 1e-6 * fabs(expected), "%s: %.9g", tables[t].isa,
                      (double)x);
        }
    }
}

Test(kernel_vectors, sums_and_rope_follow_their_formulas) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    random_state r = {7};
    for (size_t t = 0; t < table_n * COUNT_OF(vector_n); t++) {
        const cpu_kernels *k = &tables[t % table_n];
        const size_t n = vector_n[t / table_n];
        float x[2 * VECTOR_MAX], cs[2 * VECTOR_MAX], *y = canary_alloc(2 * n);
        double expected[2 * VECTOR_MAX];
        random_floats(&r, x, 2 * n);
        random_floats(&r, y, 2 * n);
        for (size_t i = 0; i < 2 * n; i++) expected[i] = (double)y[i] + 0.75 * (double)x[i];
        k->axpy(y, x, 0.75f, 2 * n);
        check_close(y, expected, 2 * n, 1e-6, k->isa, "axpy");
        for (size_t i = 0; i < 2 * n; i++) expected[i] = 0.5 * (double)y[i] - 0.25 * (double)x[i];
        k->blend(y, x, 0.5f, -0.25f, 2 * n);
        check_close(y, expected, 2 * n, 1e-6, k->isa, "blend");
        for (size_t i = 0; i < n; i++) cs[2 * i] = cosf((float)i), cs[2 * i + 1] = sinf((float)i);
        for (int adjacent = 0; adjacent < 2; adjacent++) {
            for (size_t i = 0; i < n; i++) {
                const size_t i0 = adjacent ? 2 * i : i, i1 = adjacent ? 2 * i + 1 : i + n;
                const double c = (double)cs[2 * i], s = (double)cs[2 * i + 1];
                expected[i0] = (double)y[i0] * c - (double)y[i1] * s;
                expected[i1] = (double)y[i0] * s + (double)y[i1] * c;
            }
            k->rope(y, cs, n, adjacent);
            check_close(y, expected, 2 * n, 1e-6, k->isa, "rope");
        }
        canary_check_free(y, 2 * n, "axpy, blend or rope");
    }
}

/* Bounds are none of the values, one of them (a score that reaches its threshold counts), and zero. */
Test(kernel_vectors, numbers_above_a_bound_are_listed) {
    static const float odd[] = {0, -0.0f, NAN, INFINITY, -INFINITY, FLT_TRUE_MIN, -FLT_TRUE_MIN, 0.5f};
    static const float bounds[] = {0, -0.25f, 0x1.fffffep-2f, INFINITY, -INFINITY, -FLT_TRUE_MIN};
    cpu_kernels tables[KERNEL_TABLES_MAX];
    const size_t table_n = kernel_tables(tables);
    random_state r = {10};
    for (size_t t = 0; t < table_n * COUNT_OF(vector_n); t++) {
        const size_t n = vector_n[t / table_n];
        float x[VECTOR_MAX], *list = canary_alloc(n);
        uint32_t *where = (uint32_t *)(void *)list;
        random_floats(&r, x, n);
        for (size_t i = 0; i < n; i += 3) x[i] = odd[random_u64(&r) % COUNT_OF(odd)];
        for (size_t b = 0; b < COUNT_OF(bounds); b++) {
            const size_t count = tables[t % table_n].where_above(where, x, n, bounds[b]);
            size_t expected = 0;
            for (size_t i = 0; i < n; i++) {
                if (!(x[i] > bounds[b])) continue;
                cr_assert(expected < count && where[expected] == i, "%s: %zu of %zu", tables[t % table_n].isa,
                          i, n);
                expected++;
            }
            cr_assert_eq(count, expected, "%s, of %zu", tables[t % table_n].isa, n);
        }
        canary_check_free(list, n, "where_above");
    }
}

/* ---- Limits ---- */

Test(kernel_vectors, limits_do_the_work_that_they_count) {
    cpu_kernels tables[KERNEL_TABLES_MAX];
    uint64_t *words = aligned_alloc(CPU_ALIGN, 8192);
    random_state r = {9};
    uint64_t sum = 0;
    for (size_t i = 0; i < 1024; i++) sum += words[i] = random_u64(&r);
    for (size_t t = kernel_tables(tables); t-- > 0;) {
        float sink;
        cr_assert_eq(tables[t].read_sum(words, 8192), sum, "%s", tables[t].isa);
        cr_assert_null(tables[t].peak_bf16);
        const double ints = tables[t].peak_int8(100, &sink), floats = tables[t].peak_f32(100, &sink);
        cr_assert_gt(ints, 0);
        cr_assert_gt(floats, 0);
        cr_assert_float_eq(tables[t].peak_int8(300, &sink), 3 * ints, 0.5);
        cr_assert_float_eq(tables[t].peak_f32(300, &sink), 3 * floats, 0.5);
    }
    free(words);
    for (size_t t = kernel_tables_bf16(tables); t-- > 0;) {
        float sink;
        if (!tables[t].peak_bf16) continue;
        const double products = tables[t].peak_bf16(10, &sink);
        cr_assert_gt(products, 0);
        cr_assert_float_eq(tables[t].peak_bf16(30, &sink), 3 * products, 0.5);
    }
}

Test(kernel_vectors, instruction_sets_have_names) {
    for (int i = 0; i < CPU_ISA_COUNT; i++) {
        cpu_isa isa = CPU_ISA_COUNT;
        cr_assert(cpu_isa_by_name(cpu_isa_name((cpu_isa)i), &isa));
        cr_assert_eq((int)isa, i);
    }
    cpu_isa isa;
    cr_assert_not(cpu_isa_by_name("AVX2 ", &isa));
    cr_assert(cpu_isa_here(CPU_ISA_SCALAR));
    const cpu_isa best = cpu_isa_detect();
    cr_assert(cpu_isa_here(best));
    for (int i = (int)best + 1; i < CPU_ISA_COUNT; i++) cr_assert_not(cpu_isa_here((cpu_isa)i));
}
