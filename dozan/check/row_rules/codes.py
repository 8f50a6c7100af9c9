"""Codes of currencies and languages, with the words by which a request names them."""

from __future__ import annotations

_DINARS = ("KWD", "BHD", "JOD", "IQD", "TND", "DZD", "LYD")
_CURRENCIES = {
    "دولار": ("USD", "CAD", "AUD"), "dollar": ("USD", "CAD", "AUD"), "usd": ("USD",),
    "يورو": ("EUR",), "اورو": ("EUR",), "euro": ("EUR",),
    "ريال": ("SAR", "QAR", "OMR", "YER", "IRR"), "riyal": ("SAR", "QAR"), "rial": ("OMR", "YER", "IRR"),
    "درهم": ("AED", "MAD"), "دراهم": ("AED", "MAD"), "dirham": ("AED", "MAD"),
    "جنيه": ("EGP", "GBP", "SDG"), "pound": ("GBP", "EGP", "SDG"), "استرليني": ("GBP",),
    "دينار": _DINARS, "dinar": _DINARS,
    "دنانير": _DINARS,
    "ليره": ("TRY", "SYP", "LBP"), "lira": ("TRY", "SYP", "LBP"), "ليرات": ("TRY", "SYP", "LBP"),
    "ين": ("JPY",), "yen": ("JPY",), "روبيه": ("INR", "PKR"), "rupee": ("INR", "PKR"),
    "يوان": ("CNY",), "yuan": ("CNY",),
    "فرنك": ("CHF",), "franc": ("CHF",), "روبل": ("RUB",),
}  # fmt: skip
_LANGUAGES = {
    "عربي": ("ar",), "arabic": ("ar",), "انجليزي": ("en",), "انكليزي": ("en",), "انقليزي": ("en",), "english": ("en",),
    "فرنسي": ("fr",), "فرنساوي": ("fr",), "french": ("fr",), "اسباني": ("es",), "spanish": ("es",), "الماني": ("de",),
    "german": ("de",), "ايطالي": ("it",), "italian": ("it",), "تركي": ("tr",), "turkish": ("tr",), "صيني": ("zh",),
    "chinese": ("zh",), "ياباني": ("ja",), "japanese": ("ja",), "روسي": ("ru",), "russian": ("ru",), "هندي": ("hi",),
    "hindi": ("hi",), "اردو": ("ur",), "urdu": ("ur",), "فارسي": ("fa",), "persian": ("fa",), "برتغالي": ("pt",),
    "portuguese": ("pt",), "كوري": ("ko",), "korean": ("ko",), "عبري": ("he",), "هولندي": ("nl",),
}  # fmt: skip
_WORDS: dict[str, list[str]] = {}
for _table in (_CURRENCIES, _LANGUAGES):
    for _word, _codes in _table.items():
        for _code in _codes:
            _WORDS.setdefault(_code, []).append(_word)


def is_named_code(value: str, folded: str) -> bool:
    """Whether the value is the code of a currency or language that the folded request names in words."""
    return any(word in folded for word in _WORDS.get(value, ()))
