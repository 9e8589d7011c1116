"""Shows that `root_by_products` of csrc/kernels/root.h is correctly rounded on every processor.

    python docs/prove_root.py

All that processors guarantee about the estimate is a relative error of at most 2^-14.  Let r be the
root of x, u = 2^-24, and e <= 2^-14 the error of the estimate.  To first order in the rounding
errors, the code computes

    h = (1 + e) / 2r                       the estimate of half the inverse
    s = r (1 + a),  abs(a) <= 3/2 e^2 + u/2 + u < 2^-23.3      after the first step; h likewise
    s + (x - s^2) h = r (1 + b),  abs(b) <= a^2 / 2 + a (a + u) < 2^-45.4      before it is rounded

The result is therefore rounded as r is, unless a number halfway between two floats is within 2^-45
of r.  A factor of 4 in x changes nothing but the exponent, so it suffices to look at x in [1, 4).
There are few such x.  For each of them this script runs the code on every permitted estimate.
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


def rounded_sum(a, b):
    """The nearest float32 of a + b, extended-precision numbers with abs(a) >= abs(b)."""
    total = a + b
    lost = b - (total - a)  # exact
    # The exact sum is not a tie if something was lost: move off the tie, towards the exact sum.
    aside = np.nextafter(total, np.copysign(np.longdouble(np.inf), lost))
    return np.where(lost == 0, total, aside).astype(np.float32)


def by_products(x, h):
    """The code of root.h for the estimates h; products of two floats are exact here."""
    x, wide = np.float32(x), np.longdouble
    s = ((x + x) * h.astype(wide)).astype(np.float32)
    error = rounded_sum(wide(0.5), -(s.astype(wide) * h))
    s, h = (
        rounded_sum(s.astype(wide), s.astype(wide) * error),
        rounded_sum(h.astype(wide), h.astype(wide) * error),
    )
    rest = rounded_sum(wide(x), -(s.astype(wide) * s))
    return rounded_sum(s.astype(wide), rest.astype(wide) * h)


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
