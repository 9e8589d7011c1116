"""Prints the constants of csrc/kernels/mathfun.h, for both dtypes, as they stand there.  Needs mpmath.

    python docs/fit_mathfun.py | diff - <(sed -n '/^#if PK_D/,/^#endif/p' csrc/kernels/mathfun.h)

exp(r) = 1 + r + r^2 P(r) for abs(r) <= ln2/2, tanh(a) = a + a^3 P(a^2) for a <= TANH_SPLIT.  Each P is
a least-squares fit of the relative error at Chebyshev points, which comes close to the minimax fit.
Coefficients are rounded to the dtype lowest power first, and the higher ones are fitted again around
each rounded one, so that they make up for its rounding.
"""

from mpmath import cos, exp, ln, matrix, mp, mpf, nint, nstr, pi, qr_solve, tanh

mp.dps = 60
# dtype bits: mantissa, largest exponent, digits that name a value, suffix, terms of exp and tanh
FORMATS = {32: (24, 128, 9, "f", 5, 5), 64: (53, 1024, 17, "", 10, 11)}
TANH_SPLIT = mpf(5) / 8


def rounded(x, mantissa, towards=nint):
    """x with so many bits of mantissa."""
    _, exponent = mp.frexp(x)
    unit = mpf(2) ** (exponent - mantissa)
    return towards(x / unit) * unit


def fit(f, weight, low, high, terms, mantissa):
    """Coefficients of P, where weight(t) * (P(t) - f(t)) is small on [low, high]."""
    points = [cos(pi * (i + mpf(1) / 2) / 200) for i in range(200)]
    points = [(low + high) / 2 + (high - low) / 2 * t for t in points]
    coefficients = []
    for first in range(terms):
        rows, right = matrix(len(points), terms - first), matrix(len(points), 1)
        for i, t in enumerate(points):
            known = sum(c * t**j for j, c in enumerate(coefficients))
            right[i] = weight(t) * (f(t) - known)
            for j in range(first, terms):
                rows[i, j - first] = weight(t) * t**j
        solution, _ = qr_solve(rows, right)
        coefficients.append(rounded(solution[0], mantissa))
    return coefficients


def constants(bits):
    mantissa, top, digits, suffix, exp_terms, tanh_terms = FORMATS[bits]

    def text(x):
        return nstr(x, digits, min_fixed=0, max_fixed=18) + suffix

    def scalar(name, x):
        return f"static const real {name} = {text(x)};"

    def table(name, values):
        lines, line = [f"static const real {name}[] = {{"], "   "
        for value in values:
            if len(line) + len(text(value)) > 96:
                lines, line = [*lines, line], "   "
            line += f" {text(value)},"
        return [*lines, line, "};"]

    half = ln(2) / 2 * (1 + mpf(2) ** -10)  # a little more: rounding to the nearest k is not exact
    exp_p = fit(
        lambda r: (exp(r) - 1 - r) / r**2, lambda r: r**2 / exp(r), -half, half, exp_terms, mantissa
    )
    tanh_p = fit(
        lambda u: (tanh(u**0.5) / u**0.5 - 1) / u,
        lambda u: u * u**0.5 / tanh(u**0.5),
        mpf(0),
        TANH_SPLIT**2,
        tanh_terms,
        mantissa,
    )
    # k has as many bits as `top`, so that k * LN2_HIGH is exact
    ln2_high = rounded(ln(2), mantissa - int(top).bit_length() + 0)
    return [
        f"enum {{ MANTISSA_BITS = {mantissa - 1} }};",
        scalar("EXP_MIN", rounded((2 - top) * ln(2), mantissa, mp.ceil)),
        scalar(
            "EXP_MAX",
            rounded(ln((2 - mpf(2) ** (1 - mantissa)) * mpf(2) ** (top - 1)), mantissa, mp.floor),
        ),
        scalar("LOG2_E", rounded(1 / ln(2), mantissa)),
        scalar("LN2_HIGH", ln2_high),
        scalar("LN2_LOW", rounded(ln(2) - ln2_high, mantissa)),
        scalar("TO_EXPONENT", mpf(3) * 2 ** (mantissa - 2) + top - 1),
        *table("EXP_P", exp_p),
        scalar("TANH_SPLIT", TANH_SPLIT),
        scalar("TANH_ONE", rounded(ln(2) * (mantissa + 2) / 2, 5, mp.ceil)),
        *table("TANH_P", tanh_p),
    ]


if __name__ == "__main__":
    print("#if PK_DTYPE_BITS == 32", *constants(32), "#else", *constants(64), "#endif", sep="\n")
