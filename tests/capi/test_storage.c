/* Storage apart from arithmetic: formats against their definition, steps over narrow arrays against
 * steps over what they hold, and the partition of arrays that are stored in blocks.  Compiled with
 * the kernels' own headers for float32 and the baseline, to reach what the library does not export.
 * */
#include "check.h"

#include "../../csrc/kernels/narrow.h"

#include <stdlib.h>

enum { LONG = 20011 };

/* ---- formats --------------------------------------------------------------------------------- */

static float f16_by_definition(unsigned half)
{
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    const float sign = half >> 15 ? -1.0f : 1.0f;
    if (exponent == 31)
        return mantissa ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexpf(1024.0f + (float)mantissa, exponent - 25)
                            : ldexpf((float)mantissa, -24));
}

static void test_every_half_is_read_by_its_definition(void)
{
    const fp_mode mode = flush_denormals();
    int same = 1;
    for (unsigned half = 0; half < 1 << 16; half++) {
        const float got = from_f16((uint16_t)half), want = f16_by_definition(half);
        same &= isnan(want) ? isnan(got) : bits_of(got) == bits_of(want);
        same &= isnan(want) ? isnan(f16_by_definition(to_f16(want))) : to_f16(want) == half;
        if (!isnan(from_bf16((uint16_t)half)))
            same &= to_bf16(from_bf16((uint16_t)half)) == half;
    }
    restore_denormals(mode);
    CHECK(same);
    CHECK(to_bf16(1 + 0x1p-8f) == 0x3f80 && to_bf16(1 + 0x3p-8f) == 0x3f82); /* ties to even */
    CHECK(to_bf16(1 + 0x1.1p-8f) == 0x3f81 && to_bf16(FLT_MAX) == 0x7f80);
    CHECK(to_f16(1 + 0x1p-11f) == 0x3c00 && to_f16(1 + 0x3p-11f) == 0x3c02);
    CHECK(to_f16(1 + 0x1.1p-11f) == 0x3c01 && to_f16(-65519.9f) == 0xfbff);
    CHECK(to_f16(65520.0f) == 0x7c00 && to_f16(FLT_MAX) == 0x7c00 && to_f16(-0.0f) == 0x8000);
    CHECK(to_f16(0x1p-25f) == 0 && to_f16(0x1.1p-25f) == 1 && to_f16(0x3p-25f) == 2);
    CHECK(to_f16(0x1.ffep-15f) == 0x0400 && to_f16(0x1.ffap-15f) == 0x03ff);
    CHECK(isnan(from_bf16(to_bf16(NAN))) && isnan(from_bf16(to_bf16(float_of(0x7f800001)))));
}

static void test_codes_are_near_and_keep_what_is_not_0(void)
{
    enum { N = PK_BLOCK };
    float x[N], back[N], scale;
    uint32_t words[N / 4];
    for (int positive = 0; positive < 2; positive++) {
        for (int i = 0; i < N; i++) {
            x[i] = ldexpf(1 + (float)(i % 16) / 16, -i / 8) * (!positive && i % 2 ? -1.0f : 1.0f);
            x[i] = i % 7 ? x[i] : 0;
        }
        for (uint32_t stride = 1; stride < 1 << 30; stride = 5 * stride + 2) {
            const numbers of = {stride * 77, stride};
            pk_tensor t = {.n = N, .state = {words}, .scale = {&scale}, .stored.states = PK_8BIT};
            encode_values(x, words, &scale, of, positive);
            read_state(&t, 0, positive, back);
            int good = 1;
            for (int i = 0; i < N; i++) {
                const float step = positive ? 0 : ldexpf(scale, -18); /* of the smallest codes */
                const float least = positive ? ldexpf(scale, -31) * 1.125f : 0;
                const float size = fabsf(x[i]) < least ? least : fabsf(x[i]);
                good &= x[i] == 0 || fabsf(fabsf(back[i]) - size) <= size / 4 + step;
                good &= (x[i] == 0) == (back[i] == 0) || (!positive && size < 2 * step);
                good &= signbit(x[i]) == signbit(back[i]);
            }
            CHECK(good);
        }
    }
    x[3] = NAN;
    encode_values(x, words, &scale, (numbers){1, 1}, 0);
    CHECK(isnan(scale) && words[63] == 0x01010101);
    memset(x, 0, sizeof x);
    encode_values(x, words, &scale, (numbers){~0u, ~0u}, 1);
    for (int i = 0; i < N / 4; i++)
        CHECK(words[i] == 0);
}

/* ---- the partition -----------------------------------------------------------------------------
 * */

static void test_pieces_of_blocks_begin_and_end_at_blocks(void)
{
    const size_t sizes[] = {1, 255, 256, 257, 5000, LONG, 1 << 20};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t chunks = 1; chunks < 200; chunks += 3)
            for (int kind = PK_NATIVE; kind <= PK_8BIT; kind++) {
                const pk_tensor t = {
                    .param = (char *)16, .n = sizes[s], .stored.states = (uint8_t)kind};
                size_t end = 0;
                int good = 1;
                for (size_t c = 0; c < chunks; c++) {
                    const size_t begin = next_grain(&t, pk_chunk_begin(t.n, c, chunks));
                    good &= c == 0 || begin == end; /* the chunk before ended there */
                    good &= kind == PK_NATIVE || begin % PK_BLOCK == 0 || begin == t.n;
                    end = next_grain(&t, pk_chunk_begin(t.n, c + 1, chunks));
                    good &= begin <= end;
                }
                CHECK(good && end == t.n);
            }
}

/* ---- steps -------------------------------------------------------------------------------------
 * */

static float p[2][LONG], g[LONG], m[2][LONG], v[2][LONG], ema[2][LONG];
static uint16_t narrow_g[LONG], narrow_p[LONG];
static uint32_t words[2][2][LONG / 2 + 64];
static float scales[2][2][LONG / PK_BLOCK + 1];

static void begin(void)
{
    for (int i = 0; i < LONG; i++) {
        p[0][i] = p[1][i] = ema[0][i] = ema[1][i] = cosf((float)i);
        narrow_g[i] = to_bf16(sinf((float)i));
        g[i] = from_bf16(narrow_g[i]);
    }
    memset(m, 0, sizeof m);
    memset(v, 0, sizeof v);
    memset(words, 0, sizeof words);
    memset(scales, 0, sizeof scales);
}

static void adam(pk_tensor t, int cautious, int64_t step, int nthreads)
{
    pk_adam_config config = {
        .common = PK_COMMON_DEFAULTS, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8};
    config.common.weight_decay = 0.01;
    config.common.ema_decay = 0.9;
    config.common.cautious = cautious;
    t.step = step;
    pk_optim(PK_F32)->step(PK_ADAM, &t, 1, &config, NULL, nthreads);
}

/* The same bits as a step over the float32 gradient that the narrow one holds. */
static void test_narrow_gradients_are_read_as_what_they_hold(void)
{
    for (int kind = PK_BF16; kind <= PK_F16; kind++) {
        begin();
        for (int i = 0; i < LONG && kind == PK_F16; i++)
            g[i] = from_f16(narrow_g[i]); /* other numbers */
        for (int step = 1; step <= 4; step++) {
            adam((pk_tensor){p[0], g, {m[0], v[0]}, ema[0], .n = LONG}, step > 2, step, 1);
            adam(
                (pk_tensor){
                    p[1], narrow_g, {m[1], v[1]}, ema[1], .n = LONG, .stored.grad = (uint8_t)kind},
                step > 2, step, step);
        }
        int same = 1;
        for (int i = 0; i < LONG; i++) {
            same &= p[0][i] == p[1][i] || (isnan(p[0][i]) && isnan(p[1][i]));
            same &= ema[0][i] == ema[1][i] || isnan(ema[0][i]);
        }
        CHECK(same);
        double scratch[8], norms[2];
        const pk_tensor t[2] = {{.grad = g, .n = LONG},
                                {.grad = narrow_g, .n = LONG, .stored.grad = (uint8_t)kind}};
        for (int i = 0; i < 2; i++)
            norms[i] = pk_optim(PK_F32)->global_norm(&t[i], 1, scratch, 1);
        CHECK(norms[0] == norms[1] || (isnan(norms[0]) && isnan(norms[1])));
    }
}

/* A step over narrow states is one over floats, and the rounding of what comes out. */
static void test_narrow_states_are_rounded_after_each_step(int kind)
{
    const pk_optim_kernels *const k = pk_optim(PK_F32);
    pk_tensor t[2];
    begin();
    for (int i = 0; i < 2; i++) {
        t[i] = (pk_tensor){p[i], g, {words[i][0], words[i][1]}, ema[i], .n = LONG, .seed = 5};
        t[i].scale[0] = scales[i][0];
        t[i].scale[1] = scales[i][1];
        t[i].stored.states = (uint8_t)kind;
    }
    for (int step = 1; step <= 4; step++) {
        t[0].step = t[1].step = step;
        k->read_state(&t[0], 0, 0, m[0]);
        k->read_state(&t[0], 1, 1, v[0]);
        adam((pk_tensor){p[0], g, {m[0], v[0]}, ema[0], .n = LONG}, step > 2, step, 1);
        k->write_state(&t[0], 0, 0, m[0]);
        k->write_state(&t[0], 1, 1, v[0]);
        if (step == 2) { /* nor do parts that know where they begin */
            adam(part_of(&t[1], 0, 20 * PK_BLOCK), 0, step, 1);
            adam(part_of(&t[1], 20 * PK_BLOCK, LONG), 0, step, 1);
            continue;
        }
        adam(t[1], step > 2, step, step); /* threads do not change a bit */
    }
    CHECK(!memcmp(p[0], p[1], sizeof g) && !memcmp(ema[0], ema[1], sizeof g));
    CHECK(!memcmp(words[0], words[1], sizeof words[0]));
    CHECK(!memcmp(scales[0], scales[1], sizeof scales[0]));
}

static void test_a_narrow_gradient_is_zeroed_and_a_narrow_parameter_moves(void)
{
    begin();
    pk_sgd_config config = {.common = PK_COMMON_DEFAULTS};
    config.common.lr = 1;
    config.common.zero_grad = 1;
    for (int i = 0; i < LONG; i++)
        narrow_p[i] = 0x4000; /* 2 */
    for (int i = 0; i < LONG; i++)
        narrow_g[i] = 0x3f80; /* 1 */
    pk_tensor t = {.param = narrow_p, .grad = narrow_g, .n = LONG, .step = 1};
    t.stored.param = t.stored.grad = PK_BF16;
    pk_optim(PK_F32)->step(PK_SGD, &t, 1, &config, NULL, 3);
    int good = 1;
    for (int i = 0; i < LONG; i++)
        good &= narrow_p[i] == 0x3f80 && narrow_g[i] == 0;
    CHECK(good);
}

/* Without lower halves, and not by chance: a step over what it holds, rounded to the nearest. */
static void test_a_parameter_of_16_bits_alone_is_rounded_to_the_nearest(void)
{
    pk_adam_config config = {
        .common = PK_COMMON_DEFAULTS, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8};
    int same = 1;
    begin();
    for (int i = 0; i < LONG; i++)
        narrow_p[i] = to_bf16(p[0][i]);
    for (int step = 1; step <= 3; step++) {
        const pk_tensor whole = {p[0], g, {m[0], v[0]}, .n = LONG, .step = step};
        pk_tensor narrow = {narrow_p, g, {m[1], v[1]}, .n = LONG, .step = step};
        narrow.stored.param = PK_BF16;
        for (int i = 0; i < LONG; i++)
            p[0][i] = from_bf16(narrow_p[i]);
        pk_optim(PK_F32)->step(PK_ADAM, &whole, 1, &config, NULL, 1);
        pk_optim(PK_F32)->step(PK_ADAM, &narrow, 1, &config, NULL, 2);
        for (int i = 0; i < LONG; i++)
            same &= narrow_p[i] == to_bf16(p[0][i]);
    }
    CHECK(same);
}

/* A parameter in two halves is a float32 one, which a copy beside it follows. */
static void test_two_halves_and_a_copy_follow_a_float32_parameter(void)
{
    static uint16_t high[LONG], low[LONG], copied[LONG];
    int same = 1;
    begin();
    for (int i = 0; i < LONG; i++) {
        high[i] = to_bf16(p[0][i]);
        low[i] = 0;
        p[0][i] = from_bf16(high[i]);
    }
    pk_tensor halves = {.param = high, .grad = g, .state = {m[1], v[1]}, .ema = ema[1], .low = low};
    pk_tensor whole = {.param = p[0], .grad = g, .state = {m[0], v[0]}, .ema = ema[0]};
    halves.n = whole.n = LONG;
    halves.stored.param = whole.stored.copy = PK_BF16;
    whole.copy = copied;
    for (int step = 1; step <= 4; step++) {
        adam(whole, step > 2, step, 5 - step);
        adam(halves, step > 2, step, step);
        pk_optim(PK_F32)->read_param(&halves, p[1]);
        same &= !memcmp(p[0], p[1], sizeof g) && !memcmp(ema[0], ema[1], sizeof g);
        for (int i = 0; i < LONG; i++)
            same &= copied[i] == to_bf16(p[0][i]) &&
                    (high[i] == copied[i] || low[i] == 0x8000); /* a tie */
    }
    CHECK(same);
    const uint32_t bits[] = {0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x80000000,
                             0x3f808000, 0xbf807fff, 0x00800000, 0x7fffffff, 0x7f800001};
    for (int i = 0; i < 10; i++) {
        p[0][i] = float_of(bits[i]);
        halves.n = (size_t)i + 1;
        pk_optim(PK_F32)->write_param(&halves, p[0]);
        pk_optim(PK_F32)->read_param(&halves, p[1]);
        CHECK(isnan(p[0][i]) ? isnan(p[1][i]) && isnan(from_bf16(high[i]))
                             : bits_of(p[1][i]) == bits[i]);
    }
}

/* Steps that are smaller than a rounding. */
static void test_a_parameter_rounded_by_chance_keeps_its_mean(void)
{
    pk_sgd_config config = {.common = PK_COMMON_DEFAULTS};
    double sum = 0;
    begin();
    config.common.lr = 0x1p-15;
    for (int i = 0; i < LONG; i++) {
        narrow_p[i] = 0x3f80; /* 1 */
        g[i] = -1;
    }
    pk_tensor t = {.param = narrow_p, .grad = g, .n = LONG, .seed = 3};
    t.stored.param = PK_BF16;
    t.stored.by_chance = 1;
    for (t.step = 1; t.step <= 128; t.step++) {
        static uint16_t before[LONG];
        memcpy(before, narrow_p, sizeof before);
        pk_optim(PK_F32)->step(PK_SGD, &t, 1, &config, NULL, 1);
        if (t.step == 7) { /* two parts, several threads: the same bits */
            t.param = before;
            const pk_tensor parts[] = {part_of(&t, 0, PK_BLOCK), part_of(&t, PK_BLOCK, LONG)};
            pk_optim(PK_F32)->step(PK_SGD, parts, 2, &config, NULL, 3);
            CHECK(!memcmp(before, narrow_p, sizeof before));
            t.param = narrow_p;
        }
    }
    for (int i = 0; i < LONG; i++)
        sum += (double)from_bf16(narrow_p[i]) - 1;
    CHECK(fabs(sum / LONG / 0x1p-8 - 1) < 0.05); /* 5 deviations of 20,011 times 0 or more steps */
}

int main(void)
{
    test_every_half_is_read_by_its_definition();
    test_codes_are_near_and_keep_what_is_not_0();
    test_pieces_of_blocks_begin_and_end_at_blocks();
    int usable;
    const char *isa;
    for (int i = 0; (isa = pk_isa_at(i, &usable)); i++) {
        if (!usable)
            continue;
        pk_use_isa(isa);
        test_narrow_gradients_are_read_as_what_they_hold();
        test_narrow_states_are_rounded_after_each_step(PK_BF16);
        test_narrow_states_are_rounded_after_each_step(PK_8BIT);
        test_a_narrow_gradient_is_zeroed_and_a_narrow_parameter_moves();
        test_a_parameter_of_16_bits_alone_is_rounded_to_the_nearest();
        test_two_halves_and_a_copy_follow_a_float32_parameter();
        test_a_parameter_rounded_by_chance_keeps_its_mean();
    }
    printf("%d passed, %d failed\n", (int)passed, (int)failed);
    return failed != 0;
}
