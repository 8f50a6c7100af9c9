"""The twelve tools of the phone assistant: Google's seven Mobile Actions and five more."""

from __future__ import annotations

from typing import Any

DATETIME = "YYYY-MM-DDTHH:MM:SS"
Parameters = tuple[tuple[str, str, str, bool], ...]


def tool(name: str, description: str, parameters: Parameters = ()) -> dict[str, Any]:
    """One declaration; a parameter is (name, type, description, required)."""
    schema: dict[str, Any] = {"type": "OBJECT", "properties": {}}
    for key, kind, text, _ in parameters:
        schema["properties"][key] = {"type": kind, "description": text}
    if parameters:
        schema["required"] = [key for key, _, _, required in parameters if required]
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS: tuple[dict[str, Any], ...] = (
    tool("send_email", "Email", (("to", "STRING", "", True), ("subject", "STRING", "", True),
                                 ("body", "STRING", "", False))),
    tool("turn_on_flashlight", "Light on"),
    tool("turn_off_flashlight", "Light off"),
    tool("open_wifi_settings", "Wi-Fi"),
    tool("create_calendar_event", "New event", (("title", "STRING", "", True),
                                                ("datetime", "STRING", DATETIME, True))),
    tool("show_map", "Map of a place", (("query", "STRING", "", True),)),
    tool("create_contact", "New contact", (("first_name", "STRING", "", True), ("last_name", "STRING", "", True),
                                           ("phone_number", "STRING", "", False), ("email", "STRING", "", False))),
    tool("set_alarm", "Alarm", (("datetime", "STRING", DATETIME, True),)),
    tool("set_timer", "Timer", (("minutes", "INTEGER", "", True),)),
    tool("make_call", "Call", (("recipient", "STRING", "", True),)),
    tool("send_message", "Text message", (("recipient", "STRING", "", True), ("body", "STRING", "", True))),
    tool("get_weather", "Weather", (("city", "STRING", "", True),)),
)
