"""Numbers in running text, as the chapters print them."""

from tslab._checks import check_count

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def readable(value: float, digits: int = 2) -> str:
    """A number for running text: very small and very large ones as 3 × 10⁻⁵ instead of 3e-05.

    Args:
        value: any number.
        digits: how many digits count; zeros at the end are left out.
    """
    check_count("digits", digits)
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return text
    factor, exponent = text.split("e")
    return f"{factor}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10{str(int(exponent)).translate(RAISED)}"
