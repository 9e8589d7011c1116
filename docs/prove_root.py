"""Shows that `root_by_products` of csrc/kernels/root.h is correctly rounded on every processor.

    python docs/prove_root.py

Processors agree on the estimate only in that it is within 2^-14.  With r the root of x, u = 2^-24 and
e <= 2^-14 the error of the estimate, what the code computes is, to first order in what is rounded,

    h = (1 + e) / 2r                       the estimate of half the inverse
    s = r (1 + a),  abs(a) <= 3/2 e^2 + u/2 + u < 2^-23.3      after the first step, and h likewise
    s + (x - s^2) h = r (1 + b),  abs(b) <= a^2 / 2 + a (a + u) < 2^-45.4      before it is rounded

so that it is rounded as r is, unless there is a number halfway between two floats within 2^-45 of r.
Multiplying x by 4 changes nothing, so x in [1, 4) is all there is.  Few x are such; for each of them
this runs the code on every estimate that is allowed.
"""

from fractions import Fraction

import numpy as np

BITS, CLOSE = 24, 2.0**-45


def hard_cases():
    """x in [1, 4) whose root is within CLOSE of a number halfway between two floats."""
    found = []
    for shift in (23, 24):  # x = n * 2^-23 or n * 2^-22; the root of n << shift is in [2^23, 2^24)
        n = np.arange(1 << 23, 1 << 24, dtype=np.int64) << shift
        twice = 2 * np.floor(np.sqrt(n.astype(np.longdouble))).astype(np.int64) + 1
        apart = np.abs(twice**2 - 4 * n) / (8.0 * n)  # halfway are the odd numbers / 2
        found += [Fraction(int(k), 1 << 46) for k in n[apart < CLOSE]]
    return found


def to_float(exact):
    """The nearest float32 of extended-precision numbers, which are within 2^-63 of the exact ones."""
    nearest = exact.astype(np.float32)
    # a tie could come of the first rounding: then the second would not know to which side to go
    other = np.nextafter(nearest, np.where(exact > nearest, np.inf, -np.inf).astype(np.float32))
    assert not (exact * 2 == nearest.astype(exact.dtype) + other)[exact != nearest].any()
    return nearest


def by_products(x, h):
    """The code of root.h for the estimates h; products of two floats are exact here."""
    x, h, wide = np.float32(x), h, np.longdouble
    s = ((x + x) * h.astype(wide)).astype(np.float32)
    error = to_float(wide(0.5) - s.astype(wide) * h)
    s, h = to_float(s + s.astype(wide) * error), to_float(h + h.astype(wide) * error)
    rest = to_float(wide(x) - s.astype(wide) * s)
    return to_float(s + rest.astype(wide) * h)


def main():
    assert np.finfo(np.longdouble).nmant >= 63
    cases, estimates = hard_cases(), 0
    for x in cases:
        half_inverse = 0.5 / np.sqrt(np.longdouble(float(x)))
        low, high = (np.float32(half_inverse * (1 + side * 2.0**-14)) for side in (-1, 1))
        h = np.arange(low.view(np.int32), high.view(np.int32) + 1, dtype=np.int32).view(np.float32)
        estimates += h.size
        roots = by_products(float(x), h)
        assert (roots == np.sqrt(np.float32(float(x)))).all(), (x, roots)
    print(f"{len(cases)} roots close to halfway, {estimates} estimates: all correctly rounded")


if __name__ == "__main__":
    main()
