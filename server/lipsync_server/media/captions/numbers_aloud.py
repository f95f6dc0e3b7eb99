"""Numbers, dates and prices as people say them, where espeak-ng reads the signs in another order or leaves them out.

espeak-ng reads "$1,250.50" as "dollar one thousand two hundred and fifty point five zero", a date with its slashes, and
no sign of a currency but a few. A voice says "one thousand two hundred and fifty dollars and fifty cents". The
difference moves the words beside the number by up to 0.8 s. Numbers stay in digits here: espeak-ng reads these right.
Knows the languages of its tables; elsewhere a word stays as it is.
"""

import re
from collections.abc import Sequence
from typing import Final

# The unit and its hundredth, by sign and language.
_CURRENCIES: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "$": {
        "en": ("dollars", "cents"), "pt": ("dólares", "centavos"), "es": ("dólares", "centavos"),
        "fr": ("dollars", "cents"), "de": ("Dollar", "Cent"), "it": ("dollari", "centesimi"), "hi": ("डॉलर", "सेंट"),
        "ru": ("долларов", "центов"),
    },
    "R$": {"en": ("reais", "centavos"), "pt": ("reais", "centavos"), "es": ("reales", "centavos")},
    "€": {
        "en": ("euros", "cents"), "pt": ("euros", "centavos"), "es": ("euros", "céntimos"), "fr": ("euros", "centimes"),
        "de": ("Euro", "Cent"), "it": ("euro", "centesimi"), "el": ("ευρώ", "λεπτά"), "ru": ("евро", "центов"),
    },
    "£": {"en": ("pounds", "pence"), "pt": ("libras", "pence"), "es": ("libras", "peniques")},
    "₹": {"en": ("rupees", "paise"), "hi": ("रुपये", "पैसे")},
    "₽": {"en": ("rubles", "kopecks"), "ru": ("рублей", "копеек")},
    "₩": {"en": ("won", ""), "ko": ("원", "")},
    "¥": {"en": ("yen", ""), "ja": ("エン", ""), "cmn": ("元", "分"), "zh": ("元", "分")},
    "₴": {"uk": ("гривень", "копійок")},
}  # fmt: skip
_SIGNS: Final[dict[str, str]] = {"US$": "$", "U$": "$", "USD": "$", "BRL": "R$", "EUR": "€", "GBP": "£"}
_AND: Final[dict[str, str]] = {"en": "and", "pt": "e", "es": "con", "it": "e", "el": "και"}
"""The word between the unit and its hundredth, in languages that have one."""
_LARGE: Final[dict[str, dict[str, str]]] = {
    "en": {"k": "thousand", "K": "thousand", "M": "million", "B": "billion", "bn": "billion"},
    "pt": {"k": "mil", "mil": "mil", "mi": "milhões de", "M": "milhões de", "bi": "bilhões de"},
}
_TO: Final[dict[str, str]] = {"en": "to", "pt": "a", "es": "a", "fr": "à", "de": "bis", "it": "a"}
_MONTHS: Final[dict[str, tuple[str, ...]]] = {
    "en": ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December"),
    "pt": ("janeiro", "fevereiro", "março", "abril", "maio", "junho", "julho", "agosto", "setembro", "outubro",
           "novembro", "dezembro"),
    "es": ("enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre", "octubre",
           "noviembre", "diciembre"),
}  # fmt: skip
_SIGN: Final = r"(?:US\$|U\$|R\$|USD|BRL|EUR|GBP|[$€£₹₽₩¥₴])"
_NUMBER: Final = r"\d{1,3}(?:[.,\u00a0\u202f]?\d{3})*"
_PRICE: Final = re.compile(
    rf"(?P<before>\W*)(?:(?P<first>{_SIGN})\s?(?P<whole>{_NUMBER})(?:[.,](?P<part>\d\d))?(?P<large>k|K|M|B|bn|mil|mi|bi)?"
    rf"|(?P<whole2>{_NUMBER})(?:[.,](?P<part2>\d\d))?\s?(?P<last>{_SIGN}))(?P<after>[^\w\d]*)"
)
_DATE: Final = re.compile(r"(\W*)(\d{1,2})[/.](\d{1,2})[/.](\d{4})(\W*)")
_RANGE: Final = re.compile(r"(\W*)(\d{1,4})[-–](\d{1,4})(\W*)")
_TELEPHONE: Final = re.compile(r"(\W*)((?:\+|\()?\d{2,5}\)?(?:[-.]\d{2,5})+)(\W*)")
_YEAR: Final = re.compile(r"(\W*)(1[1-9]\d\d|20[1-9]\d)(\W*)")


def said(words: Sequence[str], language: str) -> list[str]:
    """The words for speech synthesis, as many as `words`.

    Where a sign is a word of its own before its number, the sign has the number's sound, and the number the rest.
    """
    main = language.lower().partition("-")[0]
    spoken: list[str] = []
    rest = ""
    for at, word in enumerate(words):
        following = words[at + 1] if at + 1 < len(words) else ""
        price = _price(word + following, main) if re.fullmatch(_SIGN, word) else None
        if rest:
            spoken.append(rest)
            rest = ""
        elif price is not None:
            number, _, rest = price.partition(" ")
            spoken.append(number)
        else:
            spoken.append(_said(word, language, main))
    return spoken


def _said(word: str, language: str, main: str) -> str:
    if not any(c.isdigit() for c in word):
        return word
    for rule in (_price, _date, _range, _telephone, _year):
        found = rule(word, "en-us" if rule is _date and language.lower() in ("en", "en-us") else main)
        if found is not None:
            return found
    return re.sub(r"^#(?=\d)", "number ", word) if main == "en" else word


def _price(word: str, main: str) -> str | None:
    found = _PRICE.fullmatch(word)
    if found is None:
        return None
    sign = found["first"] or found["last"]
    names = _CURRENCIES[_SIGNS.get(sign, sign)].get(main)
    if names is None:
        return None
    unit, hundredth = names
    whole, part = found["whole"] or found["whole2"], found["part"] or found["part2"]
    large = _LARGE.get(main, {}).get(found["large"] or "", found["large"] or "")
    parts = [whole, large, unit]
    if part and int(part):
        parts += [_AND.get(main, ""), str(int(part)), hundredth]
    return found["before"] + " ".join(each for each in parts if each) + found["after"]


def _date(word: str, main: str) -> str | None:
    found = _DATE.fullmatch(word)
    names = _MONTHS.get(main.partition("-")[0])
    if found is None or names is None:
        return None
    before, first, second, year, after = found.groups()
    orders = [(int(second), int(first)), (int(first), int(second))]
    months_and_days = orders if main != "en-us" else orders[::-1]
    fitting = [(month, day) for month, day in months_and_days if 1 <= month <= 12 and 1 <= day <= 31]
    if not fitting:
        return None
    month, day = fitting[0]
    if main.startswith("en"):
        return f"{before}{names[month - 1]} {_ordinal(day)}, {_halves(year)}{after}"
    return f"{before}{day} de {names[month - 1]} de {year}{after}"


def _range(word: str, main: str) -> str | None:
    found = _RANGE.fullmatch(word)
    if found is None or main not in _TO:
        return None
    before, low, high, after = found.groups()
    if low.startswith("0") or high.startswith("0") or int(low) >= int(high) or len(high) - len(low) > 1:
        return None
    if main == "en":
        low, high = _halves(low), _halves(high)
    return f"{before}{low} {_TO[main]} {high}{after}"


def _telephone(word: str, main: str) -> str | None:
    found = _TELEPHONE.fullmatch(word)
    if found is None or re.fullmatch(_NUMBER, found[2]) or len(re.findall(r"\d", found[2])) < 6:
        return None
    return found[1] + " ".join(c for c in found[2] if c.isdigit()) + found[3]


def _year(word: str, main: str) -> str | None:
    found = _YEAR.fullmatch(word)
    return f"{found[1]}{_halves(found[2])}{found[3]}" if found is not None and main == "en" else None


def _halves(year: str) -> str:
    """An English year in two numbers, as it is said; 2000 to 2009 and 1900 stay whole."""
    if not _YEAR.fullmatch(year) or year.endswith("00"):
        return year
    return f"{year[:2]} oh {year[3]}" if year[2] == "0" else f"{year[:2]} {year[2:]}"


def _ordinal(day: int) -> str:
    suffix = "th" if day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{suffix}"
