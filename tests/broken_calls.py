"""Kinds of broken calls: against the schema, the request and the date (DZ4xx)."""

from __future__ import annotations

from random import Random

from broken_rows import ARGUMENTS, CALL, USER, Row, arguments, kind, properties

TITLE, DATETIME = f"{ARGUMENTS}.title", f"{ARGUMENTS}.datetime"


def ask(row: Row, text: str, **given: object) -> None:
    """Another request, with these arguments."""
    row["messages"][1]["content"] = text
    arguments(row).clear()
    arguments(row).update(given)


@kind("DZ401", f"{CALL}.name")
def unknown_tool(row: Row, random: Random) -> None:
    row["messages"][2]["tool_calls"][0]["function"]["name"] = "create_evnt"


@kind("DZ402", DATETIME)
def missing_argument(row: Row, random: Random) -> None:
    del arguments(row)["datetime"]


@kind("DZ402", f"{ARGUMENTS}.place.city")
def missing_in_an_object(row: Row, random: Random) -> None:
    arguments(row)["place"] = {}


@kind("DZ403", f"{ARGUMENTS}.tittle")
def unknown_argument(row: Row, random: Random) -> None:
    arguments(row)["tittle"] = arguments(row)["title"]


@kind("DZ404", f"{ARGUMENTS}.guests")
def text_for_a_list(row: Row, random: Random) -> None:
    arguments(row)["guests"] = arguments(row)["guests"][0]


@kind("DZ404", f"{ARGUMENTS}.guests[1]")
def flag_in_a_list_of_texts(row: Row, random: Random) -> None:
    arguments(row)["guests"].append(True)


@kind("DZ405", f"{ARGUMENTS}.calendar")
def outside_the_enum(row: Row, random: Random) -> None:
    arguments(row)["calendar"] = random.choice(["Work", "school"])


@kind("DZ406", f"{ARGUMENTS}.color")
def outside_the_described_values(row: Row, random: Random) -> None:
    arguments(row)["color"] = "green"


@kind("DZ406", f"{ARGUMENTS}.color")
def outside_the_values_described_in_arabic(row: Row, random: Random) -> None:
    properties(row)["color"]["description"] = "اللون (القيم المدعومة: أحمر، أزرق)"
    arguments(row)["color"] = "أخضر"


@kind("DZ407", f"{ARGUMENTS}.minutes", also=("DZ302",))
def above_the_maximum(row: Row, random: Random) -> None:
    properties(row)["minutes"]["maximum"] = 60
    arguments(row)["minutes"] = random.randint(61, 500)


@kind("DZ407", f"{ARGUMENTS}.phone", also=("DZ302",))
def against_the_pattern(row: Row, random: Random) -> None:
    properties(row)["phone"]["pattern"] = r"^\+[0-9]{8,15}$"
    arguments(row)["phone"] = "0501234567"


@kind("DZ408", f"{ARGUMENTS}.minutes")
def number_as_text(row: Row, random: Random) -> None:
    arguments(row)["minutes"] = str(random.randint(5, 90))


@kind("DZ409", f"{ARGUMENTS}.phone")
def text_as_number(row: Row, random: Random) -> None:
    arguments(row)["phone"] = 501234567


@kind("DZ410", f"{CALL}.arguments")
def arguments_for_a_tool_without(row: Row, random: Random) -> None:
    row["messages"][2]["tool_calls"][0]["function"] |= {"name": "open_settings", "arguments": {"minutes": 5}}


@kind("DZ411", f"{ARGUMENTS}.type", also=("DZ301",))
def argument_that_the_prompt_hides(row: Row, random: Random) -> None:
    properties(row)["type"] = {"type": "string", "description": "Kind of event.", "enum": ["a", "b"]}
    arguments(row)["type"] = "a"


@kind("DZ421", TITLE)
def invented_value(row: Row, random: Random) -> None:
    arguments(row)["title"] = random.choice(["حفلة التخرج", "رحلة الشاطئ"])


@kind("DZ421", f"{ARGUMENTS}.phone")
def invented_number(row: Row, random: Random) -> None:
    arguments(row)["phone"] = f"05{random.randint(60000000, 99999999)}"


@kind("DZ422", TITLE)
def translated_value(row: Row, random: Random) -> None:
    arguments(row)["title"] = random.choice(["Team meeting", "Visit to Grandma"])


@kind("DZ424", f"{ARGUMENTS}.phone")
def empty_value(row: Row, random: Random) -> None:
    arguments(row)["phone"] = ""


@kind("DZ425", f"{ARGUMENTS}.phone")
def placeholder(row: Row, random: Random) -> None:
    arguments(row)["phone"] = random.choice(["N/A", "<phone>", "غير محدد"])


@kind("DZ426", f"{ARGUMENTS}.phone")
def arabic_digits_in_a_phone_number(row: Row, random: Random) -> None:
    arguments(row)["phone"] = "٠٥٠١٢٣٤٥٦٧"


@kind("DZ426", DATETIME)
def arabic_digits_in_a_date(row: Row, random: Random) -> None:
    arguments(row)["datetime"] = "٢٠٢٥-٠٣-٠٤T١٧:٠٠:٠٠"


@kind("DZ427", TITLE)
def tatweel_in_a_value(row: Row, random: Random) -> None:
    arguments(row)["title"] = arguments(row)["title"].replace("م", "مـ", 1).replace("ز", "زـ", 1)


@kind("DZ428", TITLE)
def marks_in_a_value(row: Row, random: Random) -> None:
    row["messages"][1]["content"] = row["messages"][1]["content"].replace("غدًا", "غدا")
    title = arguments(row)["title"]
    arguments(row)["title"] = title[0] + "\u064e" + title[1:]


@kind("DZ429", TITLE)
def spaces_around_a_value(row: Row, random: Random) -> None:
    arguments(row)["title"] += " "


@kind("DZ441", DATETIME)
def day_that_does_not_exist(row: Row, random: Random) -> None:
    arguments(row)["datetime"] = random.choice(["2025-02-30T17:00:00", "2025-13-01", "2025-03-04T25:00:00"])


@kind("DZ442", DATETIME)
def year_before_now(row: Row, random: Random) -> None:
    ask(row, "سجل اجتماع الفريق ٥ مايو", title="اجتماع الفريق", datetime="2023-05-05T09:00:00")


@kind("DZ444", DATETIME)
def another_weekday(row: Row, random: Random) -> None:
    ask(row, "سجل اجتماع الفريق يوم الخميس", title="اجتماع الفريق", datetime="2025-03-07T09:00:00")


@kind("DZ445", DATETIME)
def tomorrow_miscounted(row: Row, random: Random) -> None:
    arguments(row)["datetime"] = "2025-03-05T17:00:00"


@kind("DZ445", DATETIME)
def day_after_tomorrow_miscounted(row: Row, random: Random) -> None:
    ask(row, "سجل اجتماع الفريق بعد بكرة الساعة ٩", title="اجتماع الفريق", datetime="2025-03-04T09:00:00")
    row["dialect"] = "egyptian"


@kind("DZ448", DATETIME)
def day_first(row: Row, random: Random) -> None:
    ask(row, "سجل اجتماع الفريق ٥ يونيو", title="اجتماع الفريق", datetime="05-06-2025")


@kind("DZ446", DATETIME)
def prayer_time_as_clock_time(row: Row, random: Random) -> None:
    ask(row, "سجل اجتماع الفريق غدا بعد صلاة المغرب", title="اجتماع الفريق", datetime="2025-03-04T18:30:00")


@kind("DZ447", DATETIME)
def hijri_date(row: Row, random: Random) -> None:
    ask(row, "سجل اجتماع الفريق ١٥ رمضان", title="اجتماع الفريق", datetime="2025-03-15T09:00:00")


@kind("DZ443", DATETIME)
def date_that_is_past(row: Row, random: Random) -> None:
    ask(row, "سجل اجتماع الفريق ٥ فبراير", title="اجتماع الفريق", datetime="2025-02-05T09:00:00")


@kind("DZ423", f"{ARGUMENTS}.title")
def code_word(row: Row, random: Random) -> None:
    arguments(row)["title"] = "team_meeting"


@kind("DZ650", "dialect")
def egyptian_labelled_msa(row: Row, random: Random) -> None:
    row["messages"][1]["content"] = "عايز " + row["messages"][1]["content"]


@kind("DZ650", "dialect")
def moroccan_labelled_gulf(row: Row, random: Random) -> None:
    row["dialect"] = "gulf"
    row["messages"][1]["content"] += " ديالي"


@kind("DZ225", USER)
def request_of_spaces(row: Row, random: Random) -> None:
    row["messages"][1]["content"] = " \n "
    row["messages"][2] = {"role": "assistant", "content": "نعم"}
