/* Random numbers that are functions of their index: Philox4x32-10 (Salmon, Moraes, Dror & Shaw
 * 2011).  Ten rounds turn a counter and a key into four words; there is no other state.  They take
 * most of the time of dropout, so an element uses only half a word, and a counter serves eight
 * elements.  Callers: dropout.h, rnn_noise.h. */
#ifndef PK_NUMBERS_H
#define PK_NUMBERS_H

#include "matmul.h"

enum {
    PHILOX_ROUNDS = 10,
    COUNTERS = 64,               /* counters at a time, so that their words stay in L1 */
    NUMBERS_BLOCK = 8 * COUNTERS /* elements that use so many counters */
};

/* The numbers of NUMBERS_BLOCK elements, from this counter on, a multiple of COUNTERS. */
static inline void random_numbers_of(uint64_t seed, uint64_t stream, uint64_t counter,
                                     uint16_t *numbers)
{
    uint32_t c0[COUNTERS], c1[COUNTERS], c2[COUNTERS], c3[COUNTERS];
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    for (uint32_t i = 0; i < COUNTERS; i++) {
        c0[i] = (uint32_t)counter + i; /* no carry: counter is a multiple of COUNTERS */
        c1[i] = (uint32_t)(counter >> 32);
        c2[i] = (uint32_t)stream;
        c3[i] = (uint32_t)(stream >> 32);
    }
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        PK_SIMD
        for (uint32_t i = 0; i < COUNTERS; i++) {
            const uint64_t p0 = (uint64_t)c0[i] * 0xD2511F53, p1 = (uint64_t)c2[i] * 0xCD9E8D57;
            c0[i] = (uint32_t)(p1 >> 32) ^ c1[i] ^ key0;
            c2[i] = (uint32_t)(p0 >> 32) ^ c3[i] ^ key1;
            c1[i] = (uint32_t)p1;
            c3[i] = (uint32_t)p0;
        }
        key0 += 0x9E3779B9; /* the golden ratio */
        key1 += 0xBB67AE85; /* sqrt(3) - 1 */
    }
    const uint32_t *words[] = {c0, c1, c2, c3};
    for (int w = 0; w < 4; w++)
        for (uint32_t i = 0; i < COUNTERS; i++) {
            numbers[w * COUNTERS + i] = (uint16_t)words[w][i];
            numbers[(4 + w) * COUNTERS + i] = (uint16_t)(words[w][i] >> 16);
        }
}

#define random_numbers PK_PRODUCTS.numbers

/* An event of probability p happens if the random number is less than this.  Probabilities are
 * multiples of 2^-16. */
static inline uint32_t below_for(double p) { return (uint32_t)(p * (UINT16_MAX + 1) + 0.5); }

#endif
