"""Kinds of broken conversations and tool declarations (DZ2xx, DZ3xx)."""

from __future__ import annotations

import json
from random import Random

from broken_rows import ARGUMENTS, CALL, PROPERTIES, TOOL, USER, Row, arguments, kind, properties


@kind("DZ221", "messages")
def no_answer(row: Row, random: Random) -> None:
    del row["messages"][2]


@kind("DZ222", "messages")
def no_user(row: Row, random: Random) -> None:
    row["messages"][0]["content"] += "\n" + row["messages"].pop(1)["content"]


@kind("DZ203", "messages[3]", also=("DZ234",))
def user_after_unanswered_call(row: Row, random: Random) -> None:
    row["messages"].append({"role": "user", "content": "شكرا"})


@kind("DZ203", "messages[4]", also=("DZ234",))
def user_after_tool_response(row: Row, random: Random) -> None:
    row["messages"].append({"role": "tool", "name": "create_event", "content": '{"ok": true}'})
    row["messages"].append({"role": "user", "content": "شكرا"})


@kind("DZ203", "messages[2]")
def tool_without_a_call(row: Row, random: Random) -> None:
    row["messages"].insert(2, {"role": "tool", "name": "create_event", "content": "{}"})


@kind("DZ206", "messages[2].name")
def tool_without_a_name(row: Row, random: Random) -> None:
    row["messages"].insert(2, {"role": "tool", "content": "{}"})


@kind("DZ227", "messages[3].name")
def response_of_another_tool(row: Row, random: Random) -> None:
    row["messages"].append({"role": "tool", "name": "open_settings", "content": "{}"})
    row["messages"].append({"role": "assistant", "content": "تم"})


@kind("DZ237", "messages[3].tool_call_id")
def response_to_another_id(row: Row, random: Random) -> None:
    row["messages"][2]["tool_calls"][0]["id"] = "call_1"
    row["messages"].append({"role": "tool", "tool_call_id": "call_9", "content": "{}"})
    row["messages"].append({"role": "assistant", "content": "تم"})


@kind("DZ223", "messages[3]")
def assistant_twice(row: Row, random: Random) -> None:
    row["messages"][2] = {"role": "assistant", "content": "حسنا"}
    row["messages"].append({"role": "assistant", "content": "تم"})


@kind("DZ224", "messages[2]")
def user_twice(row: Row, random: Random) -> None:
    row["messages"].insert(1, {"role": "user", "content": "مرحبا"})
    row["messages"][2], row["messages"][1] = row["messages"][1], row["messages"][2]


@kind("DZ204", "messages[2]")
def empty_answer(row: Row, random: Random) -> None:
    row["messages"][2] = {"role": "assistant", "content": "  "}


@kind("DZ225", USER)
def empty_request(row: Row, random: Random) -> None:
    row["messages"][1]["content"] = ""
    row["messages"][2] = {"role": "assistant", "content": "نعم"}


@kind("DZ226", USER)
def control_token_in_the_request(row: Row, random: Random) -> None:
    row["messages"][1]["content"] += random.choice(["<end_of_turn>", "<start_function_call>", "<escape>"])


@kind("DZ205", f"{ARGUMENTS}.title")
def control_token_in_a_value(row: Row, random: Random) -> None:
    arguments(row)["title"] += "<escape>"


@kind("DZ205", "messages[2].content")
def control_token_in_the_answer(row: Row, random: Random) -> None:
    row["messages"][2] = {"role": "assistant", "content": "تم<end_of_turn>"}


@kind("DZ208", ARGUMENTS)
def arguments_as_text(row: Row, random: Random) -> None:
    row["messages"][2]["tool_calls"][0]["function"]["arguments"] = json.dumps(arguments(row), ensure_ascii=False)


@kind("DZ209", f"{ARGUMENTS}.phone")
def null_argument(row: Row, random: Random) -> None:
    arguments(row)["phone"] = None


@kind("DZ218", f"{ARGUMENTS}.guests")
def null_in_a_list(row: Row, random: Random) -> None:
    arguments(row)["guests"].append(None)


@kind("DZ210", ARGUMENTS, also=("DZ402",))
def arguments_cut_off(row: Row, random: Random) -> None:
    row["messages"][2]["tool_calls"][0]["function"]["arguments"] = '{"title": "اجتماع'


@kind("DZ217", f"{ARGUMENTS}.minutes")
def infinite_number(row: Row, random: Random) -> None:
    arguments(row)["minutes"] = float("inf")


@kind("DZ211", "messages[1].role")
def unknown_role(row: Row, random: Random) -> None:
    row["messages"][1]["role"] = "human"


@kind("DZ213", USER)
def image_in_the_request(row: Row, random: Random) -> None:
    row["messages"][1]["content"] = [{"type": "image_url", "image_url": {"url": "a.png"}}]
    arguments(row).clear()
    row["messages"][2] = {"role": "assistant", "content": "نعم"}


@kind("DZ214", f"{CALL}.name", also=("DZ401",))
def unreadable_name(row: Row, random: Random) -> None:
    row["messages"][2]["tool_calls"][0]["function"]["name"] = "create event"


@kind("DZ215", "messages[2].function_call")
def old_function_call(row: Row, random: Random) -> None:
    row["messages"][2] = {"role": "assistant", "function_call": {"name": "create_event", "arguments": "{}"}}


@kind("DZ216", "messages[2].tool_calls[0]")
def call_without_a_name(row: Row, random: Random) -> None:
    del row["messages"][2]["tool_calls"][0]["function"]["name"]


@kind("DZ228", "messages[3].content", also=("DZ223",))
def result_in_the_answer(row: Row, random: Random) -> None:
    row["messages"][2] = {"role": "assistant", "content": "لحظة"}
    row["messages"].append({"role": "assistant", "content": '<tool_response>{"ok": true}</tool_response>'})


@kind("DZ229", "messages[2].content")
def call_as_text(row: Row, random: Random) -> None:
    call = row["messages"][2]["tool_calls"][0]["function"]
    row["messages"][2] = {
        "role": "assistant",
        "content": f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>",
    }


@kind("DZ230", f"{PROPERTIES}.title{'.items' * 60}"[:80] + "...")
def schema_of_ten_thousand_levels(row: Row, random: Random) -> bytes:
    deep = '{"items": ' * 10_000 + "{}" + "}" * 10_000
    properties(row)["title"] = "DEEP"
    return json.dumps(row, ensure_ascii=False).replace('"DEEP"', deep).encode()


@kind("DZ233", "messages[3]")
def late_system_message(row: Row, random: Random) -> None:
    row["messages"][2] = {"role": "assistant", "content": "نعم"}
    row["messages"].append({"role": "system", "content": "Be brief."})


@kind("DZ234", "messages[3]")
def ends_with_a_request(row: Row, random: Random) -> None:
    row["messages"][2] = {"role": "assistant", "content": "نعم"}
    row["messages"].append({"role": "user", "content": "شكرا"})


@kind("DZ236", "messages[2].tool_calls[1].function")
def the_same_call_twice(row: Row, random: Random) -> None:
    row["messages"][2]["tool_calls"] *= 2


@kind("DZ301", f"{PROPERTIES}.type")
def parameter_that_vanishes(row: Row, random: Random) -> None:
    properties(row)["type"] = {"type": "string", "description": "Kind of event."}


@kind("DZ302", f"{PROPERTIES}.minutes.{'default'}")
def default_that_vanishes(row: Row, random: Random) -> None:
    properties(row)["minutes"]["default"] = 30


@kind("DZ302", f"{PROPERTIES}.minutes.enum")
def enum_of_numbers(row: Row, random: Random) -> None:
    properties(row)["minutes"]["enum"] = [15, 30]


@kind("DZ303", f"{PROPERTIES}.title.type")
def parameter_without_a_type(row: Row, random: Random) -> None:
    del properties(row)["title"]["type"]


@kind("DZ304", f"{PROPERTIES}.phone.type")
def list_of_types(row: Row, random: Random) -> None:
    properties(row)["phone"]["type"] = ["string", "null"]


@kind("DZ305", f"{PROPERTIES}.phone.type")
def unknown_type(row: Row, random: Random) -> None:
    properties(row)["phone"]["type"] = "varchar"


@kind("DZ308", f"{PROPERTIES}.phone.$ref")
def reference(row: Row, random: Random) -> None:
    properties(row)["phone"] = {"$ref": "#/definitions/phone", "description": "Phone."}


@kind("DZ309", "tools[2]")
def two_tools_of_one_name(row: Row, random: Random) -> None:
    row["tools"].append(row["tools"][0])


@kind("DZ310", "tools[1].function")
def tool_without_a_name_of_its_own(row: Row, random: Random) -> None:
    del row["tools"][1]["function"]["name"]


@kind("DZ311", f"{TOOL}.parameters")
def parameters_as_text(row: Row, random: Random) -> None:
    row["tools"][0]["function"]["parameters"] = json.dumps(row["tools"][0]["function"]["parameters"])


@kind("DZ312", f"{TOOL}.parameters.required", also=("DZ322",))
def required_as_text(row: Row, random: Random) -> None:
    row["tools"][0]["function"]["parameters"]["required"] = "title"


@kind("DZ321", f"{TOOL}.parameters.required", also=("DZ402",))
def required_but_not_declared(row: Row, random: Random) -> None:
    row["tools"][0]["function"]["parameters"]["required"].append("owner")


@kind("DZ323", "tools[1].function.description")
def tool_without_a_description(row: Row, random: Random) -> None:
    del row["tools"][1]["function"]["description"]


@kind("DZ325", f"{PROPERTIES}.phone.pattern", also=("DZ302",))
def catastrophic_pattern(row: Row, random: Random) -> None:
    properties(row)["phone"]["pattern"] = random.choice(["^(a+)+$", "(x*)*y", "^(a|a)*$", "(?:[0-9]+,?)+$"])
    arguments(row)["phone"] = "0501234567"


@kind("DZ326", f"{PROPERTIES}.calendar.enum")
def enum_that_repeats(row: Row, random: Random) -> None:
    properties(row)["calendar"]["enum"] = ["work", "home", "work"]


@kind("DZ327", f"{PROPERTIES}.calendar.default", also=("DZ302",))
def default_outside_its_enum(row: Row, random: Random) -> None:
    properties(row)["calendar"]["default"] = "school"


@kind("DZ328", f"{TOOL}.parameters.properties")
def names_that_differ_in_case(row: Row, random: Random) -> None:
    properties(row)["Title"] = {"type": "string", "description": "Title."}


@kind("DZ329", f"{TOOL}.parameters", also=("DZ302", "DZ303"))
def parameters_without_properties(row: Row, random: Random) -> None:
    row["tools"][0]["function"]["parameters"] = properties(row)
