"""The tools of the English commands: a bank written by hand, with every name drawn among synonyms, and invented ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tiny_corpus import dates, values
from tiny_corpus.values import Words

Draw = Callable[[random.Random, Words, datetime], tuple[str, Any]]


def _same(draw: Callable[..., str], **options: Any) -> Draw:
    def written(rng: random.Random, words: Words, now: datetime) -> tuple[str, Any]:
        value = draw(rng, words, **options)
        if rng.random() < 0.03 and value[0] in values.LETTERS:
            return "ل" + value, value
        return value, value

    return written


KINDS: dict[str, tuple[str, Draw]] = {
    "text": ("STRING", _same(values.text)),
    "title": ("STRING", _same(values.text, most=4)),
    "word": ("STRING", _same(values.text, most=2)),
    "name": ("STRING", _same(values.name)),
    "single": ("STRING", _same(values.single_name)),
    "email": ("STRING", _same(values.email)),
    "phone": ("STRING", lambda rng, words, now: values.phone(rng, words)),
    "id": ("STRING", lambda rng, words, now: values.identifier(rng)),
    "minutes": ("INTEGER", lambda rng, words, now: dates.duration(rng)),
    "int": ("INTEGER", lambda rng, words, now: values.integer(rng)),
    "percent": ("INTEGER", lambda rng, words, now: values.integer(rng, 0, 101)),
    "amount": ("NUMBER", lambda rng, words, now: values.amount(rng)),
    "datetime": ("STRING", lambda rng, words, now: dates.iso(dates.moment)(rng, now)),
    "date": ("STRING", lambda rng, words, now: dates.calendar_day(rng, now)),
    "time": ("STRING", lambda rng, words, now: dates.clock_only(rng, now)),
}
NOTES = {"datetime": ("Date and time as YYYY-MM-DDTHH:MM:SS", "When, in the format YYYY-MM-DDTHH:MM:SS"),
         "date": ("Date as YYYY-MM-DD",), "time": ("Time as HH:MM",)}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    names: tuple[str, ...]
    description: str
    kind: str
    choices: tuple[tuple[str, str], ...] = ()
    """For an enum: (the word in the command, the value in the call)."""


@dataclass(frozen=True)
class Tool:
    """A tool with its parameters by role, and commands in which `{role}` stands for a value."""

    names: tuple[str, ...]
    description: str
    parameters: dict[str, Parameter]
    required: tuple[str, ...]
    commands: tuple[str, ...]


def _p(names: str, description: str, kind: str, **choices: str) -> Parameter:
    return Parameter(tuple(names.split()), description, kind, tuple((k.replace("_", " "), v) for k, v in choices.items()))


def _t(names: str, description: str, commands: str, required: str = "", **parameters: Parameter) -> Tool:
    return Tool(tuple(names.split()), description, parameters, tuple(required.split()), tuple(c.strip() for c in commands.split("|")))


WHEN = _p("datetime when date_time start_time start", "", "datetime")
AREA = _p("area room", "Name of the area", "name")
DEVICE = _p("name device entity", "Name of the device", "title")
LIGHTS = _p("domain device_type", "Kind of device", "enum", the_lights="light", the_fan="fan", the_fans="fan", the_curtains="cover", the_switch="switch", the_lock="lock")
CURRENCY = _p("currency unit", "Currency code", "enum", dollars="USD", euros="EUR", riyals="SAR", pounds="EGP", dirhams="AED", dinars="KWD", دولار="USD", ريال="SAR", جنيه="EGP", درهم="AED", دينار="KWD")
TARGET = Parameter(("to", "to_currency", "target_currency"), "Target currency code", "enum", CURRENCY.choices)
LANGUAGE = _p("language target_language", "Target language code", "enum", English="en", French="fr", Arabic="ar", Spanish="es", German="de", Turkish="tr", الإنجليزية="en", الفرنسية="fr", التركية="tr")

BANK: tuple[Tool, ...] = (
    _t("set_alarm create_alarm add_alarm", "Sets an alarm.", "set an alarm for {when}|wake me up {when}|alarm {when}|I need an alarm {when}|ring me {when}|make the alarm go off {when}", "when", when=WHEN),
    _t("create_calendar_event add_event schedule_event new_event", "Creates a calendar event.",
       "schedule {title} {when}|add {title} to my calendar {when}|put {title} on the calendar for {when}|create an event called {title} {when}|{when} I have {title}, add it|book {title} for {when}|new event {title} {when}|note an appointment {when} titled {title}", "title when", title=_p("title event name", "Title of the event", "title"), when=WHEN),
    _t("set_reminder remind_me create_reminder", "Creates a reminder.", "remind me to {text} {when}|remind me {when} to {text}|set a reminder {when} about {text}|don't let me forget {text} {when}", "text when", text=_p("text task message", "What to remember", "text"), when=WHEN),
    _t("set_timer start_timer timer_start", "Starts a timer.", "set a timer for {minutes}|timer {minutes}|count down {minutes}|start a timer of {minutes}|let me know when {minutes} are over|{minutes} on the timer", "minutes", minutes=_p("minutes duration duration_minutes", "Minutes", "minutes")),
    _t("timer_add increase_timer", "Adds time to a timer.", "add {minutes} to the timer|give the timer {minutes} more|add {minutes} to the {name} timer", "minutes", minutes=_p("minutes", "Minutes to add", "minutes"), name=_p("name timer_name", "Name of the timer", "word")),
    _t("send_email email write_email", "Sends an email.", "send an email to {to} about {subject}|email {to} with the subject {subject} saying {body}|write to {to}, subject {subject}|mail {to} subject {subject} body {body}|send {to} an email titled {subject} and write {body}", "to subject", to=_p("to recipient address", "Email address of the recipient", "email"), subject=_p("subject title", "Subject line", "title"), body=_p("body content text", "Body of the email", "text")),
    _t("send_message send_sms text_message", "Sends a text message.", "tell {to} {body}|text {to} saying {body}|send {to} a message: {body}|message {to} that {body}|send a message to {to} and say {body}|write to {to} {body}", "to body", to=_p("recipient to contact", "Who receives it", "name"), body=_p("body message text", "The message", "text")),
    _t("make_call call phone_call dial", "Calls a person or a number.", "call {to}|ring {to}|phone {to} please|dial {to}|give {to} a call|I want to talk to {to}|get {to} on the phone|call {number}|dial the number {number}", "", to=_p("recipient contact to name", "Person to call", "name"), number=_p("number phone_number phone", "Phone number", "phone")),
    _t("create_contact add_contact save_contact new_contact", "Saves a contact.", "save {first} {last} with number {phone}|add a contact {first} {last}, phone {phone}|new contact {first} {last}|create a contact named {first} {last}, email {email}|add {first} {last} to my contacts, his number is {phone} and his email {email}", "first last", first=_p("first_name first given_name", "First name", "single"), last=_p("last_name last family_name surname", "Last name", "single"), phone=_p("phone_number phone number", "Phone number", "phone"), email=_p("email", "Email address", "email")),
    _t("show_map open_map find_place map_search", "Shows a place on the map.", "show {place} on the map|where is {place}|find {place} on the map|open the map at {place}|locate {place}|take me to {place}", "place", place=_p("query place location", "Place to look for", "title")),
    _t("get_weather weather weather_forecast", "Gets the weather.", "what's the weather in {city}|how is the weather in {city}|weather for {city}|is it hot in {city}|will it rain in {city}|temperature in {city} now", "city", city=_p("city location place", "City", "name")),
    _t("turn_on_flashlight flashlight_on", "Turns the flashlight on.", "turn on the flashlight|flashlight on|light please, it's dark|switch the torch on|I need the flashlight"),
    _t("turn_off_flashlight flashlight_off", "Turns the flashlight off.", "turn off the flashlight|flashlight off|switch the torch off|kill the torch|no more flashlight"),
    _t("open_wifi_settings wifi_settings", "Opens the Wi-Fi settings.", "open wifi settings|show me the wireless settings|I want to change the wifi network|take me to the wi-fi options"),
    _t("turn_on switch_on device_on HassTurnOn", "Turns a device on.", "turn on {domain} in {area}|switch on {domain} in the {area}|turn on {name}|switch {name} on|{domain} on in {area}|start {name}", "", name=DEVICE, area=AREA, domain=LIGHTS),
    _t("turn_off switch_off device_off HassTurnOff", "Turns a device off.", "turn off {domain} in {area}|switch off {domain} in the {area}|turn off {name}|switch {name} off|{domain} off in {area}|stop {name}", "", name=DEVICE, area=AREA, domain=LIGHTS),
    _t("set_brightness light_set", "Sets the brightness of a light.", "set the brightness of {name} to {level}|dim {name} to {level} percent|brightness {level} in {area}|make {name} {level} percent bright", "", name=DEVICE, area=AREA, level=_p("brightness level", "Percentage from 0 to 100", "percent")),
    _t("set_color light_color", "Sets the color of a light.", "make {name} {color}|set {name} to {color}|{color} light in {area}|turn the lights in {area} {color}", "", name=DEVICE, area=AREA, color=_p("color", "Color", "enum", red="red", blue="blue", green="green", white="white", yellow="yellow", أحمر="red", أزرق="blue", أخضر="green")),
    _t("set_volume volume", "Sets the volume.", "volume {level}|set the volume to {level}|turn the sound of {name} to {level} percent|make it {level} percent loud", "level", level=_p("volume_level level", "Percentage", "percent"), name=DEVICE),
    _t("set_temperature climate_set", "Sets the temperature.", "set the temperature to {degrees}|make it {degrees} degrees in {area}|{degrees} degrees in the {area}|cool {area} to {degrees}", "degrees", degrees=_p("temperature degrees", "Temperature in degrees", "int"), area=AREA),
    _t("get_temperature climate_get", "Gets the temperature indoors.", "how warm is {area}|what is the temperature of {area}|temperature in the {area}|how cold is it in {area}", "", area=AREA),
    _t("get_state device_state", "Gets the state of devices.", "how many of {domain} are {state}|are {domain} in {area} {state}|is {name} {state}|what is the state of {name}", "", name=DEVICE, area=AREA, domain=LIGHTS, state=_p("state", "State", "enum", on="on", off="off", open="open", closed="closed", running="on")),
    _t("media_next next_track", "Skips to the next track.", "next song|skip this|next track on {name}|skip to the next on {name}", "", name=DEVICE),
    _t("media_previous previous_track", "Goes back a track.", "previous song|go back|previous track on {name}|last track on {name}", "", name=DEVICE),
    _t("media_pause pause", "Pauses the player.", "pause|pause the music|pause {name}|hold the music in {area}", "", name=DEVICE, area=AREA),
    _t("play_music play play_song", "Plays music.", "play {song}|play {song} by {artist}|I want to hear {song}|put on {song} from {artist}", "song", song=_p("song title track", "Song", "title"), artist=_p("artist singer", "Artist", "name")),
    _t("list_add add_item shopping_list_add", "Adds an item to a list.", "add {item} to the list|put {item} on my shopping list|add {item} to {list}|we need {item}", "item", item=_p("item product", "Item", "word"), list=_p("list list_name", "Name of the list", "word")),
    _t("list_remove complete_item", "Removes an item from a list.", "remove {item} from the list|cross {item} off|I bought {item}, take it off the list", "item", item=_p("item product", "Item", "word")),
    _t("convert_currency currency_conversion", "Converts an amount of money.", "convert {amount} {from} to {to}|how much is {amount} {from} in {to}|{amount} {from} in {to}", "amount from to", amount=_p("amount value", "Amount", "amount"), **{"from": Parameter(("from_currency", "source_currency", "from"), "Source currency code", "enum", CURRENCY.choices)}, to=TARGET),
    _t("transfer_money send_money pay", "Transfers money.", "send {amount} {currency} to {to}|transfer {amount} {currency} to {to}|pay {to} {amount} {currency}|transfer {amount} to account {iban}", "amount", amount=_p("amount", "Amount", "amount"), currency=CURRENCY, to=_p("recipient recipient_name to", "Who receives it", "name"), iban=_p("iban account", "Account number", "id")),
    _t("translate_text translate", "Translates a text.", "translate {text} to {language}|how do you say {text} in {language}|translate '{text}' into {language}|what is {text} in {language}", "text language", text=_p("text phrase", "Text to translate", "text"), language=LANGUAGE),
    _t("track_shipment track_package", "Tracks a shipment.", "where is my package {id}|track {id}|shipment number {id}, where is it|status of package {id}", "id", id=_p("tracking_number number id", "Tracking number", "id")),
    _t("check_status document_status visa_status", "Checks a document.", "is my permit {id} valid|check the status of number {id}|status of application {id}", "id", id=_p("number document_number id_number", "Number of the document", "id")),
    _t("book_flight find_flights search_flights", "Searches flights.", "flights from {origin} to {goal}|fly from {origin} to {goal} {date}|book a flight to {goal} {date}|I want to go from {origin} to {goal} {date}", "goal", origin=_p("from origin departure_city", "City of departure", "name"), goal=_p("to destination arrival_city", "Destination", "name"), date=_p("date departure_date", "", "date")),
    _t("search_hotels book_hotel", "Searches hotels.", "hotels in {city}|find a hotel in {city} for {guests} people|hotel in {city} {date}|book a hotel in {city} {date} for {guests}", "city", city=_p("city", "City", "name"), date=_p("check_in date", "", "date"), guests=_p("guests num_persons people", "Number of people", "int")),
    _t("order_food order", "Orders food.", "order {items} from {place}|I want {items} from {place}|get me {items}|bring {items} from {place}", "items", items=_p("items dishes", "What to order", "text"), place=_p("restaurant place", "Restaurant", "name")),
    _t("search web_search find_info", "Searches for something.", "search for {query}|look up {query}|find {query}|what does it say about {query}", "query", query=_p("query text", "What to search for", "text")),
    _t("compare_prices price_check", "Compares prices.", "price of {product} in {country}|compare prices of {product}|how much is {product} in {country}|cheapest {product} in {country}", "product", product=_p("product product_name", "Product", "title"), country=_p("country", "Country", "name")),
    _t("calculate_tax zakat_calculator", "Calculates what is due on an amount.", "what is due on {amount} {currency}|calculate for {amount} {currency}|how much do I owe on {amount} {currency}", "amount", amount=_p("amount value", "Amount", "amount"), currency=CURRENCY),
    _t("prayer_times get_times", "Gets the times for a city.", "prayer times in {city}|times for {city} {date}|when is prayer in {city}", "city", city=_p("city", "City", "name"), date=_p("date", "", "date")),
    _t("take_note add_note", "Saves a note.", "note {text}|write down {text}|save a note: {text}|make a note that says {text}", "text", text=_p("text content note", "Text of the note", "text")),
    _t("broadcast announce", "Announces a message.", "announce {text}|broadcast {text}|tell everybody {text}", "text", text=_p("message text", "Message", "text")),
    _t("start_meeting video_call", "Starts a video call.", "video call with {to}|start a meeting with {to}|facetime {to}", "to", to=_p("participant with contact", "Participant", "name")),
    _t("set_position cover_position", "Opens a cover to a position.", "open {name} to {level}|set {name} to {level} percent|curtains at {level} in {area}", "", name=DEVICE, area=AREA, level=_p("position level", "Percentage from 0 to 100", "percent")),
)  # fmt: skip

VERBS = ("find", "get", "show", "create", "delete", "update", "check", "open", "close", "start", "stop", "book", "cancel", "count", "list", "send", "share",
         "move", "copy", "print", "record", "scan", "rate", "renew", "report", "request", "save", "sort", "track", "lock", "merge", "measure")  # fmt: skip
NOUNS = ("ticket", "order", "invoice", "photo", "file", "account", "route", "recipe", "lesson", "book", "movie", "task", "project", "room", "car", "doctor", "visit",
         "match", "score", "letter", "bill", "meter", "sensor", "garden", "camera", "door", "bus", "train", "course", "exam", "medicine", "offer", "loan", "badge",
         "ride", "parcel", "report", "price", "review", "store", "video", "channel", "group", "profile", "meal", "game", "ring", "plan")  # fmt: skip
CUES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("name", "Name", "name", ("named {}", "called {}", "with the name {}")),
    ("city", "City", "name", ("in {}", "near {}", "around {}")),
    ("recipient", "Who receives it", "name", ("to {}", "for {}")),
    ("owner", "Owner", "name", ("of {}", "by {}", "from {}")),
    ("topic", "Topic", "title", ("about {}", "on {}", "on the topic {}")),
    ("note", "Note", "text", ("with the note {}", "and write {}", "saying {}", ": {}")),
    ("count", "How many", "int", ("for {} people", "{} times", "with {} pieces")),
    ("number", "Number", "id", ("number {}", "with number {}", "no {}")),
    ("phone", "Phone number", "phone", ("with phone {}", "phone {}")),
    ("amount", "Amount", "amount", ("for {} coins", "worth {}", "at {}")),
    ("email", "Email address", "email", ("at {}", "email {}")),
    ("when", "", "datetime", ("{}", "{}")),
    ("date", "", "date", ("{}",)),
    ("time", "", "time", ("{}",)),
    ("percent", "Percentage", "percent", ("at {} percent", "to {}%")),
)


def invented(rng: random.Random) -> Tool:
    """A tool that exists nowhere: a verb, a noun and up to three parameters with a cue word each."""
    verb, noun = rng.choice(VERBS), rng.choice(NOUNS)
    cues = rng.sample(CUES, rng.randrange(0, 4))
    parameters = {name: Parameter((name,), description, kind) for name, description, kind, _ in cues}
    commands = []
    for _ in range(4):
        order = rng.sample(cues, rng.randrange(len(cues) + 1))
        said = " ".join(rng.choice(forms).replace("{}", "{" + name + "}") for name, _, _, forms in order)
        commands.append(f"{verb} {rng.choice(('the', 'a', 'my', ''))} {noun} {said}".replace("  ", " ").strip())
    return Tool((f"{verb}_{noun}", f"{noun}_{verb}"), f"{verb.capitalize()} the {noun}.", parameters, (), tuple(commands))
