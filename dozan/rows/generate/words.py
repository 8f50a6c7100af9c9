"""Time words of five varieties of Arabic: days, hours, parts of the day, lengths of time, tens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TimeWords:
    """Time expressions of one variety.

    `days` maps today, tonight, tomorrow, after_tomorrow, next_week and in_days to phrases ("{n}" is a number of days);
    `weekdays` lists Monday first, `weekday_frames` are phrases around a weekday's name ("{w}"); `hours` are the words
    for 1 to 12; `periods` maps morning, noon, afternoon, evening and night to words; `clocks` are phrases around an
    hour ("{h}", its minutes included) and a period ("{p}"); `lasting` maps minutes to a phrase; `minute_words` are the
    plural (3 to 10) and the singular (11 and over), `hour_words` those of hours; `after` are the phrases before a
    length of time from now; `tens` are the words for 20 to 90.
    """

    days: Mapping[str, tuple[str, ...]]
    weekdays: tuple[str, ...]
    weekday_frames: tuple[str, ...]
    hours: tuple[str, ...]
    periods: Mapping[str, tuple[str, ...]]
    clocks: tuple[str, ...]
    half: str
    quarter: str
    quarter_to: str
    lasting: Mapping[int, str]
    minute_words: tuple[str, str]
    after: tuple[str, ...]
    hour_words: tuple[str, str] = ("ساعات", "ساعة")
    tens: tuple[str, ...] = ("عشرين", "تلاتين", "أربعين", "خمسين", "ستين", "سبعين", "تمانين", "تسعين")


_MSA = TimeWords(
    days={"today": ("اليوم",), "tonight": ("الليلة", "هذه الليلة"), "tomorrow": ("غدًا", "غدا", "يوم غد"),
          "after_tomorrow": ("بعد غد",), "next_week": ("في مثل هذا اليوم من الأسبوع القادم",),
          "in_days": ("بعد {n} أيام",)},
    weekdays=("الاثنين", "الثلاثاء", "الأربعاء", "الخميس", "الجمعة", "السبت", "الأحد"),
    weekday_frames=("يوم {w}", "يوم {w} القادم", "يوم {w} المقبل"),
    hours=("الواحدة", "الثانية", "الثالثة", "الرابعة", "الخامسة", "السادسة", "السابعة", "الثامنة", "التاسعة", "العاشرة",
           "الحادية عشرة", "الثانية عشرة"),
    periods={"morning": ("صباحًا", "صباحا"), "noon": ("ظهرًا", "ظهرا"), "afternoon": ("عصرًا", "عصرا"),
             "evening": ("مساءً", "مساء"), "night": ("ليلًا", "ليلا", "مساءً")},
    clocks=("الساعة {h} {p}", "الساعة {h} {p}", "في الساعة {h} {p}", "عند الساعة {h} {p}"),
    half="والنصف", quarter="والربع", quarter_to="إلا الربع",
    lasting={1: "دقيقة واحدة", 2: "دقيقتين", 5: "خمس دقائق", 10: "عشر دقائق", 15: "ربع ساعة", 20: "ثلث ساعة",
             30: "نصف ساعة", 40: "أربعين دقيقة", 45: "خمس وأربعين دقيقة", 50: "خمسين دقيقة", 60: "ساعة",
             75: "ساعة وربع", 90: "ساعة ونصف", 120: "ساعتين", 150: "ساعتين ونصف", 180: "ثلاث ساعات",
             240: "أربع ساعات"},
    minute_words=("دقائق", "دقيقة"), after=("بعد", "بعد مرور"),
    tens=("عشرين", "ثلاثين", "أربعين", "خمسين", "ستين", "سبعين", "ثمانين", "تسعين"),
)  # fmt: skip

_EGYPTIAN = TimeWords(
    days={"today": ("النهارده", "النهاردة"), "tonight": ("الليلة", "الليلة دي"), "tomorrow": ("بكرة", "بكره"),
          "after_tomorrow": ("بعد بكرة", "بعد بكره"), "next_week": ("زي النهارده الأسبوع الجاي",),
          "in_days": ("بعد {n} أيام", "كمان {n} أيام")},
    weekdays=("الاتنين", "التلات", "الأربع", "الخميس", "الجمعة", "السبت", "الحد"),
    weekday_frames=("يوم {w}", "يوم {w} الجاي", "{w} الجاي"),
    hours=("واحدة", "اتنين", "تلاتة", "أربعة", "خمسة", "ستة", "سبعة", "تمانية", "تسعة", "عشرة", "حداشر", "اتناشر"),
    periods={"morning": ("الصبح", "صباحًا"), "noon": ("الضهر",), "afternoon": ("العصر",),
             "evening": ("مساءً", "المسا"), "night": ("بالليل", "بليل")},
    clocks=("الساعة {h} {p}", "الساعة {h} {p}", "على {h} {p}"),
    half="ونص", quarter="وربع", quarter_to="إلا ربع",
    lasting={1: "دقيقة واحدة", 2: "دقيقتين", 5: "خمس دقايق", 10: "عشر دقايق", 15: "ربع ساعة", 20: "تلت ساعة",
             30: "نص ساعة", 40: "أربعين دقيقة", 45: "خمسة وأربعين دقيقة", 50: "خمسين دقيقة", 60: "ساعة",
             75: "ساعة وربع", 90: "ساعة ونص", 120: "ساعتين", 150: "ساعتين ونص", 180: "تلات ساعات", 240: "أربع ساعات"},
    minute_words=("دقايق", "دقيقة"), after=("بعد", "كمان"),
)  # fmt: skip

_GULF = TimeWords(
    days={"today": ("اليوم",), "tonight": ("الليلة", "هالليلة"), "tomorrow": ("بكرة", "باكر", "بكره"),
          "after_tomorrow": ("بعد بكرة", "عقب باكر", "بعد باكر"), "next_week": ("مثل اليوم الأسبوع الجاي",),
          "in_days": ("بعد {n} أيام", "عقب {n} أيام")},
    weekdays=("الاثنين", "الثلاثا", "الأربعا", "الخميس", "الجمعة", "السبت", "الأحد"),
    weekday_frames=("يوم {w}", "{w} الجاي", "يوم {w} الجاي"),
    hours=("وحدة", "ثنتين", "ثلاث", "أربع", "خمس", "ست", "سبع", "ثمان", "تسع", "عشر", "إحدعش", "اثنعش"),
    periods={"morning": ("الصبح", "الصباح"), "noon": ("الظهر",), "afternoon": ("العصر",), "evening": ("المسا",),
             "night": ("بالليل", "في الليل")},
    clocks=("الساعة {h} {p}", "الساعة {h} {p}", "على {h} {p}", "ع الساعة {h} {p}"),
    half="ونص", quarter="وربع", quarter_to="إلا ربع",
    lasting={1: "دقيقة وحدة", 2: "دقيقتين", 5: "خمس دقايق", 10: "عشر دقايق", 15: "ربع ساعة", 20: "ثلث ساعة",
             30: "نص ساعة", 40: "أربعين دقيقة", 45: "خمس وأربعين دقيقة", 50: "خمسين دقيقة", 60: "ساعة",
             75: "ساعة وربع", 90: "ساعة ونص", 120: "ساعتين", 150: "ساعتين ونص", 180: "ثلاث ساعات", 240: "أربع ساعات"},
    minute_words=("دقايق", "دقيقة"), after=("بعد", "عقب"),
    tens=("عشرين", "ثلاثين", "أربعين", "خمسين", "ستين", "سبعين", "ثمانين", "تسعين"),
)  # fmt: skip

_LEVANTINE = TimeWords(
    days={"today": ("اليوم",), "tonight": ("الليلة", "هالليلة"), "tomorrow": ("بكرا", "بكرة"),
          "after_tomorrow": ("بعد بكرا", "بعد بكرة"), "next_week": ("متل اليوم الأسبوع الجاي",),
          "in_days": ("بعد {n} أيام", "كمان {n} أيام")},
    weekdays=("التنين", "التلاتا", "الأربعا", "الخميس", "الجمعة", "السبت", "الأحد"),
    weekday_frames=("يوم {w}", "يوم {w} الجاي", "{w} الجاي", "نهار {w}"),
    hours=("وحدة", "تنتين", "تلاتة", "أربعة", "خمسة", "ستة", "سبعة", "تمانة", "تسعة", "عشرة", "حدعش", "طنعش"),
    periods={"morning": ("الصبح",), "noon": ("الضهر",), "afternoon": ("العصر",), "evening": ("المسا",),
             "night": ("بالليل", "الليل")},
    clocks=("الساعة {h} {p}", "الساعة {h} {p}", "ع الساعة {h} {p}", "على {h} {p}"),
    half="ونص", quarter="وربع", quarter_to="إلا ربع",
    lasting={1: "دقيقة وحدة", 2: "دقيقتين", 5: "خمس دقايق", 10: "عشر دقايق", 15: "ربع ساعة", 20: "تلت ساعة",
             30: "نص ساعة", 40: "أربعين دقيقة", 45: "خمسة وأربعين دقيقة", 50: "خمسين دقيقة", 60: "ساعة",
             75: "ساعة وربع", 90: "ساعة ونص", 120: "ساعتين", 150: "ساعتين ونص", 180: "تلت ساعات", 240: "أربع ساعات"},
    minute_words=("دقايق", "دقيقة"), after=("بعد", "كمان"),
)  # fmt: skip

_MAGHREBI = TimeWords(
    days={"today": ("اليوم", "ليوم"), "tonight": ("الليلة", "هاد الليلة"), "tomorrow": ("غدا", "غدوة"),
          "after_tomorrow": ("بعد غدا", "بعد غدوة"), "next_week": ("بحال اليوم السيمانة الجاية",),
          "in_days": ("بعد {n} أيام", "من هنا {n} أيام")},
    weekdays=("الاثنين", "الثلاثاء", "الأربعاء", "الخميس", "الجمعة", "السبت", "الأحد"),
    weekday_frames=("نهار {w}", "{w} الجاي", "نهار {w} الجاي"),
    hours=("الوحدة", "الجوج", "التلاتة", "الربعة", "الخمسة", "الستة", "السبعة", "التمنية", "التسعود", "العشرة",
           "الحداش", "الطناش"),
    periods={"morning": ("الصباح",), "noon": ("النهار",), "afternoon": ("العشية",), "evening": ("العشية",),
             "night": ("الليل",)},
    clocks=("مع {h} ديال {p}", "الساعة {h} ديال {p}", "على {h} ديال {p}", "مع {h} د {p}"),
    half="ونص", quarter="وربع", quarter_to="إلا ربع",
    lasting={1: "دقيقة وحدة", 2: "جوج دقايق", 5: "خمس دقايق", 10: "عشر دقايق", 15: "ربع ساعة", 20: "تلت ساعة",
             30: "نص ساعة", 40: "ربعين دقيقة", 45: "خمسة وربعين دقيقة", 50: "خمسين دقيقة", 60: "ساعة",
             75: "ساعة وربع", 90: "ساعة ونص", 120: "ساعتين", 150: "ساعتين ونص", 180: "تلات سوايع", 240: "ربع سوايع"},
    minute_words=("دقايق", "دقيقة"), after=("بعد", "من هنا"),
    hour_words=("سوايع", "ساعة"),
    tens=("عشرين", "تلاتين", "ربعين", "خمسين", "ستين", "سبعين", "تمانين", "تسعين"),
)  # fmt: skip


WORDS: Mapping[str, TimeWords] = {
    "msa": _MSA,
    "egyptian": _EGYPTIAN,
    "gulf": _GULF,
    "levantine": _LEVANTINE,
    "maghrebi": _MAGHREBI,
}
