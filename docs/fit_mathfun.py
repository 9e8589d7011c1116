"""Prints the constants of csrc/kernels/mathfun.h, in the form they have there.  Needs mpmath.

    python docs/fit_mathfun.py | tr -d ' \\n' |
        cmp - <(sed -n '/^#if PK_D/,/^#endif/p' csrc/kernels/mathfun.h | tr -d ' \\n')

exp(r) = 1 + r + r^2 P(r) for abs(r) <= ln2/2, and exp(2r) with the same P; tanh(a) = a + a^3 P(a^2)
for a <= TANH_SPLIT; 2 atanh(s) = 2 s + s^3 P(s^2) for s <= 1/3; the upper tail of the normal
distribution at a is exp(-a^2/2) P(t) / (1 + sqrt(2) a) with t = (a - 3) / (a + 3) for
a <= TAIL_END.  Each P is a least-squares fit of the relative error at Chebyshev points, which is
close to the minimax fit.
Coefficients are rounded to the dtype one by one, lowest power first.  After each, the higher ones
are fitted again to compensate for its rounding.
"""

from textwrap import wrap

import mpmath
from mpmath import ceil, cos, exp, floor, frexp, ln, matrix, mp, mpf, nint, nstr, pi, sqrt, tanh

mp.dps = 60
TANH_SPLIT = mpf(5) / 8  # 1 - 2 / (1 + exp) cancels below 0.55, where tanh is 1/2


def rounded(x, bits, to_integer=nint):
    """x rounded to a mantissa of this many bits."""
    unit = mpf(2) ** (frexp(x)[1] - bits)
    return to_integer(x / unit) * unit


def fit(f, weight, low, high, terms, bits):
    """Coefficients of the polynomial P with the least weight(t) * (P(t) - f(t)) in [low, high]."""
    points = [cos(pi * (2 * i + 1) / 400) for i in range(200)]
    points = [(low + high) / 2 + (high - low) / 2 * t for t in points]
    found = []
    for first in range(terms):
        left, right = matrix(200, terms - first), matrix(200, 1)
        for i, t in enumerate(points):
            right[i] = weight(t) * (f(t) - sum(c * t**j for j, c in enumerate(found)))
            for j in range(first, terms):
                left[i, j - first] = weight(t) * t**j
        solution, _ = mpmath.qr_solve(left, right)
        found.append(rounded(solution[0], bits))
    return found


def exp_coefficients(terms, bits):
    half = ln(2) / 2 * (1 + mpf(2) ** -10)  # a little more: k is not always the nearest integer
    return fit(lambda r: (exp(r) - 1 - r) / r**2, lambda r: r**2 / exp(r), -half, half, terms, bits)


def tanh_coefficients(terms, bits):
    def f(u):
        return (tanh(u**0.5) / u**0.5 - 1) / u

    return fit(f, lambda u: u**1.5 / tanh(u**0.5), mpf(0), TANH_SPLIT**2, terms, bits)


def log1p_coefficients(terms, bits):
    def f(u):
        return 2 * (mpmath.atanh(sqrt(u)) / sqrt(u) - 1) / u

    return fit(f, lambda u: u**1.5 / mpmath.atanh(sqrt(u)), mpf(0), mpf(1) / 9, terms, bits)


def tail_coefficients(end, terms, bits):
    def f(t):
        a = 3 * (1 + t) / (1 - t)
        return mpmath.erfc(a / sqrt(2)) / 2 * exp(a * a / 2) * (1 + sqrt(2) * a)

    return fit(f, lambda t: 1 / f(t), mpf(-1), (end - 3) / mpf(end + 3), terms, bits)


def print_constants(bits, top, digits, suffix, exp_terms, tanh_terms, log1p_terms, tail):
    """bits: of the mantissa; top: numbers are below 2^top; digits: enough to print exactly."""

    def text(x, strip_zeros=False):
        return nstr(x, digits, strip_zeros=strip_zeros, min_fixed=0, max_fixed=18) + suffix

    def scalar(name, x):
        print(f"static const real {name} = {text(x, strip_zeros=True)};")

    def table(name, values):
        lines = ["    " + line for line in wrap(", ".join(map(text, values)) + ",", 96)]
        print(f"static const real {name}[] = {{", *lines, "};", sep="\n")

    # k has top.bit_length() bits at most, so k * ln2_high is exact
    ln2_high = rounded(ln(2), bits - top.bit_length())
    print(f"enum {{ MANTISSA_BITS = {bits - 1} }};")
    scalar("EXP_MIN", rounded(ln(2) * (2 - top), bits, ceil))
    scalar("EXP_MAX", rounded(ln(mpf(2) ** top - mpf(2) ** (top - bits)), bits, floor))
    scalar("LOG2_E", rounded(1 / ln(2), bits))
    scalar("LN2_HIGH", ln2_high)
    scalar("LN2_LOW", rounded(ln(2) - ln2_high, bits))
    scalar("TO_EXPONENT", mpf(3) * 2 ** (bits - 2) + top - 1)
    exp_p = exp_coefficients(exp_terms, bits)
    table("EXP_P", exp_p)
    scalar("HALF_LN2", rounded(ln(2) / 2, bits))
    table("EXP_2R_P", [c * 2 ** (i + 2) for i, c in enumerate(exp_p)])
    scalar("TANH_SPLIT", TANH_SPLIT)
    scalar("TANH_ONE", rounded(ln(2) * (bits + 2) / 2, 5, ceil))  # from here on tanh rounds to 1
    table("TANH_P", tanh_coefficients(tanh_terms, bits))
    table("LOG1P_P", log1p_coefficients(log1p_terms, bits))
    scalar("TAIL_END", mpf(tail[0]))  # the tail is below the smallest normal number from here on
    table("TAIL_P", tail_coefficients(*tail, bits))


if __name__ == "__main__":
    print("#if PK_DTYPE_BITS == 32")
    print_constants(24, 128, 9, "f", 5, 5, 5, (14, 11))
    print("#else")
    print_constants(53, 1024, 17, "", 10, 11, 10, (39, 24))
    print("#endif")
